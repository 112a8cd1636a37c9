//! Beside the line: the store's file as a whole: a backup beside the running service, and the word that one was put back.
//! See `docs/backup.md`.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::Subcommand;
use serde::Serialize;
use tap_protocol::ids::{ControllerId, OutboxId, Seq, StoreEpoch};

use super::{ConfigFile, Form, Output, migrate, print_json, reading};
use crate::clock::Clock;
use crate::event_store::EventStore;
use crate::event_store::place::Place;
use crate::event_store::roles;
use crate::event_store::sqlite::SqliteStore;
use crate::lock;
use crate::read_model::rewound;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Write a whole copy of the store to a file; the service may run
    Backup {
        /// The file; it must not be there yet
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
    /// Bring the store up to date, or say what that would do
    Migrate(migrate::MigrateArgs),
    /// Write what a PostgreSQL role for the service may do, as SQL for the tables' owner
    Roles {
        /// The role under which the service connects
        #[arg(long, value_name = "ROLE")]
        service: String,
        /// The schema in which the tables are
        #[arg(long, value_name = "SCHEMA", default_value = "public")]
        schema: String,
    },
    /// Say that a backup was put back: controllers then send again what it lacks. The service must be stopped
    Restored {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
}

pub fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Backup { out, config, output } => back_up(&out, &config, output.output),
        Verb::Migrate(args) => migrate::run(args),
        Verb::Roles { service, schema } => {
            print!("{}", roles::grants(&schema, &service));
            Ok(ExitCode::SUCCESS)
        }
        Verb::Restored { config, output } => restored(&config, output.output),
    }
}

#[derive(Debug, Serialize)]
struct BackedUp {
    file: PathBuf,
    store_epoch: StoreEpoch,
    records: u64,
    taps: u64,
    bytes: u64,
}

/// Whoever may read a backup reads names and attendance.
const MODE: u32 = 0o600;

fn back_up(out: &Path, config: &ConfigFile, form: Form) -> anyhow::Result<ExitCode> {
    ensure!(!out.exists(), "{} is there already; nothing was changed", out.display());
    let Place::File(path) = config.load()?.place()? else {
        bail!(
            "the store is on a PostgreSQL server: back it up there, with pg_dump or pg_basebackup (docs/backup.md)"
        );
    };
    let mut store =
        SqliteStore::open_reader(&path).with_context(|| format!("cannot read {}", path.display()))?;
    // Only a whole copy gets the name.
    let mut draft = out.as_os_str().to_owned();
    draft.push(".partial");
    let draft = PathBuf::from(draft);
    let doing = || format!("cannot write {}", draft.display());
    File::options().write(true).create(true).truncate(true).mode(MODE).open(&draft).with_context(doing)?;
    store.back_up(&draft).with_context(doing)?;
    let mut copy = SqliteStore::open_reader(&draft).context("the copy cannot be read")?;
    let (totals, store_epoch) = (copy.totals()?, copy.store_epoch()?);
    drop(copy);
    File::open(&draft).and_then(|file| file.sync_all()).with_context(doing)?;
    std::fs::rename(&draft, out).with_context(doing)?;
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(doing)?;
    let bytes = std::fs::metadata(out)?.len();
    let backed_up =
        BackedUp { file: out.to_owned(), store_epoch, records: totals.records, taps: totals.taps, bytes };
    match form {
        Form::Json => print_json(&backed_up)?,
        Form::Table => println!(
            "{}: {} records, {} taps among them, {} bytes. The keys are not in it: keep them elsewhere, once.",
            out.display(),
            backed_up.records,
            backed_up.taps,
            backed_up.bytes
        ),
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Serialize)]
struct Restored {
    store_epoch_before: StoreEpoch,
    store_epoch: StoreEpoch,
    outboxes: Vec<SentAgain>,
}

/// What a controller will be asked for.
#[derive(Debug, Serialize)]
struct SentAgain {
    controller: ControllerId,
    outbox: OutboxId,
    /// It will send again from this record on.
    from: Seq,
    /// As far as the controller told this store. What it recorded since, nobody here knows before its next hello.
    known_to_come: u64,
}

fn restored(config: &ConfigFile, form: Form) -> anyhow::Result<ExitCode> {
    let loaded = config.load()?;
    let _lock = lock::take(&loaded.data_dir)?;
    let now = Clock::system().now();
    let mut store = reading::open_to_write(&loaded, now)?;
    let store_epoch_before = store.store_epoch()?;
    let states = store.controllers()?;
    let store_epoch = store.new_epoch(rewound::latest_epoch_told(&states), now)?;
    let mut outboxes = Vec::new();
    for state in &states {
        let told = state.hello.iter().flat_map(|hello| &hello.hello.outboxes);
        let receipted: Vec<_> = told.map(|told| (told.outbox, told.receipted_through)).collect();
        for outbox in &state.outboxes {
            let heard = receipted.iter().filter(|(id, _)| *id == outbox.outbox).map(|(_, through)| *through);
            let last = heard.fold(outbox.last_seq, Seq::max);
            outboxes.push(SentAgain {
                controller: state.controller.id.clone(),
                outbox: outbox.outbox,
                from: outbox.stored_through.next(),
                known_to_come: last.0.saturating_sub(outbox.stored_through.0),
            });
        }
    }
    let restored = Restored { store_epoch_before, store_epoch, outboxes };
    if form == Form::Json {
        print_json(&restored)?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("the store's epoch is {} now; it was {}", store_epoch.0, store_epoch_before.0);
    let mut table = reading::table(["controller", "outbox", "sends again from record", "known to come"]);
    for outbox in &restored.outboxes {
        table.add_row([
            outbox.controller.to_string(),
            outbox.outbox.to_string(),
            outbox.from.to_string(),
            outbox.known_to_come.to_string(),
        ]);
    }
    println!("{table}");
    println!(
        "Start the service. Each controller sends what is missing as soon as it says hello; until then nobody here knows how\n\
         much that is, and `cloud-ingest controllers list` shows it then (\"to come\"). What was delivered after the backup is\n\
         delivered again under the same idempotency key."
    );
    Ok(ExitCode::SUCCESS)
}
