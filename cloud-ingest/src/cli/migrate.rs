//! Beside the line: `store migrate`: brings the store up to date, or says what that would do. See `docs/upgrade.md`.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use super::{ConfigFile, Form, Output, print_json, reading};
use crate::clock::Clock;
use crate::config::Config;
use crate::event_store::migrations::{Lock, Migrated, Plan, Step, list, sentence};
use crate::event_store::place::Place;
use crate::lock;

#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    output: Output,
}

/// What was there, and what is there now.
#[derive(Debug, Serialize)]
struct Done {
    plan: Plan,
    migrated: Migrated,
}

pub fn run(args: MigrateArgs) -> anyhow::Result<ExitCode> {
    let loaded = args.config.load()?;
    let place = reading::existing(&loaded)?;
    let plan = place.plan().with_context(|| format!("cannot read {place}"))?;
    let form = args.output.output;
    if args.dry_run {
        match form {
            Form::Json => print_json(&plan)?,
            Form::Table => println!("{}", in_words(&plan, &place)),
        }
        return Ok(ExitCode::SUCCESS);
    }
    if plan.from >= plan.to {
        return told_at_the_end(plan, form, &place);
    }
    // In a file nobody can write beside us; on a server others go on.
    let _lock = alone(&loaded, &place)?;
    if !plan.too_old.is_empty() {
        bail!(
            "programs that know only older versions are connected and would not notice: stop them first ({})",
            list(&plan.too_old)
        );
    }
    let migrated = place
        .migrate(Clock::system().now(), &mut |told| eprintln!("{}", sentence(&told)))
        .with_context(|| format!("cannot bring {place} up to date; it is as it was before the last step"))?;
    match form {
        Form::Json => print_json(&Done { plan, migrated })?,
        Form::Table => println!(
            "{place} has schema version {} now; it had {}. Start the services again.",
            migrated.to, migrated.from
        ),
    }
    Ok(ExitCode::SUCCESS)
}

fn told_at_the_end(plan: Plan, form: Form, place: &Place) -> anyhow::Result<ExitCode> {
    let migrated = Migrated { from: plan.from, to: plan.from };
    match form {
        Form::Json => print_json(&Done { plan, migrated })?,
        Form::Table => println!("{}", in_words(&plan, place)),
    }
    Ok(ExitCode::SUCCESS)
}

fn alone(config: &Config, place: &Place) -> anyhow::Result<Option<lock::Lock>> {
    Ok(match place {
        Place::File(_) => Some(lock::take(&config.data_dir)?),
        Place::Server(_) => None,
    })
}

fn in_words(plan: &Plan, place: &Place) -> String {
    if plan.from >= plan.to {
        return format!(
            "{place} has schema version {}, and this program needs {}: nothing is to be done",
            plan.from, plan.to
        );
    }
    let mut words = format!("{place} has schema version {}, and this program needs {}\n", plan.from, plan.to);
    for planned in &plan.versions {
        let mut table = reading::table(["what is done", "table", "what it keeps back meanwhile", "rows"]);
        for Step { does, table: about, lock, rows } in &planned.steps {
            let rows = rows.map_or(String::new(), |rows| rows.to_string());
            table.add_row([does.as_str(), about.as_deref().unwrap_or(""), keeps_back(lock), &rows]);
        }
        words.push_str(&format!(
            "\nversion {}, {}: about {} s, in one transaction in which nothing else is stored. Programs of version {} and \
             later may go on beside it.\n{table}\n",
            planned.version, planned.name, planned.about_s, planned.oldest_program
        ));
    }
    if !plan.too_old.is_empty() {
        words.push_str(&format!("\nTo be stopped first: {}\n", list(&plan.too_old)));
    }
    if !plan.may {
        words.push_str("\nThis role may not change tables: use the owner's [store] url.\n");
    }
    words.push_str("\nMake a backup, then: cloud-ingest store migrate");
    words
}

fn keeps_back(lock: &Lock) -> &'static str {
    match lock {
        Lock::Nothing => "nobody",
        Lock::Moment => "everybody, from this table, for a moment",
        Lock::Writers => "writers, for as long as its rows take",
        Lock::Reads => "nobody, for as long as its rows take",
        Lock::Several => "everybody, from several tables, for a moment",
        Lock::Unknown => "not known: read the script",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_what_is_done_and_what_to_do() {
        let place = Place::File("/var/lib/store.db".into());
        let plan = Plan::new(1, |migration| vec![migration.sqlite], &|_| 400_000);
        let words = in_words(&plan, &place);
        for part in [
            "/var/lib/store.db has schema version 1",
            "everybody, from this table",
            "cloud-ingest store migrate",
        ] {
            assert!(words.contains(part), "{words}");
        }
        let done = Plan { from: plan.to, versions: vec![], ..plan };
        assert!(in_words(&done, &place).ends_with("nothing is to be done"));
    }
}
