//! A Frappe HR site on loopback, as far as check-ins go, with the traps that the real one has; it doesn't know Tapline.
//!
//! | route | |
//! |---|---|
//! | `POST /api/method/…add_log_based_on_employee_field` | adds a log, or does not, by [`Site`]'s rules |
//! | `GET /api/method/frappe.auth.get_logged_user` | who asks |
//! | `GET /api/resource/{doctype}` | *User*, *Employee*, *Employee Checkin*, *Shift Type*, with filters and fields |
//! | `GET`, `PUT /api/resource/Shift Type/{name}` | one shift type, and its *Last Sync of Checkin* |
//! | `DELETE /api/resource/Employee Checkin/{name}` | a log goes |
//! | `GET /_sim/report` | all logs and attendance, as JSON |
//! | `POST /_sim/faults` | what happens to the next logs: a list of [`Fault`]s |
//! | `POST /_sim/hourly` | the hourly job runs now |
//!
//! Every rule says in its comment where it comes from. What a test needs beyond them, a [`Fault`] brings.

mod attendance;
mod limiter;
mod site;
mod thrown;

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{ConnectInfo, Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use jiff::civil::DateTime;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

pub use attendance::{Attendance, ShiftType, Status};
pub use limiter::RateLimit;
pub use site::{Employee, Log, Role, Site, User, Version};

use crate::legacy_sim::wire::{Order, Wire, WireListener};
use limiter::Limiter;
use site::{Filter, NewLog, log_document};
use thrown::Thrown;

/// What happens to one log beside the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Stored, and then silence: the client cannot know.
    SilenceAfterStoring,
    /// Validated, and then it waits between check and insert until [`FrappeSim::open_gate`]: a slow worker.
    WaitBeforeInsert,
    /// Stored; the answer's head comes, and its body never ends.
    BodyThatNeverEnds,
    /// Not stored; a maintenance page with 200.
    HtmlPage,
    /// Stored; the web server before Frappe lost patience: 504 and a page.
    GatewayTimeout,
    /// Not stored; 200 with an exception in it.
    ErrorInside,
    /// Not stored; 500 with an exception, rolled back.
    ServerError,
    /// Not stored; the connection is reset.
    Reset,
    /// Not stored; 503 with `Retry-After`: the site is being updated (`SessionStopped`).
    Updating,
    /// Not stored; the database found a deadlock (`QueryDeadlockError`).
    Deadlock,
}

/// What is wrong with the site, or a part of it, until that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// The web server before Frappe has nobody behind it: 502 and a page for everything.
    Site,
    /// Whatever touches a shift type fails: 500 with an exception.
    ShiftTypes,
    /// Whatever touches a shift type is never answered.
    ShiftTypesSilent,
}

/// A running simulator; dropping it resets what is still connected.
#[derive(Debug)]
pub struct FrappeSim {
    addr: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<io::Result<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<Running>,
    /// Whether logs that wait before their insert may go on.
    gate: watch::Sender<bool>,
}

#[derive(Debug)]
struct Running {
    site: Site,
    /// What clocks at the site show; those of this machine if nobody has set them.
    now: Option<DateTime>,
    faults: VecDeque<Fault>,
    outage: Option<Outage>,
    limiter: Limiter,
    /// Method and path of every request, in order of arrival.
    asked: Vec<String>,
    /// How many wait before their insert.
    waiting: usize,
}

impl FrappeSim {
    /// Listens on `addr` (port 0 for any) and serves from a task of the current runtime.
    ///
    /// # Errors
    ///
    /// When the address can't be bound.
    pub async fn start(addr: SocketAddr, site: Site) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let running = Running {
            site,
            now: None,
            faults: VecDeque::new(),
            outage: None,
            limiter: Limiter::default(),
            asked: Vec::new(),
            waiting: 0,
        };
        let shared = Arc::new(Shared { state: Mutex::new(running), gate: watch::Sender::new(false) });
        let routes = Router::new()
            .route("/api/method/{method}", get(call).post(call))
            .route("/api/resource/{doctype}", get(list))
            .route("/api/resource/{doctype}/{name}", put(document).get(document).delete(document))
            .route("/_sim/report", get(report))
            .route("/_sim/faults", post(set_faults))
            .route("/_sim/hourly", post(hourly))
            .with_state(Arc::clone(&shared));
        let service = routes.into_make_service_with_connect_info::<Wire>();
        let server = tokio::spawn(async move { axum::serve(WireListener(listener), service).await });
        Ok(Self { addr, shared, server })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Looks at the site, or changes it.
    pub fn site<T>(&self, with: impl FnOnce(&mut Site) -> T) -> T {
        with(&mut self.shared.state().site)
    }

    /// Sets the clocks at the site.
    pub fn set_now(&self, now: DateTime) {
        self.shared.state().now = Some(now);
    }

