//! `edge-agent keys`: makes the record key of a controller that is provisioned by hand: its public half is told to the
//! cloud by hand too. `edge-agent enroll` does both.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use edge_agent::agent::with_causes;
use edge_agent::identity::create_record_key;

use super::{complain, say};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make this controller's record key and print its public half, for `record_key` in cloud-ingest's configuration.
    Create {
        /// The new file; an existing one is never replaced.
        #[arg(long, value_name = "FILE")]
        record_key_file: PathBuf,
    },
}

impl Verb {
    pub fn run(self) -> ExitCode {
        let Verb::Create { record_key_file } = self;
        match create_record_key(&record_key_file) {
            Ok(public) => {
                say(&format!("{public}\n"));
                ExitCode::SUCCESS
            }
            Err(error) => {
                complain(&with_causes(&error));
                ExitCode::FAILURE
            }
        }
    }
}
