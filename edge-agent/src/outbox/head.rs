//! The outbox's own row: who it is and how far everything goes. Read and written as a whole, under a check, because no
//! chain covers it.

use ring::digest;
use rusqlite::{Connection, params};
use tap_protocol::chain::ChainHash;
use tap_protocol::ids::{ControllerId, OutboxId, Seq, StoreEpoch};
use tap_protocol::record::LossReason;

use crate::relay::Mark;

/// How far the salvaging of an outbox is. The numbers are on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It was never damaged.
    Whole = 0,
    /// What was readable is here; the tombstones for the rest are not yet written.
    Found = 1,
    /// The tombstones are written. Its holes stay open until the cloud has said what it has.
    Told = 2,
    /// The cloud has said it; the holes behind that are being filled.
    Mending = 3,
    /// It is an outbox like any other again.
    Mended = 4,
    /// It was never damaged: the cloud was put back to before what was deleted here, and those numbers are being filled.
    Refilling = 5,
}

impl Stage {
    fn from_number(number: u8) -> Option<Stage> {
        [Stage::Whole, Stage::Found, Stage::Told, Stage::Mending, Stage::Mended, Stage::Refilling]
            .into_iter()
            .nth(number.into())
    }

    /// Whether its holes are being filled, and what is said at the numbers that are gone.
    pub fn fills_with(self) -> Option<LossReason> {
        match self {
            Stage::Mending => Some(LossReason::Damaged),
            Stage::Refilling => Some(LossReason::Pruned),
            Stage::Whole | Stage::Found | Stage::Told | Stage::Mended => None,
        }
    }

    /// Whether it can be sent: its records are numbered without a gap.
    pub fn is_sound(self) -> bool {
        matches!(self, Stage::Whole | Stage::Mended)
    }
}

/// The outbox's own row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Which outbox.
    pub id: OutboxId,
    /// Whose.
    pub controller: ControllerId,
    /// What it was pinned to when it was made.
    pub machine: Vec<u8>,
    /// 1, 2, 3 … per controller.
    pub ordinal: u32,
    /// The last record that was deleted and its hash: where the chain of what is left begins.
    pub pruned: (Seq, ChainHash),
    /// How far receipts go.
    pub mark: Mark,
    /// Whether the last run ended as it was asked to.
    pub stopped_cleanly: bool,
    /// The outbox whose end this one says again, if any.
    pub continues: Option<OutboxId>,
    /// The last record that the other still says itself.
    pub continues_after: Option<Seq>,
    /// The last record at some earlier moment.
    pub written_through: Seq,
    /// How far salvaging is.
    pub stage: Stage,
    /// How far the holes are filled, and the chain's hash there.
    pub mended: (Seq, ChainHash),
    /// How far receipts went, day by day.
    pub days: Vec<u8>,
}

impl Head {
    /// Of a new outbox.
    pub fn new(id: OutboxId, controller: &ControllerId, machine: &[u8], ordinal: u32) -> Head {
        Head {
            id,
            controller: controller.clone(),
            machine: machine.to_vec(),
            ordinal,
            pruned: (Seq::ZERO, ChainHash::start(id)),
            mark: Mark::default(),
            stopped_cleanly: false,
            continues: None,
            continues_after: None,
            written_through: Seq::ZERO,
            stage: Stage::Whole,
            mended: (Seq::ZERO, ChainHash::start(id)),
            days: Vec::new(),
        }
    }

    /// Reads it. `Ok(Err(_))` says what is wrong with it.
    pub fn read(db: &Connection) -> rusqlite::Result<Result<Head, String>> {
        db.query_row("SELECT * FROM outbox", [], |row| {
            let controller: String = row.get("controller")?;
            let Ok(controller) = controller.parse() else {
                return Ok(Err("the controller's name is none".into()));
            };
            let Some(stage) = Stage::from_number(row.get("salvage")?) else {
                return Ok(Err("its stage is none".into()));
            };
            let id = OutboxId(row.get("outbox_id")?);
            let mended_hash: Option<[u8; 32]> = row.get("mended_hash")?;
            let head = Head {
                id,
                controller,
                machine: row.get("machine")?,
                ordinal: row.get("ordinal")?,
                pruned: (Seq(row.get("pruned_through")?), ChainHash(row.get("pruned_hash")?)),
                mark: Mark {
                    receipted_through: Seq(row.get("receipted_through")?),
                    store_epoch: row.get::<_, Option<u64>>("store_epoch")?.map(StoreEpoch),
                },
                stopped_cleanly: row.get("stopped_cleanly")?,
                continues: row.get::<_, Option<_>>("continues")?.map(OutboxId),
                continues_after: continues_after(row)?,
                written_through: Seq(row.get("written_through")?),
                stage,
                mended: (
                    Seq(row.get("mended_through")?),
                    mended_hash.map_or(ChainHash::start(id), ChainHash),
                ),
                days: row.get::<_, Option<_>>("days")?.unwrap_or_default(),
            };
            let is_as_written = row.get::<_, Option<i64>>("own_check")? == Some(head.own_check());
            Ok(if is_as_written { Ok(head) } else { Err("its own row is not as it was written".into()) })
        })
    }

