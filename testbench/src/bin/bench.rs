//! `bench`: Tapline's figures, each beside its physical floor or a peer in the same run. See [`testbench::bench`].

use std::path::PathBuf;

use clap::Parser;

/// Measures the release build on this machine, prints a table and writes target/bench.json.
#[derive(Parser)]
struct Args {
    /// Only figures whose name contains this.
    only: Option<String>,
    /// Where the figures go.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    testbench::bench::run(args.only.as_deref().unwrap_or_default(), &args.json).await
}
