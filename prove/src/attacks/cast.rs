//! Who takes part: enrolled controllers, a cloud that is replacing its keys, and what they say when they are honest.

use power_loss_vfs::Dice;
use serde::{Serialize, Serializer};
use tap_protocol::badge::{SealedBadge, Token, TokenKeyId};
use tap_protocol::chain::ChainHash;
use tap_protocol::codec::{VERSION_1, encode};
use tap_protocol::command::{Command, Order};
use tap_protocol::hello::{Hello, OutboxHello, ReaderHello, ReaderKind, ReaderState};
use tap_protocol::ids::{BootId, ControllerId, OutboxId, Seq, StoreEpoch};
use tap_protocol::keys::{PublicKey, SigningKey};
use tap_protocol::receipt::{Echo, Receipt};
use tap_protocol::record::{Body, ClockState, PreviousStop, Record, Stamp};
use tap_protocol::report::{Outcome, Report, What};
use tap_protocol::roster::{self, RosterChunk, RosterHead, RosterMessage, Standing};
use tap_protocol::tap::{Direction, Tap, Verdict};
use tap_protocol::topic::Channel;

use crate::forging::label;

/// Enrolled controllers.
pub const DOORS: u64 = 5;

/// The store's epoch, in receipts.
pub const EPOCH: StoreEpoch = StoreEpoch(1_795_000_000_000);

/// Everybody's keys.
pub struct Cast {
    /// Each with its newest key, the one before, which is good for some days more, and one that is not any more.
    doors: Vec<(ControllerId, [SigningKey; 3])>,
    /// The active one, the next one, and one that was retired.
    receipt: [SigningKey; 3],
    control: [SigningKey; 3],
}

impl Cast {
    /// The same for every case.
    pub fn new() -> Cast {
        let key = |kind: u8, n: u8| SigningKey::from_seed(&[kind.wrapping_mul(16) + n; 32]);
        let of_door = |n: u64| [0, 1, 2].map(|which| key(4 + which, n as u8));
        let doors = (0..=DOORS).map(|n| (door_id(n), of_door(n))).collect();
        Cast { doors, receipt: [0, 1, 2].map(|n| key(2, n)), control: [0, 1, 2].map(|n| key(3, n)) }
    }

    /// The enrolled ones.
    pub fn enrolled(&self) -> impl Iterator<Item = (ControllerId, Vec<PublicKey>)> + '_ {
        let good = |keys: &[SigningKey; 3]| keys[..2].iter().map(SigningKey::public).collect();
        self.doors[..DOORS as usize].iter().map(move |(id, keys)| (id.clone(), good(keys)))
    }

    /// A controller's name and newest record key; `DOORS` is one that nobody enrolled.
    pub fn door(&self, n: u64) -> (&ControllerId, &SigningKey) {
        let (id, [newest, ..]) = &self.doors[n as usize];
        (id, newest)
    }

    /// Whose receipts doors believe.
    pub fn receipt_keys(&self) -> Vec<PublicKey> {
        self.receipt[..2].iter().map(SigningKey::public).collect()
    }

    /// Whose rosters and commands doors believe.
    pub fn control_keys(&self) -> Vec<PublicKey> {
        self.control[..2].iter().map(SigningKey::public).collect()
    }

    /// A key that may sign `kind` for door `n`.
    pub fn right_key(&self, kind: Kind, n: u64, dice: &mut Dice) -> &SigningKey {
        match kind {
            Kind::Batch | Kind::Hello | Kind::Report => &self.doors[n as usize].1[dice.below(2) as usize],
            Kind::Receipt => &self.receipt[dice.below(2) as usize],
            Kind::RosterHead | Kind::RosterChunk | Kind::Command => &self.control[dice.below(2) as usize],
        }
    }

    /// Somebody's real key that may not sign `kind` for door `n`.
    pub fn wrong_key(&self, kind: Kind, n: u64, dice: &mut Dice) -> &SigningKey {
        let other_door = self.door((n + 1 + dice.below(DOORS)) % (DOORS + 1)).1;
        match (kind, dice.below(5)) {
            (_, 0) => other_door,
            (Kind::Batch | Kind::Hello | Kind::Report, 4) => &self.doors[n as usize].1[2],
            (Kind::Batch | Kind::Hello | Kind::Report, 1) => &self.receipt[0],
            (Kind::Batch | Kind::Hello | Kind::Report, 2) => &self.control[0],
            (Kind::Batch | Kind::Hello | Kind::Report, _) => other_door,
            (Kind::Receipt, 1) => &self.receipt[2],
            (Kind::Receipt, 2) => &self.control[0],
            (_, 1) => &self.control[2],
            (_, 2) => &self.receipt[0],
            _ => self.door(n).1,
        }
    }
}

