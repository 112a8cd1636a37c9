//! What follows from errors, and what becomes of damaged outboxes.

use super::super::medium::Disk;
use super::super::shelf::Owner;
use super::super::worker::mint_outbox_id;
use super::*;
use std::path::{Path, PathBuf};
use tap_protocol::ids::StoreEpoch;
use tap_protocol::receipt::Echo;
use tap_protocol::record::ClockState;

const NOW: Now = Now { boottime_ms: 1_000, wall_ms: 2, clock: ClockState::Unsynced };
const BOOT: BootId = BootId([1; 16]);
const LIMITS: Limits =
    Limits { max_bytes: 1 << 30, min_free_bytes: 0, keep_receipted: 1_000, keep_receipted_days: 30 };

fn keeper(folder: &Path) -> Keeper {
    let owner = Owner { controller: "hq-door-1".parse().unwrap(), machine: b"pi".to_vec() };
    let shelf = Shelf::open(Disk::shared(), folder, &owner, mint_outbox_id).unwrap();
    Keeper::new(shelf, LIMITS, BOOT, NOW)
}

fn body(n: usize) -> Body {
    Body::ReaderUp { reader: format!("in-{n}").parse().unwrap() }
}

/// Appends so many records, one by one, and gives what was written.
fn write(keeper: &mut Keeper, count: usize) -> Vec<(OutboxId, Seq, Record)> {
    let one = |n| {
        let appended = keeper.append(&[(NOW, body(n))]).unwrap();
        (appended.outbox, appended.first, appended.records[0].clone())
    };
    (0..count).map(one).collect()
}

fn repair(keeper: &mut Keeper) {
    while keeper.repair(NOW).unwrap() {}
}

fn read_all(keeper: &mut Keeper, id: OutboxId) -> Vec<(Seq, Record)> {
    let (mut all, mut from) = (Vec::new(), keeper.shelf.find(id).unwrap().pruned_through().next());
    loop {
        let chunk = keeper.read(id, from, NOW).unwrap().expect("it is there");
        if chunk.records.is_empty() {
            return all;
        }
        for bytes in chunk.records {
            all.push((from, Record::decode(&bytes).unwrap()));
            from = from.next();
        }
    }
}

fn receipt(id: OutboxId, through: Seq, hash: ChainHash) -> Receipt {
    Receipt {
        controller: "hq-door-1".parse().unwrap(),
        store_epoch: StoreEpoch(1),
        outbox: id,
        stored_through: through,
        hash,
        resend: false,
        echo: Some(Echo { boot_id: BOOT, boottime_ms: NOW.boottime_ms }),
        cloud_utc_ms: 0,
    }
}

/// Overwrites `len` bytes of an outbox's file, as a medium does that goes bad.
fn spoil(path: &Path, at: u64, len: usize) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&vec![0xa5; len], at).unwrap();
}

/// An outbox of 300 records whose log is in the file.
fn written(folder: &Path) -> (OutboxId, PathBuf, Vec<(OutboxId, Seq, Record)>) {
    let mut keeper = keeper(folder);
    let all = write(&mut keeper, 300);
    keeper.end_run().unwrap();
    let newest = keeper.shelf.newest();
    (newest.id(), newest.path().to_owned(), all)
}

#[test]
fn a_start_that_could_not_be_written_is_written_before_the_first_record() {
    let folder = tempfile::tempdir().unwrap();
    let mut keeper = keeper(folder.path());
    let id = write(&mut keeper, 2)[0].0;
    let kinds: Vec<_> =
        read_all(&mut keeper, id).iter().map(|(_, record)| (record.body.kind(), record.at.boot)).collect();
    assert_eq!(kinds, [("agent_started", 1), ("reader_up", 1), ("reader_up", 1)]);
}

#[test]
fn boots_are_numbered_in_their_order_in_what_is_said_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut keeper = Keeper { boot_id: BootId([5; 16]), ..keeper(folder.path()) };
    let [first, second] = [7, 3].map(|id| BootId([id; 16]));
    let rewound = keeper.shelf.newest().id();
    for boot in [first, second] {
        let number = keeper.shelf.newest().boot_number(boot).unwrap();
        let body = Body::ReaderUp { reader: "in".parse().unwrap() };
        keeper.shelf.newest().append(&[Record { at: NOW.stamp(number), body }.encode()]).unwrap();
    }
    keeper.start_new(rewound, Seq(0), None, NOW).unwrap();
    let newest = keeper.shelf.newest();
    assert_eq!(newest.boots().unwrap(), [(1, first), (2, second), (3, keeper.boot_id)]);
    let id = newest.id();
    let said: Vec<_> =
        read_all(&mut keeper, id).iter().map(|(_, record)| (record.body.kind(), record.at.boot)).collect();
    let [started, up] = ["agent_started", "reader_up"];
    assert_eq!(said, [(started, 1), (up, 1), (started, 2), (up, 2), (started, 3)], "each boot is named");
}

