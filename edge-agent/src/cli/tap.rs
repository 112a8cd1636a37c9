//! `edge-agent tap --simulate UID`: a tap without a card, all the way through.

use std::process::ExitCode;

use clap::ValueEnum;
use edge_agent::control::{Request, Response};
use tap_protocol::tap::Direction;

use super::{ConfigArg, Output, ask, complain, say, with_config};

#[derive(Debug, clap::Args)]
pub struct Tap {
    #[command(flatten)]
    config: ConfigArg,
    /// The badge's number, such as 04A224B1C2D380. The tap is recorded at the reader `simulated`, and it counts.
    #[arg(long, value_name = "UID", required = true)]
    simulate: String,
    /// Which way the person goes.
    #[arg(long, value_enum, default_value_t)]
    direction: Way,
    /// For people or for scripts.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Way {
    In,
    Out,
    #[default]
    Unspecified,
}

impl Tap {
    pub fn run(self) -> ExitCode {
        let direction = match self.direction {
            Way::In => Direction::In,
            Way::Out => Direction::Out,
            Way::Unspecified => Direction::Unspecified,
        };
        let request = Request::Tap { uid: self.simulate, direction };
        with_config(&self.config, |config| match ask(&config, &request) {
            Ok(answer) => show(&answer, self.output),
            Err(code) => code,
        })
    }
}

fn show(answer: &Response, output: Output) -> ExitCode {
    match (answer, output) {
        (_, Output::Json) => say(&(serde_json::to_string(answer).unwrap_or_default() + "\n")),
        (Response::Recorded { seq, event_id, signal, tap_to_signal_us }, Output::Text) => {
            say(&format!(
                "{signal}: record {seq}, event {event_id}, after {:.1} ms\n",
                *tap_to_signal_us as f64 / 1e3
            ));
        }
        (Response::Refused { why }, Output::Text) => complain(&format!("not recorded: {why}")),
        (Response::Status(_) | Response::Clock(_), Output::Text) => {
            complain("the agent answered something else")
        }
    }
    if matches!(answer, Response::Recorded { .. }) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
