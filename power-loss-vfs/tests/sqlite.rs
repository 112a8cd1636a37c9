//! SQLite itself on a disk in memory.

use std::path::Path;

use power_loss_vfs::{Dice, Disk, Fault, Image, Lie, Trouble};
use rusqlite::{Connection, OpenFlags};

const DATABASE: &str = "/data/a.db";

fn disk() -> Disk {
    Disk::boot(&Image::with_folder("/data"))
}

fn open(disk: &Disk, synchronous: &str) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let db = Connection::open_with_flags_and_vfs(DATABASE, flags, disk.vfs_name())?;
    db.pragma_update(None, "journal_mode", "wal")?;
    db.pragma_update(None, "synchronous", synchronous)?;
    Ok(db)
}

fn count(db: &Connection) -> rusqlite::Result<u64> {
    db.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
}

/// A table with so many rows, each committed.
fn fill(disk: &Disk, synchronous: &str, rows: u64) -> Connection {
    let db = open(disk, synchronous).unwrap();
    db.execute_batch("CREATE TABLE t (a)").unwrap();
    (0..rows).for_each(|n| assert_eq!(db.execute("INSERT INTO t VALUES (?1)", [n]).unwrap(), 1));
    db
}

#[test]
fn sqlite_keeps_its_database_here() {
    let disk = disk();
    drop(fill(&disk, "full", 10));
    assert_eq!(count(&open(&disk, "full").unwrap()).unwrap(), 10);
    assert!(disk.seen().file(Path::new("/data/a.db-wal")).is_none(), "the last to close removes the log");
}

#[test]
fn two_connections_share_one_log() {
    let disk = disk();
    let first = fill(&disk, "full", 1);
    let second = open(&disk, "full").unwrap();
    first.execute_batch("BEGIN; INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(count(&second).unwrap(), 1);
    assert!(second.execute("INSERT INTO t VALUES (3)", []).is_err(), "one writer at a time");
    first.execute_batch("COMMIT").unwrap();
    assert_eq!(count(&second).unwrap(), 2);
}

#[test]
fn full_survives_every_cut_and_normal_does_not() {
    let least_left = |synchronous: &str| {
        let disk = disk();
        let db = fill(&disk, synchronous, 10);
        let medium = disk.medium();
        let left = (0..200).map(|seed| {
            disk.reboot(&medium.cut(&mut Dice::new(seed)));
            open(&disk, "full").and_then(|db| count(&db)).unwrap_or(0)
        });
        let least = left.min();
        drop(db);
        least
    };
    assert_eq!(least_left("full"), Some(10));
    assert_eq!(least_left("normal"), Some(0));
}

#[test]
fn a_disk_that_lies_about_its_log_loses() {
    let disk = disk();
    disk.lie(Lie::FileSyncs { suffix: "-wal" });
    let _db = fill(&disk, "full", 10);
    let medium = disk.medium();
    let loses = (0..200).any(|seed| {
        disk.reboot(&medium.cut(&mut Dice::new(seed)));
        open(&disk, "full").and_then(|db| count(&db)).unwrap_or(0) < 10
    });
    assert!(loses);
}

#[test]
fn every_call_can_fail_and_the_next_attempt_succeeds() {
    let disk = disk();
    let db = fill(&disk, "full", 1);
    for trouble in Trouble::ALL {
        let before = count(&db).unwrap();
        disk.set_fault(Some(Fault { at: disk.calls(), trouble, sticky: true }));
        let inserted = db.execute("INSERT INTO t VALUES (1)", []);
        disk.set_fault(None);
        assert_eq!(inserted.is_err(), trouble != Trouble::ShortRead, "{trouble}: nothing is read there");
        assert_eq!(count(&db).unwrap(), before + u64::from(inserted.is_ok()));
    }
}

#[test]
fn a_connection_of_a_machine_that_is_off_can_do_nothing() {
    let disk = disk();
    let db = fill(&disk, "full", 1);
    let image = disk.seen();
    disk.reboot(&image);
    assert!(db.execute("INSERT INTO t VALUES (1)", []).is_err());
    drop(db);
    assert_eq!(disk.seen(), image);
    assert_eq!(count(&open(&disk, "full").unwrap()).unwrap(), 1);
}

#[test]
fn a_disk_may_go_before_its_connections() {
    let disk = disk();
    let db = fill(&disk, "full", 1);
    drop(disk);
    assert!(db.execute("INSERT INTO t VALUES (1)", []).is_err());
}
