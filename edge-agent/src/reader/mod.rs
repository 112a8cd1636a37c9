//! Step 1 of 12: bytes from a card reader become a [`CardRead`]. Knows no person, no door policy and no outbox.
//!
//! Every reader runs by itself, heals by itself and speaks through one bounded channel of [`ReaderEvent`]s; the
//! agent's loop owns the other end. Adapters touch hardware ([`pcsc`], [`serial`]), the rest decides and is pure
//! ([`apdu`], [`watch`], [`em4100`], [`retry`]). A reader never drops a read because the agent is slow: it waits for
//! room, and it stops waiting when it is told to stop. A simulated reader is whoever else holds a sender.

pub mod apdu;
pub mod atr;
pub mod card_read;
pub mod em4100;
pub mod framing;
pub mod interpret;
pub mod lamp;
pub mod lamp_desk;
pub mod line;
pub mod number_line;
#[cfg(feature = "pcsc")]
pub mod pcsc;
#[cfg(feature = "pcsc")]
mod pcsc_lamp;
pub mod retry;
pub mod serial;
#[cfg(feature = "pcsc")]
mod supervise;
pub mod watch;
pub mod wiegand;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tap_protocol::hello::ReaderKind;
use tap_protocol::ids::ReaderName;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::signal::Lamp;
use card_read::{CardRead, Oddity, Reject};
use lamp_desk::LampDesk;

/// A reader says that it turned at least this often; its stop takes no longer either.
pub const TURN_MS: u64 = 500;

/// Everything a reader can say to the agent's loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReaderEvent {
    /// A number was read. A PC/SC reader says so once per presentation, and once more when it comes back from an
    /// outage with a card in its field; a serial reader for as long as the card is there. Step 2 tells them apart.
    Card(CardRead),
    /// The card left the field (PC/SC only).
    Removed {
        /// Which reader.
        reader: ReaderName,
        /// When: milliseconds of CLOCK_BOOTTIME.
        at_boottime_ms: u64,
    },
    /// Something was shown, or came in, that gave no number.
    Rejected {
        /// Which reader.
        reader: ReaderName,
        /// Why.
        why: Reject,
    },
    /// Something to know of that gave no tap and cost none.
    Odd {
        /// Which reader.
        reader: ReaderName,
        /// What.
        what: Oddity,
    },
    /// The reader works. Said once after each start and each outage.
    Up {
        /// Which reader.
        reader: ReaderName,
        /// What was found: the PC/SC name or the port.
        detail: String,
    },
    /// The reader does not work, and is being tried again. Said once per reason, so one may follow another.
    Down {
        /// Which reader.
        reader: ReaderName,
        /// Why.
        why: DownReason,
    },
}

/// Whether a PC/SC reader's name contains `wanted`, in any case. Everything does without one, but the pseudo reader.
pub fn is_called(name: &str, wanted: Option<&str>) -> bool {
    let name = name.to_lowercase();
    name.contains(&wanted.unwrap_or_default().to_lowercase()) && !name.starts_with(r"\\?pnp?\")
}

/// Why a reader does not work. `Display` says what happened, what it means and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DownReason {
    /// PC/SC: no pcscd.
    NoService,
    /// PC/SC: pcscd went away while it was in use.
    ServiceLost,
    /// PC/SC: pcscd is there and does not answer.
    Hanging {
        /// For how long.
        silent_ms: u64,
    },
    /// PC/SC: polkit refused.
    NotAllowed,
    /// PC/SC: no reader, or none with the configured name.
    NoReader {
        /// What the name should contain.
        wanted: Option<String>,
        /// The readers that are there.
        present: Vec<String>,
    },
    /// PC/SC: the reader was unplugged, or pcscd dropped it.
    ReaderGone {
        /// Its PC/SC name.
        name: String,
    },
    /// PC/SC: anything else.
    Pcsc {
        /// In PC/SC's words.
        error: String,
    },
    /// Serial: the port does not exist.
    PortMissing {
        /// The port.
        path: String,
    },
    /// Serial: another program holds the port.
    PortBusy {
        /// The port.
        path: String,
    },
    /// Serial: the port's permissions forbid it.
    PortDenied {
        /// The port.
        path: String,
    },
    /// Serial: the port ended, as when an adapter is unplugged.
    PortClosed {
        /// The port.
        path: String,
    },
    /// Serial: anything else.
    PortFailed {
        /// The port.
        path: String,
        /// In the system's words.
        error: String,
    },
    /// The reader's own thread could not be started or ended by a defect.
    NoThread {
        /// In the system's words.
        error: String,
    },
}

