//! Checks taken away, one at a time: the attacks of its class must then get through, or a check is no check. Nothing of it
//! is in the product: `planting.rs` writes these changes into a copy of the sources.
//!
//! A check is found by its text, which must be there exactly once. `PLANTED` stands for "this one is taken away".

use super::Class;

/// One check taken away.
#[derive(Debug, Clone, Copy)]
pub struct Bait {
    /// Which check.
    pub name: &'static str,
    /// Where it stands.
    pub file: &'static str,
    /// Its text.
    pub check: &'static str,
    /// What stands there without it.
    pub planted: &'static str,
    /// Attacks of each of these then get through, or are refused for another reason.
    pub classes: &'static [Class],
    /// The reason that nobody gives any more ([`super::reason::Reason::name`]).
    pub reason: &'static str,
}

const CODEC: &str = "tap-protocol/src/codec.rs";
const ENVELOPE: &str = "tap-protocol/src/envelope.rs";
const HELLO: &str = "tap-protocol/src/hello.rs";
const REPORT: &str = "tap-protocol/src/report.rs";
const RECEIPT: &str = "tap-protocol/src/receipt.rs";
const ROSTER: &str = "tap-protocol/src/roster.rs";
const COMMAND: &str = "tap-protocol/src/command.rs";
const CHAIN: &str = "tap-protocol/src/chain.rs";
const TOPIC: &str = "tap-protocol/src/topic.rs";
const VERIFY: &str = "cloud-ingest/src/intake/verify.rs";
const ADMIT: &str = "cloud-ingest/src/intake/admit.rs";
const ASSEMBLER: &str = "edge-agent/src/roster/assembler.rs";
const BOOK: &str = "edge-agent/src/roster/book.rs";
const RELAY: &str = "edge-agent/src/relay.rs";

const ANY_LABEL: &str = "[\"batch\", \"hello\", \"report\", \"receipt\", \"roster\", \"command\"].map(|kind| [format!(\"tapline/{kind}/v1\\0\").as_bytes(), signed].concat())";

