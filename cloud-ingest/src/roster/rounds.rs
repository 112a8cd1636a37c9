//! Beside the line: which door is sent what of the roster, and when. Pure: takes hellos, wishes and `now`, gives the next
//! message.
//!
//! A thousand doors that hear of a large import together want gigabytes. They share one budget of bytes a second, a message
//! each in turn, and each has at most one wish open, so nothing piles up: neither here nor in the broker, which would have
//! to throw receipts away for it. A door that waits too long asks again, which replaces its wish by the same.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use tap_protocol::ids::ControllerId;
use tap_protocol::limits::HELLO_EVERY_MS;

use crate::event_store::UtcMs;

/// All doors together: what an Ethernet of 100 Mbit/s carries beside the taps. 1,000 doors have 100,000 badges in seven
/// minutes.
const BYTES_PER_SECOND: i64 = 4 * 1024 * 1024;

/// What may go at once: so little that receipts hardly wait behind it.
const BURST_BYTES: i64 = 512 * 1024;

/// Doors ask for four at a time; more than this at once is cut.
const MAX_CHUNKS_AT_ONCE: u32 = 16;

/// A door that has the newest roster is told again that it is, this often: six days before it would count as stale.
const REDATE_EVERY_MS: i64 = 24 * 60 * 60 * 1_000;

/// A door that has another one is told with each hello.
const HEAD_AGAIN_MS: i64 = HELLO_EVERY_MS as i64 - 5_000;

/// Who said hello within this time is probably there.
const PRESENT_MS: i64 = 3 * HELLO_EVERY_MS as i64;

/// After the connection took nothing, it is left alone for so long.
const PAUSE_MS: i64 = 200;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// To whom.
    pub controller: ControllerId,
    /// What.
    pub what: What,
}

/// A part of the newest roster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Its head.
    Head,
    /// One of its chunks.
    Chunk(u32),
}

/// Says who is next.
#[derive(Debug, Default)]
pub struct Rounds {
    newest: Option<Newest>,
    /// As many as there are controllers: who is not known to the store never gets here.
    doors: BTreeMap<ControllerId, Door>,
    /// Doors with something due, each once.
    turn: VecDeque<ControllerId>,
    /// Below zero after a message that was larger than what was left.
    budget_bytes: i64,
    budget_at: Option<UtcMs>,
    pause_until: Option<UtcMs>,
}

#[derive(Debug, Clone, Copy)]
struct Newest {
    version: u64,
    chunks: u32,
}

#[derive(Debug, Default)]
struct Door {
    has: Option<u64>,
    greeted: Option<UtcMs>,
    /// Which head it was last sent, and when.
    told: Option<(u64, UtcMs)>,
    owes_head: bool,
    wish: Range<u32>,
    in_turn: bool,
}

impl Rounds {
    /// There is a newer roster. Who is there is told; wishes for older ones are void.
    pub fn published(&mut self, version: u64, chunks: u32, now: UtcMs) {
        self.newest = Some(Newest { version, chunks });
        for (controller, door) in &mut self.doors {
            door.wish = 0..0;
            door.owes_head = door.greeted.is_some_and(|at| now.0.saturating_sub(at.0) <= PRESENT_MS);
            if door.owes_head {
                line_up(&mut self.turn, controller, door);
            }
        }
    }

    /// A door said hello and which roster it has.
    pub fn greeted(&mut self, controller: &ControllerId, has: Option<u64>, now: UtcMs) {
        let door = self.doors.entry(controller.clone()).or_default();
        (door.has, door.greeted) = (has, Some(now));
        let Some(newest) = self.newest else { return };
        let again_ms = if has == Some(newest.version) { REDATE_EVERY_MS } else { HEAD_AGAIN_MS };
        let is_told = door.told.is_some_and(|(version, at)| {
            version == newest.version && (0..again_ms).contains(&(now.0 - at.0))
        });
        if !is_told {
            door.owes_head = true;
            line_up(&mut self.turn, controller, door);
        }
    }

    /// A door asks for chunks. Those of another roster than the newest it is not given, but told of that one.
    pub fn wanted(&mut self, controller: &ControllerId, version: u64, from: u32, count: u32) {
        let Some(newest) = self.newest else { return };
        let door = self.doors.entry(controller.clone()).or_default();
        if version == newest.version {
            let end = from.saturating_add(count.min(MAX_CHUNKS_AT_ONCE)).min(newest.chunks);
            door.wish = from.min(end)..end;
        } else if door.told.is_none_or(|(told, _)| told != newest.version) {
            door.owes_head = true;
        }
        if door.owes_head || !door.wish.is_empty() {
            line_up(&mut self.turn, controller, door);
        }
    }

