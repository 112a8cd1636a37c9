//! Doors without processes: signed and proved batches of taps, as intake hands them to a store.

use cloud_ingest::event_store::{
    Binding, Controller, EventStore, PersonId, RecordKey, Site, StoreError, UtcMs,
};
use tap_protocol::{
    badge::{Credential, SealedBadge, Technology, TokenKey, TokenKeyId},
    chain::ChainHash,
    envelope::{Batch, UnverifiedBatch, VerifiedBatch},
    ids::{BootId, ControllerId, OutboxId, Seq},
    keys::SigningKey,
    record::{Body, ClockState, PreviousStop, Record, Stamp},
    tap::{Direction, Tap, Verdict},
};

/// When the doors were started: some day.
const START: UtcMs = UtcMs(1_795_000_000_000);

/// Doors, and the badges of those who use them.
pub(super) struct Doors {
    doors: Vec<Door>,
    badges: Vec<SealedBadge>,
    next_badge: usize,
}

struct Door {
    id: ControllerId,
    key: SigningKey,
    outbox: OutboxId,
    last_seq: u64,
    hash: ChainHash,
}

impl Doors {
    pub(super) fn new(doors: u8, persons: u32) -> Doors {
        let key = TokenKey::new(TokenKeyId(1), [5; 32]);
        let badge = |n: u32| {
            let uid = [&[4][..], &n.to_be_bytes(), &[0, 0]].concat();
            key.seal(&Credential::from_bytes(Technology::Hf, &uid).expect("seven bytes are a card's number"))
        };
        let door = |n: u8| {
            let outbox = OutboxId([n; 16]);
            Door {
                id: format!("door-{n}").parse().expect("it is a slug"),
                key: SigningKey::from_seed(&[n; 32]),
                outbox,
                last_seq: 0,
                hash: ChainHash::start(outbox),
            }
        };
        Doors { doors: (1..=doors).map(door).collect(), badges: (0..persons).map(badge).collect(), next_badge: 0 }
    }

    /// Makes everything known to a store that is to be known before the first tap.
    pub(super) fn introduce(&self, store: &mut dyn EventStore, destination: &str) -> Result<(), StoreError> {
        let site = Site { id: "hq".into(), label: "Headquarters".into(), zone: "Europe/Berlin".into() };
        store.put_site(&site)?;
        for door in &self.doors {
            store.put_controller(&Controller {
                id: door.id.clone(),
                label: door.id.to_string(),
                site: site.id.clone(),
                record_keys: vec![RecordKey::new(door.key.public())],
            })?;
        }
        store.put_destination(destination)?;
        for (first, badges) in self.badges.chunks(1_000).enumerate() {
            let binding = |(n, seal): (usize, &SealedBadge)| Binding {
                seals: vec![seal.clone()],
                person: PersonId(format!("E{:06}", first * 1_000 + n)),
            };
            let bindings: Vec<_> = badges.iter().enumerate().map(binding).collect();
            store.bind_badges(&bindings, START)?;
        }
        Ok(())
    }

    /// The next group as the worker would store it: so many messages, by the doors in turn, of so many records each.
    pub(super) fn group(&mut self, messages: usize, records: usize) -> Vec<VerifiedBatch> {
        (0..messages).map(|n| self.batch(n % self.doors.len(), records)).collect()
    }

    fn batch(&mut self, door: usize, records: usize) -> VerifiedBatch {
        let Doors { doors, badges, next_badge } = self;
        let door = &mut doors[door];
        let (first_seq, hash_before) = (Seq(door.last_seq + 1), door.hash);
        let records: Vec<_> = (0..records)
            .map(|_| {
                *next_badge = (*next_badge + 1) % badges.len();
                let record = door.record(&badges[*next_badge]);
                door.hash = door.hash.next(&record);
                record
            })
            .collect();
        let (controller, outbox) = (door.id.clone(), door.outbox);
        let message = Batch { controller, outbox, first_seq, hash_before, records }.sign(&door.key);
        let batch = UnverifiedBatch::parse(&message).expect("it was made just now");
        batch.verify(&door.id, &door.key.public()).expect("it was signed just now")
    }
}

impl Door {
    /// The agent's start, then one tap a second.
    fn record(&mut self, badge: &SealedBadge) -> Vec<u8> {
        let boottime_ms = 1_000 * self.last_seq;
        let body = match self.last_seq {
            0 => Body::AgentStarted {
                boot_id: BootId(self.outbox.0),
                version: "bench".into(),
                previous_stop: PreviousStop::Clean,
            },
            _ => Body::Tap(Tap {
                reader: "entrance".parse().expect("it is a slug"),
                badge: badge.clone(),
                direction: Direction::In,
                verdict: Verdict::Known,
            }),
        };
        self.last_seq += 1;
        let wall_ms = START.0 + i64::try_from(boottime_ms).expect("a bench ends before the year 292 million");
        Record { at: Stamp { boot: 1, boottime_ms, wall_ms, clock: ClockState::Synced }, body }.encode()
    }
}
