//! The listener over real TCP and TLS, with the real worker, store and spool behind it.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};

use rustls::pki_types::{ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::super::allowance::Rate;
use super::super::desk::MAX_WAITING;
use super::super::drain::{self, Drain};
use super::super::keeper::Keeper;
use super::super::key::ApiKey;
use super::super::listening;
use super::super::spool::Spool;
use super::*;
use crate::config::CaptureEntry;
use crate::event_store::capture::{Capture, NewApiKey, Sitting, Source};
use crate::event_store::handle::{StoreHandle, StoreThread};
use crate::event_store::sqlite::SqliteStore;
use crate::event_store::{Deed, EventFilter, EventRow, EventStore, Site, UtcMs};
use crate::intake::holding::Hold;
use crate::intake::worker::{self, Worker};
use crate::intake::{BrokerLink, FromBroker, Ticket, inbox, roster};
use crate::keyring::{Keys, random, tests as folder_tests};
use crate::stop::{self, Stopper};
use crate::usher;

/// 2026-03-02 07:00:00 UTC.
const START: UtcMs = UtcMs(1_772_434_800_000);

const BADGE: &str = "04A224B1C2D380";

/// How long the worker is given.
const PATIENCE: Duration = Duration::from_millis(300);

struct NoBroker;

impl BrokerLink for NoBroker {
    fn acknowledge(&self, _ticket: Ticket) {}

    fn publish(&self, _topic: String, _payload: Vec<u8>) -> bool {
        true
    }
}

/// One process of the cloud, as far as capture goes.
struct Replica {
    address: std::net::SocketAddr,
    key: ApiKey,
    keys: LiveKeys,
    store: StoreHandle,
    thread: Option<StoreThread>,
    spool_dir: TempDir,
    now: Arc<AtomicI64>,
    stopper: Stopper,
    parts: Vec<JoinHandle<()>>,
    _inbox: mpsc::Sender<FromBroker>,
}

/// What a replica is started with.
struct Start<'s> {
    database: &'s Path,
    rate: Rate,
    spool_bytes: u64,
    keys: LiveKeys,
}

impl<'s> Start<'s> {
    fn on(database: &'s Path) -> Start<'s> {
        let dir = folder_tests::folder();
        let keys = LiveKeys::fixed(Keys::load(dir.path()).unwrap());
        Start { database, rate: Rate { per_second: 1_000, burst: 1_000 }, spool_bytes: 64 * 1024, keys }
    }

    async fn replica(self, key: ApiKey) -> Replica {
        let mut store = SqliteStore::open(self.database, START).unwrap();
        let site = Site { id: "hq".into(), label: "Headquarters".into(), zone: "Europe/Berlin".into() };
        store.put_site(&site).unwrap();
        if crate::event_store::Deliveries::destinations(&mut store).unwrap().is_empty() {
            crate::fixture::add_destination(&mut store, "legacy");
        }
        let source = Source { id: "api-kiosk".parse().unwrap(), label: "Kiosk".into(), site: "hq".into() };
        let new = NewApiKey {
            id: key.id,
            secret_sha256: key.secret_sha256(),
            source: source.id.clone(),
            expires: None,
        };
        let deed = Deed::by_itself(START, "create_api_key", "api-kiosk");
        if store.api_keys().unwrap().is_empty() {
            store.put_api_key(&new, &source, &deed).unwrap().unwrap();
        }
        let (store, thread) = StoreHandle::spawn("store", Box::new(store)).unwrap();

        let keys = self.keys;
        let now = Arc::new(AtomicI64::new(START.0));
        let clock = Clock::from_fn({
            let now = Arc::clone(&now);
            move || UtcMs(now.load(Ordering::SeqCst))
        });
        let metrics = Arc::new(Metrics::new());
        let wake = Arc::new(Notify::new());
        let (stopper, stop) = stop::pair();
        let (to_worker, captured) = mpsc::channel(MAX_WAITING);
        let (_inbox, from_broker) = inbox();
        let worker = Worker {
            store: store.clone(),
            link: NoBroker,
            keys: keys.clone(),
            roll: watch::channel(Arc::default()).1,
            usher: usher::bell().0,
            roster: roster::desk().0,
            clock: clock.clone(),
            metrics: Arc::clone(&metrics),
            health: Arc::default(),
            wake: Arc::clone(&wake),
            sitting: Sitting(random().unwrap()),
            hold: Hold::Alone,
        };
        let spool_dir = tempfile::tempdir().unwrap();
        let (spool, _) = Spool::open(spool_dir.path(), self.spool_bytes).unwrap();
        let (keeper, book) = Keeper::open(store.clone()).await.unwrap();
        let capturing = Capturing {
            book,
            allowance: Arc::new(Mutex::new(Allowance::new(self.rate))),
            keys: keys.clone(),
            desk: Desk::new(to_worker, spool.clone(), Arc::clone(&metrics), PATIENCE),
            clock: clock.clone(),
            metrics: Arc::clone(&metrics),
        };
        let drain =
            Drain { spool, store: store.clone(), keys: keys.clone(), clock: clock.clone(), metrics, wake };
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let entry = CaptureEntry {
            listen: address,
            names: vec!["taps.example".into()],
            cert_file: None,
            key_file: None,
            per_second: 1,
            burst: 1,
            spool_max_bytes: 0,
        };
        let listener = TlsListener::new(tcp, listening(&entry, &keys), clock).unwrap();
        let mut ends = stop.clone();
        let serving = serve(listener, capturing, async move { ends.said().await });
        let parts = vec![
            tokio::spawn(worker::run(worker, from_broker, captured, stop.clone())),
            tokio::spawn(drain::run(drain, stop.clone())),
            tokio::spawn(keeper.run(stop)),
            tokio::spawn(async move { serving.await.unwrap() }),
        ];
        Replica { address, key, keys, store, thread: Some(thread), spool_dir, now, stopper, parts, _inbox }
    }
}

/// A client whose clock shows what the cloud's does.
#[derive(Debug)]
struct AsTheCloud(Arc<AtomicI64>);

impl TimeProvider for AsTheCloud {
    fn current_time(&self) -> Option<UnixTime> {
        let now_ms = self.0.load(Ordering::SeqCst).unsigned_abs();
        Some(UnixTime::since_unix_epoch(Duration::from_millis(now_ms)))
    }
}

/// What came back.
#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    head: String,
    body: Value,
}

