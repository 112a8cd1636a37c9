//! The spool's files on a real disk, as a crash may leave them.

use proptest::prelude::*;

use super::*;
use crate::capture::spool::frames::tests::tap;
use crate::event_store::UtcMs;

const LIMIT: u64 = 64 * 1024;

fn sitting(n: u8) -> Sitting {
    Sitting([n; 16])
}

fn open(dir: &Path) -> (Shelf, Found) {
    Shelf::open(dir, LIMIT).unwrap()
}

fn put(shelf: &mut Shelf, taps: impl IntoIterator<Item = u8>, at: u8) -> Vec<EventId> {
    let taps = taps.into_iter().map(tap).collect();
    shelf.put(taps, sitting(at)).into_iter().map(|put| put.unwrap()).collect()
}

fn waiting(shelf: &Shelf) -> Vec<(u8, u64)> {
    let all = shelf.first(usize::MAX);
    all.iter().map(|waiting| (waiting.entry.tap.key_sha256[0], waiting.entry.seq.0)).collect()
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_was_put_waits_in_its_order_over_a_restart_and_goes_to_a_new_file_then() {
    let dir = tempfile::tempdir().unwrap();
    let (mut shelf, _) = open(dir.path());
    let before = put(&mut shelf, [1, 2], 1);
    assert_ne!(before[0], before[1]);
    drop(shelf);
    let (mut shelf, found) = open(dir.path());
    assert_eq!(found, Found { waiting: 2, ..Found::default() });
    put(&mut shelf, [3], 2);
    assert_eq!(waiting(&shelf), [(1, 1), (2, 2), (3, 1)]);
    assert_eq!(files(dir.path()), ["00000001.spool", "00000002.spool"]);
    assert_eq!(put(&mut shelf, [1, 2], 3), before, "the same taps again have the same ids");
}

#[test]
fn files_go_when_all_that_they_promised_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let (mut shelf, _) = open(dir.path());
    put(&mut shelf, [1, 2], 1);
    drop(shelf);
    let (mut shelf, _) = open(dir.path());
    put(&mut shelf, [3], 2);
    shelf.done(1).unwrap();
    assert_eq!(files(dir.path()).len(), 2);
    shelf.done(1).unwrap();
    assert_eq!(files(dir.path()), ["00000002.spool"]);
    shelf.done(1).unwrap();
    assert!(files(dir.path()).is_empty() && shelf.is_empty() && shelf.used_bytes() == 0);
    put(&mut shelf, [4], 3);
    assert_eq!(files(dir.path()), ["00000003.spool"]);
}

#[test]
fn a_full_spool_takes_nothing_more_and_keeps_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let (mut shelf, _) = Shelf::open(dir.path(), 600).unwrap();
    let answers = shelf.put((1..=9).map(tap).collect(), sitting(1));
    let taken = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!((1..9).contains(&taken), "{answers:?}");
    assert!(answers.iter().all(|answer| matches!(answer, Ok(_) | Err(NotPut::Full))));
    assert_eq!(shelf.len(), taken);
    assert!(shelf.used_bytes() <= 600);
    let on_disk = fs::metadata(dir.path().join("00000001.spool")).unwrap().len();
    assert_eq!(on_disk, shelf.used_bytes());
    shelf.done(taken).unwrap();
    assert!(shelf.put(vec![tap(9)], sitting(2))[0].is_ok(), "there is room again");
}

#[test]
fn one_idempotency_key_is_one_tap_also_within_a_group() {
    let dir = tempfile::tempdir().unwrap();
    let (mut shelf, _) = open(dir.path());
    let mut other = tap(1);
    other.prints[0].sha256 = [99; 32];
    let answers = shelf.put(vec![tap(1), tap(1), other.clone()], sitting(1));
    assert!(matches!(&answers[..], [Ok(first), Ok(again), Err(NotPut::OtherUnderKey)] if first == again));
    assert!(matches!(shelf.put(vec![other], sitting(1))[0], Err(NotPut::OtherUnderKey)));
    assert_eq!(shelf.len(), 1);
}

#[test]
fn each_source_counts_for_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (mut shelf, _) = open(dir.path());
    let mut other = tap(2);
    other.source = "api-2".parse().unwrap();
    let ids: Vec<_> =
        shelf.put(vec![tap(1), other, tap(3)], sitting(1)).into_iter().map(Result::unwrap).collect();
    assert_eq!(waiting(&shelf), [(1, 1), (2, 1), (3, 2)]);
    assert_eq!(ids.iter().map(|id| id.seq().0).collect::<Vec<_>>(), [1, 1, 2]);
    assert_eq!(ids[0].outbox_prefix(), ids[2].outbox_prefix());
    assert_ne!(ids[0].outbox_prefix(), ids[1].outbox_prefix());
}

