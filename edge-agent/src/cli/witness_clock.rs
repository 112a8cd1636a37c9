//! `edge-agent witness-clock`: asks the kernel whether it vouches for the clock, once a second, and writes it down for the agent,
//! whose unit may not ask. Run by edge-agent-clock.service; see `clock_witness.rs`.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use edge_agent::clock;
use edge_agent::clock_witness::{EVERY_MS, SEEN_FILE, line};

use super::complain;

#[derive(Debug, clap::Args)]
pub struct WitnessClock {
    /// The file.
    #[arg(long, value_name = "FILE", default_value = SEEN_FILE)]
    to: PathBuf,
}

impl WitnessClock {
    pub fn run(&self) -> ExitCode {
        let Err(error) = keep_writing(&self.to);
        complain(&format!("cannot write {}: {error}", self.to.display()));
        ExitCode::FAILURE
    }
}

fn keep_writing(file: &Path) -> std::io::Result<Infallible> {
    let next = file.with_extension("next");
    loop {
        // As a whole: whoever reads meanwhile reads the one or the other.
        std::fs::write(&next, line(&clock::read_to_witness()))?;
        std::fs::rename(&next, file)?;
        sleep(Duration::from_millis(EVERY_MS));
    }
}
