//! Step 5 of 12: what to send next. Pure: knows no socket, no database and no clock of its own.
//!
//! One outbox is sent at a time, strictly in order (go-back-N), the oldest first. The window counts batches *without a
//! receipt*: a broker's PUBACK says nothing about the store. On a new session everything without a receipt is sent
//! again, because the broker may have forgotten it; likewise when a receipt asks for it, and when receipts stop
//! moving. The downside is that a lost batch costs all batches behind it once more; at 13 KiB a batch and 32 batches
//! that is 400 KiB, and in exchange neither side ever keeps a list of holes.
//!
//! What is deliberately absent: any memory of what was sent. The outbox has it.

use std::collections::VecDeque;

use tap_protocol::chain::ChainHash;
use tap_protocol::ids::{OutboxId, Seq, StoreEpoch};
use tap_protocol::limits::{HELLO_EVERY_MS, MAX_UNRECEIPTED_BATCHES, RESEND_AFTER_MS};
use tap_protocol::receipt::Receipt;

/// After going back to a mark, requests to go back to the same mark are not obeyed for this long: a whole window of
/// batches behind one hole is answered with a whole window of such requests.
const RESEND_HOLDOFF_MS: u64 = 1_000;

/// How far receipts go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// A receipt covered 1 ..= this.
    pub receipted_through: Seq,
    /// The store epoch of that receipt.
    pub store_epoch: Option<StoreEpoch>,
}

/// Decides what goes out.
#[derive(Debug)]
pub struct Relay {
    /// Oldest first. The last one is being written.
    lanes: Vec<Lane>,
    connected: bool,
    /// A read was asked for and has not been answered.
    reading: bool,
    /// An outbox is being salvaged: nothing may overtake what it will have to send.
    held: bool,
    hello_due_ms: u64,
}

#[derive(Debug)]
struct Lane {
    id: OutboxId,
    last_seq: Seq,
    mark: Mark,
    sent_through: Seq,
    /// The last record of each batch on its way, in order.
    in_flight: VecDeque<Seq>,
    /// When the mark last moved, or sending last began anew.
    progress_ms: u64,
    /// When and from where sending last began anew.
    went_back: Option<(u64, Seq)>,
    /// That life of the store contradicts it: nothing of it is sent until that is settled, and the others go on. Over when
    /// a later life agrees: the cloud may have been restored to before the contradiction.
    disputed_by: Option<StoreEpoch>,
    /// Nothing is added to it any more.
    is_closed: bool,
}

/// What the agent is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Send {
    /// Say hello.
    Hello,
    /// Read a batch from `from` on, sign it, publish it and call [`Relay::sent`].
    Batch {
        /// Of which outbox.
        outbox: OutboxId,
        /// From which record on.
        from: Seq,
    },
}

/// What a receipt meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The mark moved: this much may be pruned, and the mark should be kept.
    Advanced(Mark),
    /// Nothing new.
    Nothing,
    /// The cloud was restored from a backup: sending starts again from its mark.
    Restored(Mark),
    /// The cloud has more than this outbox ever wrote: the file was put back to an older state. A new outbox must be
    /// started.
    Rewound,
    /// The cloud has other records under these numbers. Nothing is pruned.
    Forked,
    /// The cloud was restored to before what this outbox still has. It is sent no more until the numbers that are gone are
    /// filled with tombstones.
    HistoryGone,
    /// For an outbox that is not on this disk.
    Foreign,
}

impl Relay {
    /// Starts with what is on the disk, oldest first, not connected.
    pub fn new(outboxes: impl IntoIterator<Item = (OutboxId, Seq, Mark)>) -> Relay {
        let lanes = outboxes.into_iter().map(|(id, last_seq, mark)| Lane::new(id, last_seq, mark)).collect();
        Relay { lanes, connected: false, reading: false, held: false, hello_due_ms: 0 }
    }

    /// A new session: the broker may have forgotten everything.
    pub fn connected(&mut self, now_ms: u64) {
        self.connected = true;
        self.hello_due_ms = now_ms;
        for lane in &mut self.lanes {
            lane.go_back(now_ms);
        }
    }

    /// The session is over.
    pub fn disconnected(&mut self) {
        self.connected = false;
    }

    /// Whether a session is up.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// A hello is wanted now: somebody waits for its receipt.
    pub fn hello_now(&mut self, now_ms: u64) {
        self.hello_due_ms = now_ms;
    }

