//! Step 12 of 12: the attendance API that takes one JSON object per tap. Knows HTTP; nothing of the store.
//!
//! # The contract
//!
//! `POST` of one object with `Content-Type: application/json` and `Idempotency-Key: <event id>` (and `Authorization`, if
//! configured):
//!
//! ```json
//! {"idempotency_key":"058b8351-c0a3-8a64-a2a3-000000000102","event_id":"058b8351-c0a3-8a64-a2a3-000000000102",
//!  "person":"E-1007","direction":"in","occurred_at":"2026-03-02T08:00:00.250+01:00","uncertainty_ms":3,
//!  "site":"hq","controller":"hq-door-12","reader":"in"}
//! ```
//!
//! The same key always comes with the same bytes. It was taken if, and only if, the answer is 2xx, is JSON by its
//! `Content-Type` (if it names one), and is an object with `"status":"ok"` and no sign of an error; `"duplicate":true`
//! beside it says that this key had been taken before, and so does a 409 with `"duplicate":true`. A sign of an error is
//! any other `status`, `"success":false`, or an `error`, `errors`, `exception` or `exc_type` that is not empty. 429 and
//! 503 may carry `Retry-After`, in seconds or as a date. Redirects are not followed: the key must not travel to an
//! address that nobody configured.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use serde::Serialize;
use serde_json::Value;
use tap_protocol::ids::EventId;

use super::{Answered, Destination, Outcome, cut};
use crate::clock::Clock;
use crate::event_store::{DeliverableTap, MAX_ANSWER_BYTES, UtcMs};
use crate::telemetry::with_causes;

/// So much of an answer's body is read: the documented one has a few dozen bytes.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// Idle connections are dropped before a common server's or firewall's own limit makes them half-open.
const POOL_IDLE: Duration = Duration::from_secs(20);

