//! The `cloud-ingest` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    rustls::crypto::ring::default_provider()
        .install_default()
        .expect("nobody has chosen a crypto provider before main");
    cloud_ingest::cli::main()
}
