//! Beside step 5 of 12: where an outbox and the store go apart. Pure: knows no socket, no database and no clock of its own.
//!
//! A restored backup, a clone, or both: the store has other records under this outbox's numbers than this disk has. Up to
//! some place both have the same, because each hash stands for everything before it. That place is looked for in rounds of
//! a few questions, each answered with a signed receipt. What comes after it here is then said again in another outbox,
//! and nothing else: so nothing is lost and nothing doubled.
//!
//! Every answer is a fact about one life of the store, and facts only narrow: they may be lost, repeated, late and in any
//! order. What another life of the store says ends the search; then the relay judges anew. Taps go on meanwhile, at the
//! outbox's end, which is what will be said again.

use tap_protocol::chain::ChainHash;
use tap_protocol::ids::{OutboxId, Seq, StoreEpoch};
use tap_protocol::limits::MAX_PROBED_HASHES;
use tap_protocol::receipt::Receipt;

/// A question without an answer is asked again after this long.
const ASK_AGAIN_AFTER_MS: u64 = 15_000;

/// A cloud that answered so many hellos, and none of the questions asked before them, does not know how.
const GIVE_UP_AFTER_HELLOS: u32 = 8;

/// What is known here of the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Here {
    /// The lowest place whose hash is still known.
    pub floor: Seq,
    /// The last record.
    pub last: Seq,
    /// How far receipts went, and of which life of the store the last one was.
    pub mark: (Seq, Option<StoreEpoch>),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask what the store has at these places.
    Ask {
        /// In which outbox.
        outbox: OutboxId,
        /// Where; ascending.
        seqs: Vec<Seq>,
        /// It was asked before: say hello too, to see whether anybody is there at all.
        is_repeated: bool,
    },
    /// The place is found.
    Settle(Settled),
}

/// The end of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Which outbox.
    pub outbox: OutboxId,
    /// What comes after this is said again.
    pub after: Seq,
    /// How sure that is.
    pub how: How,
}

/// How a place was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// This life of the store has exactly the records up to there.
    Exact(StoreEpoch),
    /// They go apart before what is still kept here. All that is left is said again.
    BeforeWhatIsKept,
    /// The cloud does not answer: the last receipt has to do. What it stored after that is said twice.
    Unanswered,
}

/// Whose a receipt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It is about no outbox that is being settled: the relay's.
    NotMine,
    /// Taken.
    Taken,
    /// Another life of the store speaks: the search is over, and the relay judges.
    Over,
}

/// The search, if one is under way. One outbox at a time; another's next receipt begins its own.
#[derive(Debug, Default)]
pub struct Settlement {
    search: Option<Search>,
}

#[derive(Debug)]
struct Search {
    outbox: OutboxId,
    epoch: StoreEpoch,
    /// Up to here both have the same.
    low: Seq,
    /// Beyond this they have not.
    high: Seq,
    floor: Seq,
    mark: Seq,
    /// Asked for and not answered.
    open: Vec<Seq>,
    asked_ms: Option<u64>,
    /// Hellos that were answered while a question from before them was not.
    overtaken: u32,
}

impl Settlement {
    /// Which outbox is being settled.
    pub fn outbox(&self) -> Option<OutboxId> {
        self.search.as_ref().map(|search| search.outbox)
    }

    /// A receipt contradicts an outbox. Nothing happens if one is being settled already.
    pub fn begin(&mut self, receipt: &Receipt, here: Here) {
        if self.search.is_some() {
            return;
        }
        let (mark, epoch) = here.mark;
        let high = match receipt.stored_through > here.last {
            true => here.last,
            false => Seq(receipt.stored_through.0.saturating_sub(1)),
        };
        let low = if epoch == Some(receipt.store_epoch) { mark } else { Seq::ZERO };
        let mut search = Search {
            outbox: receipt.outbox,
            epoch: receipt.store_epoch,
            low,
            high,
            floor: here.floor,
            mark,
            open: Vec::new(),
            asked_ms: None,
            overtaken: 0,
        };
        search.narrow();
        self.search = Some(search);
    }

