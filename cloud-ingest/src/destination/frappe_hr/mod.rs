//! Step 12 of 12: Frappe HR's Employee Checkin. Knows the calls and their order; what an answer means is for
//! [`answers`], what a tap looks like for [`check_in`].
//!
//! # How a tap is told once
//!
//! Frappe knows no idempotency key. It refuses a log of the same employee, time and direction, by a query before the
//! insert and without a unique index. So:
//!
//! - the time has no microseconds, because older versions compare them and newer ones cut them;
//! - "already has a log with the same timestamp" is a success;
//! - where that cannot be read (another language), or would prove nothing (a version that does not look at the direction,
//!   the hour that autumn repeats), Frappe is asked whether the log is there;
//! - two requests for one log must never run at once: both would pass. A request whose answer did not come may still run
//!   for as long as Frappe's web server lets it ([`Destination::settles_after_ms`]).
//!
//! # How far it is complete
//!
//! [`FrappeHr::push_watermark`] moves *Last Sync of Checkin*, as [`watermark`] decides.

pub mod answers;
pub mod check_in;
mod probe;
mod shift_type;
pub mod watermark;

use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use serde_json::{Value, json};
use tap_protocol::ids::EventId;

use super::guard::Guard;
use super::http::{Answer, CannotStart, Http, retry_after_ms};
use super::settings::{AfterUnknown, FrappeApp, FrappeHrSettings, ShiftTypeMark};
use super::{Answered, CannotRender, Destination, LookedUp, Outcome, Probe, Sample};
use crate::clock::Clock;
use crate::event_store::{DeliverableTap, MAX_ANSWER_BYTES};
use answers::{Said, Verdict};
use check_in::{CheckIn, to_the_second};

pub use shift_type::Pushed;

/// Frappe's window of the rate limit, if it does not say when to come back.
const RATE_LIMIT_RESET: &str = "x-ratelimit-reset";

/// A site's own window is some minutes to a day; a longer one is a mistake.
const MAX_RESET_S: u64 = 86_400;

/// A client for one Frappe site.
pub struct FrappeHr {
    http: Http,
    url: Url,
    settings: FrappeHrSettings,
    after_unknown: AfterUnknown,
    clock: Clock,
}

/// A destination that may have something to be told beside taps: how far they are complete. Only Frappe HR has.
pub trait Advances {
    /// As that.
    fn as_frappe_hr(&self) -> Option<&FrappeHr> {
        None
    }
}

/// What a Frappe site needs, beside its settings.
pub struct Connection<'a> {
    /// The site.
    pub url: &'a Url,
    /// How long one request may take.
    pub timeout: Duration,
    /// What follows a request without an answer.
    pub after_unknown: AfterUnknown,
    /// `api_key:api_secret` of the user.
    pub credentials: Option<&'a str>,
    /// Where requests may go.
    pub guard: Guard,
    /// The time.
    pub clock: Clock,
}

impl FrappeHr {
    /// A client for the site.
    pub fn new(settings: &FrappeHrSettings, connection: Connection<'_>) -> Result<FrappeHr, CannotStart> {
        let Connection { url, timeout, after_unknown, credentials, guard, clock } = connection;
        let pair = credentials.map(|pair| pair.trim()).and_then(|pair| pair.split_once(':'));
        let (key, secret) = pair.filter(|(key, secret)| !key.is_empty() && !secret.is_empty()).ok_or(
            CannotStart::Credentials(
                "Frappe needs the user's key and secret: give them as api_key:api_secret (User > API Access > Generate \
                 Keys)",
            ),
        )?;
        let authorization = format!("token {key}:{secret}");
        let http = Http::new(url, timeout, Some(&authorization), guard)?;
        Ok(FrappeHr { http, url: url.clone(), settings: settings.clone(), after_unknown, clock })
    }

    /// The shift types whose *Last Sync of Checkin* is ours to move.
    pub fn watermarks(&self) -> &[ShiftTypeMark] {
        &self.settings.watermarks
    }

