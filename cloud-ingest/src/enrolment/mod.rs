//! Beside the line: how a controller comes by its certificate and keys, over HTTPS. The shapes are
//! [`tap_protocol::enrolment`]; what may be done is decided by the store, in the transaction that does it.
//!
//! Whoever asks is a stranger until its token or its record key has proved otherwise. An answer tells the person at the
//! door what to do, and nobody anything of the inside; the one answer with secrets in it is the bundle.

pub mod bundle;
pub mod challenge;
pub mod pace;
pub mod proof;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use data_encoding::BASE32_NOPAD;
use ring::digest::{SHA256, digest};
use rustls::SupportedProtocolVersion;
use serde::de::DeserializeOwned;
use serde_json::json;
use tap_protocol::enrolment::{Bundle, Challenge, ENROLL_LABEL, EnrollRequest, RENEW_LABEL, RenewRequest};

use self::bundle::Made;
use self::challenge::{Challenges, NotGood};
use self::pace::Pace;
use crate::api::problem::Problem;
use crate::api::view;
use crate::clock::Clock;
use crate::config::EnrolmentEntry;
use crate::event_store::handle::StoreHandle;
use crate::event_store::{Enrolment, Refusal, Renewal, Standing, UtcMs, good_keys, may_enroll};
use crate::keyring::live::LiveKeys;
use crate::keyring::{Keys, random};
use crate::telemetry::with_causes;
use crate::tls_listener::{Certificate, Listening, Peer, TlsListener};

/// A request has two keys and their proofs: under 2 KiB.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// An agent's version as it may be written down.
const MAX_VERSION_BYTES: usize = 64;

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// A whole conversation, challenge and bundle, takes seconds.
const LIFETIME: Duration = Duration::from_secs(60);

/// Our own agents speak it.
static VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// What its listener is.
pub fn listening(names: Vec<String>, keys: LiveKeys) -> Listening {
    Listening {
        what: "enrolment",
        certificate: Certificate::OfOurRoot { names, keys },
        lifetime: LIFETIME,
        versions: VERSIONS,
    }
}

/// What the handlers share.
#[derive(Clone)]
pub struct Enrolling {
    store: StoreHandle,
    keys: LiveKeys,
    settings: Arc<EnrolmentEntry>,
    clock: Clock,
    challenges: Arc<Mutex<Challenges>>,
    pace: Arc<Mutex<Pace>>,
}

impl Enrolling {
    /// With a secret for its challenges that lives as long as the process.
    pub fn new(
        store: StoreHandle,
        keys: LiveKeys,
        settings: EnrolmentEntry,
        clock: Clock,
    ) -> anyhow::Result<Enrolling> {
        let challenges = Arc::new(Mutex::new(Challenges::new(&random()?)));
        Ok(Enrolling { store, keys, settings: Arc::new(settings), clock, challenges, pace: Arc::default() })
    }
}

/// Serves until `end` is over.
pub async fn serve(
    listener: TlsListener,
    enrolling: Enrolling,
    end: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let service = router(enrolling).into_make_service_with_connect_info::<Peer>();
    axum::serve(listener, service).with_graceful_shutdown(end).await
}

