//! Random lives of a real shelf on a disk in memory, with the real relay and a cloud of plain lists, compared with
//! `model.rs` after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use edge_agent::agent::with_causes;
use edge_agent::outbox::shelf::{Owner, Shelf};
use edge_agent::outbox::{Chunk, Outbox};
use edge_agent::relay::{Relay, Send, Verdict};
use power_loss_vfs::{Dice, Disk, Image};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};
use tap_protocol::chain::ChainHash;
use tap_protocol::ids::{OutboxId, Seq, StoreEpoch};
use tap_protocol::receipt::Receipt;

use crate::medium::InMemory;
use crate::model::{Model, Step};
use crate::promise::read_all;
use crate::script::{FOLDER, empty};

/// Steps of one life, at most.
pub const MAX_STEPS: usize = 100;

/// What became of many lives.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Lives.
    pub lives: u64,
    /// Steps of all of them.
    pub steps: u64,
    /// How often each kind of step was made.
    pub kinds: BTreeMap<String, u64>,
    /// Lives that differed from the model.
    pub broken: u64,
    /// The first of them: the life's number, its steps cut down to what is needed, and what differed.
    pub examples: Vec<(u64, String)>,
}

const EXAMPLES: usize = 3;

/// How often a life that failed is cut down, at most.
const MAX_SHRINKS: usize = 2_000;

/// Lives so many lives. `progress` hears of each.
pub fn prove(lives: u64, seed: u64, progress: &(dyn Fn(u64) + Sync)) -> Tally {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(0);
    let tallies = std::thread::scope(|scope| {
        let work = || {
            let mut tally = Tally::default();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= lives {
                    break tally;
                }
                tally.lives += 1;
                let steps = steps_of(seed, n).current().1;
                tally.steps += steps.len() as u64;
                for step in &steps {
                    let kind = format!("{step:?}");
                    let kind = kind.split('(').next().unwrap_or_default().to_owned();
                    *tally.kinds.entry(kind).or_default() += 1;
                }
                if let Err(what) = live(seed, n) {
                    tally.broken += 1;
                    tally.examples.push((n, what));
                    tally.examples.truncate(EXAMPLES);
                }
                progress(1);
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("panics are caught")).collect::<Vec<_>>()
    });
    let mut total = Tally::default();
    tallies.into_iter().for_each(|tally| total.add(tally));
    total
}

/// One life; if it differs from the model, its steps cut down to what is needed, and what differs.
pub fn live(seed: u64, n: u64) -> Result<(), String> {
    let mut tree = steps_of(seed, n);
    let (_, steps, _) = tree.current();
    let Err(mut what) = run(&steps) else { return Ok(()) };
    let mut needed = steps;
    for _ in 0..MAX_SHRINKS {
        let (_, steps, _) = tree.current();
        let goes_on = match run(&steps) {
            Err(still) => {
                (needed, what) = (steps, still);
                tree.simplify()
            }
            Ok(()) => tree.complicate(),
        };
        if !goes_on {
            break;
        }
    }
    Err(format!("{what}\n  after {needed:?}"))
}

fn steps_of(
    seed: u64,
    n: u64,
) -> impl ValueTree<Value = (Model, Vec<Step>, Option<Arc<std::sync::atomic::AtomicUsize>>)> {
    let mut dice = Dice::at(seed, n);
    let bytes: Vec<u8> = (0..4).flat_map(|_| dice.bits().to_le_bytes()).collect();
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    Model::sequential_strategy(1..=MAX_STEPS).new_tree(&mut runner).expect("nothing is filtered out")
}

fn run(steps: &[Step]) -> Result<(), String> {
    let lived = catch_unwind(AssertUnwindSafe(|| {
        Life::test_sequential(Config::default(), Model::new(), steps.to_vec(), None);
    }));
    lived.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it panics").to_owned()
    })
}

/// The real thing.
#[derive(Debug)]
pub struct Life {
    disk: Arc<Disk>,
    shelf: Option<Shelf>,
    cloud: Cloud,
    backup: Option<Image>,
    machine: u8,
    made: u8,
    written: u64,
}

/// A store as the protocol wants it, in memory.
#[derive(Debug, Default)]
struct Cloud {
    epoch: u64,
    outboxes: BTreeMap<OutboxId, (Vec<Vec<u8>>, Vec<ChainHash>)>,
}

impl StateMachineTest for Life {
    type SystemUnderTest = Life;
    type Reference = Model;

    fn init_test(_: &Model) -> Life {
        let disk = Arc::new(Disk::boot(&empty()));
        let cloud = Cloud { epoch: 1, ..Cloud::default() };
        let mut life = Life { disk, shelf: None, cloud, backup: None, machine: 1, made: 0, written: 0 };
        life.open();
        life
    }

    fn apply(mut life: Life, _: &Model, step: Step) -> Life {
        life.step(&step);
        life
    }