    /// Reads the row of a version 1 file, which has no check.
    pub fn read_version_1(db: &Connection) -> rusqlite::Result<Result<Head, String>> {
        type Row = ([u8; 16], String, Vec<u8>, u32, u64, [u8; 32], u64, Option<u64>, bool, Option<[u8; 16]>);
        let row: Row = db.query_row(
            "SELECT outbox_id, controller, machine, ordinal, pruned_through, pruned_hash, receipted_through, store_epoch, stopped_cleanly, continues FROM outbox",
            [],
            |row| row.try_into(),
        )?;
        let (id, controller, machine, ordinal, pruned, pruned_hash, receipted, epoch, cleanly, continues) =
            row;
        let Ok(controller) = controller.parse() else {
            return Ok(Err("the controller's name is none".into()));
        };
        Ok(Ok(Head {
            pruned: (Seq(pruned), ChainHash(pruned_hash)),
            mark: Mark { receipted_through: Seq(receipted), store_epoch: epoch.map(StoreEpoch) },
            stopped_cleanly: cleanly,
            continues: continues.map(OutboxId),
            ..Head::new(OutboxId(id), &controller, &machine, ordinal)
        }))
    }

    /// Writes it over what is there, or for the first time.
    pub fn write(&self, db: &Connection) -> rusqlite::Result<()> {
        let mut write = db.prepare_cached(
            "INSERT OR REPLACE INTO outbox (only_row, outbox_id, controller, machine, ordinal, pruned_through, pruned_hash,
                 receipted_through, store_epoch, stopped_cleanly, continues, written_through, salvage, mended_through,
                 mended_hash, days, own_check, continues_after)
             VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
        )?;
        write.execute(params![
            self.id.0,
            self.controller.as_str(),
            self.machine,
            self.ordinal,
            self.pruned.0.0,
            self.pruned.1.0,
            self.mark.receipted_through.0,
            self.mark.store_epoch.map(|epoch| epoch.0),
            self.stopped_cleanly,
            self.continues.map(|id| id.0),
            self.written_through.0,
            self.stage as u8,
            self.mended.0.0,
            self.mended.1.0,
            self.days,
            self.own_check(),
            self.continues_after.map(|seq| seq.0),
        ])?;
        Ok(())
    }

    fn own_check(&self) -> i64 {
        let epoch = self.mark.store_epoch.map_or(Vec::new(), |epoch| epoch.0.to_be_bytes().to_vec());
        let mut continues = self.continues.map_or(Vec::new(), |id| id.0.to_vec());
        // Nothing where there is none: rows of version 2 check out as they are.
        continues.extend(self.continues_after.into_iter().flat_map(|seq| seq.0.to_be_bytes()));
        own_check(&[
            b"outbox",
            &self.id.0,
            self.controller.as_str().as_bytes(),
            &self.machine,
            &self.ordinal.to_be_bytes(),
            &self.pruned.0.0.to_be_bytes(),
            &self.pruned.1.0,
            &self.mark.receipted_through.0.to_be_bytes(),
            &epoch,
            &[self.stopped_cleanly.into()],
            &continues,
            &self.written_through.0.to_be_bytes(),
            &[self.stage as u8],
            &self.mended.0.0.to_be_bytes(),
            &self.mended.1.0,
            &self.days,
        ])
    }
}

/// A file of version 2, whose damage is being looked at, has no such column.
fn continues_after(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<Seq>> {
    match row.get::<_, Option<u64>>("continues_after") {
        Err(rusqlite::Error::InvalidColumnName(_)) => Ok(None),
        read => Ok(read?.map(Seq)),
    }
}

/// A record's check. It covers everything that the row has, so that a row proves itself wherever it is found.
pub fn record_check(outbox: OutboxId, seq: Seq, hash: ChainHash, bytes: &[u8]) -> i64 {
    own_check(&[b"record", &outbox.0, &seq.0.to_be_bytes(), &hash.0, bytes])
}

/// A boot's check.
pub fn boot_check(outbox: OutboxId, boot: u32, boot_id: [u8; 16]) -> i64 {
    own_check(&[b"boot", &outbox.0, &boot.to_be_bytes(), &boot_id])
}

/// The first 64 bits of the SHA-256 of the parts, each behind its length.
fn own_check(parts: &[&[u8]]) -> i64 {
    let mut hasher = digest::Context::new(&digest::SHA256);
    for part in parts {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let digest = hasher.finish();
    i64::from_be_bytes(digest.as_ref()[..8].try_into().expect("SHA-256 gives 32 bytes"))
}
