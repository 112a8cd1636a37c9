//! Attacks on any kind of message: by whom it is signed, for whom it speaks, and every way of changing its bytes. Where
//! bytes are changed the signature is made anew, by a thief of the key, so that each check stands for itself.

use power_loss_vfs::Dice;
use tap_protocol::codec::{VERSION_1, encode};
use tap_protocol::hello::OutboxHello;
use tap_protocol::ids::{BootId, OutboxId, Seq};
use tap_protocol::limits::{MAX_MESSAGE_BYTES, MAX_ROSTER_CHUNKS, ROSTER_CHUNK_ENTRIES};
use tap_protocol::report::{Outcome, Report, What};
use tap_protocol::roster::{RosterChunk, RosterMessage};
use tap_protocol::topic::{Channel, Topic};

use super::cast::{self, Bytes, Cast, DOORS, Kind};
use super::plot::{Letter, Plot, Scene};
use super::reason::Reason;
use crate::forging::{label, message, signed, unsigned};

/// Signed by another real key, or by the right one as another kind of message.
pub fn wrong_key(cast: &Cast, dice: &mut Dice) -> Plot {
    let scene = Scene::any(cast, dice);
    let right = scene.kind.label();
    let bytes = if dice.percent(70) {
        signed(right, &scene.body, cast.wrong_key(scene.kind, scene.door, dice))
    } else {
        let others: Vec<_> = label::ALL.into_iter().filter(|label| *label != right).collect();
        let label = others[dice.below(others.len() as u64) as usize];
        signed(label, &scene.body, cast.right_key(scene.kind, scene.door, dice))
    };
    scene.plot(bytes, Reason::Signature, dice)
}

/// Says what another controller should say, or what another should hear, or speaks as one that nobody knows.
pub fn wrong_controller(cast: &Cast, dice: &mut Dice) -> Plot {
    let scene = match Scene::any(cast, dice) {
        // A chunk is the same for all controllers.
        chunk if chunk.kind == Kind::RosterChunk => Scene::of(cast, Kind::RosterHead, 0, dice),
        other => other,
    };
    let own = cast.door(scene.door).0.clone();
    let (other, other_key) = cast.door((scene.door + 1 + dice.below(DOORS - 1)) % DOORS);
    let body = cast::body(scene.kind, other, &scene.history, scene.stored, dice);
    let speaks_for_another = Reason::WrongController { said: other.clone(), expected: own.clone() };
    if !scene.kind.is_upward() {
        let bytes = scene.by_thief(&body, dice);
        return scene.plot(bytes, speaks_for_another, dice);
    }
    let (letter, reason) = match dice.below(5) {
        0 | 1 => (scene.letter(scene.by_thief(&body, dice), &speaks_for_another), speaks_for_another),
        2 => {
            let theirs = signed(scene.kind.label(), &body, other_key);
            (scene.letter(theirs, &Reason::Signature), Reason::Signature)
        }
        3 => {
            let (stranger, key) = cast.door(DOORS);
            let body = cast::body(scene.kind, stranger, &scene.history, scene.stored, dice);
            let reason = Reason::UnknownController(stranger.clone());
            let topic = Topic::new(stranger, scene.kind.channel()).to_string();
            (Letter { topic, ..scene.letter(signed(scene.kind.label(), &body, key), &reason) }, reason)
        }
        _ => {
            let (topic, reason) = wrong_topic(&own.to_string(), dice);
            (Letter { topic, ..scene.letter(scene.by_thief(&scene.body, dice), &reason) }, reason)
        }
    };
    scene.plot_with(letter, reason, dice)
}

fn wrong_topic(own: &str, dice: &mut Dice) -> (String, Reason) {
    let downward = [Channel::Receipt, Channel::Roster, Channel::Command];
    match dice.below(6) {
        0 => (format!("tap/v2/{own}/records"), Reason::UnknownTopic),
        1 => (format!("tap/v1/{}/records", own.to_uppercase()), Reason::UnknownTopic),
        2 => (format!("tap/v1/{own}/x/records"), Reason::UnknownTopic),
        n => {
            let channel = downward[n as usize - 3];
            (format!("tap/v1/{own}/{}", channel.name()), Reason::CloudOnly(channel))
        }
    }
}

