//! Records in a file, for the day when the only way out is a USB stick: the same signed batches that travel over the
//! network, behind a header. See "Export" in `docs/protocol.md`.

use std::io::{self, Write};

use tap_protocol::envelope::Batch;
use tap_protocol::export;
use tap_protocol::ids::{ControllerId, OutboxId, Seq};
use tap_protocol::keys::SigningKey;

use super::{Outbox, OutboxError};

/// Why an export ended early.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The outbox.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The file.
    #[error("cannot write the export")]
    Write(#[from] io::Error),
}

/// One export, being written.
#[derive(Debug)]
pub struct Export<W> {
    out: W,
    controller: ControllerId,
}

impl<W: Write> Export<W> {
    /// Writes the header.
    pub fn begin(mut out: W, controller: &ControllerId) -> io::Result<Export<W>> {
        out.write_all(export::EXPORT)?;
        Ok(Export { out, controller: controller.clone() })
    }

    /// Writes one signed batch behind its length.
    pub fn batch(&mut self, batch: &Batch, key: &SigningKey) -> io::Result<()> {
        self.out.write_all(&export::portion(&batch.sign(key)))
    }

    /// Writes the records of an outbox from `from` on. `told` hears how far it is. Returns how many there were.
    pub fn outbox(
        &mut self,
        outbox: &Outbox,
        (from, through): (Seq, Seq),
        key: &SigningKey,
        mut told: impl FnMut(Seq),
    ) -> Result<u64, ExportError> {
        let (mut next, id): (Seq, OutboxId) = (from, outbox.id());
        loop {
            let mut chunk = outbox.read(next)?;
            chunk.end_at(through);
            if chunk.records.is_empty() {
                return Ok(next.0 - from.0);
            }
            let count = chunk.records.len() as u64;
            let batch = Batch {
                controller: self.controller.clone(),
                outbox: id,
                first_seq: next,
                hash_before: chunk.hash_before,
                records: chunk.records,
            };
            self.batch(&batch, key)?;
            next = next.plus(count);
            told(next);
        }
    }

    /// Everything is written.
    pub fn end(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

/// The messages in an export, in order. An error says where it is cut off or not an export.
pub fn messages(bytes: &[u8]) -> impl Iterator<Item = Result<&[u8], &'static str>> {
    let mut rest = bytes.strip_prefix(export::EXPORT.as_slice()).ok_or("this is no export of version 1");
    std::iter::from_fn(move || {
        let bytes = match rest {
            Ok([]) => return None,
            Ok(bytes) => bytes,
            Err(why) => {
                rest = Ok(&[]);
                return Some(Err(why));
            }
        };
        let split = bytes
            .split_first_chunk::<4>()
            .and_then(|(len, bytes)| bytes.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?));
        rest = Ok(split.map_or(&[], |(_, rest)| rest));
        Some(split.map(|(message, _)| message).ok_or("the export is cut off"))
    })
}

#[cfg(test)]
mod tests {
    use super::super::medium::Disk;
    use super::*;
    use tap_protocol::envelope::UnverifiedBatch;

    #[test]
    fn an_export_is_batches_that_prove_themselves_and_a_cut_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let controller: ControllerId = "hq-door-12".parse().unwrap();
        let path = folder.path().join("a.outbox");
        let mut outbox = Outbox::create(&Disk, &path, OutboxId([7; 16]), &controller, b"pi", 1).unwrap();
        outbox.append(&vec![b"record".to_vec(); 300]).unwrap();
        let key = SigningKey::from_seed(&[0x11; 32]);
        let mut export = Export::begin(Vec::new(), &controller).unwrap();
        assert_eq!(export.outbox(&outbox, (Seq(3), outbox.last_seq()), &key, |_| {}).unwrap(), 298);
        let bytes = export.end().unwrap();
        let mut next = Seq(3);
        for message in messages(&bytes) {
            let batch = UnverifiedBatch::parse(message.unwrap()).unwrap();
            let batch = batch.verify(&controller, &key.public()).unwrap();
            assert_eq!(batch.first_seq(), next);
            next = batch.last_seq().next();
        }
        assert_eq!(next, Seq(301));
        assert!(messages(&bytes[..bytes.len() - 1]).any(|message| message == Err("the export is cut off")));
        assert_eq!(messages(b"tap").collect::<Vec<_>>(), [Err("this is no export of version 1")]);
    }

    /// The bytes of `tap-protocol/tests/golden/v1/batch.hex` in an export.
    #[test]
    fn the_file_is_as_frozen() {
        let golden = |name: &str| {
            let path = format!("{}/../tap-protocol/tests/golden/v1/{name}.hex", env!("CARGO_MANIFEST_DIR"));
            let hex = std::fs::read_to_string(path).unwrap();
            data_encoding::HEXLOWER.decode(hex.trim().as_bytes()).unwrap()
        };
        let message = golden("batch");
        let key = SigningKey::from_seed(&[0x11; 32]);
        let controller: ControllerId = "hq-door-12".parse().unwrap();
        let batch = UnverifiedBatch::parse(&message).unwrap().verify(&controller, &key.public()).unwrap();
        let batch = Batch {
            controller: controller.clone(),
            outbox: batch.outbox(),
            first_seq: batch.first_seq(),
            hash_before: batch.hash_before(),
            records: batch.records().map(|(_, record)| record.bytes.clone()).collect(),
        };
        let mut export = Export::begin(Vec::new(), &controller).unwrap();
        export.batch(&batch, &key).unwrap();
        assert_eq!(export.end().unwrap(), golden("export"));
    }
}
