//! Every call into what is attacked, in one place: the very functions that production runs, on a real store and a real
//! relay. Knows no attack.

use std::collections::{BTreeMap, BTreeSet};

use cloud_ingest::directory::badges::{self, BadBadges};
use cloud_ingest::event_store::sqlite::SqliteStore;
use cloud_ingest::event_store::{Binding, Controller, EventStore, RecordKey, Site, UtcMs};
use cloud_ingest::intake::admit::Admission;
use cloud_ingest::intake::verify::Arrival;
pub use cloud_ingest::intake::verify::REJECT_KINDS;
use edge_agent::agent::with_causes;
use edge_agent::relay::{Mark, Relay, Verdict};
use edge_agent::roster::assembler::{Assembler, Do};
use tap_protocol::badge::{TokenKey, TokenKeyId};
use tap_protocol::chain::ChainHash;
use tap_protocol::codec::{DecodeError, OpenError};
use tap_protocol::command::Command;
use tap_protocol::ids::{ControllerId, OutboxId, Seq};
use tap_protocol::keys::PublicKey;
use tap_protocol::receipt::Receipt;
use tap_protocol::roster::{RosterMessage, chunk_hash};
use tap_protocol::topic::Channel;

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The cloud stored the records from this one on.
    Stored {
        /// The first that was new.
        from: Seq,
    },
    /// The cloud has all of it.
    Duplicate,
    /// The cloud lacks what comes before.
    Beyond,
    /// The cloud has another record there.
    Fork {
        /// Where the hashes differ.
        at: Seq,
    },
    /// Authentic, and heard: a hello, a report, a roster, a command.
    Heard,
    /// What an authentic receipt meant to the relay.
    Receipt(Verdict),
    /// Refused before anybody looked at what it says.
    Refused {
        /// One word.
        kind: &'static str,
        /// The sentence that people read.
        why: String,
    },
}

/// An outbox of one controller, as the store names it.
pub type LaneId = (ControllerId, OutboxId);

/// What the cloud makes of a message; `keys_of` gives the record keys of a known controller.
pub fn verify(topic: &str, message: &[u8], keys_of: impl FnOnce(&ControllerId) -> Vec<PublicKey>) -> Arrival {
    cloud_ingest::intake::verify::verify(topic, message, keys_of)
}

/// What the cloud makes of a list of badges.
pub fn read_badges(file: &[u8]) -> Result<Vec<Binding>, BadBadges> {
    let keys = [TokenKey::new(TokenKeyId(1), [0x33; 32])];
    badges::read_badges(file, badges::Columns { keys: &keys, zone: None, card: &mut badges::as_read })
}

/// Intake and an event store in a file of its own.
pub struct Cloud {
    store: SqliteStore,
    keys: BTreeMap<ControllerId, Vec<PublicKey>>,
    _folder: tempfile::TempDir,
}

impl Cloud {
    /// With these controllers enrolled, each with the keys that its messages may be signed by, and nothing stored.
    pub fn new(controllers: impl IntoIterator<Item = (ControllerId, Vec<PublicKey>)>) -> Cloud {
        let folder = tempfile::tempdir().expect("room for a store");
        let mut store = SqliteStore::open(&folder.path().join("store.db"), NOW).expect("a new store");
        let site = Site { id: "hq".into(), label: "Headquarters".into(), zone: "Europe/Berlin".into() };
        store.put_site(&site).expect("a sound store");
        let keys: BTreeMap<_, _> = controllers.into_iter().collect();
        for (id, keys) in &keys {
            let (label, site) = (id.to_string(), "hq".into());
            let record_keys = keys.iter().copied().map(RecordKey::new).collect();
            let controller = Controller { id: id.clone(), label, site, record_keys };
            store.put_controller(&controller).expect("a sound store");
        }
        Cloud { store, keys, _folder: folder }
    }

    /// Takes messages in as one group, as the worker does: all proved, the batches stored in one transaction.
    pub fn deliver<'m>(&mut self, messages: impl Iterator<Item = (&'m str, &'m [u8])>) -> Vec<Answer> {
        let (mut answers, mut batches, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (topic, bytes) in messages {
            let keys_of = |id: &ControllerId| self.keys.get(id).cloned().unwrap_or_default();
            answers.push(match verify(topic, bytes, keys_of) {
                Arrival::Records(batch) => {
                    places.push(answers.len());
                    batches.push(batch);
                    Answer::Beyond
                }
                Arrival::Hello(hello) => {
                    self.store.note_hello(&hello, NOW).expect("a sound store");
                    Answer::Heard
                }
                Arrival::Report(_) | Arrival::Gone(_) => Answer::Heard,
                Arrival::Reject(reject) => Answer::Refused { kind: reject.kind, why: reject.reason },
            });
        }
        let appended = self.store.append(&batches, NOW).expect("a sound store");
        for (place, appended) in places.into_iter().zip(appended) {
            answers[place] = match appended.admission {
                Admission::Store { from } => Answer::Stored { from },
                Admission::Duplicate => Answer::Duplicate,
                Admission::Beyond => Answer::Beyond,
                Admission::Fork { at } => Answer::Fork { at },
            };
        }
        answers
    }