fn router(enrolling: Enrolling) -> Router {
    Router::new()
        .route("/enrol/v1/challenge", get(give_challenge))
        .route("/enrol/v1/enroll", post(enroll))
        .route("/enrol/v1/renew", post(renew))
        .fallback(async || Problem::not_found("there is nothing under this path"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path is asked in another way")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(axum::middleware::from_fn_with_state(enrolling.clone(), slow_down))
        .with_state(enrolling)
}

async fn slow_down(
    State(enrolling): State<Enrolling>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let now = enrolling.clock.now();
    let verdict = lock(&enrolling.pace).may_ask(peer.ip(), now);
    let mut response = match verdict {
        Ok(()) => next.run(request).await,
        Err(wait_ms) => {
            let wait_s = wait_ms.div_ceil(1_000).max(1);
            let said = format!("too many questions from this address: wait {wait_s} s and try again");
            let mut refused = Problem::new(StatusCode::TOO_MANY_REQUESTS, said).into_response();
            refused.headers_mut().insert("retry-after", HeaderValue::from(wait_s));
            refused
        }
    };
    response.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
    response
}

async fn give_challenge(State(enrolling): State<Enrolling>) -> Result<axum::Json<Challenge>, Problem> {
    let random = random().map_err(|error| inside(&error))?;
    let challenge = lock(&enrolling.challenges).make(enrolling.clock.now(), random);
    Ok(axum::Json(Challenge { challenge }))
}

async fn enroll(
    State(enrolling): State<Enrolling>,
    body: Result<Bytes, BytesRejection>,
) -> Result<axum::Json<Bundle>, Problem> {
    let request: EnrollRequest = read(body)?;
    let now = enrolling.clock.now();
    enrolling.take(&request.challenge, now)?;
    let id = base32(&request.token_id).ok_or_else(|| refused(&Refusal::UnknownToken))?;
    let secret: [u8; 16] = base32(&request.token_secret).ok_or_else(|| refused(&Refusal::UnknownToken))?;
    let secret_sha256 = digest(&SHA256, &secret).as_ref().try_into().expect("SHA-256 has 32 bytes");
    let token = enrolling.store.run(move |store| store.enroll_token(id)).await?;
    // Who has no token is told so before anything is worked out for it.
    let name = token.as_ref().map_or_else(String::new, |state| state.token.controller.to_string());
    let device = proof::prove(ENROLL_LABEL, &request.challenge, &request.token_id, &request.keys);
    let device = match (token.is_some(), device) {
        (false, _) => return Err(refused(&Refusal::UnknownToken)),
        (true, device) => device.map_err(bad_keys)?,
    };
    let keys = enrolling.keys.now();
    let made = enrolling.make(&name, device, &request.agent_version, &keys, now)?;
    let enrolment = Enrolment { token: id, secret_sha256, issue: made.issue.clone() };
    may_enroll(token.as_ref(), &enrolment).map_err(|why| refused(&why))?;
    let done = enrolling.store.run(move |store| store.enroll(&enrolment)).await?;
    let controller = done.map_err(|why| refused(&why))?;
    tracing::info!(controller = %controller.id, "a controller was enrolled");
    Ok(axum::Json(bundle::fill(made, &controller, &keys, &enrolling.settings)))
}

async fn renew(
    State(enrolling): State<Enrolling>,
    body: Result<Bytes, BytesRejection>,
) -> Result<axum::Json<Bundle>, Problem> {
    let request: RenewRequest = read(body)?;
    let now = enrolling.clock.now();
    enrolling.take(&request.challenge, now)?;
    let who = request.controller.clone();
    let member = enrolling.store.run(move |store| store.member(&who)).await?;
    let Some(member) = member else { return Err(refused(&Refusal::UnknownController)) };
    let who = request.controller.as_str();
    let device = proof::prove(RENEW_LABEL, &request.challenge, who, &request.keys).map_err(bad_keys)?;
    let good = good_keys(&member.controller.record_keys, now);
    let signed_by =
        proof::signed_by(&good, RENEW_LABEL, &request.challenge, who, &device, &request.current_proof)
            .ok_or_else(|| refused(&Refusal::UnknownKey))?;
    let keys = enrolling.keys.now();
    let made = enrolling.make(who, device, &request.agent_version, &keys, now)?;
    let overlap_ms = i64::from(enrolling.settings.record_key_overlap_days) * DAY_MS;
    let renewal = Renewal {
        controller: request.controller.clone(),
        signed_by,
        issue: made.issue.clone(),
        overlap_until: UtcMs(now.0 + overlap_ms),
    };
    let done = enrolling.store.run(move |store| store.renew(&renewal)).await?;
    let controller = done.map_err(|why| refused(&why))?;
    tracing::info!(controller = %controller.id, "a controller renewed its certificate");
    Ok(axum::Json(bundle::fill(made, &controller, &keys, &enrolling.settings)))
}

impl Enrolling {
    fn take(&self, challenge: &str, now: UtcMs) -> Result<(), Problem> {
        let (status, said) = match lock(&self.challenges).take(challenge, now) {
            Ok(()) => return Ok(()),
            Err(NotGood::Foreign | NotGood::TooOld) => (
                StatusCode::BAD_REQUEST,
                "the challenge is not from here or older than five minutes: run the command again",
            ),
            Err(NotGood::Used) => {
                (StatusCode::CONFLICT, "the challenge was used before: run the command again")
            }
            Err(NotGood::Busy) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "too many controllers ask at once: run the command again in five minutes",
            ),
        };
        Err(Problem::new(status, said).with("code", json!("challenge")))
    }

    fn make(
        &self,
        name: &str,
        device: crate::event_store::DeviceKeys,
        agent_version: &str,
        keys: &Keys,
        now: UtcMs,
    ) -> Result<Made, Problem> {
        let serial = random().map_err(|error| inside(&error))?;
        let version = crate::event_store::cut(agent_version, MAX_VERSION_BYTES);
        let days = self.settings.certificate_days;
        bundle::make(name, device, version, keys, days, (now, serial)).map_err(|error| inside(&error))
    }
}

fn read<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, Problem> {
    let body = body.map_err(|rejected| match rejected.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the request is too large: 64 KiB are allowed")
        }
        _ => Problem::bad_request("the request broke off: run the command again"),
    })?;
    serde_json::from_slice(&body).map_err(|_| {
        Problem::bad_request(
            "the request is not understood here: bring edge-agent and cloud-ingest to versions that fit",
        )
    })
}

