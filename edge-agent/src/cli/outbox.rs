//! `edge-agent outbox list|pending|verify|export|prune|salvage`: the records on this disk, by hand. The first four only read
//! and work beside a running agent; the last two write and need it stopped.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use edge_agent::agent::with_causes;
use edge_agent::config::{Config, EXIT_CONFIG};
use edge_agent::identity::Identity;
use edge_agent::outbox::export::Export;
use edge_agent::outbox::lock;
use edge_agent::outbox::medium::Disk;
use edge_agent::outbox::shelf::{Aside, News, Owner, Shelf, says_through};
use edge_agent::outbox::worker::mint_outbox_id;
use edge_agent::outbox::{Outbox, OutboxError};
use serde::Serialize;
use tap_protocol::ids::{OutboxId, Seq};

use super::run::machine;
use super::{ConfigArg, Output, complain, say, with_config};

/// Records verified at a time.
const VERIFY_STEP: usize = 10_000;

/// Pages salvaged, or records pruned, at a time.
const REPAIR_STEP: usize = 10_000;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show all outboxes, and damaged files that were set aside.
    List {
        #[command(flatten)]
        config: ConfigArg,
        /// For people or for scripts.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Say whether something here is not in the cloud yet: before a disk is wiped or thrown away. Exits 1 if so, or if it
    /// cannot be told.
    Pending {
        #[command(flatten)]
        config: ConfigArg,
        /// For people or for scripts.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Check every record against the hash chain, and the files themselves. Exits 1 if something is damaged.
    Verify {
        #[command(flatten)]
        config: ConfigArg,
        /// For people or for scripts.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Write what the cloud has not confirmed into a file, as signed batches: for a USB stick.
    Export {
        #[command(flatten)]
        config: ConfigArg,
        /// The file; it must not be there yet.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Also what the cloud has confirmed and is still kept here.
        #[arg(long)]
        all: bool,
        /// For people or for scripts.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Delete records that the cloud has confirmed. Others are never deleted. The agent must be stopped.
    Prune {
        #[command(flatten)]
        config: ConfigArg,
        /// Do it; without this it is only shown.
        #[arg(long)]
        yes: bool,
        /// For people or for scripts.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Bring what is readable of damaged files that were set aside back, under the same numbers. The running agent does this
    /// by itself; this is for files that somebody put back into the folder. The agent must be stopped.
    Salvage {
        #[command(flatten)]
        config: ConfigArg,
        /// For people or for scripts.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
}

impl Verb {
    pub fn run(self) -> ExitCode {
        match self {
            Verb::List { config, output } => with_config(&config, |config| ended(list(&config, output))),
            Verb::Pending { config, output } => {
                with_config(&config, |config| ended(pending(&config, output)))
            }
            Verb::Verify { config, output } => with_config(&config, |config| ended(verify(&config, output))),
            Verb::Export { config, to, all, output } => {
                with_config(&config, |config| ended(export(&config, &to, all, output)))
            }
            Verb::Prune { config, yes, output } => {
                with_config(&config, |config| ended(prune(&config, yes, output)))
            }
            Verb::Salvage { config, output } => {
                with_config(&config, |config| ended(salvage(&config, output)))
            }
        }
    }
}

/// What goes wrong in words, and the exit code for it.
type Failed = (String, ExitCode);

fn ended(result: Result<ExitCode, Failed>) -> ExitCode {
    result.unwrap_or_else(|(why, code)| {
        complain(&why);
        code
    })
}

fn failed(error: impl std::error::Error) -> Failed {
    (with_causes(&error), ExitCode::FAILURE)
}

#[derive(Debug, Serialize)]
struct Listed {
    file: PathBuf,
    outbox: Option<OutboxId>,
    ordinal: Option<u32>,
    /// `whole`, `found`, `told`, `mending`, `mended`, or `set_aside`.
    state: String,
    last_seq: Option<u64>,
    receipted_through: Option<u64>,
    pruned_through: Option<u64>,
    bytes: u64,
    /// Why it cannot be read.
    error: Option<String>,
}

fn list(config: &Config, output: Output) -> Result<ExitCode, Failed> {
    let mut listed = Vec::new();
    for path in files(config)? {
        let bytes = path.metadata().map_or(0, |file| file.len());
        let empty = Listed {
            file: path.clone(),
            outbox: None,
            ordinal: None,
            state: "set_aside".into(),
            last_seq: None,
            receipted_through: None,
            pruned_through: None,
            bytes,
            error: None,
        };
        listed.push(match Aside::of(path.clone()) {
            Some(aside) => Listed {
                outbox: aside.outbox.map(|(id, _)| id),
                last_seq: aside.last.map(|seq| seq.0),
                ..empty
            },
            None => match Outbox::open_to_read(&path) {
                Ok(outbox) => Listed {
                    outbox: Some(outbox.id()),
                    ordinal: Some(outbox.ordinal()),
                    state: format!("{:?}", outbox.stage()).to_lowercase(),
                    last_seq: Some(outbox.last_seq().0),
                    receipted_through: Some(outbox.mark().receipted_through.0),
                    pruned_through: Some(outbox.pruned_through().0),
                    ..empty
                },
                Err(error) => {
                    Listed { state: "unreadable".into(), error: Some(with_causes(&error)), ..empty }
                }
            },
        });
    }
    listed.sort_by_key(|listed| listed.ordinal);
    show(output, &listed, || {
        let number = |number: Option<u64>| number.map_or("?".into(), |number| number.to_string());
        let line = |listed: &Listed| {
            let Listed { state, bytes, .. } = listed;
            let what = listed.outbox.map_or(listed.file.display().to_string(), |id| id.to_string());
            let (last, stored) = (number(listed.last_seq), number(listed.receipted_through));
            let error = listed.error.iter().map(|why| format!(": {why}")).collect::<String>();
            format!("{what} {state}, written to {last}, stored to {stored}, {bytes} bytes{error}\n")
        };
        listed.iter().map(line).collect()
    });
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Default, Serialize)]
struct Pending {
    /// Records that the cloud has not confirmed.
    records: u64,
    /// Files of which it cannot be told.
    unclear: Vec<PathBuf>,
}

fn pending(config: &Config, output: Output) -> Result<ExitCode, Failed> {
    let mut pending = Pending::default();
    for file in files(config)? {
        let outbox = match Aside::of(file.clone()) {
            Some(_) => None,
            None => Outbox::open_to_read(&file).ok().filter(|outbox| outbox.stage().is_sound()),
        };
        match outbox {
            Some(outbox) => {
                pending.records += outbox.last_seq().0.saturating_sub(outbox.mark().receipted_through.0);
            }
            None => pending.unclear.push(file),
        }
    }
    show(output, &pending, || match &pending {
        Pending { records: 0, unclear } if unclear.is_empty() => {
            "the cloud has confirmed all records that are here\n".into()
        }
        Pending { records, unclear } => {
            let file =
                |file: &PathBuf| format!("{} is damaged: what is in it, nobody knows\n", file.display());
            format!("{records} records are not confirmed by the cloud\n")
                + &unclear.iter().map(file).collect::<String>()
        }
    });
    let is_all = pending.records == 0 && pending.unclear.is_empty();
    Ok(if is_all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Debug, Serialize)]
struct Verified {
    file: PathBuf,
    records: u64,
    /// What was proved, if nothing is wrong: the chain from the record after this one on …
    after: Option<Seq>,
    /// … to this one …
    last: Option<Seq>,
    /// … whose hash stands for all of them.
    hash: Option<String>,
    /// What is wrong; empty if nothing is.
    found: Vec<String>,
}

fn verify(config: &Config, output: Output) -> Result<ExitCode, Failed> {
    let mut verified = Vec::new();
    for file in files(config)?.into_iter().filter(|file| Aside::of(file.clone()).is_none()) {
        let (mut records, mut found, mut whole) = (0, Vec::new(), None);
        match Outbox::open_to_read(&file).map_err(|error| with_causes(&error)) {
            Ok(outbox) => {
                found.extend(outbox.quick_check().unwrap_or_else(|error| vec![with_causes(&error)]));
                records = outbox.last_seq().0 - outbox.pruned_through().0.min(outbox.last_seq().0);
                let mut next = outbox.stage().is_sound().then_some(Seq(1));
                if next.is_none() {
                    found.push("it is being salvaged and has holes: the agent fills them when the cloud has said what it has".into());
                }
                while let Some(from) = next {
                    progress("verified", from.0, outbox.last_seq().0);
                    // What is pruned meanwhile is no damage.
                    next = outbox.prove(from, VERIFY_STEP).unwrap_or_else(|error| {
                        found.push(with_causes(&error));
                        None
                    });
                }
                whole = outbox.whole().map_err(|error| found.push(with_causes(&error))).ok();
            }
            Err(why) => found.push(why),
        }
        let whole = whole.filter(|_| found.is_empty());
        verified.push(Verified {
            file,
            records,
            after: whole.map(|whole| whole.after),
            last: whole.map(|whole| whole.last),
            hash: whole.map(|whole| whole.hash.to_string()),
            found,
        });
    }
    progress_ended();
    let is_fine = verified.iter().all(|verified| verified.found.is_empty());
    show(output, &verified, || {
        let line = |verified: &Verified| match verified.found.as_slice() {
            [] => proved(verified),
            found => format!("{} is damaged: {}\n", verified.file.display(), found.join("; ")),
        };
        verified.iter().map(line).collect()
    });
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn proved(Verified { file, records, after, last, hash, .. }: &Verified) -> String {
    let chain = match (after, last, hash) {
        (Some(_), Some(Seq::ZERO), _) | (None, ..) | (_, None, _) | (.., None) => String::new(),
        (Some(Seq::ZERO), Some(last), Some(hash)) => {
            format!(
                ", each in its place in the chain from the first on, each with its own check; h({last}) = {hash}"
            )
        }
        (Some(after), Some(last), Some(hash)) => format!(
            ", each in its place in the chain from h({after}) on (what is before is confirmed and deleted), each with its \
             own check; h({last}) = {hash}"
        ),
    };
    format!("{} is fine: {records} records{chain}\n", file.display())
}

#[derive(Debug, Serialize)]
struct Exported {
    file: PathBuf,
    records: u64,
    /// Outboxes that wait to be mended are not in it.
    left_out: Vec<OutboxId>,
}

fn export(config: &Config, to: &Path, all: bool, output: Output) -> Result<ExitCode, Failed> {
    let identity =
        Identity::load(&config.keys).map_err(|error| (with_causes(&error), ExitCode::from(EXIT_CONFIG)))?;
    let io = |error: std::io::Error| (format!("cannot write {}: {error}", to.display()), ExitCode::FAILURE);
    let mut outboxes = Vec::new();
    for file in files(config)?.into_iter().filter(|file| Aside::of(file.clone()).is_none()) {
        outboxes.push(Outbox::open_to_read(&file).map_err(failed)?);
    }
    outboxes.sort_by_key(Outbox::ordinal);
    let (mut records, mut left_out) = (0, Vec::new());
    let file = File::options().write(true).create_new(true).open(to).map_err(io)?;
    let mut export = Export::begin(BufWriter::new(file), &config.controller).map_err(io)?;
    for outbox in &outboxes {
        let Some(through) = says_through(&outboxes, outbox) else { continue };
        if !outbox.stage().is_sound() {
            left_out.push(outbox.id());
            continue;
        }
        let from = if all { outbox.pruned_through() } else { outbox.mark().receipted_through };
        records += export
            .outbox(outbox, (from.next(), through), &identity.record_key, |next| {
                progress("exported", next.0, through.0);
            })
            .map_err(failed)?;
    }
    progress_ended();
    let file = export.end().map_err(io)?.into_inner().map_err(|error| io(error.into_error()))?;
    file.sync_all().map_err(io)?;
    let exported = Exported { file: to.to_owned(), records, left_out };
    show(output, &exported, || format!("{records} records are in {}\n", to.display()));
    for outbox in &exported.left_out {
        complain(&format!("the outbox {outbox} is being salvaged and is not in the file"));
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Serialize)]
struct Pruned {
    /// Whether it was done, or only looked at.
    done: bool,
    records: u64,
}

fn prune(config: &Config, yes: bool, output: Output) -> Result<ExitCode, Failed> {
    let may_go =
        |outbox: &Outbox| outbox.mark().receipted_through.0.saturating_sub(outbox.pruned_through().0);
    let records = if yes {
        let (mut shelf, _lock) = open_to_write(config)?;
        let mut gone = 0;
        loop {
            match shelf.prune_for_room(u32::try_from(REPAIR_STEP).unwrap_or(u32::MAX)).map_err(failed)? {
                0 => break gone,
                more => gone += u64::from(more),
            }
        }
    } else {
        let mut records = 0;
        for file in files(config)?.into_iter().filter(|file| Aside::of(file.clone()).is_none()) {
            records += may_go(&Outbox::open_to_read(&file).map_err(failed)?);
        }
        records
    };
    show(output, &Pruned { done: yes, records }, || match yes {
        true => format!("{records} confirmed records are deleted\n"),
        false => format!("{records} confirmed records can go; --yes deletes them\n"),
    });
    Ok(ExitCode::SUCCESS)
}

fn salvage(config: &Config, output: Output) -> Result<ExitCode, Failed> {
    let (mut shelf, _lock) = open_to_write(config)?;
    let mut said = Vec::new();
    while shelf.repair(REPAIR_STEP).map_err(failed)? {
        said.extend(shelf.take_news().iter().map(News::to_string));
    }
    said.extend(shelf.take_news().iter().map(News::to_string));
    show(output, &said, || match said.as_slice() {
        [] => "nothing is to be salvaged\n".into(),
        said => said.iter().map(|line| format!("{line}\n")).collect(),
    });
    Ok(ExitCode::SUCCESS)
}

fn open_to_write(config: &Config) -> Result<(Shelf, lock::Lock), Failed> {
    let folder = config.outbox_dir();
    let lock = lock::take(&folder).map_err(failed)?.ok_or_else(|| {
        let why =
            "the agent is running and writes to these outboxes: stop it first (systemctl stop edge-agent)";
        (why.to_owned(), ExitCode::FAILURE)
    })?;
    let owner = Owner { controller: config.controller.clone(), machine: machine() };
    Ok((Shelf::open(Disk::shared(), &folder, &owner, mint_outbox_id).map_err(failed)?, lock))
}

/// Outboxes and files that were set aside.
fn files(config: &Config) -> Result<Vec<PathBuf>, Failed> {
    let folder = config.outbox_dir();
    let listed = std::fs::read_dir(&folder).and_then(|entries| {
        entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<PathBuf>>>()
    });
    let mut files = listed.map_err(|source| failed(OutboxError::Folder { path: folder, source }))?;
    files.retain(|file| file.extension().is_some_and(|end| end == "outbox" || end == "damaged"));
    files.sort();
    Ok(files)
}

fn show<T: Serialize>(output: Output, value: &T, text: impl FnOnce() -> String) {
    match output {
        Output::Json => say(&(serde_json::to_string_pretty(value).unwrap_or_default() + "\n")),
        Output::Text => say(&text()),
    }
}

/// Long work shows how far it is, to people only.
fn progress(what: &str, at: u64, of: u64) {
    if std::io::stderr().is_terminal() {
        let _ = write!(std::io::stderr(), "\r{what} {at} of {of}");
    }
}

fn progress_ended() {
    if std::io::stderr().is_terminal() {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
}