    /// The next message, if one may go now.
    pub fn next(&mut self, now: UtcMs) -> Option<Send> {
        if self.pause_until.is_some_and(|until| now < until) {
            return None;
        }
        self.earn(now);
        while self.budget_bytes > 0 {
            let controller = self.turn.pop_front()?;
            let door = self.doors.get_mut(&controller)?;
            door.in_turn = false;
            let what = if std::mem::take(&mut door.owes_head) {
                door.told = self.newest.map(|newest| (newest.version, now));
                What::Head
            } else if let Some(index) = door.wish.next() {
                What::Chunk(index)
            } else {
                continue;
            };
            if !door.wish.is_empty() {
                line_up(&mut self.turn, &controller, door);
            }
            return Some(Send { controller, what });
        }
        None
    }

    /// It went out, and had so many bytes.
    pub fn sent(&mut self, bytes: usize) {
        self.budget_bytes -= i64::try_from(bytes).unwrap_or(BURST_BYTES);
    }

    /// The connection took nothing. A head is due again; chunks are for the door to ask for again.
    pub fn not_sent(&mut self, send: Send, now: UtcMs) {
        self.pause_until = Some(UtcMs(now.0 + PAUSE_MS));
        let Some(door) = self.doors.get_mut(&send.controller) else { return };
        match send.what {
            What::Head => (door.owes_head, door.told) = (true, None),
            What::Chunk(index) => door.wish.start = index,
        }
        line_up(&mut self.turn, &send.controller, door);
    }

    /// When [`Rounds::next`] may have something, as far as time alone brings it.
    pub fn wake_in_ms(&self) -> Option<u64> {
        (!self.turn.is_empty()).then_some(PAUSE_MS.unsigned_abs() / 4)
    }

    /// The highest version that a door says it has.
    pub fn claimed(&self) -> Option<u64> {
        self.doors.values().filter_map(|door| door.has).max()
    }

    fn earn(&mut self, now: UtcMs) {
        // A clock that was set earns nothing, and costs no more than what was earned.
        let since_ms = self.budget_at.map_or(1_000, |at| now.0.saturating_sub(at.0).clamp(0, 1_000));
        self.budget_at = Some(now);
        let earned = since_ms * BYTES_PER_SECOND / 1_000;
        self.budget_bytes = (self.budget_bytes + earned).min(BURST_BYTES);
    }
}