/// The HTTP client with its destination.
pub struct HttpJson {
    client: reqwest::Client,
    url: reqwest::Url,
    authorization: Option<HeaderValue>,
    clock: Clock,
}

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum CannotStart {
    /// Not an address.
    #[error("{0:?} is no address of a destination")]
    Url(String),
    /// Not a header value.
    #[error("the authorization file holds characters that a header cannot carry")]
    Authorization,
    /// TLS or the system.
    #[error("cannot make an HTTP client")]
    Client(#[source] reqwest::Error),
}

impl HttpJson {
    /// A client for `url`, each request limited to `timeout`.
    pub fn new(
        url: &str,
        timeout: Duration,
        authorization: Option<&str>,
        clock: Clock,
    ) -> Result<HttpJson, CannotStart> {
        let authorization = match authorization {
            None => None,
            Some(value) => {
                let mut value = HeaderValue::from_str(value).map_err(|_| CannotStart::Authorization)?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let client = reqwest::Client::builder()
            .timeout(timeout)
            .redirect(reqwest::redirect::Policy::none())
            .pool_idle_timeout(POOL_IDLE)
            .tcp_nodelay(true)
            .user_agent(concat!("cloud-ingest/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(CannotStart::Client)?;
        let url = url.parse().map_err(|_| CannotStart::Url(url.to_owned()))?;
        Ok(HttpJson { client, url, authorization, clock })
    }
}

impl Destination for HttpJson {
    fn render(&self, event: EventId, tap: &DeliverableTap) -> String {
        render(event, tap)
    }

    async fn send(&self, event: EventId, body: String) -> Answered {
        let mut request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(HeaderName::from_static("idempotency-key"), event.to_string())
            .body(body);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) => return no_answer(error, None),
        };
        let status = response.status().as_u16();
        let mut answer = Vec::new();
        while answer.len() <= MAX_BODY_BYTES {
            match response.chunk().await {
                Ok(Some(chunk)) => answer.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => return no_answer(error, Some(status)),
            }
        }
        Answered {
            outcome: judge(status, response.headers(), &answer, self.clock.now()),
            status: Some(status),
            answer: cut(&String::from_utf8_lossy(&answer), MAX_ANSWER_BYTES),
        }
    }
}

/// The request's body. Fields in this order, always: the same tap gives the same bytes.
pub fn render(event: EventId, tap: &DeliverableTap) -> String {
    #[derive(Serialize)]
    struct Body<'a> {
        idempotency_key: EventId,
        event_id: EventId,
        person: &'a str,
        direction: &'a str,
        occurred_at: String,
        uncertainty_ms: u64,
        site: &'a str,
        controller: &'a str,
        reader: &'a str,
    }
    let body = Body {
        idempotency_key: event,
        event_id: event,
        person: &tap.person.0,
        direction: tap.direction.name(),
        occurred_at: local_time(tap.occurred, &tap.site.zone),
        uncertainty_ms: tap.uncertainty_ms,
        site: &tap.site.id,
        controller: tap.controller.as_str(),
        reader: tap.reader.as_str(),
    };
    serde_json::to_string(&body).expect("strings and numbers are always JSON")
}

/// RFC 3339 with milliseconds and the zone's offset at that moment; UTC if the zone is not known to this system.
pub fn local_time(at: UtcMs, zone: &str) -> String {
    let Ok(at) = Timestamp::from_millisecond(at.0) else { return format!("out of range: {} ms", at.0) };
    let zone = TimeZone::get(zone).unwrap_or(TimeZone::UTC);
    at.to_zoned(zone).strftime("%Y-%m-%dT%H:%M:%S.%3f%:z").to_string()
}

/// What an answer means. `body` may have been cut after [`MAX_BODY_BYTES`]: a longer one is not understood.
pub fn judge(status: u16, headers: &HeaderMap, body: &[u8], now: UtcMs) -> Outcome {
    match status {
        200..=299 => judge_success(status, headers, body),
        401 | 403 => Outcome::Unauthorized,
        409 if json_object(headers, body)
            .is_ok_and(|object| object.get("duplicate") == Some(&Value::Bool(true))) =>
        {
            Outcome::Duplicate
        }
        400 | 404 | 409 | 410 | 413 | 415 | 417 | 422 => Outcome::Refused(status),
        429 => Outcome::RateLimited { retry_after_ms: retry_after_ms(headers, now) },
        408 | 425 | 500..=599 => Outcome::ServerError { retry_after_ms: retry_after_ms(headers, now) },
        300..=399 => Outcome::NotUnderstood(format!("redirected with {status}, which is not followed")),
        _ => Outcome::NotUnderstood(format!("status {status} has no documented meaning")),
    }
}

fn judge_success(status: u16, headers: &HeaderMap, body: &[u8]) -> Outcome {
    let object = match json_object(headers, body) {
        Ok(object) => object,
        Err(why) => return Outcome::NotUnderstood(format!("{status} with {why}")),
    };
    let says = |key: &str| object.get(key);
    let error = ["error", "errors", "exception", "exc_type"]
        .into_iter()
        .find_map(|key| says(key).filter(|value| !is_empty(value)).map(|value| format!("{key}: {value}")));
    if let Some(error) = error {
        return Outcome::ErrorInside(cut(&error, MAX_ANSWER_BYTES));
    }
    if says("success") == Some(&Value::Bool(false)) {
        return Outcome::ErrorInside("success: false".into());
    }
    match says("status") {
        Some(Value::String(word)) if word == "ok" => match says("duplicate") {
            Some(Value::Bool(true)) => Outcome::Duplicate,
            _ => Outcome::Delivered,
        },
        Some(other) => Outcome::ErrorInside(cut(&format!("status: {other}"), MAX_ANSWER_BYTES)),
        None => Outcome::NotUnderstood(format!("{status} with an object that has no status")),
    }
}

fn json_object(headers: &HeaderMap, body: &[u8]) -> Result<serde_json::Map<String, Value>, String> {
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
        Ok(Value::Object(object)) => Ok(object),
        Ok(Value::Array(_)) => Err("a JSON array".into()),
        Ok(_) => Err("a JSON value that is no object".into()),
        Err(_) if body.is_empty() => Err("an empty body".into()),
        Err(_) => Err("a body that is no JSON".into()),
    }
}

/// `null`, `false`, `""`, `[]`, `{}` and 0 are ways to say "no error".
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(yes) => !yes,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// RFC 9110 §10.2.3: seconds, or a date. A date that has passed means now; rubbish means that nothing was said.
fn retry_after_ms(headers: &HeaderMap, now: UtcMs) -> Option<u64> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse::<u64>().ok()?.checked_mul(1000);
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(u64::try_from(date.as_millisecond().saturating_sub(now.0)).unwrap_or(0))
}

