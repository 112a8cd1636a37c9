//! Beside the line: the verbs about one controller: what is wrong with it, and what it is told to do. Commands are written to
//! the store beside a running service, which sends them with the controller's next hello, within a minute.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use tap_protocol::command::Order;
use tap_protocol::ids::ControllerId;

use super::reading::{open, open_to_write, table};
use super::{ConfigFile, Form, Output, print_json};
use crate::api::view;
use crate::clock::Clock;
use crate::event_store::commands::{CommandRow, order_text, outcome_name};
use crate::read_model::controller;

#[derive(Debug, Args)]
pub struct One {
    /// Its id
    id: ControllerId,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub struct Told {
    /// Its id
    id: ControllerId,
    #[command(flatten)]
    config: ConfigFile,
}

pub fn get(One { id, config, output }: One) -> anyhow::Result<ExitCode> {
    let Some(known) = controller::of(open(&config)?.as_mut(), &id)? else {
        bail!("no controller is called {id}")
    };
    let now = Clock::system().now();
    if output.output == Form::Json {
        print_json(&view::ControllerDetail::of(&known, now))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut words = table(["what", "how it is"]);
    for (what, how) in view::Controller::of(&known.state, now).with_trust(&known.member).in_words() {
        words.add_row([what.to_owned(), how]);
    }
    println!("{words}");
    for trouble in &known.troubles {
        let outbox = trouble.outbox.map(|outbox| format!(" in outbox {outbox}")).unwrap_or_default();
        let at = trouble.at.map(|at| format!(", first at record {at}")).unwrap_or_default();
        println!(
            "{}{outbox}{at}, {} times, last {}: {}",
            trouble.kind.name(),
            trouble.count,
            view::time(trouble.last),
            trouble.kind.explain()
        );
    }
    print_commands(&known.commands);
    Ok(ExitCode::SUCCESS)
}

pub fn list(One { id, config, output }: One) -> anyhow::Result<ExitCode> {
    let mut store = open(&config)?;
    if store.controller(&id)?.is_none() {
        bail!("no controller is called {id}");
    }
    let commands = store.commands(&id)?;
    match output.output {
        Form::Json => print_json(&commands.iter().map(view::CommandView::of).collect::<Vec<_>>())?,
        Form::Table => print_commands(&commands),
    }
    Ok(ExitCode::SUCCESS)
}

pub fn check(Told { id, config }: Told) -> anyhow::Result<ExitCode> {
    let now = Clock::system().now();
    let mut store = open_to_write(&config.load()?, now)?;
    let number =
        store.queue_command(&id, &Order::RunChecks, "somebody asked for it on the command line", now)?;
    println!(
        "command {number} goes to {id} with its next hello; see `cloud-ingest controllers commands {id}` for what came of it"
    );
    Ok(ExitCode::SUCCESS)
}

fn print_commands(commands: &[CommandRow]) {
    let mut table = table(["command", "order", "issued", "outcome", "what came of it"]);
    for row in commands {
        let (outcome, detail) = match &row.end {
            Some(end) => (outcome_name(end.outcome), end.detail.as_str()),
            None => ("open", ""),
        };
        let detail = if detail.is_empty() { row.why.as_str() } else { detail };
        table.add_row([
            row.number.to_string(),
            order_text(&row.order),
            view::time(row.issued),
            outcome.to_owned(),
            detail.to_owned(),
        ]);
    }
    println!("{table}");
}
