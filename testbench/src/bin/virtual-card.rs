//! `virtual-card`: holds badges to a virtual PC/SC reader, one per run or one per line; it knows no namespace.
//!
//! pcscd under test lives in a network namespace of its own: run this through `nsenter --net`.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use serde_json::json;
use testbench::virtual_card::{EMPTY, HOLD, TapCommand, VPCD_PORT, VirtualCard, parse_hex};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

/// Holds a badge to a virtual PC/SC reader and prints what happened as one line of JSON.
#[derive(Parser)]
struct Args {
    /// Where the reader waits for a card.
    #[arg(long, default_value_t = SocketAddr::from(([127, 0, 0, 1], VPCD_PORT)))]
    addr: SocketAddr,
    /// The badge's UID, hexadecimal.
    #[arg(long, required_unless_present = "stdin", conflicts_with = "stdin")]
    uid: Option<String>,
    /// Another ATR, hexadecimal.
    #[arg(long, requires = "uid")]
    atr: Option<String>,
    /// Another answer to the UID command, status word included, hexadecimal.
    #[arg(long, requires = "uid")]
    answer: Option<String>,
    /// How long the badge is held, in milliseconds.
    #[arg(long, default_value_t = HOLD.as_millis() as u64)]
    hold_ms: u64,
    /// Reads `tap UID [hold_ms] [answer=HEX] [lamp=HEX] [atr=HEX] [give_up_ms=MS]` line by line and prints one line of JSON for each.
    #[arg(long)]
    stdin: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let Some(uid) = &args.uid else { return tap_line_by_line(args.addr).await };

    let hex = |digits: &str| parse_hex(digits).map_err(anyhow::Error::msg);
    let mut card = VirtualCard::with_uid(&hex(uid)?);
    if let Some(atr) = &args.atr {
        card = card.with_atr(hex(atr)?);
    }
    if let Some(answer) = &args.answer {
        card = card.answering(hex(answer)?);
    }
    let tap = card
        .present(args.addr, Duration::from_millis(args.hold_ms))
        .await
        .with_context(|| format!("holding the badge to the reader at {}", args.addr))?;
    println!("{}", json!(tap));
    anyhow::ensure!(tap.uid_was_read(), "nobody read the UID");
    Ok(())
}

/// A bad line or an absent reader is an `{"error": …}` line, so that the next tap still works.
async fn tap_line_by_line(addr: SocketAddr) -> anyhow::Result<()> {
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await.context("reading standard input")? {
        let outcome = match line.parse::<TapCommand>() {
            Ok(TapCommand { card, hold }) => {
                card.present(addr, hold).await.map_err(|e| format!("no tap at {addr}: {e}"))
            }
            Err(complaint) => Err(complaint),
        };
        match outcome {
            Ok(tap) => println!("{}", json!(tap)),
            Err(error) => println!("{}", json!({ "error": error })),
        }
        tokio::time::sleep(EMPTY).await;
    }
    Ok(())
}