impl Answer {
    #[track_caller]
    fn id(&self) -> EventId {
        assert_eq!((self.status, &self.body["status"]), (202, &json!("queued")), "{self:?}");
        self.body["eventId"].as_str().unwrap().parse().unwrap()
    }

    #[track_caller]
    fn is_refused(&self, status: u16, said: &str) -> &Answer {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.body["detail"].as_str().unwrap().contains(said), "{self:?}");
        assert!(self.head.contains("application/problem+json"), "{}", self.head);
        assert_eq!(self.body["status"], status);
        self
    }

    #[track_caller]
    fn names(&self, header: &str) {
        assert!(self.head.lines().any(|line| line.starts_with(header)), "{header} is not in {}", self.head);
    }
}

fn tap(badge: &str) -> String {
    json!({ "badge": badge, "occurredAt": "2026-03-02T08:00:00+01:00", "direction": "in" }).to_string()
}

impl Replica {
    async fn stop(mut self) {
        self.stopper.stop();
        for part in self.parts {
            part.await.unwrap();
        }
        if let Some(thread) = self.thread.take() {
            thread.close().await;
        }
    }

    /// The store goes away for good.
    async fn lose_the_store(&mut self) {
        self.thread.take().unwrap().close().await;
    }

    async fn bring(&self, idempotency_key: &str, body: &str) -> Answer {
        let headers = [
            ("authorization", format!("Bearer {}", self.key.reveal())),
            ("content-type", "application/json".into()),
            ("idempotency-key", idempotency_key.into()),
        ];
        self.ask("POST", "/api/v1/events", &headers, body).await
    }