    /// The outbox was written up to `last_seq`.
    pub fn appended(&mut self, outbox: OutboxId, last_seq: Seq, now_ms: u64) {
        if let Some(lane) = self.lane(outbox) {
            assert!(last_seq >= lane.last_seq, "an outbox never gets shorter");
            if lane.in_flight.is_empty() {
                lane.progress_ms = now_ms;
            }
            lane.last_seq = last_seq;
        }
    }

    /// A new outbox is written from now on.
    pub fn started(&mut self, outbox: OutboxId, last_seq: Seq, mark: Mark) {
        if self.lane(outbox).is_none() {
            self.lanes.push(Lane::new(outbox, last_seq, mark));
        }
    }

    /// Another outbox says again what follows `last_seq` in this one. What is before that is still sent from here, should a
    /// store ever lack it.
    pub fn settled(&mut self, outbox: OutboxId, last_seq: Seq, mark: Mark) {
        self.started(outbox, last_seq, mark);
        if let Some(lane) = self.lane(outbox) {
            *lane = Lane { is_closed: true, ..Lane::new(outbox, last_seq, mark) };
        }
    }

    /// Where an outbox was settled, if it was.
    pub fn settled_at(&self, outbox: OutboxId) -> Option<Seq> {
        self.lanes.iter().find(|lane| lane.id == outbox && lane.is_closed).map(|lane| lane.last_seq)
    }

    /// Whatever contradicted it is settled.
    pub fn dispute_is_over(&mut self, outbox: OutboxId, now_ms: u64) {
        if let Some(lane) = self.lane(outbox)
            && lane.disputed_by.take().is_some()
        {
            lane.go_back(now_ms);
        }
    }

    /// Another outbox says this one again: it is sent no more.
    pub fn retired(&mut self, outbox: OutboxId) {
        self.lanes.retain(|lane| lane.id != outbox);
    }

    /// These outboxes are on the disk, oldest first: what is not among them is not sent, and the others in this order.
    pub fn shelf_is(&mut self, outboxes: impl Iterator<Item = OutboxId>) {
        let order: Vec<OutboxId> = outboxes.collect();
        let place = |id: &OutboxId| order.iter().position(|other| other == id);
        self.lanes.retain(|lane| place(&lane.id).is_some());
        self.lanes.sort_by_key(|lane| place(&lane.id));
    }

    /// Begins or ends waiting for an outbox that is being salvaged. The cloud must be asked what it has of it: in both
    /// cases a hello is due.
    pub fn hold(&mut self, held: bool) {
        if held || self.held {
            self.hello_due_ms = 0;
        }
        self.held = held;
    }

    /// What to do now, if anything. Call again after each answer, and when [`Relay::wake_at_ms`] has come.
    pub fn next(&mut self, now_ms: u64) -> Option<Send> {
        if !self.connected {
            return None;
        }
        if now_ms >= self.hello_due_ms {
            self.hello_due_ms = now_ms + HELLO_EVERY_MS;
            return Some(Send::Hello);
        }
        if self.reading || self.held {
            return None;
        }
        let lane = self.lanes.iter_mut().find(|lane| lane.has_something_to_send())?;
        if lane.is_stuck(now_ms) {
            lane.go_back(now_ms);
        }
        if lane.in_flight.len() >= MAX_UNRECEIPTED_BATCHES || lane.sent_through == lane.last_seq {
            return None;
        }
        self.reading = true;
        Some(Send::Batch { outbox: lane.id, from: lane.sent_through.next() })
    }

    /// When to call [`Relay::next`] again though nothing else happens. Never a moment at which that would change
    /// nothing: while a read is under way its answer comes first, and a lane behind another waits for its turn.
    pub fn wake_at_ms(&self) -> Option<u64> {
        if !self.connected {
            return None;
        }
        let sending = self.lanes.iter().find(|lane| lane.has_something_to_send());
        let stuck = sending.filter(|lane| !self.reading && !self.held && !lane.in_flight.is_empty());
        stuck.map(|lane| lane.progress_ms + RESEND_AFTER_MS).into_iter().chain([self.hello_due_ms]).min()
    }

    /// The batch that was asked for is on its way: records `from ..= through`.
    pub fn sent(&mut self, outbox: OutboxId, from: Seq, through: Seq) {
        self.reading = false;
        if let Some(lane) = self.lane(outbox)
            // Otherwise sending began anew while the batch was being read: it went out for nothing.
            && from == lane.sent_through.next()
        {
            lane.sent_through = through;
            lane.in_flight.push_back(through);
        }
    }

