//! *Last Sync of Checkin* as the service itself moves it: the real dispatchers and their store, against a Frappe site that marks
//! people absent for days that it takes for complete.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use cloud_ingest::clock::{Clock, Monotonic};
use cloud_ingest::delivery::supervise::{self, Supervisor};
use cloud_ingest::destination::guard::Guard;
use cloud_ingest::destination::open::AnyDestination;
use cloud_ingest::destination::settings::DestinationSettings;
use cloud_ingest::event_store::handle::{StoreHandle, StoreThread};
use cloud_ingest::event_store::place::Place;
use cloud_ingest::event_store::{
    Binding, Controller, Deed, DeliveryState, NewDestination, PersonId, RecordKey, Site as Location, UtcMs,
    WatermarkRow,
};
use cloud_ingest::health::Health;
use cloud_ingest::stop::{self, Stopper};
use cloud_ingest::telemetry::{Metrics, with_causes};
use cloud_ingest::watch::{self, Watch};
use jiff::civil::date;
use serde_json::json;
use tap_protocol::badge::{SealedBadge, Token, TokenKeyId};
use tap_protocol::chain::ChainHash;
use tap_protocol::envelope::{Batch, UnverifiedBatch};
use tap_protocol::hello::{Hello, OutboxHello};
use tap_protocol::ids::{BootId, ControllerId, OutboxId, Seq};
use tap_protocol::keys::SigningKey;
use tap_protocol::record::{Body, ClockState, Record, Stamp};
use tap_protocol::tap::{Direction, Tap, Verdict};
use tempfile::TempDir;
use testbench::frappe_sim::{FrappeSim, Outage, Role, ShiftType, Site, Status};
use testbench::rig::wait_until;
use testbench::site::run;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// 2026-03-02 08:00:00 in Berlin, a Monday.
const MONDAY: UtcMs = UtcMs(1_772_434_800_000);

const HOUR_MS: i64 = 60 * 60 * 1_000;

const PATIENCE: Duration = Duration::from_secs(20);

/// A service with two doors and a Frappe site, where two people work by the shift `Day`.
struct Office {
    frappe: FrappeSim,
    clock: Arc<AtomicI64>,
    store: StoreHandle,
    metrics: Arc<Metrics>,
    stopper: Stopper,
    running: [JoinHandle<()>; 2],
    threads: [StoreThread; 2],
    dir: TempDir,
}

impl Office {
    async fn open(change: impl FnOnce(&mut Site)) -> Office {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut site = Site::with_employees(2);
        site.shift_types.push(ShiftType::day("Day", date(2026, 3, 2)));
        site.employees.iter_mut().for_each(|employee| employee.shift = Some("Day".into()));
        change(&mut site);
        let frappe = FrappeSim::start(SocketAddr::from(([127, 0, 0, 1], 0)), site).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let place = Place::File(dir.path().join("cloud-ingest.db"));
        let mut store = place.open(MONDAY).unwrap();
        store
            .put_site(&Location { id: "hq".into(), label: "HQ".into(), zone: "Europe/Berlin".into() })
            .unwrap();
        for door in [Door::new(1), Door::new(2)] {
            let record_keys = vec![RecordKey::new(key().public())];
            let (id, label) = (door.id, "a door".to_owned());
            store.put_controller(&Controller { id, label, site: "hq".into(), record_keys }).unwrap();
        }
        let bindings = [1, 2].map(|n: u8| Binding::new(vec![badge(n)], PersonId(n.to_string())));
        store.bind_badges(&bindings, MONDAY).unwrap();
        let breaker = json!({ "open_s": 1, "max_open_s": 1, "ramp_s": 0 });
        let settings = json!({ "kind": "frappe_hr", "url": frappe.url(), "timeout_ms": 1_000, "breaker": breaker, "frappe_hr": {
            "watermarks": [{ "shift_type": "Day", "sites": ["hq"], "zone": "Europe/Berlin" }] } });
        let settings: DestinationSettings = serde_json::from_str(&settings.to_string()).unwrap();
        let credentials = dir.path().join("credentials");
        std::fs::write(&credentials, "key:secret").unwrap();
        let new = NewDestination {
            credentials_file: Some(credentials.display().to_string()),
            ..NewDestination::from_now("frappe", &serde_json::to_string(&settings).unwrap())
        };
        store.add_destination(&new, &Deed::by_itself(MONDAY, "add", "frappe")).unwrap();
        let (store, writer) = StoreHandle::spawn("store-writer", store).unwrap();
        let (reader, reading) = StoreHandle::spawn("store-reader", place.open_reader().unwrap()).unwrap();
        let now = Arc::new(AtomicI64::new(MONDAY.0));
        let clock = Clock::from_fn({
            let now = Arc::clone(&now);
            move || UtcMs(now.load(Ordering::SeqCst))
        });
        let (stopper, stop) = stop::pair();
        let loopback = Guard::allowing(["127.0.0.1".parse().unwrap()]);
        let metrics = Arc::new(Metrics::new());
        let health = Arc::new(Health::default());
        let watch = Watch {
            writer: store.clone(),
            reader: reader.clone(),
            clock: clock.clone(),
            metrics: Arc::clone(&metrics),
            health: Arc::clone(&health),
        };
        let supervisor = Supervisor {
            open: Box::new({
                let clock = clock.clone();
                move |settings, credentials| {
                    AnyDestination::open(settings, credentials, &loopback, clock.clone())
                        .map_err(|error| with_causes(&error))
                }
            }),
            writer: store.clone(),
            reader,
            clock,
            monotonic: Monotonic::system(),
            metrics: Arc::clone(&metrics),
            health,
            wake: Arc::new(Notify::new()),
            chance: cloud_ingest::chance::Chance::system(),
        };
        let running =
            [tokio::spawn(watch::run(watch, stop.clone())), tokio::spawn(supervise::run(supervisor, stop))];
        Office { frappe, clock: now, store, metrics, stopper, running, threads: [writer, reading], dir }
    }

