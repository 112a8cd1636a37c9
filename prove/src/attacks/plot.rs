//! One attack, planned: what is said honestly before it, the forged message, the reason that it must be refused for, and
//! the honest message that must be taken all the same. Everything follows from class and seed.

use std::collections::BTreeMap;

use edge_agent::relay::{Mark, Verdict};
use power_loss_vfs::Dice;
use tap_protocol::ids::{OutboxId, Seq};
use tap_protocol::limits::MAX_MESSAGE_BYTES;
use tap_protocol::roster::RosterMessage;
use tap_protocol::topic::{Channel, Topic};

use super::Class;
use super::cast::{self, Cast, DOORS, EPOCH, History, Kind, body, receipt};
use super::production::{Answer, Door, LaneId, OnDisk};
use super::reason::Reason;
use super::{on_histories, on_messages, on_rosters};
use crate::forging::signed;

/// A message on its way.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Under which topic.
    pub topic: String,
    /// Its channel.
    pub channel: Channel,
    /// The message.
    pub bytes: Vec<u8>,
    /// What must become of it.
    pub expect: Answer,
    /// What must be stored after it: records of an outbox, from a number on.
    pub adds: Option<(LaneId, usize, Vec<Vec<u8>>)>,
}

/// One attack.
pub struct Plot {
    /// Whom it goes to: a door, if any; otherwise the cloud.
    pub door: Option<Door>,
    /// All of these must be taken.
    pub before: Vec<Letter>,
    /// This must be refused …
    pub forged: Letter,
    /// … for this reason.
    pub reason: Reason,
    /// And this must be taken.
    pub control: Letter,
}

/// Plans the attack of that seed.
pub fn plan(cast: &Cast, class: Class, seed: u64) -> Plot {
    let mut dice = Dice::at(seed, class as u64);
    match class {
        Class::WrongKey => on_messages::wrong_key(cast, &mut dice),
        Class::WrongController => on_messages::wrong_controller(cast, &mut dice),
        Class::FlippedBit => on_messages::flipped_bit(cast, &mut dice),
        Class::Truncated => on_messages::truncated(cast, &mut dice),
        Class::TrailingBytes => on_messages::trailing_bytes(cast, &mut dice),
        Class::Oversized => on_messages::oversized(cast, &mut dice),
        Class::FutureVersion => on_messages::future_version(cast, &mut dice),
        Class::Reordered => on_histories::reordered(cast, &mut dice),
        Class::ReplayedBatch => on_histories::replayed_batch(cast, &mut dice),
        Class::ReplayedReceipt => on_histories::replayed_receipt(cast, &mut dice),
        Class::Fork => on_histories::fork(cast, &mut dice),
        Class::ForeignOutbox => on_histories::foreign_outbox(cast, &mut dice),
        Class::ReplayedRoster => on_rosters::replayed_roster(cast, &mut dice),
    }
}

/// A controller with an outbox of which a part is stored, and an honest message that comes next.
pub struct Scene<'c> {
    /// Everybody.
    pub cast: &'c Cast,
    /// What is about to be said.
    pub kind: Kind,
    /// By or to whom.
    pub door: u64,
    /// Its outbox.
    pub history: History,
    /// So many records of it are stored, or covered by a receipt.
    pub stored: usize,
    /// What is about to be said, without its signature.
    pub body: Vec<u8>,
    /// What was said before.
    pub before: Vec<Letter>,
    /// So many records are deleted on the door's disk.
    pub pruned_through: usize,
}

