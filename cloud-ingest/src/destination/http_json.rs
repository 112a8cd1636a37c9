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

use std::sync::LazyLock;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use serde_json::{Map, Value};
use tap_protocol::ids::EventId;

use super::guard::Guard;
use super::http::{Answer, Http, json, retry_after_ms};
use super::rules::{self, Meaning, Rule};
use super::settings::{AfterUnknown, HttpJsonSettings};
use super::template::{self, Rendered, Template};
use super::{Answered, CannotRender, Destination, Finding, Outcome, Probe, Sample, cut};
use crate::clock::Clock;
use crate::event_store::{DeliverableTap, MAX_ANSWER_BYTES, UtcMs};

pub use super::http::{CannotStart, MAX_BODY_BYTES};

/// The HTTP client with its destination.
pub struct HttpJson {
    http: Http,
    url: Url,
    template: Template,
    key_header: Option<HeaderName>,
    headers: HeaderMap,
    answers: Vec<Rule>,
    after_unknown: AfterUnknown,
    has_credentials: bool,
    clock: Clock,
}

/// What an API of one's own description needs, beside its description.
pub struct Connection<'a> {
    /// Its address, before a template's path.
    pub url: &'a Url,
    /// How long one request may take.
    pub timeout: Duration,
    /// What follows a request without an answer.
    pub after_unknown: AfterUnknown,
    /// The value of the `Authorization` header.
    pub authorization: Option<&'a str>,
    /// Where requests may go.
    pub guard: Guard,
    /// The time.
    pub clock: Clock,
}

impl HttpJson {
    /// A client for the API.
    pub fn new(settings: &HttpJsonSettings, connection: Connection<'_>) -> Result<HttpJson, CannotStart> {
        let Connection { url, timeout, after_unknown, authorization, guard, clock } = connection;
        let template = settings.template.clone();
        let name = |name: &str| {
            HeaderName::from_bytes(name.as_bytes()).expect("names were checked with the settings")
        };
        let value =
            |value: &str| HeaderValue::from_str(value).expect("values were checked with the settings");
        Ok(HttpJson {
            http: Http::new(url, timeout, authorization, guard)?,
            url: url.clone(),
            key_header: template.idempotency_header.as_deref().map(name),
            headers: template.headers.iter().map(|h| (name(&h.name), value(&h.value))).collect(),
            template,
            answers: settings.answers.clone(),
            after_unknown,
            has_credentials: authorization.is_some(),
            clock,
        })
    }

    fn judged(&self, answer: &Answer) -> Outcome {
        let now = self.clock.now();
        if self.answers.is_empty() {
            judge(answer.status, &answer.headers, &answer.body, now)
        } else {
            judge_by(&self.answers, answer, now)
        }
    }

    /// The address of a request: the destination's, and after it the path that was rendered, or that of all taps.
    fn address(&self, rendered: Option<String>) -> Url {
        let mut url = self.url.clone();
        if let Some(path) = rendered.or_else(|| self.template.fixed_path()) {
            url.set_path(&format!("{}{path}", self.url.path().trim_end_matches('/')));
        }
        url
    }
}

impl Destination for HttpJson {
    fn render(&self, event: EventId, tap: &DeliverableTap) -> Result<String, CannotRender> {
        self.template.render(event, tap).map(Rendered::into_text)
    }

    async fn send(&self, event: EventId, rendered: String) -> Answered {
        let Rendered { path, body } = Rendered::from_text(rendered);
        let method = match self.template.method {
            template::Method::Post => Method::POST,
            template::Method::Put => Method::PUT,
            template::Method::Patch => Method::PATCH,
        };
        let mut headers = self.headers.clone();
        if let Some(name) = &self.key_header {
            let key =
                HeaderValue::from_str(&event.to_string()).expect("an id is hexadecimal digits and dashes");
            headers.insert(name.clone(), key);
        }
        match self.http.exchange(method, self.address(path), headers, Some(body)).await {
            Ok(answer) => answer.meaning(self.judged(&answer)),
            Err(answered) => answered,
        }
    }

    fn after_unknown(&self) -> AfterUnknown {
        self.after_unknown
    }

    async fn probe(&self, sample: Option<&Sample>) -> Probe {
        let mut probe = Probe::default();
        let address =
            self.template.path.as_ref().filter(|path| path.fields().next().is_some()).map(|_| "/".into());
        match self.http.exchange(Method::HEAD, self.address(address), HeaderMap::new(), None).await {
            Err(answered) => {
                probe.note("connect", Finding::Bad, answered.answer);
                return probe;
            }
            Ok(answer) if matches!(answer.status, 401 | 403) => {
                let says =
                    format!("it answers, and does not let us in ({}): check the credentials", answer.status);
                probe.note("connect", Finding::Bad, says);
            }
            Ok(answer) => {
                // What HEAD comes to is not documented; that something answers is what it shows.
                probe.note("connect", Finding::Good, format!("it answers ({})", answer.status));
            }
        }
        if self.has_credentials && self.url.scheme() == "http" {
            let says = "the credentials travel readable for everybody on the way: use https, or a network of your own";
            probe.note("encryption", Finding::Doubtful, says);
        }
        if self.after_unknown == AfterUnknown::AskPerson {
            let says = "requests carry no key that tells a repetition from a second tap, or are not to be repeated: \
                        every time-out waits for a person";
            probe.note("repetition", Finding::Doubtful, says);
        }
        if let Some(sample) = sample {
            self.probe_with(sample, &mut probe).await;
        }
        probe
    }
}

