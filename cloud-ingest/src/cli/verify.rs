//! Beside the line: `events verify`: walks the store's file beside a running service and says whether everything holds.
//! What holding means is [`crate::read_model::audit`]'s.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::Args;
use data_encoding::HEXLOWER;
use tap_protocol::ids::ControllerId;

use super::{ConfigFile, Form, Output, print_json, progress, reading};
use crate::archive;
use crate::event_store::archive::Segment;
use crate::read_model::audit::{Audit, Audited, Finding};
use crate::telemetry::with_causes;

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Only this controller's
    #[arg(long)]
    controller: Option<ControllerId>,
    /// Also the files of what is archived, in this folder
    #[arg(long, value_name = "FOLDER", conflicts_with = "controller")]
    segments: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    output: Output,
}

/// The bar moves once in so many records.
const STEP: u64 = 4_096;

pub fn verify(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let mut store = reading::open(&args.config)?;
    if let Some(id) = &args.controller
        && store.controller(id)?.is_none()
    {
        bail!("the store knows no controller {id}");
    }
    let mut audit = Audit::default();
    let bar = progress::bar("records", 0);
    let walked = store.walk(args.controller.as_ref(), &mut |walked| {
        let went_on = audit.take(walked);
        let (at, of) = audit.progress();
        if at % STEP == 0 {
            bar.set_length(of);
            bar.set_position(at);
        }
        went_on
    });
    bar.finish_and_clear();
    walked.context("the store cannot be walked to its end")?;
    let mut audited = audit.end();
    if let Some(folder) = &args.segments {
        let segments = store.segments()?;
        let bar = progress::bar("segments", segments.len() as u64);
        for segment in &segments {
            match beside(folder, segment) {
                Ok((records, signatures)) => {
                    (audited.records, audited.signatures) =
                        (audited.records + records, audited.signatures + signatures);
                }
                Err(error) => audited.also(format!("{}: {}", segment.file, with_causes(error.as_ref()))),
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
    }
    match args.output.output {
        Form::Json => print_json(&audited)?,
        Form::Table => print!("{}", in_words(&audited)),
    }
    Ok(if audited.holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Records and signatures of a segment's file that holds, and is the one that the store knows of.
fn beside(folder: &Path, segment: &Segment) -> anyhow::Result<(u64, u64)> {
    let found = archive::verify(&folder.join(&segment.file))?;
    ensure!(
        HEXLOWER.encode(&found.sha256) == segment.sha256,
        "it holds, and is not the file that the store's events went to"
    );
    let end = &found.contents.end;
    let are_the_same = end.outboxes.len() == segment.outboxes.len()
        && end.outboxes.iter().zip(&segment.outboxes).all(|(file, store)| {
            (file.outbox, file.from, file.to) == (store.outbox.0, store.from.0, store.to.0)
                && (file.hash_before, file.hash_after) == (store.hash_before.0, store.hash_after.0)
        });
    ensure!(are_the_same, "its hashes are not those that the store has of it");
    Ok((end.records, found.signatures))
}

fn in_words(audited: &Audited) -> String {
    let Audited { outboxes, records, signatures, keys, found, .. } = audited;
    let walked = format!(
        "{records} records of {outboxes} outboxes, under {signatures} signatures by {} record keys",
        keys.len()
    );
    if audited.holds {
        return format!(
            "{walked}: all of it holds.\nEach record stands at its place in its outbox's chain, and its controller signed it.\n"
        );
    }
    let mut words = format!("{walked}: {found} PLACES DO NOT HOLD\n");
    audited.findings.iter().for_each(|finding| words.push_str(&line(finding)));
    if *found > audited.findings.len() as u64 {
        words.push_str(&format!("… and {} more\n", found - audited.findings.len() as u64));
    }
    words.push_str(
        "The store's file was changed or damaged. Keep it as it is, put the newest backup that holds back, and run\n\
         `cloud-ingest store restored`: see docs/backup.md.\n",
    );
    words
}

fn line(finding: &Finding) -> String {
    let controller = finding.controller.as_ref().map(|id| format!("{id}, "));
    let outbox = finding.outbox.map(|id| format!("outbox {id}, "));
    let record = finding.seq.map(|seq| format!("record {seq}: "));
    let place: String = [controller, outbox, record].into_iter().flatten().collect();
    format!("{place}{}\n", finding.what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_what_holds_or_where_it_does_not() {
        let whole = Audited { holds: true, outboxes: 2, records: 9, signatures: 3, ..Audited::default() };
        assert!(
            in_words(&whole).starts_with("9 records of 2 outboxes, under 3 signatures by 0 record keys: all")
        );
        let finding = Finding {
            controller: Some("door-1".parse().unwrap()),
            outbox: None,
            seq: Some(7),
            what: "it is wrong".into(),
        };
        let broken = Audited { found: 3, findings: vec![finding], ..Audited::default() };
        let words = in_words(&broken);
        assert!(words.contains("door-1, record 7: it is wrong\n… and 2 more\n"), "{words}");
    }
}