impl Default for Cast {
    fn default() -> Cast {
        Cast::new()
    }
}

fn door_id(n: u64) -> ControllerId {
    format!("hq-door-{n}").parse().expect("a slug")
}

/// What can be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Records.
    Batch,
    /// What a controller says of itself.
    Hello,
    /// What it asks for.
    Report,
    /// What the cloud has stored.
    Receipt,
    /// That there is a roster.
    RosterHead,
    /// A part of it.
    RosterChunk,
    /// What the cloud asks for.
    Command,
}

impl Kind {
    /// All.
    pub const ALL: [Kind; 7] = [
        Kind::Batch,
        Kind::Hello,
        Kind::Report,
        Kind::Receipt,
        Kind::RosterHead,
        Kind::RosterChunk,
        Kind::Command,
    ];

    /// What its signature begins with.
    pub fn label(self) -> &'static [u8] {
        match self {
            Kind::Batch => label::BATCH,
            Kind::Hello => label::HELLO,
            Kind::Report => label::REPORT,
            Kind::Receipt => label::RECEIPT,
            Kind::RosterHead | Kind::RosterChunk => label::ROSTER,
            Kind::Command => label::COMMAND,
        }
    }

    /// Where it travels.
    pub fn channel(self) -> Channel {
        match self {
            Kind::Batch => Channel::Records,
            Kind::Hello => Channel::Hello,
            Kind::Report => Channel::Report,
            Kind::Receipt => Channel::Receipt,
            Kind::RosterHead | Kind::RosterChunk => Channel::Roster,
            Kind::Command => Channel::Command,
        }
    }

    /// Whether controllers say it; otherwise the cloud does.
    pub fn is_upward(self) -> bool {
        matches!(self, Kind::Batch | Kind::Hello | Kind::Report)
    }
}

/// An outbox with its records, in order from 1.
#[derive(Debug, Clone)]
pub struct History {
    /// Which.
    pub outbox: OutboxId,
    /// `bytes(1)`, `bytes(2)` …
    pub records: Vec<Vec<u8>>,
}

impl History {
    /// A new outbox with so many records, of all kinds that there are in life.
    pub fn new(records: usize, dice: &mut Dice) -> History {
        let mut history = History { outbox: OutboxId(sixteen(dice)), records: Vec::new() };
        for n in 0..records {
            history.records.push(record(n as u64, dice));
        }
        history
    }

    /// `h(seq)`.
    pub fn hash(&self, seq: usize) -> ChainHash {
        self.records[..seq].iter().fold(ChainHash::start(self.outbox), |hash, record| hash.next(record))
    }

    /// `h(0)`, `h(1)` …
    pub fn hashes(&self) -> Vec<ChainHash> {
        let mut hashes = vec![ChainHash::start(self.outbox)];
        for record in &self.records {
            hashes.push(hashes[hashes.len() - 1].next(record));
        }
        hashes
    }

    /// Records `from ..= to` as `controller` sends them.
    pub fn batch(&self, controller: &ControllerId, from: usize, to: usize) -> Wire {
        Wire {
            controller: controller.clone(),
            outbox: self.outbox,
            first_seq: Seq(from as u64),
            hash_before: self.hash(from - 1),
            records: self.records[from - 1..to].iter().map(|bytes| Bytes(bytes.clone())).collect(),
        }
    }
}

