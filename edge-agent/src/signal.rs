//! Step 4 of 12: the answer to the person at the reader. Green takes a [`Committed`] tap and nothing else can be turned
//! green, so the light cannot promise what the medium does not hold.
//!
//! Knows what to show and which hardware shows it; why something is shown was decided before.

pub mod pattern;

use tap_protocol::ids::ReaderName;
use tap_protocol::tap::{Tap, Verdict};

pub use pattern::Signal;

use crate::outbox::worker::Committed;

/// Something that can show a signal at a reader.
pub trait Lamp: Send {
    /// Shows it for a moment. Must return at once; a lamp that fails is the lamp's own business.
    fn show(&mut self, reader: &ReaderName, signal: Signal);

    /// The standing light, told when it changes: whether a tap at this reader would be recorded. Must return at once.
    fn in_service(&mut self, reader: &ReaderName, yes: bool);
}

/// All lamps of the controller.
pub struct Signals {
    lamps: Vec<Box<dyn Lamp>>,
}

impl Signals {
    /// With these lamps.
    pub fn new(lamps: Vec<Box<dyn Lamp>>) -> Signals {
        Signals { lamps }
    }

    /// The only way to green: a tap that is on the medium.
    pub fn recorded(&mut self, tap: &Committed<Tap>, online: bool) -> Signal {
        let signal = match (tap.value().verdict, online) {
            (Verdict::Unknown | Verdict::Revoked, _) => Signal::UnknownBadge,
            (Verdict::Known | Verdict::NoRoster, true) => Signal::Recorded,
            (Verdict::Known | Verdict::NoRoster, false) => Signal::RecordedOffline,
        };
        self.light(&tap.value().reader, signal);
        signal
    }

    /// What was shown is not a badge.
    pub fn not_a_badge(&mut self, reader: &ReaderName) {
        self.show(reader, Signal::NotABadge);
    }

    /// The tap is not on the medium yet.
    pub fn wait(&mut self, reader: &ReaderName) {
        self.show(reader, Signal::Wait);
    }

    /// The tap could not be made durable.
    pub fn out_of_service(&mut self, reader: &ReaderName) {
        self.show(reader, Signal::OutOfService);
    }

    /// Shows what promises nothing; the way to the others is [`Signals::recorded`].
    fn show(&mut self, reader: &ReaderName, signal: Signal) {
        assert!(!signal.promises(), "{signal} takes a committed tap");
        self.light(reader, signal);
    }

    /// Whether a tap at this reader would be recorded, to be seen before the tap.
    pub fn in_service(&mut self, reader: &ReaderName, yes: bool) {
        self.lamps.iter_mut().for_each(|lamp| lamp.in_service(reader, yes));
    }

    fn light(&mut self, reader: &ReaderName, signal: Signal) {
        self.lamps.iter_mut().for_each(|lamp| lamp.show(reader, signal));
    }
}

/// Shows signals in the log: what a controller without light and sound has.
#[derive(Debug)]
pub struct LogLamp;

impl Lamp for LogLamp {
    fn show(&mut self, reader: &ReaderName, signal: Signal) {
        tracing::debug!(%reader, "signal: {signal}");
    }

    fn in_service(&mut self, reader: &ReaderName, yes: bool) {
        tracing::debug!(%reader, "standing light: {}", if yes { "in service" } else { "out of service" });
    }
}