    async fn close(self) {
        self.stopper.stop();
        for running in self.running {
            running.await.unwrap();
        }
        let [writer, reader] = self.threads;
        reader.close().await;
        writer.close().await;
    }

    /// So many hours after Monday at eight.
    fn it_is(&self, hours: i64) -> UtcMs {
        let now = UtcMs(MONDAY.0 + hours * HOUR_MS);
        self.clock.store(now.0, Ordering::SeqCst);
        self.frappe.set_now(date(2026, 3, 2).at(8, 0, 0, 0) + jiff::Span::new().hours(hours));
        now
    }

    /// The door sends what it has, and says hello when that is receipted.
    async fn hears_of(&self, door: &mut Door, now: UtcMs) {
        if let Some(batch) = door.unsent() {
            self.store.run(move |store| store.append(&[batch], now).map(drop)).await.unwrap();
        }
        let hello = door.hello(now);
        self.store.run(move |store| store.note_hello(&hello, now).map(drop)).await.unwrap();
    }

    async fn watermark(&self) -> Option<WatermarkRow> {
        self.store.run(|store| Ok(store.watermarks()?.pop())).await.unwrap()
    }

    fn last_sync(&self) -> Option<String> {
        let at = self.frappe.site(|site| site.shift_types[0].last_sync_of_checkin);
        at.map(|at| at.strftime("%Y-%m-%d %H:%M:%S").to_string())
    }

    async fn stands(&self, what: &str, is_so: impl Fn(&WatermarkRow) -> bool) -> WatermarkRow {
        wait_until(what, PATIENCE, &[], async || self.watermark().await.is_some_and(|row| is_so(&row))).await;
        self.watermark().await.unwrap()
    }

    /// The same, while time passes: it is moved once a minute.
    async fn stands_in_time(&self, what: &str, is_so: impl Fn(&WatermarkRow) -> bool) -> WatermarkRow {
        self.stands(what, |row| {
            self.clock.fetch_add(2_000, Ordering::SeqCst);
            is_so(row)
        })
        .await
    }

    async fn all_is_delivered(&self, taps: u64) {
        wait_until("all taps to be delivered", PATIENCE, &[], async || {
            let counts = self.store.run(|store| store.delivery_counts()).await.unwrap();
            counts.iter().any(|cell| cell.state == DeliveryState::Delivered && cell.count == taps)
        })
        .await;
    }

    /// A metric of the watermark's, as it is scraped.
    async fn metric_says(&self, name: &str, value: &str) {
        let line = format!("cloud_ingest_{name}{{destination=\"frappe\",watermark=\"Day\"}} {value}");
        wait_until(&line, PATIENCE, &[], async || self.metrics.render(&Health::default()).contains(&line))
            .await;
    }

