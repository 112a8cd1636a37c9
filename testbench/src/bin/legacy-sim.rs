//! `legacy-sim`: the legacy attendance API of [`testbench::legacy_sim`] as a process; it knows only how to start it.

use std::net::SocketAddr;

use anyhow::Context as _;
use clap::Parser;
use testbench::legacy_sim::{LegacySim, Script};

/// A legacy attendance API that misbehaves on request. Loopback only.
#[derive(Parser)]
struct Args {
    /// Where to listen; port 0 takes any.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// A script to begin with, as JSON; see `POST /_sim/script`.
    #[arg(long)]
    script: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    anyhow::ensure!(args.listen.ip().is_loopback(), "{} isn't a loopback address", args.listen);
    let script =
        args.script.as_deref().map(serde_json::from_str::<Script>).transpose().context("reading --script")?;

    let sim = LegacySim::start(args.listen).await.with_context(|| format!("listening on {}", args.listen))?;
    sim.set_script(script.unwrap_or_default());
    println!("listening on {}", sim.url());
    tokio::signal::ctrl_c().await.context("waiting for an interrupt")
}
