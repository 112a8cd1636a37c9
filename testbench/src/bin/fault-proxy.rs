//! `fault-proxy`: the proxy of [`testbench::fault_proxy`] under the control of standard input; it knows no protocol.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail};
use clap::Parser;
use serde_json::json;
use testbench::fault_proxy::{Direction, FaultProxy};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

/// A TCP proxy that breaks on request. Reads one command per line and answers each with one line:
/// `cut`, `restore`, `stall`, `delay MS`, `cut-after up|down BYTES`, `stats`. Ends with its standard input.
#[derive(Parser)]
#[command(verbatim_doc_comment)]
struct Args {
    /// Where to listen; port 0 takes any.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where to connect clients to.
    #[arg(long)]
    upstream: SocketAddr,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    anyhow::ensure!(args.listen.ip().is_loopback(), "{} isn't a loopback address", args.listen);
    let proxy = FaultProxy::start(args.listen, args.upstream)
        .await
        .with_context(|| format!("listening on {}", args.listen))?;
    println!("listening on {}", proxy.addr());

    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await.context("reading standard input")? {
        match obey(&proxy, &line).await {
            Ok(answer) => println!("{answer}"),
            Err(e) => println!("error: {e:#}"),
        }
    }
    Ok(())
}

async fn obey(proxy: &FaultProxy, line: &str) -> anyhow::Result<String> {
    let words: Vec<_> = line.split_whitespace().collect();
    match words[..] {
        ["cut"] => proxy.cut().await?,
        ["restore"] => proxy.restore().await?,
        ["stall"] => proxy.stall().await?,
        ["delay", ms] => proxy.set_delay(Duration::from_millis(ms.parse()?)).await?,
        ["cut-after", "up", bytes] => proxy.cut_after(Direction::Up, bytes.parse()?).await?,
        ["cut-after", "down", bytes] => proxy.cut_after(Direction::Down, bytes.parse()?).await?,
        ["stats"] => return Ok(json!(proxy.stats()).to_string()),
        _ => bail!("expected cut, restore, stall, delay MS, cut-after up|down BYTES or stats, got `{line}`"),
    }
    Ok("ok".to_owned())
}