    /// What `destinations show` says to a person.
    fn shown(&self) -> String {
        let dir = self.dir.path().display();
        let config = self.dir.path().join("cloud-ingest.toml");
        let text = format!(
            "data_dir = \"{dir}\"\n[broker]\nurl = \"mqtt://127.0.0.1\"\nclient_id = \"cloud-ingest\"\n[http]\n\
             listen = \"127.0.0.1:0\"\n[keys]\ndir = \"{dir}/keys\"\n"
        );
        std::fs::write(&config, text).unwrap();
        let config = config.display().to_string();
        run("cloud-ingest", &["destinations", "show", "frappe", "--config", &config]).unwrap()
    }

    /// How often the shift type was asked for.
    fn tries(&self) -> usize {
        self.frappe.asked().iter().filter(|asked| *asked == "get shift type").count()
    }

    /// What Frappe says of an employee on a day of March.
    fn marked(&self, employee: u8, day: i8) -> Option<Status> {
        let name = format!("HR-EMP-{employee:05}");
        self.frappe.site(|site| {
            let its =
                site.attendance.iter().find(|one| one.employee == name && one.date == date(2026, 3, day));
            its.map(|one| one.status)
        })
    }
}

struct Door {
    id: ControllerId,
    outbox: OutboxId,
    records: Vec<Vec<u8>>,
    sent: usize,
}

fn key() -> SigningKey {
    SigningKey::from_seed(&[9; 32])
}

fn badge(n: u8) -> SealedBadge {
    SealedBadge { key_id: TokenKeyId(1), token: Token([n; 16]), ciphertext: vec![n; 7] }
}

impl Door {
    fn new(n: u8) -> Door {
        let id = format!("hq-door-{n}").parse().unwrap();
        Door { id, outbox: OutboxId([n; 16]), records: vec![], sent: 0 }
    }

    fn tap(&mut self, person: u8, at: UtcMs) {
        let boottime_ms = u64::try_from(at.0 - MONDAY.0 + 1_000_000).unwrap();
        let at = Stamp { boot: 1, boottime_ms, wall_ms: at.0, clock: ClockState::Synced };
        let (reader, badge) = ("in".parse().unwrap(), badge(person));
        let tap = Tap { reader, badge, direction: Direction::In, verdict: Verdict::Known };
        self.records.push(Record { at, body: Body::Tap(tap) }.encode());
    }

    fn unsent(&mut self) -> Option<tap_protocol::envelope::VerifiedBatch> {
        let before = &self.records[..self.sent];
        let records = self.records[self.sent..].to_vec();
        if records.is_empty() {
            return None;
        }
        let hash_before = before.iter().fold(ChainHash::start(self.outbox), |hash, record| hash.next(record));
        let first_seq = Seq(self.sent as u64 + 1);
        self.sent = self.records.len();
        let batch =
            Batch { controller: self.id.clone(), outbox: self.outbox, first_seq, hash_before, records };
        let message = batch.sign(&key());
        Some(UnverifiedBatch::parse(&message).unwrap().verify(&self.id, &key().public()).unwrap())
    }

    fn hello(&self, now: UtcMs) -> Hello {
        let named = OutboxHello {
            outbox: self.outbox,
            last_seq: Seq(self.records.len() as u64),
            receipted_through: Seq(self.sent as u64),
            store_epoch: None,
            oldest_unreceipted_age_ms: None,
        };
        Hello {
            controller: self.id.clone(),
            boot_id: BootId([4; 16]),
            boottime_ms: u64::try_from(now.0 - MONDAY.0 + 1_000_000).unwrap(),
            wall_ms: now.0,
            clock: ClockState::Synced,
            agent_version: "1".into(),
            record_version: 1,
            roster_version: None,
            outboxes: vec![named],
            readers: vec![],
        }
    }
}

