//! Taps over HTTP, with the real program: keys from the command line, TLS by our own root, a store that is away, and a process
//! that dies at every step between spool and store.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
};

use cloud_ingest::clock::Clock;
use serde_json::{Value, json};
use testbench::{
    rig::{free_port, wait_until},
    site::{HEALS_WITHIN, Site, SiteOptions, StoreKind, badge_person, badge_uid, run},
};

/// A site with a listener for taps, and a client that has a key.
struct Kiosk {
    site: Site,
    client: reqwest::Client,
    address: SocketAddr,
    key: String,
    /// When all its taps happen.
    occurred_at: String,
}

impl Kiosk {
    async fn start() -> Kiosk {
        Kiosk::start_with(StoreKind::Sqlite, "").await
    }

    /// With a store of that kind, and what else the configuration says of the listener.
    async fn start_with(store: StoreKind, more: &str) -> Kiosk {
        let mut site = Site::start(SiteOptions { store, ..SiteOptions::default() }).await.unwrap();
        let keys = site.dir().join("keys");
        run("cloud-ingest", &["ca", "init", "--dir", &keys.display().to_string()]).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let config = site.dir().join("cloud-ingest.toml");
        let before = std::fs::read_to_string(&config).unwrap();
        let capture = format!("[capture]\nlisten = \"{address}\"\nnames = [\"taps.example\"]\n{more}");
        // How fast things are told is not what is tried here.
        let before = before.replace("[destination]\n", "[destination]\nper_second = 500\nburst = 500\n");
        std::fs::write(&config, format!("{before}\n{capture}\n")).unwrap();
        let create = ["api-keys", "create", "--source", "api-kiosk", "--site", "hq", "--label", "Kiosk"];
        let made = site.cloud_cli(&[&create[..], &["--output", "json"]].concat()).unwrap();
        let made: Value = serde_json::from_str(&made).unwrap();
        site.kill_cloud().unwrap();
        site.start_cloud(&[]).await.unwrap();
        let root = std::fs::read(keys.join("root-1.crt")).unwrap();
        let client = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&root).unwrap()])
            .resolve("taps.example", address)
            .pool_max_idle_per_host(0)
            .build()
            .unwrap();
        let now = jiff::Timestamp::from_millisecond(Clock::system().now().0).unwrap();
        let occurred_at = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        Kiosk { site, client, address, key: made["key"].as_str().unwrap().into(), occurred_at }
    }

    /// One request; `None` if it got no answer.
    async fn bring(&self, idempotency_key: &str, badge: usize) -> Option<(u16, Value)> {
        let body = json!({ "badge": badge_uid(badge), "occurredAt": self.occurred_at, "direction": "in" });
        let asked = self.client.post(format!("https://taps.example:{}/api/v1/events", self.address.port()));
        let asked = asked.bearer_auth(&self.key).header("Idempotency-Key", idempotency_key).json(&body);
        let answer = asked.send().await.ok()?;
        Some((answer.status().as_u16(), answer.json().await.ok()?))
    }

    /// Some taps at once, each of a badge of its own; gives the ids of those that were answered, by idempotency key.
    async fn bring_some(&self, round: &str, count: usize) -> BTreeMap<String, String> {
        let all = (0..count).map(|n| async move {
            let key = format!("{round}-{n}");
            let (status, body) = self.bring(&key, n).await?;
            assert_eq!(status, 202, "{body}");
            Some((key, body["eventId"].as_str()?.to_owned()))
        });
        futures_of(all).await.into_iter().flatten().collect()
    }

    /// Nothing waits in the spool, and everything that is stored is delivered.
    async fn settles(&self, taps: u64) {
        let spool = self.site.dir().join("cloud/capture-spool");
        let log = self.site.dir().join("cloud-ingest.log");
        wait_until("the spool to be stored and delivered", HEALS_WITHIN, &[&log], async || {
            let is_empty = std::fs::read_dir(&spool).is_ok_and(|mut files| files.next().is_none());
            let ledger = self.site.cloud_ledger().await;
            is_empty && ledger.is_ok_and(|ledger| ledger.in_state("delivered") == taps && ledger.taps == taps)
        })
        .await;
    }

    /// What the record under that id is.
    async fn kind(&self, event_id: &str) -> String {
        let event: Value = self.site.get(&format!("/api/v1/events/{event_id}")).await.unwrap();
        event["kind"].as_str().unwrap_or_else(|| panic!("{event}")).to_owned()
    }

    fn verifies(&self) {
        let said = self.site.cloud_cli(&["events", "verify", "--output", "json"]).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["holds"], true, "{said}");
    }

    fn has_nowhere(&self, text: &str) {
        let files = [self.site.store_path(), self.site.dir().join("cloud-ingest.log")];
        let wal = self.site.dir().join("cloud/cloud-ingest.db-wal");
        for file in files.iter().chain([&wal]) {
            let bytes = std::fs::read(file).unwrap_or_default().to_ascii_lowercase();
            let wanted = text.to_ascii_lowercase().into_bytes();
            assert!(
                !bytes.windows(wanted.len()).any(|found| found == wanted),
                "{text} is in {}",
                file.display()
            );
        }
    }
}

