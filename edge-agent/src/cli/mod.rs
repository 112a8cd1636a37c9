//! The command line. One file per verb.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use edge_agent::config::{Config, EXIT_CONFIG};
use edge_agent::control::{Request, Response, question};

mod keys;
mod outbox;
mod run;
mod status;
mod tap;

/// Where the package puts the configuration.
const DEFAULT_CONFIG: &str = "/etc/edge-agent/edge-agent.toml";

/// Nothing answers where the agent should be (`EX_UNAVAILABLE` of sysexits.h).
const EXIT_UNAVAILABLE: u8 = 69;

/// Records badge taps at a door for good and brings them to the cloud.
///
/// Exit codes: 0 done, 1 failed or refused, 2 wrong usage, 69 no agent is running, 78 the configuration is wrong.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the agent in the foreground.
    Run {
        #[command(flatten)]
        config: ConfigArg,
        /// Log every signal and decision too.
        #[arg(long)]
        verbose: bool,
    },
    /// Show how the running agent is.
    Status {
        #[command(flatten)]
        config: ConfigArg,
        /// For people or for scripts.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Give the running agent a tap without a card.
    Tap(tap::Tap),
    /// Look at the records on this disk, check, export, prune and salvage them.
    Outbox {
        #[command(subcommand)]
        verb: outbox::Verb,
    },
    /// Make keys.
    Keys {
        #[command(subcommand)]
        verb: keys::Verb,
    },
    /// Look at the configuration.
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Say whether the configuration is right, and what is wrong with it.
    Check {
        #[command(flatten)]
        config: ConfigArg,
    },
}

#[derive(Debug, clap::Args)]
struct ConfigArg {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// For scripts.
    Json,
}

impl Cli {
    /// Does what was asked for.
    pub fn run(self) -> ExitCode {
        match self.verb {
            Verb::Run { config, verbose } => with_config(&config, |config| run::run(config, verbose)),
            Verb::Status { config, output } => with_config(&config, |config| status::status(&config, output)),
            Verb::Tap(tap) => tap.run(),
            Verb::Outbox { verb } => verb.run(),
            Verb::Keys { verb } => verb.run(),
            Verb::Config { verb: ConfigVerb::Check { config } } => with_config(&config, |_| {
                say(&format!("{} is fine\n", config.config.display()));
                ExitCode::SUCCESS
            }),
        }
    }
}

fn with_config(arg: &ConfigArg, then: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match Config::load(&arg.config) {
        Ok(config) => then(config),
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

/// One question to the running agent, on a runtime of its own.
fn ask(config: &Config, request: &Request) -> Result<Response, ExitCode> {
    let socket = config.control_socket();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answer = runtime.and_then(|runtime| runtime.block_on(question(&socket, request)));
    answer.map_err(|error| {
        complain(&no_agent(&socket, &error));
        ExitCode::from(EXIT_UNAVAILABLE)
    })
}

fn no_agent(socket: &Path, error: &std::io::Error) -> String {
    let socket = socket.display();
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            format!("the agent's socket {socket} is not yours to use: run this as root (sudo)")
        }
        _ => format!("no agent answers at {socket} ({error}): is it running? systemctl status edge-agent"),
    }
}

/// To standard output; a reader that has gone away is nobody's fault.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "edge-agent: {text}");
}