#[test]
fn a_settled_outbox_still_says_what_is_before_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut keeper = keeper(folder.path());
    let old = write(&mut keeper, 9)[0].0;
    keeper.start_new(old, Seq(4), Some(StoreEpoch(7)), NOW).unwrap();
    let chunk = keeper.read(old, Seq(2), NOW).unwrap().unwrap();
    assert_eq!(chunk.records.len(), 3, "2, 3 and 4");
    let outbox = keeper.shelf.all().next().unwrap();
    assert_eq!(
        (outbox.id(), outbox.last_seq(), keeper.shelf.says_through(outbox)),
        (old, Seq(10), Some(Seq(4)))
    );
    assert_eq!(outbox.mark(), Mark { receipted_through: Seq(4), store_epoch: Some(StoreEpoch(7)) });
    // A later life of the store may go apart from it even earlier.
    keeper.start_new(old, Seq(2), Some(StoreEpoch(8)), NOW).unwrap();
    let newest = keeper.shelf.newest().id();
    let said = read_all(&mut keeper, newest);
    assert_eq!(said.len(), 3, "the boot, and records 3 and 4: the others are said already");
    assert_eq!(keeper.read(old, Seq(3), NOW).unwrap().unwrap().records.len(), 0);
}

#[test]
fn whoever_says_the_same_again_says_it_in_the_same_outbox_word_for_word() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = keeper(folder.path());
    let old = write(&mut first, 9)[0].0;
    drop(first);
    let clone = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), clone.path().join(file.file_name())).unwrap();
    }
    let said = |folder: &Path, more: usize| {
        let mut keeper = keeper(folder);
        write(&mut keeper, more);
        keeper.start_new(old, Seq(4), None, NOW).unwrap();
        let newest = keeper.shelf.newest().id();
        let records = read_all(&mut keeper, newest);
        (newest, records.into_iter().map(|(_, record)| record).take(7).collect::<Vec<_>>())
    };
    assert_eq!(said(folder.path(), 1), said(clone.path(), 3), "as far as both have the same");
}

#[test]
fn an_outbox_of_which_nothing_is_left_to_say_is_left_without_another_telling() {
    let folder = tempfile::tempdir().unwrap();
    let mut keeper = keeper(folder.path());
    let old = write(&mut keeper, 2)[0].0;
    keeper.start_new(old, Seq(3), Some(StoreEpoch(7)), NOW).unwrap();
    let newest = keeper.shelf.newest();
    assert!(newest.id() != old && newest.continues().is_none());
    keeper.start_new(old, Seq(3), Some(StoreEpoch(8)), NOW).unwrap();
    assert_eq!(keeper.shelf.all().count(), 2, "the older one is not written any more");
}

#[test]
fn a_trial_write_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut keeper = keeper(folder.path());
    let id = write(&mut keeper, 2)[0].0;
    keeper.try_write(NOW).unwrap();
    write(&mut keeper, 1);
    assert_eq!(read_all(&mut keeper, id).len(), 4, "the start and three");
}

#[test]
fn a_damaged_page_costs_its_own_records_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (id, path, all) = written(folder.path());
    spoil(&path, 10 * 1024, 1024);
    let mut keeper = keeper(folder.path());
    // Found in reading: it was not at the file's end.
    assert_eq!(keeper.read(id, Seq(1), NOW).unwrap(), None);
    let fresh = write(&mut keeper, 3);
    assert!(fresh[0].0 != id);
    repair(&mut keeper);

    let news = keeper.take_news();
    let [
        News::SetAside { outbox: Some(aside), file, .. },
        News::Salvaged(salvaged),
        News::Lost { ranges, .. },
    ] = news.as_slice()
    else {
        panic!("{news:?}")
    };
    assert_eq!((*aside, salvaged.outbox), (id, id));
    assert!(file.exists() && !path.exists());
    let [(from, to)] = ranges.as_slice() else { panic!("one page, one range: {ranges:?}") };
    assert!(to.0 - from.0 < 20, "{ranges:?}");

    // The tombstone is in the new outbox, and the old one waits for the cloud's word.
    let told = read_all(&mut keeper, fresh[0].0);
    assert!(told.iter().any(|(_, record)| record.body
        == Body::Lost { outbox: id, from: *from, to: *to, why: LossReason::Damaged }));
    assert_eq!(
        keeper.receipt(&receipt(id, Seq(0), ChainHash::start(id)), NOW).unwrap(),
        Some(ChainHash::start(id))
    );
    repair(&mut keeper);
    assert_eq!(keeper.take_news(), [News::Mended(id)]);

    let again = read_all(&mut keeper, id);
    assert_eq!(again.len(), 301);
    for (seq, record) in &again[1..] {
        let lost = (*from..=*to).contains(seq);
        let expected = match lost {
            true => Body::Lost { outbox: id, from: *seq, to: *seq, why: LossReason::Damaged },
            false => all[seq.0 as usize - 2].2.body.clone(),
        };
        assert_eq!(record.body, expected, "{seq}");
    }
}

