//! `edge-agent check`: everything that a door needs, looked at once, whether the agent runs or not.

use std::fmt::Write;
use std::io::{ErrorKind, IsTerminal};
use std::process::ExitCode;

use edge_agent::check::{Agent, Checked, State, Subject, run_all};
use edge_agent::config::Config;
use edge_agent::control::{Request, Response, question_blocking};
use serde_json::json;

use super::{ConfigArg, Output, say};

#[derive(Debug, clap::Args)]
pub struct Check {
    #[command(flatten)]
    config: ConfigArg,
    /// For people or for scripts.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Exit with 1 on warnings too.
    #[arg(long)]
    warnings_as_errors: bool,
}

impl Check {
    pub fn run(self) -> ExitCode {
        let results = run_all(subject(&self.config));
        match self.output {
            Output::Json => {
                say(&(serde_json::to_string_pretty(&document(&results)).unwrap_or_default() + "\n"))
            }
            Output::Text => say(&table(&results, std::io::stdout().is_terminal())),
        }
        let worst = results.iter().map(|result| result.finding.state).max();
        match worst {
            Some(State::Error) => ExitCode::FAILURE,
            Some(State::Warning) if self.warnings_as_errors => ExitCode::FAILURE,
            _ => ExitCode::SUCCESS,
        }
    }
}

/// This machine.
pub fn subject(arg: &ConfigArg) -> Subject {
    let config = Config::load(&arg.config).map_err(|error| error.to_string());
    let agent = config.as_ref().map_or(Agent::Stopped, seen);
    Subject { config_file: arg.config.clone(), config, agent, root: "/".into() }
}

/// Whether an agent runs with this configuration.
pub fn seen(config: &Config) -> Agent {
    match question_blocking(&config.control_socket(), &Request::Status) {
        Ok(Response::Status(status)) => Agent::Running(status),
        Ok(_) => Agent::Unknown("an agent runs, but says nothing of itself".into()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            Agent::Stopped
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Agent::Unknown("the agent's socket is not yours to use: run this as root (sudo)".into())
        }
        Err(error) => Agent::Unknown(format!("the agent does not answer: {error}")),
    }
}

/// What `--output json` prints.
pub fn document(results: &[Checked]) -> serde_json::Value {
    let count = |state| results.iter().filter(|result| result.finding.state == state).count();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "errors": count(State::Error),
        "warnings": count(State::Warning),
        "checks": results,
    })
}

fn table(results: &[Checked], colour: bool) -> String {
    let mut out = String::new();
    for Checked { check, finding, .. } in results {
        let (word, code) = match finding.state {
            State::Ok => ("ok", 32),
            State::Warning => ("warning", 33),
            State::Error => ("error", 31),
            State::Skipped => ("skipped", 90),
        };
        let word = if colour { format!("\x1b[{code}m{word:<8}\x1b[0m") } else { format!("{word:<8}") };
        let _ = writeln!(out, "{word} {:<14} {}", check.replace('_', " "), finding.says);
        let mut more = |lead: &str, text: &Option<String>| {
            if let Some(text) = text {
                let _ = writeln!(out, "{:24}{lead} {text}", "");
            }
        };
        more("So:", &finding.meaning);
        more("Do:", &finding.remedy);
    }
    let count = |state| results.iter().filter(|result| result.finding.state == state).count();
    let sum = match (count(State::Error), count(State::Warning)) {
        (0, 0) => "Everything that was looked at is as it should be.".to_owned(),
        (0, warnings) => format!("Nothing is broken; {}.", some(warnings, "warning")),
        (errors, 0) => format!("{}.", some(errors, "error")),
        (errors, warnings) => format!("{}, {}.", some(errors, "error"), some(warnings, "warning")),
    };
    let _ = writeln!(out, "\n{sum}");
    out
}

fn some(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