impl HttpJson {
    /// Tells it a tap, and the same tap again: the second must be known as a repetition.
    async fn probe_with(&self, sample: &Sample, probe: &mut Probe) {
        let rendered = match self.render(sample.event, &sample.tap) {
            Ok(rendered) => rendered,
            Err(why) => return probe.note("render", Finding::Bad, why.to_string()),
        };
        let first = self.send(sample.event, rendered.clone()).await;
        match first.outcome {
            Outcome::Delivered | Outcome::Duplicate => probe.note("send", Finding::Good, "a tap was taken"),
            outcome => {
                let says = format!("a tap was not taken ({}): {}", outcome.word(), first.answer);
                return probe.note("send", Finding::Bad, says);
            }
        }
        if self.after_unknown != AfterUnknown::Repeat {
            return;
        }
        let again = self.send(sample.event, rendered).await;
        match again.outcome {
            Outcome::Duplicate => probe.note("repeat", Finding::Good, "its repetition was known as one"),
            Outcome::Delivered => probe.note(
                "repeat",
                Finding::Doubtful,
                "its repetition was taken and not called one: look whether the tap is there twice",
            ),
            outcome => {
                let says = format!("its repetition was not taken ({}): {}", outcome.word(), again.answer);
                probe.note("repeat", Finding::Bad, says);
            }
        }
    }
}

/// The request's body by default. The same tap gives the same bytes.
pub fn render(event: EventId, tap: &DeliverableTap) -> String {
    static DEFAULT: LazyLock<Template> = LazyLock::new(Template::default);
    DEFAULT.render(event, tap).expect("the default has no field that can fail").body
}

/// What an answer means by the destination's own rules; those that they leave out are judged by their status, and a
/// success that no rule speaks of is none.
fn judge_by(rules: &[Rule], answer: &Answer, now: UtcMs) -> Outcome {
    let Answer { status, headers, body } = answer;
    let status = *status;
    let body_json = answer.json();
    match rules::meaning(rules, status, body_json.as_ref().ok()) {
        Some(Meaning::Delivered) => Outcome::Delivered,
        Some(Meaning::Duplicate) => Outcome::Duplicate,
        Some(Meaning::Refused) => Outcome::Refused(status),
        Some(Meaning::Retry) => Outcome::ErrorInside(format!("{status}, which means to try again")),
        Some(Meaning::Unauthorized) => Outcome::Unauthorized,
        None if (200..300).contains(&status) => Outcome::NotUnderstood(match body_json {
            Ok(_) => format!("{status} with a body that no rule speaks of"),
            Err(why) => format!("{status} with {why}"),
        }),
        None => match judge(status, headers, body, now) {
            // That is the default's way to say it, and not this API's.
            Outcome::Duplicate => Outcome::Refused(status),
            outcome => outcome,
        },
    }
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

fn json_object(headers: &HeaderMap, body: &[u8]) -> Result<Map<String, Value>, String> {
    match json(headers, body)? {
        Value::Object(object) => Ok(object),
        Value::Array(_) => Err("a JSON array".into()),
        _ => Err("a JSON value that is no object".into()),
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_no_rule_speaks_of_is_judged_by_its_status() {
        let rules: Vec<Rule> = serde_json::from_str(
            r#"[{"status":[200,201],"when":[{"at":"/saved","is":true}],"means":"delivered"},
                {"status":[409],"any_body":true,"means":"duplicate"},
                {"status":[422],"when":[{"at":"/locked","is":true}],"means":"retry"},
                {"status":[200],"when":[{"at":"/login","exists":true}],"means":"unauthorized"},
                {"status":[200],"when":[{"at":"/saved","is":false}],"means":"refused"}]"#,
        )
        .unwrap();
        let by = |status: u16, body: &str| {
            judge_by(&rules, &Answer { status, headers: HeaderMap::new(), body: body.into() }, NOW)
        };
        assert_eq!(by(201, r#"{"saved":true}"#), Outcome::Delivered);
        assert_eq!(by(409, "<html>"), Outcome::Duplicate);
        assert_eq!(
            by(422, r#"{"locked":true}"#),
            Outcome::ErrorInside("422, which means to try again".into())
        );
        assert_eq!(by(422, r#"{"locked":false}"#), Outcome::Refused(422));
        assert_eq!(by(200, r#"{"login":"/"}"#), Outcome::Unauthorized);
        assert_eq!(by(200, r#"{"saved":false}"#), Outcome::Refused(200));
        let not_understood = |text: &str| Outcome::NotUnderstood(text.into());
        assert_eq!(by(200, r#"{"status":"ok"}"#), not_understood("200 with a body that no rule speaks of"));
        assert_eq!(by(200, "<html>"), not_understood("200 with a body that is no JSON"));
        assert_eq!(by(204, ""), not_understood("204 with an empty body"));
        assert_eq!(by(429, ""), Outcome::RateLimited { retry_after_ms: None });
        assert_eq!(by(503, ""), Outcome::ServerError { retry_after_ms: None });
        assert_eq!(by(401, ""), Outcome::Unauthorized);
        assert_eq!(by(404, ""), Outcome::Refused(404));
    }
}