/// One bit is another one, somewhere, and the message can still be read.
pub fn flipped_bit(cast: &Cast, dice: &mut Dice) -> Plot {
    let scene = Scene::any(cast, dice);
    let honest = scene.by_thief(&scene.body, dice);
    loop {
        // The version is for another class.
        let bit = 8 + dice.below(honest.len() as u64 * 8 - 8) as usize;
        let mut changed = honest.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        if is_framed(scene.kind, &changed) {
            return scene.plot(changed, Reason::Signature, dice);
        }
    }
}

/// Whether the bytes have the shape of such a message: then nothing but the signature tells.
fn is_framed(kind: Kind, message: &[u8]) -> bool {
    use tap_protocol::codec::peek;
    match kind {
        Kind::Batch => tap_protocol::envelope::UnverifiedBatch::parse(message).is_ok(),
        Kind::Hello => peek::<tap_protocol::hello::Hello>(message).is_ok(),
        Kind::Report => peek::<Report>(message).is_ok(),
        Kind::Receipt => peek::<tap_protocol::receipt::Receipt>(message).is_ok(),
        Kind::RosterHead | Kind::RosterChunk => peek::<RosterMessage>(message).is_ok(),
        Kind::Command => peek::<tap_protocol::command::Command>(message).is_ok(),
    }
}

/// The end is missing, and what is left is signed or is not.
pub fn truncated(cast: &Cast, dice: &mut Dice) -> Plot {
    let scene = Scene::any(cast, dice);
    let left = dice.below(scene.body.len() as u64) as usize;
    let bytes = match dice.below(4) {
        0 => scene.by_thief(&scene.body, dice)[..left + 64].to_vec(),
        1 => {
            let bytes = scene.by_thief(&scene.body, dice)[..dice.below(64) as usize].to_vec();
            let reason = Reason::Truncated(bytes.len());
            return scene.plot(bytes, reason, dice);
        }
        _ => scene.by_thief(&scene.body[..left], dice),
    };
    scene.plot(bytes, Reason::Truncated(left), dice)
}

/// Something follows the end, before the signature or behind it.
pub fn trailing_bytes(cast: &Cast, dice: &mut Dice) -> Plot {
    let scene = Scene::any(cast, dice);
    let more = 1 + dice.below(40) as usize;
    let tail: Vec<u8> = (0..more).map(|_| dice.bits() as u8).collect();
    let bytes = if dice.percent(70) {
        scene.by_thief(&[&scene.body[..], &tail].concat(), dice)
    } else {
        [scene.by_thief(&scene.body, dice), tail].concat()
    };
    scene.plot(bytes, Reason::TrailingBytes(more), dice)
}

/// Written by a Tapline that does not exist yet.
pub fn future_version(cast: &Cast, dice: &mut Dice) -> Plot {
    let scene = Scene::any(cast, dice);
    if dice.percent(25)
        && let Some(body) = with_a_new_word(&scene, dice)
    {
        let bytes = scene.by_thief(&body, dice);
        return scene.plot(bytes, Reason::Malformed, dice);
    }
    let version = match dice.below(255) as u8 {
        0 => 0,
        other => other + 1,
    };
    let bytes = scene.by_thief(&[&[version], &scene.body[1..]].concat(), dice);
    scene.plot(bytes, Reason::UnknownVersion(version), dice)
}

/// Version 1, with something in it that this version has no word for yet.
fn with_a_new_word(scene: &Scene<'_>, dice: &mut Dice) -> Option<Vec<u8>> {
    let id = scene.cast.door(scene.door).0;
    let number = dice.below(1 << 40);
    let (what, order, message) =
        (3 + dice.below(100) as u32, 4 + dice.below(100) as u32, 2 + dice.below(100) as u32);
    match scene.kind {
        Kind::Report => Some(encode(VERSION_1, &(id, BootId(cast::sixteen(dice)), number, what))),
        Kind::Command => Some(encode(VERSION_1, &(id, number, number as i64, order))),
        Kind::RosterHead | Kind::RosterChunk => Some(encode(VERSION_1, &(message, number))),
        Kind::Batch | Kind::Hello | Kind::Receipt => None,
    }
}