impl DownReason {
    /// The name under which it is counted.
    pub fn kind(&self) -> &'static str {
        match self {
            DownReason::NoService => "no_service",
            DownReason::ServiceLost => "service_lost",
            DownReason::Hanging { .. } => "hanging",
            DownReason::NotAllowed => "not_allowed",
            DownReason::NoReader { .. } => "no_reader",
            DownReason::ReaderGone { .. } => "reader_gone",
            DownReason::Pcsc { .. } => "pcsc",
            DownReason::PortMissing { .. } => "port_missing",
            DownReason::PortBusy { .. } => "port_busy",
            DownReason::PortDenied { .. } => "port_denied",
            DownReason::PortClosed { .. } => "port_closed",
            DownReason::PortFailed { .. } => "port_failed",
            DownReason::NoThread { .. } => "no_thread",
        }
    }
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DownReason::NoService => f.write_str(
                "The PC/SC service pcscd is not running, so no card can be read. Start it: systemctl start pcscd.socket",
            ),
            DownReason::ServiceLost => f.write_str(
                "The PC/SC service pcscd stopped or crashed, so no card can be read until it is back. \
                 It is being tried again; if this stays, see: journalctl -u pcscd",
            ),
            DownReason::Hanging { silent_ms } => write!(
                f,
                "The PC/SC service pcscd has not answered for {} s, so no card can be read. \
                 If this stays, restart it: systemctl restart pcscd.service; then unplug and replug the reader",
                silent_ms / 1000
            ),
            DownReason::NotAllowed => f.write_str(
                "The PC/SC service pcscd refuses this user, so no card can be read. \
                 Install the polkit rule that allows org.debian.pcsc-lite.access_pcsc and access_card",
            ),
            DownReason::NoReader { wanted: None, .. } => f.write_str(
                "No card reader is connected, so no card can be read. Plug it in; if lsusb shows it, \
                 a kernel module may hold it: modprobe -r pn533_usb",
            ),
            DownReason::NoReader { wanted: Some(wanted), present } if present.is_empty() => write!(
                f,
                "No card reader is connected, and one called \"{wanted}\" is configured, so no card can be read. \
                 Plug it in; if lsusb shows it, a kernel module may hold it: modprobe -r pn533_usb",
            ),
            DownReason::NoReader { wanted: Some(wanted), present } => write!(
                f,
                "No connected card reader is called \"{wanted}\", so no card can be read. Connected: {}. \
                 Plug the reader in or correct its name in the configuration",
                present.join(", ")
            ),
            DownReason::ReaderGone { name } => write!(
                f,
                "The card reader \"{name}\" is gone, so no card can be read. \
                 Plug it in again; if nobody unplugged it, check cable and power supply",
            ),
            DownReason::Pcsc { error } => write!(
                f,
                "The card reader failed, so no card can be read: {error}. It is being tried again; \
                 if this stays, see: journalctl -u pcscd",
            ),
            DownReason::PortMissing { path } => write!(
                f,
                "The serial port {path} does not exist, so no card can be read. \
                 Plug the reader in or correct the port in the configuration; see: ls -l /dev/serial/by-id",
            ),
            DownReason::PortBusy { path } => write!(
                f,
                "Another program holds the serial port {path}, so no card can be read. Find and stop it: fuser -v {path}",
            ),
            DownReason::PortDenied { path } => write!(
                f,
                "This user may not open the serial port {path}, so no card can be read. \
                 Add the user to the group that owns it, often dialout; see: ls -l {path}",
            ),
            DownReason::PortClosed { path } => write!(
                f,
                "The serial port {path} ended, so no card can be read. \
                 Plug the reader in again; if nobody unplugged it, check cable and power supply",
            ),
            DownReason::PortFailed { path, error } => write!(
                f,
                "The serial port {path} failed, so no card can be read: {error}. It is being tried again; \
                 check cable and configuration if this stays",
            ),
            DownReason::NoThread { error } => write!(
                f,
                "The reader's thread is not running, so no card can be read: {error}. It is being started again; \
                 restart the agent if this stays",
            ),
        }
    }
}

/// A step of recovery, for counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecoveryStep {
    /// PC/SC: a new context after the old one failed.
    Context = 0,
    /// PC/SC: a new thread after the old one hung.
    Thread = 1,
    /// Serial: the port opened again.
    Port = 2,
}

impl RecoveryStep {
    /// Every step.
    pub const ALL: [RecoveryStep; 3] = [RecoveryStep::Context, RecoveryStep::Thread, RecoveryStep::Port];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            RecoveryStep::Context => "context",
            RecoveryStep::Thread => "thread",
            RecoveryStep::Port => "port",
        }
    }
}

/// Whether a reader turns, for the watchdog and for `status`.
#[derive(Debug, Default)]
pub struct ReaderProgress {
    up: AtomicBool,
    last_turn_ms: AtomicU64,
    last_wait_ms: AtomicU64,
    recoveries: [AtomicU64; RecoveryStep::ALL.len()],
}

impl ReaderProgress {
    /// Whether the last thing the reader said was [`ReaderEvent::Up`].
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// When the reader's own loop last turned, whether the hardware answered or not (CLOCK_BOOTTIME; 0: never).
    /// For the watchdog: a missing reader is no reason to restart the agent, a loop that stands is.
    pub fn last_turn_boottime_ms(&self) -> u64 {
        self.last_turn_ms.load(Ordering::Relaxed)
    }

    /// When the reader last completed a wait for a card on working hardware (CLOCK_BOOTTIME; 0: never).
    pub fn last_wait_boottime_ms(&self) -> u64 {
        self.last_wait_ms.load(Ordering::Relaxed)
    }

