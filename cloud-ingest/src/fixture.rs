//! For tests: a small world of one site, some doors and their taps, put into a store the way it happens in life.

use tap_protocol::badge::{Credential, SealedBadge, Technology, TokenKey, TokenKeyId};
use tap_protocol::chain::ChainHash;
use tap_protocol::envelope::{Batch, UnverifiedBatch, VerifiedBatch};
use tap_protocol::hello::{Hello, OutboxHello};
use tap_protocol::ids::{BootId, ControllerId, OutboxId, Seq};
use tap_protocol::keys::SigningKey;
use tap_protocol::record::{Body, ClockState, PreviousStop, Record, Stamp};
use tap_protocol::tap::{Direction, Tap, Verdict};

use crate::delivery::breaker::{Breaker, Sign};
use crate::delivery::rules::Rules;
use crate::delivery::ticks::Ticker;
use crate::destination::http_json;
use crate::destination::settings::DestinationSettings;
use crate::event_store::sqlite::SqliteStore;
use crate::event_store::{
    AttemptEnd, Binding, Claimed, Controller, Deed, DestinationState, Directory, Ended, EventStore,
    NewDestination, Next, PersonId, RecordKey, Rendered, Site, Turn, UtcMs,
};
use crate::keyring::live::LiveKeys;
use crate::keyring::{self, Keys};

/// 2026-03-02 07:00:00 UTC: when the door was started.
pub const START: UtcMs = UtcMs(1_772_434_800_000);

/// The one destination.
pub const LEGACY: &str = "legacy";

/// So many badges are bound: badge `n` to person `P-n`.
pub const PERSONS: u8 = 20;

/// A controller as it would be, with one outbox.
pub struct Door {
    pub id: ControllerId,
    pub key: SigningKey,
    pub outbox: OutboxId,
    records: Vec<Vec<u8>>,
}

/// A store that knows the site, the doors `door-1` to `door-3`, the destination and the badges.
pub fn store() -> SqliteStore {
    let mut store = SqliteStore::in_memory(START);
    let site = Site { id: "hq".into(), label: "Headquarters".into(), zone: "Europe/Berlin".into() };
    store.put_site(&site).unwrap();
    for n in 1..=3 {
        let door = Door::new(n);
        let controller = Controller {
            id: door.id,
            label: format!("Door {n}"),
            site: "hq".into(),
            record_keys: vec![RecordKey::new(door.key.public())],
        };
        store.put_controller(&controller).unwrap();
    }
    add_destination(&mut store, LEGACY);
    let bindings: Vec<Binding> = (0..PERSONS)
        .map(|n| Binding::new(vec![token_key().seal(&badge(n))], PersonId(format!("P-{n}"))))
        .collect();
    store.bind_badges(&bindings, START).unwrap();
    store
}

/// Makes a destination known.
pub fn add_destination(store: &mut dyn EventStore, name: &str) {
    let settings = DestinationSettings::http_json("http://127.0.0.1:9/").unwrap();
    let new = NewDestination::from_now(name, &serde_json::to_string(&settings).unwrap());
    assert!(store.add_destination(&new, &Deed::by_itself(START, "add", name)).unwrap());
}

/// A destination that nothing keeps back.
pub fn destination_state(name: &str) -> DestinationState {
    DestinationState {
        destination: name.into(),
        settings: "{}".into(),
        version: 1,
        credentials_file: None,
        paused: None,
        held_until: None,
        held_why: None,
        breaker: Breaker::default(),
        to_make: 0,
        in_order_of_time: false,
        to_order: 0,
        oldest_open_received: None,
    }
}

/// The keys of a cloud with a root, as from a folder.
pub fn keys() -> LiveKeys {
    let dir = keyring::tests::folder();
    LiveKeys::fixed(Keys::load(dir.path()).unwrap())
}

pub fn token_key() -> TokenKey {
    TokenKey::new(TokenKeyId(1), [5; 32])
}

