//! All outboxes on the disk: the newest is written, older ones (a restored backup's, a replaced machine's) are drained
//! before it. Knows files and their order; what is sent when is the relay's to say.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tap_protocol::chain::ChainHash;
use tap_protocol::ids::{ControllerId, OutboxId, Seq};

use super::medium::{self, Medium};
use super::{Chunk, Outbox, OutboxError};
use crate::relay::Mark;

/// Outbox files end in this.
const SUFFIX: &str = "outbox";

/// The outboxes of one controller, oldest first.
#[derive(Debug)]
pub struct Shelf {
    medium: Arc<dyn Medium>,
    folder: PathBuf,
    outboxes: Vec<Outbox>,
}

/// Who writes, and where it runs.
#[derive(Debug, Clone)]
pub struct Owner {
    /// The controller.
    pub controller: ControllerId,
    /// What tells this machine from a clone of its disk.
    pub machine: Vec<u8>,
}

impl Shelf {
    /// Opens every outbox in `folder`. A new one is made if there is none, or if the newest belongs to another machine
    /// or controller. `mint` gives 128 random bits.
    pub fn open(
        medium: Arc<dyn Medium>,
        folder: &Path,
        owner: &Owner,
        mint: impl FnOnce() -> OutboxId,
    ) -> Result<Shelf, OutboxError> {
        let folder_error = |source| OutboxError::Folder { path: folder.to_owned(), source };
        medium::make_folder(&*medium, folder).map_err(folder_error)?;
        let mut outboxes = Vec::new();
        for path in medium.list(folder).map_err(folder_error)? {
            if path.extension().is_some_and(|extension| extension == SUFFIX) {
                outboxes.push(Outbox::open(&*medium, &path)?);
            }
        }
        if outboxes.is_empty() {
            // A start that was killed may have made the folder and not its name durable.
            medium.sync_folder(medium::parent(folder)).map_err(folder_error)?;
        }
        outboxes.sort_by_key(Outbox::ordinal);
        let mut shelf = Shelf { medium, folder: folder.to_owned(), outboxes };
        let newest_is_ours = shelf.outboxes.last().is_some_and(|newest| {
            newest.machine() == owner.machine && *newest.controller() == owner.controller
        });
        if !newest_is_ours {
            shelf.start_new(owner, mint())?;
        }
        Ok(shelf)
    }

    /// Makes a new outbox; it is written from now on.
    pub fn start_new(&mut self, owner: &Owner, id: OutboxId) -> Result<(), OutboxError> {
        let ordinal = self.outboxes.last().map_or(1, |newest| newest.ordinal() + 1);
        let path = self.folder.join(format!("{id}.{SUFFIX}"));
        let outbox = Outbox::create(&*self.medium, &path, id, &owner.controller, &owner.machine, ordinal)?;
        self.outboxes.push(outbox);
        Ok(())
    }

    /// The outbox that is written.
    pub fn newest(&mut self) -> &mut Outbox {
        self.outboxes.last_mut().expect("a shelf is never empty")
    }

