//! A legacy attendance API on loopback that misbehaves as told and remembers every request; it doesn't know Tapline.
//!
//! `POST /checkins` takes a JSON body and an `Idempotency-Key`. How it is answered is decided by a [`Script`],
//! which tests set through the [`LegacySim`] handle and other processes through the control routes:
//!
//! | route | |
//! |---|---|
//! | `GET /_sim/report` | [`Report`] as JSON |
//! | `GET /_sim/requests?from=N` | every [`Request`] from arrival N on (default 1) |
//! | `POST /_sim/script` | replaces the [`Script`] |
//! | `POST /_sim/reset` | forgets all requests and check-ins, and behaves again |
//!
//! ```json
//! { "steps": [ { "mode": "too_many_requests", "retry_after_s": 2, "count": 3 },
//!              { "mode": "garbage", "kind": "truncated_json", "count": 1 } ],
//!   "then":  { "mix": { "seed": 7, "modes": [ { "mode": "ok", "weight": 8 },
//!                                             { "mode": "timeout_after_processing", "weight": 1 } ] } } }
//! ```

mod ledger;
mod reply;
mod script;
pub(crate) mod wire;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{ConnectInfo, Query, State},
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::{get, post},
};
use serde::Deserialize;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

pub use ledger::{Answer, CheckIn, Conflict, Effect, Repeat, Report, Request, most_within};
pub use reply::HUGE_BODY_BYTES;
pub use script::{Garbage, Mix, Mode, Script, Step, Then, Weighted};

use crate::stopwatch::Stopwatch;
use ledger::{Asked, Ledger};
use reply::Reply;
use script::Playing;
use wire::{Wire, WireListener};

/// A running simulator; dropping it resets what is still connected.
#[derive(Debug)]
pub struct LegacySim {
    addr: SocketAddr,
    api: Arc<Api>,
    server: JoinHandle<io::Result<()>>,
}

