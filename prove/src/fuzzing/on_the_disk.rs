//! What is read from media that may hold anything: exports, and outboxes with their logs.

use std::path::Path;
use std::sync::Arc;

use edge_agent::outbox::salvage::Salvage;
use edge_agent::outbox::wal::{FRAME_HEADER_BYTES, Finding, HEADER_BYTES, Scan, Transactions};
use edge_agent::outbox::{Outbox, carve, export};
use power_loss_vfs::{Disk, Image};
use tap_protocol::ids::{ControllerId, OutboxId, Seq};

use crate::medium::InMemory;

pub fn export(bytes: &[u8]) {
    let messages: Vec<_> = export::messages(bytes).collect();
    assert!(messages.iter().rev().skip(1).all(Result::is_ok), "behind what is wrong nothing is read");
    if messages.iter().all(Result::is_ok) {
        let told: usize = messages.iter().flatten().map(|message| message.len() + 4).sum();
        assert!(
            told <= bytes.len() && bytes.ends_with(messages.last().map_or(&[], |last| last.unwrap_or(&[])))
        );
    }
}

/// A log of pages of 512 bytes.
pub fn log(bytes: &[u8]) {
    let Some((header, frames)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return };
    let mut scan = Scan::begin(header);
    let mut transactions = Transactions::default();
    let mut found = scan.finding();
    for frame in frames.chunks(FRAME_HEADER_BYTES + 512) {
        scan.frame(frame);
        transactions.frame(frame);
        assert!(found == Finding::Fine || scan.finding() == found, "what was found once stays found");
        found = scan.finding();
        carve::rows(frame)
            .for_each(|row| assert!(row.seq <= carve::MAX_SEQ && row.bytes.len() <= frame.len()));
    }
}

/// An outbox's files: opened and read if they can be, salvaged in any case. The first byte says how many pages are the
/// database's; the rest is its log.
pub fn outbox(bytes: &[u8]) {
    let Some((pages, bytes)) = bytes.split_first() else { return };
    let (database, log) = bytes.split_at((usize::from(*pages) * PAGE_BYTES).min(bytes.len()));
    let owner: ControllerId = OWNER.parse().expect("a slug");
    DISK.with(|disk| {
        let folder = Path::new(FOLDER);
        let file = folder.join(format!("{OUTBOX}.outbox"));
        plant(disk, &[(&file, database), (&folder.join(format!("{OUTBOX}.outbox-wal")), log)]);
        let medium = InMemory(disk.clone());
        if let Ok(outbox) = Outbox::open(&medium, &file) {
            read_all(&outbox);
        }
        let target = folder.join("salvaged.outbox");
        let begun =
            Salvage::begin(Arc::new(medium.clone()), &file, &target, OUTBOX, Some(Seq(60)), (&owner, b"pi"));
        let Ok(mut salvage) = begun else { return };
        while let Ok(None) = salvage.step(16) {}
        drop(salvage);
        if let Ok(outbox) = Outbox::open(&medium, &target) {
            assert_eq!(outbox.id(), OUTBOX);
            read_all(&outbox);
        }
    });
}

const PAGE_BYTES: usize = 1024;
const FOLDER: &str = "/outbox";
const OWNER: &str = "hq-door-12";
const OUTBOX: OutboxId = OutboxId([0x0b; 16]);

thread_local! {
    /// One for all inputs: SQLite keeps the name of each for ever.
    static DISK: Arc<Disk> = Arc::new(Disk::boot(&Image::with_folder(FOLDER)));
}

/// What is read is chained, in order and ends.
fn read_all(outbox: &Outbox) {
    let mut from = outbox.pruned_through().next();
    while from <= outbox.last_seq() {
        let Ok(chunk) = outbox.read(from) else { return };
        if chunk.records.is_empty() && !outbox.stage().is_sound() {
            // The rest is known to be gone: it will be filled when the cloud has said what it has.
            return;
        }
        assert!(
            chunk.first_seq == from && !chunk.records.is_empty(),
            "{from} is there and is not read: {} records from {} on",
            chunk.records.len(),
            chunk.first_seq
        );
        from = from.plus(chunk.records.len() as u64);
    }
}

fn plant(disk: &Disk, files: &[(&Path, &[u8])]) {
    disk.reboot(&Image::with_folder(FOLDER));
    for (path, _) in files {
        disk.create_new(path).expect("an empty folder");
    }
    let mut image = disk.seen();
    for (path, bytes) in files {
        *image.file_mut(path).expect("just made") = bytes.to_vec();
    }
    disk.reboot(&image);
}

/// An outbox as one has it, with a log, for the corpus.
pub(super) fn an_outbox() -> Vec<u8> {
    DISK.with(|disk| {
        disk.reboot(&Image::with_folder(FOLDER));
        let medium = InMemory(disk.clone());
        let file = Path::new(FOLDER).join(format!("{OUTBOX}.outbox"));
        let owner: ControllerId = OWNER.parse().expect("a slug");
        let mut outbox = Outbox::create(&medium, &file, OUTBOX, &owner, b"pi", 1).expect("a sound disk");
        for n in 0..4u8 {
            outbox.append(&vec![vec![1, n, n]; 10]).expect("a sound disk");
        }
        // As the power leaves it: with its log.
        let image = disk.seen();
        drop(outbox);
        let bytes = |suffix: &str| {
            let path = Path::new(FOLDER).join(format!("{OUTBOX}.outbox{suffix}"));
            image.file(&path).map_or(Vec::new(), |bytes| bytes.to_vec())
        };
        let database = bytes("");
        [&[(database.len() / PAGE_BYTES) as u8][..], &database, &bytes("-wal")].concat()
    })
}