    /// How far each outbox is stored, by the store's own word.
    pub fn marks(&mut self) -> BTreeMap<LaneId, (Seq, ChainHash)> {
        let marks = self.store.marks().expect("a sound store");
        marks
            .into_iter()
            .map(|mark| ((mark.controller, mark.outbox), (mark.stored_through, mark.hash)))
            .collect()
    }

    /// A record's bytes as stored.
    pub fn record(&mut self, lane: &LaneId, seq: Seq) -> Option<Vec<u8>> {
        self.store.record_bytes(&lane.0, lane.1, seq).expect("a sound store")
    }

    /// How many records there are, of everybody.
    pub fn records(&mut self) -> u64 {
        self.store.totals().expect("a sound store").records
    }
}

/// A controller's ear: what it makes of messages from the broker.
pub struct Door {
    /// Who it is.
    pub id: ControllerId,
    /// Whose receipts it believes.
    pub receipt_keys: Vec<PublicKey>,
    /// Whose rosters and commands it believes.
    pub control_keys: Vec<PublicKey>,
    relay: Relay,
    assembler: Assembler,
    chains: BTreeMap<OutboxId, OnDisk>,
}

/// An outbox on a controller's disk.
#[derive(Debug, Clone)]
pub struct OnDisk {
    /// `h(0)`, `h(1)` … of all that was ever written.
    pub hashes: Vec<ChainHash>,
    /// Records up to here are deleted, their hashes too.
    pub pruned_through: usize,
}

impl Door {
    /// With these outboxes on its disk.
    pub fn new(
        id: ControllerId,
        receipt_keys: Vec<PublicKey>,
        control_keys: Vec<PublicKey>,
        chains: BTreeMap<OutboxId, OnDisk>,
    ) -> Door {
        let lanes = chains.iter().map(|(id, disk)| (*id, Seq(disk.hashes.len() as u64 - 1), Mark::default()));
        let relay = Relay::new(lanes);
        Door { id, receipt_keys, control_keys, relay, assembler: Assembler::default(), chains }
    }

    /// Takes one message in.
    pub fn deliver(&mut self, channel: Channel, message: &[u8]) -> Answer {
        let heard = match channel {
            Channel::Receipt => Receipt::open(message, &self.id, &self.receipt_keys).map(|receipt| {
                let own = self.own_hash(receipt.outbox, receipt.stored_through);
                Answer::Receipt(self.relay.receipt(&receipt, own, 0))
            }),
            Channel::Roster => RosterMessage::open(message, &self.id, &self.control_keys)
                .map(|roster| self.roster(roster, message)),
            Channel::Command => Command::open(message, &self.id, &self.control_keys).map(|_| Answer::Heard),
            Channel::Records | Channel::Hello | Channel::Gone | Channel::Report => {
                unreachable!("nothing is said to a door on {}", channel.name())
            }
        };
        heard.unwrap_or_else(|error| {
            let kind = match &error {
                OpenError::Decode(DecodeError::TooLong { .. }) => "oversized",
                OpenError::Decode(_) => "undecodable",
                OpenError::Signature(_) | OpenError::WrongController { .. } => "unauthentic",
            };
            Answer::Refused { kind, why: with_causes(&error) }
        })
    }

    /// As the agent's loop does it, with a disk that has nothing and takes everything.
    fn roster(&mut self, roster: RosterMessage, message: &[u8]) -> Answer {
        let heard = match roster {
            RosterMessage::Head(head) => self.assembler.head(head, message, None).map(drop),
            RosterMessage::Chunk(chunk) => self.assembler.chunk(&chunk, chunk_hash(&chunk.bytes), 0),
        };
        while let Some(Do::Look(head)) = self.assembler.next(0) {
            self.assembler.looked(head.version, &BTreeSet::new());
        }
        match heard {
            Ok(()) => Answer::Heard,
            Err(refused) => Answer::Refused { kind: "roster", why: with_causes(&refused) },
        }
    }

    /// Rosters, too, move by what is taken: the version that is being fetched, and how many chunks of it are here or on
    /// their way to the disk.
    pub fn roster_progress(&self) -> Option<(u64, usize, usize)> {
        self.assembler.progress()
    }

    /// What the outbox would say: `h(seq)`, where it still has it.
    fn own_hash(&self, outbox: OutboxId, seq: Seq) -> Option<ChainHash> {
        let disk = self.chains.get(&outbox)?;
        let place = usize::try_from(seq.0).ok()?;
        disk.hashes.get(place).filter(|_| place >= disk.pruned_through).copied()
    }

    /// Records that no receipt covers yet: moves with every mark.
    pub fn pending(&self) -> u64 {
        self.relay.pending()
    }
}

const NOW: UtcMs = UtcMs(1_795_248_000_000);
