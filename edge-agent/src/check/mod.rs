//! `edge-agent check`: is everything right that a door needs? One file per check; here is what they have in common and how
//! they are run: each on a thread of its own, so that one that hangs (pcscd, a name server) costs nothing but its answer.
//!
//! A check reads. It writes nothing to the outbox, takes no port from a running agent, and uses no session that could push
//! the agent's own from the broker. It says what is so, and where it is not well, what that means and what to type.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::clock;
use crate::config::Config;
use crate::status::Status;

mod boot_id;
mod broker;
mod ccid_escape;
mod certificates;
mod clock_state;
mod configuration;
mod free_space;
mod journal;
mod keys;
mod medium;
mod nfc_modules;
mod outbox;
mod pcscd;
mod polkit;
mod readers;
mod round_trip;
mod sd_card;
mod serial_ports;
mod service;
mod usb_power;

/// All checks together take no longer than this. The longest one waits 10 s for a receipt.
const ALL_WITHIN_MS: u64 = 12_000;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// There was nothing to look at here, or it cannot be told.
    Skipped,
    /// As it should be.
    Ok,
    /// It works, and may not for long, or not as well as it could.
    Warning,
    /// Something does not work.
    Error,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// How it ended.
    pub state: State,
    /// What is so.
    pub says: String,
    /// What that means for the door.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub meaning: Option<String>,
    /// What to do, or to type.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub remedy: Option<String>,
    /// What was looked at, for scripts and support.
    pub evidence: Value,
}

/// One check's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// Its name, for scripts.
    pub check: String,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// What it found.
    #[serde(flatten)]
    pub finding: Finding,
}

/// Whether an agent runs here.
#[derive(Debug, Clone)]
pub enum Agent {
    /// It answered.
    Running(Box<Status>),
    /// Nobody listens.
    Stopped,
    /// It cannot be told, and why: treat it as running.
    Unknown(String),
}

/// What is checked.
#[derive(Debug)]
pub struct Subject {
    /// Where the configuration is.
    pub config_file: PathBuf,
    /// What it says, or what is wrong with it.
    pub config: Result<Config, String>,
    /// Whether the agent runs.
    pub agent: Agent,
    /// `/`; another folder in tests.
    pub root: PathBuf,
}

type Look = fn(&Subject) -> Finding;

/// Every check, in the order in which they are shown: what others depend on comes first.
const CHECKS: &[(&str, Look)] = &[
    ("configuration", configuration::look),
    ("keys", keys::look),
    ("outbox", outbox::look),
    ("free_space", free_space::look),
    ("medium", medium::look),
    ("sd_card", sd_card::look),
    ("clock", clock_state::look),
    ("boot_id", boot_id::look),
    ("pcscd", pcscd::look),
    ("polkit", polkit::look),
    ("nfc_modules", nfc_modules::look),
    ("ccid_escape", ccid_escape::look),
    ("usb_power", usb_power::look),
    ("readers", readers::look),
    ("serial_ports", serial_ports::look),
    ("certificates", certificates::look),
    ("broker", broker::look),
    ("round_trip", round_trip::look),
    ("journal", journal::look),
    ("service", service::look),
];

/// Runs every check.
pub fn run_all(subject: Subject) -> Vec<Checked> {
    run(CHECKS, subject, ALL_WITHIN_MS)
}

fn run(checks: &[(&str, Look)], subject: Subject, within_ms: u64) -> Vec<Checked> {
    let subject = Arc::new(subject);
    let began_ms = clock::boottime_ms();
    let started: Vec<_> = checks
        .iter()
        .map(|(name, look)| {
            let (answer, answered) = sync_channel(1);
            let (subject, look) = (Arc::clone(&subject), *look);
            let thread = std::thread::Builder::new().name((*name).into());
            let began = thread.spawn(move || {
                let began_ms = clock::boottime_ms();
                let finding = look(&subject);
                let _ = answer.send((finding, clock::boottime_ms() - began_ms));
            });
            (*name, began.map(|_| answered))
        })
        .collect();
    let mut results = Vec::new();
    for (name, answered) in started {
        let left = (began_ms + within_ms).saturating_sub(clock::boottime_ms());
        let answer = answered.ok().map(|answered| answered.recv_timeout(Duration::from_millis(left)));
        let (finding, took_ms) = match answer {
            Some(Ok(answer)) => answer,
            // What hangs is a finding, and its thread ends with the process.
            _ => (no_answer(), clock::boottime_ms() - began_ms),
        };
        results.push(Checked { check: name.to_owned(), took_ms, finding });
    }
    results
}

