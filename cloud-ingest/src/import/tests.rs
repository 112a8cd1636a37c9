//! Files as they come from sticks: whole, cut, damaged, foreign, doubled, in the wrong order.

use std::io::Cursor;

use tap_protocol::export::{EXPORT, PROOF, portion};
use tap_protocol::keys::SigningKey;

use super::*;
use crate::event_store::sqlite::SqliteStore;
use crate::fixture::{self, Door, START};

/// A door with its start and so many taps: records 1 to `taps + 1`.
fn door_with(taps: u8) -> Door {
    let mut door = Door::new(1);
    (0..taps).for_each(|badge| {
        door.tap(badge);
    });
    door
}

fn export(messages: &[Vec<u8>]) -> Vec<u8> {
    let portions: Vec<Vec<u8>> = messages.iter().map(|message| portion(message)).collect();
    [EXPORT.as_slice(), &portions.concat()].concat()
}

fn import_into(store: &mut SqliteStore, files: &[&[u8]]) -> Imported {
    let sources = files.iter().enumerate().map(|(i, bytes)| Source {
        name: format!("{}.export", (b'a' + i as u8) as char),
        bytes: Box::new(Cursor::new(bytes.to_vec())),
    });
    import(store, sources.collect(), START, &mut |_| {}).unwrap()
}

/// File, first and last batch, first and last record, and what became of them.
fn rows(imported: &Imported) -> Vec<String> {
    let number = |number: Option<u64>| number.map_or("?".into(), |number| number.to_string());
    let row = |row: &Row| {
        let (first, last) = (number(row.first_seq), number(row.last_seq));
        let became = match &row.became {
            Became::Stored => format!("stored {}", row.new_records),
            Became::Known => "known".into(),
            Became::Beyond { missing } => format!("beyond {missing}"),
            Became::Refused { kind, .. } => (*kind).to_owned(),
        };
        format!("{} {}-{}: {first}-{last} {became}", row.file, row.first_batch, row.last_batch)
    };
    imported.rows.iter().map(row).collect()
}

#[track_caller]
fn check(files: &[&[u8]], expected: &[&str], damaged: usize, stored: u64) {
    let mut store = fixture::store();
    let imported = import_into(&mut store, files);
    assert_eq!(rows(&imported), expected);
    assert_eq!(imported.damaged.len(), damaged, "{:?}", imported.damaged);
    assert_eq!((imported.new_records, store.totals().unwrap().records), (stored, stored));
    let all_well = |row: &Row| matches!(row.became, Became::Stored | Became::Known);
    assert_eq!(imported.complete, damaged == 0 && imported.rows.iter().all(all_well));
}

#[test]
fn a_whole_file_is_stored_and_batches_that_share_their_fate_are_one_row() {
    let door = door_with(5);
    let file = export(&[door.message(1, 2), door.message(3, 4), door.message(5, 6)]);
    check(&[&file], &["a.export 1-3: 1-6 stored 6"], 0, 6);
    check(&[&export(&[])], &[], 0, 0);
}

#[test]
fn a_file_that_comes_again_changes_nothing_and_quarantines_nothing_twice() {
    let door = door_with(3);
    let mut stranger = door_with(3);
    stranger.key = SigningKey::from_seed(&[99; 32]);
    let file = export(&[door.message(1, 4), stranger.message(1, 4)]);
    let mut store = fixture::store();
    let first = import_into(&mut store, &[&file]);
    let before = (store.totals().unwrap(), store.marks().unwrap());
    let again = import_into(&mut store, &[&file, &file]);
    assert_eq!((store.totals().unwrap(), store.marks().unwrap()), before);
    assert_eq!((first.new_records, first.refused), (4, 1));
    assert_eq!((again.new_records, again.known_records, again.refused), (0, 8, 2));
    assert_eq!(before.0.quarantined, 1);
}