#[tokio::test]
async fn nobody_is_marked_absent_who_tapped_at_a_door_that_is_offline_and_it_moves_on_when_that_is_back() {
    let office = Office::open(|_| {}).await;
    let (mut first, mut second) = (Door::new(1), Door::new(2));
    let morning = office.it_is(0);
    for door in [&mut first, &mut second] {
        office.hears_of(door, morning).await;
    }
    // On Monday one taps at each door, and the second door is offline.
    first.tap(1, UtcMs(morning.0 + 60_000));
    second.tap(2, UtcMs(morning.0 + 120_000));
    let later = UtcMs(morning.0 + 180_000);
    office.clock.store(later.0, Ordering::SeqCst);
    office.hears_of(&mut first, later).await;
    office.all_is_delivered(1).await;
    // On Wednesday it still is.
    let wednesday = office.it_is(58);
    office.hears_of(&mut first, wednesday).await;
    let behind = office
        .stands("the offline door to be named", |row| {
            row.held_back_by.as_ref() == Some(&second.id) && row.stands_at.is_some()
        })
        .await;
    // A minute before its last word, and half a second that its clock may be off by.
    assert_eq!(behind.stands_at.as_deref(), Some("2026-03-02 07:58:59"));
    assert_eq!(office.last_sync(), behind.stands_at);
    assert!(behind.held_back_why.unwrap().contains("on the device"));
    office.frappe.hourly();
    assert_eq!([1, 2].map(|person| office.marked(person, 2)), [None, None], "Monday is not complete");
    let text = office.metrics.render(&Health::default());
    assert!(text.contains("cloud_ingest_attempts_total"), "{text}");

    // It comes back with what it has.
    let evening = UtcMs(office.it_is(59).0);
    for door in [&mut first, &mut second] {
        office.hears_of(door, evening).await;
    }
    office.all_is_delivered(2).await;
    office
        .stands_in_time("it to move on", |row| row.stands_at.as_deref() > Some("2026-03-04 18:00:00"))
        .await;
    office.frappe.hourly();
    let present = Some(Status::Present);
    assert_eq!([1, 2].map(|person| office.marked(person, 2)), [present, present]);
    assert_eq!(office.marked(2, 3), Some(Status::Absent), "on Tuesday nobody came, and that is known now");
    office.close().await;
}

#[tokio::test]
async fn a_tap_that_frappe_refuses_holds_its_day_open_and_stops_nobody() {
    let office = Office::open(|site| site.employees[1].active = false).await;
    let (mut first, mut second) = (Door::new(1), Door::new(2));
    let morning = office.it_is(0);
    first.tap(1, UtcMs(morning.0 + 60_000));
    second.tap(2, UtcMs(morning.0 + 120_000));
    let later = office.it_is(30);
    for door in [&mut first, &mut second] {
        office.hears_of(door, later).await;
    }
    office.all_is_delivered(1).await;
    let at = "2026-03-02 08:02:00";
    let dead = "it to stand at the tap that is dead";
    let row = office.stands_in_time(dead, |row| row.stands_at.as_deref() == Some(at)).await;
    assert_eq!(row.held_back_by, Some(second.id.clone()));
    assert!(row.held_back_why.unwrap().contains("not delivered"));
    office.close().await;
}

#[tokio::test]
async fn while_frappe_fails_or_is_silent_it_is_tried_more_and_more_seldom_and_taps_go_on() {
    let office = Office::open(|_| {}).await;
    let (mut first, mut second) = (Door::new(1), Door::new(2));
    let morning = office.it_is(1);
    for door in [&mut first, &mut second] {
        office.hears_of(door, morning).await;
    }
    let stood = office.stands("it to be moved", |row| row.moved.is_some()).await.stands_at;
    assert_eq!(stood.as_deref(), Some("2026-03-02 08:58:59"));
    office.metric_says("watermark_trouble", "0").await;

    // Frappe fails at everything that has to do with shift types, and answers nothing of the kind an hour later.
    office.frappe.set_outage(Some(Outage::ShiftTypes));
    for (hours, outage, says, delivered) in
        [(3, Outage::ShiftTypes, "server_error", 1), (5, Outage::ShiftTypesSilent, "timed_out", 2)]
    {
        office.frappe.set_outage(Some(outage));
        let at = office.it_is(hours);
        first.tap(1, UtcMs(at.0 - 60_000));
        for door in [&mut first, &mut second] {
            office.hears_of(door, at).await;
        }
        let row = office
            .stands("the trouble", |row| row.trouble.as_ref().is_some_and(|why| why.contains(says)))
            .await;
        assert_eq!((u64::from(row.failures), &row.stands_at), (delivered, &stood));
        assert_eq!(row.next.0 - row.looked.0, 60_000 << delivered, "it waits twice as long each time");
        // The tap is stored and told all the same.
        office.all_is_delivered(delivered).await;
        office.metric_says("watermark_trouble", "1").await;
        let shown = office.shown();
        assert!(shown.contains("it cannot be moved") && shown.contains(says), "{shown}");
    }
    // Within that pause nothing is asked, however often it is looked.
    let tries = office.tries();
    let within = UtcMs(office.it_is(5).0 + 3 * 60_000);
    office.clock.store(within.0, Ordering::SeqCst);
    first.tap(1, UtcMs(within.0 - 1_000));
    office.hears_of(&mut first, within).await;
    office.all_is_delivered(3).await;
    assert_eq!((office.tries(), office.last_sync()), (tries, stood));

    office.frappe.set_outage(None);
    let last = office.it_is(8);
    for door in [&mut first, &mut second] {
        office.hears_of(door, last).await;
    }
    let row = office.stands_in_time("it to be moved again", |row| row.trouble.is_none()).await;
    assert_eq!((row.failures, row.stands_at.as_deref()), (0, Some("2026-03-02 15:58:59")));
    assert_eq!(office.last_sync(), row.stands_at);
    office.metric_says("watermark_trouble", "0").await;
    office.close().await;
}

