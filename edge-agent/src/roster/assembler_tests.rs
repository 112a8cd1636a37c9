//! The assembler against a cloud and a line that do everything but bring the right thing at once.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use proptest::prelude::*;
use tap_protocol::badge::Token;
use tap_protocol::limits::ROSTER_CHUNK_ENTRIES;
use tap_protocol::roster::{ENTRY_BYTES, Standing, chunk_hash, entry};

use super::*;

const FULL: u32 = ROSTER_CHUNK_ENTRIES as u32;

/// What a cloud has: heads and chunks by version.
fn roster(version: u64, badges: u32) -> (RosterHead, Vec<RosterChunk>) {
    let token = |n: u32| {
        let mut token = [0; 16];
        token[..4].copy_from_slice(&n.to_be_bytes());
        Token(token)
    };
    // Each version begins with another badge, so that no two share a chunk.
    let first = u32::try_from(version).unwrap() * 10_000_000;
    let bytes: Vec<u8> = (first..first + badges).flat_map(|n| entry(token(n), Standing::Known)).collect();
    let chunks: Vec<RosterChunk> = (0..)
        .zip(bytes.chunks(ROSTER_CHUNK_ENTRIES * ENTRY_BYTES))
        .map(|(index, bytes)| RosterChunk { version, index, bytes: bytes.to_vec() })
        .collect();
    (head(version, badges, chunks.iter().map(|chunk| chunk_hash(&chunk.bytes)).collect()), chunks)
}

fn head(version: u64, entries: u32, chunks: Vec<[u8; 32]>) -> RosterHead {
    let controller = "hq-door-1".parse().unwrap();
    RosterHead { controller, version, issued_utc_ms: 10, expires_utc_ms: 20, entries, chunks }
}

/// Connected, and told of this roster, of which the disk has nothing.
fn fetching(head: &RosterHead) -> Assembler {
    let mut assembler = Assembler::default();
    assembler.connected();
    assert_eq!(assembler.head(head.clone(), b"signed", None), Ok(Heard::Another));
    assert_eq!(assembler.next(0), Some(Do::Look(head.clone())));
    assembler.looked(head.version, &BTreeSet::new());
    assembler
}

fn take(assembler: &mut Assembler, chunk: &RosterChunk, now_ms: u64) -> Result<(), Refused> {
    assembler.chunk(chunk, chunk_hash(&chunk.bytes), now_ms)?;
    assembler.written(chunk.version, chunk.index);
    Ok(())
}

fn ask(version: u64, from: u32, count: u32) -> Option<Do> {
    Some(Do::Ask { version, from, count })
}

#[test]
fn four_chunks_are_asked_for_at_a_time_and_then_it_is_put_together() {
    let (head, chunks) = roster(7, 5 * FULL + 1);
    let mut assembler = fetching(&head);
    assert_eq!(assembler.next(1), ask(7, 0, 4));
    for chunk in &chunks[..4] {
        assert_eq!(assembler.next(2), None, "one at a time");
        take(&mut assembler, chunk, 2).unwrap();
    }
    assert_eq!(assembler.next(3), ask(7, 4, 2));
    assert_eq!(assembler.progress(), Some((7, 6, 4)));
    take(&mut assembler, &chunks[5], 3).unwrap();
    take(&mut assembler, &chunks[4], 3).unwrap();
    assert_eq!(assembler.next(4), Some(Do::Finish { head, message: b"signed".to_vec() }));
    assert_eq!(assembler.next(5), None);
    assembler.in_use(7);
    assert_eq!(assembler.progress(), None);
}

#[test]
fn what_the_disk_has_is_not_asked_for() {
    let (head, _) = roster(7, 6 * FULL);
    let mut assembler = fetching(&head);
    // As after a restart: it looks again.
    assembler = Assembler { target: None, ..assembler };
    assembler.head(head.clone(), b"signed", None).unwrap();
    assembler.next(0);
    assembler.looked(7, &[0, 2, 3].into());
    assert_eq!(assembler.next(1), ask(7, 1, 1), "not what lies between");
    assembler.looked(7, &[0, 1, 2, 3, 4, 5].into());
    assert_eq!(assembler.next(1), None, "it was not asked");
}

#[test]
fn a_roster_of_which_all_is_there_needs_no_line() {
    let (head, _) = roster(7, 1);
    let mut assembler = Assembler::default();
    assembler.head(head.clone(), b"signed", None).unwrap();
    assembler.next(0);
    assembler.looked(7, &[0].into());
    assert!(matches!(assembler.next(0), Some(Do::Finish { .. })));
}

