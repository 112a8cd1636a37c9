//! Who may know whom. Crates: the protocol knows nobody, the two products never see each other. Modules: what decides is
//! pure, so it names no I/O, no runtime and no module that has them. Read from the manifests and the sources.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above").to_owned()
}

/// The names under `[dependencies]` of a member.
fn dependencies(member: &str) -> BTreeSet<String> {
    let manifest = fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap();
    let mut section = "";
    let mut names = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section == "[dependencies]"
            && let Some((name, _)) = line.split_once(['.', ' ', '='])
            && !name.starts_with('#')
        {
            names.insert(name.to_owned());
        }
    }
    assert!(!names.is_empty(), "{member} has dependencies");
    names
}

#[test]
fn the_protocol_knows_nobody_and_does_no_io() {
    let allowed = ["aes-siv", "data-encoding", "postcard", "ring", "serde", "thiserror"];
    let allowed = allowed.map(str::to_owned).into();
    let extra: Vec<_> = dependencies("tap-protocol").difference(&allowed).cloned().collect();
    assert!(extra.is_empty(), "tap-protocol may not depend on {extra:?}");
}

#[test]
fn the_two_products_never_see_each_other_nor_those_who_test_them() {
    let forbidden = [
        ("edge-agent", ["cloud-ingest", "sim", "testbench"].as_slice()),
        ("cloud-ingest", &["edge-agent", "sim", "testbench"]),
        ("strict-config", &["tap-protocol", "edge-agent", "cloud-ingest"]),
        ("sim", &["testbench"]),
    ];
    for (member, others) in forbidden {
        let known = dependencies(member);
        let seen: Vec<_> = others.iter().filter(|other| known.contains(**other)).collect();
        assert!(seen.is_empty(), "{member} may not depend on {seen:?}");
    }
}

/// The one with `unsafe`, and those that use it, are for proofs only.
#[test]
fn what_loses_power_on_purpose_is_never_shipped() {
    for member in ["tap-protocol", "strict-config", "edge-agent", "cloud-ingest", "sim", "testbench"] {
        let known = dependencies(member);
        for proof in ["power-loss-vfs", "prove", "proptest", "proptest-state-machine"] {
            assert!(!known.contains(proof), "{member} may not depend on {proof}");
        }
        assert!(member == "testbench" || !known.contains("postgres-rig"), "{member} may not bring a server");
    }
    assert!(dependencies("prove").contains("power-loss-vfs"), "the proofs use it");
}

/// It knows the packages as a person does, so nothing of ours is compiled into it.
#[test]
fn the_test_of_the_packages_knows_no_crate_of_ours() {
    let known = dependencies("vm-test");
    let ours = ["tap-protocol", "strict-config", "edge-agent", "cloud-ingest", "testbench", "power-loss-vfs"];
    let seen: Vec<_> = ours.iter().filter(|ours| known.contains(**ours)).collect();
    assert!(seen.is_empty(), "vm-test may not depend on {seen:?}");
}

#[test]
fn unsafe_is_in_one_file() {
    let mut members = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    members.retain(|path| path.join("Cargo.toml").exists() && path.join("src").exists());
    let all = members.iter().flat_map(|member| sources(&member.join("src")));
    let with_unsafe = all.filter(|path| {
        let code = without_tests(&fs::read_to_string(path).unwrap());
        code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe extern")
    });
    let names: Vec<_> = with_unsafe.map(|path| path.strip_prefix(root()).unwrap().to_owned()).collect();
    assert_eq!(names, [Path::new("power-loss-vfs/src/vfs.rs")]);
}

#[test]
fn the_edge_daemon_stays_small() {
    let known = dependencies("edge-agent");
    for heavy in ["reqwest", "axum", "regex", "zstd", "jiff", "csv"] {
        assert!(!known.contains(heavy), "edge-agent may not depend on {heavy}");
    }
}

