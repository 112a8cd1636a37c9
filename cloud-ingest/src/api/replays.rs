//! Beside the line: letters and replays in the API's words, to be looked at: whoever decides does so on the command line.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tap_protocol::ids::EventId;

use super::Served;
use super::problem::Problem;
use super::view::time;
use crate::event_store::DeliveryState;
use crate::event_store::replays::{Letters, ReplayRow, ReplayState, RowOutcome};

/// So many replays are listed.
const LISTED: usize = 100;

/// So many members of one are listed: the command line pages through all.
const ROWS: usize = 500;

/// Groups of letters.
#[derive(Debug, Serialize)]
struct Groups {
    letters: Vec<Letters>,
}

/// A replay.
#[derive(Debug, Serialize)]
pub struct Replay<'a> {
    #[serde(flatten)]
    state: &'a ReplayState,
    made_at: String,
    ended_at: Option<String>,
}

impl Replay<'_> {
    /// In the API's words.
    pub fn of(state: &ReplayState) -> Replay<'_> {
        Replay { state, made_at: time(state.made), ended_at: state.ended.map(time) }
    }
}

/// A replay with its members.
#[derive(Debug, Serialize)]
pub struct ReplayRows<'a> {
    #[serde(flatten)]
    replay: Replay<'a>,
    rows: Vec<Row<'a>>,
}

#[derive(Debug, Serialize)]
struct Row<'a> {
    n: u64,
    event_id: EventId,
    outcome: RowOutcome,
    detail: Option<&'a str>,
    ended_at: Option<String>,
    state_before: Option<DeliveryState>,
    body_before: Option<&'a str>,
}

impl<'a> ReplayRows<'a> {
    /// In the API's words.
    pub fn of(state: &'a ReplayState, rows: &'a [ReplayRow]) -> ReplayRows<'a> {
        let row = |row: &'a ReplayRow| Row {
            n: row.n,
            event_id: row.event_id,
            outcome: row.outcome,
            detail: row.detail.as_deref(),
            ended_at: row.ended.map(time),
            state_before: row.state_before,
            body_before: row.body_before.as_deref(),
        };
        ReplayRows { replay: Replay::of(state), rows: rows.iter().map(row).collect() }
    }
}

pub(super) async fn letters(State(served): State<Served>) -> Result<Response, Problem> {
    let letters = served.store.run(|store| store.letters()).await?;
    Ok(axum::Json(Groups { letters }).into_response())
}

pub(super) async fn replays(State(served): State<Served>) -> Result<Response, Problem> {
    let replays = served.store.run(|store| store.replays(LISTED)).await?;
    let replays: Vec<Replay<'_>> = replays.iter().map(Replay::of).collect();
    Ok(axum::Json(serde_json::json!({ "replays": replays })).into_response())
}

pub(super) async fn replay(
    State(served): State<Served>,
    Path(no): Path<String>,
) -> Result<Response, Problem> {
    let no: u64 = no.parse().map_err(|_| Problem::bad_request("a replay has a whole number"))?;
    let found =
        served.store.run(move |store| Ok((store.replay(no)?, store.replay_rows(no, 0, ROWS)?))).await?;
    let (Some(state), rows) = found else {
        return Err(Problem::not_found("no replay is known under this number"));
    };
    Ok(axum::Json(ReplayRows::of(&state, &rows)).into_response())
}
