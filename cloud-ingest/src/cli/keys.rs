//! Beside the line: the verbs that make the cloud's keys and let one take over from another. Never overwrites a key: a lost
//! receipt key means enrolling every controller anew, a lost token key means that no badge can be opened again.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::ensure;
use clap::{Args, Subcommand};
use serde::Serialize;
use tap_protocol::command::Order;

use super::deed::{self, Why};
use super::reading::{open, table};
use super::{ConfigFile, Form, Output, print_json};
use crate::api::view;
use crate::clock::Clock;
use crate::event_store::place::Place;
use crate::event_store::{EventStore, Member, Standing, UtcMs};
use crate::keyring::ring::{self, Entry, Kind, Reach, Ring};
use crate::keyring::{make_files, read_or_begin, read_ring, write_ring};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make the first receipt, control, token and capture key
    Create {
        #[command(flatten)]
        dir: KeysDir,
    },
    /// All keys, since when each is what it is, and how many controllers have it
    Status {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
    /// Make the next key of a kind; controllers that are connected fetch it within two minutes
    Rotate {
        /// receipt, control, token or capture
        kind: Kind,
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Let the next key take over, once every active controller has it
    Activate {
        /// receipt, control, token or capture
        kind: Kind,
        #[command(flatten)]
        insist: Insist,
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Tell controllers of an old key no more
    Retire {
        /// receipt, control, token or capture
        kind: Kind,
        /// Which of them
        number: u16,
        #[command(flatten)]
        insist: Insist,
        #[command(flatten)]
        config: ConfigFile,
    },
}

/// The folder, for verbs that need nothing else.
#[derive(Debug, Args)]
pub struct KeysDir {
    /// The folder of the keys
    #[arg(long, default_value = "/etc/cloud-ingest/keys")]
    pub dir: PathBuf,
}

/// For steps that may leave controllers behind.
#[derive(Debug, Args)]
pub struct Insist {
    /// Do it though some controllers are left behind; needs --reason
    #[arg(long, requires = "reason")]
    pub yes: bool,
    /// Why, for the log
    #[arg(long)]
    pub reason: Option<String>,
}

pub fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Create { dir } => {
            create(&dir.dir, &KEYS, Clock::system().now())?;
            let dir = dir.dir.display();
            println!("made receipt-1, control-1, token-1 and capture-1 in {dir}");
            println!("next, for controllers with certificates: cloud-ingest ca init --dir {dir}");
        }
        Verb::Status { config, output } => return status(&config, output.output, &KEYS),
        Verb::Rotate { kind, config } => {
            let made = rotate(&config, kind)?;
            if kind.is_told() {
                println!("made {}: controllers that are connected fetch it within two minutes", made.name());
                println!(
                    "when `cloud-ingest keys status` says all have it: cloud-ingest keys activate {kind}"
                );
            } else {
                println!(
                    "made {}: no controller need know it; cloud-ingest keys activate {kind}",
                    made.name()
                );
            }
        }
        Verb::Activate { kind, insist, config } => {
            let active = activate(&config, kind, insist)?;
            println!("{} is active; the service uses it within seconds", active.name());
        }
        Verb::Retire { kind, number, insist, config } => {
            let retired = retire(&config, kind, number, insist)?;
            println!("{} is retired: bundles carry it no more", retired.name());
        }
    }
    Ok(ExitCode::SUCCESS)
}

const KEYS: [Kind; 4] = [Kind::Receipt, Kind::Control, Kind::Token, Kind::Capture];

/// Makes the first key of each of these kinds, or none.
pub fn create(dir: &Path, kinds: &[Kind], now: UtcMs) -> anyhow::Result<()> {
    let mut ring = read_or_begin(dir)?;
    if let Some(there) = kinds.iter().find_map(|kind| ring.of(*kind).next()) {
        anyhow::bail!("{} is in {} already; nothing was changed", there.name(), dir.display());
    }
    for kind in kinds {
        let entry = ring.create(*kind, now);
        make_files(dir, &entry)?;
    }
    Ok(write_ring(dir, &ring)?)
}

/// A key of the table.
#[derive(Debug, Serialize)]
struct Row {
    key: String,
    kind: Kind,
    number: u16,
    state: ring::State,
    since: String,
    /// How many active controllers have it; none of them need have one that signs for others.
    reach: Option<Reach>,
}

