//! Step 1 of 12, serial: a 125 kHz reader on a serial port or USB adapter. Knows no badge rules; step 2 does.
//!
//! A port whose other end is gone reads as empty at once and for ever, so that is the end of the port: it is closed
//! and opened again after a wait ([`Retry`]). Prefer names below `/dev/serial/by-id`: they survive replugging.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tap_protocol::ids::ReaderName;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{mpsc, oneshot};
use tokio_serial::SerialStream;

use super::em4100::Parser;
use super::retry::Retry;
use super::{
    CardRead, DownReason, ReaderEvent, ReaderKind, ReaderProgress, RecoveryStep, RunningReader, TURN_MS, Told,
};

/// What RDM6300 and ID-12LA speak, always with 8 data bits, no parity and 1 stop bit.
pub const DEFAULT_BAUD: u32 = 9600;

/// Bytes that one read takes: several frames, a sixteenth of the kernel's own buffer.
const READ_BYTES: usize = 256;

/// Which port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerialConfig {
    /// The reader's name within its controller.
    pub name: ReaderName,
    /// The port, best by its name below `/dev/serial/by-id`.
    pub path: String,
    /// Its speed; [`DEFAULT_BAUD`] unless the reader was set otherwise.
    pub baud: u32,
}

/// Starts reading. Must be called within a tokio runtime. `clock` gives milliseconds of CLOCK_BOOTTIME.
pub fn spawn(config: SerialConfig, events: mpsc::Sender<ReaderEvent>, clock: fn() -> u64) -> RunningReader {
    let progress = Arc::new(ReaderProgress::default());
    let (stop, stopped) = oneshot::channel();
    let name = config.name.clone();
    let post =
        Post { reader: config.name, events, clock, progress: Arc::clone(&progress), told: Told::default() };
    let task = tokio::spawn(async move {
        // Every wait within can be given up at any time: the port closes, and a read that nobody answered with a
        // light was not accepted.
        tokio::select! {
            biased;
            _ = stopped => {}
            AgentGone = post.run(&config.path, config.baud) => {}
        }
    });
    RunningReader { name, kind: ReaderKind::Serial, progress, stop, task }
}

/// Nobody listens any more.
#[derive(Debug)]
struct AgentGone;

/// Why a port cannot be read any more.
enum End {
    AgentGone(AgentGone),
    Lost(DownReason),
}

impl From<AgentGone> for End {
    fn from(gone: AgentGone) -> End {
        End::AgentGone(gone)
    }
}

struct Post {
    reader: ReaderName,
    events: mpsc::Sender<ReaderEvent>,
    clock: fn() -> u64,
    progress: Arc<ReaderProgress>,
    told: Told,
}

impl Post {
    /// Port after port.
    async fn run(mut self, path: &str, baud: u32) -> AgentGone {
        let mut retry = Retry::default();
        let mut lost = false;
        loop {
            let opened_ms = (self.clock)();
            self.progress.turned(opened_ms);
            let end = match open(path, baud) {
                Ok(port) => {
                    if lost {
                        self.progress.recovered(RecoveryStep::Port);
                    }
                    let Err(end) = self.listen(port, path).await;
                    end
                }
                Err(why) => End::Lost(why),
            };
            let said = match end {
                End::AgentGone(gone) => return gone,
                End::Lost(why) => self.say(ReaderEvent::Down { reader: self.reader.clone(), why }).await,
            };
            if let Err(gone) = said {
                return gone;
            }
            lost = true;
            tokio::time::sleep(retry.failed((self.clock)().saturating_sub(opened_ms))).await;
        }
    }

    /// Reads until the port ends.
    async fn listen(&mut self, mut port: impl AsyncRead + Unpin, path: &str) -> Result<Infallible, End> {
        let mut parser = Parser::default();
        let mut buffer = [0; READ_BYTES];
        self.say(ReaderEvent::Up { reader: self.reader.clone(), detail: path.to_owned() }).await?;
        loop {
            let read = tokio::time::timeout(Duration::from_millis(TURN_MS), port.read(&mut buffer)).await;
            let now = (self.clock)();
            self.progress.turned(now);
            let bytes = match read {
                Err(_nothing_came) => &[],
                Ok(Ok(0)) => return Err(End::Lost(DownReason::PortClosed { path: path.to_owned() })),
                Ok(Ok(n)) => buffer.get(..n).unwrap_or_default(),
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => continue,
                Ok(Err(error)) => {
                    let error = error.to_string();
                    return Err(End::Lost(DownReason::PortFailed { path: path.to_owned(), error }));
                }
            };
            self.progress.waited(now);
            for found in parser.feed(bytes) {
                let reader = self.reader.clone();
                self.say(match found {
                    Ok(credential) => ReaderEvent::Card(CardRead {
                        reader,
                        credential,
                        seen_at_boottime_ms: now,
                        atr: None,
                        missed: 0,
                    }),
                    Err(why) => ReaderEvent::Rejected { reader, why },
                })
                .await?;
            }
        }
    }

    async fn say(&mut self, event: ReaderEvent) -> Result<(), AgentGone> {
        if !self.told.is_news(&event, &self.progress) {
            return Ok(());
        }
        self.events.send(event).await.map_err(|_| AgentGone)
    }
}

/// Opens the port for this process alone.
fn open(path: &str, baud: u32) -> Result<SerialStream, DownReason> {
    // No DTR or flow control: the readers know neither, and a pseudo terminal has no such lines.
    SerialStream::open(&tokio_serial::new(path, baud)).map_err(|error| {
        let path = path.to_owned();
        match error.kind() {
            tokio_serial::ErrorKind::NoDevice => DownReason::PortBusy { path },
            tokio_serial::ErrorKind::Io(ErrorKind::NotFound) => DownReason::PortMissing { path },
            tokio_serial::ErrorKind::Io(ErrorKind::PermissionDenied) => DownReason::PortDenied { path },
            tokio_serial::ErrorKind::Io(ErrorKind::ResourceBusy) => DownReason::PortBusy { path },
            _ => DownReason::PortFailed { path, error: error.to_string() },
        }
    })
}