    /// All outboxes, oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Outbox> {
        self.outboxes.iter()
    }

    fn find(&mut self, id: OutboxId) -> Option<&mut Outbox> {
        self.outboxes.iter_mut().find(|outbox| outbox.id() == id)
    }

    /// See [`Outbox::read`]. `None` if there is no such outbox.
    pub fn read(&mut self, id: OutboxId, from: Seq) -> Result<Option<Chunk>, OutboxError> {
        self.find(id).map(|outbox| outbox.read(from)).transpose()
    }

    /// See [`Outbox::hash_at`]. `None` also if there is no such outbox.
    pub fn hash_at(&mut self, id: OutboxId, seq: Seq) -> Result<Option<ChainHash>, OutboxError> {
        self.find(id).map_or(Ok(None), |outbox| outbox.hash_at(seq))
    }

    /// Whether another outbox says it again: then it is not sent any more.
    pub fn is_retired(&self, id: OutboxId) -> bool {
        self.outboxes.iter().any(|outbox| outbox.continues() == Some(id))
    }

    /// The newest outbox, to be written, and the one called `id`, to be read; `None` if that is not another one.
    pub fn newest_and(&mut self, id: OutboxId) -> Option<(&mut Outbox, &Outbox)> {
        let (newest, older) = self.outboxes.split_last_mut()?;
        older.iter().find(|outbox| outbox.id() == id).map(|old| (newest, old))
    }

    /// See [`Outbox::set_mark`].
    pub fn set_mark(&mut self, id: OutboxId, mark: Mark) {
        if let Some(outbox) = self.find(id) {
            outbox.set_mark(mark);
        }
    }

    /// Writes all marks to the medium.
    pub fn flush_marks(&mut self) -> Result<(), OutboxError> {
        self.outboxes.iter_mut().try_for_each(Outbox::flush_mark)
    }

    /// Deletes receipted records beyond the newest `keep` of each outbox, at most `limit` per outbox and call. Returns
    /// how many went.
    pub fn prune(&mut self, keep: u64, limit: u32) -> Result<u32, OutboxError> {
        self.outboxes.iter_mut().try_fold(0, |gone, outbox| {
            let through = Seq(outbox.last_seq().0.saturating_sub(keep));
            Ok(gone + outbox.prune(through, limit)?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::medium::Disk;
    use super::*;

    fn owner(machine: &[u8]) -> Owner {
        Owner { controller: "hq-door-1".parse().unwrap(), machine: machine.to_vec() }
    }

    fn open(folder: &Path, machine: &[u8], id: u8) -> Shelf {
        Shelf::open(Disk::shared(), folder, &owner(machine), || OutboxId([id; 16])).unwrap()
    }

    #[test]
    fn the_same_machine_goes_on_with_its_outbox() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path(), b"pi-1", 1).newest().append(&[b"one".to_vec()]).unwrap();
        let mut again = open(folder.path(), b"pi-1", 2);
        assert_eq!(again.newest().id(), OutboxId([1; 16]));
        assert_eq!(again.newest().last_seq(), Seq(1));
    }

    #[test]
    fn an_outbox_that_was_never_finished_stops_nobody() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path(), b"pi-1", 1);
        for stray in ["0a.draft", "0a.draft-wal", "0a.draft-shm"] {
            std::fs::write(folder.path().join(stray), b"cut off").unwrap();
        }
        assert_eq!(open(folder.path(), b"pi-1", 2).newest().id(), OutboxId([1; 16]));
    }

    #[test]
    fn a_cloned_disk_in_another_machine_starts_its_own_outbox_and_keeps_the_old_one_for_draining() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path(), b"pi-1", 9).newest().append(&[b"one".to_vec()]).unwrap();
        let mut elsewhere = open(folder.path(), b"pi-2", 2);
        elsewhere.newest().append(&[b"two".to_vec()]).unwrap();
        let ids: Vec<_> = elsewhere.all().map(Outbox::id).collect();
        assert_eq!(ids, [OutboxId([9; 16]), OutboxId([2; 16])], "oldest first, whatever the ids");
        assert_eq!(elsewhere.read(OutboxId([9; 16]), Seq(1)).unwrap().unwrap().records, [b"one".to_vec()]);
    }

    #[test]
    fn receipted_history_is_kept_up_to_the_limit_and_the_rest_never_goes() {
        let folder = tempfile::tempdir().unwrap();
        let mut shelf = open(folder.path(), b"pi-1", 1);
        shelf.newest().append(&vec![b"x".to_vec(); 10]).unwrap();
        shelf.set_mark(OutboxId([1; 16]), Mark { receipted_through: Seq(8), store_epoch: None });
        assert_eq!(shelf.prune(5, 100).unwrap(), 5);
        assert_eq!(shelf.prune(0, 100).unwrap(), 3, "two have no receipt");
    }
}
