//! Beside step 11: up to which moment everything that was tapped at a controller is stored, and up to which a destination has
//! been told of it. Pure: hellos, marks and times are arguments.
//!
//! A hello speaks for the moment that it names: by then, all that had been tapped was in the outboxes as far as it says
//! (`docs/protocol.md`). When its controller has seen signed receipts for all of that, and the store has it, everything
//! before that moment is stored. Both are asked, because either may have been put back from a backup: a controller that was
//! numbers anew and has no receipt for it, a store that was has lost what it had receipted.
//!
//! **Invariant**: a moment that was said once stays true. A tap that is stored later happened later, or its controller had
//! told nobody of the outbox that it came from.

use serde::Serialize;
use tap_protocol::codec::VERSION_1;
use tap_protocol::hello::Hello;
use tap_protocol::ids::{ControllerId, OutboxId, Seq};
use tap_protocol::time_repair::TrueTime;

use crate::event_store::{MAX_UNCERTAINTY_MS, Standing, UtcMs};

/// Stands for the moment of a tap of whose time nothing is known: before all others.
pub const NOT_KNOWN: UtcMs = UtcMs(0);

/// A hello, and the moment that it speaks for.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    /// As it came.
    pub hello: &'a Hello,
    /// True time, at the earliest; `None` if that is not known.
    pub at: Option<UtcMs>,
}

/// An outbox as far as the store has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Which.
    pub outbox: OutboxId,
    /// Stored without a gap up to here.
    pub stored_through: Seq,
    /// Where it ends, as its controller said when it last named it.
    pub told_seq: Seq,
    /// It was being written when its controller last named it.
    pub is_written: bool,
    /// A person has said that nobody is to wait for what it still holds.
    pub is_waived: bool,
}

impl Known {
    /// Whether something may be in it that is not stored, now that its controller names it no more. One that was being
    /// written has gone with whatever was put into it after it was named: a disk was changed.
    pub fn is_missed(&self) -> bool {
        !self.is_waived && (self.is_written || self.told_seq > self.stored_through)
    }
}

/// The moment that a hello speaks for: its own, worked out like a tap's, and never later than it came.
pub fn moment(hello: &Hello, time: TrueTime, received: UtcMs) -> Option<UtcMs> {
    // What a newer agent writes may be taps that nobody here can read yet.
    if hello.record_version > VERSION_1 {
        return None;
    }
    match time {
        TrueTime::Known { utc_ms, uncertainty_ms } if uncertainty_ms <= MAX_UNCERTAINTY_MS => {
            Some(UtcMs(utc_ms.saturating_sub_unsigned(uncertainty_ms)).min(received))
        }
        TrueTime::Known { .. } | TrueTime::Estimated { .. } | TrueTime::Unknown | TrueTime::Disputed => None,
    }
}

/// How far a controller is complete after another hello, `complete` being how far it was before. `outboxes` are all that
/// it ever had.
pub fn after(
    complete: Option<UtcMs>,
    before: Option<Said<'_>>,
    now: Said<'_>,
    outboxes: &[Known],
) -> Option<UtcMs> {
    let said = [before, Some(now)].into_iter().flatten();
    let shown = said.filter(|said| is_stored(said.hello, now.hello, outboxes)).filter_map(|said| said.at);
    shown.chain(complete).max()
}

/// Whether all that `earlier` tells of is stored, as the store has it and as the controller itself was told by `later`.
fn is_stored(earlier: &Hello, later: &Hello, outboxes: &[Known]) -> bool {
    let known = |outbox: OutboxId| outboxes.iter().find(|known| known.outbox == outbox);
    let named = |hello: &Hello, outbox: OutboxId| hello.outboxes.iter().any(|named| named.outbox == outbox);
    let told = earlier.outboxes.iter().all(|told| {
        let stored_through = known(told.outbox).map_or(Seq::ZERO, |known| known.stored_through);
        let since = later.outboxes.iter().find(|since| since.outbox == told.outbox);
        let receipted_through = since.unwrap_or(told).receipted_through;
        told.last_seq <= receipted_through && told.last_seq <= stored_through
    });
    told && !outboxes.iter().any(|known| !named(later, known.outbox) && known.is_missed())
}

/// One controller, as far as a destination has been told of its taps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Door {
    /// Which.
    pub controller: ControllerId,
    /// At which site.
    pub site: String,
    /// Whether it is in use.
    pub standing: Standing,
    /// It is no door: its taps come over HTTP, whenever somebody brings them.
    pub is_source: bool,
    /// Everything that happened there before this is stored.
    pub complete: Option<UtcMs>,
    /// It has told of something that is not stored.
    pub is_missed: bool,
    /// When the earliest tap happened there, at the earliest, of which the destination has not been told: it is on its way,
    /// waits for its time or its person, is in doubt or refused. [`NOT_KNOWN`] if its time is not known.
    pub untold: Option<UtcMs>,
}

/// What holds a destination back at one controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    /// It has not told of itself how far it is complete.
    NeverComplete,
    /// What happened there since may be on the door.
    OnTheDoor,
    /// A tap that is stored, and of which the destination has not been told.
    Untold,
    /// The same, and nobody knows when that was.
    UntoldWithoutTime,
}

impl Holds {
    /// For people, after the controller's name.
    pub fn sentence(self) -> &'static str {
        match self {
            Holds::NeverComplete => "has never said how far it is complete",
            Holds::OnTheDoor => "may have taps of later on the device",
            Holds::Untold => "has a tap that is stored and not delivered, and that no person has set aside",
            Holds::UntoldWithoutTime => "has a tap that is not delivered, and whose time is not known",
        }
    }
}

impl Door {
    /// Of each tap that happened there before this moment the destination has been told, or a person has set it aside;
    /// and what keeps it from being later. `None` for one that keeps nothing back.
    ///
    /// Sources keep back what they have brought and is not told. So do doors that are out of use, and what they had told of
    /// and is not stored, until a person waives it.
    pub fn told_through(&self) -> Option<(Option<UtcMs>, Holds)> {
        let may_have_more = !self.is_source && (self.standing == Standing::Active || self.is_missed);
        let on_the_door = may_have_more.then(|| match self.complete {
            // A tap that is still to come may be told at a time that is so much too early.
            Some(complete) => {
                let told = UtcMs(complete.0.saturating_sub_unsigned(MAX_UNCERTAINTY_MS));
                (Some(told), Holds::OnTheDoor)
            }
            None => (None, Holds::NeverComplete),
        });
        let untold = self.untold.map(|untold| match untold {
            NOT_KNOWN => (None, Holds::UntoldWithoutTime),
            happened => (Some(happened), Holds::Untold),
        });
        on_the_door.into_iter().chain(untold).min()
    }
}

/// Through when each controller's site is complete but for that controller itself: what is stored of it is in order by
/// itself. `None` where another one has never said how far it is complete; the end of time where there is no other.
pub fn others_through(doors: &[Door], controller: &ControllerId) -> Option<UtcMs> {
    let own = doors.iter().find(|door| door.controller == *controller)?;
    let others = doors.iter().filter(|door| door.site == own.site && door.controller != *controller);
    let through =
        others.filter(|door| !door.is_source && (door.standing == Standing::Active || door.is_missed));
    through.map(|door| door.complete).min().unwrap_or(Some(UtcMs(i64::MAX)))
}

#[cfg(test)]
#[path = "complete_tests.rs"]
mod tests;