    /// One request on a connection of its own.
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, String)], body: &str) -> Answer {
        let mut roots = RootCertStore::empty();
        roots.add(self.keys.now().server_root().unwrap().der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clock = Arc::new(AsTheCloud(Arc::clone(&self.now)));
        let config = ClientConfig::builder_with_details(provider, clock)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("taps.example").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, tcp).await.unwrap();
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: taps.example\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // An answer may come before all of a large body was read.
        let _ = stream.write_all(body.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let text = String::from_utf8(answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_lowercase(),
            body: serde_json::from_str(body).unwrap_or(Value::Null),
        }
    }

    /// All that is stored, oldest first.
    async fn events(&self) -> Vec<EventRow> {
        let all = EventFilter { limit: 1_000, ..EventFilter::default() };
        let mut events = self.store.run(move |store| store.events(&all)).await.unwrap();
        events.reverse();
        events
    }

    async fn spool_is_empty(&self) {
        let is_spool = |entry: &std::fs::DirEntry| entry.path().extension().is_some_and(|end| end == "spool");
        let dir = self.spool_dir.path();
        let drained = async {
            while std::fs::read_dir(dir).unwrap().any(|entry| is_spool(&entry.unwrap())) {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(60), drained).await.expect("the spool is drained");
    }
}

fn new_key() -> ApiKey {
    ApiKey::new([1; 5], [2; 32])
}

async fn replica(database: &Path) -> Replica {
    Start::on(database).replica(new_key()).await
}

#[track_caller]
fn ids_of_taps(events: &[EventRow]) -> Vec<EventId> {
    events.iter().filter(|row| row.tap.is_some()).map(|row| row.event_id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_is_stored_when_it_is_answered_and_its_number_is_nowhere_in_clear() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = replica(&dir.path().join("store.db")).await;
    let answer = cloud.bring("k-1", &tap(BADGE)).await;
    let events = cloud.events().await;
    assert_eq!(ids_of_taps(&events), [answer.id()]);
    assert_eq!(events[0].controller.as_str(), "api-kiosk");
    let stored = events[0].tap.as_ref().unwrap();
    let opened = cloud.keys.now().sealing_key().open(&stored.badge).unwrap();
    assert_eq!(opened.reveal(), format!("hf:{BADGE}"));
    assert_eq!(stored.occurred.unwrap().at, START);
    let again = cloud.bring("k-1", &tap(BADGE)).await;
    assert_eq!(
        (again.status, &again.body),
        (answer.status, &answer.body),
        "the same request has the same answer"
    );
    cloud.bring("k-1", &tap("04A224B1C2D381")).await.is_refused(409, "use a new key for each tap");
    assert_eq!(cloud.events().await.len(), 1);
    cloud.stop().await;
    let clear = data_encoding::HEXUPPER.decode(BADGE.as_bytes()).unwrap();
    for file in ["store.db", "store.db-wal"] {
        let bytes = std::fs::read(dir.path().join(file)).unwrap_or_default();
        for form in [clear.as_slice(), BADGE.as_bytes()] {
            assert!(!bytes.windows(form.len()).any(|found| found == form), "{file} has the clear number");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_not_as_documented_is_told_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = replica(&dir.path().join("store.db")).await;
    let json = ("content-type", "application/json".to_owned());
    let idempotency = ("idempotency-key", "k".to_owned());
    let bearer = |key: &str| ("authorization", format!("Bearer {key}"));
    let good = bearer(&cloud.key.reveal());
    let post = async |headers: &[(&str, String)], body: &str| {
        cloud.ask("POST", "/api/v1/events", headers, body).await
    };

    let anonymous = post(&[json.clone(), idempotency.clone()], &tap(BADGE)).await;
    anonymous.is_refused(401, "Authorization: Bearer").names("www-authenticate: bearer");
    let wrong = bearer(&ApiKey::new([1; 5], [9; 32]).reveal());
    post(&[wrong, json.clone(), idempotency.clone()], &tap(BADGE)).await.is_refused(401, "not known here");
    post(&[good.clone(), idempotency.clone()], &tap(BADGE)).await.is_refused(415, "application/json");
    post(&[good.clone(), json.clone()], &tap(BADGE)).await.is_refused(400, "Idempotency-Key");
    let twice = [good.clone(), json.clone(), idempotency.clone(), ("idempotency-key", "other".into())];
    post(&twice, &tap(BADGE)).await.is_refused(400, "once");
    let all = [good, json, idempotency];
    post(&all, "{").await.is_refused(400, "no JSON");
    post(&all, &tap("nothing")).await.is_refused(422, "badge: write a badge");
    let extra = tap(BADGE).replacen('{', "{\"person\":\"P-1\",", 1);
    post(&all, &extra).await.is_refused(422, "unknown field `person`");
    post(&all, &format!("{{\"badge\":\"{}\"}}", "0".repeat(MAX_BODY_BYTES)))
        .await
        .is_refused(413, "8192 bytes");
    cloud.ask("GET", "/api/v1/events", &all, "").await.is_refused(405, "POST").names("allow: post");
    cloud.ask("POST", "/api/v1/controllers", &all, "{}").await.is_refused(404, "/api/v1/events");
    assert!(cloud.events().await.is_empty());
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_brings_too_much_is_told_when_to_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("store.db");
    let start = Start { rate: Rate { per_second: 1, burst: 3 }, ..Start::on(&database) };
    let cloud = start.replica(new_key()).await;
    for n in 0..3 {
        cloud.bring(&format!("k-{n}"), &tap(BADGE)).await.id();
    }
    let refused = cloud.bring("k-3", &tap(BADGE)).await;
    refused.is_refused(429, "send the same request again").names("retry-after: 1");
    cloud.now.fetch_add(1_000, Ordering::SeqCst);
    cloud.bring("k-3", &tap(BADGE)).await.id();
    assert_eq!(cloud.events().await.len(), 4);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_refused_at_once_though_nobody_looked_since() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = replica(&dir.path().join("store.db")).await;
    cloud.bring("k-1", &tap(BADGE)).await.id();
    let (id, deed) = (cloud.key.id, Deed::by_itself(START, "revoke_api_key", "api-kiosk"));
    cloud.store.run(move |store| store.revoke_api_key(id, &deed)).await.unwrap();
    cloud.bring("k-2", &tap(BADGE)).await.is_refused(401, "was revoked");
    assert_eq!(cloud.events().await.len(), 1);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_share_commits_and_each_has_its_answer() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Arc::new(replica(&dir.path().join("store.db")).await);
    let asked: Vec<_> = (0..60)
        .map(|n| {
            let cloud = Arc::clone(&cloud);
            // Each is asked for twice.
            tokio::spawn(async move { cloud.bring(&format!("k-{}", n / 2), &tap(BADGE)).await.id() })
        })
        .collect();
    let mut ids = Vec::new();
    for one in asked {
        ids.push(one.await.unwrap());
    }
    for pair in ids.chunks(2) {
        assert_eq!(pair[0], pair[1]);
    }
    ids.sort();
    ids.dedup();
    let mut stored = ids_of_taps(&cloud.events().await);
    stored.sort();
    assert_eq!(stored, ids);
    assert_eq!(ids.len(), 30);
    Arc::into_inner(cloud).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_away_the_spool_answers_and_is_full_at_its_bound() {
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("store.db");
    let start = Start { spool_bytes: 1_000, ..Start::on(&database) };
    let mut cloud = start.replica(new_key()).await;
    cloud.lose_the_store().await;
    let first = cloud.bring("k-0", &tap(BADGE)).await;
    first.id();
    assert_eq!(cloud.bring("k-0", &tap(BADGE)).await.body, first.body, "the same again");
    cloud.bring("k-0", &tap("04A224B1C2D381")).await.is_refused(409, "use a new key");
    let mut n = 0;
    let full = loop {
        n += 1;
        let answer = cloud.bring(&format!("k-{n}"), &tap(BADGE)).await;
        if answer.status != 202 {
            break answer;
        }
        assert!(n < 50, "the spool has a bound");
    };
    full.is_refused(503, "keep the tap").names("retry-after: 30");
    assert_eq!(cloud.bring("k-0", &tap(BADGE)).await.body, first.body, "what was taken stays answered");
    let waits = crate::capture::spool::shelf::Shelf::open(cloud.spool_dir.path(), 1_000).unwrap().1.waiting;
    assert_eq!(waits, n, "the disk has every tap that was answered");
    let clear = data_encoding::HEXUPPER.decode(BADGE.as_bytes()).unwrap();
    for entry in std::fs::read_dir(cloud.spool_dir.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(clear.len()).any(|found| found == clear), "the spool has a clear number");
    }
    cloud.stop().await;
}

/// Another connection holds the database, as an overloaded or stopped server would.
fn hold(database: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(database).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_replicas_promised_becomes_one_tap_each_when_the_store_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("store.db");
    let here = replica(&database).await;
    let there = Start { keys: here.keys.clone(), ..Start::on(&database) }.replica(new_key()).await;
    let before = here.bring("k-before", &tap(BADGE)).await.id();
    let held = hold(&database);
    let mut promised = Vec::new();
    for n in 0..5 {
        promised.push(here.bring(&format!("k-{n}"), &tap(BADGE)).await.id());
        promised.push(there.bring(&format!("k-{n}"), &tap(BADGE)).await.id());
    }
    promised.push(there.bring("k-before", &tap(BADGE)).await.id());
    drop(held);
    here.spool_is_empty().await;
    there.spool_is_empty().await;
    let events = here.events().await;
    let taps = ids_of_taps(&events);
    assert_eq!(taps.len(), 6, "six requests are six taps: {taps:?}");
    assert_eq!(taps[0], before);
    for id in promised {
        assert!(events.iter().any(|row| row.event_id == id), "{id} was promised and is nowhere");
    }
    for row in &events {
        assert!(row.tap.is_some() || row.kind == "same_as", "{row:?}");
    }
    // Back to normal: nothing goes to the spool any more.
    let after = here.bring("k-after", &tap(BADGE)).await.id();
    assert_eq!(ids_of_taps(&here.events().await).last(), Some(&after));
    here.stop().await;
    there.stop().await;
}
