//! edge-agent: wires the parts together. What a verb does is in [`cli`], what the daemon does in `edge_agent`.

use std::process::ExitCode;

use clap::Parser;

mod cli;

fn main() -> ExitCode {
    // Before anything can open a TLS connection; a second call would be a defect of ours.
    rustls::crypto::ring::default_provider()
        .install_default()
        .expect("no other crypto provider is installed");
    cli::Cli::parse().run()
}