fn no_answer() -> Finding {
    Finding::error(
        "no answer came in time",
        "what was asked hangs, and whoever else asks it hangs too",
        "try again; if it stays so, restart the machine and send `edge-agent diag collect` to support",
    )
}

impl Finding {
    fn new(state: State, says: impl Into<String>) -> Finding {
        Finding { state, says: says.into(), meaning: None, remedy: None, evidence: json!({}) }
    }

    fn ok(says: impl Into<String>) -> Finding {
        Finding::new(State::Ok, says)
    }

    fn skipped(says: impl Into<String>) -> Finding {
        Finding::new(State::Skipped, says)
    }

    fn warning(says: impl Into<String>, meaning: impl Into<String>, remedy: impl Into<String>) -> Finding {
        let (meaning, remedy) = (Some(meaning.into()), Some(remedy.into()));
        Finding { meaning, remedy, ..Finding::new(State::Warning, says) }
    }

    fn error(says: impl Into<String>, meaning: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { state: State::Error, ..Finding::warning(says, meaning, remedy) }
    }

    fn with(self, evidence: Value) -> Finding {
        Finding { evidence, ..self }
    }

    /// The worst of several; `fine` if there is none.
    fn worst(findings: impl IntoIterator<Item = Finding>, fine: Finding) -> Finding {
        findings.into_iter().max_by_key(|finding| finding.state).unwrap_or(fine)
    }
}

impl Subject {
    /// A path below the root.
    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A small file's text; `None` if it is not there or cannot be read.
    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.path(path)).ok()
    }

    /// What a folder holds, sorted; nothing if it is not there.
    fn entries(&self, folder: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path(folder)).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    }

    /// Looks at what the configuration says; without one there is nothing to look at.
    fn with_config(&self, look: impl FnOnce(&Config) -> Finding) -> Finding {
        match &self.config {
            Ok(config) => look(config),
            Err(_) => Finding::skipped("without a right configuration this cannot be looked at"),
        }
    }

    /// Looks at what PC/SC readers need; without any, there is nothing to look at.
    fn with_pcsc(&self, look: impl FnOnce(&Config) -> Finding) -> Finding {
        self.with_config(|config| match config.readers.iter().any(|reader| reader.pcsc.is_some()) {
            true => look(config),
            false => Finding::skipped("no PC/SC reader is configured"),
        })
    }
}

/// A file's text without the spaces around it.
fn word(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod fake {
    //! A machine in a folder, for tests.

    use super::*;

    pub const CONFIG: &str = "controller = 'a'\nbroker.url = 'mqtt://127.0.0.1'\n[keys]\nrecord_key_file = 'a'\ntoken_key_file = 'b'\nreceipt_public_key_file = 'c'\n[[reader]]\nname = 'in'\npcsc = { match = 'ACR122U' }\n[[reader]]\nname = 'out'\nserial = { port = '/dev/ttyUSB0' }\n";

    /// Files below a root, and this configuration.
    pub fn machine(files: &[(&str, &str)], config: &str) -> (tempfile::TempDir, Subject) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let subject = Subject {
            config_file: "edge-agent.toml".into(),
            config: Config::from_text("edge-agent.toml", config).map_err(|error| error.to_string()),
            agent: Agent::Stopped,
            root: root.path().to_owned(),
        };
        (root, subject)
    }

    /// `look`, with these files, ends in `state` and says something with `part` in it.
    #[track_caller]
    pub fn check(look: Look, files: &[(&str, &str)], state: State, part: &str) {
        let (_root, subject) = machine(files, CONFIG);
        let finding = look(&subject);
        assert_eq!(finding.state, state, "{finding:?}");
        let all = format!("{} {:?} {:?}", finding.says, finding.meaning, finding.remedy);
        assert!(all.contains(part), "{finding:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_hangs_costs_nothing_but_its_answer() {
        let hangs: Look = |_| loop {
            std::thread::park();
        };
        let fine: Look = |_| Finding::ok("fine");
        let (_root, subject) = fake::machine(&[], fake::CONFIG);
        let results = run(&[("hangs", hangs), ("fine", fine)], subject, 50);
        let states: Vec<_> = results.iter().map(|result| result.finding.state).collect();
        assert_eq!(states, [State::Error, State::Ok]);
        assert_eq!(results[0].finding.says, "no answer came in time");
    }

    #[test]
    fn a_name_belongs_to_one_check() {
        let mut names: Vec<_> = CHECKS.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CHECKS.len());
    }
}
