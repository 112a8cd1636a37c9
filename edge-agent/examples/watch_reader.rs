//! Watches one reader and prints what it says, a line per event: for trying out readers, and for drills.
//!
//! `watch_reader pcsc [PART-OF-NAME]` · `watch_reader serial PORT [BAUD]` · `--reveal` as well shows cards' numbers,
//! which are personal data. Ends on SIGINT or SIGTERM.

use std::sync::Arc;

use anyhow::{Context, bail};
use edge_agent::reader::framing::Framing;
use edge_agent::reader::lamp::LampChoice;
use edge_agent::reader::{ReaderEvent, ReaderProgress, RecoveryStep, RunningReader, serial};
use rustix::time::{ClockId, clock_gettime};
use tap_protocol::ids::ReaderName;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let (reveal, words): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|word| word == "--reveal");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (sender, mut events) = mpsc::channel(16);
    let started = boottime_ms();
    let reader = start(&words, sender)?;
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => print(boottime_ms() - started, &event, !reveal.is_empty()),
                None => break,
            },
            _ = tokio::signal::ctrl_c() => break,
            _ = terminate.recv() => break,
        }
    }
    let progress = Arc::clone(reader.progress());
    let stopping = boottime_ms();
    reader.stop().await;
    println!(
        "{:>7} stopped in {} ms; {}",
        boottime_ms() - started,
        boottime_ms() - stopping,
        summary(&progress, started)
    );
    Ok(())
}

fn start(words: &[&str], events: mpsc::Sender<ReaderEvent>) -> anyhow::Result<RunningReader> {
    let name: ReaderName = "watched".parse()?;
    Ok(match words {
        #[cfg(feature = "pcsc")]
        ["pcsc", rest @ ..] => {
            use edge_agent::reader::pcsc;
            let name_contains = rest.first().map(|part| (*part).to_owned());
            pcsc::spawn(pcsc::PcscConfig { name, name_contains, lamp: LampChoice::None }, events, boottime_ms)
        }
        ["serial", path, rest @ ..] => {
            let baud = rest
                .first()
                .map_or(Ok(serial::DEFAULT_BAUD), |baud| baud.parse())
                .context("BAUD is a number")?;
            let framing = Framing::Em4100;
            let config = serial::SerialConfig { name, path: (*path).to_owned(), baud, framing };
            serial::spawn(config, events, boottime_ms)
        }
        _ => bail!("usage: watch_reader pcsc [PART-OF-NAME] | serial PORT [BAUD]   [--reveal]"),
    })
}

fn print(at_ms: u64, event: &ReaderEvent, reveal: bool) {
    match event {
        ReaderEvent::Card(read) => {
            let number = if reveal { read.credential.reveal() } else { format!("{:?}", read.credential) };
            let atr = read.atr.as_deref().map(|atr| data_encoding::HEXUPPER.encode(atr)).unwrap_or_default();
            println!("{at_ms:>7} card {number} missed={} atr={atr}", read.missed);
        }
        ReaderEvent::Removed { .. } => println!("{at_ms:>7} removed"),
        ReaderEvent::Rejected { why, .. } => println!("{at_ms:>7} rejected {}: {why}", why.kind()),
        ReaderEvent::Odd { what, .. } => println!("{at_ms:>7} odd {}: {what}", what.kind()),
        ReaderEvent::Up { detail, .. } => println!("{at_ms:>7} up {detail}"),
        ReaderEvent::Down { why, .. } => println!("{at_ms:>7} down {}: {why}", why.kind()),
    }
}

fn summary(progress: &ReaderProgress, started: u64) -> String {
    let since = |at_ms: u64| at_ms.checked_sub(started).map_or("never".to_owned(), |ms| format!("at {ms}"));
    let recoveries = RecoveryStep::ALL.map(|step| format!("{}={}", step.name(), progress.recoveries(step)));
    format!(
        "last turn {}, last wait {}, recoveries {}",
        since(progress.last_turn_boottime_ms()),
        since(progress.last_wait_boottime_ms()),
        recoveries.join(" ")
    )
}

fn boottime_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}
