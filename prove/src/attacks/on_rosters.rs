//! Attacks on what a door knows of badges: rosters that were announced once, chunks of another roster, and chunks that are
//! what was announced and make no roster all the same. All of them signed by the cloud.

use edge_agent::roster::assembler::Refused;
use edge_agent::roster::book::NotARoster;
use power_loss_vfs::Dice;
use tap_protocol::roster::{ENTRY_BYTES, RosterChunk, RosterHead, RosterMessage};

use super::cast::{self, Cast, Kind};
use super::plot::{Letter, Plot, Scene};
use super::reason::Reason;

/// What the cloud really said once, or what does not belong together.
pub fn replayed_roster(cast: &Cast, dice: &mut Dice) -> Plot {
    let mut scene = Scene::of(cast, Kind::RosterHead, 0, dice);
    let id = cast.door(scene.door).0;
    let mut chunk = cast::chunk(2 + dice.below(30) as usize, dice);
    chunk.version = 1_000 + dice.below(1_000);
    let (version, entries) = (chunk.version, chunk.bytes.len() / ENTRY_BYTES);
    match dice.below(8) {
        // An older roster, to bring a revoked badge back.
        0 => {
            let known = cast::announcing(id, &[&chunk]);
            let offered = version - 1 - dice.below(900);
            let older = RosterHead { version: offered, ..known.clone() };
            let newer = RosterHead { issued_utc_ms: known.issued_utc_ms + 1, ..known.clone() };
            scene.before = vec![scene.roster(RosterMessage::Head(known), dice)];
            let reason = Reason::Roster(Refused::Older { offered, have: version });
            plot(scene, RosterMessage::Head(older), RosterMessage::Head(newer), reason, dice)
        }
        // Another roster under the same number.
        1 => {
            let known = cast::announcing(id, &[&chunk]);
            let other = RosterHead { chunks: vec![[7; 32]], ..known.clone() };
            let same = RosterMessage::Head(known.clone());
            scene.before = vec![scene.roster(same.clone(), dice)];
            plot(scene, RosterMessage::Head(other), same, Reason::Roster(Refused::Contradicts(version)), dice)
        }
        // A chunk that is here already, of another roster, or of none.
        2 => {
            let other = cast::chunk(entries, dice);
            let second = RosterChunk { version, ..other };
            let mut head = cast::announcing(id, &[&chunk, &second]);
            // As many entries as two chunks have: only the first is full, and this one is not read here.
            head.entries = tap_protocol::limits::ROSTER_CHUNK_ENTRIES as u32 + 1;
            let full = full_chunk(version, dice);
            head.chunks[0] = tap_protocol::roster::chunk_hash(&full.bytes);
            let last = RosterChunk { version, index: 1, bytes: second.bytes[..ENTRY_BYTES].to_vec() };
            head.chunks[1] = tap_protocol::roster::chunk_hash(&last.bytes);
            let first = RosterMessage::Chunk(full);
            scene.before =
                vec![scene.roster(RosterMessage::Head(head), dice), scene.roster(first.clone(), dice)];
            let reason = Reason::Roster(Refused::NotWanted { version, index: 0 });
            plot(scene, first, RosterMessage::Chunk(last), reason, dice)
        }
        3 => {
            let stale = RosterChunk { version: version - 1, ..chunk.clone() };
            let reason = Reason::Roster(Refused::NotWanted { version: version - 1, index: 0 });
            with_head(scene, chunk, stale, reason, dice)
        }
        4 => {
            let beyond = RosterChunk { index: 1 + dice.below(9) as u32, ..chunk.clone() };
            let reason = Reason::Roster(Refused::NotWanted { version, index: beyond.index });
            with_head(scene, chunk, beyond, reason, dice)
        }
        // Other badges than were announced.
        5 => {
            let other = RosterChunk { version, ..cast::chunk(entries, dice) };
            let reason = Reason::Roster(Refused::WrongHash { version, index: 0 });
            with_head(scene, chunk, other, reason, dice)
        }
        // As announced, and no roster.
        n => {
            let source = spoil(&mut chunk, entries, n == 6, dice);
            let mut head = cast::announcing(id, &[&chunk]);
            if let NotARoster::Count { said, .. } = source {
                head.entries = said;
            }
            let next = RosterHead { version: version + 1, ..head.clone() };
            let head = RosterMessage::Head(head);
            let reason = Reason::Roster(Refused::Chunk { version, index: 0, source });
            scene.before = vec![scene.roster(head.clone(), dice)];
            if dice.percent(50) {
                return spoilt_before(scene, (head, chunk), next, reason, dice);
            }
            plot(scene, RosterMessage::Chunk(chunk), RosterMessage::Head(next), reason, dice)
        }
    }
}

/// The roster of a chunk that broke a rule is announced once more.
fn spoilt_before(
    mut scene: Scene<'_>,
    (head, chunk): (RosterMessage, RosterChunk),
    next: RosterHead,
    refused: Reason,
    dice: &mut Dice,
) -> Plot {
    let version = chunk.version;
    let bytes = scene.roster(RosterMessage::Chunk(chunk), dice).bytes;
    let spoiling = scene.letter(bytes, &refused);
    scene.before.push(spoiling);
    plot(scene, head, RosterMessage::Head(next), Reason::Roster(Refused::Spoilt(version)), dice)
}

/// Makes the chunk break a rule.
fn spoil(chunk: &mut RosterChunk, entries: usize, is_swapped: bool, dice: &mut Dice) -> NotARoster {
    let at = 1 + dice.below(entries as u64 - 1) as usize;
    match (is_swapped, dice.percent(50)) {
        (true, _) => {
            // Two badges the wrong way round, or one twice.
            let (before, entry) = ((at - 1) * ENTRY_BYTES, at * ENTRY_BYTES);
            let earlier = chunk.bytes[before..entry].to_vec();
            if dice.percent(50) {
                let later = chunk.bytes[entry..entry + ENTRY_BYTES].to_vec();
                chunk.bytes[before..entry].copy_from_slice(&later);
            }
            chunk.bytes[entry..entry + ENTRY_BYTES].copy_from_slice(&earlier);
            NotARoster::Order { at }
        }
        (false, true) => {
            chunk.bytes[at * ENTRY_BYTES + 16] = 2 + dice.below(254) as u8;
            NotARoster::Standing { at }
        }
        (false, false) => NotARoster::Count { said: entries as u32 + 1, found: chunk.bytes.len() },
    }
}

/// The head announces `honest`; `forged` comes instead of it.
fn with_head(
    mut scene: Scene<'_>,
    honest: RosterChunk,
    forged: RosterChunk,
    reason: Reason,
    dice: &mut Dice,
) -> Plot {
    let head = cast::announcing(scene.cast.door(scene.door).0, &[&honest]);
    scene.before = vec![scene.roster(RosterMessage::Head(head), dice)];
    plot(scene, RosterMessage::Chunk(forged), RosterMessage::Chunk(honest), reason, dice)
}

fn plot(
    scene: Scene<'_>,
    forged: RosterMessage,
    control: RosterMessage,
    reason: Reason,
    dice: &mut Dice,
) -> Plot {
    let bytes = scene.roster(forged, dice).bytes;
    let forged: Letter = scene.letter(bytes, &reason);
    let control = scene.roster(control, dice);
    Plot { control, ..scene.plot_with(forged, reason, dice) }
}

fn full_chunk(version: u64, dice: &mut Dice) -> RosterChunk {
    RosterChunk { version, ..cast::chunk(tap_protocol::limits::ROSTER_CHUNK_ENTRIES, dice) }
}
