//! Beside the line: `controllers proof`: a file for somebody who believes nobody. What is in it is
//! [`crate::read_model::proof`]'s.

use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, bail, ensure};
use clap::Args;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;
use tap_protocol::ids::{ControllerId, OutboxId, Seq};

use super::{ConfigFile, Form, Output, print_json, reading};
use crate::archive;
use crate::clock::Clock;
use crate::event_store::place::AnyStore;
use crate::event_store::{UtcMs, Walked};
use crate::read_model::proof::{Choosing, Wanted, Writing};

#[derive(Debug, Args)]
pub struct ProofArgs {
    /// Whose records
    id: ControllerId,
    /// The file; it must not be there yet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// From this record, or from this day at the controller's site (2026-11-21); all if not given
    #[arg(long, value_name = "SEQ|DAY")]
    from: Option<Bound>,
    /// Up to this record or day, included
    #[arg(long, value_name = "SEQ|DAY")]
    to: Option<Bound>,
    /// Only of this outbox
    #[arg(long)]
    outbox: Option<OutboxId>,
    /// Of records that are archived in this file; else of those in the store
    #[arg(long, value_name = "FILE")]
    segment: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    output: Output,
}

/// One end of what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Seq(Seq),
    Day(Date),
}

impl FromStr for Bound {
    type Err = String;

    fn from_str(given: &str) -> Result<Bound, String> {
        let seq = given.parse().ok().filter(|seq| *seq > 0).map(|seq| Bound::Seq(Seq(seq)));
        seq.or_else(|| given.parse().ok().map(Bound::Day))
            .ok_or_else(|| "write a record's number, or a day like 2026-11-21".into())
    }
}

#[derive(Debug, Serialize)]
struct Written {
    file: PathBuf,
    receipt_key: String,
    record_keys: Vec<String>,
    outboxes: Vec<WrittenOutbox>,
}

#[derive(Debug, Serialize)]
struct WrittenOutbox {
    outbox: OutboxId,
    from: Seq,
    to: Seq,
}

pub fn proof(args: ProofArgs) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?;
    let receipt_key = config.secrets(args.config.path())?.keys.receipt();
    let mut store = reading::open(&args.config)?;
    let Some(controller) = store.controller(&args.id)? else {
        bail!("the store knows no controller {}", args.id);
    };
    let sites = store.sites()?;
    let zone = sites.iter().find(|site| site.id == controller.site).map(|site| TimeZone::get(&site.zone));
    let zone = zone.transpose()?.unwrap_or(TimeZone::UTC);
    let mut choosing = Choosing::new(wanted(args.from, args.to, &zone)?, args.outbox);
    walk(&mut store, &args, &mut |walked| choosing.take(&walked))?;
    let chosen = choosing.end();
    let archived = if args.segment.is_none() && store.archived()?.records > 0 {
        "; some are archived: see `events archive list`, and give --segment FILE"
    } else {
        ""
    };
    ensure!(!chosen.is_empty(), "{} has no such records here{archived}: nothing was written", args.id);

    let doing = || format!("cannot write {}", args.out.display());
    let mut file = File::create_new(&args.out).with_context(doing)?;
    let epoch = store.store_epoch()?;
    let mut writing = Writing::new(chosen, &receipt_key, epoch, Clock::system().now());
    let mut wrote = Ok(());
    let walked = walk(&mut store, &args, &mut |walked| {
        let went_on = writing.take(walked);
        wrote = file.write_all(&writing.take_bytes());
        if wrote.is_ok() { went_on } else { ControlFlow::Break(()) }
    });
    let proved = walked.and_then(|()| {
        wrote.with_context(doing)?;
        let end = writing.end()?;
        file.write_all(&end.last_bytes).and_then(|()| file.sync_all()).with_context(doing)?;
        Ok(end)
    });
    let end = match proved {
        Ok(end) => end,
        Err(error) => {
            // Half a proof is none.
            let _ = std::fs::remove_file(&args.out);
            return Err(error);
        }
    };
    let written = Written {
        file: args.out,
        receipt_key: receipt_key.public().to_string(),
        record_keys: end.signers.iter().map(ToString::to_string).collect(),
        outboxes: end
            .proved
            .into_iter()
            .map(|proved| WrittenOutbox { outbox: proved.outbox, from: proved.from, to: proved.to })
            .collect(),
    };
    match args.output.output {
        Form::Json => print_json(&written)?,
        Form::Table => show(&written),
    }
    Ok(ExitCode::SUCCESS)
}

/// Over the store, or over the file of a segment that holds.
fn walk(
    store: &mut AnyStore,
    args: &ProofArgs,
    told: &mut dyn FnMut(Walked<'_>) -> ControlFlow<()>,
) -> anyhow::Result<()> {
    match &args.segment {
        None => Ok(store.walk(Some(&args.id), told)?),
        Some(file) => archive::walk(file, Some(&args.id), told)
            .with_context(|| format!("{} cannot be read", file.display())),
    }
}

fn show(written: &Written) {
    for WrittenOutbox { outbox, from, to } in &written.outboxes {
        println!("outbox {outbox}: records {from} to {to}");
    }
    let keys: String = written.record_keys.iter().map(|key| format!(" --record-key {key}")).collect();
    println!(
        "Whoever gets it checks it with (the keys from somebody they believe, not from this file's sender):\n\
         verify_proof.py {}{keys} --receipt-key {}",
        written.file.display(),
        written.receipt_key
    );
}

fn wanted(from: Option<Bound>, to: Option<Bound>, zone: &TimeZone) -> anyhow::Result<Wanted> {
    let begin = |day: Date| -> anyhow::Result<UtcMs> {
        Ok(UtcMs(day.to_zoned(zone.clone())?.timestamp().as_millisecond()))
    };
    Ok(match (from, to) {
        (None, None) => Wanted::All,
        (Some(Bound::Seq(from)), Some(Bound::Seq(to))) => Wanted::Seqs(from, to),
        (Some(Bound::Seq(from)), None) => Wanted::Seqs(from, Seq(u64::MAX)),
        (None, Some(Bound::Seq(to))) => Wanted::Seqs(Seq(1), to),
        (Some(Bound::Day(from)), Some(Bound::Day(to))) => Wanted::Time(begin(from)?..begin(to.tomorrow()?)?),
        (Some(Bound::Day(from)), None) => Wanted::Time(begin(from)?..UtcMs(i64::MAX)),
        (None, Some(Bound::Day(to))) => Wanted::Time(UtcMs(i64::MIN)..begin(to.tomorrow()?)?),
        (Some(_), Some(_)) => bail!("--from and --to are two records or two days"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_and_days_are_told_apart_and_a_day_is_the_sites() {
        assert_eq!("12".parse(), Ok(Bound::Seq(Seq(12))));
        let day: Bound = "2026-11-21".parse().unwrap();
        assert!("0".parse::<Bound>().is_err() && "yesterday".parse::<Bound>().is_err());
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let Wanted::Time(time) = wanted(Some(day), Some(day), &zone).unwrap() else { panic!("a day") };
        assert_eq!((time.start, time.end.0 - time.start.0), (UtcMs(1_795_215_600_000), 24 * 3_600_000));
        assert!(wanted(Some(day), Some(Bound::Seq(Seq(1))), &zone).is_err());
    }
}