#[test]
fn what_the_cloud_already_has_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (id, path, _) = written(folder.path());
    let at_250 = keeper(folder.path()).shelf.find(id).unwrap().hash_at(Seq(250)).unwrap().unwrap();
    spoil(&path, 10 * 1024, 1024);
    let mut keeper = keeper(folder.path());
    assert_eq!(keeper.read(id, Seq(1), NOW).unwrap(), None);
    repair(&mut keeper);
    keeper.receipt(&receipt(id, Seq(250), at_250), NOW).unwrap();
    repair(&mut keeper);
    let rest = read_all(&mut keeper, id);
    assert_eq!(rest.first().unwrap().0, Seq(251));
    assert!(rest.iter().all(|(_, record)| !matches!(record.body, Body::Lost { .. })));
    assert_eq!(rest.len(), 51);
}

#[test]
fn an_old_answer_is_not_the_clouds_word() {
    let folder = tempfile::tempdir().unwrap();
    let (id, path, _) = written(folder.path());
    spoil(&path, 10 * 1024, 1024);
    let mut keeper = keeper(folder.path());
    let later = Now { boottime_ms: 5_000, ..NOW };
    assert_eq!(keeper.read(id, Seq(1), later).unwrap(), None);
    repair(&mut keeper);
    keeper.receipt(&receipt(id, Seq(0), ChainHash::start(id)), later).unwrap();
    assert!(!keeper.shelf.find(id).unwrap().stage().is_sound(), "the hello was from before the damage");
}

#[test]
fn a_start_with_a_damaged_file_accepts_at_once_and_tells_that_the_end_is_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let (id, path, all) = written(folder.path());
    spoil(&path, 0, 100); // SQLite's own header
    let mut keeper = keeper(folder.path());
    let fresh = write(&mut keeper, 1)[0].0;
    assert!(fresh != id);
    repair(&mut keeper);
    let told = read_all(&mut keeper, fresh);
    let lost = told.iter().find_map(|(_, record)| match record.body {
        Body::Lost { outbox, from, to, .. } => Some((outbox, from, to)),
        _ => None,
    });
    assert_eq!(lost, Some((id, Seq(302), super::super::carve::MAX_SEQ)));
    keeper.receipt(&receipt(id, Seq(0), ChainHash::start(id)), NOW).unwrap();
    repair(&mut keeper);
    let again = read_all(&mut keeper, id);
    assert_eq!(again.len(), 301);
    assert!(again[1..].iter().zip(&all).all(|((_, record), (_, _, expected))| record == expected));
}

#[test]
fn a_restart_in_the_middle_of_everything_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (id, path, _) = written(folder.path());
    spoil(&path, 10 * 1024, 1024);
    let mut first = keeper(folder.path());
    assert_eq!(first.read(id, Seq(1), NOW).unwrap(), None);
    let newest = first.shelf.newest().id();
    for steps in 0..12 {
        let mut again = keeper(folder.path());
        for _ in 0..steps {
            again.repair(NOW).unwrap();
        }
        again.receipt(&receipt(id, Seq(0), ChainHash::start(id)), NOW).unwrap();
        assert_eq!(again.shelf.newest().id(), newest, "no further outbox");
    }
    let mut last = keeper(folder.path());
    repair(&mut last);
    assert_eq!(read_all(&mut last, id).len(), 301);
    let tombstones = read_all(&mut last, newest);
    let tombstones = tombstones.iter().filter(|(_, record)| matches!(record.body, Body::Lost { .. }));
    assert_eq!(tombstones.count(), 1);
}

#[test]
fn an_append_that_meets_damage_goes_to_a_new_outbox() {
    let folder = tempfile::tempdir().unwrap();
    let (id, path, _) = written(folder.path());
    spoil(&path, 2 * 1024, 1024); // the boots, which opening does not look at
    let mut keeper = keeper(folder.path());
    let appended = keeper.append(&[(NOW, body(1))]).unwrap();
    assert!(appended.outbox != id);
    let news = keeper.take_news();
    assert!(matches!(news[0], News::SetAside { .. }), "{news:?}");
}