impl<'c> Scene<'c> {
    /// Of any kind.
    pub fn any(cast: &'c Cast, dice: &mut Dice) -> Scene<'c> {
        let kind = Kind::ALL[dice.below(Kind::ALL.len() as u64) as usize];
        let stored = if kind == Kind::Batch { dice.below(4) as usize } else { 0 };
        Scene::of(cast, kind, stored, dice)
    }

    /// Of this kind, with so many records stored before.
    pub fn of(cast: &'c Cast, kind: Kind, stored: usize, dice: &mut Dice) -> Scene<'c> {
        let door = dice.below(DOORS);
        let history = History::new(stored + 1 + dice.below(4) as usize, dice);
        let body = body(kind, cast.door(door).0, &history, stored, dice);
        let mut scene =
            Scene { cast, kind, door, history, stored, body, before: Vec::new(), pruned_through: 0 };
        match kind {
            Kind::Batch if stored > 1 && dice.percent(50) => {
                let middle = 1 + dice.below(stored as u64 - 1) as usize;
                scene.before = vec![scene.batch(1, middle, 1), scene.batch(middle + 1, stored, middle + 1)];
            }
            Kind::Batch if stored > 0 => scene.before = vec![scene.batch(1, stored, 1)],
            Kind::Receipt if stored > 0 => scene.before = vec![scene.receipt(stored, dice)],
            Kind::RosterChunk => {
                let chunk = tap_protocol::codec::decode(&scene.body, MAX_MESSAGE_BYTES).expect("just made");
                let RosterMessage::Chunk(chunk) = chunk else { unreachable!("a chunk was asked for") };
                let head = cast::announcing(scene.cast.door(door).0, &[&chunk]);
                scene.before = vec![scene.roster(RosterMessage::Head(head), dice)];
            }
            _ => {}
        }
        scene
    }

    /// Its outbox, as the store names it.
    pub fn lane(&self) -> LaneId {
        (self.cast.door(self.door).0.clone(), self.history.outbox)
    }

    /// Records `from ..= to`, honestly said; `new_from` on they are new.
    pub fn batch(&self, from: usize, to: usize, new_from: usize) -> Letter {
        let (id, key) = self.cast.door(self.door);
        let wire = self.history.batch(id, from, to);
        Letter {
            topic: Topic::new(id, Channel::Records).to_string(),
            channel: Channel::Records,
            bytes: crate::forging::message(Kind::Batch.label(), &wire, key),
            expect: Answer::Stored { from: Seq(new_from as u64) },
            adds: Some((self.lane(), new_from, self.history.records[new_from - 1..to].to_vec())),
        }
    }

    /// A receipt for the first `through` records, honestly said, which covers more than any before.
    pub fn receipt(&self, through: usize, dice: &mut Dice) -> Letter {
        let id = self.cast.door(self.door).0;
        let key = self.cast.right_key(Kind::Receipt, self.door, dice);
        let receipt = receipt(id, &self.history, through, dice);
        let mark = Mark { receipted_through: Seq(through as u64), store_epoch: Some(EPOCH) };
        Letter {
            topic: Topic::new(id, Channel::Receipt).to_string(),
            channel: Channel::Receipt,
            bytes: crate::forging::message(Kind::Receipt.label(), &receipt, key),
            expect: Answer::Receipt(Verdict::Advanced(mark)),
            adds: None,
        }
    }

    /// A roster's head or chunk, honestly said.
    pub fn roster(&self, roster: RosterMessage, dice: &mut Dice) -> Letter {
        let key = self.cast.right_key(Kind::RosterHead, self.door, dice);
        Letter {
            topic: Topic::new(self.cast.door(self.door).0, Channel::Roster).to_string(),
            channel: Channel::Roster,
            bytes: crate::forging::message(Kind::RosterHead.label(), &roster, key),
            expect: Answer::Heard,
            adds: None,
        }
    }

    /// What is about to be said, honestly signed: the control.
    pub fn control(&self, dice: &mut Dice) -> Letter {
        let last = self.history.records.len();
        if self.kind == Kind::Batch {
            return self.batch(self.stored + 1, last, self.stored + 1);
        }
        let mark = Mark { receipted_through: Seq(last as u64), store_epoch: Some(EPOCH) };
        let expect = match self.kind {
            Kind::Receipt => Answer::Receipt(Verdict::Advanced(mark)),
            _ => Answer::Heard,
        };
        let key = self.cast.right_key(self.kind, self.door, dice);
        Letter { expect, ..self.letter(signed(self.kind.label(), &self.body, key), &Reason::Signature) }
    }

    /// A message on this door's own topic that must be refused.
    pub fn letter(&self, bytes: Vec<u8>, reason: &Reason) -> Letter {
        let channel = self.kind.channel();
        let topic = Topic::new(self.cast.door(self.door).0, channel).to_string();
        Letter { topic, channel, bytes, expect: reason.answer(self.kind.is_upward()), adds: None }
    }

    /// `body` with a signature that holds: what a thief of the key can make.
    pub fn by_thief(&self, body: &[u8], dice: &mut Dice) -> Vec<u8> {
        signed(self.kind.label(), body, self.cast.right_key(self.kind, self.door, dice))
    }

    /// The attack with this message on the door's own topic.
    pub fn plot(self, forged: Vec<u8>, reason: Reason, dice: &mut Dice) -> Plot {
        let forged = self.letter(forged, &reason);
        self.plot_with(forged, reason, dice)
    }

    /// The attack with this letter.
    pub fn plot_with(self, forged: Letter, reason: Reason, dice: &mut Dice) -> Plot {
        let mut control = self.control(dice);
        // Signed by the cloud's own key: what is in dispute believes nothing more until that is settled.
        if matches!(reason, Reason::Rewound | Reason::Forked | Reason::HistoryGone) {
            control.expect = Reason::OldReceipt.answer(false);
        }
        let door = (!self.kind.is_upward()).then(|| self.ear());
        Plot { door, before: self.before, forged, reason, control }
    }

    fn ear(&self) -> Door {
        let disk = OnDisk { hashes: self.history.hashes(), pruned_through: self.pruned_through };
        let chains: BTreeMap<OutboxId, OnDisk> = [(self.history.outbox, disk)].into();
        let id = self.cast.door(self.door).0.clone();
        Door::new(id, self.cast.receipt_keys(), self.cast.control_keys(), chains)
    }
}
