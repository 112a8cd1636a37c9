//! What a shelf and the cloud should be after any life, without files: plain lists. The random lives of `life.rs` are
//! compared with it after each step.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

/// Most records in one append.
const MAX_GROUP: u8 = 8;

/// One step of a life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Commits so many records.
    Append(u8),
    /// A session with the cloud until nothing is left to say.
    Sync,
    /// The newest outbox's records reach the cloud, and its receipts are lost.
    SendUnheard,
    /// Writes the marks.
    Flush,
    /// Deletes what is receipted but the newest so many of each outbox.
    Prune(u8),
    /// A clean end and a new start.
    Restart,
    /// The process is killed and starts again.
    Kill,
    /// The power goes, with this seed, and comes back.
    PowerCut(u64),
    /// Somebody copies the files.
    Backup,
    /// Somebody puts the copy back.
    Restore,
    /// The cloud is restored from a backup that lacks so many records of each outbox: a new store epoch.
    CloudRestored(u8),
    /// The disk is put into another machine.
    OtherMachine,
}

/// One outbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelOutbox {
    /// 1, 2, 3 … over all that were ever made.
    pub id: u8,
    /// The machine that writes it.
    pub machine: u8,
    /// The numbers of its records, pruned ones too.
    pub records: Vec<u64>,
    /// How far receipts go, and of which epoch.
    pub mark: (u64, Option<u64>),
    /// The same, as it was last written.
    pub mark_on_medium: (u64, Option<u64>),
    /// The last record that was deleted.
    pub pruned: u64,
    /// The outbox that it says again.
    pub continues: Option<u8>,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// On the disk, oldest first.
    pub outboxes: Vec<ModelOutbox>,
    /// In the cloud: records by outbox.
    pub cloud: BTreeMap<u8, Vec<u64>>,
    /// The cloud's store epoch.
    pub epoch: u64,
    /// The copy of the files.
    pub backup: Option<Vec<ModelOutbox>>,
    /// Which machine the disk is in.
    pub machine: u8,
    /// Outboxes ever made.
    pub made: u8,
    /// Records ever written.
    pub written: u64,
    /// Accepted, and not lost by someone who put an older copy in its place.
    pub accepted: BTreeSet<u64>,
    /// What the cloud had and lost.
    pub lost_by_cloud: BTreeSet<u64>,
}

impl ReferenceStateMachine for Model {
    type State = Model;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Model> {
        Just(Model::new()).boxed()
    }

    fn transitions(model: &Model) -> BoxedStrategy<Step> {
        let mut steps: Vec<(u32, BoxedStrategy<Step>)> = vec![
            (30, (1..=MAX_GROUP).prop_map(Step::Append).boxed()),
            (12, Just(Step::Sync).boxed()),
            (6, Just(Step::SendUnheard).boxed()),
            (6, Just(Step::Flush).boxed()),
            (8, (0u8..20).prop_map(Step::Prune).boxed()),
            (4, Just(Step::Restart).boxed()),
            (5, Just(Step::Kill).boxed()),
            (12, any::<u64>().prop_map(Step::PowerCut).boxed()),
            (4, Just(Step::Backup).boxed()),
            (3, (1u8..20).prop_map(Step::CloudRestored).boxed()),
        ];
        if model.backup.is_some() {
            steps.push((4, Just(Step::Restore).boxed()));
        }
        // Each outbox is a file that is open, and a life has few of them.
        if model.made < 12 {
            steps.push((1, Just(Step::OtherMachine).boxed()));
        }
        proptest::strategy::Union::new_weighted(steps).boxed()
    }

    fn preconditions(model: &Model, step: &Step) -> bool {
        *step != Step::Restore || model.backup.is_some()
    }

    fn apply(mut model: Model, step: &Step) -> Model {
        model.step(step);
        model
    }
}

impl Model {
    /// A first start.
    pub fn new() -> Model {
        let mut model = Model {
            outboxes: Vec::new(),
            cloud: BTreeMap::new(),
            epoch: 1,
            backup: None,
            machine: 1,
            made: 0,
            written: 0,
            accepted: BTreeSet::new(),
            lost_by_cloud: BTreeSet::new(),
        };
        model.make();
        model
    }