#[test]
fn a_full_outbox_prunes_history_first_warns_refuses_and_comes_round() {
    let folder = tempfile::tempdir().unwrap();
    let mut keeper = keeper(folder.path());
    keeper.limits.max_bytes = 400 * 1024;
    let group: Vec<(Now, Body)> = (0..100).map(|n| (NOW, body(n))).collect();
    let mut written = 0;
    let fill = |keeper: &mut Keeper, written: &mut u64| {
        loop {
            match keeper.append(&group) {
                Ok(_) => *written += 100,
                Err(OutboxError::Full { .. }) => return,
                Err(error) => panic!("{error}"),
            }
            repair(keeper);
        }
    };
    fill(&mut keeper, &mut written);
    let id = keeper.shelf.newest().id();
    let levels: Vec<Level> = keeper
        .take_news()
        .iter()
        .filter_map(|news| if let News::Room(verdict) = news { Some(verdict.level) } else { None })
        .collect();
    assert_eq!(levels, [Level::Full], "80 % of so little is full");
    let before = written;

    // A receipt for half of it: that may go now, and exactly so much fits again.
    let through = Seq(written / 2);
    keeper.set_mark(id, Mark { receipted_through: through, store_epoch: None });
    fill(&mut keeper, &mut written);
    assert!(written > before + before / 4, "{before} {written}");
    let newest = keeper.shelf.newest();
    assert_eq!(newest.pruned_through(), through);
    assert!(newest.last_seq().0 >= written, "nothing without a receipt went");
}

#[test]
fn the_warning_is_a_record_and_is_written_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut keeper = keeper(folder.path());
    keeper.limits.max_bytes = 1_200 * 1024;
    let group: Vec<(Now, Body)> = (0..100).map(|n| (NOW, body(n))).collect();
    while keeper.append(&group).is_ok() {
        repair(&mut keeper);
    }
    let id = keeper.shelf.newest().id();
    let high = read_all(&mut keeper, id);
    let high: Vec<_> =
        high.iter().filter(|(_, record)| matches!(record.body, Body::BufferHigh { .. })).collect();
    assert_eq!(high.len(), 1, "{high:?}");
}

/// Flips one bit after the other in a file whose log has most of the records. Every record must be there as it was
/// written, or told as lost; and the next one must be accepted.
#[test]
fn after_a_flipped_bit_every_record_is_as_written_or_told_as_lost() {
    let original = tempfile::tempdir().unwrap();
    let (all, id) = {
        let mut keeper = keeper(original.path());
        let all = write(&mut keeper, 40);
        let id = all[0].0;
        // As a kill leaves it: the log is not brought into the file.
        let _ = keeper
            .shelf
            .newest()
            .db
            .set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        (all, id)
    };
    let names = [format!("{id}.outbox"), format!("{id}.outbox-wal")];
    let files: Vec<Vec<u8>> =
        names.iter().map(|name| std::fs::read(original.path().join(name)).unwrap()).collect();
    // What was committed last cannot be told from what a power cut tore.
    let sure = all.len() - 2;
    for (which, file) in files.iter().enumerate() {
        for bit in (0..file.len() * 8).step_by(if which == 0 { 449 } else { 4_001 }) {
            let folder = tempfile::tempdir().unwrap();
            for (name, bytes) in names.iter().zip(&files) {
                std::fs::write(folder.path().join(name), bytes).unwrap();
            }
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(folder.path().join(&names[which]), flipped).unwrap();

            let what = format!("bit {bit} of {}", names[which]);
            let mut keeper = keeper(folder.path());
            let fresh = write(&mut keeper, 1)[0].clone();
            while keeper.check_next.is_none_or(|(_, next)| next != Seq(1)) {
                keeper.check(1_000, NOW).unwrap();
            }
            repair(&mut keeper);
            keeper.receipt(&receipt(id, Seq(0), ChainHash::start(id)), NOW).unwrap();
            repair(&mut keeper);
            let newest = keeper.shelf.newest().id();
            let open_end =
                read_all(&mut keeper, newest).into_iter().find_map(|(_, record)| match record.body {
                    Body::Lost { outbox, from, to, .. }
                        if outbox == id && to == super::super::carve::MAX_SEQ =>
                    {
                        Some(from)
                    }
                    _ => None,
                });
            let old = read_all(&mut keeper, id);
            for (_, seq, written) in &all[..sure] {
                let is_told = open_end.is_some_and(|from| *seq >= from);
                match old.iter().find(|(other, _)| other == seq) {
                    Some((_, found)) => {
                        let lost = Body::Lost { outbox: id, from: *seq, to: *seq, why: LossReason::Damaged };
                        assert!(found == written || found.body == lost, "{what}: {seq} is {found:?}");
                    }
                    None => assert!(is_told, "{what}: {seq} is gone without a word"),
                }
            }
            let (outbox, seq, record) = fresh;
            assert!(read_all(&mut keeper, outbox).contains(&(seq, record)), "{what}: the new one");
        }
    }
}