    /// What happens to the next logs, one each.
    pub fn set_faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.shared.state().faults = faults.into_iter().collect();
    }

    /// What is wrong from now on, if anything.
    pub fn set_outage(&self, outage: Option<Outage>) {
        self.shared.state().outage = outage;
    }

    /// Lets logs go on that wait before their insert, and those that will.
    pub fn open_gate(&self) {
        self.shared.gate.send_replace(true);
    }

    /// How many logs wait before their insert.
    pub fn waiting(&self) -> usize {
        self.shared.state().waiting
    }

    /// Requests cost this much of the site's processing time, of which there is so much per window.
    pub fn set_rate_limit(&self, limit: RateLimit) {
        self.shared.state().limiter = Limiter::new(limit);
    }

    /// Method and path of every request so far.
    pub fn asked(&self) -> Vec<String> {
        self.shared.state().asked.clone()
    }

    /// What the scheduler does every hour, now.
    pub fn hourly(&self) {
        let mut state = self.shared.state();
        let now = state.now();
        state.site.hourly(now);
    }
}

impl Running {
    fn now(&self) -> DateTime {
        self.now.unwrap_or_else(|| jiff::Zoned::now().datetime())
    }
}

impl Drop for FrappeSim {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Running> {
        self.state.lock().expect("nothing panics while it decides about a request")
    }

    /// What comes before every request: the limit, and who asks.
    fn refuses(&self, what: String, headers: &HeaderMap) -> Option<Response> {
        let mut state = self.state();
        state.asked.push(what);
        if state.outage == Some(Outage::Site) {
            return Some(page(StatusCode::BAD_GATEWAY, "502 Bad Gateway"));
        }
        let now = state.now();
        if let Err(too_many) = state.limiter.admit(now) {
            return Some(too_many.into_response());
        }
        let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let user = &state.site.user;
        if token != Some(&format!("token {}", user.token)) {
            let thrown =
                Thrown { class: "AuthenticationError", status: 401, message: "Invalid token".into() };
            return Some(thrown.into_response(&user.language));
        }
        None
    }

    fn answer(&self, result: Result<Value, Thrown>) -> Response {
        let state = self.state();
        let response = match result {
            Ok(body) => Json(body).into_response(),
            Err(thrown) => thrown.into_response(&state.site.user.language),
        };
        state.limiter.stamped(state.now(), response)
    }
}

async fn call(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(wire): ConnectInfo<Wire>,
    Path(method): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refused) = shared.refuses(format!("call {method}"), &headers) {
        return refused;
    }
    let known = shared.state().site.version.method();
    if method == "frappe.auth.get_logged_user" {
        let user = shared.state().site.user.name.clone();
        return shared.answer(Ok(json!({ "message": user })));
    }
    if method != known {
        // `frappe/handler.py`: a method of an application that is not installed.
        let message = format!("Failed to get method for command {method} with No module named");
        return (StatusCode::NOT_FOUND, Json(json!({ "message": message }))).into_response();
    }
    let Ok(new) = serde_json::from_slice::<NewLog>(&body) else {
        return shared.answer(Err(Thrown::server("JSONDecodeError", "Expecting value")));
    };
    add_log(&shared, wire, new).await
}