    async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<String>,
    ) -> Result<Answer, Answered> {
        let mut url = self.url.clone();
        url.path_segments_mut().expect("an address with a host has a path").clear().extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        self.http.exchange(method, url, headers, body).await
    }

    fn said(&self, answer: &Answer) -> Said {
        let retry_after_ms = retry_after_ms(&answer.headers, self.clock.now()).or_else(|| {
            let reset = answer.headers.get(RATE_LIMIT_RESET)?.to_str().ok()?.parse::<u64>().ok()?;
            (answer.status == 429 && reset <= MAX_RESET_S).then_some(reset * 1000)
        });
        Said { status: answer.status, body: answer.json(), retry_after_ms }
    }

    /// Documents of a type: these fields of those that fit all filters.
    async fn list(&self, doctype: &str, filters: Value, fields: &[&str]) -> Result<Vec<Value>, Answered> {
        let query = [
            ("filters", filters.to_string()),
            ("fields", json!(fields).to_string()),
            ("limit_page_length", "20".into()),
        ];
        let answer = self.call(Method::GET, &["api", "resource", doctype], &query, None).await?;
        let said = self.said(&answer);
        if !(200..300).contains(&said.status) {
            // No tap is at fault that a list is refused.
            let outcome = match answers::judge_failure(&said) {
                Outcome::Refused(status) => {
                    let why = format!("{doctype} cannot be searched as the settings say ({status})");
                    Outcome::Misconfigured(why)
                }
                outcome => outcome,
            };
            return Err(answer.meaning(outcome));
        }
        let data = said.body.as_ref().ok().and_then(|body| body.get("data")).and_then(Value::as_array);
        match data {
            Some(data) => Ok(data.clone()),
            None => {
                let why = format!("{} without the list that was asked for", said.status);
                Err(answer.meaning(Outcome::NotUnderstood(why)))
            }
        }
    }

    /// The name of the log of this very tap, if it is there.
    async fn find(&self, check_in: &CheckIn) -> Result<Option<String>, Answered> {
        let mut employees = vec![check_in.employee_field_value.clone()];
        if check_in.employee_fieldname != "name" {
            let filters = json!([[check_in.employee_fieldname, "=", check_in.employee_field_value]]);
            let found = self.list("Employee", filters, &["name"]).await?;
            let name = |employee: &Value| employee.get("name").and_then(Value::as_str).map(str::to_owned);
            employees = found.iter().filter_map(name).collect();
        }
        if employees.is_empty() {
            return Ok(None);
        }
        let second = to_the_second(&check_in.timestamp).unwrap_or(&check_in.timestamp);
        let filters = json!([["employee", "in", employees], ["time", "=", second]]);
        let logs = self.list("Employee Checkin", filters, &["name", "time", "log_type", "device_id"]).await?;
        let found = logs.iter().find(|log| is_this(log, check_in));
        Ok(found.and_then(|log| log.get("name")).and_then(Value::as_str).map(str::to_owned))
    }

    /// Sends a log. Kept apart from [`Destination::send`] for trying it out.
    async fn add(&self, check_in: &CheckIn, body: String) -> Answered {
        let module = match self.settings.app {
            FrappeApp::Hrms => "hrms",
            FrappeApp::Erpnext => "erpnext",
        };
        let method =
            format!("{module}.hr.doctype.employee_checkin.employee_checkin.add_log_based_on_employee_field");
        let answer = match self.call(Method::POST, &["api", "method", &method], &[], Some(body)).await {
            Ok(answer) => answer,
            Err(answered) => return answered,
        };
        // Version 13 looks at employee and time alone; and nobody looks at the offset.
        let believes_duplicates = self.settings.app == FrappeApp::Hrms && !check_in.ambiguous;
        let otherwise = match answers::judge(&self.said(&answer), check_in, believes_duplicates) {
            Verdict::Is(outcome) => return answer.meaning(outcome),
            Verdict::StoredAtAnotherTime { name, at } => return self.take_back(&name, &at, check_in).await,
            Verdict::AskWhetherItIsThere(otherwise) => otherwise,
        };
        match self.find(check_in).await {
            Ok(Some(_)) => answer.meaning(Outcome::Duplicate),
            Ok(None) => answer.meaning(otherwise),
            Err(unclear) => unclear_after(answer.status, unclear),
        }
    }
}

