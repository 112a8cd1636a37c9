//! `./dev sim`: runs seeds, says what they exercised, and stops at the first broken promise. Knows how to show a run;
//! nothing of what happens in it.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use indicatif::{ProgressBar, ProgressStyle};
use sim::{Bait, Outcome, Run, Tally, run};

/// The deterministic simulation: everything that can break, in every order that the seeds know.
#[derive(Debug, Parser)]
#[command(name = "sim", version)]
struct Arguments {
    /// Replays one seed and prints its trace.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// How many seeds to run.
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Prints the trace of every seed.
    #[arg(long)]
    trace: bool,
    /// Plants a bug, to see it caught: its name, such as MarkOnPuback.
    #[arg(long, value_parser = parse_bait)]
    bait: Option<Bait>,
    /// How to say what was exercised.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// One JSON object.
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (from, count) = match arguments.seed {
        Some(seed) => (seed, 1),
        None => (arguments.from, arguments.seeds),
    };
    let print = arguments.seed.is_some() || arguments.trace;
    let bar = progress_bar(count, print);
    let mut total = Tally::default();
    for seed in from..from.saturating_add(count) {
        let outcome = run(Run { seed, bait: arguments.bait, print });
        if outcome.violation.is_some() {
            bar.abandon();
            say_violation(&outcome, print);
            return ExitCode::FAILURE;
        }
        total.take_in(&outcome.tally);
        total.add("seeds", 1);
        total.add("steps", outcome.steps);
        total.add("virtual minutes", outcome.virtual_ms / 60_000);
        bar.inc(1);
    }
    bar.finish_and_clear();
    match arguments.output {
        Output::Table => println!("{}", table(&total)),
        Output::Json => {
            let counts: serde_json::Map<_, _> =
                total.iter().map(|(what, n)| (what.to_owned(), n.into())).collect();
            println!("{}", serde_json::Value::from(counts));
        }
    }
    ExitCode::SUCCESS
}

/// On a terminal only: a log is no place for a bar.
fn progress_bar(count: u64, print: bool) -> ProgressBar {
    if print || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds  {per_sec}  {eta} left");
    ProgressBar::new(count).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn say_violation(outcome: &Outcome, printed: bool) {
    let Some(violation) = &outcome.violation else { return };
    if !printed {
        violation.tail.iter().for_each(|line| eprintln!("{line}"));
    }
    let (at_s, broken) = (violation.at_ms as f64 / 1000.0, &violation.broken);
    eprintln!("\nseed {} breaks {} in step {} at {at_s:.3} s:", outcome.seed, broken.promise, violation.step);
    eprintln!("  {}", broken.what);
    eprintln!("\nreplay it with: ./dev sim --seed {}", outcome.seed);
}

fn table(total: &Tally) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(["what was exercised", "how often"]);
    for (what, n) in total.iter() {
        table.add_row([what.to_owned(), n.to_string()]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn parse_bait(text: &str) -> Result<Bait, String> {
    let names = || Bait::ALL.map(|bait| bait.to_string()).join(", ");
    Bait::ALL
        .into_iter()
        .find(|bait| bait.to_string().eq_ignore_ascii_case(text))
        .ok_or_else(|| format!("one of {}", names()))
}