    fn check_invariants(life: &Life, model: &Model) {
        life.compare(model);
    }
}

impl Life {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Append(n) => {
                let records: Vec<Vec<u8>> = (0..*n)
                    .map(|_| {
                        self.written += 1;
                        bytes_of(self.written)
                    })
                    .collect();
                sound(self.shelf().newest().append(&records));
            }
            Step::Sync => self.sync(),
            Step::SendUnheard => self.send_unheard(),
            Step::Flush => sound(self.shelf().flush_marks()),
            Step::Prune(keep) => {
                let ids: Vec<_> = self.shelf().all().map(Outbox::id).collect();
                for id in ids {
                    let outbox = self.shelf().find(id).expect("it was listed");
                    let through = Seq(outbox.last_seq().0.saturating_sub((*keep).into()));
                    sound(outbox.prune(through, u32::MAX));
                }
            }
            Step::Restart => {
                sound(self.shelf().flush_marks());
                sound(self.shelf().newest().set_stopped_cleanly(true));
                self.open();
            }
            Step::Kill => {
                self.disk.kill();
                self.open();
            }
            Step::PowerCut(seed) => {
                let left = self.disk.medium().cut(&mut Dice::new(*seed));
                self.disk.reboot(&left);
                self.open();
            }
            Step::Backup => self.backup = Some(self.disk.seen()),
            Step::Restore => {
                self.disk.reboot(&self.backup.clone().expect("as the precondition says"));
                self.open();
            }
            Step::CloudRestored(lost) => self.cloud.restore(*lost),
            Step::OtherMachine => {
                self.disk.kill();
                self.machine += 1;
                self.open();
            }
        }
    }

    fn open(&mut self) {
        self.shelf = None;
        let id = outbox_id(self.made + 1);
        let medium = Arc::new(InMemory(self.disk.clone()));
        let mut shelf = sound(Shelf::open(medium, Path::new(FOLDER), &self.owner(), move || id));
        self.made += u8::from(shelf.newest().id() == id);
        self.shelf = Some(shelf);
    }

    fn owner(&self) -> Owner {
        Owner { controller: "hq-door-1".parse().expect("a valid name"), machine: vec![self.machine] }
    }

    fn shelf(&mut self) -> &mut Shelf {
        self.shelf.as_mut().expect("it is always open")
    }

    /// A session until the relay has nothing more to say. Receipts come at once.
    fn sync(&mut self) {
        let shelf = self.shelf();
        let retired: BTreeSet<OutboxId> =
            shelf.all().map(Outbox::id).filter(|id| shelf.is_retired(*id)).collect();
        let sent = shelf.all().filter(|outbox| !retired.contains(&outbox.id()));
        let mut relay = Relay::new(sent.map(|outbox| (outbox.id(), outbox.last_seq(), outbox.mark())));
        relay.connected(0);
        while let Some(send) = relay.next(0) {
            match send {
                Send::Hello => {
                    let ids: Vec<_> = self.shelf().all().map(Outbox::id).collect();
                    ids.into_iter().for_each(|id| self.receipt(&mut relay, id));
                }
                Send::Batch { outbox, from } => {
                    let chunk = sound(self.shelf().read(outbox, from)).expect("the relay knows the shelf");
                    let through = Seq(from.0 + chunk.records.len() as u64 - 1);
                    relay.sent(outbox, from, through);
                    self.cloud.take(outbox, &chunk);
                    self.receipt(&mut relay, outbox);
                }
            }
        }
    }

    fn receipt(&mut self, relay: &mut Relay, id: OutboxId) {
        let receipt = self.cloud.receipt(id);
        let own = sound(self.shelf().hash_at(id, receipt.stored_through));
        match relay.receipt(&receipt, own, 0) {
            Verdict::Advanced(mark) | Verdict::Restored(mark) => self.shelf().set_mark(id, mark),
            Verdict::Rewound => self.say_again(relay, id),
            Verdict::Nothing | Verdict::Forked | Verdict::HistoryGone | Verdict::Foreign => {}
        }
    }

    /// As the outbox's thread does it.
    fn say_again(&mut self, relay: &mut Relay, rewound: OutboxId) {
        self.made += 1;
        let (id, owner) = (outbox_id(self.made), self.owner());
        sound(self.shelf().start_new(&owner, id));
        let (newest, old) = self.shelf().newest_and(rewound).expect("it is another one");
        let after = old.mark().receipted_through;
        let mut from = after.next();
        sound(newest.append_continuing(rewound, after, || {
            let chunk = old.read(from)?;
            from = from.plus(chunk.records.len() as u64);
            Ok((!chunk.records.is_empty()).then_some(chunk.records))
        }));
        relay.started(id, newest.last_seq(), newest.mark());
        relay.retired(rewound);
    }

    fn send_unheard(&mut self) {
        let newest = self.shelf().newest();
        let (id, mut from) = (newest.id(), newest.mark().receipted_through.next());
        while from <= self.shelf().newest().last_seq() {
            let chunk = sound(self.shelf().read(id, from)).expect("it is on the shelf");
            from = from.plus(chunk.records.len() as u64);
            self.cloud.take(id, &chunk);
        }
    }

    fn compare(&self, model: &Model) {
        let shelf = self.shelf.as_ref().expect("it is always open");
        let ids: Vec<OutboxId> = shelf.all().map(Outbox::id).collect();
        let expected: Vec<OutboxId> = model.outboxes.iter().map(|outbox| outbox_id(outbox.id)).collect();
        assert_eq!(ids, expected, "which outboxes there are");
        for (outbox, expected) in shelf.all().zip(&model.outboxes) {
            let id = expected.id;
            let mark = outbox.mark();
            let mark = (mark.receipted_through.0, mark.store_epoch.map(|epoch| epoch.0));
            assert_eq!(outbox.last_seq().0, expected.records.len() as u64, "outbox {id}: its last record");
            assert_eq!(mark, expected.mark, "outbox {id}: its mark");
            assert_eq!(outbox.pruned_through().0, expected.pruned, "outbox {id}: what is pruned");
            assert_eq!(
                outbox.continues(),
                expected.continues.map(outbox_id),
                "outbox {id}: what it says again"
            );
            assert_eq!(
                shelf.is_retired(outbox.id()),
                model.is_retired(id),
                "outbox {id}: whether it is retired"
            );
            let left = expected.records[expected.pruned as usize..].iter().map(|n| bytes_of(*n));
            assert!(sound(read_all(outbox)).into_iter().eq(left), "outbox {id}: its records");
            let hash = expected
                .records
                .iter()
                .fold(ChainHash::start(outbox.id()), |hash, n| hash.next(&bytes_of(*n)));
            assert_eq!(sound(outbox.hash_at(outbox.last_seq())), Some(hash), "outbox {id}: its chain");
        }
        let stored = |id: u8| self.cloud.outboxes.get(&outbox_id(id)).map_or(&[][..], |(records, _)| records);
        for (id, expected) in &model.cloud {
            let expected = expected.iter().map(|n| bytes_of(*n));
            assert!(stored(*id).iter().cloned().eq(expected), "what the cloud has of outbox {id}");
        }
    }
}

