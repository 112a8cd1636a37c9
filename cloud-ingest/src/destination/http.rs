//! Step 12 of 12: one HTTP exchange, under guard and within bounds. Knows requests and answers as bytes; what they mean
//! is for whoever asked.
//!
//! What comes back is treated as hostile: no redirect is followed, no cookie kept, nothing decompressed, and of time,
//! headers and body no more is taken than is set. No proxy from the environment comes between: it would resolve names
//! itself, past the guard.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Url};
use serde_json::Value;

use super::guard::{Forbidden, Guard};
use super::resolver::{GuardedResolver, forbidden};
use super::{Answered, Outcome, cut, readable};
use crate::event_store::{MAX_ANSWER_BYTES, UtcMs};
use crate::telemetry::with_causes;

/// So much of an answer's body is read: the documented ones have a few dozen to a few thousand bytes.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// So many headers an answer may have.
const MAX_HEADERS: usize = 64;

/// Idle connections are dropped before a common server's or firewall's own limit makes them half-open.
const POOL_IDLE: Duration = Duration::from_secs(20);

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum CannotStart {
    /// Not a header value.
    #[error("the credentials hold characters that a header cannot carry")]
    Authorization,
    /// Not in the form that this kind has.
    #[error("{0}")]
    Credentials(&'static str),
    /// The guard.
    #[error("the address may not be reached")]
    Forbidden(#[source] Forbidden),
    /// TLS or the system.
    #[error("cannot make an HTTP client")]
    Client(#[source] reqwest::Error),
}

/// A client for one destination.
pub(super) struct Http {
    client: reqwest::Client,
    guard: Guard,
    authorization: Option<HeaderValue>,
}

/// An answer, whatever it says.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    /// More than [`MAX_BODY_BYTES`] if it was longer, and then not all of it.
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// With what it came to, for the record.
    pub(super) fn meaning(&self, outcome: Outcome) -> Answered {
        Answered { outcome, status: Some(self.status), answer: readable(&self.body) }
    }

    /// Its body, if that is JSON and says so.
    pub(super) fn json(&self) -> Result<Value, String> {
        json(&self.headers, &self.body)
    }
}

impl Http {
    /// A client for what `url` names. `authorization` is the value of the header.
    pub(super) fn new(
        url: &Url,
        timeout: Duration,
        authorization: Option<&str>,
        guard: Guard,
    ) -> Result<Http, CannotStart> {
        let authorization = match authorization {
            None => None,
            Some(value) => {
                let mut value = HeaderValue::from_str(value).map_err(|_| CannotStart::Authorization)?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        guard.check_url(url).map_err(CannotStart::Forbidden)?;
        let client = reqwest::Client::builder()
            .timeout(timeout)
            // So that a host that is not there is known as that, and not as one that may have heard us.
            .connect_timeout(timeout / 2)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .http1_max_headers(MAX_HEADERS)
            .dns_resolver(GuardedResolver::of_the_system(guard.clone()))
            .pool_idle_timeout(POOL_IDLE)
            .tcp_nodelay(true)
            .user_agent(concat!("cloud-ingest/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(CannotStart::Client)?;
        Ok(Http { client, guard, authorization })
    }

    /// One request and its answer; or how that failed.
    pub(super) async fn exchange(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: Option<String>,
    ) -> Result<Answer, Answered> {
        // A literal address needs no resolver, so the resolver never sees it.
        self.guard.check_url(&url).map_err(refused)?;
        let mut request = self.client.request(method, url).headers(headers);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let mut response = request.send().await.map_err(|error| no_answer(error, None))?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while body.len() <= MAX_BODY_BYTES {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    let room = MAX_BODY_BYTES + 1 - body.len();
                    body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                }
                Ok(None) => break,
                Err(error) => return Err(no_answer(error, Some(status))),
            }
        }
        Ok(Answer { status, headers: response.headers().clone(), body })
    }
}

/// The guard refused: nothing was sent.
fn refused(forbidden: Forbidden) -> Answered {
    let why = forbidden.to_string();
    let answer = cut(&why, MAX_ANSWER_BYTES);
    Answered { outcome: Outcome::Misconfigured(why), status: None, answer }
}

/// The request failed below HTTP.
fn no_answer(error: reqwest::Error, status: Option<u16>) -> Answered {
    if let Some(forbidden) = forbidden(&error) {
        return refused(forbidden);
    }
    // The address is known and may carry what should not be written down; the causes say more.
    let error = error.without_url();
    let text = readable(with_causes(&error).as_bytes());
    let outcome = if error.is_connect() {
        Outcome::Unreachable(text.clone())
    } else if error.is_timeout() {
        Outcome::TimedOut
    } else {
        Outcome::BrokenOff(text.clone())
    };
    Answered { outcome, status, answer: text }
}

/// A body as JSON, if its `Content-Type` does not say otherwise.
pub(super) fn json(headers: &HeaderMap, body: &[u8]) -> Result<Value, String> {
    if body.len() > MAX_BODY_BYTES {
        return Err(format!("more than {} KiB", MAX_BODY_BYTES / 1024));
    }
    if let Some(kind) = headers.get(CONTENT_TYPE) {
        let kind = String::from_utf8_lossy(kind.as_bytes()).to_ascii_lowercase();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if essence != "application/json"
            && !(essence.starts_with("application/") && essence.ends_with("+json"))
        {
            return Err(format!("content of type {:?}", cut(essence, 64)));
        }
    }
    match serde_json::from_slice(body) {
        Ok(value) => Ok(value),
        Err(_) if body.is_empty() => Err("an empty body".into()),
        Err(_) => Err("a body that is no JSON".into()),
    }
}

/// RFC 9110 §10.2.3: seconds, or a date. A date that has passed means now; rubbish means that nothing was said.
pub(super) fn retry_after_ms(headers: &HeaderMap, now: UtcMs) -> Option<u64> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse::<u64>().ok()?.checked_mul(1000);
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(u64::try_from(date.as_millisecond().saturating_sub(now.0)).unwrap_or(0))
}
