//! Beside the line: `import`: files from USB sticks into the store, beside a running service, which delivers what is new
//! within a second.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::{ConfigFile, Form, Output, print_json, progress, reading};
use crate::clock::Clock;
use crate::import::{Became, Imported, Source, import};

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// What edge-agent outbox export wrote; several in any order
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    output: Output,
}

pub fn run(args: ImportArgs) -> anyhow::Result<ExitCode> {
    let mut sources = Vec::new();
    let mut bytes = 0;
    for file in &args.files {
        let doing = || format!("cannot read {}", file.display());
        let opened = File::open(file).with_context(doing)?;
        bytes += opened.metadata().with_context(doing)?.len();
        sources.push(Source { name: file.display().to_string(), bytes: Box::new(opened) });
    }
    let now = Clock::system().now();
    let mut store = reading::open_to_write(&args.config.load()?, now)?;
    let bar = progress::bar("bytes", bytes);
    let imported = import(store.as_mut(), sources, now, &mut |read| bar.inc(read));
    bar.finish_and_clear();
    let imported = imported.context("the import stopped half-way: run it again, nothing is stored twice")?;
    match args.output.output {
        Form::Json => print_json(&imported)?,
        Form::Table => show(&imported),
    }
    Ok(if imported.complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(imported: &Imported) {
    let range = |first: Option<u64>, last: Option<u64>| match (first, last) {
        (Some(first), Some(last)) if first == last => first.to_string(),
        (Some(first), Some(last)) => format!("{first}–{last}"),
        _ => String::new(),
    };
    let mut table =
        reading::table(["file", "batches", "controller", "outbox", "records", "what became of them"]);
    for row in &imported.rows {
        let became = match &row.became {
            Became::Stored => format!("stored: {} new records", row.new_records),
            Became::Known => "were there already".to_owned(),
            Became::Beyond { missing } => format!(
                "NOT STORED: record {missing} and what follows it are in none of these files and not in the store; \
                 import them first, or let the controller connect"
            ),
            Became::Refused { kind, reason } => format!("QUARANTINED ({kind}): {reason}"),
        };
        table.add_row([
            row.file.clone(),
            range(Some(row.first_batch), Some(row.last_batch)),
            row.controller.as_ref().map_or("?".into(), ToString::to_string),
            row.outbox.map_or("?".into(), |outbox| outbox.to_string()),
            range(row.first_seq, row.last_seq),
            became,
        ]);
    }
    println!("{table}");
    imported.damaged.iter().for_each(|problem| println!("{problem}"));
    println!("{} new records, {} that were there already", imported.new_records, imported.known_records);
    if !imported.complete {
        println!(
            "NOT COMPLETE: {} batches wait for others, {} are quarantined, {} files cannot be read to their end",
            imported.beyond,
            imported.refused,
            imported.damaged.len()
        );
    }
}
