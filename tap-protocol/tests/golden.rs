//! Golden bytes: version 1 as it was frozen. `docs/protocol.md` shows these files; a controller in another language
//! can be checked against them. They never change: a difference here is an incompatible change of the protocol.

use std::path::PathBuf;

use data_encoding::HEXLOWER;
use tap_protocol::badge::{SealedBadge, Token, TokenKey, TokenKeyId};
use tap_protocol::chain::ChainHash;
use tap_protocol::command::{Command, Order};
use tap_protocol::envelope::{Batch, UnverifiedBatch};
use tap_protocol::export::{PROOF, PartKind, part};
use tap_protocol::hello::{Hello, OutboxHello, ReaderHello, ReaderKind, ReaderState};
use tap_protocol::ids::{BootId, ControllerId, OutboxId, Seq, StoreEpoch};
use tap_protocol::keys::SigningKey;
use tap_protocol::receipt::{Echo, Receipt};
use tap_protocol::record::{AnchorSource, Body, ClockState, LossReason, PreviousStop, Record, Stamp};
use tap_protocol::report::{Outcome, Report, What};
use tap_protocol::roster::{RosterChunk, RosterHead, RosterMessage, Standing, chunk_hash, entry};
use tap_protocol::tap::{Direction, Tap, Verdict};

const OUTBOX: OutboxId = OutboxId([0x0b; 16]);
const BOOT: BootId = BootId([0xb0; 16]);

fn controller() -> ControllerId {
    "hq-door-12".parse().unwrap()
}

/// The controller's record key; the cloud's receipt key has the seed `22…`.
fn record_key() -> SigningKey {
    SigningKey::from_seed(&[0x11; 32])
}

fn receipt_key() -> SigningKey {
    SigningKey::from_seed(&[0x22; 32])
}

/// The cloud's control key: signs rosters and commands.
fn control_key() -> SigningKey {
    SigningKey::from_seed(&[0x44; 32])
}

fn badge() -> SealedBadge {
    TokenKey::new(TokenKeyId(1), [0x33; 32]).seal(&"04A224B1C2D380".parse().unwrap())
}

fn at(boottime_ms: u64) -> Stamp {
    Stamp { boot: 1, boottime_ms, wall_ms: 1_795_248_000_000, clock: ClockState::Synced }
}

fn records() -> Vec<(&'static str, Record)> {
    let reader = || "in".parse().unwrap();
    let bodies = [
        (
            "record-agent-started",
            Body::AgentStarted {
                boot_id: BOOT,
                version: "0.1.0".into(),
                previous_stop: PreviousStop::Unclean,
            },
        ),
        (
            "record-tap",
            Body::Tap(Tap {
                reader: reader(),
                badge: badge(),
                direction: Direction::In,
                verdict: Verdict::NoRoster,
            }),
        ),
        ("record-repeats", Body::Repeats { seq: Seq(2), n: 3 }),
        (
            "record-clock-anchor-kernel",
            Body::ClockAnchor {
                source: AnchorSource::Kernel,
                earliest_boottime_ms: 60_000,
                latest_boottime_ms: 60_000,
                utc_ms: 1_795_248_000_000,
                uncertainty_ms: 20,
            },
        ),
        (
            "record-clock-anchor-step",
            Body::ClockAnchor {
                source: AnchorSource::Step { wall_before_ms: -1 },
                earliest_boottime_ms: 60_000,
                latest_boottime_ms: 60_001,
                utc_ms: 1_795_248_000_000,
                uncertainty_ms: 0,
            },
        ),
        (
            "record-clock-anchor-receipt",
            Body::ClockAnchor {
                source: AnchorSource::Receipt,
                earliest_boottime_ms: 60_000,
                latest_boottime_ms: 60_120,
                utc_ms: 1_795_248_000_000,
                uncertainty_ms: 0,
            },
        ),
        ("record-reader-up", Body::ReaderUp { reader: reader() }),
        ("record-reader-down", Body::ReaderDown { reader: reader(), why: "unplugged".into() }),
        ("record-buffer-high", Body::BufferHigh { used_bytes: 80, limit_bytes: 100 }),
        ("record-lost", Body::Lost { outbox: OUTBOX, from: Seq(4), to: Seq(6), why: LossReason::Damaged }),
        ("record-config-changed", Body::ConfigChanged { digest: [0xcc; 16] }),
        ("record-same-as", Body::SameAs { outbox: OUTBOX, seq: Seq(4) }),
    ];
    bodies
        .into_iter()
        .enumerate()
        .map(|(i, (name, body))| (name, Record { at: at(60_000 + i as u64), body }))
        .collect()
}

