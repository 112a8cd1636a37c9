//! Beside the line: brings the list of who holds which badge in. Works while the service runs: both write to one file
//! in turns, and the service notices within a second what was released.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;

use super::{ConfigFile, Form, Output, print_json};
use crate::clock::Clock;
use crate::directory::badges::read_badges;
use crate::event_store::EventStore;
use crate::event_store::sqlite::SqliteStore;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Read a CSV file with the columns badge and person
    Import {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
}

pub fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    let Verb::Import { file, config, output } = verb;
    let loaded = config.load()?;
    let secrets = loaded.secrets(config.path())?;
    let text = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let bindings = read_badges(&text, secrets.keys.token_keys())
        .map_err(|bad| anyhow::anyhow!("{}: {bad}", file.display()))?;
    let now = Clock::system().now();
    let path = loaded.database();
    std::fs::create_dir_all(&loaded.data_dir)
        .with_context(|| format!("cannot make {}", loaded.data_dir.display()))?;
    let bound = SqliteStore::open(&path, now)
        .and_then(|mut store| store.bind_badges(&bindings, now))
        .with_context(|| format!("cannot write to {}", path.display()))?;
    if output.output == Form::Json {
        print_json(&bound)?;
    } else {
        println!(
            "{} badges: {} new, {} changed, {} unchanged; {} waiting deliveries released",
            bindings.len(),
            bound.new,
            bound.changed,
            bound.unchanged,
            bound.released
        );
    }
    Ok(ExitCode::SUCCESS)
}