    /// The batch that was asked for could not be read or published; it is asked for again.
    pub fn not_sent(&mut self) {
        self.reading = false;
    }

    /// Takes an authentic receipt. `own_hash` is this outbox's `h(stored_through)`, if it still has it.
    pub fn receipt(&mut self, receipt: &Receipt, own_hash: Option<ChainHash>, now_ms: u64) -> Verdict {
        let newest = self.lanes.last().map(|lane| lane.id);
        let Some(lane) = self.lane(receipt.outbox) else { return Verdict::Foreign };
        let (through, epoch) = (receipt.stored_through, receipt.store_epoch);
        if lane.mark.store_epoch.is_some_and(|known| epoch < known) {
            return Verdict::Nothing;
        }
        let is_written = newest == Some(receipt.outbox) && !lane.is_closed;
        let has_all =
            lane.mark == Mark { receipted_through: lane.last_seq, store_epoch: Some(epoch) } && !is_written;
        if through > lane.last_seq {
            // A clone goes on with it, or what the store has from before it was left: of ours it lacks nothing.
            return if has_all { Verdict::Nothing } else { lane.dispute(Verdict::Rewound, epoch) };
        }
        if own_hash.is_some_and(|own| own != receipt.hash) {
            return lane.dispute(Verdict::Forked, epoch);
        }
        let is_settled =
            own_hash.is_some() && lane.disputed_by.take_if(|disputed| epoch > *disputed).is_some();
        let mark = Mark { receipted_through: through, store_epoch: Some(epoch) };
        let older = lane.mark.store_epoch.filter(|known| epoch > *known);
        let is_restored = older.is_some() && through < lane.mark.receipted_through;
        if let (true, Some(older), None) = (is_restored, older, own_hash) {
            return lane.dispute(Verdict::HistoryGone, older);
        }
        if lane.disputed_by.is_some() {
            return Verdict::Nothing;
        }
        if is_restored {
            lane.mark = mark;
            lane.go_back(now_ms);
            return Verdict::Restored(mark);
        }
        // Without its own hash at the mark an outbox believes nothing new: below what was pruned there is nothing new.
        let verdict = if through > lane.mark.receipted_through && own_hash.is_some() {
            lane.advance(mark, now_ms);
            Verdict::Advanced(mark)
        } else if lane.mark.store_epoch != mark.store_epoch && through == lane.mark.receipted_through {
            lane.mark = mark;
            Verdict::Advanced(mark)
        } else {
            Verdict::Nothing
        };
        let lane_mark = lane.mark.receipted_through;
        let just_did =
            lane.went_back.is_some_and(|(at, from)| from == lane_mark && now_ms < at + RESEND_HOLDOFF_MS);
        if is_settled || (receipt.resend && through == lane_mark && !just_did) {
            lane.go_back(now_ms);
        }
        verdict
    }

    /// Records without a receipt, over all outboxes.
    pub fn pending(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.last_seq.0 - lane.mark.receipted_through.0).sum()
    }

    fn lane(&mut self, id: OutboxId) -> Option<&mut Lane> {
        self.lanes.iter_mut().find(|lane| lane.id == id)
    }
}

impl Lane {
    fn new(id: OutboxId, last_seq: Seq, mark: Mark) -> Lane {
        let sent_through = mark.receipted_through;
        Lane {
            id,
            last_seq,
            mark,
            sent_through,
            in_flight: VecDeque::new(),
            progress_ms: 0,
            went_back: None,
            disputed_by: None,
            is_closed: false,
        }
    }

    fn has_something_to_send(&self) -> bool {
        self.mark.receipted_through < self.last_seq && self.disputed_by.is_none()
    }

    fn dispute(&mut self, verdict: Verdict, epoch: StoreEpoch) -> Verdict {
        self.disputed_by = Some(epoch);
        self.in_flight.clear();
        verdict
    }

    fn is_stuck(&self, now_ms: u64) -> bool {
        !self.in_flight.is_empty() && now_ms >= self.progress_ms + RESEND_AFTER_MS
    }

    fn go_back(&mut self, now_ms: u64) {
        self.in_flight.clear();
        self.sent_through = self.mark.receipted_through;
        self.progress_ms = now_ms;
        self.went_back = Some((now_ms, self.sent_through));
    }

