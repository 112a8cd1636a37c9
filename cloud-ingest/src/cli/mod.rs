//! Beside the line: the command line. Every verb is a thin call into the library.
//!
//! Exit codes: 0 done, 1 failed (or, for `ledger`, out of balance), 2 wrong usage, 78 wrong configuration.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::config::{Config, ConfigError, EXIT_CONFIG};
use crate::roles::{Role, Roles};
use crate::telemetry::with_causes;

mod api_keys;
mod archive;
mod assign;
mod badges;
mod ca;
mod commands;
mod deed;
mod destinations;
mod differences;
mod dlq;
mod enroll_token;
mod fleet;
mod import;
mod keys;
mod logging;
mod members;
mod migrate;
mod printed;
mod progress;
mod proof;
mod reading;
mod replay;
mod sites;
mod store;
mod tap_list;
mod verify;

#[derive(Debug, Parser)]
#[command(name = "cloud-ingest", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the service: take taps in, store them, deliver them
    Serve {
        #[command(flatten)]
        config: ConfigFile,
        /// Do only this part of the work, with other processes on the same PostgreSQL doing the rest
        #[arg(long, value_delimiter = ',', default_value = "all")]
        role: Vec<Role>,
        /// Log more
        #[arg(short, long)]
        verbose: bool,
    },
    /// Make keys, and let one take over from another
    #[command(subcommand)]
    Keys(keys::Verb),
    /// Vouch for controllers and servers
    #[command(subcommand)]
    Ca(ca::Verb),
    /// Say who may bring taps over HTTP
    #[command(subcommand)]
    ApiKeys(api_keys::Verb),
    /// Say where taps are delivered to
    #[command(subcommand)]
    Destinations(destinations::Verb),
    /// Look at deliveries that wait for a person, and decide about them
    #[command(subcommand)]
    Dlq(dlq::Verb),
    /// Send taps again that were told before: without --go, say what that would mean
    Replay(Box<replay::ReplayArgs>),
    /// Let controllers in
    #[command(subcommand)]
    EnrollToken(enroll_token::Verb),
    /// Say whose badge is whose
    #[command(subcommand)]
    Badges(badges::Verb),
    /// Say of places what they are called, which way taps go there, and how numbers are printed on their cards
    #[command(subcommand)]
    Sites(sites::Verb),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Look at events
    #[command(subcommand)]
    Events(reading::EventsVerb),
    /// Look at door controllers, and decide whether they are trusted
    #[command(subcommand)]
    Controllers(reading::ControllersVerb),
    /// Take in what controllers exported to files, as if it had come over the network; exit code 1 if something is left out
    Import(import::ImportArgs),
    /// Back the store up, say that a backup was put back, and bring the store up to date
    #[command(subcommand)]
    Store(store::Verb),
    /// Add everything up; exit code 1 if it does not balance
    Ledger {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Check the configuration and the files that it names
    Check {
        #[command(flatten)]
        config: ConfigFile,
    },
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration
    #[arg(long = "config", value_name = "FILE", default_value = "/etc/cloud-ingest/cloud-ingest.toml")]
    path: PathBuf,
}

#[derive(Debug, Args)]
struct Output {
    /// For people or for programs
    #[arg(long, value_name = "FORM", default_value = "table")]
    output: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Table,
    Json,
}

impl ConfigFile {
    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.path)
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// The definition of the command line, for completions and man pages.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Does what the arguments say.
pub fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(code) => code,
        Err(error) => match error.downcast_ref::<ConfigError>() {
            Some(wrong) => {
                eprintln!("{wrong}");
                ExitCode::from(EXIT_CONFIG)
            }
            None => {
                eprintln!("cloud-ingest: {}", with_causes(error.as_ref()));
                ExitCode::FAILURE
            }
        },
    }
}

fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Serve { config, role, verbose } => {
            logging::start(verbose);
            let loaded = config.load()?;
            let secrets = loaded.secrets(config.path())?;
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(crate::serve::serve(loaded, secrets, Roles::new(&role)))?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Keys(verb) => keys::run(verb),
        Verb::Ca(verb) => ca::run(verb),
        Verb::ApiKeys(verb) => api_keys::run(verb),
        Verb::Destinations(verb) => destinations::run(verb),
        Verb::Dlq(verb) => dlq::run(verb),
        Verb::Replay(args) => replay::run(*args),
        Verb::EnrollToken(verb) => enroll_token::run(verb),
        Verb::Badges(verb) => badges::run(verb),
        Verb::Sites(verb) => sites::run(verb),
        Verb::Config(ConfigVerb::Check { config }) => {
            let loaded = config.load()?;
            loaded.secrets(config.path())?;
            println!(
                "{} is fine: {} sites, {} controllers, {}",
                config.path().display(),
                loaded.sites.len(),
                loaded.controllers.len(),
                match &loaded.destination {
                    Some(declared) => format!("destination {}", declared.name),
                    None => "no destination declared".to_owned(),
                }
            );
            Ok(ExitCode::SUCCESS)
        }
        Verb::Events(verb) => reading::events(verb),
        Verb::Controllers(verb) => reading::controllers(verb),
        Verb::Import(args) => import::run(args),
        Verb::Store(verb) => store::run(verb),
        Verb::Ledger { config, output } => reading::the_ledger(&config, output.output),
    }
}

/// For whoever reads the JSON.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