#[test]
fn silence_is_asked_again_less_and_less_often() {
    let (head, _) = roster(7, FULL * 2);
    let mut assembler = fetching(&head);
    let mut asked_at = Vec::new();
    let mut now_ms = 0;
    for _ in 0..9 {
        assert_eq!(assembler.next(now_ms), ask(7, 0, 2));
        assert_eq!(assembler.next(now_ms), None);
        asked_at.push(now_ms / 1_000);
        now_ms = assembler.wake_at_ms().unwrap();
        assert_eq!(assembler.next(now_ms - 1), None);
    }
    assert_eq!(asked_at, [0, 15, 45, 105, 225, 465, 765, 1_065, 1_365]);
}

#[test]
fn a_lost_session_is_taken_up_where_it_ended() {
    let (head, chunks) = roster(7, FULL * 6);
    let mut assembler = fetching(&head);
    assembler.next(0);
    take(&mut assembler, &chunks[0], 1).unwrap();
    assembler.disconnected();
    assert_eq!((assembler.next(1_000_000), assembler.wake_at_ms()), (None, None));
    assembler.connected();
    assert_eq!(assembler.next(1_000_001), ask(7, 1, 4));
}

#[test]
fn what_does_not_go_out_is_asked_later() {
    let mut assembler = fetching(&roster(7, 1).0);
    assert_eq!(assembler.next(5), ask(7, 0, 1));
    assembler.not_asked(5);
    assert_eq!(assembler.next(6), None);
    assert_eq!(assembler.next(assembler.wake_at_ms().unwrap()), ask(7, 0, 1));
}

#[test]
fn an_older_roster_is_refused_whether_a_newer_one_is_in_use_or_on_its_way() {
    let in_use = roster(7, 1).0;
    let mut assembler = Assembler::default();
    let older = assembler.head(roster(6, 1).0, b"", Some(&in_use));
    assert_eq!(older, Err(Refused::Older { offered: 6, have: 7 }));
    assert_eq!(assembler.head(roster(9, 1).0, b"", Some(&in_use)), Ok(Heard::Another));
    let older = assembler.head(roster(8, 1).0, b"", Some(&in_use));
    assert_eq!(older, Err(Refused::Older { offered: 8, have: 9 }));
    assert_eq!(assembler.head(roster(10, 1).0, b"", Some(&in_use)), Ok(Heard::Another));
    assert_eq!(assembler.progress(), Some((10, 1, 0)), "the newest is fetched");
}

#[test]
fn a_later_head_of_the_same_roster_moves_its_dates_and_a_replayed_one_nothing() {
    let in_use = roster(7, 1).0;
    let mut assembler = Assembler::default();
    let said = |issued_utc_ms| RosterHead { issued_utc_ms, expires_utc_ms: 99, ..in_use.clone() };
    assert_eq!(assembler.head(said(11), b"", Some(&in_use)), Ok(Heard::Redate));
    assert_eq!(assembler.head(said(10), b"", Some(&in_use)), Ok(Heard::Nothing));
    assert_eq!(assembler.head(said(9), b"", Some(&in_use)), Ok(Heard::Nothing));
    assert_eq!(assembler.next(0), None);
}

#[test]
fn a_later_head_of_a_roster_on_its_way_is_the_one_that_is_kept() {
    let (first, chunks) = roster(7, 1);
    let mut assembler = fetching(&first);
    let later = RosterHead { issued_utc_ms: 11, ..first };
    assert_eq!(assembler.head(later.clone(), b"later", None), Ok(Heard::Nothing));
    take(&mut assembler, &chunks[0], 1).unwrap();
    assert_eq!(assembler.next(1), Some(Do::Finish { head: later, message: b"later".to_vec() }));
}

#[test]
fn other_badges_under_the_same_version_are_refused() {
    let in_use = roster(7, 1).0;
    let other = RosterHead { issued_utc_ms: 11, ..head(7, 1, vec![[9; 32]]) };
    let mut assembler = Assembler::default();
    assert_eq!(assembler.head(other, b"", Some(&in_use)), Err(Refused::Contradicts(7)));
}

#[test]
fn a_chunk_counts_where_a_head_lists_its_hash_and_nowhere_else() {
    let (head, chunks) = roster(7, FULL + 1);
    let mut assembler = fetching(&head);
    let refused = |assembler: &mut Assembler, chunk: &RosterChunk| take(assembler, chunk, 1).unwrap_err();
    let swapped = RosterChunk { index: 1, ..chunks[0].clone() };
    assert_eq!(refused(&mut assembler, &swapped), Refused::WrongHash { version: 7, index: 1 });
    let foreign = RosterChunk { version: 8, ..chunks[0].clone() };
    assert_eq!(refused(&mut assembler, &foreign), Refused::NotWanted { version: 8, index: 0 });
    let beyond = RosterChunk { index: 2, ..chunks[0].clone() };
    assert_eq!(refused(&mut assembler, &beyond), Refused::NotWanted { version: 7, index: 2 });
    take(&mut assembler, &chunks[0], 1).unwrap();
    assert_eq!(refused(&mut assembler, &chunks[0]), Refused::NotWanted { version: 7, index: 0 });
}