    /// Takes an authentic receipt; `own` is this outbox's hash at its place, if it still has it.
    pub fn receipt(&mut self, receipt: &Receipt, own: Option<ChainHash>) -> Heard {
        let Some(search) = self.search.as_mut().filter(|search| search.outbox == receipt.outbox) else {
            return Heard::NotMine;
        };
        if receipt.store_epoch > search.epoch {
            self.search = None;
            return Heard::Over;
        }
        if receipt.store_epoch == search.epoch {
            search.hear(receipt, own);
        }
        Heard::Taken
    }

    /// A new session: what was asked in the one before may be lost.
    pub fn connected(&mut self) {
        if let Some(search) = &mut self.search {
            search.asked_ms = None;
        }
    }

    /// Nothing is being settled any more.
    pub fn over(&mut self) {
        self.search = None;
    }

    /// What to do now, if anything, while a session is up. [`Step::Settle`] is said once.
    pub fn next(&mut self, now_ms: u64) -> Option<Step> {
        let search = self.search.as_mut()?;
        if let Some(settled) = search.settled() {
            self.search = None;
            return Some(Step::Settle(settled));
        }
        let is_repeated = !search.open.is_empty();
        if is_repeated && search.asked_ms.is_some_and(|at_ms| now_ms < at_ms + ASK_AGAIN_AFTER_MS) {
            return None;
        }
        search.open = search.places();
        search.asked_ms = Some(now_ms);
        Some(Step::Ask { outbox: search.outbox, seqs: search.open.clone(), is_repeated })
    }

    /// When to call [`Settlement::next`] again though nothing else happens.
    pub fn wake_at_ms(&self) -> Option<u64> {
        self.search.as_ref().map(|search| search.asked_ms.map_or(0, |at_ms| at_ms + ASK_AGAIN_AFTER_MS))
    }
}

impl Search {
    fn hear(&mut self, receipt: &Receipt, own: Option<ChainHash>) {
        let at = receipt.stored_through;
        let is_open = self.open.contains(&at);
        if at <= self.high {
            match own {
                Some(own) if own == receipt.hash => self.low = self.low.max(at),
                Some(_) => self.high = Seq(at.0.saturating_sub(1)),
                // Deleted here since it was asked for.
                None => self.floor = self.floor.max(at.next()),
            }
            self.narrow();
        }
        if is_open {
            self.overtaken = 0;
        } else if let (Some(echo), Some(asked_ms)) = (receipt.echo, self.asked_ms)
            && echo.boottime_ms > asked_ms
            && !self.open.is_empty()
        {
            self.overtaken += 1;
        }
    }

    fn narrow(&mut self) {
        // Only a store that contradicts itself says so: what differs counts.
        if self.low > self.high {
            self.low = Seq::ZERO;
        }
        let (low, high, floor) = (self.low, self.high, self.floor);
        self.open.retain(|at| *at > low && *at <= high && *at >= floor);
    }

    fn settled(&self) -> Option<Settled> {
        let (after, how) = if self.high < self.floor {
            (self.floor, How::BeforeWhatIsKept)
        } else if self.low == self.high {
            (self.low, How::Exact(self.epoch))
        } else if self.overtaken >= GIVE_UP_AFTER_HELLOS {
            (self.mark, How::Unanswered)
        } else {
            return None;
        };
        Some(Settled { outbox: self.outbox, after, how })
    }

