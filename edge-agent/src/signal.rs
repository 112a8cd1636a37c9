//! Step 4 of 12: the answer to the person at the reader. Green takes a [`Committed`] tap and nothing else can be turned
//! green, so the light cannot promise what the medium does not hold.
//!
//! Knows what to show and which hardware shows it; why something is shown was decided before.

use std::fmt;

use serde::Serialize;
use tap_protocol::ids::ReaderName;
use tap_protocol::tap::{Tap, Verdict};

use crate::outbox::worker::Committed;

/// What a person can be told. Six different signals, none of which can be mistaken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// Recorded for good, and the cloud can be reached: steady green, one short beep.
    Recorded,
    /// Recorded for good; the cloud will hear of it later: green blinking twice, one short beep.
    RecordedOffline,
    /// Recorded, but the badge is not on the roster: green and amber, two short beeps.
    UnknownBadge,
    /// Not a badge (a bank card, a phone): amber blinking, one long low beep. Nothing was recorded.
    NotABadge,
    /// Not recorded yet: please wait. Amber steady, no sound.
    Wait,
    /// Nothing can be recorded here: red steady, three long beeps.
    OutOfService,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Signal::Recorded => "recorded",
            Signal::RecordedOffline => "recorded offline",
            Signal::UnknownBadge => "unknown badge",
            Signal::NotABadge => "not a badge",
            Signal::Wait => "wait",
            Signal::OutOfService => "out of service",
        })
    }
}

/// Something that can show a signal at a reader.
pub trait Lamp: Send {
    /// Shows it. Must return at once; a lamp that fails is the lamp's own business.
    fn show(&mut self, reader: &ReaderName, signal: Signal);
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
        self.show(&tap.value().reader, signal);
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

    fn show(&mut self, reader: &ReaderName, signal: Signal) {
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
}