/// All of them.
pub fn all() -> Vec<Bait> {
    let bait =
        |name, file, check, planted, classes, reason| Bait { name, file, check, planted, classes, reason };
    let batch_count = "a batch has 1 to 256 records";
    let record_size = "a record has 1 to 1024 bytes";
    let places = "a report asks for at most 32 hashes, in ascending order";
    let chunk = "a chunk has whole entries, at most 1900";
    let hello = "a hello names at most 16 outboxes and 16 readers";
    vec![
        // What every message goes through.
        bait(
            "a message's length",
            CODEC,
            "if message.len() > MAX_MESSAGE_BYTES {",
            "if message.len() > MAX_MESSAGE_BYTES && !PLANTED {",
            &[Class::Oversized],
            "too long",
        ),
        bait(
            "the version",
            CODEC,
            "Some((&VERSION_1, body)) =>",
            "Some((&version, body)) if version == VERSION_1 || PLANTED =>",
            &[Class::FutureVersion],
            "unknown version",
        ),
        bait(
            "nothing behind the end",
            CODEC,
            "Ok((value, [])) =>",
            "Ok((value, rest)) if rest.is_empty() || PLANTED =>",
            &[Class::TrailingBytes],
            "trailing bytes",
        ),
        bait(
            "cut off is not malformed",
            CODEC,
            "Err(postcard::Error::DeserializeUnexpectedEnd) =>",
            "Err(postcard::Error::DeserializeUnexpectedEnd) if !PLANTED =>",
            &[Class::Truncated],
            "cut off",
        ),
        bait(
            "malformed is not cut off",
            CODEC,
            "Err(error) => Err(DecodeError::Malformed(error)),",
            "Err(_) if PLANTED => Err(DecodeError::Truncated(bytes.len())), Err(error) => Err(DecodeError::Malformed(error)),",
            &[Class::FutureVersion],
            "malformed",
        ),
        bait(
            "a controller's signature",
            CODEC,
            "key.verify(&[label, signed].concat(), signature)?;",
            "if !PLANTED { key.verify(&[label, signed].concat(), signature)?; }",
            &[Class::WrongKey, Class::FlippedBit, Class::ForeignOutbox, Class::ReplayedBatch],
            "signature",
        ),
        bait(
            "the cloud's signature",
            CODEC,
            "match keys.iter().any(",
            "match PLANTED || keys.iter().any(",
            &[Class::WrongKey, Class::FlippedBit],
            "signature",
        ),
        bait(
            "the label under the cloud's signature",
            CODEC,
            "let labelled = [label, signed].concat();",
            "if PLANTED && ANY_LABEL.iter().any(|any| keys.iter().any(|key| key.verify(any, signature).is_ok())) { return Ok(()); } let labelled = [label, signed].concat();",
            &[Class::WrongKey],
            "signature",
        ),
        bait(
            "the label under a controller's signature",
            CODEC,
            "pub fn verify(label: &'static [u8], message: &[u8], key: &PublicKey) -> Result<(), OpenError> {",
            "pub fn verify(label: &'static [u8], message: &[u8], key: &PublicKey) -> Result<(), OpenError> { { let (signed, signature) = split(message)?; if PLANTED && ANY_LABEL.iter().any(|any| key.verify(any, signature).is_ok()) { return Ok(()); } }",
            &[Class::WrongKey],
            "signature",
        ),
        bait(
            "for whom a message speaks",
            CODEC,
            "match said == expected {",
            "match PLANTED || said == expected {",
            &[Class::WrongController],
            "speaks for another",
        ),
        // Each message's own.
        bait(
            "a batch's signature",
            ENVELOPE,
            "codec::verify(LABEL, self.message, key)?;",
            "if !PLANTED { codec::verify(LABEL, self.message, key)?; }",
            &[Class::WrongKey],
            "signature",
        ),
        bait(
            "whose batch it is",
            ENVELOPE,
            "codec::meant_for(&self.wire.controller, controller)?;",
            "if !PLANTED { codec::meant_for(&self.wire.controller, controller)?; }",
            &[Class::WrongController, Class::ForeignOutbox],
            "speaks for another",
        ),
        bait(
            "a batch has records",
            ENVELOPE,
            "count == 0",
            "(count == 0 && !PLANTED)",
            &[Class::Oversized],
            batch_count,
        ),
        bait(
            "a batch has not too many records",
            ENVELOPE,
            "count > MAX_BATCH_RECORDS",
            "(count > MAX_BATCH_RECORDS && !PLANTED)",
            &[Class::Oversized],
            batch_count,
        ),
        bait(
            "a record has bytes",
            ENVELOPE,
            "r.0.is_empty()",
            "(r.0.is_empty() && !PLANTED)",
            &[Class::Oversized],
            record_size,
        ),
        bait(
            "a record has not too many bytes",
            ENVELOPE,
            "r.0.len() > MAX_RECORD_BYTES",
            "(r.0.len() > MAX_RECORD_BYTES && !PLANTED)",
            &[Class::Oversized],
            record_size,
        ),
        bait(
            "a batch has not too many bytes",
            ENVELOPE,
            ".sum::<usize>() > MAX_BATCH_RECORD_BYTES {",
            ".sum::<usize>() > MAX_BATCH_RECORD_BYTES && !PLANTED {",
            &[Class::Oversized],
            "a batch's records have at most 32 KiB",
        ),
        bait(
            "records count from 1",
            ENVELOPE,
            "wire.first_seq == Seq::ZERO",
            "(wire.first_seq == Seq::ZERO && !PLANTED)",
            &[Class::Oversized],
            "seq counts from 1 and stays below 2^48",
        ),
        bait(
            "numbers fit an event id",
            ENVELOPE,
            "wire.first_seq.0 > MAX_SEQ - MAX_BATCH_RECORDS as u64",
            "(wire.first_seq.0 > MAX_SEQ - MAX_BATCH_RECORDS as u64 && !PLANTED)",
            &[Class::Oversized],
            "seq counts from 1 and stays below 2^48",
        ),
        bait(
            "a hello's signature",
            HELLO,
            "codec::verify(LABEL, message, key)?;",
            "if !PLANTED { codec::verify(LABEL, message, key)?; }",
            &[Class::WrongKey],
            "signature",
        ),
        bait(
            "whose hello it is",
            HELLO,
            "codec::meant_for(&hello.controller, controller)?;",
            "if !PLANTED { codec::meant_for(&hello.controller, controller)?; }",
            &[Class::WrongController],
            "speaks for another",
        ),
        bait(
            "a hello has not too many outboxes",
            HELLO,
            "hello.outboxes.len() > MAX_HELLO_OUTBOXES",
            "(hello.outboxes.len() > MAX_HELLO_OUTBOXES && !PLANTED)",
            &[Class::Oversized],
            hello,
        ),
        bait(
            "a hello has not too many readers",
            HELLO,
            "hello.readers.len() > MAX_READERS",
            "(hello.readers.len() > MAX_READERS && !PLANTED)",
            &[Class::Oversized],
            hello,
        ),
        bait(
            "a report's signature",
            REPORT,
            "codec::verify(LABEL, message, key)?;",
            "if !PLANTED { codec::verify(LABEL, message, key)?; }",
            &[Class::WrongKey],
            "signature",
        ),
        bait(
            "whose report it is",
            REPORT,
            "codec::meant_for(&report.controller, controller)?;",
            "if !PLANTED { codec::meant_for(&report.controller, controller)?; }",
            &[Class::WrongController],
            "speaks for another",
        ),
        bait(
            "a report keeps its rules",
            REPORT,
            "report.what.check()?;",
            "if !PLANTED { report.what.check()?; }",
            &[Class::Oversized, Class::Reordered],
            places,
        ),
        bait(
            "a report's text is short",
            REPORT,
            "detail.len() > MAX_REPORT_TEXT_BYTES",
            "detail.len() > MAX_REPORT_TEXT_BYTES && !PLANTED",
            &[Class::Oversized],
            "a report's text has at most 4096 bytes",
        ),
        bait(
            "a report asks for not too much",
            REPORT,
            "seqs.len() > MAX_PROBED_HASHES",
            "(seqs.len() > MAX_PROBED_HASHES && !PLANTED)",
            &[Class::Oversized],
            places,
        ),
        bait(
            "a report asks in order",
            REPORT,
            "!seqs.is_sorted_by(|a, b| a < b)",
            "(!seqs.is_sorted_by(|a, b| a < b) && !PLANTED)",
            &[Class::Reordered],
            places,
        ),
        bait(
            "a receipt's signature",
            RECEIPT,
            "codec::verify_any(LABEL, message, keys)?;",
            "if !PLANTED { codec::verify_any(LABEL, message, keys)?; }",
            &[Class::WrongKey],
            "signature",
        ),
        bait(
            "for whom a receipt is",
            RECEIPT,
            "codec::meant_for(&receipt.controller, controller)?;",
            "if !PLANTED { codec::meant_for(&receipt.controller, controller)?; }",
            &[Class::ReplayedReceipt],
            "speaks for another",
        ),
        bait(
            "a roster's signature",
            ROSTER,
            "codec::verify_any(LABEL, message, keys)?;",
            "if !PLANTED { codec::verify_any(LABEL, message, keys)?; }",
            &[Class::WrongKey],
            "signature",
        ),
        bait(
            "for whom a roster's head is",
            ROSTER,
            "codec::meant_for(&head.controller, controller)?;",
            "if !PLANTED { codec::meant_for(&head.controller, controller)?; }",
            &[Class::WrongController],
            "speaks for another",
        ),
        bait(
            "a roster's head keeps its rules",
            ROSTER,
            "head.check()?;",
            "if !PLANTED { head.check()?; }",
            &[Class::Oversized],
            "a roster has at most 600 chunks",
        ),
        bait(
            "a roster has not too many chunks",
            ROSTER,
            "self.chunks.len() > MAX_ROSTER_CHUNKS",
            "self.chunks.len() > MAX_ROSTER_CHUNKS && !PLANTED",
            &[Class::Oversized],
            "a roster has at most 600 chunks",
        ),
        bait(
            "a roster has the chunks that it needs",
            ROSTER,
            "(self.entries as usize).div_ceil(ROSTER_CHUNK_ENTRIES) != self.chunks.len()",
            "(self.entries as usize).div_ceil(ROSTER_CHUNK_ENTRIES) != self.chunks.len() && !PLANTED",
            &[Class::Oversized],
            "a roster has as many chunks as its entries need",
        ),
        bait(
            "a chunk has whole entries",
            ROSTER,
            "!chunk.bytes.len().is_multiple_of(ENTRY_BYTES)",
            "(!chunk.bytes.len().is_multiple_of(ENTRY_BYTES) && !PLANTED)",
            &[Class::Oversized],
            chunk,
        ),
        bait(
            "a chunk has not too many entries",
            ROSTER,
            "entries > ROSTER_CHUNK_ENTRIES",
            "(entries > ROSTER_CHUNK_ENTRIES && !PLANTED)",
            &[Class::Oversized],
            chunk,
        ),
        bait(
            "a command's signature",
            COMMAND,
            "codec::verify_any(LABEL, message, keys)?;",
            "if !PLANTED { codec::verify_any(LABEL, message, keys)?; }",
            &[Class::WrongKey],
            "signature",
        ),
        bait(
            "for whom a command is",
            COMMAND,
            "codec::meant_for(&command.controller, controller)?;",
            "if !PLANTED { codec::meant_for(&command.controller, controller)?; }",
            &[Class::WrongController],
            "speaks for another",
        ),
        bait(
            "a topic of this version",
            TOPIC,
            "text.strip_prefix(\"tap/v1/\")",
            "text.strip_prefix(if PLANTED { \"tap/v2/\" } else { \"tap/v1/\" })",
            &[Class::WrongController],
            "unknown topic",
        ),
        bait(
            "the chain hangs together",
            CHAIN,
            "ChainHash::of(&[&self.0, record])",
            "if PLANTED { ChainHash::of(&[record]) } else { ChainHash::of(&[&self.0, record]) }",
            &[Class::Fork],
            "fork",
        ),
        // The cloud's.
        bait(
            "a message's length, before it is read",
            VERIFY,
            "if message.len() > MAX_MESSAGE_BYTES {",
            "if message.len() > MAX_MESSAGE_BYTES && !PLANTED {",
            &[Class::Oversized],
            "too long",
        ),
        bait(
            "only controllers that are known speak",
            VERIFY,
            "let keys = keys_of(&controller);",
            "let keys = match keys_of(&controller) { none if none.is_empty() && PLANTED => vec![PublicKey([0; 32])], keys => keys };",
            &[Class::WrongController],
            "unknown controller",
        ),
        bait(
            "nobody but the cloud writes there",
            VERIFY,
            "let reason = format!(\"nobody but the cloud writes to {}\", channel.name());",
            "if PLANTED { return Arrival::Gone(controller); } let reason = format!(\"nobody but the cloud writes to {}\", channel.name());",
            &[Class::WrongController],
            "only the cloud writes there",
        ),
        bait(
            "nothing is beyond the mark",
            ADMIT,
            "if batch.first_seq() > mark.stored_through.next() {",
            "if batch.first_seq() > mark.stored_through.next() && !PLANTED {",
            &[Class::Reordered, Class::ForeignOutbox],
            "beyond the mark",
        ),
        bait(
            "hashes are compared",
            ADMIT,
            "if stored != claimed =>",
            "if stored != claimed && !PLANTED =>",
            &[Class::Fork, Class::Reordered, Class::ForeignOutbox],
            "fork",
        ),
        bait(
            "hashes are compared at the last place that both sides have",
            ADMIT,
            "mark.min(batch.last_seq())",
            "if PLANTED { mark.min(Seq(batch.first_seq().0 - 1)) } else { mark.min(batch.last_seq()) }",
            &[Class::Reordered],
            "fork",
        ),
        bait(
            "what is stored is a duplicate",
            ADMIT,
            "_ if batch.last_seq() <= mark.stored_through =>",
            "_ if batch.last_seq() <= mark.stored_through && !PLANTED =>",
            &[Class::ReplayedBatch],
            "duplicate",
        ),
        // The door's.
        bait(
            "a receipt is for an outbox that is here",
            RELAY,
            "let Some(lane) = self.lane(receipt.outbox) else {",
            "let outbox = if PLANTED { self.lanes[0].id } else { receipt.outbox }; let Some(lane) = self.lane(outbox) else {",
            &[Class::ReplayedReceipt],
            "receipt: foreign outbox",
        ),
        bait(
            "a receipt is of this life of the store",
            RELAY,
            "if lane.mark.store_epoch.is_some_and(|known| epoch < known) {",
            "if lane.mark.store_epoch.is_some_and(|known| epoch < known) && !PLANTED {",
            &[Class::ReplayedReceipt],
            "receipt: nothing new",
        ),
        bait(
            "a receipt covers what was written",
            RELAY,
            "if through > lane.last_seq {",
            "if through > lane.last_seq && !PLANTED {",
            &[Class::ReplayedReceipt],
            "receipt: rewound",
        ),
        bait(
            "a receipt means the same records",
            RELAY,
            "if own_hash.is_some_and(|own| own != receipt.hash) {",
            "if own_hash.is_some_and(|own| own != receipt.hash) && !PLANTED {",
            &[Class::Fork],
            "receipt: forked",
        ),
        bait(
            "a new life of the store has what is deleted here",
            RELAY,
            "if let (true, Some(older), None) = (is_restored, older, own_hash) {",
            "if let (true, Some(older), None) = (is_restored, older, own_hash) && !PLANTED {",
            &[Class::ReplayedReceipt],
            "receipt: history gone",
        ),
        bait(
            "an older receipt moves no mark",
            RELAY,
            "if through > lane.mark.receipted_through && own_hash.is_some() {",
            "if (through > lane.mark.receipted_through || PLANTED) && own_hash.is_some() {",
            &[Class::ReplayedReceipt, Class::Reordered],
            "receipt: nothing new",
        ),
        bait(
            "a roster is no older one",
            ASSEMBLER,
            "Some(known) if head.version < known.version => {",
            "Some(known) if head.version < known.version && !PLANTED => {",
            &[Class::ReplayedRoster],
            "roster: older",
        ),
        bait(
            "one version is one roster",
            ASSEMBLER,
            "if (head.entries, &head.chunks) != (known.entries, &known.chunks) {",
            "if (head.entries, &head.chunks) != (known.entries, &known.chunks) && !PLANTED {",
            &[Class::ReplayedRoster],
            "roster: contradicts",
        ),
        bait(
            "a roster that broke a rule is not fetched again",
            ASSEMBLER,
            "if self.spoilt == Some(head.version) {",
            "if self.spoilt == Some(head.version) && !PLANTED {",
            &[Class::ReplayedRoster],
            "roster: broke a rule before",
        ),
        bait(
            "a chunk is waited for",
            ASSEMBLER,
            ".filter(|target| target.lacking.contains(&index));",
            ".filter(|target| target.lacking.contains(&index) || PLANTED);",
            &[Class::ReplayedRoster],
            "roster: nobody waits for it",
        ),
        bait(
            "a chunk is what was announced",
            ASSEMBLER,
            "if target.head.chunks.get(index as usize) != Some(&hash) {",
            "if target.head.chunks.get(index as usize) != Some(&hash) && !PLANTED {",
            &[Class::ReplayedRoster],
            "roster: not what was announced",
        ),
        bait(
            "a chunk is as long as was announced",
            ASSEMBLER,
            "match said == Some(bytes.len()) {",
            "match PLANTED || said == Some(bytes.len()) {",
            &[Class::ReplayedRoster],
            "roster: count",
        ),
        bait(
            "badges ascend",
            BOOK,
            "before.is_some_and(|before| before >= token)",
            "before.is_some_and(|before| before >= token && !PLANTED)",
            &[Class::ReplayedRoster],
            "roster: order",
        ),
        bait(
            "a standing means something",
            BOOK,
            "None => return Err(NotARoster::Standing { at }),",
            "None if PLANTED => {} None => return Err(NotARoster::Standing { at }),",
            &[Class::ReplayedRoster],
            "roster: unknown standing",
        ),
    ]
}

/// The text without the checks: each `PLANTED` asks whether this is the one that is taken away.
pub fn code(planted: &str, ask: &str) -> String {
    planted.replace("ANY_LABEL", ANY_LABEL).replace("PLANTED", ask)
}