fn batch() -> Batch {
    Batch {
        controller: controller(),
        outbox: OUTBOX,
        first_seq: Seq(1),
        hash_before: ChainHash::start(OUTBOX),
        records: records().iter().map(|(_, record)| record.encode()).take(2).collect(),
    }
}

fn hello() -> Hello {
    Hello {
        controller: controller(),
        boot_id: BOOT,
        boottime_ms: 60_000,
        wall_ms: 1_795_248_000_000,
        clock: ClockState::Synced,
        agent_version: "0.1.0".into(),
        record_version: 1,
        roster_version: Some(7),
        outboxes: vec![OutboxHello {
            outbox: OUTBOX,
            last_seq: Seq(2),
            receipted_through: Seq(1),
            store_epoch: Some(StoreEpoch(1_795_000_000_000)),
            oldest_unreceipted_age_ms: Some(1_500),
        }],
        readers: vec![ReaderHello {
            reader: "in".parse().unwrap(),
            kind: ReaderKind::Pcsc,
            state: ReaderState::Up,
        }],
    }
}

fn receipt() -> Receipt {
    Receipt {
        controller: controller(),
        store_epoch: StoreEpoch(1_795_000_000_000),
        outbox: OUTBOX,
        stored_through: Seq(2),
        hash: ChainHash([0xaa; 32]),
        resend: false,
        echo: Some(Echo { boot_id: BOOT, boottime_ms: 60_000 }),
        cloud_utc_ms: 1_795_248_000_040,
    }
}

/// The golden badge is known; another one was revoked.
fn roster_chunk() -> RosterChunk {
    let entries = [entry(badge().token, Standing::Known), entry(Token([0xcc; 16]), Standing::Revoked)];
    RosterChunk { version: 1_795_248_000_000, index: 0, bytes: entries.concat() }
}

fn roster_head() -> RosterHead {
    RosterHead {
        controller: controller(),
        version: 1_795_248_000_000,
        issued_utc_ms: 1_795_248_000_000,
        expires_utc_ms: 1_795_852_800_000,
        entries: 2,
        chunks: vec![chunk_hash(&roster_chunk().bytes)],
    }
}

fn roster_wanted() -> Report {
    let what = What::RosterWanted { version: 1_795_248_000_000, from: 0, count: 1 };
    Report { controller: controller(), boot_id: BOOT, boottime_ms: 60_000, what }
}

fn command() -> Command {
    Command {
        controller: controller(),
        number: 1_795_248_000_000,
        issued_utc_ms: 1_795_248_000_000,
        order: Order::StartNewOutbox { outbox: OUTBOX },
    }
}

fn report(what: What) -> Report {
    Report { controller: controller(), boot_id: BOOT, boottime_ms: 60_000, what }
}