    /// How often `step` succeeded since the start.
    pub fn recoveries(&self, step: RecoveryStep) -> u64 {
        self.counter(step).load(Ordering::Relaxed)
    }

    fn turned(&self, now_ms: u64) {
        self.last_turn_ms.store(now_ms, Ordering::Relaxed);
    }

    fn waited(&self, now_ms: u64) {
        self.last_wait_ms.store(now_ms, Ordering::Relaxed);
    }

    fn recovered(&self, step: RecoveryStep) {
        self.counter(step).fetch_add(1, Ordering::Relaxed);
    }

    fn counter(&self, step: RecoveryStep) -> &AtomicU64 {
        let [context, thread, port] = &self.recoveries;
        match step {
            RecoveryStep::Context => context,
            RecoveryStep::Thread => thread,
            RecoveryStep::Port => port,
        }
    }
}

/// A reader at work. Dropping it stops the reader too, without waiting for it.
#[derive(Debug)]
pub struct RunningReader {
    name: ReaderName,
    kind: ReaderKind,
    progress: Arc<ReaderProgress>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    lamp: Option<OwnedLamp>,
}

/// A lamp that ends with its reader.
#[derive(Debug)]
struct OwnedLamp(LampDesk);

impl Drop for OwnedLamp {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl RunningReader {
    /// Which reader of the controller.
    pub fn name(&self) -> &ReaderName {
        &self.name
    }

    /// How it is attached.
    pub fn kind(&self) -> ReaderKind {
        self.kind
    }

    /// Whether it turns.
    pub fn progress(&self) -> &Arc<ReaderProgress> {
        &self.progress
    }

    /// Its light and sound, if this kind of reader can have any.
    pub fn lamp(&self) -> Option<Box<dyn Lamp>> {
        self.lamp.as_ref().map(|lamp| lamp.0.lamp())
    }

    /// Stops it: within a second, whatever the hardware does, and whether or not anybody drains the events.
    pub async fn stop(self) {
        // Neither can fail in a way that matters: the task may have ended before, by a panic that was reported.
        let _ = self.stop.send(());
        let lamp = async {
            if let Some(lamp) = &self.lamp {
                lamp.0.close();
                lamp.0.farewell().await;
            }
        };
        let _ = tokio::join!(self.task, lamp);
    }
}

/// What was last said of a reader's health, so that only news is passed on.
#[derive(Debug, Default)]
struct Told(Option<&'static str>);

impl Told {
    /// Whether `event` tells anything new. Everything but health always does.
    fn is_news(&mut self, event: &ReaderEvent, progress: &ReaderProgress) -> bool {
        let health = match event {
            ReaderEvent::Up { .. } => "up",
            ReaderEvent::Down { why, .. } => why.kind(),
            ReaderEvent::Card(_)
            | ReaderEvent::Removed { .. }
            | ReaderEvent::Rejected { .. }
            | ReaderEvent::Odd { .. } => return true,
        };
        progress.up.store(health == "up", Ordering::Relaxed);
        self.0.replace(health) != Some(health)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_told_once_and_again_when_it_changes() {
        let reader: ReaderName = "in".parse().unwrap();
        let up = ReaderEvent::Up { reader: reader.clone(), detail: String::new() };
        let gone = ReaderEvent::Down { reader: reader.clone(), why: DownReason::NoService };
        let hangs = ReaderEvent::Down { reader, why: DownReason::Hanging { silent_ms: 5000 } };
        let (mut told, progress) = (Told::default(), ReaderProgress::default());
        let news = [&gone, &gone, &hangs, &gone, &up, &up, &gone].map(|event| told.is_news(event, &progress));
        assert_eq!(news, [true, false, true, true, true, false, true]);
        assert!(!progress.is_up());
    }

    #[test]
    fn every_reason_says_what_happened_what_it_means_and_what_to_do() {
        let path = || "/dev/ttyUSB0".to_owned();
        let reasons = [
            DownReason::NoService,
            DownReason::ServiceLost,
            DownReason::Hanging { silent_ms: 5_200 },
            DownReason::NotAllowed,
            DownReason::NoReader { wanted: None, present: vec![] },
            DownReason::NoReader { wanted: Some("ACR".to_owned()), present: vec![] },
            DownReason::NoReader { wanted: Some("ACR".to_owned()), present: vec!["OMNIKEY".to_owned()] },
            DownReason::ReaderGone { name: "ACR122U".to_owned() },
            DownReason::Pcsc { error: "out of memory".to_owned() },
            DownReason::PortMissing { path: path() },
            DownReason::PortBusy { path: path() },
            DownReason::PortDenied { path: path() },
            DownReason::PortClosed { path: path() },
            DownReason::PortFailed { path: path(), error: "EIO".to_owned() },
            DownReason::NoThread { error: "EAGAIN".to_owned() },
        ];
        for why in reasons {
            let text = why.to_string();
            assert!(text.contains("no card can be read") && text.len() > 100, "{text}");
        }
        assert!(DownReason::NoService.to_string().contains("systemctl start pcscd.socket"));
    }
}
