//! Whatever reads bytes from outside, each as one function of those bytes: it must not panic, and what it takes must be
//! what was sent. `fuzz/` lets a fuzzer loose on them; the test beside replays what that has found, with every
//! `./dev test`.

mod at_the_door;
mod in_the_cloud;
mod messages;
mod on_the_disk;
pub mod seeds;

/// One parser of foreign bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Names it, the file in `fuzz/fuzz_targets` and the folder in `fuzz/corpus`.
    pub name: &'static str,
    /// Reads the bytes and asserts what must hold of them.
    pub run: fn(&[u8]),
}

/// All of them.
pub const ALL: [Target; 30] = [
    Target { name: "batch", run: messages::batch },
    Target { name: "hello", run: messages::hello },
    Target { name: "report", run: messages::report },
    Target { name: "receipt", run: messages::receipt },
    Target { name: "roster", run: messages::roster },
    Target { name: "command", run: messages::command },
    Target { name: "record", run: messages::record },
    Target { name: "topic", run: messages::topic },
    Target { name: "intake", run: messages::intake },
    Target { name: "card_answer", run: at_the_door::card_answer },
    Target { name: "atr", run: at_the_door::atr },
    Target { name: "serial", run: at_the_door::serial },
    Target { name: "badge", run: at_the_door::badge },
    Target { name: "control", run: at_the_door::control },
    Target { name: "edge_config", run: at_the_door::config },
    Target { name: "config_edit", run: at_the_door::config_edit },
    Target { name: "roster_book", run: at_the_door::roster_book },
    Target { name: "certificate", run: at_the_door::certificate },
    Target { name: "bundle", run: at_the_door::bundle },
    Target { name: "export", run: on_the_disk::export },
    Target { name: "log", run: on_the_disk::log },
    Target { name: "outbox", run: on_the_disk::outbox },
    Target { name: "import", run: in_the_cloud::import },
    Target { name: "legacy_answer", run: in_the_cloud::legacy_answer },
    Target { name: "frappe_answer", run: in_the_cloud::frappe_answer },
    Target { name: "destination", run: in_the_cloud::destination },
    Target { name: "badge_list", run: in_the_cloud::badge_list },
    Target { name: "cloud_config", run: in_the_cloud::config },
    Target { name: "enrolment", run: in_the_cloud::enrolment },
    Target { name: "enrol_token", run: in_the_cloud::enrol_token },
];

/// Runs one of them.
pub fn run(name: &str, bytes: &[u8]) {
    let target = ALL.iter().find(|target| target.name == name).expect("a target of that name");
    (target.run)(bytes);
}