#[test]
fn what_the_network_brought_meanwhile_is_known_and_the_rest_is_stored() {
    let door = door_with(5);
    let mut store = fixture::store();
    let sent =
        UnverifiedBatch::parse(&door.message(1, 3)).unwrap().verify(&door.id, &door.key.public()).unwrap();
    store.append(&[sent], START).unwrap();
    let imported = import_into(&mut store, &[&export(&[door.message(1, 2), door.message(3, 6)])]);
    assert_eq!(rows(&imported), ["a.export 1-1: 1-2 known", "a.export 2-2: 3-6 stored 3"]);
    assert_eq!((imported.new_records, imported.known_records), (3, 3));
}

#[test]
fn sticks_may_come_in_any_order() {
    let door = door_with(5);
    let late = export(&[door.message(5, 6), door.message(3, 4)]);
    let early = export(&[door.message(1, 2)]);
    check(
        &[&late, &early],
        &["a.export 1-1: 5-6 stored 2", "a.export 2-2: 3-4 stored 2", "b.export 1-1: 1-2 stored 2"],
        0,
        6,
    );
}

#[test]
fn what_continues_nothing_is_not_stored_and_says_what_is_missing() {
    let door = door_with(5);
    let file = export(&[door.message(1, 2), door.message(5, 6)]);
    check(&[&file], &["a.export 1-1: 1-2 stored 2", "a.export 2-2: 5-6 beyond 3"], 0, 2);
}

#[test]
fn a_cut_file_holds_up_to_the_cut() {
    let door = door_with(3);
    let file = export(&[door.message(1, 2), door.message(3, 4)]);
    let second = 16 + 4 + door.message(1, 2).len();
    for end in [second + 1, second + 3, second + 4, file.len() - 1] {
        check(&[&file[..end]], &["a.export 1-1: 1-2 stored 2"], 1, 2);
    }
    // Between two portions nobody can tell.
    check(&[&file[..second]], &["a.export 1-1: 1-2 stored 2"], 0, 2);
    for end in 0..16 {
        check(&[&file[..end]], &[], 1, 0);
    }
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_place() {
    let door = door_with(3);
    let file = export(&[door.message(1, 2), door.message(3, 4)]);
    let said = |bytes: &[u8]| import_into(&mut fixture::store(), &[bytes]).damaged.join("");
    assert!(said(b"GIF89a and something more").contains("a.export: is no export"));
    assert!(said(&[PROOF.as_slice(), &file[16..]].concat()).contains("is a proof"));
    assert!(said(&file[..file.len() - 1]).contains("is cut off in batch 2 (at byte 2"));
    let mut absurd = file.clone();
    absurd[16] = 0x80;
    assert!(said(&absurd).contains("is damaged at batch 1 (at byte 16)"));
}

#[test]
fn no_single_changed_bit_stores_anything_else() {
    let door = door_with(2);
    let file = export(&[door.message(1, 3)]);
    for bit in 0..file.len() * 8 {
        let mut changed = file.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let mut store = fixture::store();
        let imported = import_into(&mut store, &[&changed]);
        assert!(!imported.complete, "bit {bit}");
        assert_eq!(store.totals().unwrap().records, 0, "bit {bit}");
    }
}

#[test]
fn batches_that_are_not_ours_or_not_theirs_are_refused_each_for_its_own_reason() {
    let door = door_with(3);
    let mut stranger = door_with(3);
    stranger.key = SigningKey::from_seed(&[99; 32]);
    let unknown = Door::new(77);
    let mut other_life = Door::new(1);
    other_life.tap(9);
    let file = export(&[
        unknown.message(1, 1),
        stranger.message(1, 2),
        door.hello(),
        b"rubbish".to_vec(),
        door.message(1, 4),
        other_life.message(1, 2),
    ]);
    check(
        &[&file],
        &[
            "a.export 1-1: ?-? unknown_controller",
            "a.export 2-2: ?-? unauthentic",
            "a.export 3-3: ?-? undecodable",
            "a.export 4-4: ?-? undecodable",
            "a.export 5-5: 1-4 stored 4",
            "a.export 6-6: 1-2 fork",
        ],
        0,
        4,
    );
}
