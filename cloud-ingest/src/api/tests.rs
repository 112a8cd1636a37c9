//! The whole router on a real socket, over a store in memory.

use reqwest::{Client, Method, Response};
use serde_json::Value;

use super::*;
use crate::directory::timeline::{EVER, When};
use crate::event_store::handle::StoreThread;
use crate::event_store::{Binding, EventStore, PersonId, UtcMs};
use crate::fixture::{self, Door, START};
use crate::health::Loop;

struct World {
    base: String,
    client: Client,
    health: Arc<Health>,
    _thread: StoreThread,
}

/// Two taps by bound badges and one by an unknown one are stored at `door-1`; `door-2` and `door-3` are silent.
async fn world() -> World {
    world_of(|_| {}).await
}

/// The same, after what is done to the store.
async fn world_of(then: impl FnOnce(&mut dyn EventStore)) -> World {
    // Another test may have chosen it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut store = fixture::store();
    let batch = Door::new(1).tap(1).tap(2).tap(99).batch();
    store.append(&[batch], START).unwrap();
    then(&mut store);
    let (store, thread) = StoreHandle::spawn("store", Box::new(store)).unwrap();
    let health = Arc::new(Health::default());
    let served = Served {
        store,
        metrics: Arc::new(Metrics::new()),
        health: Arc::clone(&health),
        clock: Clock::from_fn(|| UtcMs(START.0 + 60_000)),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router(served)).await });
    World { base, client: Client::new(), health, _thread: thread }
}

impl World {
    async fn get(&self, path: &str) -> Response {
        self.client.get(format!("{}{path}", self.base)).send().await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }

    #[track_caller]
    fn problem(&self, path: &str, status: u16, detail: &str) -> impl Future<Output = ()> {
        let (url, client, detail) = (format!("{}{path}", self.base), self.client.clone(), detail.to_owned());
        async move {
            let answer = client.get(&url).send().await.unwrap();
            assert_eq!(answer.status(), status, "{url}");
            assert_eq!(answer.headers()["content-type"], "application/problem+json");
            let body: Value = answer.json().await.unwrap();
            assert_eq!(body["status"], status);
            assert_eq!(body["detail"], *detail);
        }
    }
}