/// A batch on the wire, without the rules that [`tap_protocol::envelope::Batch`] insists on.
#[derive(Debug, Clone, Serialize)]
pub struct Wire {
    /// Whose.
    pub controller: ControllerId,
    /// From which outbox.
    pub outbox: OutboxId,
    /// The first record's number.
    pub first_seq: Seq,
    /// `h(first_seq − 1)`, it says.
    pub hash_before: ChainHash,
    /// The records.
    pub records: Vec<Bytes>,
}

/// A length and that many bytes.
#[derive(Debug, Clone)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

/// An honest body of `kind` in `controller`'s name, version byte included, signature not. Batches and receipts speak of
/// `history`, which is stored through `stored`.
pub fn body(
    kind: Kind,
    controller: &ControllerId,
    history: &History,
    stored: usize,
    dice: &mut Dice,
) -> Vec<u8> {
    let last = history.records.len();
    match kind {
        Kind::Batch => encode(VERSION_1, &history.batch(controller, stored + 1, last)),
        Kind::Hello => encode(VERSION_1, &hello(controller, history, dice)),
        Kind::Report => encode(VERSION_1, &report(controller, history, dice)),
        Kind::Receipt => encode(VERSION_1, &receipt(controller, history, last, dice)),
        Kind::RosterHead => {
            let entries = dice.below(6_000) as u32;
            let chunks = (entries as usize).div_ceil(tap_protocol::limits::ROSTER_CHUNK_ENTRIES);
            encode(VERSION_1, &head(controller, entries, chunks, dice))
        }
        Kind::RosterChunk => {
            encode(VERSION_1, &RosterMessage::Chunk(chunk(1 + dice.below(40) as usize, dice)))
        }
        Kind::Command => encode(VERSION_1, &command(controller, history, dice)),
    }
}

/// What `controller` says of itself.
pub fn hello(controller: &ControllerId, history: &History, dice: &mut Dice) -> Hello {
    let state = [ReaderState::Starting, ReaderState::Up, ReaderState::Down][dice.below(3) as usize];
    Hello {
        controller: controller.clone(),
        boot_id: BootId(sixteen(dice)),
        boottime_ms: dice.below(1 << 40),
        wall_ms: dice.below(1 << 41) as i64,
        clock: ClockState::Synced,
        agent_version: "0.1.0".into(),
        record_version: VERSION_1,
        roster_version: dice.percent(50).then(|| dice.below(1 << 41)),
        outboxes: vec![OutboxHello {
            outbox: history.outbox,
            last_seq: Seq(history.records.len() as u64),
            receipted_through: Seq(0),
            store_epoch: dice.percent(50).then_some(EPOCH),
            oldest_unreceipted_age_ms: Some(dice.below(100_000)),
        }],
        readers: vec![ReaderHello { reader: "in".parse().expect("a name"), kind: ReaderKind::Pcsc, state }],
    }
}

/// What `controller` asks for or tells.
pub fn report(controller: &ControllerId, history: &History, dice: &mut Dice) -> Report {
    let what = match dice.below(3) {
        0 => What::RosterWanted { version: dice.below(1 << 41), from: dice.below(50) as u32, count: 16 },
        1 => {
            let outcome = [Outcome::Done, Outcome::Refused, Outcome::Failed][dice.below(3) as usize];
            let detail = "x".repeat(dice.below(200) as usize);
            What::CommandDone { number: dice.below(1 << 41), outcome, detail }
        }
        _ => {
            let seqs = (1..=1 + dice.below(32)).map(|n| Seq(n * 7)).collect();
            What::HashesWanted { outbox: history.outbox, seqs }
        }
    };
    let boottime_ms = dice.below(1 << 40);
    Report { controller: controller.clone(), boot_id: BootId(sixteen(dice)), boottime_ms, what }
}