#[test]
fn a_disk_that_cannot_write_promises_nothing_and_no_number_is_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (mut shelf, _) = open(dir.path());
    let first = put(&mut shelf, [1], 1);
    // As after an error of the disk: this handle takes no more.
    shelf.current = Some(File::open(dir.path().join("00000001.spool")).unwrap());
    let answers = shelf.put(vec![tap(1), tap(2)], sitting(1));
    assert!(matches!(&answers[..], [Ok(known), Err(NotPut::Disk(_))] if *known == first[0]), "{answers:?}");
    let again = put(&mut shelf, [2], 2);
    assert_ne!(again[0].outbox_prefix(), first[0].outbox_prefix());
    assert_eq!(waiting(&shelf), [(1, 1), (2, 1)]);
}

#[test]
fn damage_costs_what_it_covers_and_the_file_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (mut shelf, _) = open(dir.path());
    put(&mut shelf, [1, 2, 3], 1);
    let path = dir.path().join("00000001.spool");
    let mut bytes = fs::read(&path).unwrap();
    let second = bytes.windows(4).enumerate().filter(|(_, mark)| mark == b"TAP>").nth(1).unwrap().0;
    bytes[second + 30] ^= 1;
    fs::write(&path, &bytes).unwrap();
    fs::write(dir.path().join("00000002.spool"), [0; 200]).unwrap();
    fs::write(dir.path().join("00000003.spool"), b"TAPSP").unwrap();
    let (mut shelf, found) = open(dir.path());
    assert_eq!((found.waiting, found.unreadable), (2, vec![dir.path().join("00000002.spool")]));
    assert!(found.damaged_bytes > 0);
    assert_eq!(waiting(&shelf), [(1, 1), (3, 3)]);
    shelf.done(2).unwrap();
    assert_eq!(files(dir.path()), ["00000001.damaged", "00000002.spool"]);
    put(&mut shelf, [4], 9);
    assert!(files(dir.path()).contains(&"00000004.spool".to_owned()), "no name is used twice");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// Puts, partly drained, cut at any byte, opened again and again: every tap that was answered and is not done waits, in
    /// its order, under the id that it was answered with.
    #[test]
    fn what_was_answered_survives_a_cut_behind_it(
        steps in prop::collection::vec((0..4usize, 0..3usize, any::<prop::sample::Index>()), 1..8),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut promised: VecDeque<EventId> = VecDeque::new();
        let mut stored: Vec<EventId> = Vec::new();
        let (mut n, mut life) = (0, 0);
        for (puts, done, cut) in steps {
            let (mut shelf, found) = open(dir.path());
            prop_assert_eq!(found.damaged_bytes, 0);
            // What is stored may wait again, as long as its file is needed: the store knows it.
            let again = shelf.first(usize::MAX).iter().map(|w| event_id(w.sitting, &w.entry)).collect::<Vec<_>>();
            let ids: Vec<_> = again.iter().filter(|id| !stored.contains(id)).copied().collect();
            // What was written and never answered may wait behind the rest.
            prop_assert!(ids.len() >= promised.len() && promised.iter().eq(&ids[..promised.len()]));
            promised = again.into();
            life += 1;
            for _ in 0..puts {
                n += 1;
                promised.extend(put(&mut shelf, [n], life));
            }
            shelf.done(done).unwrap();
            stored.extend(promised.drain(..done.min(promised.len())));
            promised.retain(|id| !stored.contains(id));
            // One more is under way when the power goes: of it there is a part, all, or nothing.
            n += 1;
            let before = shelf.files.back().map_or(0, |file| file.bytes) as usize;
            let was_open = shelf.current.is_some();
            put(&mut shelf, [n], life);
            let path = shelf.files.back().unwrap().path.clone();
            drop(shelf);
            let bytes = fs::read(&path).unwrap();
            let from = if was_open { before } else { 0 };
            fs::write(&path, &bytes[..from + cut.index(bytes.len() - from + 1)]).unwrap();
        }
    }
}

#[test]
fn a_tap_keeps_all_that_the_store_needs() {
    let dir = tempfile::tempdir().unwrap();
    let (mut shelf, _) = open(dir.path());
    put(&mut shelf, [5], 1);
    let (shelf, _) = open(dir.path());
    let kept = shelf.first(1).remove(0);
    assert_eq!((kept.sitting, kept.entry.tap), (sitting(1), tap(5)));
    assert_eq!(shelf.first(1)[0].entry.tap.received, UtcMs(5));
}