impl FrappeHr {
    /// A log was stored at a time that was not sent, which no second try makes better: it goes, so that nobody is paid by
    /// it, and everything waits for a person.
    async fn take_back(&self, name: &str, at: &str, check_in: &CheckIn) -> Answered {
        let deleted = match self.delete(name).await {
            Ok(answer) => (200..300).contains(&answer.status),
            Err(_) => false,
        };
        let became = if deleted { "was deleted again" } else { "could not be deleted: delete it by hand" };
        let why = format!(
            "{name} was stored at {at} instead of {}, and {became}. The user has no right to set the time of a check-in, \
             and Frappe puts the present in silence: give the user the role HR User, then resume",
            check_in.timestamp
        );
        let answer = super::readable(why.as_bytes());
        Answered { outcome: Outcome::Misconfigured(why), status: Some(200), answer }
    }

    async fn delete(&self, log: &str) -> Result<Answer, Answered> {
        self.call(Method::DELETE, &["api", "resource", "Employee Checkin", log], &[], None).await
    }
}

/// Whether a log in Frappe is the one that was sent. In the hour that autumn repeats, only the device tells.
fn is_this(log: &Value, check_in: &CheckIn) -> bool {
    let text = |key: &str| log.get(key).and_then(Value::as_str).unwrap_or_default();
    let log_type = check_in.log_type.map_or("", |log_type| log_type.name());
    check_in.is_at(text("time"))
        && text("log_type") == log_type
        && (!check_in.ambiguous || text("device_id") == check_in.device_id)
}

/// A log was refused, and asking whether it is there came to nothing: what holds everybody back counts, all else leaves
/// it open.
fn unclear_after(status: u16, unclear: Answered) -> Answered {
    match unclear.outcome {
        Outcome::Unauthorized | Outcome::Misconfigured(_) | Outcome::RateLimited { .. } => unclear,
        outcome => {
            let why = format!("{status}, and asked whether the log is there: {}", outcome.word());
            Answered { outcome: Outcome::NotUnderstood(why), status: Some(status), answer: unclear.answer }
        }
    }
}

/// What was kept is not what was rendered.
fn unreadable(why: String) -> Answered {
    let answer = super::cut(&format!("what was kept is no check-in: {why}"), MAX_ANSWER_BYTES);
    Answered { outcome: Outcome::Unrenderable(why), status: None, answer }
}

impl Destination for FrappeHr {
    fn render(&self, event: EventId, tap: &DeliverableTap) -> Result<String, CannotRender> {
        check_in::render(&self.settings, event, tap).map(CheckIn::into_text)
    }

    async fn send(&self, _event: EventId, rendered: String) -> Answered {
        match CheckIn::from_text(&rendered) {
            Ok(check_in) => self.add(&check_in, rendered).await,
            Err(why) => unreadable(why),
        }
    }

    fn after_unknown(&self) -> AfterUnknown {
        self.after_unknown
    }

    fn settles_after_ms(&self) -> u64 {
        u64::from(self.settings.settle_s) * 1000
    }

    async fn look_up(&self, _event: EventId, rendered: &str) -> LookedUp {
        let check_in = match CheckIn::from_text(rendered) {
            Ok(check_in) => check_in,
            Err(why) => return LookedUp::Unclear(unreadable(why)),
        };
        match self.find(&check_in).await {
            Ok(Some(name)) => LookedUp::Found(name),
            Ok(None) => LookedUp::Absent,
            Err(unclear) => LookedUp::Unclear(unclear),
        }
    }

    async fn probe(&self, sample: Option<&Sample>) -> Probe {
        self.try_out(sample).await
    }
}
