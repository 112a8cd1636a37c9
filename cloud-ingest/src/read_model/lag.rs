//! Beside the line: how far a controller is behind, and the one cause to look at first. Pure.

use serde::Serialize;
use tap_protocol::hello::{OutboxHello, ReaderState};
use tap_protocol::ids::Seq;
use tap_protocol::limits::{HELLO_EVERY_MS, RESEND_AFTER_MS};
use tap_protocol::record::ClockState;

use super::rewound;
use crate::event_store::{ControllerState, OutboxState, UtcMs};

/// Three hellos missed in a row are no accident any more.
pub const SILENT_AFTER_MS: i64 = 3 * HELLO_EVERY_MS as i64;

/// Records that wait longer than two resends although the controller talks to us are stuck.
pub const STUCK_AFTER_MS: u64 = 2 * RESEND_AFTER_MS;

/// Why a controller deserves a look, the weightiest first; exactly one applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It holds receipts that this store cannot have given: see [`super::rewound`].
    StoreRewound,
    /// Nothing ever came from it.
    NeverSeen,
    /// The broker says that its connection is gone.
    Gone,
    /// No hello for three minutes.
    Silent,
    /// It says hello, and its records do not get through.
    Stuck,
    /// It is sending what it has collected.
    CatchingUp,
    /// A reader does not answer.
    ReaderDown,
    /// Its clock is not synchronised and nothing else has told the time of this boot: taps wait for it. (Where receipts
    /// tell it, an unsynchronised clock is nothing to look at.)
    ClockUnsynced,
    /// Nothing.
    Ok,
}

impl Cause {
    /// All causes, the weightiest first.
    pub const ALL: [Cause; 9] = [
        Cause::StoreRewound,
        Cause::NeverSeen,
        Cause::Gone,
        Cause::Silent,
        Cause::Stuck,
        Cause::CatchingUp,
        Cause::ReaderDown,
        Cause::ClockUnsynced,
        Cause::Ok,
    ];

    /// The name in JSON, metrics and on screens.
    pub fn name(self) -> &'static str {
        match self {
            Cause::StoreRewound => "store_rewound",
            Cause::NeverSeen => "never_seen",
            Cause::Gone => "gone",
            Cause::Silent => "silent",
            Cause::Stuck => "stuck",
            Cause::CatchingUp => "catching_up",
            Cause::ReaderDown => "reader_down",
            Cause::ClockUnsynced => "clock_unsynced",
            Cause::Ok => "ok",
        }
    }

    /// For people.
    pub fn sentence(self) -> &'static str {
        match self {
            Cause::StoreRewound => {
                "It holds receipts for records that the store lacks: was a backup put back? Run cloud-ingest store restored."
            }
            Cause::NeverSeen => "Nothing ever came from it: is it enrolled and switched on?",
            Cause::Gone => "Its connection to the broker is gone; taps wait on the device.",
            Cause::Silent => "No hello for three minutes; taps wait on the device.",
            Cause::Stuck => {
                "It is connected, but its records do not arrive: look for rejected messages and broker rights."
            }
            Cause::CatchingUp => "It is sending what it has collected.",
            Cause::ReaderDown => "A reader does not answer.",
            Cause::ClockUnsynced => {
                "Its clock is not synchronised, and nothing has told the true time since it was switched on; taps wait for it."
            }
            Cause::Ok => "All is well.",
        }
    }
}

/// How far behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Lag {
    /// Records that it has and we have not, as far as it told.
    pub records: u64,
    /// How long the oldest of them has waited; 0 if none does.
    pub ms: u64,
    /// What to look at first.
    pub cause: Cause,
}