/// Modules that decide. A module may name those above and below it in its own product's list, the protocol, and crates
/// without I/O.
const PURE: [(&str, &[&str]); 3] = [
    (
        "edge-agent",
        &[
            "admission",
            "ages",
            "anchors",
            "certificate",
            "clock_witness",
            "complaints",
            "feedback",
            "diag::scrub",
            "diag::tar",
            "log_allowance",
            "metrics",
            "now",
            "outbox::say_again",
            "outbox::space",
            "outbox::wal",
            "relay",
            "renewal",
            "roster::assembler",
            "roster::book",
            "round_trip",
            "service",
            "settlement",
            "status",
            "trial",
            "verification_time",
            "reader::apdu",
            "reader::atr",
            "reader::card_read",
            "reader::em4100",
            "reader::framing",
            "reader::interpret",
            "reader::lamp",
            "reader::line",
            "reader::number_line",
            "reader::retry",
            "reader::watch",
            "watchdog",
            "reader::wiegand",
            "signal::pattern",
        ],
    ),
    (
        "cloud-ingest",
        &[
            "archive::parts",
            "capture::allowance",
            "capture::key",
            "capture::reading",
            "capture::spool::frames",
            "delivery::breaker",
            "delivery::class",
            "delivery::complete",
            "delivery::limiter",
            "delivery::order",
            "delivery::retry",
            "delivery::rules",
            "delivery::ticks",
            "destination",
            "directory::direction",
            "directory::moment",
            "directory::printed",
            "directory::profile",
            "directory::timeline",
            "destination::fields",
            "destination::frappe_hr::answers",
            "destination::frappe_hr::check_in",
            "destination::frappe_hr::watermark",
            "destination::guard",
            "destination::rules",
            "destination::settings",
            "destination::settings::written",
            "destination::template",
            "event_store",
            "event_store::archive",
            "event_store::badges",
            "event_store::boots",
            "event_store::capture",
            "event_store::fleet",
            "event_store::leases",
            "event_store::leases",
            "event_store::meaning",
            "event_store::migrations",
            "event_store::migrations::script",
            "event_store::people",
            "event_store::commands",
            "event_store::completeness",
            "event_store::deliveries",
            "event_store::exports",
            "event_store::meaning",
            "event_store::proof",
            "event_store::replays",
            "event_store::rereading",
            "intake::admit",
            "intake::lease",
            "intake::revoked",
            "intake::verify",
            "keyring::ring",
            "loops",
            "read_model::audit",
            "read_model::confirmed",
            "intake::twins",
            "intake::verify",
            "read_model::controller",
            "read_model::explain",
            "read_model::forecast",
            "read_model::lag",
            "read_model::ledger",
            "read_model::proof",
            "read_model::tap_list",
            "read_model::rewound",
            "receipts",
            "roster::edition",
            "roster::rounds",
            "watchdog",
        ],
    ),
    ("vm-test", &["block_log", "console", "power_cut", "taps"]),
];

const PURE_CRATES: [&str; 12] = [
    "alloc",
    "core",
    "data_encoding",
    "jiff",
    "postcard",
    "ring",
    "serde",
    "serde_json",
    "std",
    "tap_protocol",
    "thiserror",
    "url",
];

/// Parts of `std`, of `jiff` and of `ring` that reach outside of the process, read a clock or make randomness.
const IMPURE_STD: [&str; 11] = [
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "SystemTime",
    "Timestamp::now",
    "Zoned::now",
    "ring::rand",
];

#[test]
fn what_decides_is_pure() {
    let mut wrong = Vec::new();
    for (member, modules) in PURE {
        for module in modules {
            let path = source_of(member, module);
            let code = without_tests(&fs::read_to_string(&path).unwrap());
            for used in names_used(&code, module) {
                if !may_use(&used, modules) {
                    wrong.push(format!("{member}::{module} uses {used}"));
                }
            }
            let outside = IMPURE_STD.iter().filter(|part| code.contains(**part));
            wrong.extend(outside.map(|part| format!("{member}::{module} names {part}")));
        }
    }
    assert!(wrong.is_empty(), "what decides must not act:\n{}", wrong.join("\n"));
}

fn source_of(member: &str, module: &str) -> PathBuf {
    let base = root().join(member).join("src").join(module.replace("::", "/"));
    let file = base.with_extension("rs");
    if file.exists() { file } else { base.join("mod.rs") }
}

