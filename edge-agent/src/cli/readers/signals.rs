//! `edge-agent readers test --signals`: every signal at one reader, for whoever hangs it on the wall and must know that
//! its light and sound can be told apart there. Records nothing and reads no card.

use std::process::ExitCode;

use edge_agent::config::Config;
use edge_agent::log;
use edge_agent::reader::lamp::LampChoice;
use edge_agent::reader::{ReaderEvent, RunningReader};
use edge_agent::signal::pattern::{OUT_OF_SERVICE, Signal};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::{Duration, sleep, timeout};

use super::{MAX_WAITING_EVENTS, chosen, nobody, start_reader};
use crate::cli::{complain, say};

/// How long the reader may take to be there.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two signals, so that each can be told from the next.
const PAUSE: Duration = Duration::from_millis(500);

pub fn show(config: &Config, name: Option<&str>) -> ExitCode {
    let Some(readers) = chosen(config, name) else { return nobody(config, name) };
    let [reader] = readers.as_slice() else {
        complain("say which reader: its signals are shown one after the other");
        return ExitCode::FAILURE;
    };
    // A lamp says what is wrong with it where the agent's log goes.
    if let Err(error) = log::install(false) {
        complain(&format!("cannot log: {error}"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let shown = runtime.map(|runtime| {
        runtime.block_on(async {
            let (events_in, mut events) = channel(MAX_WAITING_EVENTS);
            let running = start_reader(reader, events_in).ok_or("this edge-agent was built without PC/SC")?;
            let choice = reader.pcsc.as_ref().map(|pcsc| pcsc.lamp).unwrap_or_default();
            let shown = show_all(&running, choice, &mut events).await;
            running.stop().await;
            shown
        })
    });
    match shown {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(why)) => {
            complain(&why);
            ExitCode::FAILURE
        }
        Err(error) => {
            complain(&format!("cannot start: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn show_all(
    reader: &RunningReader,
    choice: LampChoice,
    events: &mut Receiver<ReaderEvent>,
) -> Result<(), String> {
    let pcsc_name = match timeout(PATIENCE, events.recv()).await {
        Ok(Some(ReaderEvent::Up { detail, .. })) => detail,
        Ok(Some(ReaderEvent::Down { why, .. })) => return Err(why.to_string()),
        _ => return Err("the reader does not answer".to_owned()),
    };
    let mut lamp = reader.lamp().ok_or("a serial reader has no light that could be used")?;
    choice.model(&pcsc_name).ok_or(format!(
        "no light of \"{pcsc_name}\" is known. If it takes the commands of a known model, say so: lamp = \"acr122u\""
    ))?;
    say(&format!("{}: {pcsc_name}\n", reader.name()));
    let name = reader.name();
    let mut failed = 0;
    say(&format!("out of service, standing: {OUT_OF_SERVICE}\n"));
    lamp.in_service(name, false);
    failed += nap(events, u64::from(OUT_OF_SERVICE.total_ms()) * 2).await;
    say("in service, standing: steady amber\n");
    lamp.in_service(name, true);
    failed += nap(events, 1_000).await;
    for signal in Signal::ALL {
        let pattern = signal.pattern();
        say(&format!("{signal}: {pattern}\n"));
        lamp.show(name, signal);
        failed += nap(events, pattern.total_ms().into()).await;
    }
    match failed {
        0 => Ok(()),
        n => Err(format!(
            "{n} commands had no effect. Without a card many readers take no commands: lay one on the reader and try again"
        )),
    }
}

/// Waits until a signal is over, and counts what was not shown.
async fn nap(events: &mut Receiver<ReaderEvent>, lasts_ms: u64) -> u64 {
    let mut failed = 0;
    let mut end = std::pin::pin!(sleep(Duration::from_millis(lasts_ms) + PAUSE));
    loop {
        tokio::select! {
            () = &mut end => break,
            Some(event) = events.recv() => {
                if let ReaderEvent::Odd { what, .. } = event {
                    failed += 1;
                    say(&format!("    {what}\n"));
                }
            }
        }
    }
    failed
}