/// Works it out.
pub fn of(state: &ControllerState, now: UtcMs) -> Lag {
    let records =
        state.outboxes.iter().map(|o| last_told(state, o).0.saturating_sub(o.stored_through.0)).sum();
    let since = |then: UtcMs| u64::try_from(now.0.saturating_sub(then.0)).unwrap_or(0);
    let waited_at_hello = state.hello.as_ref().and_then(|hello| {
        let oldest = hello.hello.outboxes.iter().filter_map(|o| o.oldest_unreceipted_age_ms).max()?;
        Some(oldest + since(hello.received))
    });
    // Without a word from the device itself, the time since its mark last moved is the best there is.
    let waited = waited_at_hello
        .or_else(|| state.outboxes.iter().filter_map(|o| o.last_stored).max().map(since))
        .unwrap_or(0);
    let ms = if records == 0 { 0 } else { waited };
    Lag { records, ms, cause: cause(state, records, ms, now) }
}

/// The end of an outbox as far as its controller told. One that is not written any more ends where the last hello says:
/// if another one says its end again, that is less than was told before.
fn last_told(state: &ControllerState, outbox: &OutboxState) -> Seq {
    let hello = state.hello.as_ref().map(|hello| hello.hello.outboxes.as_slice());
    let (_, older) = hello.and_then(<[_]>::split_last).unzip();
    let named = older.into_iter().flatten().find(|named: &&OutboxHello| named.outbox == outbox.outbox);
    named.map_or(outbox.last_seq, |named| named.last_seq)
}

fn cause(state: &ControllerState, lag_records: u64, lag_ms: u64, now: UtcMs) -> Cause {
    let Some(hello) = &state.hello else {
        return match (state.outboxes.is_empty(), state.gone) {
            (true, None) => Cause::NeverSeen,
            (_, Some(_)) => Cause::Gone,
            (false, None) => Cause::Silent,
        };
    };
    if !rewound::of(state).is_empty() {
        Cause::StoreRewound
    } else if state.gone.is_some() {
        Cause::Gone
    } else if now.0.saturating_sub(hello.received.0) > SILENT_AFTER_MS {
        Cause::Silent
    } else if lag_records > 0 && lag_ms > STUCK_AFTER_MS && !moved_lately(state, now) {
        Cause::Stuck
    } else if lag_records > 0 {
        Cause::CatchingUp
    } else if hello.hello.readers.iter().any(|reader| reader.state == ReaderState::Down) {
        Cause::ReaderDown
    } else if hello.hello.clock != ClockState::Synced && !last_record_has_time(state) {
        Cause::ClockUnsynced
    } else {
        Cause::Ok
    }
}

/// Whether the last record of the outbox that is being written has a true time: then so have the next.
fn last_record_has_time(state: &ControllerState) -> bool {
    let newest = state.hello.as_ref().and_then(|hello| hello.hello.outboxes.last());
    let written = newest.and_then(|newest| state.outboxes.iter().find(|o| o.outbox == newest.outbox));
    written.is_some_and(|outbox| outbox.last_occurred.is_some())
}