#[tokio::test]
async fn events_are_listed_page_by_page_newest_first() {
    let world = world().await;
    let first = world.json("/api/v1/events?limit=3").await;
    let positions = |page: &Value| {
        let events = page["events"].as_array().unwrap();
        events.iter().map(|event| event["position"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(positions(&first), [4, 3, 2]);
    assert_eq!(first["next_before"], 2);
    let tap = &first["events"][0];
    assert_eq!(
        (&tap["kind"], &tap["stage"], &tap["deliveries"][0]["state"], &tap["deliveries"][0]["held_for"]),
        (&"tap".into(), &"stored".into(), &"held".into(), &"binding".into())
    );
    assert_eq!(tap["occurred_at"], "2026-03-02T07:00:04.000Z");
    let second = world.json("/api/v1/events?limit=3&before=2").await;
    assert_eq!((positions(&second), &second["next_before"]), (vec![1], &Value::Null));
    assert_eq!(second["events"][0]["kind"], "agent_started");
    assert_eq!(positions(&world.json("/api/v1/events?state=pending").await), [3, 2]);
    assert_eq!(positions(&world.json("/api/v1/events?controller=door-2").await), [0; 0]);
}

#[tokio::test]
async fn an_event_tells_its_story_and_no_clear_badge() {
    let world = world().await;
    let id = world.json("/api/v1/events?limit=1").await["events"][0]["event_id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/events/{id}");
    let event = world.json(&path).await;
    assert_eq!(
        event["explain"],
        "Waiting until somebody says whose badge it is (cloud-ingest badges assign)."
    );
    assert_eq!(event["steps"][0]["step"], "recorded");
    assert_eq!(event["steps"][1]["step"], "stored");
    let page = world.get(&format!("/events/{id}")).await.text().await.unwrap();
    assert!(page.contains("Waiting until somebody says whose badge it is"));
    for text in [event.to_string(), page] {
        assert!(!text.to_lowercase().contains("04630001"), "the clear badge is in {text}");
    }
}

#[tokio::test]
async fn controllers_and_ledger_are_told() {
    let world = world().await;
    let controllers = world.json("/api/v1/controllers").await;
    let first = &controllers["controllers"][0];
    assert_eq!((&first["id"], &first["outboxes"][0]["stored_through"]), (&"door-1".into(), &4.into()));
    assert_eq!(controllers["controllers"][1]["cause"], "never_seen");
    let ledger = world.json("/api/v1/ledger").await;
    assert_eq!((&ledger["taps"], &ledger["deliveries"]), (&3.into(), &3.into()));
    assert_eq!(ledger["balanced"], true);
    assert!(ledger["by_state"].as_array().unwrap().iter().any(|c| c["state"] == "held" && c["count"] == 1));
}

#[tokio::test]
async fn what_is_wrong_is_a_problem_document() {
    let world = world().await;
    world.problem("/api/v1/events?limit=0", 400, "limit: use 1 to 500").await;
    world.problem("/api/v1/events?limt=5", 400, "unknown parameter: did you mean limit?").await;
    world
        .problem("/api/v1/events/17", 400, "an event id looks like 0198c0de-0000-8000-8000-000000000001")
        .await;
    let nobody = "/api/v1/events/0198c0de-0000-8000-8000-000000000001";
    world.problem(nobody, 404, "no event is stored under this id").await;
    world.problem("/api/v2", 404, "there is nothing under this path").await;
    assert_eq!(world.get("/events/17").await.status(), 404);
}

#[tokio::test]
async fn every_route_takes_get_alone_and_carries_the_policy() {
    let world = world().await;
    for path in [
        "/",
        "/live",
        "/admin.css",
        "/admin.js",
        "/events/0198c0de-0000-8000-8000-000000000001",
        "/api/v1/events",
        "/api/v1/events/0198c0de-0000-8000-8000-000000000001",
        "/api/v1/controllers",
        "/api/v1/ledger",
        "/health/live",
        "/health/ready",
        "/metrics",
    ] {
        let url = format!("{}{path}", world.base);
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
            let answer = world.client.request(method.clone(), &url).send().await.unwrap();
            assert_eq!(answer.status(), 405, "{method} {path}");
            assert_eq!(answer.headers()["allow"], "GET, HEAD");
        }
        let answer = world.client.head(&url).send().await.unwrap();
        assert_ne!(answer.status(), 405, "HEAD {path}");
        let policy = answer.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'self'; script-src 'self';"), "{path}");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    }
}

#[tokio::test]
async fn readiness_says_why_not() {
    let world = world().await;
    assert_eq!(world.json("/health/live").await["status"], "live");
    world.health.takes_in(true);
    let answer = world.get("/health/ready").await;
    assert_eq!(answer.status(), 503);
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["reasons"][1], "the broker is not connected: not connected yet");

    world.health.store(Ok(()));
    world.health.broker(Ok(()));
    Loop::ALL.into_iter().for_each(|which| world.health.turned(which, UtcMs(START.0 + 60_000)));
    let ready = world.json("/health/ready").await;
    assert_eq!((&ready["status"], &ready["intake"]), (&Value::from("ready"), &Value::from("here")));
}

#[tokio::test]
async fn metrics_are_open_metrics() {
    let world = world().await;
    let answer = world.get("/metrics").await;
    assert_eq!(answer.headers()["content-type"], telemetry::CONTENT_TYPE);
    assert!(answer.text().await.unwrap().ends_with("# EOF\n"));
}

#[tokio::test]
async fn the_page_needs_nothing_but_itself() {
    let world = world().await;
    let page = world.get("/").await.text().await.unwrap();
    for part in
        ["<caption>Controllers</caption>", "<caption>Latest taps</caption>", "Door 1", "P-2", "aria-live"]
    {
        assert!(page.contains(part), "{part} is not on the page");
    }
    for foreign in ["http://", "https://", "style=", "onclick", "<style"] {
        assert!(!page.contains(foreign), "{foreign} is on the page");
    }
    let live = world.get("/live").await.text().await.unwrap();
    for id in ["health", "tiles", "controllers", "taps"] {
        let opening = format!("<section id=\"{id}\" data-live");
        assert!(page.contains(&opening) && live.contains(&opening), "{id}");
    }
}

/// A tap of which the destination was told somebody who has turned out not to have held the badge.
async fn world_with_a_difference() -> World {
    world_of(|store| {
        let sealed = |n| fixture::sealed(n);
        let told = fixture::send_all(store);
        assert!(told > 0);
        let hostile = PersonId("<b>&=1".into());
        let mut binding = Binding::new(vec![sealed(1)], hostile);
        binding.when = When { from: Some(EVER), until: None };
        store.bind_badges(&[binding], START).unwrap();
    })
    .await
}

#[tokio::test]
async fn what_was_told_otherwise_is_listed_and_shown() {
    let world = world_with_a_difference().await;
    let page = world.json("/api/v1/differences").await;
    let one = &page["differences"][0];
    assert_eq!((&one["what"], &one["told"], &one["is"]), (&"person".into(), &"P-1".into(), &"<b>&=1".into()));
    assert_eq!(page["differences"].as_array().unwrap().len(), 1);
    assert!(page["next_before"].is_null());
    let position = one["position"].as_u64().unwrap();
    assert_eq!(world.json("/api/v1/differences?limit=1").await["next_before"], position);
    let before = world.json(&format!("/api/v1/differences?before={position}")).await;
    assert_eq!(before["differences"], serde_json::json!([]));
    world.problem("/api/v1/differences?befor=1", 400, "unknown parameter: did you mean before?").await;

    let html = world.get("/differences?limit=1").await.text().await.unwrap();
    assert!(html.contains("P-1") && html.contains("&lt;b&gt;&amp;=1") && !html.contains("<b>&"), "{html}");
    assert!(html.contains(&format!("/differences?before={position}")) && html.contains("/events/"), "{html}");
    let html = world.get(&format!("/differences?before={position}")).await.text().await.unwrap();
    assert!(html.contains("No differences"), "{html}");
}

#[tokio::test]
async fn letters_and_replays_are_there_to_be_looked_at() {
    let world = world().await;
    assert_eq!(world.json("/api/v1/letters").await, serde_json::json!({ "letters": [] }));
    assert_eq!(world.json("/api/v1/replays").await, serde_json::json!({ "replays": [] }));
    world.problem("/api/v1/replays/7", 404, "no replay is known under this number").await;
    world.problem("/api/v1/replays/x", 400, "a replay has a whole number").await;
}
