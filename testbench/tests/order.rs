//! Order across controllers with two real doors at one site, of which one is away: two attendance systems want a person's taps in
//! the order in which they happened, and one of them waits longer than the other.

use serde_json::{Value, json};
use testbench::{
    legacy_sim::LegacySim,
    rig::wait_until,
    site::{Green, HEALS_WITHIN, SecondDoor, Site, SiteOptions},
};

const ANYWHERE: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

/// Who taps at both doors.
const BADGE: usize = 3;

/// Two doors and two systems beside the one that every site has, which takes taps as they come.
struct Office {
    site: Site,
    second: SecondDoor,
    patient: LegacySim,
    hasty: LegacySim,
}

impl Office {
    async fn open() -> Office {
        let site = Site::start(SiteOptions { second_door: true, ..SiteOptions::default() }).await.unwrap();
        let second = SecondDoor::start(&site).await.unwrap();
        let patient = wants_order(&site, "patient", 300).await;
        let hasty = wants_order(&site, "hasty", 1).await;
        let office = Office { site, second, patient, hasty };
        office.both_are_receipted().await;
        let mut store = office.site.place().unwrap().open_reader().unwrap();
        office
            .wait("both systems' lines to be in the order of time", async || {
                let known = store.destinations().unwrap();
                known.iter().filter(|one| one.in_order_of_time && one.to_order == 0).count() == 2
            })
            .await;
        office
    }

    async fn wait(&self, what: &str, is_so: impl AsyncFnMut() -> bool) {
        let mut logs = self.site.logs();
        logs.push(self.second.log().to_owned());
        let logs: Vec<_> = logs.iter().map(|log| log.as_path()).collect();
        wait_until(what, HEALS_WITHIN, &logs, is_so).await;
    }

    async fn both_are_receipted(&self) {
        self.wait("both doors to have receipts for all", async || {
            let (Ok(first), Ok(second)) = (self.site.edge_status().await, self.second.status().await) else {
                return false;
            };
            [first, second].iter().all(|status| status.broker.connected && status.pending == 0)
        })
        .await;
    }

    /// Both doors begin a new session, and so say hello: otherwise they do so once a minute.
    async fn both_say_hello(&self) {
        self.both_are_receipted().await;
        let before = self.sessions().await;
        for uplink in [&self.site.uplink, &self.second.uplink] {
            uplink.cut().await.unwrap();
            uplink.restore().await.unwrap();
        }
        self.wait("both doors to begin a new session", async || {
            let now = self.sessions().await;
            now[0] > before[0] && now[1] > before[1]
        })
        .await;
    }

    async fn sessions(&self) -> [u64; 2] {
        let status = [self.site.edge_status().await.unwrap(), self.second.status().await.unwrap()];
        status.map(|status| status.broker.sessions)
    }

    /// What a system was told of, in the order in which it was.
    async fn is_told(&self, sim: &LegacySim, greens: &[&Green]) {
        let ids: Vec<&str> = greens.iter().map(|green| green.event_id.as_str()).collect();
        self.wait(&format!("{ids:?} to be told"), async || told(sim).len() >= ids.len()).await;
        assert_eq!(told(sim), ids);
    }

    /// Where a tap's delivery to a system is.
    async fn delivery(&self, green: &Green, destination: &str) -> Value {
        let event: Value = self.site.get(&format!("/api/v1/events/{}", green.event_id)).await.unwrap();
        let mut deliveries = event["deliveries"].as_array().unwrap().iter();
        deliveries.find(|delivery| delivery["destination"] == destination).unwrap().clone()
    }

    async fn is_early(&self, green: &Green, destination: &str) -> bool {
        self.wait("the answer to be written down", async || {
            self.delivery(green, destination).await["state"] == "delivered"
        })
        .await;
        self.delivery(green, destination).await["is_early"] == true
    }

    async fn metric(&self, destination: &str) -> String {
        let (_, text) = self.site.get_text("/metrics").await.unwrap();
        let name = format!("cloud_ingest_deliveries_early_total{{destination=\"{destination}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or("none").to_owned()
    }
}

/// Adds a system that wants taps in the order in which they happened, and waits so long for doors that are away.
async fn wants_order(site: &Site, name: &str, max_wait_s: u32) -> LegacySim {
    let sim = LegacySim::start(ANYWHERE.into()).await.unwrap();
    let settings = json!({
        "kind": "http_json",
        "url": sim.check_ins_url(),
        "order_across_controllers": { "max_wait_s": max_wait_s },
    });
    let file = site.dir().join(format!("{name}.json"));
    std::fs::write(&file, settings.to_string()).unwrap();
    let file = file.display().to_string();
    site.cloud_cli(&["destinations", "add", name, "--settings", &file, "--reason", "a test"]).unwrap();
    sim
}

fn told(sim: &LegacySim) -> Vec<String> {
    let requests = sim.requests().into_iter();
    let bodies = requests.map(|request| serde_json::from_str::<Value>(&request.body).unwrap());
    bodies.map(|body| body["event_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_door_that_comes_back_in_time_is_told_first_and_whoever_waited_long_enough_says_so() {
    let office = Office::open().await;
    // The first door is away. Somebody taps there, walks over, and taps at the second one, which was away for a moment too.
    office.site.uplink.cut().await.unwrap();
    office.second.uplink.cut().await.unwrap();
    let first = office.site.tap(BADGE).await.unwrap();
    office.second.uplink.restore().await.unwrap();
    office
        .wait("the second door to be back", async || {
            office.second.status().await.is_ok_and(|status| status.broker.connected)
        })
        .await;
    let second = office.second.tap(BADGE).await.unwrap();

    // Who wants no order is told at once, who waits a second is told after that, and who has patience waits.
    office.is_told(&office.site.legacy, &[&second]).await;
    office.is_told(&office.hasty, &[&second]).await;
    assert!(office.is_early(&second, "hasty").await);
    let waits = office.delivery(&second, "patient").await;
    assert_eq!((&waits["state"], &waits["held_for"]), (&json!("held"), &json!("completeness")));
    assert_eq!(told(&office.patient), [""; 0]);
    let story = office.site.cloud_cli(&["events", "get", &second.event_id]).unwrap();
    assert!(story.contains("until all controllers of its site have told"), "{story}");
    assert!(story.contains("an earlier tap of this person may come after it"), "{story}");

    office.site.uplink.restore().await.unwrap();
    office.is_told(&office.site.legacy, &[&second, &first]).await;
    office.both_say_hello().await;
    office.is_told(&office.patient, &[&first, &second]).await;
    assert_eq!(
        [office.is_early(&first, "patient").await, office.is_early(&second, "patient").await],
        [false, false]
    );
    office.is_told(&office.hasty, &[&second, &first]).await;
    assert_eq!(office.metric("patient").await, "0");
    let early = 1 + usize::from(office.is_early(&first, "hasty").await);
    assert_eq!(office.metric("hasty").await, early.to_string());
    let listed: Value = office.site.get("/api/v1/events?taps=true&limit=2").await.unwrap();
    assert_eq!(listed.to_string().matches("\"is_early\":true").count(), early);
}