/// The request failed below HTTP.
fn no_answer(error: reqwest::Error, status: Option<u16>) -> Answered {
    // The address is known and may carry what should not be written down; the causes say more.
    let error = error.without_url();
    let text = cut(&with_causes(&error), MAX_ANSWER_BYTES);
    let outcome = if error.is_connect() {
        Outcome::Unreachable(text.clone())
    } else if error.is_timeout() {
        Outcome::TimedOut
    } else {
        Outcome::BrokenOff(text.clone())
    };
    Answered { outcome, status, answer: text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_store::{PersonId, Site};
    use tap_protocol::ids::{OutboxId, Seq};
    use tap_protocol::tap::Direction;

    /// 2026-03-02 07:00:00.250 UTC.
    const NOW: UtcMs = UtcMs(1_772_434_800_250);

    /// One answer as a line: status, headers, body.
    #[track_caller]
    fn judged(status: u16, headers: &[(&'static str, &str)], body: impl AsRef<[u8]>) -> Outcome {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        judge(status, &map, body.as_ref(), NOW)
    }

    const JSON: (&str, &str) = ("content-type", "application/json");

    #[track_caller]
    fn delivered(status: u16, body: &str) {
        assert_eq!(judged(status, &[JSON], body), Outcome::Delivered, "{body}");
    }

    #[track_caller]
    fn error_inside(body: &str, text: &str) {
        assert_eq!(judged(200, &[JSON], body), Outcome::ErrorInside(text.into()), "{body}");
    }

    #[track_caller]
    fn not_understood(status: u16, kind: &str, body: impl AsRef<[u8]>, text: &str) {
        let got = judged(status, &[("content-type", kind)], body);
        assert_eq!(got, Outcome::NotUnderstood(text.into()));
    }

    #[test]
    fn the_documented_answers_are_taken() {
        delivered(200, r#"{"status":"ok"}"#);
        delivered(201, r#"{"status":"ok","id":17}"#);
        delivered(202, r#"{"status":"ok"}"#);
        delivered(200, r#"{"status":"ok","duplicate":false}"#);
        delivered(200, r#"{"status":"ok","error":null,"errors":[],"success":true}"#);
        delivered(200, " {\"status\":\"ok\"}\r\n");
        assert_eq!(judged(200, &[], r#"{"status":"ok"}"#), Outcome::Delivered);
        assert_eq!(
            judged(200, &[("content-type", "application/json; charset=utf-8")], r#"{"status":"ok"}"#),
            Outcome::Delivered
        );
        assert_eq!(
            judged(200, &[("content-type", "application/vnd.hr+json")], r#"{"status":"ok"}"#),
            Outcome::Delivered
        );
    }

    #[test]
    fn the_documented_duplicates_are_taken() {
        assert_eq!(judged(200, &[JSON], r#"{"status":"ok","duplicate":true}"#), Outcome::Duplicate);
        assert_eq!(judged(409, &[JSON], r#"{"duplicate":true}"#), Outcome::Duplicate);
        assert_eq!(judged(409, &[JSON], r#"{"duplicate":false}"#), Outcome::Refused(409));
        assert_eq!(judged(409, &[JSON], "conflict"), Outcome::Refused(409));
    }

    #[test]
    fn an_error_inside_a_success_is_seen() {
        error_inside(r#"{"status":"error","message":"locked"}"#, "status: \"error\"");
        error_inside(r#"{"status":"OK?"}"#, "status: \"OK?\"");
        error_inside(r#"{"status":200}"#, "status: 200");
        error_inside(r#"{"error":"no such person"}"#, "error: \"no such person\"");
        error_inside(r#"{"status":"ok","error":{"code":7}}"#, "error: {\"code\":7}");
        error_inside(r#"{"status":"ok","errors":["a"]}"#, "errors: [\"a\"]");
        error_inside(r#"{"success":false}"#, "success: false");
        error_inside(r#"{"exc_type":"ValidationError"}"#, "exc_type: \"ValidationError\"");
    }

    #[test]
    fn rubbish_is_not_understood_and_never_taken_for_a_success() {
        let html = "<html><body>502 Bad Gateway</body></html>";
        not_understood(200, "text/html", html, "200 with content of type \"text/html\"");
        not_understood(200, "application/json", html, "200 with a body that is no JSON");
        not_understood(200, "application/json", "", "200 with an empty body");
        not_understood(204, "application/json", "", "204 with an empty body");
        not_understood(202, "application/json", "{}", "202 with an object that has no status");
        not_understood(200, "application/json", r#"{"status":"o"#, "200 with a body that is no JSON");
        not_understood(200, "application/json", r#"{"status":"ok"}{"#, "200 with a body that is no JSON");
        not_understood(200, "text/plain", r#"{"status":"ok"}"#, "200 with content of type \"text/plain\"");
        not_understood(200, "application/json", r#"[{"status":"ok"}]"#, "200 with a JSON array");
        not_understood(200, "application/json", "1", "200 with a JSON value that is no object");
        not_understood(200, "application/json", "null", "200 with a JSON value that is no object");
        not_understood(200, "application/json", r#""ok""#, "200 with a JSON value that is no object");
        not_understood(
            200,
            "application/json",
            b"{\"status\":\"ok\xff\"}",
            "200 with a body that is no JSON",
        );
        not_understood(200, "application/json", r#"{"id":17}"#, "200 with an object that has no status");
        not_understood(200, "application/json", "[".repeat(300), "200 with a body that is no JSON");
        let huge = format!(r#"{{"status":"ok","pad":"{}"}}"#, "x".repeat(MAX_BODY_BYTES));
        not_understood(200, "application/json", huge, "200 with more than 64 KiB");
        not_understood(301, "application/json", "", "redirected with 301, which is not followed");
        not_understood(
            302,
            "application/json",
            r#"{"status":"ok"}"#,
            "redirected with 302, which is not followed",
        );
        not_understood(418, "application/json", r#"{"status":"ok"}"#, "status 418 has no documented meaning");
        not_understood(405, "application/json", "", "status 405 has no documented meaning");
    }

    #[test]
    fn refusals_are_for_good_whatever_the_body_says() {
        for status in [400, 404, 410, 413, 415, 417, 422] {
            assert_eq!(judged(status, &[JSON], r#"{"status":"ok"}"#), Outcome::Refused(status));
        }
    }

    #[test]
    fn a_missing_right_is_nobodys_taps_fault() {
        assert_eq!(judged(401, &[], ""), Outcome::Unauthorized);
        assert_eq!(judged(403, &[JSON], r#"{"status":"ok"}"#), Outcome::Unauthorized);
    }

    #[test]
    fn the_servers_trouble_is_the_servers() {
        for status in [408, 425, 500, 502, 503, 504, 599] {
            let got = judged(status, &[JSON], r#"{"status":"ok"}"#);
            assert_eq!(got, Outcome::ServerError { retry_after_ms: None });
        }
        assert_eq!(
            judged(503, &[("retry-after", "7")], ""),
            Outcome::ServerError { retry_after_ms: Some(7_000) }
        );
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let limited = |text: &str| match judged(429, &[("retry-after", text)], "") {
            Outcome::RateLimited { retry_after_ms } => retry_after_ms,
            other => panic!("{other:?}"),
        };
        assert_eq!(limited("0"), Some(0));
        assert_eq!(limited("120"), Some(120_000));
        assert_eq!(limited(" 3 "), Some(3_000));
        assert_eq!(limited("Mon, 02 Mar 2026 07:00:10 GMT"), Some(9_750));
        assert_eq!(limited("Mon, 02 Mar 2026 06:59:00 GMT"), Some(0), "it has passed");
        assert_eq!(limited("soon"), None);
        assert_eq!(limited("-1"), None);
        assert_eq!(limited("1.5"), None);
        assert_eq!(limited("99999999999999999999"), None);
        assert_eq!(judged(429, &[], ""), Outcome::RateLimited { retry_after_ms: None });
    }

    #[test]
    fn a_body_is_the_same_bytes_for_the_same_tap() {
        let controller = "hq-door-12".parse().unwrap();
        let event = EventId::new(&controller, OutboxId([7; 16]), Seq(258));
        let tap = DeliverableTap {
            person: PersonId("E-\"1007".into()),
            controller,
            site: Site { id: "hq".into(), label: "HQ".into(), zone: "Europe/Berlin".into() },
            reader: "in".parse().unwrap(),
            direction: Direction::In,
            occurred: NOW,
            uncertainty_ms: 3,
        };
        assert_eq!(
            render(event, &tap),
            concat!(
                r#"{"idempotency_key":"058b8351-c0a3-8a64-a2a3-000000000102","#,
                r#""event_id":"058b8351-c0a3-8a64-a2a3-000000000102","person":"E-\"1007","direction":"in","#,
                r#""occurred_at":"2026-03-02T08:00:00.250+01:00","uncertainty_ms":3,"#,
                r#""site":"hq","controller":"hq-door-12","reader":"in"}"#
            )
        );
        assert_eq!(render(event, &tap), render(event, &tap.clone()));
    }

    #[test]
    fn local_time_follows_the_zone_through_the_year() {
        assert_eq!(local_time(UtcMs(1_783_000_000_000), "Europe/Berlin"), "2026-07-02T15:46:40.000+02:00");
        assert_eq!(local_time(UtcMs(0), "Asia/Kolkata"), "1970-01-01T05:30:00.000+05:30");
        assert_eq!(local_time(UtcMs(1), "Nowhere/Atall"), "1970-01-01T00:00:00.001+00:00");
    }
}
