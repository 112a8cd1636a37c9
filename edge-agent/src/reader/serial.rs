//! Step 1 of 12, serial: a reader on a serial port or USB adapter. Knows no badge rules; step 2 does.
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

use super::framing::Framing;
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
    /// What it says.
    pub framing: Framing,
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
            AgentGone = post.run(&config.path, config.baud, &config.framing) => {}
        }
    });
    RunningReader { name, kind: ReaderKind::Serial, progress, stop, task, lamp: None }
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
    async fn run(mut self, path: &str, baud: u32, framing: &Framing) -> AgentGone {
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
                    let Err(end) = self.listen(port, path, framing).await;
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
            self.pause(retry.failed((self.clock)().saturating_sub(opened_ms))).await;
        }
    }

    /// Waits, and turns meanwhile.
    async fn pause(&self, wait: Duration) {
        let mut end = std::pin::pin!(tokio::time::sleep(wait));
        while tokio::time::timeout(Duration::from_millis(TURN_MS), &mut end).await.is_err() {
            self.progress.turned((self.clock)());
        }
    }

    /// Reads until the port ends.
    async fn listen(
        &mut self,
        mut port: impl AsyncRead + Unpin,
        path: &str,
        framing: &Framing,
    ) -> Result<Infallible, End> {
        let mut parser = framing.parser();
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use tap_protocol::badge::Technology;
    use tokio::io::AsyncWriteExt;
    use tokio_serial::SerialPort;

    use super::*;

    const FRAME: &[u8] = b"\x0262E3086CED08\x03";

    /// A name for a port, as udev gives it, and a reader that watches it.
    struct Rig {
        folder: tempfile::TempDir,
        events: mpsc::Receiver<ReaderEvent>,
        reader: RunningReader,
    }

    impl Rig {
        fn path(&self) -> PathBuf {
            self.folder.path().join("reader")
        }

        fn new() -> Rig {
            let folder = tempfile::tempdir().unwrap();
            let (sender, events) = mpsc::channel(4);
            let config = SerialConfig {
                name: "out".parse().unwrap(),
                path: folder.path().join("reader").to_str().unwrap().to_owned(),
                baud: DEFAULT_BAUD,
                framing: Framing::Em4100,
            };
            Rig { folder, events, reader: spawn(config, sender, || 42) }
        }

        /// Gives the hardware's side of the port.
        fn plug_in(&self) -> SerialStream {
            let (hardware, port) = SerialStream::pair().unwrap();
            symlink(port.name().unwrap(), self.path()).unwrap();
            hardware
        }

        fn unplug(&self, hardware: SerialStream) {
            std::fs::remove_file(self.path()).unwrap();
            drop(hardware);
        }

        /// The next event in short.
        async fn next(&mut self) -> String {
            match self.events.recv().await.unwrap() {
                ReaderEvent::Card(read) => {
                    assert_eq!(
                        (read.credential.technology(), read.seen_at_boottime_ms),
                        (Technology::Em4100, 42)
                    );
                    read.credential.reveal()
                }
                ReaderEvent::Removed { .. } => "removed".to_owned(),
                ReaderEvent::Rejected { why, .. } => why.kind().to_owned(),
                ReaderEvent::Odd { what, .. } => what.kind().to_owned(),
                ReaderEvent::Up { .. } => "up".to_owned(),
                ReaderEvent::Down { why, .. } => why.kind().to_owned(),
            }
        }
    }

    #[tokio::test]
    async fn a_port_may_come_late_go_and_come_back() {
        let mut rig = Rig::new();
        assert_eq!(rig.next().await, "port_missing");
        for _ in 0..2 {
            let mut hardware = rig.plug_in();
            assert_eq!(rig.next().await, "up");
            assert!(rig.reader.progress().is_up());
            hardware.write_all(FRAME).await.unwrap();
            assert_eq!(rig.next().await, "em4100:62E3086CED");
            rig.unplug(hardware);
            assert_eq!(rig.next().await, "port_closed");
            assert_eq!(rig.next().await, "port_missing");
            assert!(!rig.reader.progress().is_up());
        }
        assert_eq!(rig.reader.progress().recoveries(RecoveryStep::Port), 2);
        rig.reader.stop().await;
    }

    #[tokio::test]
    async fn noise_and_pieces_on_the_line() {
        let mut rig = Rig::new();
        assert_eq!(rig.next().await, "port_missing");
        let mut hardware = rig.plug_in();
        assert_eq!(rig.next().await, "up");
        hardware.write_all(&[0xFF; 100]).await.unwrap();
        assert_eq!(rig.next().await, "noise");
        for byte in FRAME {
            hardware.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(rig.next().await, "em4100:62E3086CED");
        hardware.write_all(&FRAME[..9]).await.unwrap();
        hardware.write_all(FRAME).await.unwrap();
        assert_eq!(rig.next().await, "cut_frame");
        assert_eq!(rig.next().await, "em4100:62E3086CED");
        rig.reader.stop().await;
    }

    #[tokio::test]
    async fn a_port_that_somebody_else_holds_is_told_as_such() {
        let mut rig = Rig::new();
        assert_eq!(rig.next().await, "port_missing");
        let (_hardware, port) = SerialStream::pair().unwrap();
        let other = open(&port.name().unwrap(), DEFAULT_BAUD).unwrap();
        symlink(port.name().unwrap(), rig.path()).unwrap();
        assert_eq!(rig.next().await, "port_busy");
        drop(other);
        assert_eq!(rig.next().await, "up");
        rig.reader.stop().await;
    }

    #[tokio::test]
    async fn a_reader_stops_though_nobody_drains_its_events() {
        let mut rig = Rig::new();
        assert_eq!(rig.next().await, "port_missing");
        let mut hardware = rig.plug_in();
        hardware.write_all(&FRAME.repeat(40)).await.unwrap();
        while rig.events.len() < 4 {
            tokio::task::yield_now().await;
        }
        rig.reader.stop().await;
    }

    #[tokio::test]
    async fn a_reader_ends_when_the_agent_is_gone() {
        let rig = Rig::new();
        drop(rig.events);
        rig.reader.task.await.unwrap();
    }
}