/// That the cloud has the first `through` records.
pub fn receipt(controller: &ControllerId, history: &History, through: usize, dice: &mut Dice) -> Receipt {
    let echo = Echo { boot_id: BootId(sixteen(dice)), boottime_ms: dice.below(1 << 40) };
    Receipt {
        controller: controller.clone(),
        store_epoch: EPOCH,
        outbox: history.outbox,
        stored_through: Seq(through as u64),
        hash: history.hash(through),
        resend: dice.percent(20),
        echo: dice.percent(50).then_some(echo),
        cloud_utc_ms: dice.below(1 << 41) as i64,
    }
}

/// That there is a roster.
pub fn head(controller: &ControllerId, entries: u32, chunks: usize, dice: &mut Dice) -> RosterMessage {
    let mut hash = [0; 32];
    hash[..16].copy_from_slice(&sixteen(dice));
    RosterMessage::Head(RosterHead {
        controller: controller.clone(),
        version: dice.below(1 << 41),
        issued_utc_ms: dice.below(1 << 41) as i64,
        expires_utc_ms: dice.below(1 << 41) as i64,
        entries,
        chunks: vec![hash; chunks],
    })
}

/// A part of it.
pub fn chunk(entries: usize, dice: &mut Dice) -> RosterChunk {
    let mut tokens: Vec<_> = (0..entries).map(|_| sixteen(dice)).collect();
    tokens.sort_unstable();
    let bytes = tokens.into_iter().flat_map(|token| roster::entry(Token(token), Standing::Known)).collect();
    RosterChunk { version: dice.below(1 << 41), index: 0, bytes }
}

/// The announcement of a roster of these chunks.
pub fn announcing(controller: &ControllerId, chunks: &[&RosterChunk]) -> RosterHead {
    let bytes: usize = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
    RosterHead {
        controller: controller.clone(),
        version: chunks[0].version,
        issued_utc_ms: 1_000,
        expires_utc_ms: 2_000,
        entries: (bytes / roster::ENTRY_BYTES) as u32,
        chunks: chunks.iter().map(|chunk| roster::chunk_hash(&chunk.bytes)).collect(),
    }
}

/// What the cloud asks for.
pub fn command(controller: &ControllerId, history: &History, dice: &mut Dice) -> Command {
    let order = match dice.below(4) {
        0 => Order::StartNewOutbox { outbox: history.outbox },
        1 => Order::RunChecks,
        2 => Order::FetchKeys,
        _ => Order::Revoke,
    };
    let (number, issued_utc_ms) = (dice.below(1 << 41), dice.below(1 << 41) as i64);
    Command { controller: controller.clone(), number, issued_utc_ms, order }
}

/// A record, the `n`-th of its outbox from 0.
pub fn record(n: u64, dice: &mut Dice) -> Vec<u8> {
    let body = match (n, dice.below(8)) {
        (0, _) => Body::AgentStarted {
            boot_id: BootId(sixteen(dice)),
            version: "0.1.0".into(),
            previous_stop: PreviousStop::Clean,
        },
        (_, 0) => Body::ReaderUp { reader: "in".parse().expect("a name") },
        (_, 1) => Body::BufferHigh { used_bytes: dice.bits(), limit_bytes: dice.bits() },
        (_, 2) => Body::Repeats { seq: Seq(n), n: dice.below(100) as u32 },
        // A newer version: stored as it is, and counted in the mark.
        (_, 3) => return [&[2], &sixteen(dice)[..]].concat(),
        _ => Body::Tap(Tap {
            reader: "in".parse().expect("a name"),
            badge: SealedBadge {
                key_id: TokenKeyId(1),
                token: Token(sixteen(dice)),
                ciphertext: sixteen(dice)[..10].to_vec(),
            },
            direction: Direction::In,
            verdict: Verdict::Known,
        }),
    };
    let boottime_ms = 1_000 * n + dice.below(1_000);
    let wall_ms = 1_795_248_000_000 + boottime_ms as i64;
    Record { at: Stamp { boot: 1, boottime_ms, wall_ms, clock: ClockState::Synced }, body }.encode()
}

/// Sixteen random bytes.
pub fn sixteen(dice: &mut Dice) -> [u8; 16] {
    (u128::from(dice.bits()) << 64 | u128::from(dice.bits())).to_be_bytes()
}