fn base32<const N: usize>(text: &str) -> Option<[u8; N]> {
    BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok()?.try_into().ok()
}

fn bad_keys(bad: proof::BadKeys) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, format!("{bad}: run the command again")).with("code", json!("proof"))
}

/// What the person at the door is told.
fn refused(why: &Refusal) -> Problem {
    let (status, code, said) = match why {
        Refusal::UnknownToken => (
            StatusCode::FORBIDDEN,
            "token_unknown",
            "this enrolment token is not known here: copy all of it, or ask for a new one".to_owned(),
        ),
        Refusal::UsedToken(when) => (
            StatusCode::CONFLICT,
            "token_used",
            format!(
                "this enrolment token was used at {} with other keys: ask for a new one, and say so if it was \
                 not you",
                view::time(*when)
            ),
        ),
        Refusal::ExpiredToken(when) => (
            StatusCode::GONE,
            "token_expired",
            format!("this enrolment token ended at {}: ask for a new one", view::time(*when)),
        ),
        Refusal::WithdrawnToken(when) => (
            StatusCode::GONE,
            "token_withdrawn",
            format!("this enrolment token was taken back at {}: ask for a new one", view::time(*when)),
        ),
        Refusal::UnknownController | Refusal::UnknownKey => (
            StatusCode::FORBIDDEN,
            "controller_unknown",
            "this controller is not known here under its record key: enrol it again with a token".to_owned(),
        ),
        Refusal::NotActive(standing, since, reason) => {
            let hint = match standing {
                Standing::Revoked => "it is out of trust; ask whoever runs the cloud",
                Standing::Retired | Standing::Active => "enrol it again with a token if it is to work here",
            };
            let said = format!(
                "this controller was {} at {} ({reason}): {hint}",
                standing.name(),
                view::time(*since)
            );
            (StatusCode::FORBIDDEN, standing.name(), said)
        }
    };
    Problem::new(status, said).with("code", json!(code))
}

fn inside(error: &dyn std::error::Error) -> Problem {
    tracing::error!(why = with_causes(error), "no certificate can be made");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the cloud cannot make a certificate now: see its log")
}

/// Nothing that can panic is done under these locks, and what they guard is whole at any moment.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