#[tokio::test]
async fn while_frappe_is_down_nothing_is_moved_and_afterwards_never_past_a_tap_that_is_not_there_yet() {
    let office = Office::open(|_| {}).await;
    let (mut first, mut second) = (Door::new(1), Door::new(2));
    let morning = office.it_is(1);
    for door in [&mut first, &mut second] {
        office.hears_of(door, morning).await;
    }
    let stood = office.stands("it to be moved", |row| row.moved.is_some()).await.stands_at;
    office.frappe.set_outage(Some(Outage::Site));
    let at = office.it_is(3);
    second.tap(2, UtcMs(at.0 - 120_000));
    for door in [&mut first, &mut second] {
        office.hears_of(door, at).await;
    }
    office.stands_in_time("the tap to hold it", |row| row.held_back_by.as_ref() == Some(&second.id)).await;
    wait_until("the tap to be tried", PATIENCE, &[], async || {
        office.frappe.asked().iter().any(|asked| asked.starts_with("call"))
    })
    .await;
    // Taps are stored and doors are heard all the same.
    let later = office.it_is(6);
    first.tap(1, UtcMs(later.0 - 60_000));
    for door in [&mut first, &mut second] {
        office.hears_of(door, later).await;
    }
    let taps = office.store.run(|store| Ok(store.totals()?.taps)).await.unwrap();
    assert_eq!((taps, office.last_sync()), (2, stood));

    office.frappe.set_outage(None);
    // Whatever waits for its next try is due by then.
    office.it_is(7);
    let through = "2026-03-02 13:58:59";
    office
        .stands_in_time("it to move on to where all doors are complete", |row| {
            // The second door's tap comes first, and until it is there nothing moves past it.
            let stands = office.last_sync();
            let told = office.frappe.site(|site| site.logs.len());
            assert!(told > 0 || stands.as_deref() <= Some("2026-03-02 10:58:00"), "{stands:?}: {row:?}");
            assert!(told > 1 || stands.as_deref() <= Some("2026-03-02 13:59:00"), "{stands:?}: {row:?}");
            row.stands_at.as_deref() == Some(through)
        })
        .await;
    office.all_is_delivered(2).await;
    assert_eq!(office.last_sync().as_deref(), Some(through));
    office.close().await;
}

#[tokio::test]
async fn what_keeps_it_from_being_moved_is_said_and_keeps_no_tap_back() {
    let office = Office::open(|site| site.shift_types[0].auto_update_last_sync = true).await;
    let (mut first, mut second) = (Door::new(1), Door::new(2));
    let morning = office.it_is(1);
    for door in [&mut first, &mut second] {
        office.hears_of(door, morning).await;
    }
    let row = office.stands("auto update to be noticed", |row| row.trouble.is_some()).await;
    assert!(row.trouble.unwrap().contains("Auto Update Last Sync is on"));
    assert_eq!((office.last_sync(), row.failures), (None, 1));
    first.tap(1, morning);
    let at = office.it_is(2);
    office.frappe.site(|site| {
        site.shift_types[0].auto_update_last_sync = false;
        site.user.role = Role::Employee;
    });
    // This user may not: neither move it, nor set the time of a check-in, which holds all else back.
    office.hears_of(&mut second, at).await;
    let row = office.stands("the second try", |row| row.failures == 2).await;
    assert!(row.trouble.unwrap().contains("HR User"));
    office.frappe.site(|site| site.user.role = Role::HrUser);
    let last = office.it_is(5);
    for door in [&mut first, &mut second] {
        office.hears_of(door, last).await;
    }
    office.all_is_delivered(1).await;
    let row =
        office.stands_in_time("it to be moved", |row| row.moved.is_some() && row.trouble.is_none()).await;
    assert_eq!((row.failures, row.stands_at), (0, office.last_sync()));
    office.close().await;
}
