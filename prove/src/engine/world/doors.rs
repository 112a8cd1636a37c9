//! One door, and a store that knows it: taps as they come in life, signed and chained.

use cloud_ingest::destination::settings::DestinationSettings;
use cloud_ingest::event_store::sqlite::SqliteStore;
use cloud_ingest::event_store::{
    Binding, Controller, Deed, Deliveries, EventStore, NewDestination, PersonId, RecordKey, Site, UtcMs,
};
use tap_protocol::badge::{Credential, Technology, TokenKey, TokenKeyId};
use tap_protocol::chain::ChainHash;
use tap_protocol::envelope::{Batch, UnverifiedBatch};
use tap_protocol::ids::{BootId, ControllerId, EventId, OutboxId, Seq};
use tap_protocol::keys::SigningKey;
use tap_protocol::record::{Body, ClockState, PreviousStop, Record, Stamp};
use tap_protocol::tap::{Direction, Tap, Verdict};

use super::super::day::PERSONS;

/// The one destination.
pub const LEGACY: &str = "legacy";

/// When the day begins: 2026-03-02 07:00:00 UTC.
pub const START_MS: i64 = 1_772_434_800_000;

const OUTBOX: OutboxId = OutboxId([1; 16]);

/// The door.
#[derive(Debug)]
pub struct Door {
    id: ControllerId,
    key: SigningKey,
    next: Seq,
    hash: ChainHash,
}

/// A store with the door and the destination.
pub fn store(settings: &DestinationSettings) -> SqliteStore {
    let now = UtcMs(START_MS);
    let mut store = SqliteStore::in_memory(now);
    let site = Site { id: "hq".into(), label: "Headquarters".into(), zone: "Europe/Berlin".into() };
    store.put_site(&site).expect("memory takes it");
    let door = Door::before_the_first();
    let record_keys = vec![RecordKey::new(door.key.public())];
    let controller = Controller { id: door.id, label: "Door".into(), site: site.id, record_keys };
    store.put_controller(&controller).expect("memory takes it");
    let settings = serde_json::to_string(settings).expect("settings are JSON");
    let new = NewDestination::from_now(LEGACY, &settings);
    let added = store.add_destination(&new, &Deed::by_itself(now, "add", LEGACY));
    assert!(added.expect("memory takes it"));
    store
}

/// The badge is its person's.
pub fn bind(store: &mut dyn EventStore, badge: u8, now: UtcMs) {
    let person = PersonId(format!("P-{}", person_of(badge)));
    let binding = Binding::new(vec![token_key().seal(&credential(badge))], person);
    store.bind_badges(&[binding], now).expect("memory takes it");
}

/// Whose badge it is, or will be.
pub fn person_of(badge: u8) -> u8 {
    badge % PERSONS
}

fn token_key() -> TokenKey {
    TokenKey::new(TokenKeyId(1), [5; 32])
}

fn credential(badge: u8) -> Credential {
    Credential::from_bytes(Technology::Hf, &[4, badge, 0, 1]).expect("four bytes are a number")
}

impl Door {
    /// Before its first record.
    pub fn before_the_first() -> Door {
        let key = SigningKey::from_seed(&[1; 32]);
        Door {
            id: "door-1".parse().expect("a valid name"),
            key,
            next: Seq(1),
            hash: ChainHash::start(OUTBOX),
        }
    }

    /// These badges are shown, and what is recorded is stored. Gives the taps with their positions.
    pub fn taps(&mut self, store: &mut dyn EventStore, badges: &[u8], now: UtcMs) -> Vec<(EventId, u64)> {
        let boottime_ms = u64::try_from(now.0 - START_MS).expect("the day has begun") + 60_000;
        let at = Stamp { boot: 1, boottime_ms, wall_ms: now.0, clock: ClockState::Synced };
        let mut bodies: Vec<Body> = badges
            .iter()
            .map(|badge| {
                Body::Tap(Tap {
                    reader: "in".parse().expect("a valid name"),
                    badge: token_key().seal(&credential(*badge)),
                    direction: Direction::In,
                    verdict: Verdict::Known,
                })
            })
            .collect();
        let is_first = self.next == Seq(1);
        if is_first {
            let boot_id = BootId([1; 16]);
            let started =
                Body::AgentStarted { boot_id, version: "0.1.0".into(), previous_stop: PreviousStop::None };
            bodies.insert(0, started);
        }
        let records: Vec<Vec<u8>> = bodies.into_iter().map(|body| Record { at, body }.encode()).collect();
        let (first, hash_before) = (self.next, self.hash);
        self.hash = records.iter().fold(self.hash, |hash, record| hash.next(record));
        self.next = self.next.plus(records.len() as u64);
        let count = records.len() as u64;
        let batch =
            Batch { controller: self.id.clone(), outbox: OUTBOX, first_seq: first, hash_before, records };
        let message = batch.sign(&self.key);
        let batch = UnverifiedBatch::parse(&message).expect("we made it");
        let batch = batch.verify(&self.id, &self.key.public()).expect("we signed it");
        store.append(&[batch], now).expect("memory takes it");
        // The only outbox: positions are its numbers.
        let skipped = u64::from(is_first);
        (first.0 + skipped..first.0 + count)
            .map(|seq| (EventId::new(&self.id, OUTBOX, Seq(seq)), seq))
            .collect()
    }
}