/// Thirty records and the run's start, confirmed up to 25 by the store's first life and pruned up to there; gives what was
/// written, and h(5).
fn pruned(keeper: &mut Keeper) -> (OutboxId, Vec<(OutboxId, Seq, Record)>, ChainHash) {
    let written = write(keeper, 30);
    let id = written[0].0;
    let hash = keeper.shelf.find(id).unwrap().hash_at(Seq(5)).unwrap().unwrap();
    keeper.set_mark(id, Mark { receipted_through: Seq(25), store_epoch: Some(StoreEpoch(1)) });
    while keeper.shelf.prune_for_room(100).unwrap() > 0 {}
    assert_eq!(keeper.shelf.find(id).unwrap().pruned_through(), Seq(25));
    (id, written, hash)
}

fn restored(id: OutboxId, hash: ChainHash) -> Receipt {
    Receipt { store_epoch: StoreEpoch(2), ..receipt(id, Seq(5), hash) }
}

#[test]
fn what_a_restored_cloud_lacks_and_was_pruned_is_told_at_its_numbers_and_the_rest_is_said_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut keeper = keeper(folder.path());
    let (id, written, hash) = pruned(&mut keeper);
    keeper.refill(&restored(id, hash), NOW).unwrap();
    let news = keeper.take_news();
    assert!(news.contains(&News::HistoryGone { outbox: id, range: (Seq(6), Seq(25)) }), "{news:?}");
    assert!(write(&mut keeper, 1)[0].0 != id, "nothing is written behind a hole");
    // What was asked for before the cloud's word came.
    assert_eq!(keeper.read(id, Seq(26), NOW).unwrap(), None);
    assert_eq!(keeper.take_news(), [], "a hole that we made is no damage");
    repair(&mut keeper);
    keeper.refill(&restored(id, hash), NOW).unwrap();

    let mark = keeper.shelf.find(id).unwrap().mark();
    assert_eq!(mark, Mark { receipted_through: Seq(5), store_epoch: Some(StoreEpoch(2)) });
    let again = read_all(&mut keeper, id);
    assert_eq!(again.iter().map(|(seq, _)| seq.0).collect::<Vec<_>>(), (6..=31).collect::<Vec<_>>());
    let (gone, left) = again.split_at(20);
    assert!(gone.iter().all(|(seq, record)| record.body
        == Body::Lost { outbox: id, from: *seq, to: *seq, why: LossReason::Pruned }));
    let kept = written.iter().filter(|(_, seq, _)| *seq > Seq(25)).map(|(_, seq, record)| (*seq, record));
    assert!(left.iter().map(|(seq, record)| (*seq, record)).eq(kept));
    let chunk = keeper.read(id, Seq(6), NOW).unwrap().unwrap();
    assert_eq!(chunk.hash_before, hash, "it continues what the cloud has");
}

#[test]
fn refilling_goes_on_after_a_restart_and_is_done_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = keeper(folder.path());
    let (id, _, hash) = pruned(&mut first);
    first.refill(&restored(id, hash), NOW).unwrap();
    drop(first);
    let mut second = keeper(folder.path());
    assert!(!second.shelf.find(id).unwrap().stage().is_sound());
    repair(&mut second);
    drop(second);
    let mut third = keeper(folder.path());
    assert_eq!(read_all(&mut third, id).len(), 26);
    assert_eq!(third.take_news(), []);
}

#[test]
fn a_word_of_the_same_life_or_about_what_is_still_there_fills_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut keeper = keeper(folder.path());
    let (id, _, hash) = pruned(&mut keeper);
    let same_life = Receipt { store_epoch: StoreEpoch(1), ..restored(id, hash) };
    let still_there = Receipt { stored_through: Seq(25), ..restored(id, hash) };
    for receipt in [same_life, still_there] {
        keeper.refill(&receipt, NOW).unwrap();
        assert_eq!(keeper.take_news(), []);
        assert_eq!(write(&mut keeper, 1)[0].0, id);
    }
}