async fn add_log(shared: &Arc<Shared>, wire: Wire, new: NewLog) -> Response {
    let fault = shared.state().faults.pop_front();
    match fault {
        Some(Fault::HtmlPage) => return page(StatusCode::OK, "Sorry! We will be back soon."),
        Some(Fault::ErrorInside) => {
            let inside = json!({ "exc_type": "OperationalError", "message": "MySQL server has gone away" });
            return Json(inside).into_response();
        }
        Some(Fault::ServerError) => {
            return shared.answer(Err(Thrown::server("OperationalError", "MySQL server has gone away")));
        }
        Some(Fault::Deadlock) => {
            let thrown = Thrown { class: "QueryDeadlockError", ..Thrown::validation("Deadlock found") };
            return shared.answer(Err(thrown));
        }
        Some(Fault::Updating) => {
            let page = page(StatusCode::SERVICE_UNAVAILABLE, "Your system is being updated.");
            return ([(header::RETRY_AFTER, "9")], page).into_response();
        }
        Some(Fault::Reset) => return on_the_wire(wire, Order::Reset),
        _ => {}
    }
    // On a task of its own: a worker goes on though its client is gone.
    let worker =
        tokio::spawn(check_and_insert(Arc::clone(shared), new, fault == Some(Fault::WaitBeforeInsert)));
    let stored = worker.await.expect("a worker decides");
    let body = stored.map(|log| json!({ "message": log_document(&log) }));
    match fault {
        Some(Fault::SilenceAfterStoring) => std::future::pending().await,
        Some(Fault::GatewayTimeout) => page(StatusCode::GATEWAY_TIMEOUT, "504 Gateway Time-out"),
        Some(Fault::BodyThatNeverEnds) => {
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{\"mes";
            on_the_wire(wire, Order::SendAndHold(head.into()))
        }
        _ => shared.answer(body),
    }
}

/// Nothing is locked between the check and the insert.
async fn check_and_insert(shared: Arc<Shared>, new: NewLog, waits: bool) -> Result<Log, Thrown> {
    let log = {
        let state = shared.state();
        state.site.validate(&new, state.now())?
    };
    if waits {
        let mut gate = shared.gate.subscribe();
        shared.state().waiting += 1;
        let opened = gate.wait_for(|open| *open).await.is_ok();
        shared.state().waiting -= 1;
        assert!(opened, "the gate lives as long as whoever waits at it");
    }
    shared.state().site.insert(log)
}

fn page(status: StatusCode, text: &str) -> Response {
    let html = format!("<!doctype html><title>{text}</title><h1>{text}</h1>");
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response()
}

fn on_the_wire(wire: Wire, order: Order) -> Response {
    wire.give(order);
    ().into_response()
}

/// The query of a list; filters and fields are JSON in it.
#[derive(Deserialize)]
struct Listing {
    #[serde(default = "none")]
    filters: String,
    #[serde(default = "none")]
    fields: String,
    #[serde(default = "twenty")]
    limit_page_length: usize,
}

fn none() -> String {
    "[]".into()
}

/// Frappe's default.
fn twenty() -> usize {
    20
}

async fn list(
    State(shared): State<Arc<Shared>>,
    Path(doctype): Path<String>,
    Query(listing): Query<Listing>,
    headers: HeaderMap,
) -> Response {
    if let Some(refused) = shared.refuses(format!("list {doctype}"), &headers) {
        return refused;
    }
    let filters = serde_json::from_str::<Vec<Filter>>(&listing.filters);
    let fields = serde_json::from_str::<Vec<String>>(&listing.fields);
    let (Ok(filters), Ok(fields)) = (filters, fields) else {
        return shared.answer(Err(Thrown::validation("Invalid filters or fields")));
    };
    let found = shared.state().site.list(&doctype, &filters, &fields);
    let found = found.map(|mut found| {
        found.truncate(listing.limit_page_length);
        json!({ "data": found })
    });
    shared.answer(found)
}

async fn document(
    State(shared): State<Arc<Shared>>,
    Path((doctype, name)): Path<(String, String)>,
    method: axum::http::Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refused) = shared.refuses(format!("{method} {doctype}").to_lowercase(), &headers) {
        return refused;
    }
    let outage = shared.state().outage.filter(|_| doctype == "Shift Type");
    match outage {
        Some(Outage::ShiftTypes) => {
            return shared.answer(Err(Thrown::server("OperationalError", "MySQL server has gone away")));
        }
        Some(Outage::ShiftTypesSilent) => return std::future::pending().await,
        Some(Outage::Site) | None => {}
    }
    let result = {
        let site = &mut shared.state().site;
        match (method.as_str(), doctype.as_str()) {
            ("GET", "Shift Type") => site.shift_type(&name).map(|shift| json!({ "data": shift.document() })),
            ("PUT", "Shift Type") => {
                let body = serde_json::from_slice::<Value>(&body).unwrap_or_default();
                let to = body["last_sync_of_checkin"].as_str().unwrap_or_default();
                site.move_last_sync(&name, to).map(|document| json!({ "data": document }))
            }
            ("DELETE", "Employee Checkin") => {
                let deleted = site.delete_log(&name);
                deleted.map(|()| json!({ "message": "ok" }))
            }
            _ => Err(Thrown::missing(format!("{doctype} {name} not found"))),
        }
    };
    let status = if method == "DELETE" && result.is_ok() { StatusCode::ACCEPTED } else { StatusCode::OK };
    let mut response = shared.answer(result);
    if status == StatusCode::ACCEPTED {
        *response.status_mut() = status;
    }
    response
}

/// What a person or a test wants to see.
async fn report(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let state = shared.state();
    let logs: Vec<Value> = state.site.logs.iter().map(log_document).collect();
    let attendance: Vec<Value> = state.site.attendance.iter().map(Attendance::document).collect();
    Json(json!({ "logs": logs, "attendance": attendance, "asked": state.asked }))
}

async fn set_faults(State(shared): State<Arc<Shared>>, Json(faults): Json<VecDeque<Fault>>) -> StatusCode {
    shared.state().faults = faults;
    StatusCode::NO_CONTENT
}

async fn hourly(State(shared): State<Arc<Shared>>) -> StatusCode {
    let mut state = shared.state();
    let now = state.now();
    state.site.hourly(now);
    StatusCode::NO_CONTENT
}
