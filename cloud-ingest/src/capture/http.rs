//! Step 7 of 12, over HTTP: the listener that faces clients. It takes taps and nothing else; what people read is on another
//! one, [`crate::api`].
//!
//! In the order in which they cost: whose key, how often, how much, what it says; then the desk. Nothing of a body is
//! logged, because it has a clear card number.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, DefaultBodyLimit, FromRequest, Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use axum::serve::IncomingStream;
use serde_json::json;
use tap_protocol::ids::{ControllerId, EventId};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::allowance::Allowance;
use super::desk::{Desk, NotTaken};
use super::key::{KeyBook, NotGood};
use super::reading::{MAX_BODY_BYTES, Wrong, read};
use crate::api::problem::Problem;
use crate::clock::{Clock, Stopwatch};
use crate::event_store::capture::ApiKeyId;
use crate::keyring::live::LiveKeys;
use crate::telemetry::Metrics;
use crate::tls_listener::TlsListener;

/// A body of some 200 bytes has this long to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);

/// A connection is asked to end after this, so that it need not be cut ([`crate::tls_listener`]).
const POLITE_AFTER: Duration = Duration::from_secs(10 * 60);

/// When neither store nor spool can: long enough not to make it worse, short enough for a queue of people at a kiosk.
const RETRY_WHEN_FULL_S: u32 = 30;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What the handlers share.
#[derive(Clone)]
pub struct Capturing {
    /// API keys as of the last look.
    pub book: watch::Receiver<Arc<KeyBook>>,
    /// How often each may ask.
    pub allowance: Arc<Mutex<Allowance>>,
    /// Seal badges.
    pub keys: LiveKeys,
    /// Where taps are taken in.
    pub desk: Desk,
    /// The time.
    pub clock: Clock,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// Who is on the other end.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    opened: Instant,
    #[allow(dead_code, reason = "for whoever debugs a connection")]
    address: SocketAddr,
}

impl Connected<IncomingStream<'_, TlsListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Caller {
        Caller { opened: Instant::now(), address: *stream.remote_addr() }
    }
}

/// Serves until `end` is over.
pub async fn serve(
    listener: TlsListener,
    capturing: Capturing,
    end: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let service = router(capturing).into_make_service_with_connect_info::<Caller>();
    axum::serve(listener, service).with_graceful_shutdown(end).await
}

fn router(capturing: Capturing) -> Router {
    let only_post = || async {
        ([("allow", "POST")], Problem::new(StatusCode::METHOD_NOT_ALLOWED, "send a tap with POST"))
    };
    Router::new()
        .route("/api/v1/events", on(MethodFilter::POST, take).fallback(only_post))
        .fallback(async || Problem::not_found("there is nothing under this path: taps go to /api/v1/events"))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(capturing)
}

async fn take(
    State(capturing): State<Capturing>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
) -> Response {
    let watch = Stopwatch::start();
    let answer = match capturing.take(request).await {
        Ok(id) => {
            let body = json!({ "eventId": id.to_string(), "status": "queued" });
            (StatusCode::ACCEPTED, axum::Json(body)).into_response()
        }
        Err(refused) => refused.into_response(),
    };
    capturing.metrics.capture_request(answer.status().as_u16(), watch.seconds());
    let mut answer = answer;
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if caller.opened.elapsed() > POLITE_AFTER {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

impl Capturing {
    async fn take(&self, request: Request) -> Result<EventId, Refused> {
        let (api_key, source) = self.admit(request.headers())?;
        is_json(request.headers())?;
        let idempotency_key = one_text(request.headers(), &IDEMPOTENCY_KEY)?;
        let body = match timeout(BODY_TIME, Bytes::from_request(request, &())).await {
            Ok(Ok(body)) => body,
            Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                let said = format!("a tap has at most {MAX_BODY_BYTES} bytes");
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, said).into());
            }
            Ok(Err(_)) => return Err(Problem::bad_request("the body was cut off").into()),
            Err(_) => {
                let said = "the body took longer than ten seconds";
                return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, said).into());
            }
        };
        let now = self.clock.now();
        let tap = {
            let reading = read(idempotency_key.as_deref(), &body, now)?;
            reading.captured(source, api_key, self.keys.now().token_keys(), now)
        };
        drop(body);
        Ok(self.desk.take(tap).await?)
    }

    /// Whose key it is, and whether it may ask now.
    fn admit(&self, headers: &HeaderMap) -> Result<(ApiKeyId, ControllerId), Refused> {
        let now = self.clock.now();
        let authorization = one_text(headers, &AUTHORIZATION).map_err(|_| NotGood::Missing)?;
        let known = self.book.borrow().source(authorization.as_deref(), now)?;
        // Nothing that can panic is done under this lock, and what it guards is whole at any moment.
        let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        allowance.may_ask(known.0, now).map_err(|wait_ms| Refused::TooOften { wait_ms })?;
        Ok(known)
    }
}

/// The text of a header that may be there once.
fn one_text(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Refused> {
    let mut all = headers.get_all(name).iter();
    let wrong = || Refused::from(Problem::bad_request(format!("send {name} once, as plain ASCII")));
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => Ok(Some(value.to_str().map_err(|_| wrong())?.to_owned())),
        (Some(_), Some(_)) => Err(wrong()),
    }
}

fn is_json(headers: &HeaderMap) -> Result<(), Refused> {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send the tap as application/json").into())
}

/// Why a request is not answered with 202.
enum Refused {
    Key(NotGood),
    TooOften { wait_ms: u64 },
    Problem(Problem),
    Wrong(Wrong),
    NotTaken(NotTaken),
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Refused::Key(why) => {
                let problem = Problem::new(StatusCode::UNAUTHORIZED, why.to_string());
                ([(WWW_AUTHENTICATE, "Bearer")], problem).into_response()
            }
            Refused::TooOften { wait_ms } => {
                let wait_s = wait_ms.div_ceil(1_000).max(1).to_string();
                let said = "this API key sends faster than it may: wait, then send the same request again";
                ([(RETRY_AFTER, wait_s)], Problem::new(StatusCode::TOO_MANY_REQUESTS, said)).into_response()
            }
            Refused::Problem(problem) => problem.into_response(),
            Refused::Wrong(Wrong::Form(why)) => Problem::bad_request(why).into_response(),
            Refused::Wrong(Wrong::Value(why)) => {
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why).into_response()
            }
            Refused::NotTaken(NotTaken::OtherUnderKey) => {
                let said = "another tap came before under this Idempotency-Key: use a new key for each tap, and the same \
                            one only to repeat the same request";
                Problem::new(StatusCode::CONFLICT, said).into_response()
            }
            Refused::NotTaken(NotTaken::KeyEnded) => Refused::Key(NotGood::Revoked).into_response(),
            Refused::NotTaken(NotTaken::NoRoom(_)) => {
                let said = "taps cannot be stored now, and the spool has no room: keep the tap, and send the same request \
                            again";
                let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, said);
                ([(RETRY_AFTER, RETRY_WHEN_FULL_S.to_string())], problem).into_response()
            }
        }
    }
}

impl From<NotGood> for Refused {
    fn from(why: NotGood) -> Refused {
        Refused::Key(why)
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Refused {
        Refused::Problem(problem)
    }
}

impl From<Wrong> for Refused {
    fn from(wrong: Wrong) -> Refused {
        Refused::Wrong(wrong)
    }
}

impl From<NotTaken> for Refused {
    fn from(why: NotTaken) -> Refused {
        Refused::NotTaken(why)
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
