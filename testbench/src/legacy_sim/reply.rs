//! From a mode to the bytes that go back; it doesn't know who asked.

use std::time::Duration;

use axum::{
    body::Body,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{
    ledger::{Answer, Effect},
    script::{Garbage, Mode},
    wire::{Order, Wire},
};

/// The size of a [`Garbage::HugeBody`]: more than any client should be willing to keep in memory.
pub const HUGE_BODY_BYTES: usize = 8 << 20;

/// How deep a [`Garbage::DeepJson`] goes: enough to overflow the stack of a careless recursive parser.
const DEEP_JSON_LEVELS: usize = 100_000;

/// What goes back to the client.
pub(super) struct Reply {
    after: Duration,
    what: What,
}

enum What {
    Http(Response),
    Wire(Order),
    Silence,
}

impl Reply {
    /// The reply of `mode` to a check-in with this `effect`, whose key stands for the check-in `number`.
    pub(super) fn to(mode: Mode, effect: Effect, number: Option<u64>) -> Self {
        let at_once = |what| Self { after: Duration::ZERO, what };
        if effect == Effect::Conflict {
            return at_once(What::Http(key_reused()));
        }
        match mode {
            Mode::Ok => at_once(What::Http(good(effect, number))),
            Mode::Slow { delay_ms } => {
                Self { after: Duration::from_millis(delay_ms), what: What::Http(good(effect, number)) }
            }
            Mode::TooManyRequests { retry_after_s } => at_once(What::Http(
                (
                    StatusCode::TOO_MANY_REQUESTS,
                    [(header::RETRY_AFTER, retry_after_s.to_string())],
                    "slow down",
                )
                    .into_response(),
            )),
            Mode::ServerError { .. } => at_once(What::Http(
                (StatusCode::INTERNAL_SERVER_ERROR, "Unhandled exception in CheckInController")
                    .into_response(),
            )),
            Mode::TimeoutAfterProcessing => at_once(What::Silence),
            Mode::Garbage { kind, .. } => at_once(garbage(kind, effect, number)),
            Mode::ErrorInside => {
                at_once(What::Http(json_body(json!({ "status": "error", "message": "database locked" }))))
            }
            Mode::Refused => at_once(What::Http(
                (StatusCode::UNPROCESSABLE_ENTITY, axum::Json(json!({ "error": "no such person" })))
                    .into_response(),
            )),
            Mode::Down => at_once(What::Wire(Order::Reset)),
        }
    }

    /// 400, for a request that no mode applies to.
    pub(super) fn malformed(reason: &'static str) -> Self {
        let body = json!({ "status": "error", "message": reason });
        let response = (StatusCode::BAD_REQUEST, axum::Json(body)).into_response();
        Self { after: Duration::ZERO, what: What::Http(response) }
    }

    /// What the ledger says about it.
    pub(super) fn answer(&self) -> Answer {
        match &self.what {
            What::Http(response) => Answer::Status(response.status().as_u16()),
            What::Wire(_) => Answer::Broken,
            What::Silence => Answer::Nothing,
        }
    }

    /// Sends it: the response to return, or an order to the wire and a response that nobody will see.
    ///
    /// Silence never returns; the server drops this future when the client hangs up.
    pub(super) async fn send(self, wire: Wire) -> Response {
        tokio::time::sleep(self.after).await;
        match self.what {
            What::Http(response) => response,
            What::Wire(order) => {
                wire.give(order);
                ().into_response()
            }
            What::Silence => std::future::pending().await,
        }
    }
}

/// Whether `mode` records the check-in.
pub(super) fn processes(mode: Mode) -> bool {
    match mode {
        Mode::Ok | Mode::Slow { .. } | Mode::TimeoutAfterProcessing => true,
        Mode::ServerError { processed } | Mode::Garbage { processed, .. } => processed,
        Mode::TooManyRequests { .. } | Mode::ErrorInside | Mode::Refused | Mode::Down => false,
    }
}

fn good(effect: Effect, number: Option<u64>) -> Response {
    json_body(good_body(effect, number))
}

fn good_body(effect: Effect, number: Option<u64>) -> serde_json::Value {
    match effect {
        Effect::Duplicate => json!({ "status": "ok", "duplicate": true }),
        Effect::Processed | Effect::Conflict | Effect::Ignored => {
            json!({ "status": "ok", "id": format!("CHK-{:06}", number.unwrap_or(0)) })
        }
    }
}

fn json_body(body: serde_json::Value) -> Response {
    axum::Json(body).into_response()
}

fn key_reused() -> Response {
    let body = json!({ "status": "error", "message": "this idempotency key came with another body before" });
    (StatusCode::UNPROCESSABLE_ENTITY, axum::Json(body)).into_response()
}

fn garbage(kind: Garbage, effect: Effect, number: Option<u64>) -> What {
    const JSON: &str = "application/json";
    let good = good_body(effect, number).to_string();
    let labelled = |content_type: &'static str, body: Vec<u8>| {
        What::Http(([(header::CONTENT_TYPE, content_type)], body).into_response())
    };
    match kind {
        Garbage::NotJson => labelled(JSON, vec![0x00, 0xFF, 0xFE, 0x7B, 0x22, 0xC3, 0x28]),
        Garbage::TruncatedJson => labelled(JSON, good.as_bytes()[..good.len() / 2].to_vec()),
        Garbage::WrongContentType => labelled("text/plain", good.into_bytes()),
        Garbage::HugeBody => {
            let mut body = good.into_bytes();
            // Trailing white space keeps it valid JSON.
            body.resize(HUGE_BODY_BYTES, b' ');
            labelled(JSON, body)
        }
        Garbage::EmptyBody => labelled(JSON, Vec::new()),
        Garbage::NoContent => What::Http(StatusCode::NO_CONTENT.into_response()),
        Garbage::Accepted => {
            What::Http((StatusCode::ACCEPTED, axum::Json(json!({ "status": "queued" }))).into_response())
        }
        Garbage::Redirect => What::Http(
            (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, "/login")], Body::empty()).into_response(),
        ),
        Garbage::HtmlErrorPage => labelled(
            "text/html; charset=utf-8",
            b"<!doctype html><title>OperationalError</title><h1>OperationalError at /checkins</h1>".to_vec(),
        ),
        Garbage::WrongShape => labelled(JSON, b"[]".to_vec()),
        Garbage::WrongType => labelled(JSON, br#"{"status":1}"#.to_vec()),
        Garbage::UnknownStatus => labelled(JSON, br#"{"status":"maybe"}"#.to_vec()),
        Garbage::DeepJson => {
            let mut body = vec![b'['; DEEP_JSON_LEVELS];
            body.resize(2 * DEEP_JSON_LEVELS, b']');
            labelled(JSON, body)
        }
        Garbage::FalseEncoding => What::Http(
            ([(header::CONTENT_TYPE, JSON), (header::CONTENT_ENCODING, "gzip")], good).into_response(),
        ),
        Garbage::ConnectionReset => What::Wire(Order::Reset),
        Garbage::CutMidBody => {
            let half = &good[..good.len() / 2];
            let length = good.len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {JSON}\r\ncontent-length: {length}\r\n\r\n");
            What::Wire(Order::SendAndClose([head.as_bytes(), half.as_bytes()].concat()))
        }
        Garbage::NotHttp => What::Wire(Order::SendAndClose(b"-ERR unknown command 'POST'\r\n".to_vec())),
    }
}