#[test]
fn a_roster_that_breaks_the_rules_is_given_up_for_good() {
    for bad in [
        [entry(Token([2; 16]), Standing::Known), entry(Token([1; 16]), Standing::Known)].concat(),
        [entry(Token([1; 16]), Standing::Known); 2].concat(),
        entry(Token([1; 16]), Standing::Known).to_vec(),
    ] {
        let chunk = RosterChunk { version: 7, index: 0, bytes: bad };
        let head = head(7, 2, vec![chunk_hash(&chunk.bytes)]);
        let mut assembler = fetching(&head);
        let refused = take(&mut assembler, &chunk, 1);
        assert!(matches!(refused, Err(Refused::Chunk { version: 7, index: 0, .. })), "{refused:?}");
        assert_eq!((assembler.progress(), assembler.next(1)), (None, None));
        assert_eq!(assembler.head(head, b"", None), Err(Refused::Spoilt(7)), "it would be the same again");
    }
}

#[test]
fn a_disk_that_takes_nothing_is_left_alone_for_minutes() {
    let (head, chunks) = roster(7, 1);
    let mut assembler = fetching(&head);
    assembler.next(0);
    assembler.chunk(&chunks[0], head.chunks[0], 1).unwrap();
    assembler.not_written(7, 0, 1);
    assert_eq!(assembler.next(DISK_PAUSE_MS), None);
    assert_eq!(assembler.wake_at_ms(), Some(DISK_PAUSE_MS + 1));
    assert_eq!(assembler.next(DISK_PAUSE_MS + 1), ask(7, 0, 1));
}

#[test]
fn a_disk_that_gives_nothing_back_is_looked_at_again() {
    let (head, chunks) = roster(7, 1);
    let mut assembler = fetching(&head);
    take(&mut assembler, &chunks[0], 1).unwrap();
    assert!(matches!(assembler.next(1), Some(Do::Finish { .. })));
    assembler.not_finished(7, 1);
    assert_eq!(assembler.next(2), None);
    assert_eq!(assembler.next(assembler.wake_at_ms().unwrap()), Some(Do::Look(head)));
}

/// What can happen while a roster comes.
#[derive(Debug, Clone)]
enum Happens {
    /// What was asked for comes: so many of it, in this order, that many times.
    Answered { skip: usize, reversed: bool, twice: bool },
    /// A head: of this or of another version.
    Head(u64),
    /// A chunk of another version, or one that was had before.
    Stray { version: u64, index: u32 },
    /// The session is lost and comes back.
    Reconnect,
    /// The agent starts again; the disk keeps what it had.
    Restart,
    /// The disk refuses the next chunk.
    DiskFails,
    /// Time.
    Passes(u64),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => (0..5usize, any::<bool>(), any::<bool>())
            .prop_map(|(skip, reversed, twice)| Happens::Answered { skip, reversed, twice }),
        1 => (1..=3u64).prop_map(Happens::Head),
        1 => (1..=3u64, 0..8u32).prop_map(|(version, index)| Happens::Stray { version, index }),
        1 => Just(Happens::Reconnect),
        1 => Just(Happens::Restart),
        1 => Just(Happens::DiskFails),
        2 => (0..400_000u64).prop_map(Happens::Passes),
    ]
}

static CLOUD: LazyLock<BTreeMap<u64, (RosterHead, Vec<RosterChunk>)>> = LazyLock::new(|| {
    [(1, 3 * FULL), (2, 6 * FULL + 5), (3, 2 * FULL + 1)].map(|(v, n)| (v, roster(v, n))).into()
});

/// A door: the assembler, its disk, and the cloud that answers.
struct World {
    cloud: &'static BTreeMap<u64, (RosterHead, Vec<RosterChunk>)>,
    assembler: Assembler,
    disk: BTreeSet<[u8; 32]>,
    in_use: Option<RosterHead>,
    asked: Option<(u64, u32, u32)>,
    disk_fails: bool,
    now_ms: u64,
    asks: Vec<u64>,
}