/// More than the protocol allows, or less, of something; each in its own way.
pub fn oversized(cast: &Cast, dice: &mut Dice) -> Plot {
    let scene = Scene::any(cast, dice);
    let id = cast.door(scene.door).0;
    let (what, few) = (dice.below(6), dice.below(50) as usize);
    let too_long = || {
        let padding = MAX_MESSAGE_BYTES + 1 + few - scene.body.len();
        [&scene.body[..], &vec![0; padding]].concat()
    };
    let wire = |change: &dyn Fn(&mut cast::Wire)| {
        let mut wire = scene.history.batch(id, scene.stored + 1, scene.history.records.len());
        change(&mut wire);
        encode(VERSION_1, &wire)
    };
    let records = |count: usize, len: usize| {
        let records = vec![Bytes(vec![2; len]); count];
        wire(&|wire| wire.records.clone_from(&records))
    };
    let (body, rule) = match (scene.kind, what) {
        (Kind::Batch, 0) => (records(257 + few, 1), "a batch has 1 to 256 records"),
        (Kind::Batch, 1) if few < 5 => (records(0, 0), "a batch has 1 to 256 records"),
        (Kind::Batch, 1) => (records(1 + few % 7, 1025 + few), "a record has 1 to 1024 bytes"),
        (Kind::Batch, 2) if few < 20 => (records(1 + few, 0), "a record has 1 to 1024 bytes"),
        (Kind::Batch, 2) => (records(40 + few % 5, 900), "a batch's records have at most 32 KiB"),
        (Kind::Batch, 3) => (records(33, 1000 + few % 24), "a batch's records have at most 32 KiB"),
        (Kind::Batch, 4) => {
            let seq = if few < 25 { 0 } else { (1 << 48) - 256 + few as u64 };
            (wire(&|wire| wire.first_seq = Seq(seq)), "seq counts from 1 and stays below 2^48")
        }
        (Kind::Hello, 0..=3) => {
            let mut hello = cast::hello(id, &scene.history, dice);
            let named = OutboxHello { outbox: OutboxId(cast::sixteen(dice)), ..hello.outboxes[0].clone() };
            match what {
                0 | 1 => hello.outboxes = vec![named; 17 + few],
                _ => hello.readers = vec![hello.readers[0].clone(); 17 + few],
            }
            (encode(VERSION_1, &hello), "a hello names at most 16 outboxes and 16 readers")
        }
        (Kind::Report, 0 | 1) => {
            let detail = "x".repeat(4097 + few);
            let what = What::CommandDone { number: 1, outcome: Outcome::Done, detail };
            (report(&scene, what, dice), "a report's text has at most 4096 bytes")
        }
        (Kind::Report, 2 | 3) => {
            let seqs = (1..=33 + few as u64).map(Seq).collect();
            let what = What::HashesWanted { outbox: scene.history.outbox, seqs };
            (report(&scene, what, dice), "a report asks for at most 32 hashes, in ascending order")
        }
        (Kind::RosterHead, 0 | 1) => {
            let chunks = MAX_ROSTER_CHUNKS + 1 + few;
            let entries = (chunks * ROSTER_CHUNK_ENTRIES) as u32;
            (encode(VERSION_1, &cast::head(id, entries, chunks, dice)), "a roster has at most 600 chunks")
        }
        (Kind::RosterHead, 2 | 3) => {
            let head = cast::head(id, few as u32, 2 + few, dice);
            (encode(VERSION_1, &head), "a roster has as many chunks as its entries need")
        }
        (Kind::RosterChunk, 0..=3) => {
            let bytes = match what {
                0 | 1 => vec![0; (ROSTER_CHUNK_ENTRIES + 1 + few) * 17],
                _ => vec![0; 17 * few + 1 + few % 16],
            };
            let chunk = RosterMessage::Chunk(RosterChunk { version: 1, index: 0, bytes });
            (encode(VERSION_1, &chunk), "a chunk has whole entries, at most 1900")
        }
        _ => {
            let bytes = scene.by_thief(&too_long(), dice);
            let reason = Reason::TooLong(bytes.len());
            return scene.plot(bytes, reason, dice);
        }
    };
    let bytes = scene.by_thief(&body, dice);
    scene.plot(bytes, Reason::Rule(rule), dice)
}

fn report(scene: &Scene<'_>, what: What, dice: &mut Dice) -> Vec<u8> {
    let honest = cast::report(scene.cast.door(scene.door).0, &scene.history, dice);
    unsigned(&message(label::REPORT, &Report { what, ..honest }, scene.cast.door(scene.door).1)).to_vec()
}