    /// Evenly spread over what is open, the lowest place first among them.
    fn places(&self) -> Vec<Seq> {
        let first = self.floor.0.max(self.low.0 + 1);
        let count = self.high.0 + 1 - first;
        let asked = count.min(MAX_PROBED_HASHES as u64);
        // In 128 bits: a seq has 48, and no store is believed about how many there are.
        (0..asked)
            .map(|n| Seq(first + (u128::from(n) * u128::from(count) / u128::from(asked)) as u64))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tap_protocol::ids::BootId;
    use tap_protocol::receipt::Echo;

    use super::*;

    const ID: OutboxId = OutboxId([7; 16]);

    /// Two histories that are the same up to some place: hashes at 0, 1, 2 …
    struct World {
        ours: Vec<ChainHash>,
        theirs: Vec<ChainHash>,
        floor: u64,
        epoch: u64,
    }

    fn history(same: u64, count: u64, whose: u8) -> Vec<ChainHash> {
        let mut hashes = vec![ChainHash::start(ID)];
        for seq in 1..=count {
            let record = [seq.to_be_bytes().as_slice(), &[if seq <= same { 0 } else { whose }]].concat();
            hashes.push(hashes.last().unwrap().next(&record));
        }
        hashes
    }

    fn receipt(theirs: &[ChainHash], at: u64, epoch: u64) -> Receipt {
        Receipt {
            controller: "hq-door-1".parse().unwrap(),
            store_epoch: StoreEpoch(epoch),
            outbox: ID,
            stored_through: Seq(at),
            hash: theirs[at as usize],
            resend: false,
            echo: None,
            cloud_utc_ms: 0,
        }
    }

    impl World {
        fn new(same: u64, ours: u64, theirs: u64, floor: u64) -> World {
            World { ours: history(same, ours, 1), theirs: history(same, theirs, 2), floor, epoch: 3 }
        }

        fn here(&self, mark: u64, epoch: u64) -> Here {
            let last = Seq(self.ours.len() as u64 - 1);
            Here { floor: Seq(self.floor), last, mark: (Seq(mark), Some(StoreEpoch(epoch))) }
        }

        fn mark(&self) -> Receipt {
            receipt(&self.theirs, self.theirs.len() as u64 - 1, self.epoch)
        }

        fn own(&self, at: Seq) -> Option<ChainHash> {
            self.ours.get(at.0 as usize).filter(|_| at.0 >= self.floor).copied()
        }

        fn answer(&self, settlement: &mut Settlement, at: Seq) -> Heard {
            settlement.receipt(&receipt(&self.theirs, at.0, self.epoch), self.own(at))
        }
    }

    fn begun(world: &World, mark: u64, epoch: u64) -> Settlement {
        let mut settlement = Settlement::default();
        settlement.begin(&world.mark(), world.here(mark, epoch));
        settlement
    }

    #[track_caller]
    fn asks(settlement: &mut Settlement, now_ms: u64) -> Vec<Seq> {
        match settlement.next(now_ms) {
            Some(Step::Ask { seqs, .. }) => seqs,
            other => panic!("{other:?} is no question"),
        }
    }

    fn exact(after: u64) -> Option<Step> {
        Some(Step::Settle(Settled { outbox: ID, after: Seq(after), how: How::Exact(StoreEpoch(3)) }))
    }

    #[test]
    fn a_restored_backup_that_the_store_has_whole_is_settled_with_one_question() {
        let world = World::new(40, 40, 90, 0);
        let mut settlement = begun(&world, 39, 3);
        assert_eq!(asks(&mut settlement, 0), [Seq(40)]);
        assert_eq!(settlement.next(14_999), None);
        world.answer(&mut settlement, Seq(40));
        assert_eq!(settlement.next(15_000), exact(40));
        assert_eq!(settlement.next(15_000), None, "it is said once");
    }

    #[test]
    fn a_thousand_records_take_two_rounds_and_a_million_four() {
        for (count, rounds) in [(1_000, 2), (1_000_000, 4)] {
            let world = World::new(count / 3, count, count + 5, 0);
            let mut settlement = begun(&world, 0, 3);
            for _ in 0..rounds {
                let asked = asks(&mut settlement, 0);
                asked
                    .into_iter()
                    .rev()
                    .for_each(|at| assert_eq!(world.answer(&mut settlement, at), Heard::Taken));
            }
            assert_eq!(settlement.next(0), exact(count / 3));
        }
    }

    #[test]
    fn what_goes_apart_before_what_is_kept_is_said_again_from_there() {
        let world = World::new(20, 100, 90, 50);
        let mut settlement = begun(&world, 60, 2);
        assert_eq!(asks(&mut settlement, 0)[0], Seq(50));
        world.answer(&mut settlement, Seq(50));
        let how = How::BeforeWhatIsKept;
        let settled = Settled { outbox: ID, after: Seq(50), how };
        assert_eq!(settlement.next(0), Some(Step::Settle(settled)));
    }

    #[test]
    fn another_life_of_the_store_ends_it_and_an_earlier_one_is_not_heard() {
        let world = World::new(20, 100, 90, 0);
        let mut settlement = begun(&world, 10, 3);
        let old = receipt(&world.theirs, 90, 2);
        assert_eq!(settlement.receipt(&old, world.own(Seq(90))), Heard::Taken);
        let other = Receipt { outbox: OutboxId([8; 16]), ..old };
        assert_eq!(settlement.receipt(&other, None), Heard::NotMine);
        let new = receipt(&world.theirs, 15, 4);
        assert_eq!(settlement.receipt(&new, world.own(Seq(15))), Heard::Over);
        assert_eq!((settlement.next(0), settlement.wake_at_ms()), (None, None));
    }

    #[test]
    fn a_cloud_that_answers_hellos_and_no_question_is_given_up_and_one_that_is_silent_is_not() {
        let world = World::new(20, 100, 90, 0);
        let mut settlement = begun(&world, 10, 3);
        asks(&mut settlement, 0);
        for n in 1..100 {
            asks(&mut settlement, n * ASK_AGAIN_AFTER_MS);
        }
        for n in 0..GIVE_UP_AFTER_HELLOS {
            asks(&mut settlement, (100 + u64::from(n)) * ASK_AGAIN_AFTER_MS);
            let echo = Some(Echo { boot_id: BootId([1; 16]), boottime_ms: 9_000_000 });
            settlement.receipt(&Receipt { echo, ..world.mark() }, world.own(Seq(90)));
        }
        let settled = Settled { outbox: ID, after: Seq(10), how: How::Unanswered };
        assert_eq!(settlement.next(9_000_000), Some(Step::Settle(settled)));
    }

    #[test]
    fn a_new_session_asks_at_once() {
        let world = World::new(20, 100, 90, 0);
        let mut settlement = begun(&world, 10, 3);
        let first = asks(&mut settlement, 0);
        assert_eq!(settlement.next(1), None);
        settlement.connected();
        assert_eq!(asks(&mut settlement, 1), first);
    }

    proptest! {
        /// Whatever is lost, late, repeated or out of order: the place that is found is the one where they go apart.
        #[test]
        fn the_place_is_where_two_histories_go_apart(
            same in 0u64..300,
            ours in 0u64..300,
            theirs in 1u64..300,
            floor in 0u64..100,
            mark in 0u64..300,
            knows_epoch in any::<bool>(),
            fates in prop::collection::vec(any::<u8>(), 1..40),
        ) {
            let (ours, theirs) = (same + ours, same + theirs);
            let floor = floor.min(ours);
            // What was deleted had a receipt; a receipt of this life was for what both have.
            let mark = if knows_epoch { mark.min(same) } else { mark.min(ours) };
            let floor = floor.min(mark);
            let world = World::new(same, ours, theirs, floor);
            let mut settlement = begun(&world, mark, if knows_epoch { 3 } else { 2 });
            let (mut now_ms, mut late) = (0, Vec::new());
            // A network that loses everything for ever is no network: each round something comes.
            let mut fates = fates.iter().chain([&2]).cycle();
            let settled = loop {
                match settlement.next(now_ms) {
                    Some(Step::Settle(settled)) => break settled,
                    Some(Step::Ask { seqs, .. }) => {
                        prop_assert!(!seqs.is_empty() && seqs.len() <= MAX_PROBED_HASHES);
                        prop_assert!(seqs.is_sorted_by(|a, b| a < b));
                        prop_assert!(seqs.iter().all(|at| at.0 >= floor && at.0 <= ours.min(theirs)));
                        late.extend(seqs);
                    }
                    None => {}
                }
                // One of what is under way comes, comes twice, or is lost.
                if !late.is_empty() {
                    let fate = *fates.next().unwrap();
                    let at = late.swap_remove(usize::from(fate / 4) % late.len());
                    if fate % 4 != 0 {
                        world.answer(&mut settlement, at);
                    }
                    if fate % 4 == 1 {
                        late.push(at);
                    }
                }
                now_ms += 1_000;
                prop_assert!(now_ms < 100_000_000, "it ends");
            };
            let expected = if same < floor {
                (floor, How::BeforeWhatIsKept)
            } else {
                (same.min(ours), How::Exact(StoreEpoch(3)))
            };
            prop_assert_eq!((settled.after.0, settled.how), expected);
        }
    }
}
