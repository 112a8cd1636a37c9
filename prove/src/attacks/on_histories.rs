//! Attacks on what is stored and on what receipts cover, all of them authentic: what was said already, what comes at the
//! wrong place, and what contradicts. Signed with the right key, by a thief of it or by a controller that lies.

use power_loss_vfs::Dice;
use tap_protocol::chain::ChainHash;
use tap_protocol::codec::{VERSION_1, encode};
use tap_protocol::ids::{OutboxId, Seq, StoreEpoch};
use tap_protocol::report::{Report, What};
use tap_protocol::topic::{Channel, Topic};

use super::cast::{self, Cast, DOORS, EPOCH, History, Kind, receipt};
use super::plot::{Letter, Plot, Scene};
use super::reason::Reason;
use crate::forging::message;

/// The right records in the wrong order.
pub fn reordered(cast: &Cast, dice: &mut Dice) -> Plot {
    match dice.below(8) {
        0 => reordered_receipts(cast, dice),
        1 => reordered_places(cast, dice),
        _ => reordered_records(cast, dice),
    }
}

fn reordered_records(cast: &Cast, dice: &mut Dice) -> Plot {
    let mut scene = Scene::of(cast, Kind::Batch, 2 + dice.below(4) as usize, dice);
    let stored = scene.stored;
    scene.history.records.extend([cast::record(90, dice), cast::record(91, dice)]);
    let last = scene.history.records.len();
    let mut other = scene.history.clone();
    let (from, to, reason) = match dice.below(4) {
        // Among what is stored.
        0 => {
            let first = dice.below(stored as u64 - 1) as usize;
            other.records.swap(first, first + 1);
            (1 + dice.below(first as u64 + 1) as usize, first + 1, Reason::Fork(Seq(first as u64 + 1)))
        }
        // A later batch comes first.
        1 => (stored + 2, last, Reason::Beyond),
        // Across the mark: the batch before would have ended otherwise.
        2 => {
            other.records.swap(stored - 1, stored);
            (stored + 1, last, Reason::Fork(Seq(stored as u64)))
        }
        // Across the mark, said again.
        _ => {
            other.records.swap(stored - 1, stored);
            (stored, last, Reason::Fork(Seq(stored as u64)))
        }
    };
    let bytes = batch(&scene, &other, from, to);
    scene.plot(bytes, reason, dice)
}

/// A newer receipt overtakes an older one.
fn reordered_receipts(cast: &Cast, dice: &mut Dice) -> Plot {
    let scene = Scene::of(cast, Kind::Receipt, 2 + dice.below(4) as usize, dice);
    let older = scene.receipt(dice.below(scene.stored as u64) as usize, dice).bytes;
    scene.plot(older, Reason::OldReceipt, dice)
}

/// A report whose places are in no order.
fn reordered_places(cast: &Cast, dice: &mut Dice) -> Plot {
    let scene = Scene::of(cast, Kind::Report, 0, dice);
    let mut seqs: Vec<Seq> = (1..=2 + dice.below(31)).map(Seq).collect();
    let place = dice.below(seqs.len() as u64 - 1) as usize;
    match dice.percent(50) {
        true => seqs.swap(place, place + 1),
        false => seqs[place + 1] = seqs[place],
    }
    let what = What::HashesWanted { outbox: scene.history.outbox, seqs };
    let honest = cast::report(cast.door(scene.door).0, &scene.history, dice);
    let bytes = scene.by_thief(&encode(VERSION_1, &Report { what, ..honest }), dice);
    scene.plot(bytes, Reason::Rule("a report asks for at most 32 hashes, in ascending order"), dice)
}

/// What is stored already, once more: as it was, cut otherwise, or under another's name.
pub fn replayed_batch(cast: &Cast, dice: &mut Dice) -> Plot {
    let scene = Scene::of(cast, Kind::Batch, 1 + dice.below(5) as usize, dice);
    let stored = scene.stored as u64;
    match dice.below(4) {
        0 => {
            let said = scene.before[dice.below(scene.before.len() as u64) as usize].bytes.clone();
            scene.plot(said, Reason::Duplicate, dice)
        }
        1 | 2 => {
            let from = 1 + dice.below(stored);
            let to = from + dice.below(stored - from + 1);
            let bytes = batch(&scene, &scene.history, from as usize, to as usize);
            scene.plot(bytes, Reason::Duplicate, dice)
        }
        _ => {
            let other = cast.door((scene.door + 1) % DOORS).0;
            let topic = Topic::new(other, Channel::Records).to_string();
            let bytes = scene.before[0].bytes.clone();
            let letter = Letter { topic, ..scene.letter(bytes, &Reason::Signature) };
            scene.plot_with(letter, Reason::Signature, dice)
        }
    }
}