    fn advance(&mut self, mark: Mark, now_ms: u64) {
        self.mark = mark;
        self.progress_ms = now_ms;
        self.sent_through = self.sent_through.max(mark.receipted_through);
        while self.in_flight.front().is_some_and(|last| *last <= mark.receipted_through) {
            self.in_flight.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_overtakes_an_outbox_that_is_being_salvaged() {
        let mut relay = relay(&[(B, 5, 0)]);
        relay.hold(true);
        assert_eq!(
            (relay.next(1), relay.next(1)),
            (Some(Send::Hello), None),
            "the cloud is asked what it has"
        );
        relay.started(A, Seq(3), Mark::default());
        relay.shelf_is([A, B].into_iter());
        relay.hold(false);
        assert_eq!((relay.next(2), relay.next(2)), (Some(Send::Hello), batch(A, 1)));
    }

    #[test]
    fn an_outbox_that_is_gone_is_not_sent() {
        let mut relay = relay(&[(A, 5, 0), (B, 5, 0)]);
        relay.shelf_is([B].into_iter());
        assert_eq!(relay.next(1), batch(B, 1));
        assert_eq!(relay.pending(), 5);
    }

    const A: OutboxId = OutboxId([1; 16]);
    const B: OutboxId = OutboxId([2; 16]);
    const HASH: ChainHash = ChainHash([7; 32]);
    const EPOCH: u64 = 5;

    fn relay(outboxes: &[(OutboxId, u64, u64)]) -> Relay {
        let mark = |through| Mark { receipted_through: Seq(through), store_epoch: Some(StoreEpoch(EPOCH)) };
        let mut relay =
            Relay::new(outboxes.iter().map(|(id, last, through)| (*id, Seq(*last), mark(*through))));
        relay.connected(0);
        assert_eq!(relay.next(0), Some(Send::Hello));
        relay
    }

    fn receipt(outbox: OutboxId, through: u64) -> Receipt {
        Receipt {
            controller: "hq-door-1".parse().unwrap(),
            store_epoch: StoreEpoch(EPOCH),
            outbox,
            stored_through: Seq(through),
            hash: HASH,
            resend: false,
            echo: None,
            cloud_utc_ms: 0,
        }
    }

    fn batch(outbox: OutboxId, from: u64) -> Option<Send> {
        Some(Send::Batch { outbox, from: Seq(from) })
    }

    /// Sends one batch of `n` records from wherever the relay wants to begin.
    #[track_caller]
    fn send(relay: &mut Relay, now_ms: u64, n: u64) -> (u64, u64) {
        let Some(Send::Batch { outbox, from }) = relay.next(now_ms) else {
            panic!("there is something to send")
        };
        let through = from.plus(n - 1);
        relay.sent(outbox, from, through);
        (from.0, through.0)
    }

    #[test]
    fn batches_go_out_in_order_and_without_overlap() {
        let mut relay = relay(&[(A, 10, 0)]);
        assert_eq!(send(&mut relay, 0, 4), (1, 4));
        assert_eq!(send(&mut relay, 0, 6), (5, 10));
        assert_eq!(relay.next(0), None);
        relay.appended(A, Seq(11), 0);
        assert_eq!(relay.next(0), batch(A, 11));
        assert_eq!(relay.next(0), None, "one read at a time");
    }

    #[test]
    fn the_window_counts_batches_without_a_receipt() {
        let mut relay = relay(&[(A, 100, 0)]);
        for _ in 0..MAX_UNRECEIPTED_BATCHES {
            send(&mut relay, 0, 1);
        }
        assert_eq!(relay.next(0), None);
        assert!(matches!(relay.receipt(&receipt(A, 2), Some(HASH), 0), Verdict::Advanced(_)));
        assert_eq!(send(&mut relay, 0, 1), (33, 33));
        assert_eq!(send(&mut relay, 0, 1), (34, 34));
        assert_eq!(relay.next(0), None);
    }

    #[test]
    fn a_new_session_starts_again_from_the_mark() {
        let mut relay = relay(&[(A, 10, 3)]);
        send(&mut relay, 0, 7);
        relay.disconnected();
        assert_eq!(relay.next(5), None);
        relay.connected(5);
        assert_eq!(relay.next(5), Some(Send::Hello));
        assert_eq!(relay.next(5), batch(A, 4));
    }

    #[test]
    fn without_progress_sending_starts_again_after_thirty_seconds() {
        let mut relay = relay(&[(A, 10, 0)]);
        send(&mut relay, 0, 10);
        assert_eq!(relay.wake_at_ms(), Some(RESEND_AFTER_MS));
        assert_eq!(relay.next(RESEND_AFTER_MS - 1), None);
        assert_eq!(relay.next(RESEND_AFTER_MS), batch(A, 1));
    }

    #[test]
    fn it_never_asks_to_be_woken_for_nothing() {
        let mut relay = relay(&[(A, 10, 0), (B, 5, 0)]);
        send(&mut relay, 0, 5);
        assert_eq!(relay.next(0), batch(A, 6), "this read takes very long");
        assert_eq!(relay.next(RESEND_AFTER_MS), None);
        assert_eq!(relay.wake_at_ms(), Some(HELLO_EVERY_MS), "the read's answer comes first");
        relay.not_sent();
        assert_eq!(relay.wake_at_ms(), Some(RESEND_AFTER_MS));
    }

    #[test]
    fn a_quiet_hour_is_not_a_lack_of_progress() {
        let mut relay = relay(&[(A, 0, 0)]);
        let hour_ms = 3_600_000;
        relay.appended(A, Seq(1), hour_ms);
        while relay.next(hour_ms) == Some(Send::Hello) {}
        relay.sent(A, Seq(1), Seq(1));
        assert_eq!(relay.next(hour_ms + 1), None);
    }

    #[test]
    fn a_request_to_send_again_is_obeyed_once_per_hole() {
        let mut relay = relay(&[(A, 10, 0)]);
        send(&mut relay, 5_000, 5);
        send(&mut relay, 5_000, 5);
        let again = Receipt { resend: true, ..receipt(A, 0) };
        assert_eq!(relay.receipt(&again, Some(HASH), 5_000), Verdict::Nothing);
        assert_eq!(send(&mut relay, 5_000, 5), (1, 5));
        relay.receipt(&again, Some(HASH), 5_001);
        assert_eq!(send(&mut relay, 5_001, 5), (6, 10), "the second request is for the same hole");
        relay.receipt(&again, Some(HASH), 6_000);
        assert_eq!(send(&mut relay, 6_000, 5), (1, 5), "a second later it may be a new one");
    }

    #[test]
    fn older_outboxes_are_drained_first() {
        let mut relay = relay(&[(A, 2, 0), (B, 5, 0)]);
        send(&mut relay, 0, 2);
        assert_eq!(relay.next(0), None, "not before the old one is receipted");
        relay.receipt(&receipt(A, 2), Some(HASH), 0);
        assert_eq!(relay.next(0), batch(B, 1));
    }

    #[test]
    fn a_receipt_counts_only_with_our_own_hash() {
        let mut relay = relay(&[(A, 10, 0)]);
        assert_eq!(relay.receipt(&receipt(A, 5), Some(ChainHash([8; 32])), 0), Verdict::Forked);
        assert_eq!(relay.receipt(&receipt(A, 5), None, 0), Verdict::Nothing);
        assert_eq!(relay.pending(), 10);
        assert_eq!(relay.receipt(&receipt(B, 5), Some(HASH), 0), Verdict::Foreign);
    }

    #[test]
    fn a_lower_mark_is_old_news_unless_the_store_was_restored() {
        let mut relay = relay(&[(A, 10, 8)]);
        assert_eq!(relay.receipt(&receipt(A, 5), Some(HASH), 0), Verdict::Nothing);
        let older_store = Receipt { store_epoch: StoreEpoch(EPOCH - 1), ..receipt(A, 10) };
        assert_eq!(relay.receipt(&older_store, Some(HASH), 0), Verdict::Nothing);
        let restored = Receipt { store_epoch: StoreEpoch(EPOCH + 1), ..receipt(A, 5) };
        assert!(matches!(relay.receipt(&restored, Some(HASH), 0), Verdict::Restored(_)));
        assert_eq!(relay.next(0), batch(A, 6));
    }

    #[test]
    fn more_than_was_ever_written_means_rewound() {
        let mut relay = relay(&[(A, 10, 8)]);
        assert_eq!(relay.receipt(&receipt(A, 11), None, 0), Verdict::Rewound);
        assert_eq!(relay.pending(), 2, "nothing is believed");
    }

    #[test]
    fn a_dispute_is_over_when_a_receipt_agrees_again() {
        let mut relay = relay(&[(A, 10, 4)]);
        send(&mut relay, 0, 3);
        assert_eq!(relay.receipt(&receipt(A, 6), Some(ChainHash([8; 32])), 0), Verdict::Forked);
        assert_eq!(relay.next(0), None);
        let restored = Receipt { store_epoch: StoreEpoch(EPOCH + 1), ..receipt(A, 4) };
        assert!(matches!(relay.receipt(&restored, Some(HASH), 0), Verdict::Advanced(_)));
        assert_eq!(relay.next(0), batch(A, 5), "from the mark: what was sent into the dispute was refused");
    }

    #[test]
    fn an_outbox_in_dispute_waits_and_the_next_goes_on() {
        let mut relay = relay(&[(A, 10, 8), (B, 5, 0)]);
        assert_eq!(relay.receipt(&receipt(A, 9), Some(ChainHash([8; 32])), 0), Verdict::Forked);
        assert_eq!(relay.next(0), batch(B, 1));
        relay.sent(B, Seq(1), Seq(5));
        relay.connected(1);
        assert_eq!(relay.next(1), Some(Send::Hello));
        assert_eq!(
            relay.next(1),
            batch(B, 1),
            "nor does a new session try it again: that store has other records"
        );
        relay.not_sent();
        relay.retired(A);
        assert_eq!(relay.next(1), batch(B, 1));
        assert_eq!(relay.pending(), 5);
    }

    #[test]
    fn what_is_left_of_a_settled_outbox_is_sent_to_a_store_that_lacks_it_and_no_more() {
        let mut relay = relay(&[(A, 10, 4)]);
        assert_eq!(relay.receipt(&receipt(A, 12), None, 0), Verdict::Rewound);
        let mark = Mark { receipted_through: Seq(8), store_epoch: Some(StoreEpoch(EPOCH)) };
        relay.settled(A, Seq(8), mark);
        relay.started(B, Seq(3), Mark::default());
        assert_eq!(
            relay.receipt(&receipt(A, 13), None, 0),
            Verdict::Nothing,
            "the store has more, of another"
        );
        assert_eq!(relay.next(0), batch(B, 1));
        relay.not_sent();
        let restored = Receipt { store_epoch: StoreEpoch(EPOCH + 1), ..receipt(A, 5) };
        assert!(matches!(relay.receipt(&restored, Some(HASH), 0), Verdict::Restored(_)));
        assert_eq!(relay.next(0), batch(A, 6));
        relay.sent(A, Seq(6), Seq(8));
        assert_eq!(relay.next(0), None, "in order: the next outbox waits for the receipt");
        let beyond = Receipt { store_epoch: StoreEpoch(EPOCH + 1), ..receipt(A, 9) };
        assert_eq!(
            relay.receipt(&beyond, None, 0),
            Verdict::Rewound,
            "this store may have others before it, too"
        );
    }

    #[test]
    fn an_older_outbox_that_a_clone_goes_on_with_is_no_dispute_once_the_store_has_all_of_it() {
        let mut relay = relay(&[(A, 8, 8), (B, 5, 0)]);
        assert_eq!(relay.receipt(&receipt(A, 9), None, 0), Verdict::Nothing);
        assert_eq!(relay.receipt(&receipt(B, 6), None, 0), Verdict::Rewound, "this one is written");
    }

    #[test]
    fn a_true_word_about_a_lower_place_ends_no_dispute() {
        let mut relay = relay(&[(A, 10, 4)]);
        assert_eq!(relay.receipt(&receipt(A, 12), None, 0), Verdict::Rewound);
        assert_eq!(relay.receipt(&receipt(A, 6), Some(HASH), 0), Verdict::Nothing);
        assert_eq!(relay.next(0), None);
        relay.dispute_is_over(A, 0);
        assert_eq!(relay.next(0), batch(A, 5));
    }

    #[test]
    fn a_batch_read_before_going_back_does_not_count_as_sent() {
        let mut relay = relay(&[(A, 10, 0)]);
        send(&mut relay, 0, 5);
        assert_eq!(relay.next(0), batch(A, 6));
        relay.receipt(&Receipt { resend: true, ..receipt(A, 0) }, Some(HASH), 2_000);
        relay.sent(A, Seq(6), Seq(10));
        assert_eq!(relay.next(2_000), batch(A, 1));
    }

    #[test]
    fn hello_is_said_every_minute() {
        let mut relay = relay(&[(A, 0, 0)]);
        assert_eq!(relay.next(HELLO_EVERY_MS - 1), None);
        assert_eq!(relay.next(HELLO_EVERY_MS), Some(Send::Hello));
    }
}