fn line_up(turn: &mut VecDeque<ControllerId>, controller: &ControllerId, door: &mut Door) {
    if !std::mem::replace(&mut door.in_turn, true) {
        turn.push_back(controller.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UtcMs = UtcMs(1_700_000_000_000);
    const CHUNK_BYTES: usize = 32_400;

    fn door(n: usize) -> ControllerId {
        format!("door-{n}").parse().unwrap()
    }

    fn after(ms: i64) -> UtcMs {
        UtcMs(NOW.0 + ms)
    }

    /// All that goes out at that moment, each message of so many bytes.
    fn all(rounds: &mut Rounds, now: UtcMs, bytes: usize) -> Vec<(String, What)> {
        let mut sent = Vec::new();
        while let Some(send) = rounds.next(now) {
            rounds.sent(bytes);
            sent.push((send.controller.to_string(), send.what));
        }
        sent
    }

    fn to(n: usize, what: What) -> (String, What) {
        (door(n).to_string(), what)
    }

    #[test]
    fn a_door_that_has_another_roster_is_told_after_each_hello() {
        let mut rounds = Rounds::default();
        rounds.published(7, 3, NOW);
        for has in [None, Some(6), Some(8)] {
            rounds = Rounds::default();
            rounds.published(7, 3, NOW);
            rounds.greeted(&door(1), has, NOW);
            assert_eq!(all(&mut rounds, NOW, 1), [to(1, What::Head)]);
            rounds.greeted(&door(1), has, after(1_000));
            assert_eq!(all(&mut rounds, after(1_000), 1), [], "a hello in between is no reason");
            rounds.greeted(&door(1), has, after(60_000));
            assert_eq!(all(&mut rounds, after(60_000), 1), [to(1, What::Head)]);
        }
    }

    #[test]
    fn a_door_that_has_the_newest_is_told_so_once_a_day() {
        let mut rounds = Rounds::default();
        rounds.published(7, 3, NOW);
        let mut told = Vec::new();
        for hour in 0..72 {
            let now = after(hour * 3_600_000);
            rounds.greeted(&door(1), Some(7), now);
            if !all(&mut rounds, now, 1).is_empty() {
                told.push(hour);
            }
        }
        assert_eq!(told, [0, 24, 48]);
    }

    #[test]
    fn a_new_roster_is_told_at_once_to_who_is_there() {
        let mut rounds = Rounds::default();
        rounds.greeted(&door(1), None, NOW);
        rounds.greeted(&door(2), None, after(200_000));
        assert_eq!(all(&mut rounds, after(200_000), 1), [], "there is none yet");
        rounds.published(7, 3, after(200_000));
        assert_eq!(all(&mut rounds, after(200_000), 1), [to(2, What::Head)]);
    }

    #[test]
    fn a_wish_is_fulfilled_in_order_and_only_as_far_as_there_are_chunks() {
        let mut rounds = Rounds::default();
        rounds.published(7, 5, NOW);
        rounds.wanted(&door(1), 7, 3, 4);
        assert_eq!(all(&mut rounds, NOW, 1), [to(1, What::Chunk(3)), to(1, What::Chunk(4))]);
        rounds.wanted(&door(1), 7, 5, 1);
        rounds.wanted(&door(1), 7, u32::MAX, u32::MAX);
        assert_eq!(all(&mut rounds, NOW, 1), []);
        rounds.published(8, 1_000, NOW);
        rounds.wanted(&door(1), 8, 0, 1_000);
        assert_eq!(all(&mut rounds, NOW, 1).len(), MAX_CHUNKS_AT_ONCE as usize);
    }

    #[test]
    fn who_asks_for_an_older_roster_is_told_of_the_newest_once() {
        let mut rounds = Rounds::default();
        rounds.published(7, 5, NOW);
        rounds.wanted(&door(1), 7, 0, 4);
        rounds.published(8, 5, NOW);
        assert_eq!(all(&mut rounds, NOW, 1), [], "what it wished for is no more");
        rounds.wanted(&door(1), 7, 0, 4);
        rounds.wanted(&door(1), 7, 0, 4);
        assert_eq!(all(&mut rounds, NOW, 1), [to(1, What::Head)]);
        rounds.wanted(&door(1), 7, 0, 4);
        assert_eq!(all(&mut rounds, NOW, 1), []);
    }

    #[test]
    fn a_thousand_doors_share_one_budget_in_turns_and_a_wish_said_again_is_one_wish() {
        let mut rounds = Rounds::default();
        rounds.published(7, 53, NOW);
        let mut sent = [0u32; 1_000];
        let mut bytes = 0;
        for tenth in 0..600 {
            let now = after(tenth * 100);
            if tenth % 100 == 0 {
                (0..1_000).for_each(|n| rounds.wanted(&door(n), 7, 0, 4));
            }
            let mut burst = 0;
            while let Some(send) = rounds.next(now) {
                rounds.sent(CHUNK_BYTES);
                burst += CHUNK_BYTES;
                let n: usize = send.controller.as_str()[5..].parse().unwrap();
                sent[n] += 1;
            }
            assert!(burst <= BURST_BYTES as usize + CHUNK_BYTES);
            bytes += burst;
        }
        let a_minute = BYTES_PER_SECOND as usize * 60;
        assert!((a_minute * 98 / 100..a_minute + BURST_BYTES as usize).contains(&bytes), "{bytes}");
        assert!(sent.iter().max().unwrap() - sent.iter().min().unwrap() <= 4, "in turns");
    }

    #[test]
    fn what_found_no_room_goes_a_little_later_and_nothing_is_skipped() {
        let mut rounds = Rounds::default();
        rounds.published(7, 5, NOW);
        rounds.greeted(&door(1), None, NOW);
        rounds.wanted(&door(1), 7, 0, 2);
        for _ in 0..2 {
            let head = rounds.next(NOW).unwrap();
            assert_eq!(head.what, What::Head);
            rounds.not_sent(head, NOW);
            assert_eq!(rounds.next(NOW), None);
            assert!(rounds.wake_in_ms().is_some());
            rounds.pause_until = None;
        }
        assert_eq!(rounds.next(NOW).unwrap().what, What::Head);
        let first = rounds.next(NOW).unwrap();
        assert_eq!(first.what, What::Chunk(0));
        rounds.not_sent(first, NOW);
        assert_eq!(all(&mut rounds, after(PAUSE_MS), 1), [to(1, What::Chunk(0)), to(1, What::Chunk(1))]);
        assert_eq!(rounds.wake_in_ms(), None);
    }

    #[test]
    fn a_clock_that_goes_back_stops_nothing() {
        let mut rounds = Rounds::default();
        rounds.published(7, 60, NOW);
        let mut sent = 0;
        for n in 0..60 {
            rounds.wanted(&door(1), 7, n, 1);
            sent += all(&mut rounds, after(n64(n) * 20 - 3_600_000 * i64::from(n > 10)), CHUNK_BYTES).len();
        }
        assert!(sent > 40, "{sent}");
    }

    fn n64(n: u32) -> i64 {
        i64::from(n)
    }
}