/// What the cloud really said once: before, to another, of another outbox or in another life of its store.
pub fn replayed_receipt(cast: &Cast, dice: &mut Dice) -> Plot {
    let mut scene = Scene::of(cast, Kind::Receipt, 1 + dice.below(4) as usize, dice);
    let (stored, last) = (scene.stored, scene.history.records.len());
    let id = cast.door(scene.door).0;
    let mut said = receipt(id, &scene.history, stored, dice);
    let reason = match dice.below(7) {
        0 => {
            let again = scene.before[0].bytes.clone();
            return scene.plot(again, Reason::OldReceipt, dice);
        }
        1 => {
            said = receipt(id, &scene.history, dice.below(stored as u64) as usize, dice);
            Reason::OldReceipt
        }
        // Of an earlier life of the store, in which it had more.
        2 => {
            said = receipt(id, &scene.history, last, dice);
            said.store_epoch = StoreEpoch(EPOCH.0 - 1 - dice.below(1_000));
            Reason::OldReceipt
        }
        3 => {
            said.controller = cast.door((scene.door + 1) % DOORS).0.clone();
            Reason::WrongController { said: said.controller.clone(), expected: id.clone() }
        }
        4 => {
            said.outbox = OutboxId(cast::sixteen(dice));
            Reason::ForeignReceipt
        }
        // From before a backup was put back at the door.
        5 => {
            said.stored_through = Seq(last as u64 + 1 + dice.below(10));
            Reason::Rewound
        }
        // A new life of the store that lacks what the door has deleted.
        _ => {
            scene.pruned_through = stored;
            let through = dice.below(stored as u64) as usize;
            said = receipt(id, &scene.history, through, dice);
            said.store_epoch = StoreEpoch(EPOCH.0 + 1);
            Reason::HistoryGone
        }
    };
    let key = cast.right_key(Kind::Receipt, scene.door, dice);
    let bytes = message(Kind::Receipt.label(), &said, key);
    scene.plot(bytes, reason, dice)
}

/// Another record under a number that is taken.
pub fn fork(cast: &Cast, dice: &mut Dice) -> Plot {
    if dice.percent(20) {
        return forked_receipt(cast, dice);
    }
    let scene = Scene::of(cast, Kind::Batch, 1 + dice.below(5) as usize, dice);
    let stored = scene.stored;
    let mut other = scene.history.clone();
    let mut wire = match dice.below(4) {
        // Within what is stored, or going on beyond it.
        0 | 1 => {
            let changed = dice.below(stored as u64) as usize;
            other.records[changed] = cast::record(changed as u64, dice);
            let from = 1 + dice.below(changed as u64 + 1) as usize;
            let to = changed + 1 + dice.below((other.records.len() - changed) as u64) as usize;
            let bytes = batch(&scene, &other, from, to);
            return scene.plot(bytes, Reason::Fork(Seq(to.min(stored) as u64)), dice);
        }
        // Continuing something else.
        2 => other.batch(cast.door(scene.door).0, stored + 1, other.records.len()),
        // Another beginning.
        _ => {
            let begins = History::new(1 + dice.below(3) as usize, dice);
            begins.batch(cast.door(scene.door).0, 1, begins.records.len())
        }
    };
    wire.hash_before.0[dice.below(32) as usize] ^= 1 << dice.below(8);
    let reason = Reason::Fork(Seq(wire.first_seq.0 - 1));
    let bytes = message(Kind::Batch.label(), &wire, cast.door(scene.door).1);
    scene.plot(bytes, reason, dice)
}

/// The cloud says that it has other records than the door.
fn forked_receipt(cast: &Cast, dice: &mut Dice) -> Plot {
    let scene = Scene::of(cast, Kind::Receipt, 1 + dice.below(4) as usize, dice);
    let through = dice.below(scene.history.records.len() as u64 + 1) as usize;
    let mut said = receipt(cast.door(scene.door).0, &scene.history, through, dice);
    said.hash = ChainHash(std::array::from_fn(|_| dice.bits() as u8));
    let bytes = message(Kind::Receipt.label(), &said, cast.right_key(Kind::Receipt, scene.door, dice));
    scene.plot(bytes, Reason::Forked, dice)
}

/// A controller that is enrolled and lies: it speaks of another controller's outbox.
pub fn foreign_outbox(cast: &Cast, dice: &mut Dice) -> Plot {
    let scene = Scene::of(cast, Kind::Batch, 1 + dice.below(4) as usize, dice);
    let (victim, victims_key) = cast.door(scene.door);
    let (liar, liars_key) = cast.door((scene.door + 1 + dice.below(DOORS - 1)) % DOORS);
    let (stored, last) = (scene.stored, scene.history.records.len());
    let mut wire = scene.history.batch(liar, stored + 1, last);
    let (mut key, mut topic) = (liars_key, liar);
    let reason = match dice.below(5) {
        // What comes next in the victim's outbox, in the liar's own name.
        0 | 1 => Reason::Beyond,
        2 => {
            wire.controller = victim.clone();
            Reason::WrongController { said: victim.clone(), expected: liar.clone() }
        }
        3 => {
            wire.controller = victim.clone();
            topic = victim;
            Reason::Signature
        }
        // The victim's chain as the beginning of one of its own.
        _ => {
            wire.first_seq = Seq(1);
            Reason::Fork(Seq(0))
        }
    };
    if dice.percent(10) && reason == Reason::Beyond {
        // Really signed by the victim, and brought under the liar's name.
        (key, wire.controller) = (victims_key, victim.clone());
        let bytes = message(Kind::Batch.label(), &wire, key);
        let topic = Topic::new(liar, Channel::Records).to_string();
        let letter = Letter { topic, ..scene.letter(bytes, &Reason::Signature) };
        return scene.plot_with(letter, Reason::Signature, dice);
    }
    let bytes = message(Kind::Batch.label(), &wire, key);
    let topic = Topic::new(topic, Channel::Records).to_string();
    let letter = Letter { topic, ..scene.letter(bytes, &reason) };
    scene.plot_with(letter, reason, dice)
}

fn batch(scene: &Scene<'_>, history: &History, from: usize, to: usize) -> Vec<u8> {
    let (id, key) = scene.cast.door(scene.door);
    message(Kind::Batch.label(), &history.batch(id, from, to), key)
}