impl World {
    fn new() -> World {
        let mut assembler = Assembler::default();
        assembler.connected();
        World {
            cloud: &CLOUD,
            assembler,
            disk: BTreeSet::new(),
            in_use: None,
            asked: None,
            disk_fails: false,
            now_ms: 0,
            asks: Vec::new(),
        }
    }

    fn offer(&mut self, version: u64) {
        let head = self.cloud[&version].0.clone();
        let _ = self.assembler.head(head, b"signed", self.in_use.as_ref());
        self.turn();
    }

    fn deliver(&mut self, version: u64, index: u32) {
        let Some(chunk) = self.cloud[&version].1.get(index as usize).cloned() else { return };
        let hash = chunk_hash(&chunk.bytes);
        if self.assembler.chunk(&chunk, hash, self.now_ms).is_ok() {
            if std::mem::take(&mut self.disk_fails) {
                self.assembler.not_written(version, index, self.now_ms);
            } else {
                self.disk.insert(hash);
                self.assembler.written(version, index);
            }
        }
        self.turn();
    }

    /// Does what the assembler asks for, as the loop would.
    fn turn(&mut self) {
        while let Some(next) = self.assembler.next(self.now_ms) {
            match next {
                Do::Look(head) => {
                    let there = (0..).zip(&head.chunks).filter(|(_, hash)| self.disk.contains(*hash));
                    let there = there.map(|(index, _)| index).collect();
                    self.assembler.looked(head.version, &there);
                }
                Do::Ask { version, from, count } => {
                    assert!((1..=ASK_CHUNKS).contains(&count));
                    assert!(
                        self.in_use.as_ref().is_none_or(|in_use| version > in_use.version),
                        "never backwards"
                    );
                    let lacking = &self.cloud[&version].0.chunks[from as usize..(from + count) as usize];
                    assert!(lacking.iter().all(|hash| !self.disk.contains(hash)), "nothing that is here");
                    self.asked = Some((version, from, count));
                    self.asks.push(self.now_ms);
                }
                Do::Finish { head, .. } => {
                    assert!(head.chunks.iter().all(|hash| self.disk.contains(hash)), "all of it is here");
                    assert!(self.in_use.as_ref().is_none_or(|in_use| head.version > in_use.version));
                    self.assembler.in_use(head.version);
                    self.in_use = Some(head);
                }
            }
        }
    }

    fn happen(&mut self, what: &Happens) {
        match *what {
            Happens::Answered { skip, reversed, twice } => {
                let Some((version, from, count)) = self.asked.take() else { return };
                let mut indexes: Vec<u32> = (from..from + count).skip(skip).collect();
                if reversed {
                    indexes.reverse();
                }
                for index in indexes {
                    (0..=u8::from(twice)).for_each(|_| self.deliver(version, index));
                }
            }
            Happens::Head(version) => self.offer(version),
            Happens::Stray { version, index } => self.deliver(version, index),
            Happens::Reconnect => {
                self.assembler.disconnected();
                self.turn();
                self.assembler.connected();
                self.turn();
            }
            Happens::Restart => {
                self.assembler = Assembler::default();
                self.assembler.connected();
            }
            Happens::DiskFails => self.disk_fails = true,
            Happens::Passes(ms) => {
                self.now_ms += ms;
                self.turn();
            }
        }
    }
}

proptest! {
    /// Whatever is lost, doubled, reordered or of another version, and however often the agent starts again: once the
    /// cloud answers, the newest roster is in use, and no chunk that was here was asked for.
    #[test]
    fn the_newest_roster_arrives_whatever_happened(story in prop::collection::vec(happens(), 0..60)) {
        let mut world = World::new();
        story.iter().for_each(|what| world.happen(what));
        world.disk_fails = false;
        for _ in 0..50 {
            world.offer(3);
            world.now_ms = world.assembler.wake_at_ms().unwrap_or(world.now_ms).max(world.now_ms);
            world.turn();
            world.happen(&Happens::Answered { skip: 0, reversed: false, twice: false });
        }
        prop_assert_eq!(world.in_use.map(|head| head.version), Some(3));
    }

    /// A cloud that offers all the time and never sends is asked a few times an hour.
    #[test]
    fn no_storm_comes_of_a_cloud_that_only_offers(
        offers in prop::collection::vec((1..=3u64, 1..10_000u64), 100..300),
    ) {
        let mut world = World::new();
        for (version, ms) in offers {
            world.now_ms += ms;
            world.offer(version);
        }
        let hours = world.now_ms.div_ceil(3_600_000);
        // Three versions, each asked at most 4 times in its first four minutes and then every five.
        prop_assert!(world.asks.len() as u64 <= 3 * 4 + 12 * hours + 1, "{} in {hours} h", world.asks.len());
    }
}