pub fn status(config: &ConfigFile, form: Form, kinds: &[Kind]) -> anyhow::Result<ExitCode> {
    let loaded = config.load()?;
    let ring = read_ring(&loaded.keys.dir)?;
    let fleet = match loaded.place()? {
        Place::File(path) if !path.exists() => Vec::new(),
        Place::File(_) | Place::Server(_) => open(config)?.fleet()?,
    };
    let row = |key: &Entry| Row {
        key: key.name(),
        kind: key.kind,
        number: key.number,
        state: key.state,
        since: view::time(UtcMs(key.since_ms)),
        reach: key.kind.is_told().then(|| ring::reach(&key.name(), &fleet)),
    };
    let rows: Vec<Row> = kinds.iter().flat_map(|kind| ring.of(*kind)).map(row).collect();
    if form == Form::Json {
        print_json(&rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table =
        table(["key", "state", "since", "active controllers that have it", "not yet, among them"]);
    for row in rows {
        let (reach, lacking) = match row.reach {
            Some(reach) => (reach.to_string(), reach.lacking.join(" ")),
            None => ("need not".into(), String::new()),
        };
        table.add_row([row.key, row.state.name().into(), row.since, reach, lacking]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}

pub fn rotate(config: &ConfigFile, kind: Kind) -> anyhow::Result<Entry> {
    let dir = config.load()?.keys.dir;
    change(config, "rotate", String::new(), |ring, _, now| {
        ensure!(ring.of(kind).next().is_some(), "there is no {} key yet", kind.name());
        let entry = ring.rotate(kind, now)?;
        make_files(&dir, &entry)?;
        Ok(entry)
    })
}

pub fn activate(config: &ConfigFile, kind: Kind, insist: Insist) -> anyhow::Result<Entry> {
    let yes = insist.yes;
    change(config, "activate", insist.reason.unwrap_or_default(), |ring, fleet, now| {
        Ok(ring.activate(kind, fleet, now, yes)?)
    })
}

pub fn retire(config: &ConfigFile, kind: Kind, number: u16, insist: Insist) -> anyhow::Result<Entry> {
    let yes = insist.yes;
    change(config, "retire", insist.reason.unwrap_or_default(), |ring, fleet, now| {
        Ok(ring.retire(kind, number, fleet, now, yes)?)
    })
}

/// One step of a rotation: decided over the ring and the fleet, written down, and put into the log.
fn change(
    config: &ConfigFile,
    what: &str,
    reason: String,
    step: impl FnOnce(&mut Ring, &[Member], UtcMs) -> anyhow::Result<Entry>,
) -> anyhow::Result<Entry> {
    let loaded = config.load()?;
    let now = Clock::system().now();
    let mut store = super::reading::open_to_write(&loaded, now)?;
    let mut ring = read_ring(&loaded.keys.dir)?;
    let entry = step(&mut ring, &store.fleet()?, now)?;
    // The log first: a step that nobody can account for is worse than an account of one that failed.
    store.note_deed(&deed::deed(now, what, &entry.name(), Why(reason)))?;
    write_ring(&loaded.keys.dir, &ring)?;
    if entry.kind.is_told() {
        tell(store.as_mut(), &format!("{what} {}", entry.name()), now)?;
    }
    Ok(entry)
}

/// Enrolled controllers fetch their bundles anew, each with its next hello, and not when the certificate is due.
fn tell(store: &mut dyn EventStore, why: &str, now: UtcMs) -> anyhow::Result<()> {
    for member in store.fleet()? {
        if member.standing == Standing::Active && member.fetched.is_some() {
            store.queue_command(&member.controller.id, &Order::FetchKeys, why, now)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_keys_are_made_once_and_the_root_beside_them() {
        let dir = tempfile::tempdir().unwrap();
        let now = UtcMs(1_772_434_800_000);
        create(dir.path(), &KEYS, now).unwrap();
        let before = std::fs::read_to_string(dir.path().join("token-1.key")).unwrap();
        assert!(create(dir.path(), &KEYS, now).unwrap_err().to_string().contains("nothing was changed"));
        create(dir.path(), &[Kind::Root], now).unwrap();
        assert!(create(dir.path(), &[Kind::Root], now).is_err());
        assert_eq!(std::fs::read_to_string(dir.path().join("token-1.key")).unwrap(), before);
        assert_eq!(read_ring(dir.path()).unwrap().keys.len(), 5);
    }
}