    /// Whether another outbox says it again.
    pub fn is_retired(&self, id: u8) -> bool {
        self.outboxes.iter().any(|outbox| outbox.continues == Some(id))
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Append(n) => {
                for _ in 0..*n {
                    self.written += 1;
                    self.accepted.insert(self.written);
                    let written = self.written;
                    self.newest().records.push(written);
                }
            }
            Step::Sync => self.sync(),
            Step::SendUnheard => {
                let newest = self.newest().clone();
                let stored = self.cloud.entry(newest.id).or_default();
                // From its mark on, without listening: where that does not fit, the cloud takes nothing.
                if newest.records.starts_with(stored) && stored.len() as u64 >= newest.mark.0 {
                    stored.clone_from(&newest.records);
                }
            }
            Step::Flush | Step::Restart => self.flush(),
            Step::Prune(keep) => {
                self.outboxes.iter_mut().for_each(|outbox| outbox.prune((*keep).into()));
                // What was receipted may go, also if the cloud lost it and has not said so yet. That is what history is kept
                // for, and here little of it is kept.
                let everywhere = self.everywhere();
                let lost = &self.lost_by_cloud;
                self.accepted.retain(|record| everywhere.contains(record) || !lost.contains(record));
            }
            Step::Kill | Step::PowerCut(_) => self.forget_marks(),
            Step::Backup => {
                let mut copy = self.outboxes.clone();
                copy.iter_mut().for_each(|outbox| outbox.mark = outbox.mark_on_medium);
                self.backup = Some(copy);
            }
            Step::Restore => {
                self.outboxes = self.backup.clone().expect("as the precondition says");
                self.excuse_what_is_nowhere();
                if self.newest().machine != self.machine {
                    self.make();
                }
            }
            Step::CloudRestored(lost) => {
                self.epoch += 1;
                for stored in self.cloud.values_mut() {
                    let left = stored.len().saturating_sub((*lost).into());
                    self.lost_by_cloud.extend(stored.drain(left..));
                }
                self.excuse_what_is_nowhere();
            }
            Step::OtherMachine => {
                self.forget_marks();
                self.machine += 1;
                self.make();
            }
        }
        let lost: Vec<_> = self.accepted.difference(&self.everywhere()).copied().collect();
        assert!(lost.is_empty(), "the model itself loses {lost:?}");
    }

    /// A session with the cloud: as the relay and the agent say.
    fn sync(&mut self) {
        for outbox in self.outboxes.clone() {
            if self.is_retired(outbox.id) {
                continue;
            }
            let stored = self.cloud.entry(outbox.id).or_default().clone();
            let (through, last) = (stored.len() as u64, outbox.records.len() as u64);
            let is_written = self.outboxes.last().is_some_and(|newest| newest.id == outbox.id);
            if through > last && outbox.mark == (last, Some(self.epoch)) && !is_written {
                // Somebody went on with it; of this one's records the cloud lacks none.
            } else if through > last {
                self.say_again(&outbox);
            } else if through < outbox.pruned {
                // It has no hash to compare with. What the cloud lacks is gone here, too, and somebody must look.
            } else if outbox.records.starts_with(&stored) {
                self.cloud.insert(outbox.id, outbox.records.clone());
                let epoch = self.epoch;
                let synced =
                    self.outboxes.iter_mut().find(|known| known.id == outbox.id).expect("a clone of it");
                synced.mark = (last, Some(epoch));
            }
            // Otherwise the cloud has other records under its numbers: it waits for a person.
        }
    }

    /// The cloud has more of an outbox than there is: it was put back. What it has without a receipt goes into a new one.
    fn say_again(&mut self, rewound: &ModelOutbox) {
        self.make();
        let epoch = self.epoch;
        let newest = self.newest();
        newest.records = rewound.records[rewound.mark.0 as usize..].to_vec();
        newest.continues = Some(rewound.id);
        let (id, records) = (newest.id, newest.records.clone());
        newest.mark = (records.len() as u64, (!records.is_empty()).then_some(epoch));
        self.cloud.insert(id, records);
    }

    fn newest(&mut self) -> &mut ModelOutbox {
        self.outboxes.last_mut().expect("there is always one")
    }

    fn make(&mut self) {
        self.made += 1;
        self.outboxes.push(ModelOutbox { id: self.made, machine: self.machine, ..ModelOutbox::default() });
    }

    fn flush(&mut self) {
        self.outboxes.iter_mut().for_each(|outbox| outbox.mark_on_medium = outbox.mark);
    }

    fn forget_marks(&mut self) {
        self.outboxes.iter_mut().for_each(|outbox| outbox.mark = outbox.mark_on_medium);
    }

    /// Somebody put an older copy in place of what was there: what was nowhere else is lost by that.
    fn excuse_what_is_nowhere(&mut self) {
        let everywhere = self.everywhere();
        self.accepted.retain(|record| everywhere.contains(record));
    }

    /// All records that are on the disk or in the cloud.
    fn everywhere(&self) -> BTreeSet<u64> {
        let here = self.outboxes.iter().flat_map(|outbox| &outbox.records[outbox.pruned as usize..]);
        here.chain(self.cloud.values().flatten()).copied().collect()
    }
}

impl Default for Model {
    fn default() -> Model {
        Model::new()
    }
}

impl ModelOutbox {
    fn prune(&mut self, keep: u64) {
        let through = (self.records.len() as u64).saturating_sub(keep).min(self.mark.0);
        if through > self.pruned {
            self.pruned = through;
            self.mark_on_medium = self.mark;
        }
    }
}
