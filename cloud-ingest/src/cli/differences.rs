//! Beside the line: the verb that lists what destinations were told and came out otherwise later. Nothing is changed at the
//! destination by that: somebody has to correct it there, or send a correction.

use std::process::ExitCode;

use clap::Args;

use super::reading::{open, table};
use super::{ConfigFile, Form, Output, print_json};
use crate::api::filter::MAX_LIMIT;
use crate::api::view;
use crate::event_store::Position;
use crate::event_store::people::DifferenceFilter;

#[derive(Debug, Args)]
pub struct Differences {
    /// Only of taps that were stored before this position
    #[arg(long)]
    before: Option<u64>,
    /// Those of at most so many taps
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=MAX_LIMIT as i64))]
    limit: u16,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    output: Output,
}

pub fn list(args: Differences) -> anyhow::Result<ExitCode> {
    let limit = usize::from(args.limit);
    let filter = DifferenceFilter { before: args.before.map(Position), limit };
    let found = open(&args.config)?.differences(&filter)?;
    let page = view::Differences::of(&found, limit);
    if args.output.output == Form::Json {
        print_json(&page)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table =
        table(["position", "tap at", "controller", "destination", "what", "was told", "is", "event id"]);
    for one in page.differences {
        table.add_row(one.in_words());
    }
    println!("{table}");
    if let Some(Position(next)) = page.next_before {
        println!("there may be more: --before {next}");
    }
    Ok(ExitCode::SUCCESS)
}
