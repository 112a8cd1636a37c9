//! Beside the line: the page where people see that it works, or why not. Reads only; works without JavaScript; loads
//! nothing from anywhere else.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tap_protocol::ids::EventId;

use crate::api::problem::Problem;
use crate::api::{Served, filter, read, view};
use crate::event_store::EventFilter;
use crate::read_model::ledger::ledger;

pub mod differences;
pub mod html;
mod letters;
pub mod page;

use html::Html;
use page::Snapshot;

const CSS: &str = include_str!("admin.css");
const JS: &str = include_str!("admin.js");

/// So many of the latest taps are on the page: what fits a screen and a second.
const LATEST_TAPS: usize = 25;

/// Of so many of the latest replays, those that are not over are on the page.
const LATEST_REPLAYS: usize = 20;

/// The page, its parts that are fetched each second, and its files.
pub fn routes() -> Router<Served> {
    Router::new()
        .route("/", read(overview))
        .route("/live", read(live))
        .route("/differences", read(told_otherwise))
        .route("/events/{id}", read(event))
        .route("/admin.css", read(async || ([(CONTENT_TYPE, "text/css; charset=utf-8")], CSS)))
        .route("/admin.js", read(async || ([(CONTENT_TYPE, "text/javascript; charset=utf-8")], JS)))
}

async fn overview(State(served): State<Served>) -> Result<Response, Problem> {
    Ok(html(StatusCode::OK, page::overview(&snapshot(&served).await?)))
}

/// What changes: the same markup that the whole page has.
async fn live(State(served): State<Served>) -> Result<Response, Problem> {
    Ok(html(StatusCode::OK, page::live(&snapshot(&served).await?)))
}

async fn event(State(served): State<Served>, Path(id): Path<String>) -> Result<Response, Problem> {
    let Ok(id) = id.parse::<EventId>() else {
        return Ok(html(StatusCode::NOT_FOUND, page::no_such_event()));
    };
    let (detail, destinations, sites, controllers) = served
        .store
        .run(move |store| Ok((store.event(id)?, store.destinations()?, store.sites()?, store.controllers()?)))
        .await?;
    Ok(match detail {
        Some(detail) => {
            let zone = page::zones(&sites, &controllers).remove(&detail.row.controller);
            html(
                StatusCode::OK,
                page::event(&detail, &destinations, zone.as_deref().unwrap_or("UTC"), served.clock.now()),
            )
        }
        None => html(StatusCode::NOT_FOUND, page::no_such_event()),
    })
}

async fn told_otherwise(State(served): State<Served>, uri: Uri) -> Result<Response, Problem> {
    let filter = filter::differences(uri.query().unwrap_or_default())?;
    let limit = filter.limit;
    let found = served.store.run(move |store| store.differences(&filter)).await?;
    Ok(html(StatusCode::OK, differences::differences(&view::Differences::of(&found, limit))))
}

async fn snapshot(served: &Served) -> Result<Snapshot, Problem> {
    let now = served.clock.now();
    let complaints = served.health.complaints(now);
    let snapshot = served
        .store
        .run(move |store| {
            let filter = EventFilter { taps_only: true, limit: LATEST_TAPS, ..EventFilter::default() };
            Ok(Snapshot {
                now,
                complaints,
                ledger: ledger(store.totals()?, store.delivery_counts()?),
                destinations: store.destinations()?,
                watermarks: store.watermarks()?,
                sites: store.sites()?,
                controllers: store.controllers()?,
                taps: store.events(&filter)?,
                letters: store.letters()?,
                replays: store.replays(LATEST_REPLAYS)?,
            })
        })
        .await?;
    Ok(snapshot)
}

fn html(status: StatusCode, page: Html) -> Response {
    (status, [(CONTENT_TYPE, "text/html; charset=utf-8")], page.into_string()).into_response()
}