/// Badge `n`, as a door seals it.
pub fn sealed(n: u8) -> SealedBadge {
    token_key().seal(&badge(n))
}

/// Tells [`LEGACY`] all that is due, and gives how many taps that were.
pub fn send_all(store: &mut dyn EventStore) -> usize {
    let (ticker, mut ended, mut told) = (Ticker::new(1), Vec::new(), 0);
    loop {
        let turned = store.turn(&Turn {
            destination: LEGACY,
            version: 1,
            rules: &Rules::default(),
            now: UtcMs(START.0 + 60_000),
            vouch: &|| ticker.vouch(1),
            ended: &ended,
            under_way: &[],
            room: 8,
            render: &|event, tap| Rendered::Body(http_json::render(event, tap)),
        });
        let claimed = turned.unwrap().claimed;
        if claimed.is_empty() {
            return told;
        }
        told += claimed.len();
        let end = |one: &Claimed| Ended {
            claim: one.claim.clone(),
            end: AttemptEnd {
                finished: START,
                outcome: "delivered",
                status: Some(200),
                answer: String::new(),
            },
            next: Next::Delivered,
            hold: None,
            sign: Some(Sign::Answered),
        };
        ended = claimed.iter().map(end).collect();
    }
}

fn badge(n: u8) -> Credential {
    Credential::from_bytes(Technology::Hf, &[4, n, 0, 1]).unwrap()
}

impl Door {
    /// Door `n`, just started.
    pub fn new(n: u8) -> Door {
        let mut door = Door {
            id: format!("door-{n}").parse().unwrap(),
            key: SigningKey::from_seed(&[n; 32]),
            outbox: OutboxId([n; 16]),
            records: Vec::new(),
        };
        door.record(Body::AgentStarted {
            boot_id: BootId([n; 16]),
            version: "0.1.0".into(),
            previous_stop: PreviousStop::None,
        });
        door
    }

    /// Somebody taps.
    pub fn tap(&mut self, badge_no: u8) -> &mut Door {
        self.record(Body::Tap(Tap {
            reader: "in".parse().unwrap(),
            badge: token_key().seal(&badge(badge_no)),
            direction: Direction::In,
            verdict: Verdict::Known,
        }));
        self
    }

    fn record(&mut self, body: Body) {
        let boottime_ms = 1_000 * (self.records.len() as u64 + 1);
        let at =
            Stamp { boot: 1, boottime_ms, wall_ms: START.0 + boottime_ms as i64, clock: ClockState::Synced };
        self.records.push(Record { at, body }.encode());
    }

    /// The signed message with records `from` to `to`.
    pub fn message(&self, from: usize, to: usize) -> Vec<u8> {
        let hash_before = self.records[..from - 1]
            .iter()
            .fold(ChainHash::start(self.outbox), |hash, record| hash.next(record));
        Batch {
            controller: self.id.clone(),
            outbox: self.outbox,
            first_seq: Seq(from as u64),
            hash_before,
            records: self.records[from - 1..to].to_vec(),
        }
        .sign(&self.key)
    }

    /// All its records, proved.
    pub fn batch(&self) -> VerifiedBatch {
        let message = self.message(1, self.records.len());
        UnverifiedBatch::parse(&message).unwrap().verify(&self.id, &self.key.public()).unwrap()
    }

    /// The signed hello.
    pub fn hello(&self) -> Vec<u8> {
        Hello {
            controller: self.id.clone(),
            boot_id: BootId([7; 16]),
            boottime_ms: 123,
            wall_ms: START.0,
            clock: ClockState::Synced,
            agent_version: "0.1.0".into(),
            record_version: 1,
            roster_version: None,
            outboxes: vec![OutboxHello {
                outbox: self.outbox,
                last_seq: Seq(self.records.len() as u64),
                receipted_through: Seq(0),
                store_epoch: None,
                oldest_unreceipted_age_ms: Some(40),
            }],
            readers: vec![],
        }
        .sign(&self.key)
    }
}
