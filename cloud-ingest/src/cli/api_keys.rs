//! Beside the line: the verbs of API keys: who may bring taps over HTTP.

use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;
use tap_protocol::ids::ControllerId;

use super::deed::{Why, deed};
use super::reading::{open, open_or_make, table};
use super::{ConfigFile, Form, Output, print_json};
use crate::api::view;
use crate::capture::key::{ApiKey, id_of, prefix};
use crate::clock::Clock;
use crate::event_store::UtcMs;
use crate::event_store::capture::{ApiKeyState, NewApiKey, Source};
use crate::keyring::random;

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// A key that is good for longer is one that nobody remembers.
const MAX_DAYS: u16 = 3_650;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make an API key for a source of taps; it is shown once
    Create(Create),
    /// All API keys, whose they are, and when each was last used; never their secrets
    List {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
    /// Take an API key back
    Revoke {
        /// Its prefix, as `list` shows it
        prefix: String,
        /// Why, for the log
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        config: ConfigFile,
    },
}

#[derive(Debug, Args)]
pub struct Create {
    /// Whose taps it brings: a name for life, such as api-kiosk-1, that no door has
    #[arg(long)]
    source: ControllerId,
    /// One of the configured sites
    #[arg(long)]
    site: String,
    /// What people call the source
    #[arg(long)]
    label: String,
    /// After how many days it ends; never if not given
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_DAYS)))]
    days: Option<u16>,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    output: Output,
}

pub fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Create(args) => create(args)?,
        Verb::List { config, output } => list(&config, output.output)?,
        Verb::Revoke { prefix, reason, config } => revoke(&prefix, reason, &config)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A key as it is shown, this once.
#[derive(Debug, Serialize)]
struct Made {
    source: ControllerId,
    prefix: String,
    key: String,
    expires: Option<String>,
}

fn create(args: Create) -> anyhow::Result<()> {
    let Create { source, site, label, days, config, output } = args;
    let loaded = config.load()?;
    ensure!(
        loaded.controllers.iter().all(|controller| controller.id != source),
        "{source} is a door controller: give the source another name"
    );
    let now = Clock::system().now();
    let key = ApiKey::new(random()?, random()?);
    let expires = days.map(|days| UtcMs(now.0 + i64::from(days) * DAY_MS));
    let new = NewApiKey { id: key.id, secret_sha256: key.secret_sha256(), source: source.clone(), expires };
    let about = format!("{source} {}", prefix(&key.id));
    let mut store = open_or_make(&loaded, now)?;
    // The configuration may have been changed since the service started.
    for site in loaded.sites() {
        store.put_site(&site)?;
    }
    store
        .put_api_key(
            &new,
            &Source { id: source.clone(), label, site },
            &deed(now, "create_api_key", &about, Why(String::new())),
        )
        .context("no API key was made")??;
    let made = Made { source, prefix: prefix(&key.id), key: key.reveal(), expires: expires.map(view::time) };
    if output.output == Form::Json {
        return print_json(&made);
    }
    println!("{}", made.key);
    println!(
        "for {}, {}; send it as `Authorization: Bearer KEY`. It is not shown again.",
        made.source,
        made.expires.map_or("without an end".into(), |expires| format!("until {expires}"))
    );
    if loaded.capture.is_none() {
        println!("the configuration has no [capture]: nobody listens for taps yet");
    }
    Ok(())
}

/// A key's line, without its secret.
#[derive(Debug, Serialize)]
struct Row {
    prefix: String,
    source: ControllerId,
    label: String,
    site: String,
    state: &'static str,
    created: String,
    expires: Option<String>,
    /// To the hour.
    last_used: Option<String>,
    revoked: Option<String>,
}

impl Row {
    fn of(state: &ApiKeyState, sources: &[Source], now: UtcMs) -> Row {
        let source = sources.iter().find(|source| source.id == state.key.source);
        let word = match state {
            ApiKeyState { revoked: Some(_), .. } => "revoked",
            ApiKeyState { key: NewApiKey { expires: Some(expires), .. }, .. } if *expires <= now => "expired",
            ApiKeyState { .. } => "good",
        };
        Row {
            prefix: prefix(&state.key.id),
            source: state.key.source.clone(),
            label: source.map(|source| source.label.clone()).unwrap_or_default(),
            site: source.map(|source| source.site.clone()).unwrap_or_default(),
            state: word,
            created: view::time(state.created),
            expires: state.key.expires.map(view::time),
            last_used: state.last_used.map(view::time),
            revoked: state.revoked.map(view::time),
        }
    }
}

fn list(config: &ConfigFile, form: Form) -> anyhow::Result<()> {
    let now = Clock::system().now();
    let mut store = open(config)?;
    let (keys, sources) = (store.api_keys()?, store.capture_sources()?);
    let rows: Vec<Row> = keys.iter().map(|state| Row::of(state, &sources, now)).collect();
    if form == Form::Json {
        return print_json(&rows);
    }
    let mut table = table(["key", "source", "label", "site", "state", "created", "expires", "last used"]);
    for row in rows {
        let (source, expires) = (row.source.to_string(), row.expires.unwrap_or_else(|| "never".into()));
        let last_used = row.last_used.unwrap_or_else(|| "never".into());
        let prefix = format!("tl_{}_…", row.prefix);
        table.add_row([
            prefix,
            source,
            row.label,
            row.site,
            row.state.into(),
            row.created,
            expires,
            last_used,
        ]);
    }
    println!("{table}");
    Ok(())
}

fn revoke(given: &str, reason: String, config: &ConfigFile) -> anyhow::Result<()> {
    // Whoever pastes more than the prefix means the same.
    let text = given.strip_prefix("tl_").unwrap_or(given).split('_').next().unwrap_or_default();
    let id = id_of(text).with_context(|| "that is no API key's prefix: see `api-keys list`")?;
    let now = Clock::system().now();
    let mut store = open_or_make(&config.load()?, now)?;
    let taken = store.revoke_api_key(id, &deed(now, "revoke_api_key", text, Why(reason)))?;
    ensure!(taken, "there is no API key {text}, or it was revoked before");
    println!("API key {text} brings no taps any more; the running service notices within seconds");
    Ok(())
}
