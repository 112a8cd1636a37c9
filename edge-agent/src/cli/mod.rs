//! The command line. One file per verb.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use edge_agent::config::{Config, EXIT_CONFIG};
use edge_agent::control::{Request, Response, question_blocking};

mod cert;
mod check;
mod clock;
mod config;
mod diag;
mod enroll;
mod keys;
mod outbox;
mod readers;
mod run;
mod status;
mod tap;
mod test_connection;
mod witness_clock;

/// Where the package puts the configuration.
const DEFAULT_CONFIG: &str = "/etc/edge-agent/edge-agent.toml";

/// Nothing answers where the agent should be (`EX_UNAVAILABLE` of sysexits.h).
const EXIT_UNAVAILABLE: u8 = 69;

/// Wrong usage: clap's own code.
const EXIT_USAGE: u8 = 2;

const EXIT_CODES: &str = "\
Exit codes:
  0   done, or everything is as it should be
  1   it failed, was refused, or something is wrong
  2   wrong usage
  69  no agent is running here, or it does not answer
  78  the configuration is wrong; systemd does not try again with it

Configuration:
  /etc/edge-agent/edge-agent.toml, then conf.d/*.toml beside it in the
  order of their names, then variables such as EDGE_AGENT_BROKER__URL:
  later ones win. With _FILE behind its name, a variable names a file
  that holds the value. `edge-agent config list --doc` explains each key.";

/// Records badge taps at a door for good and brings them to the cloud.
#[derive(Debug, Parser)]
#[command(name = "edge-agent", version, propagate_version = true, after_long_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Get this controller's certificate and keys from the cloud, with a token that works once.
    Enroll(enroll::Enroll),
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
    /// Show what is known of the time, and what that means for taps.
    Clock {
        #[command(flatten)]
        config: ConfigArg,
        /// For people or for scripts.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Look at everything that a door needs, whether the agent runs or not.
    Check(check::Check),
    /// Go all the way to the cloud and back, and say how far it gets.
    TestConnection {
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
    /// Look at the card readers.
    Readers {
        #[command(subcommand)]
        verb: readers::Verb,
    },
    /// Look at this controller's certificate and keys, or renew them.
    Cert {
        #[command(subcommand)]
        verb: cert::Verb,
    },
    /// Make keys.
    Keys {
        #[command(subcommand)]
        verb: keys::Verb,
    },
    /// Collect what support needs, without card numbers or keys.
    Diag {
        #[command(subcommand)]
        verb: diag::Verb,
    },
    /// Look at the configuration, or change it.
    Config {
        #[command(subcommand)]
        verb: config::Verb,
    },
    /// Write down once a second whether the kernel vouches for the clock, for an agent that may not ask it.
    #[command(hide = true)]
    WitnessClock(witness_clock::WitnessClock),
}

#[derive(Debug, clap::Args)]
struct ConfigArg {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
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
            Verb::Enroll(enroll) => enroll.run(),
            Verb::Run { config, verbose } => {
                let file = config.config.clone();
                with_config(&config, |config| run::run(file, config, verbose))
            }
            Verb::Status { config, output } => with_config(&config, |config| status::status(&config, output)),
            Verb::Clock { config, output } => with_config(&config, |config| clock::clock(&config, output)),
            Verb::Check(check) => check.run(),
            Verb::TestConnection { config, output } => {
                with_config(&config, |config| test_connection::run(&config, output))
            }
            Verb::Tap(tap) => tap.run(),
            Verb::Outbox { verb } => verb.run(),
            Verb::Readers { verb } => verb.run(),
            Verb::Cert { verb } => verb.run(),
            Verb::Keys { verb } => verb.run(),
            Verb::Diag { verb } => verb.run(),
            Verb::Config { verb } => verb.run(),
            Verb::WitnessClock(witness) => witness.run(),
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
    let answer = question_blocking(&socket, request);
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

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory};

    use super::*;

    fn every_command(command: &Command, visit: &mut impl FnMut(&Command)) {
        visit(command);
        command.get_subcommands().for_each(|inner| every_command(inner, visit));
    }

    #[test]
    fn every_verb_and_every_argument_says_what_it_is_for() {
        Cli::command().debug_assert();
        every_command(&Cli::command(), &mut |command| {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(!about.is_empty(), "{}", command.get_name());
            for argument in command.get_arguments() {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(!help.is_empty(), "{} {}", command.get_name(), argument.get_id());
            }
        });
    }

    #[test]
    fn every_exit_code_is_documented() {
        for code in [0, 1, EXIT_USAGE, EXIT_UNAVAILABLE, EXIT_CONFIG] {
            assert!(
                EXIT_CODES.lines().any(|line| line.trim_start().starts_with(&format!("{code} "))),
                "{code}"
            );
        }
    }
}
