//! `edge-agent status`: the running agent at one glance. Exits 1 when something is wrong.

use std::fmt::Write;
use std::io::IsTerminal;
use std::process::ExitCode;

use edge_agent::config::Config;
use edge_agent::control::{Request, Response};
use edge_agent::status::Status;
use tap_protocol::hello::ReaderState;
use tap_protocol::report::Outcome;

use super::{Output, ask, complain, say};

pub fn status(config: &Config, output: Output) -> ExitCode {
    let status = match ask(config, &Request::Status) {
        Ok(Response::Status(status)) => status,
        Ok(_) => {
            complain("the agent answered something else");
            return ExitCode::FAILURE;
        }
        Err(code) => return code,
    };
    match output {
        Output::Json => say(&(serde_json::to_string_pretty(&*status).unwrap_or_default() + "\n")),
        Output::Text => say(&text(&status, std::io::stdout().is_terminal())),
    }
    if status.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn text(status: &Status, colour: bool) -> String {
    let paint = |text: &str, good: bool| match (colour, good) {
        (false, _) => text.to_owned(),
        (true, true) => format!("\x1b[32m{text}\x1b[0m"),
        (true, false) => format!("\x1b[31m{text}\x1b[0m"),
    };
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<12}{value}");
    };
    line(
        "controller",
        format!("{} (edge-agent {}, up {})", status.controller, status.version, span(status.uptime_ms)),
    );
    let link = if status.broker.connected { paint("connected", true) } else { paint("offline", false) };
    line("broker", format!("{link} {}", status.broker.address));
    line("clock", status.clock.name().to_owned());
    let waits = status
        .oldest_unreceipted_age_ms
        .map(|ms| format!(", the oldest for {}", span(ms)))
        .unwrap_or_default();
    line("pending", format!("{} records without a receipt{waits}", status.pending));
    for outbox in &status.outboxes {
        line(
            "outbox",
            format!(
                "{} written to {}, stored to {}",
                outbox.outbox, outbox.last_seq, outbox.receipted_through
            ),
        );
    }
    if let Some(roster) = &status.roster {
        let age = format!("confirmed {} ago", span(roster.age_ms));
        let state = if roster.stale { paint("stale", false) } else { paint("fresh", true) };
        line(
            "roster",
            format!(
                "{state} version {}, {} badges, {} of them revoked, {age}",
                roster.version, roster.badges, roster.revoked
            ),
        );
    }
    if let Some(fetch) = &status.roster_fetch {
        line(
            "roster",
            format!("version {} is coming, {} of {} chunks", fetch.version, fetch.here, fetch.chunks),
        );
    }
    for reader in &status.readers {
        let (word, good) = match reader.state {
            ReaderState::Starting => ("starting", false),
            ReaderState::Up => ("up", true),
            ReaderState::Down => ("down", false),
        };
        let detail = if good { format!(" {}", reader.detail) } else { String::new() };
        line("reader", format!("{} {}{detail}, {} taps", reader.reader, paint(word, good), reader.taps));
    }
    if let Some(command) = &status.last_command {
        let first = command.detail.lines().next().unwrap_or_default();
        line("command", format!("{} {}: {first}", command.order, outcome(command.outcome)));
    }
    for settled in &status.settled {
        line("settled", format!("{} after record {}: {}", settled.outbox, settled.after, settled.means));
    }
    for problem in &status.problems {
        line("problem", paint(problem, false));
    }
    out
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "done",
        Outcome::Refused => "refused",
        Outcome::Failed => "failed",
    }
}

fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