fn without_tests(code: &str) -> String {
    let product = code.split("#[cfg(test)]").next().unwrap_or_default();
    product.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// What the `use` lines name, with `super` and `self` made absolute: `crate::a::b::c` or `extern::…`.
fn names_used(code: &str, module: &str) -> Vec<String> {
    let here: Vec<&str> = module.split("::").collect();
    let mut used = Vec::new();
    for statement in code.split(';') {
        let Some(path) = statement.trim_start().strip_prefix("use ").or_else(|| {
            statement.rfind("\nuse ").map(|at| statement[at..].trim_start().trim_start_matches("use "))
        }) else {
            continue;
        };
        let path = path.trim();
        // `use a::{b, c}`: each of them, one level deep is as deep as it matters.
        let (base, inner) = path.split_once('{').unwrap_or((path, ""));
        let members: Vec<&str> = match inner {
            "" => vec![""],
            inner => {
                inner.trim_end_matches('}').split(',').map(str::trim).filter(|m| !m.is_empty()).collect()
            }
        };
        for member in members {
            let full = format!("{base}{member}");
            used.push(match full.strip_prefix("super::") {
                Some(rest) => {
                    let parent = here[..here.len() - 1].join("::");
                    if parent.is_empty() {
                        format!("crate::{rest}")
                    } else {
                        format!("crate::{parent}::{rest}")
                    }
                }
                None => full,
            });
        }
    }
    used
}

fn may_use(used: &str, pure: &[&str]) -> bool {
    match used.strip_prefix("crate::") {
        Some(inside) => pure.iter().any(|module| {
            // An item of a pure module; or, for a module with impure children, of itself only.
            inside.strip_prefix(module).is_some_and(|rest| {
                rest.strip_prefix("::")
                    .is_some_and(|item| item.starts_with(char::is_uppercase) || !item.contains("::"))
            }) || inside == *module
        }),
        None => PURE_CRATES.contains(&used.split("::").next().unwrap_or(used)),
    }
}

#[test]
fn the_rule_can_be_broken() {
    let pure = ["relay", "reader::apdu"];
    let uses = |code: &str, module: &str| names_used(code, module);
    assert_eq!(uses("use super::outbox::Mark;\n", "relay"), ["crate::outbox::Mark"]);
    assert!(!may_use("crate::outbox::Mark", &pure));
    assert!(!may_use("tokio::sync::mpsc", &pure));
    assert!(may_use("crate::relay::Mark", &pure));
    assert_eq!(
        uses("use crate::{\n    clock,\n    relay::Mark,\n};\n", "x"),
        ["crate::clock", "crate::relay::Mark"]
    );
    assert!(may_use("tap_protocol::ids::Seq", &pure));
}

/// Debounce, backoff, every wait and every age at the door run on boottime. The wall clock is read in one place, written
/// down, compared with boottime to see that it was set, shown, and told in a hello; nothing else knows it. A person who asks
/// is told of it: by checks, in a bundle for support, and beside the cloud's time. Certificates are judged by it as far as
/// the kernel vouches for it, and no further.
#[test]
fn nothing_at_the_door_waits_for_the_wall_clock() {
    let may_know = [
        "anchors.rs",
        "cli/clock.rs",
        "clock.rs",
        "clock_watch.rs",
        "clock_witness.rs",
        "known_time.rs",
        "now.rs",
        "verification_time.rs",
    ];
    let shows = [
        "check/certificates.rs",
        "check/clock_state.rs",
        "check/configuration.rs",
        "cli/diag.rs",
        "diag/mod.rs",
        "round_trip.rs",
    ];
    let folder = root().join("edge-agent/src");
    let mut knows = BTreeSet::new();
    let is_shipped = |path: &PathBuf| !path.to_string_lossy().ends_with("_tests.rs");
    for path in sources(&folder).into_iter().filter(is_shipped) {
        let code = without_tests(&fs::read_to_string(&path).unwrap());
        let name = path.strip_prefix(&folder).unwrap().display().to_string();
        // A hello tells what the wall clock shows.
        let code = if name == "agent/sync.rs" { code.replacen("wall_ms: now.wall_ms", "", 1) } else { code };
        if ["wall_ms", "SystemTime", "Realtime", "REALTIME"].iter().any(|word| code.contains(word)) {
            knows.insert(name);
        }
    }
    assert!(knows.contains("clock.rs"), "the search finds what is there");
    let others: Vec<_> =
        knows.iter().filter(|name| ![&may_know[..], &shows].concat().contains(&name.as_str())).collect();
    assert!(others.is_empty(), "{others:?} may not know the wall clock");
    let clock = fs::read_to_string(folder.join("clock.rs")).unwrap();
    assert_eq!(clock.matches("SystemTime::now()").count(), 1, "it is read in one place");
}

#[test]
fn every_step_of_a_taps_life_says_which_it_is() {
    let mut steps: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for member in ["edge-agent", "cloud-ingest"] {
        for path in sources(&root().join(member).join("src")) {
            let text = fs::read_to_string(&path).unwrap();
            let first = text.lines().next().unwrap_or_default().to_owned();
            assert!(first.starts_with("//! "), "{}: the first line says what the file is", path.display());
            for word in first.replace("Steps", "Step").split("Step ").skip(1) {
                let numbers = word.split(" of 12").next().unwrap_or_default();
                for number in numbers.split(" and ").filter_map(|n| n.trim().parse().ok()) {
                    steps.entry(number).or_default().push(path.display().to_string());
                }
            }
        }
    }
    let missing: Vec<u32> = (1..=12).filter(|step| !steps.contains_key(step)).collect();
    assert!(missing.is_empty(), "no file says that it is step {missing:?}");
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
