//! Every bound of protocol version 1, with its reason. A change here is a change of the protocol.

/// A controller id is one MQTT topic level and a certificate CN (X.520 allows 64).
pub const MAX_CONTROLLER_ID_BYTES: usize = 63;

/// A reader name travels in every tap, so it is short.
pub const MAX_READER_NAME_BYTES: usize = 16;

/// The longest credential that any reader profile in the field sends is a 1,024-bit PIV number.
pub const MAX_CREDENTIAL_BITS: u16 = 1024;

/// A record is a few dozen bytes; a tombstone's or a version's text may be longer, never this long.
pub const MAX_RECORD_BYTES: usize = 1024;

/// Records in one batch. 256 taps make about 13 KiB, so one signature costs each tap a quarter of a byte.
pub const MAX_BATCH_RECORDS: usize = 256;

/// The records' share of a batch, so that a packet stays far below every broker's limit.
pub const MAX_BATCH_RECORD_BYTES: usize = 32 * 1024;

/// A whole message on the wire: what either side accepts before it looks inside.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// Batches that may be on their way without a receipt: enough to fill a slow link, few enough that a broker with
/// default limits drops none of them.
pub const MAX_UNRECEIPTED_BATCHES: usize = 32;

/// Without receipt progress for this long (boottime), sending resumes from the mark.
pub const RESEND_AFTER_MS: u64 = 30_000;

/// A connected controller says hello this often (boottime).
pub const HELLO_EVERY_MS: u64 = 60_000;

/// Outboxes that one hello may name: the newest and those still being drained.
pub const MAX_HELLO_OUTBOXES: usize = 16;

/// Readers that one controller may have.
pub const MAX_READERS: usize = 16;

/// A receipt's echo wider than this is kept but not used to repair time.
pub const MAX_ANCHOR_WIDTH_MS: u64 = 2_000;

/// The worst drift that is assumed of a controller's oscillator, in parts per million (a Pi: 10 to 100).
pub const MAX_DRIFT_PPM: u64 = 100;

/// A wall clock that the kernel vouches for is believed unless receipts say that it is off by more than this. The kernel
/// vouches for hours after the last word of an NTP server, which is seconds of drift; a wrong NTP server is minutes.
pub const MAX_VOUCHED_ERROR_MS: u64 = 10_000;

/// So many anchors on each side of a record say when it was: the nearest know best, and one that is wrong does not spoil
/// a whole boot.
pub const NEAREST_ANCHORS: usize = 8;

/// Short texts inside messages: versions, reasons.
pub const MAX_TEXT_BYTES: usize = 64;

/// Entries in one chunk of a roster: 32,300 bytes, so that a chunk stays far below every broker's limit.
pub const ROSTER_CHUNK_ENTRIES: usize = 1_900;

/// Chunks in one roster: more than a million badges, whose hashes still fit one message.
pub const MAX_ROSTER_CHUNKS: usize = 600;

/// Hashes that one report may ask for: two rounds find one record in a thousand, four in a million.
pub const MAX_PROBED_HASHES: usize = 32;

/// What a controller tells of a command: what its checks say fits.
pub const MAX_REPORT_TEXT_BYTES: usize = 4_096;

const _: () =
    assert!(MAX_ROSTER_CHUNKS * 32 + 1024 <= MAX_MESSAGE_BYTES, "the longest head must fit a message");
const _: () =
    assert!(ROSTER_CHUNK_ENTRIES * 17 + 1024 <= MAX_MESSAGE_BYTES, "a full chunk must fit a message");
const _: () = assert!(MAX_BATCH_RECORD_BYTES + 1024 <= MAX_MESSAGE_BYTES, "a full batch must fit a message");
const _: () = assert!(MAX_RECORD_BYTES <= MAX_BATCH_RECORD_BYTES, "every record must fit some batch");
