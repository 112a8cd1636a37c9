//! Beside the line: the verbs that decide about controllers: what they are called, and whether they are trusted. The
//! running service notices within seconds.

use std::process::ExitCode;

use anyhow::{bail, ensure};
use clap::Args;
use tap_protocol::command::Order;
use tap_protocol::ids::ControllerId;

use super::deed::{Why, deed};
use super::reading::{open, open_to_write, table};
use super::{ConfigFile, Form, Output, print_json};
use crate::api::view;
use crate::clock::Clock;
use crate::config::Config;
use crate::event_store::place::AnyStore;
use crate::event_store::{Standing, UtcMs};

#[derive(Debug, Args)]
pub struct Rename {
    /// The controller
    id: ControllerId,
    /// What people call it from now on
    #[arg(long, required_unless_present = "site")]
    label: Option<String>,
    /// Where it hangs from now on
    #[arg(long)]
    site: Option<String>,
    #[command(flatten)]
    config: ConfigFile,
}

#[derive(Debug, Args)]
pub struct OutOfTrust {
    /// The controller
    id: ControllerId,
    /// Why, for the log and for whoever asks
    #[arg(long)]
    reason: String,
    /// Do it; without this it is only told what would happen
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    config: ConfigFile,
}

#[derive(Debug, Args)]
pub struct Log {
    /// At most so many, the newest first
    #[arg(long, default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    output: Output,
}

pub fn rename(args: Rename) -> anyhow::Result<ExitCode> {
    let Rename { id, label, site, config } = args;
    let loaded = config.load()?;
    ensure!(
        loaded.controllers.iter().all(|written| written.id != id),
        "{id} stands in the configuration: change it there"
    );
    let (mut store, now) = writer(&loaded)?;
    for site in loaded.sites() {
        store.put_site(&site)?;
    }
    let said = [label.as_deref(), site.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(", ");
    store.rename(&id, label.as_deref(), site.as_deref(), &deed(now, "rename", id.as_str(), Why(said)))?;
    println!("{id} is renamed; at the door it is seen with its next renewal");
    Ok(ExitCode::SUCCESS)
}

pub fn retire(args: OutOfTrust) -> anyhow::Result<ExitCode> {
    let would = "it gets no certificate any more and leaves the broker when its present one ends; what it still sends is \
                 taken";
    out_of_trust(args, Standing::Retired, "retire", would)
}

pub fn revoke(args: OutOfTrust) -> anyhow::Result<ExitCode> {
    let would = "its session at the broker is ended, its certificates are good for nothing, and records that it had not \
                 spoken of by now are put aside; to trust it again, enrol it with a new token";
    out_of_trust(args, Standing::Revoked, "revoke", would)
}

fn out_of_trust(args: OutOfTrust, standing: Standing, what: &str, would: &str) -> anyhow::Result<ExitCode> {
    let OutOfTrust { id, reason, yes, config } = args;
    let (mut store, now) = writer(&config.load()?)?;
    let Some(member) = store.member(&id)? else { bail!("there is no controller {id}") };
    let name = &member.controller.label;
    if member.standing == Standing::Revoked {
        bail!("{id} ({name}) is revoked already; to trust it again, enrol it with a new token");
    }
    if !yes {
        println!("{id} ({name}) would be {}: {would}", standing.name());
        println!("nothing was changed; say --yes to do it");
        return Ok(ExitCode::SUCCESS);
    }
    store.set_standing(&id, standing, &deed(now, what, id.as_str(), Why(reason.clone())))?;
    if standing == Standing::Revoked {
        store.queue_command(&id, &Order::Revoke, &reason, now)?;
    }
    println!("{id} ({name}) is {}: {would}", standing.name());
    Ok(ExitCode::SUCCESS)
}

pub fn waive(args: OutOfTrust) -> anyhow::Result<ExitCode> {
    let OutOfTrust { id, reason, yes, config } = args;
    let (mut store, now) = writer(&config.load()?)?;
    let Some(member) = store.member(&id)? else { bail!("there is no controller {id}") };
    let name = &member.controller.label;
    if !yes {
        println!(
            "{id} ({name}): taps that may be left on disks that it names no more would be waited for by nobody; should they \
             come after all, they are stored and delivered late"
        );
        println!("nothing was changed; say --yes to do it");
        return Ok(ExitCode::SUCCESS);
    }
    match store.waive(&id, &deed(now, "waive", id.as_str(), Why(reason)))? {
        0 => println!("{id} ({name}) has named every disk that may hold something: nothing is waived"),
        outboxes => println!(
            "{id} ({name}): nobody waits for the rest of {outboxes} outbox(es) any more, from its next hello on"
        ),
    }
    Ok(ExitCode::SUCCESS)
}

pub fn log(args: Log) -> anyhow::Result<ExitCode> {
    let deeds = open(&args.config)?.deeds(args.limit)?;
    if args.output.output == Form::Json {
        print_json(&deeds)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = table(["when", "who", "what", "about", "why"]);
    for deed in deeds {
        table.add_row([view::time(deed.at), deed.who, deed.what, deed.about, deed.why]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}

fn writer(loaded: &Config) -> anyhow::Result<(AnyStore, UtcMs)> {
    let now = Clock::system().now();
    Ok((open_to_write(loaded, now)?, now))
}