/// All of them at once.
async fn futures_of<T>(all: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut all: Vec<_> = all.into_iter().map(|one| (Box::pin(one), None)).collect();
    std::future::poll_fn(|context| {
        for (one, done) in all.iter_mut().filter(|(_, done)| done.is_none()) {
            if let std::task::Poll::Ready(value) = one.as_mut().poll(context) {
                *done = Some(value);
            }
        }
        match all.iter().all(|(_, done)| done.is_some()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    all.into_iter().filter_map(|(_, done)| done).collect()
}

/// Another process holds the database's lock: the store is there and cannot.
fn hold(database: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(database).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kiosks_taps_go_the_whole_way_until_its_key_is_revoked() {
    let kiosk = Kiosk::start().await;
    let answered = kiosk.bring_some("k", 20).await;
    assert_eq!(answered.len(), 20);
    assert_eq!(kiosk.bring_some("k", 20).await, answered, "repeating is always safe");
    let (status, body) = kiosk.bring("k-1", 2).await.unwrap();
    assert_eq!((status, body["status"].as_u64()), (409, Some(409)), "{body}");
    kiosk.settles(20).await;
    kiosk.verifies();
    let processed = kiosk.site.legacy.report().processed;
    let person =
        |body: &str| serde_json::from_str::<Value>(body).unwrap()["person"].as_str().unwrap().to_owned();
    let persons: BTreeSet<_> = processed.iter().map(|checkin| person(&checkin.body)).collect();
    assert_eq!(persons, (0..20).map(badge_person).collect());
    assert_eq!(processed.len(), 20);
    kiosk.has_nowhere(&badge_uid(3));
    kiosk.has_nowhere(&kiosk.key);

    let list = ["api-keys", "list", "--output", "json"];
    let keys: Value = serde_json::from_str(&kiosk.site.cloud_cli(&list).unwrap()).unwrap();
    assert_eq!((&keys[0]["source"], &keys[0]["state"]), (&json!("api-kiosk"), &json!("good")));
    assert!(keys[0]["last_used"].is_string(), "{keys}");
    let prefix = keys[0]["prefix"].as_str().unwrap();
    kiosk.site.cloud_cli(&["api-keys", "revoke", prefix, "--reason", "it was replaced"]).unwrap();
    let (status, body) = kiosk.bring("k-21", 1).await.unwrap();
    assert_eq!(status, 401, "{body}");
    let twice = kiosk.site.cloud_cli(&["api-keys", "revoke", prefix, "--reason", "again"]).unwrap_err();
    assert!(twice.to_string().contains("revoked before"), "{twice}");
    let of_a_door = ["api-keys", "create", "--source", "hq-door-1", "--site", "hq", "--label", "x"];
    let refused = kiosk.site.cloud_cli(&of_a_door).unwrap_err();
    assert!(refused.to_string().contains("hq-door-1 is a door controller"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_away_no_tap_is_lost_or_doubled_wherever_the_service_dies() {
    const TAPS: usize = 6;
    let mut kiosk = Kiosk::start().await;
    let mut promised: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut note = |answered: BTreeMap<String, String>| {
        for (key, id) in answered {
            promised.entry(key).or_default().insert(id);
        }
    };
    for (before, point) in cloud_ingest::crash::SPOOL_POINTS.into_iter().enumerate() {
        kiosk.site.kill_cloud().unwrap();
        kiosk.site.start_cloud(&[("CRASH_AT", point)]).await.unwrap();
        let held = hold(&kiosk.site.store_path());
        note(kiosk.bring_some(point, TAPS).await);
        drop(held);
        let log = kiosk.site.dir().join("cloud-ingest.log");
        let cloud = kiosk.site.cloud.as_mut().unwrap();
        wait_until(&format!("the crash at {point}"), HEALS_WITHIN, &[&log], async || !cloud.is_running())
            .await;
        kiosk.site.start_cloud(&[]).await.unwrap();
        // As a client does that got no answer, or lost it.
        let again = kiosk.bring_some(point, TAPS).await;
        assert_eq!(again.len(), TAPS);
        note(again);
        // What waits in the spool would have the next start die before it is ready.
        kiosk.settles(((before + 1) * TAPS) as u64).await;
    }
    let taps = (cloud_ingest::crash::SPOOL_POINTS.len() * TAPS) as u64;
    kiosk.verifies();
    assert_eq!(promised.len() as u64, taps);
    for (key, ids) in promised {
        assert_eq!(ids.len(), 1, "{key} was promised {ids:?}");
        for id in &ids {
            assert_eq!(kiosk.kind(id).await, "tap", "{key} was promised {id}");
        }
    }
}

/// The disk under the server is full: what is not committed is acknowledged to nobody, taps over HTTP are kept as long as the
/// spool has room, and when there is room again everything that was promised is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_server_costs_no_tap_and_no_promise() {
    const AT_THE_DOOR: u64 = 200;
    let wide_open = "per_second = 1000\nburst = 10000\nspool_max_bytes = 65536";
    let kiosk = Kiosk::start_with(StoreKind::PostgresOnSmallDisk, wide_open).await;
    let postgres = &kiosk.site.store.as_ref().unwrap().postgres;
    let before = kiosk.bring_some("before", 5).await.len() as u64;
    postgres.fill_disk().unwrap();
    for n in 0..AT_THE_DOOR {
        kiosk.site.tap(n as usize % 20).await.expect("the door needs no cloud");
    }
    let log = kiosk.site.dir().join("cloud-ingest.log");
    wait_until("the service to say that it cannot store", HEALS_WITHIN, &[&log], async || {
        kiosk.site.get_text("/health/ready").await.is_ok_and(|(status, _)| status == 503)
    })
    .await;
    assert!(
        kiosk.site.edge_status().await.unwrap().pending > 0,
        "nothing is receipted that is not committed"
    );
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains("No space left on device"), "{said}");

    let (mut promised, mut refused) = (0, 0);
    for round in 0..100 {
        let asked = (0..20).map(|n| {
            let (kiosk, key) = (&kiosk, format!("full-{round}-{n}"));
            async move { kiosk.bring(&key, n).await.expect("an answer").0 }
        });
        for status in futures_of(asked).await {
            match status {
                202 => promised += 1,
                503 => refused += 1,
                other => panic!("{other}"),
            }
        }
        if refused > 0 {
            break;
        }
    }
    assert!(promised >= 100 && refused > 0, "{promised} kept, {refused} refused: the spool has an end");

    postgres.free_disk().unwrap();
    kiosk.settles(before + AT_THE_DOOR + promised).await;
    wait_until("the door to have its receipts", HEALS_WITHIN, &[&log], async || {
        kiosk.site.edge_status().await.is_ok_and(|status| status.pending == 0)
    })
    .await;
    kiosk.verifies();
    let positions = "SELECT count(*) = max(position) AND min(position) = 1 FROM events";
    assert_eq!(kiosk.site.store.as_ref().unwrap().query(positions).unwrap(), "t");
}
