//! `edge-agent test-connection`: all the way to the cloud's receipt and back, step by step. The first step that fails is
//! named, with what to do.

use std::process::ExitCode;

use edge_agent::check::Agent;
use edge_agent::config::Config;
use edge_agent::control::{Request, Response, question_blocking};
use edge_agent::known_time::KnownTime;
use edge_agent::probe::{Greeting, Problem, Step, reach};
use edge_agent::round_trip::RoundTrip;
use serde_json::json;

use super::check::seen;
use super::{EXIT_UNAVAILABLE, Output, say};

pub fn run(config: &Config, output: Output) -> ExitCode {
    let agent = seen(config);
    let mut report = Report { text: output == Output::Text, steps: Vec::new() };
    let (code, trip) = walk(config, &agent, &mut report);
    if output == Output::Json {
        let document = json!({"ok": code == 0, "steps": report.steps, "round_trip": trip});
        say(&(serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"));
    }
    ExitCode::from(code)
}

fn walk(config: &Config, agent: &Agent, report: &mut Report) -> (u8, Option<RoundTrip>) {
    // An agent that runs has a session under this name already, and a second one would end it.
    let greeting = match agent {
        Agent::Stopped => Greeting::AsController(&config.controller),
        _ => Greeting::None,
    };
    for step in reach(&config.broker, greeting, &KnownTime::to_look_with(&config.state_dir)) {
        if !report.add(step) {
            return (1, None);
        }
    }
    match agent {
        Agent::Stopped => {
            report.failed(
                "hello",
                "the agent is not running, so nobody can say hello to the cloud; the broker itself accepts this controller",
                "systemctl start edge-agent, then try again",
            );
            return (EXIT_UNAVAILABLE, None);
        }
        Agent::Unknown(why) => {
            report.failed("hello", why, "run this as root (sudo), or `systemctl restart edge-agent`");
            return (EXIT_UNAVAILABLE, None);
        }
        Agent::Running(status) if !status.broker.connected => {
            let why = status.broker.why.as_deref().unwrap_or("no reason is known");
            let remedy =
                "see the broker's log: does it know this controller's certificate, and does its ACL?";
            report.failed("mqtt", &format!("the agent has no session with the broker: {why}"), remedy);
            return (1, None);
        }
        Agent::Running(status) => {
            let sessions = status.broker.sessions;
            report.done(
                "mqtt",
                None,
                &format!("the agent's own session is up (number {sessions} since it started)"),
            );
        }
    }
    match question_blocking(&config.control_socket(), &Request::RoundTrip) {
        Ok(Response::RoundTrip(trip)) => {
            report.done("hello", None, "sent");
            let clock = match trip.clock_ahead_ms {
                -1..=1 => "our clock and the cloud's agree".to_owned(),
                ahead @ 2.. => format!("our clock is {} ahead of the cloud's", span(ahead)),
                behind => format!("our clock is {} behind the cloud's", span(behind.saturating_neg())),
            };
            let doubt = trip.took_ms.div_ceil(2);
            report.done(
                "receipt",
                Some(trip.took_ms),
                &format!("the cloud answered; {clock} (give or take {doubt} ms)"),
            );
            (0, Some(trip))
        }
        Ok(Response::Refused { why }) => {
            let remedy = "on the cloud's side: is cloud-ingest running, connected to the same broker, and does `cloud-ingest controllers list` show this one with the right key?";
            report.failed("receipt", &why, remedy);
            (1, None)
        }
        Ok(_) => {
            report.failed(
                "receipt",
                "the agent answered something else",
                "is it of the same version? systemctl restart edge-agent",
            );
            (1, None)
        }
        Err(error) => {
            report.failed(
                "receipt",
                &format!("the agent does not answer: {error}"),
                "systemctl restart edge-agent",
            );
            (EXIT_UNAVAILABLE, None)
        }
    }
}

/// Steps as they happen, for a person who waits.
struct Report {
    text: bool,
    steps: Vec<Step>,
}

impl Report {
    /// Returns whether it went well.
    fn add(&mut self, step: Step) -> bool {
        let well = step.problem.is_none();
        if self.text {
            match &step.problem {
                None => say(&line("ok", &step, step.result.as_deref().unwrap_or_default())),
                Some(problem) => {
                    say(&line("failed", &step, &problem.what));
                    say(&format!("{:17}Do: {}\n", "", problem.remedy));
                }
            }
        }
        self.steps.push(step);
        well
    }

    fn done(&mut self, name: &'static str, took_ms: Option<u64>, result: &str) {
        let took_ms = took_ms.unwrap_or(0);
        self.add(Step { name, took_ms, result: Some(result.to_owned()), problem: None });
    }

    fn failed(&mut self, name: &'static str, what: &str, remedy: &str) {
        let problem = Problem { what: what.to_owned(), remedy: remedy.to_owned() };
        self.add(Step { name, took_ms: 0, result: None, problem: Some(problem) });
    }
}

fn line(word: &str, step: &Step, says: &str) -> String {
    let name = match step.name {
        "tcp" | "tls" | "mqtt" => step.name.to_uppercase(),
        name => name.to_owned(),
    };
    let took = if step.took_ms > 0 { format!(" ({} ms)", step.took_ms) } else { String::new() };
    format!("{word:<8} {name:<8}{says}{took}\n")
}

fn span(ms: i64) -> String {
    match ms {
        0..2_000 => format!("{ms} ms"),
        2_000..120_000 => format!("{} s", ms / 1000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} days", ms / 86_400_000),
    }
}