fn reports() -> [(&'static str, Report); 2] {
    let done =
        What::CommandDone { number: 1_795_248_000_000, outcome: Outcome::Done, detail: "it is left".into() };
    let wanted = What::HashesWanted { outbox: OUTBOX, seqs: vec![Seq(1), Seq(300)] };
    [("report-command-done", report(done)), ("report-hashes-wanted", report(wanted))]
}

/// Compares with the frozen file; a file that is not there yet is written once, and must then be committed.
#[track_caller]
fn check(name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(format!("{name}.hex"));
    let Ok(frozen) = std::fs::read_to_string(&path) else {
        std::fs::write(&path, HEXLOWER.encode(bytes) + "\n").unwrap();
        panic!("{name}.hex was not there and has been written: look at it and commit it");
    };
    assert_eq!(HEXLOWER.encode(bytes), frozen.trim(), "{name} is not what version 1 is");
}

#[test]
fn every_record_is_as_frozen_and_reads_back() {
    for (name, record) in records() {
        check(name, &record.encode());
        assert_eq!(Record::decode(&record.encode()), Ok(record), "{name}");
    }
}

#[test]
fn the_batch_is_as_frozen_and_reads_back() {
    let message = batch().sign(&record_key());
    check("batch", &message);
    let read =
        UnverifiedBatch::parse(&message).unwrap().verify(&controller(), &record_key().public()).unwrap();
    assert!(read.records().map(|(_, record)| &record.bytes).eq(&batch().records));
}

#[test]
fn the_hello_is_as_frozen_and_reads_back() {
    let message = hello().sign(&record_key());
    check("hello", &message);
    assert_eq!(Hello::open(&message, &controller(), &record_key().public()), Ok(hello()));
}

#[test]
fn the_receipt_is_as_frozen_and_reads_back() {
    let message = receipt().sign(&receipt_key());
    check("receipt", &message);
    assert_eq!(Receipt::open(&message, &controller(), &[receipt_key().public()]), Ok(receipt()));
}

/// The golden batch, and a receipt for exactly its records.
#[test]
fn the_proof_is_as_frozen() {
    let message = batch().sign(&record_key());
    let verified =
        UnverifiedBatch::parse(&message).unwrap().verify(&controller(), &record_key().public()).unwrap();
    let receipt = Receipt { hash: verified.hash_at(Seq(2)).unwrap(), echo: None, ..receipt() };
    assert_eq!(receipt.stored_through, Seq(2));
    let proof = [
        PROOF.to_vec(),
        part(PartKind::Batch, &message),
        part(PartKind::Receipt, &receipt.sign(&receipt_key())),
    ];
    check("proof", &proof.concat());
}

#[test]
fn the_rosters_messages_are_as_frozen_and_read_back() {
    for (name, sent) in [
        ("roster-head", RosterMessage::Head(roster_head())),
        ("roster-chunk", RosterMessage::Chunk(roster_chunk())),
    ] {
        let message = sent.sign(&control_key());
        check(name, &message);
        assert_eq!(RosterMessage::open(&message, &controller(), &[control_key().public()]), Ok(sent));
        assert!(RosterMessage::open(&message, &controller(), &[receipt_key().public()]).is_err());
    }
    let message = roster_wanted().sign(&record_key());
    check("report-roster-wanted", &message);
    assert_eq!(Report::open(&message, &controller(), &record_key().public()), Ok(roster_wanted()));
}

#[test]
fn the_command_is_as_frozen_and_reads_back() {
    let message = command().sign(&control_key());
    check("command", &message);
    assert_eq!(Command::open(&message, &controller(), &[control_key().public()]), Ok(command()));
    assert!(Command::open(&message, &controller(), &[receipt_key().public()]).is_err());
}

#[test]
fn every_report_is_as_frozen_and_reads_back() {
    for (name, report) in reports() {
        let message = report.sign(&record_key());
        check(name, &message);
        assert_eq!(Report::open(&message, &controller(), &record_key().public()), Ok(report));
        assert!(Report::open(&message, &controller(), &control_key().public()).is_err());
    }
}

#[test]
fn hellos_and_receipts_are_refused_under_another_key_name_or_with_a_changed_bit() {
    let elsewhere: ControllerId = "hq-door-13".parse().unwrap();
    let (hello, receipt) = (hello().sign(&record_key()), receipt().sign(&receipt_key()));
    assert!(Hello::open(&hello, &controller(), &receipt_key().public()).is_err());
    assert!(Hello::open(&hello, &elsewhere, &record_key().public()).is_err());
    assert!(Receipt::open(&receipt, &controller(), &[record_key().public()]).is_err());
    assert!(Receipt::open(&receipt, &elsewhere, &[receipt_key().public()]).is_err());
    for bit in 0..receipt.len() * 8 {
        let mut changed = receipt.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(Receipt::open(&changed, &controller(), &[receipt_key().public()]).is_err(), "bit {bit}");
    }
}

#[test]
fn a_tap_is_small_enough_for_64_bytes_on_the_wire() {
    let (_, tap) = &records()[1];
    assert!(tap.encode().len() <= 56, "{} bytes", tap.encode().len());
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let with_version = [&[1], bytes.as_slice()].concat();
            for bytes in [&bytes, &with_version] {
                let _ = Record::decode(bytes);
                let _ = Hello::open(bytes, &controller(), &record_key().public());
                let _ = Receipt::open(bytes, &controller(), &[receipt_key().public()]);
                if let Ok(batch) = UnverifiedBatch::parse(bytes) {
                    prop_assert!(batch.verify(&controller(), &record_key().public()).is_err());
                }
            }
        }

        #[test]
        fn a_changed_record_never_reads_back_as_the_same(index in 0usize..11, at in 0usize..40, flip in 1u8..) {
            let (_, record) = &records()[index];
            let mut bytes = record.encode();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            prop_assert_ne!(Record::decode(&bytes), Ok(record.clone()));
        }
    }
}