impl LegacySim {
    /// Listens on `addr` (port 0 for any) and serves from a task of the current runtime.
    ///
    /// # Errors
    ///
    /// When the address can't be bound.
    pub async fn start(addr: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let api = Arc::new(Api::new());
        let routes = Router::new()
            .route("/checkins", post(check_in))
            .route("/_sim/report", get(async |State(api): State<Arc<Api>>| Json(api.state().ledger.report())))
            .route("/_sim/requests", get(requests))
            .route("/_sim/script", post(set_script))
            .route("/_sim/reset", post(async |State(api): State<Arc<Api>>| api.reset()))
            .with_state(Arc::clone(&api));
        let service = routes.into_make_service_with_connect_info::<Wire>();
        let server = tokio::spawn(async move { axum::serve(WireListener(listener), service).await });
        Ok(Self { addr, api, server })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where check-ins go: `http://127.0.0.1:PORT/checkins`.
    pub fn check_ins_url(&self) -> String {
        format!("{}/checkins", self.url())
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Starts playing `script` from its beginning.
    pub fn set_script(&self, script: Script) {
        self.api.state().playing = Playing::new(script);
    }

    /// Everything a test wants to know at the end.
    pub fn report(&self) -> Report {
        self.api.state().ledger.report()
    }

    /// Every request so far, in order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.api.state().ledger.requests_from(1)
    }

    /// How many requests to `/checkins` have been decided about, and news of each.
    pub fn decided(&self) -> watch::Receiver<u64> {
        self.api.decided.subscribe()
    }

    /// Forgets everything and behaves again.
    pub fn reset(&self) {
        self.api.reset();
    }
}

impl Drop for LegacySim {
    fn drop(&mut self) {
        self.server.abort();
        // Connections live in tasks of their own: their next request is reset.
        self.set_script(Script::always(Mode::Down));
    }
}

/// What the handlers share.
#[derive(Debug)]
struct Api {
    started: Stopwatch,
    /// Locked for the few lines that decide about a request, never across an await.
    state: Mutex<Memory>,
    decided: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Memory {
    playing: Playing,
    ledger: Ledger,
}

impl Api {
    fn new() -> Self {
        Self { started: Stopwatch::start(), state: Mutex::default(), decided: watch::Sender::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, Memory> {
        self.state.lock().expect("nothing panics while it decides about a request")
    }

    fn reset(&self) {
        *self.state() = Memory::default();
    }

    /// Draws a mode, records the request and says what to reply.
    fn decide(&self, headers: &HeaderMap, body: &Bytes) -> Reply {
        let key =
            headers.get("idempotency-key").and_then(|key| key.to_str().ok()).filter(|key| !key.is_empty());
        let asked = Asked {
            at_ms: self.started.elapsed_ms(),
            key: key.map(str::to_owned),
            body: String::from_utf8_lossy(body).into_owned(),
        };
        let mut state = self.state();
        let complaint = if asked.key.is_none() {
            Some("the header Idempotency-Key is missing or empty")
        } else if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_err() {
            Some("the body isn't JSON")
        } else {
            None
        };
        if let Some(reason) = complaint {
            let reply = Reply::malformed(reason);
            state.ledger.malformed(asked, reply.answer());
            return reply;
        }
        let mode = state.playing.next_mode();
        state.ledger.admit(asked, mode, reply::processes(mode), |effect, number| {
            let reply = Reply::to(mode, effect, number);
            (reply.answer(), reply)
        })
    }
}

async fn check_in(
    State(api): State<Arc<Api>>,
    ConnectInfo(wire): ConnectInfo<Wire>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let _in_flight = InFlight::begin(&api);
    let reply = api.decide(&headers, &body);
    api.decided.send_modify(|count| *count += 1);
    reply.send(wire).await
}

/// Counts a request as being answered until dropped, also when the client hangs up.
struct InFlight<'a>(&'a Api);

impl<'a> InFlight<'a> {
    fn begin(api: &'a Api) -> Self {
        api.state().ledger.begin();
        Self(api)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.state().ledger.end();
    }
}

async fn set_script(State(api): State<Arc<Api>>, Json(script): Json<Script>) -> StatusCode {
    api.state().playing = Playing::new(script);
    StatusCode::NO_CONTENT
}

/// The query of `/_sim/requests`.
#[derive(Deserialize)]
struct Since {
    #[serde(default)]
    from: u64,
}

async fn requests(State(api): State<Arc<Api>>, Query(since): Query<Since>) -> Json<Vec<Request>> {
    Json(api.state().ledger.requests_from(since.from))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::rig::wait_until;

    async fn start(script: Script) -> LegacySim {
        let sim = LegacySim::start(([127, 0, 0, 1], 0).into()).await.unwrap();
        sim.set_script(script);
        sim
    }

    async fn check_in(sim: &LegacySim, key: &str) -> reqwest::Result<reqwest::Response> {
        crate::http_client()
            .post(sim.check_ins_url())
            .header("idempotency-key", key)
            .json(&json!({ "badge": key }))
            .timeout(Duration::from_secs(5))
            .send()
            .await
    }

    /// Status, content type and body of a complete answer.
    async fn answer(sim: &LegacySim, key: &str) -> (u16, String, Vec<u8>) {
        let response = check_in(sim, key).await.unwrap();
        let content_type = response.headers().get("content-type").map(|t| t.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        (status, content_type.unwrap_or_default(), response.bytes().await.unwrap().to_vec())
    }

    async fn json_answer(sim: &LegacySim, key: &str) -> (u16, Value) {
        let (status, _, body) = answer(sim, key).await;
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_check_in_is_processed_once_and_its_repeat_is_a_duplicate() {
        let sim = start(Script::default()).await;
        assert_eq!(json_answer(&sim, "a").await, (200, json!({ "status": "ok", "id": "CHK-000001" })));
        assert_eq!(json_answer(&sim, "a").await, (200, json!({ "status": "ok", "duplicate": true })));
        let report = sim.report();
        assert_eq!((report.requests, report.processed.len(), report.repeats.len()), (2, 1, 1));
        assert_eq!(report.processed[0].body, r#"{"badge":"a"}"#);
    }

    #[tokio::test]
    async fn too_many_requests_says_when_to_come_back_and_processes_nothing() {
        let sim = start(Script::always(Mode::TooManyRequests { retry_after_s: 3 })).await;
        let response = check_in(&sim, "a").await.unwrap();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "3");
        assert!(sim.report().processed.is_empty());
    }

    #[tokio::test]
    async fn a_server_error_may_come_before_or_after_the_fact() {
        let before_and_after = [false, true].map(|processed| (Mode::ServerError { processed }, 1));
        let sim = start(Script::first(before_and_after)).await;
        assert_eq!(answer(&sim, "before").await.0, 500);
        assert_eq!(answer(&sim, "after").await.0, 500);
        let processed: Vec<_> = sim.report().processed.into_iter().map(|check_in| check_in.key).collect();
        assert_eq!(processed, ["after"]);
    }

    #[tokio::test]
    async fn a_time_out_comes_after_the_check_in_was_processed() {
        let sim = start(Script::first([(Mode::TimeoutAfterProcessing, 1)])).await;
        let patience = Duration::from_secs(5);
        tokio::select! {
            answered = check_in(&sim, "a") => panic!("{answered:?} instead of silence"),
            () = wait_until("the check-in", patience, &[], async || sim.report().processed.len() == 1) => {}
        }
        assert_eq!(json_answer(&sim, "a").await, (200, json!({ "status": "ok", "duplicate": true })));
        assert_eq!(sim.requests()[0].answer, Answer::Nothing);
    }

    #[tokio::test]
    async fn a_slow_answer_is_a_good_one() {
        let sim = start(Script::always(Mode::Slow { delay_ms: 60 })).await;
        let asked = Stopwatch::start();
        let (first, second) = tokio::join!(json_answer(&sim, "a"), json_answer(&sim, "b"));
        assert_eq!((first.0, second.0), (200, 200));
        assert!(asked.elapsed_ms() >= 60);
        assert_eq!(sim.report().most_in_flight, 2);
    }

    #[tokio::test]
    async fn an_error_inside_a_200_processes_nothing() {
        let sim = start(Script::always(Mode::ErrorInside)).await;
        let inside = json!({ "status": "error", "message": "database locked" });
        assert_eq!(json_answer(&sim, "a").await, (200, inside));
        assert!(sim.report().processed.is_empty());
    }

    #[tokio::test]
    async fn down_breaks_connections_but_the_control_routes_answer() {
        let sim = start(Script::always(Mode::Down)).await;
        assert!(check_in(&sim, "a").await.unwrap_err().is_request());
        let report = crate::http_client().get(format!("{}/_sim/report", sim.url())).send().await.unwrap();
        let report: Report = report.json().await.unwrap();
        assert_eq!((report.requests, report.processed.len()), (1, 0));
    }

    #[tokio::test]
    async fn garbage_looks_as_announced_and_is_processed_unless_said_otherwise() {
        let sim = start(Script::default()).await;
        for kind in Garbage::ALL {
            sim.reset();
            sim.set_script(Script::always(Mode::garbage(kind)));
            garbage_looks_as_announced(&sim, kind).await;
            assert_eq!(sim.report().processed.len(), 1, "{kind:?}");

            sim.reset();
            sim.set_script(Script::always(Mode::Garbage { kind, processed: false }));
            // Whether an answer can be read at all depends on the kind.
            let _ = check_in(&sim, "a").await;
            assert_eq!(sim.report().processed.len(), 0, "{kind:?}");
        }
    }

    async fn garbage_looks_as_announced(sim: &LegacySim, kind: Garbage) {
        const GOOD: &str = r#"{"id":"CHK-000001","status":"ok"}"#;
        const JSON: &str = "application/json";
        let expect = async |status: u16, content_type: &str, body: &[u8]| {
            assert_eq!(answer(sim, "a").await, (status, content_type.to_owned(), body.to_vec()), "{kind:?}");
        };
        match kind {
            Garbage::NotJson => {
                let (status, _, body) = answer(sim, "a").await;
                assert_eq!(status, 200);
                assert!(std::str::from_utf8(&body).is_err());
            }
            Garbage::TruncatedJson => expect(200, JSON, &GOOD.as_bytes()[..GOOD.len() / 2]).await,
            Garbage::WrongContentType => expect(200, "text/plain", GOOD.as_bytes()).await,
            Garbage::HugeBody => assert_eq!(answer(sim, "a").await.2.len(), HUGE_BODY_BYTES),
            Garbage::EmptyBody => expect(200, JSON, b"").await,
            Garbage::NoContent => expect(204, "", b"").await,
            Garbage::Accepted => expect(202, JSON, br#"{"status":"queued"}"#).await,
            Garbage::Redirect => {
                let response = check_in(sim, "a").await.unwrap();
                assert_eq!(
                    (response.status().as_u16(), &response.headers()["location"]),
                    (301, &"/login".parse().unwrap())
                );
            }
            Garbage::HtmlErrorPage => {
                let (status, content_type, body) = answer(sim, "a").await;
                assert_eq!((status, content_type.as_str()), (200, "text/html; charset=utf-8"));
                assert!(body.starts_with(b"<!doctype html>"));
            }
            Garbage::WrongShape => expect(200, JSON, b"[]").await,
            Garbage::WrongType => expect(200, JSON, br#"{"status":1}"#).await,
            Garbage::UnknownStatus => expect(200, JSON, br#"{"status":"maybe"}"#).await,
            Garbage::DeepJson => {
                let (_, _, body) = answer(sim, "a").await;
                assert!(
                    serde_json::from_slice::<Value>(&body).unwrap_err().to_string().contains("recursion")
                );
            }
            Garbage::FalseEncoding => {
                assert_eq!(check_in(sim, "a").await.unwrap().headers()["content-encoding"], "gzip");
            }
            Garbage::ConnectionReset | Garbage::NotHttp => {
                check_in(sim, "a").await.unwrap_err();
            }
            Garbage::CutMidBody => {
                let response = check_in(sim, "a").await.unwrap();
                assert_eq!(response.status(), 200);
                response.bytes().await.unwrap_err();
            }
        }
    }

    #[tokio::test]
    async fn one_key_with_two_bodies_is_refused_and_reported() {
        let sim = start(Script::default()).await;
        check_in(&sim, "a").await.unwrap();
        let other = crate::http_client().post(sim.check_ins_url()).header("idempotency-key", "a").body("{}");
        assert_eq!(other.send().await.unwrap().status(), 422);
        assert_eq!(sim.report().conflicts[0].other_body, "{}");
    }

    #[tokio::test]
    async fn what_was_refused_for_good_may_be_said_otherwise_under_the_same_key() {
        let sim = start(Script::first([(Mode::Refused, 1)])).await;
        assert_eq!(answer(&sim, "a").await.0, 422);
        let other = crate::http_client().post(sim.check_ins_url()).header("idempotency-key", "a").body("{}");
        assert_eq!(other.send().await.unwrap().status(), 200);
        let report = sim.report();
        assert_eq!((report.conflicts.len(), report.processed[0].body.as_str()), (0, "{}"));
    }

    #[tokio::test]
    async fn a_request_without_key_or_json_is_malformed_and_uses_up_no_step() {
        let sim = start(Script::first([(Mode::ErrorInside, 1)])).await;
        let post = || crate::http_client().post(sim.check_ins_url());
        assert_eq!(post().body("{}").send().await.unwrap().status(), 400);
        assert_eq!(post().header("idempotency-key", "a").body("{").send().await.unwrap().status(), 400);
        assert_eq!(sim.report().malformed, 2);
        assert_eq!(json_answer(&sim, "a").await.1["status"], "error");
    }

    #[tokio::test]
    async fn another_process_scripts_reads_and_resets_it() {
        let sim = start(Script::default()).await;
        let client = crate::http_client();
        let script = json!({ "steps": [{ "mode": "error_inside", "count": 1 }] });
        let set = client.post(format!("{}/_sim/script", sim.url())).json(&script).send().await.unwrap();
        assert_eq!(set.status(), 204);
        for key in ["a", "b"] {
            check_in(&sim, key).await.unwrap();
        }
        let from_2: Vec<Request> = client
            .get(format!("{}/_sim/requests?from=2", sim.url()))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        assert_eq!(from_2, sim.requests()[1..]);
        assert_eq!((from_2[0].arrival, from_2[0].effect), (2, Effect::Processed));

        client.post(format!("{}/_sim/reset", sim.url())).send().await.unwrap();
        assert_eq!(sim.report(), Report::default());
    }
}
