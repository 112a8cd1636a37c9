//! Beside the line: `events archive`: old events leave the store for files, beside the running service; and what is in such
//! a file. See `docs/archive.md`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use data_encoding::HEXLOWER;
use serde::Serialize;
use tap_protocol::record::{Body, Record};

use super::assign::zone_of;
use super::reading::{existing, open, table};
use super::{ConfigFile, Form, Output, deed, print_json, progress};
use crate::api::view;
use crate::archive::parts::{Delivery, Part, Time};
use crate::archive::{self, Deed, NotArchived};
use crate::clock::Clock;
use crate::directory::moment::{self, End};
use crate::event_store::archive::{Archived, Candidate, Segment, YOUNGEST_MS};
use crate::event_store::place::AnyStore;
use crate::event_store::{Position, UtcMs};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ArchiveArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Only what was received before this day or time; at least 35 days ago
    #[arg(long, value_name = "DATE", required = true)]
    before: Option<String>,
    /// Say what would be archived, and what keeps the rest
    #[arg(long)]
    dry_run: bool,
    /// The folder for the files; `segments` in the data folder if not given
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// What left the store, where it went, and who took it out
    List {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
    /// Prove a file's records again, without a store, and say what is in it
    Show {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// Write a file's taps as CSV, if the file holds
    Export {
        /// The file
        file: PathBuf,
        /// The CSV; it must not be there yet. Standard output if not given
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// The bar moves once in so many records.
const STEP: u64 = 4_096;

/// Who reads all of a partition keeps it from being dropped: one looks again so often, so many times.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
const TRIES: u32 = 30;

pub fn run(args: ArchiveArgs) -> anyhow::Result<ExitCode> {
    match args.verb {
        Some(Verb::List { config, output }) => list(&config, output.output),
        Some(Verb::Show { file, output }) => show(&file, output.output),
        Some(Verb::Export { file, out }) => export(&file, out.as_deref()),
        None => archive(args),
    }
}

/// What was done, or would be.
#[derive(Debug, Serialize)]
struct Done {
    dry_run: bool,
    before: UtcMs,
    folder: PathBuf,
    /// In a dry run: what would be archived.
    ranges: Vec<Candidate>,
    /// What was archived.
    archived: Vec<Written>,
    /// The range after these, if something keeps it.
    kept: Option<Candidate>,
    /// Whether the rows of all that is archived are removed.
    removed: bool,
}

#[derive(Debug, Serialize)]
struct Written {
    file: PathBuf,
    from: Position,
    to: Position,
    taps: u64,
    bytes: u64,
    sha256: String,
}

fn archive(args: ArchiveArgs) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?;
    let place = existing(&config)?;
    let now = Clock::system().now();
    let doing = || format!("cannot open {place}");
    let mut store = match args.dry_run {
        true => place.open_reader().with_context(doing)?,
        false => place.open_existing(now).with_context(doing)?,
    };
    let zone = zone_of(None, &config, &mut store)?;
    let text = args.before.context("--before is missing")?;
    let before = moment::read(&text, zone.as_ref(), End::From)?;
    let latest = UtcMs(now.0 - YOUNGEST_MS);
    ensure!(
        before <= latest,
        "{text} is less than {} days ago: controllers may still send again what is younger than that. The latest is {}",
        YOUNGEST_MS / 86_400_000,
        view::time(latest)
    );
    let folder = args.out.unwrap_or_else(|| config.data_dir.join("segments"));
    let mut done = Done {
        dry_run: args.dry_run,
        before,
        folder,
        ranges: Vec::new(),
        archived: Vec::new(),
        kept: None,
        removed: true,
    };
    match args.dry_run {
        true => plan(&mut store, &mut done)?,
        false => carry_out(&mut store, &mut done, now)?,
    }
    match args.output.output {
        Form::Json => print_json(&done)?,
        Form::Table => print!("{}", in_words(&done)),
    }
    Ok(if done.removed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn plan(store: &mut AnyStore, done: &mut Done) -> anyhow::Result<()> {
    let mut after = Position(0);
    while let Some(range) = store.range_after(after, done.before)? {
        if !range.kept_for.is_empty() {
            done.kept = Some(range);
            break;
        }
        after = range.range.to;
        done.ranges.push(range);
    }
    Ok(())
}

fn carry_out(store: &mut AnyStore, done: &mut Done, now: UtcMs) -> anyhow::Result<()> {
    let _lock = alone(&done.folder)?;
    // What another run could not finish.
    done.removed = remove(store)?;
    let who = deed::who();
    while let Some(range) = store.range_after(Position(0), done.before)? {
        if !range.kept_for.is_empty() {
            done.kept = Some(range);
            break;
        }
        let deed = Deed { folder: &done.folder, now, by: &who };
        let bar = progress::bar("records", range.range.len());
        let archived = archive::archive(&mut **store, range.range, &deed, &mut |records| {
            if records % STEP == 0 {
                bar.set_position(records);
            }
        });
        bar.finish_and_clear();
        let segment = match archived {
            Ok(segment) => segment,
            Err(NotArchived::Changed(why)) => {
                bail!("positions {} to {} stay: {why}", range.range.from.0, range.range.to.0)
            }
            Err(error) => return Err(error.into()),
        };
        done.archived.push(Written {
            file: done.folder.join(&segment.file),
            from: segment.range.from,
            to: segment.range.to,
            taps: segment.taps,
            bytes: segment.bytes,
            sha256: HEXLOWER.encode(&segment.sha256),
        });
        done.removed = remove(store)?;
    }
    Ok(())
}

fn remove(store: &mut AnyStore) -> anyhow::Result<bool> {
    let mut tries = TRIES;
    let removed = archive::remove(&mut **store, &mut || {
        tries -= 1;
        thread::sleep(AGAIN_AFTER);
        tries > 0
    });
    removed.context("the rows of what is archived cannot be removed now: nobody sees them, and the next run goes on with it")
}

/// One run at a time writes into a folder.
fn alone(folder: &Path) -> anyhow::Result<File> {
    let doing = || format!("cannot write to {}", folder.display());
    std::fs::create_dir_all(folder).with_context(doing)?;
    let lock = File::options().create(true).append(true).open(folder.join(".lock")).with_context(doing)?;
    lock.try_lock().with_context(|| format!("another `events archive` writes to {}", folder.display()))?;
    Ok(lock)
}

fn in_words(done: &Done) -> String {
    let mut words = String::new();
    for Candidate { range, received_from, received_to, .. } in &done.ranges {
        words.push_str(&format!(
            "positions {} to {}, received {} to {}, would go\n",
            range.from.0,
            range.to.0,
            view::time(*received_from),
            view::time(*received_to)
        ));
    }
    for Written { file, from, to, taps, bytes, .. } in &done.archived {
        words.push_str(&format!(
            "positions {} to {}, {taps} taps among them: {} ({bytes} bytes)\n",
            from.0,
            to.0,
            file.display()
        ));
    }
    match &done.kept {
        Some(kept) => {
            words.push_str(&format!("positions {} to {} stay:\n", kept.range.from.0, kept.range.to.0));
            kept.kept_for.iter().for_each(|why| words.push_str(&format!("  {why}\n")));
        }
        None => words.push_str("no other range is full and old enough\n"),
    }
    if !done.removed {
        words.push_str(
            "Somebody reads what is archived, and keeps its rows from being removed; nobody else sees them. Run this again.\n",
        );
    }
    if !done.archived.is_empty() {
        words.push_str(
            "The files are all there is of these events now: keep copies of them, as of backups.\n",
        );
    }
    words
}

#[derive(Debug, Serialize)]
struct Listed {
    archived: Archived,
    segments: Vec<Segment>,
}

fn list(config: &ConfigFile, form: Form) -> anyhow::Result<ExitCode> {
    let mut store = open(config)?;
    let listed = Listed { archived: store.archived()?, segments: store.segments()? };
    if form == Form::Json {
        print_json(&listed)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = table(["from", "to", "received", "taps", "file", "archived", "by", "rows"]);
    for segment in &listed.segments {
        table.add_row([
            segment.range.from.0.to_string(),
            segment.range.to.0.to_string(),
            format!("{} to {}", view::time(segment.received_from), view::time(segment.received_to)),
            segment.taps.to_string(),
            segment.file.clone(),
            view::time(segment.made),
            segment.made_by.clone(),
            if segment.is_removed { "removed" } else { "still there" }.to_owned(),
        ]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Serialize)]
struct Shown {
    file: PathBuf,
    bytes: u64,
    sha256: String,
    store_epoch: u64,
    from: u64,
    to: u64,
    received_from: UtcMs,
    received_to: UtcMs,
    records: u64,
    taps: u64,
    attempts: u64,
    signatures: u64,
    record_keys: Vec<String>,
    made: UtcMs,
    made_by: String,
    outboxes: Vec<ShownOutbox>,
    deliveries: Vec<(String, String, u64)>,
}

#[derive(Debug, Serialize)]
struct ShownOutbox {
    controller: String,
    outbox: String,
    from: u64,
    to: u64,
    hash_before: String,
    hash_after: String,
}

fn show(file: &Path, form: Form) -> anyhow::Result<ExitCode> {
    let found = archive::verify(file).with_context(|| format!("{} does not hold", file.display()))?;
    let archive::Contents { header, end } = found.contents;
    let outboxes = end.outboxes.into_iter().map(|outbox| ShownOutbox {
        controller: outbox.controller,
        outbox: HEXLOWER.encode(&outbox.outbox),
        from: outbox.from,
        to: outbox.to,
        hash_before: HEXLOWER.encode(&outbox.hash_before),
        hash_after: HEXLOWER.encode(&outbox.hash_after),
    });
    let shown = Shown {
        file: file.to_owned(),
        bytes: found.bytes,
        sha256: HEXLOWER.encode(&found.sha256),
        store_epoch: header.store_epoch,
        from: header.from,
        to: header.to,
        received_from: UtcMs(end.received_from_ms),
        received_to: UtcMs(end.received_to_ms),
        records: end.records,
        taps: end.taps,
        attempts: end.attempts,
        signatures: found.signatures,
        record_keys: found.keys,
        made: UtcMs(header.made_ms),
        made_by: header.made_by,
        outboxes: outboxes.collect(),
        deliveries: end.deliveries,
    };
    if form == Form::Json {
        print_json(&shown)?;
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "positions {} to {}, received {} to {}: {} records, {} of them taps, under {} signatures by {} record keys: all of it holds",
        shown.from,
        shown.to,
        view::time(shown.received_from),
        view::time(shown.received_to),
        shown.records,
        shown.taps,
        shown.signatures,
        shown.record_keys.len()
    );
    println!("archived {} by {}; sha256 {}", view::time(shown.made), shown.made_by, shown.sha256);
    let mut table = table(["controller", "outbox", "from", "to", "hash before", "hash after"]);
    for outbox in &shown.outboxes {
        table.add_row([
            outbox.controller.clone(),
            outbox.outbox.clone(),
            outbox.from.to_string(),
            outbox.to.to_string(),
            outbox.hash_before.clone(),
            outbox.hash_after.clone(),
        ]);
    }
    println!("{table}");
    for (destination, state, count) in &shown.deliveries {
        println!("{destination}: {count} {state}");
    }
    Ok(ExitCode::SUCCESS)
}

/// A tap, as a line of CSV. What destinations were told comes after all taps in the file: in lines of its own.
fn export(file: &Path, out: Option<&Path>) -> anyhow::Result<ExitCode> {
    // Nothing is told of what does not hold.
    archive::verify(file).with_context(|| format!("{} does not hold", file.display()))?;
    let to: Box<dyn Write> = match out {
        Some(path) => {
            Box::new(File::create_new(path).with_context(|| format!("cannot write {}", path.display()))?)
        }
        None => Box::new(std::io::stdout().lock()),
    };
    let mut csv = csv::Writer::from_writer(to);
    csv.write_record(COLUMNS)?;
    let mut segment = archive::Segment::open(file)?;
    let (mut controller, mut destination) = (String::new(), String::new());
    while let Some(part) = segment.part()? {
        match part {
            Part::Outbox(outbox) => controller = outbox.controller,
            Part::Record(record) => {
                let Ok(Record { body: Body::Tap(tap), .. }) = Record::decode(&record.bytes) else { continue };
                let occurred = match record.time {
                    Some(Time::Known { at_ms, .. }) => view::time(UtcMs(at_ms)),
                    _ => String::new(),
                };
                csv.write_record([
                    "tap",
                    &record.position.to_string(),
                    &controller,
                    tap.reader.as_str(),
                    &tap.badge.token.to_string(),
                    &occurred,
                    &view::time(UtcMs(record.received_ms)),
                    tap.direction.name(),
                    "",
                    "",
                    "",
                    "",
                ])?;
            }
            Part::Destination(name) => destination = name,
            Part::Delivery(Delivery { position, person, state, due_ms, attempts, direction, .. }) => {
                csv.write_record([
                    "delivery",
                    &position.to_string(),
                    "",
                    "",
                    "",
                    "",
                    &view::time(UtcMs(due_ms)),
                    direction.as_deref().unwrap_or_default(),
                    &destination,
                    person.as_deref().unwrap_or_default(),
                    &state,
                    &attempts.to_string(),
                ])?;
            }
            Part::Header(_) | Part::Signature(_) | Part::Attempt(_) | Part::Difference(_) | Part::End(_) => {}
        }
    }
    csv.flush()?;
    Ok(ExitCode::SUCCESS)
}

const COLUMNS: [&str; 12] = [
    "what",
    "position",
    "controller",
    "reader",
    "badge",
    "occurred",
    "received",
    "direction",
    "destination",
    "person",
    "state",
    "attempts",
];