impl Cloud {
    /// Stores what continues what it has; nothing of the rest.
    fn take(&mut self, id: OutboxId, chunk: &Chunk) {
        let (records, hashes) =
            self.outboxes.entry(id).or_insert_with(|| (Vec::new(), vec![ChainHash::start(id)]));
        let before = chunk.first_seq.0 as usize - 1;
        if hashes.get(before) != Some(&chunk.hash_before) {
            return; // beyond what it has, or a fork
        }
        for (n, bytes) in chunk.records.iter().enumerate() {
            match records.get(before + n) {
                Some(known) if known == bytes => {}
                Some(_) => return,
                None => {
                    hashes.push(hashes[records.len()].next(bytes));
                    records.push(bytes.clone());
                }
            }
        }
    }

    fn receipt(&self, id: OutboxId) -> Receipt {
        let known = self.outboxes.get(&id);
        let (through, hash) = known.map_or((0, ChainHash::start(id)), |(records, hashes)| {
            (records.len() as u64, hashes[records.len()])
        });
        Receipt {
            controller: "hq-door-1".parse().expect("a valid name"),
            store_epoch: StoreEpoch(self.epoch),
            outbox: id,
            stored_through: Seq(through),
            hash,
            resend: false,
            echo: None,
            cloud_utc_ms: 0,
        }
    }

    fn restore(&mut self, lost: u8) {
        self.epoch += 1;
        for (records, hashes) in self.outboxes.values_mut() {
            records.truncate(records.len().saturating_sub(lost.into()));
            hashes.truncate(records.len() + 1);
        }
    }
}

fn outbox_id(n: u8) -> OutboxId {
    OutboxId([n; 16])
}

/// No two are the same, and they differ in length.
fn bytes_of(n: u64) -> Vec<u8> {
    format!("record {n} {}", "x".repeat((n % 90) as usize)).into_bytes()
}

/// On a sound disk nothing fails.
fn sound<T>(outcome: Result<T, edge_agent::outbox::OutboxError>) -> T {
    outcome.unwrap_or_else(|error| panic!("on a sound disk: {}", with_causes(&error)))
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.lives += other.lives;
        self.steps += other.steps;
        self.broken += other.broken;
        self.examples.extend(other.examples);
        self.examples.truncate(EXAMPLES);
        other.kinds.into_iter().for_each(|(kind, n)| *self.kinds.entry(kind).or_default() += n);
    }
}
