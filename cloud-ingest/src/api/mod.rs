//! Beside the line: what people and monitoring read over HTTP. Read only: there is no login yet, so nothing here
//! changes anything, and the listener belongs on a private address.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use serde_json::json;
use tap_protocol::ids::{ControllerId, EventId};

use crate::clock::Clock;
use crate::event_store::handle::StoreHandle;
use crate::health::Health;
use crate::read_model;
use crate::read_model::ledger::ledger;
use crate::telemetry::{self, Metrics};

pub mod filter;
pub mod problem;
pub mod replays;
pub mod view;

use problem::Problem;

/// What the handlers share.
#[derive(Clone)]
pub struct Served {
    /// The store.
    pub store: StoreHandle,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// What the loops say of themselves.
    pub health: Arc<Health>,
    /// The time.
    pub clock: Clock,
}

/// The API, the health checks and the metrics; the admin page is added by its own module.
pub fn router(served: Served) -> Router {
    Router::new()
        .route("/api/v1/events", read(events))
        .route("/api/v1/events/{id}", read(event))
        .route("/api/v1/controllers", read(controllers))
        .route("/api/v1/controllers/{id}", read(controller))
        .route("/api/v1/differences", read(differences))
        .route("/api/v1/ledger", read(the_ledger))
        .route("/api/v1/letters", read(replays::letters))
        .route("/api/v1/replays", read(replays::replays))
        .route("/api/v1/replays/{no}", read(replays::replay))
        .route("/api/v1/watermarks", read(watermarks))
        .merge(crate::admin::routes())
        .merge(monitored())
        .fallback(async || Problem::not_found("there is nothing under this path"))
        .layer(axum::middleware::map_response(harden))
        .with_state(served)
}

/// What a process answers that leaves people and their questions to another one.
pub fn monitoring(served: Served) -> Router {
    monitored()
        .fallback(async || Problem::not_found("this process answers no questions: ask one with --role api"))
        .layer(axum::middleware::map_response(harden))
        .with_state(served)
}

/// For monitoring and for whoever starts and stops processes.
fn monitored() -> Router<Served> {
    Router::new()
        .route("/health/live", read(live))
        .route("/health/ready", read(ready))
        .route("/metrics", read(metrics))
}

/// GET and HEAD; anything else is answered with 405 and what is allowed.
pub(crate) fn read<H, T>(handler: H) -> MethodRouter<Served>
where
    H: axum::handler::Handler<T, Served>,
    T: 'static,
{
    on(MethodFilter::GET, handler).fallback(async || {
        (
            [("allow", "GET, HEAD")],
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed here"),
        )
    })
}

/// Headers of every answer. The policy allows what the admin page needs and nothing from anywhere else.
async fn harden(mut response: Response) -> Response {
    const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                          img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
    let headers = response.headers_mut();
    for (name, value) in [
        ("content-security-policy", POLICY),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

async fn events(State(served): State<Served>, uri: axum::http::Uri) -> Result<Response, Problem> {
    let filter = filter::from_query(uri.query().unwrap_or_default())?;
    let limit = filter.limit;
    let rows = served.store.run(move |store| store.events(&filter)).await?;
    Ok(axum::Json(view::Events::of(&rows, limit)).into_response())
}

async fn event(State(served): State<Served>, Path(id): Path<String>) -> Result<Response, Problem> {
    let id: EventId = id.parse().map_err(|error| Problem::bad_request(format!("{error}")))?;
    let (detail, destinations, segment) = served
        .store
        .run(move |store| Ok((store.event(id)?, store.destinations()?, store.segment_with(id)?)))
        .await?;
    let detail = detail.ok_or_else(|| match segment {
        Some(file) => Problem::new(StatusCode::GONE, format!("the event is archived in {file}"))
            .with("segment", file.into()),
        None => Problem::not_found("no event is stored under this id"),
    })?;
    Ok(axum::Json(view::Detail::of(&detail, &destinations, served.clock.now())).into_response())
}

async fn differences(State(served): State<Served>, uri: axum::http::Uri) -> Result<Response, Problem> {
    let filter = filter::differences(uri.query().unwrap_or_default())?;
    let limit = filter.limit;
    let found = served.store.run(move |store| store.differences(&filter)).await?;
    Ok(axum::Json(view::Differences::of(&found, limit)).into_response())
}

async fn controllers(State(served): State<Served>) -> Result<Response, Problem> {
    let (states, fleet) = served.store.run(|store| Ok((store.controllers()?, store.fleet()?))).await?;
    Ok(axum::Json(view::Controllers::of(&states, &fleet, served.clock.now())).into_response())
}

async fn controller(State(served): State<Served>, Path(id): Path<String>) -> Result<Response, Problem> {
    let id: ControllerId = id.parse().map_err(|error| Problem::bad_request(format!("{error}")))?;
    let found = served.store.run(move |store| read_model::controller::of(store, &id)).await?;
    let found = found.ok_or_else(|| Problem::not_found("no controller is known under this id"))?;
    Ok(axum::Json(view::ControllerDetail::of(&found, served.clock.now())).into_response())
}

async fn the_ledger(State(served): State<Served>) -> Result<Response, Problem> {
    let read = served.store.run(|store| {
        let ledger = ledger(store.totals()?, store.delivery_counts()?);
        Ok(ledger.with_archived(store.archived()?).with(store.rereading()?))
    });
    let ledger = read.await?;
    Ok(axum::Json(ledger).into_response())
}

async fn watermarks(State(served): State<Served>) -> Result<Response, Problem> {
    let rows = served.store.run(|store| store.watermarks()).await?;
    Ok(axum::Json(view::Watermarks::of(&rows, served.clock.now())).into_response())
}

async fn live() -> Response {
    axum::Json(json!({ "status": "live" })).into_response()
}

async fn ready(State(served): State<Served>) -> Response {
    let complaints = served.health.complaints(served.clock.now());
    if complaints.is_empty() {
        axum::Json(json!({ "status": "ready", "intake": served.health.intake() })).into_response()
    } else {
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, complaints.join("; "));
        problem.with("reasons", json!(complaints)).into_response()
    }
}

async fn metrics(State(served): State<Served>) -> Response {
    ([(CONTENT_TYPE, telemetry::CONTENT_TYPE)], served.metrics.render(&served.health)).into_response()
}

#[cfg(test)]
mod tests;