fn moved_lately(state: &ControllerState, now: UtcMs) -> bool {
    let last = state.outboxes.iter().filter_map(|o| o.last_stored).max();
    last.is_some_and(|last| now.0.saturating_sub(last.0) <= STUCK_AFTER_MS as i64)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::event_store::{Controller, HelloState, OutboxState};
    use tap_protocol::hello::{Hello, OutboxHello, ReaderHello, ReaderKind};
    use tap_protocol::ids::{BootId, OutboxId, Seq, StoreEpoch};

    const NOW: UtcMs = UtcMs(10_000_000);

    /// All is well: one hello a second ago, one outbox with 9 records, all stored.
    pub(crate) fn well() -> ControllerState {
        ControllerState {
            controller: Controller {
                id: "door-1".parse().unwrap(),
                label: "Door".into(),
                site: "hq".into(),
                record_keys: vec![],
            },
            hello: Some(HelloState {
                received: UtcMs(NOW.0 - 1_000),
                hello: Hello {
                    controller: "door-1".parse().unwrap(),
                    boot_id: BootId([1; 16]),
                    boottime_ms: 1,
                    wall_ms: 1,
                    clock: ClockState::Synced,
                    agent_version: "0.1.0".into(),
                    record_version: 1,
                    roster_version: None,
                    outboxes: vec![OutboxHello {
                        outbox: OutboxId([7; 16]),
                        last_seq: Seq(9),
                        receipted_through: Seq(9),
                        store_epoch: None,
                        oldest_unreceipted_age_ms: None,
                    }],
                    readers: vec![ReaderHello {
                        reader: "in".parse().unwrap(),
                        kind: ReaderKind::Pcsc,
                        state: ReaderState::Up,
                    }],
                },
            }),
            gone: None,
            store_epoch: StoreEpoch(1),
            outboxes: vec![OutboxState {
                outbox: OutboxId([7; 16]),
                last_seq: Seq(9),
                stored_through: Seq(9),
                last_stored: Some(UtcMs(NOW.0 - 500_000)),
                last_occurred: None,
            }],
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut ControllerState), records: u64, ms: u64, cause: Cause) {
        let mut state = well();
        change(&mut state);
        assert_eq!(of(&state, NOW), Lag { records, ms, cause });
    }

    fn behind(state: &mut ControllerState, records: u64, waited_ms: u64) {
        state.outboxes[0].last_seq = Seq(9 + records);
        let hello = state.hello.as_mut().unwrap();
        hello.hello.outboxes[0].oldest_unreceipted_age_ms = Some(waited_ms);
    }

    #[test]
    fn what_another_outbox_says_again_is_not_waited_for() {
        let settled = |state: &mut ControllerState| {
            let old = OutboxId([6; 16]);
            let hello = &mut state.hello.as_mut().unwrap().hello;
            let told = OutboxHello { outbox: old, last_seq: Seq(4), ..hello.outboxes[0].clone() };
            hello.outboxes.insert(0, told);
            let known = state.outboxes[0].clone();
            state
                .outboxes
                .insert(0, OutboxState { outbox: old, last_seq: Seq(8), stored_through: Seq(6), ..known });
        };
        check(settled, 0, 0, Cause::Ok);
    }

    #[test]
    fn one_cause_is_named_the_weightiest_first() {
        check(|_| (), 0, 0, Cause::Ok);
        let unsynced = |s: &mut ControllerState| {
            s.hello.as_mut().unwrap().hello.clock = ClockState::Stepped;
        };
        check(unsynced, 0, 0, Cause::ClockUnsynced);
        check(
            |s| {
                unsynced(s);
                s.outboxes[0].last_occurred = Some(NOW);
            },
            0,
            0,
            Cause::Ok,
        );
        check(
            |s| s.hello.as_mut().unwrap().hello.readers[0].state = ReaderState::Down,
            0,
            0,
            Cause::ReaderDown,
        );
        check(|s| behind(s, 3, 200), 3, 1_200, Cause::CatchingUp);
        check(|s| behind(s, 3, 90_000), 3, 91_000, Cause::Stuck);
        check(
            |s| {
                behind(s, 3, 90_000);
                s.outboxes[0].last_stored = Some(NOW);
            },
            3,
            91_000,
            Cause::CatchingUp,
        );
        check(
            |s| {
                behind(s, 3, 200);
                s.hello.as_mut().unwrap().received = UtcMs(NOW.0 - 180_001);
            },
            3,
            180_201,
            Cause::Silent,
        );
        check(|s| s.gone = Some(NOW), 0, 0, Cause::Gone);
        check(
            |s| {
                let told = &mut s.hello.as_mut().unwrap().hello.outboxes[0];
                (told.store_epoch, told.receipted_through) = (Some(StoreEpoch(1)), Seq(10));
                s.gone = Some(NOW);
            },
            0,
            0,
            Cause::StoreRewound,
        );
        check(|s| s.hello = None, 0, 0, Cause::Silent);
        check(
            |s| {
                s.hello = None;
                s.outboxes.clear();
            },
            0,
            0,
            Cause::NeverSeen,
        );
    }
}
