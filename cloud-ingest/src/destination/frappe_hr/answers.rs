//! Step 12 of 12: what Frappe's answers mean. Pure: knows an answer and what was sent; asks nothing back, and says where
//! somebody has to.
//!
//! Frappe names errors by status, by the class of the exception, and by a text in the language of the user who asks. The
//! text alone tells a duplicate from a person who is not known. So it is read where it is English, and where it is not,
//! Frappe is asked whether the log is there.

use serde_json::Value;

use super::check_in::CheckIn;
use crate::destination::{Outcome, cut};
use crate::event_store::MAX_ANSWER_BYTES;

/// Says, in English, that the log is there.
const DUPLICATE: &str = "already has a log with the same timestamp";

/// Say, in English, that this log will never be taken as it is: for a person to look at, and no reason to stop.
const FOR_GOOD: [&str; 7] = [
    "No Employee found for the given employee field value",
    "cannot be created for an Inactive Employee",
    "Log Type is required for check-ins falling in the shift",
    "Latitude and longitude values are required",
    "You must be within",
    "'employee_field_value' and 'timestamp' are required",
    "Could not find",
];

/// Exceptions that say the same in every language.
const FOR_GOOD_CLASSES: [&str; 5] = [
    "InactiveEmployeeStatusError",
    "CheckinRadiusExceededError",
    "CharacterLengthExceededError",
    "MandatoryError",
    "LinkValidationError",
];

/// Exceptions that the next moment may not bring.
const PASSING_CLASSES: [&str; 4] =
    ["QueryDeadlockError", "QueryTimeoutError", "TimestampMismatchError", "DocumentLockedError"];

/// What an answer comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This.
    Is(Outcome),
    /// If the log is there, a duplicate; otherwise this.
    AskWhetherItIsThere(Outcome),
    /// A log of this name was stored, at another time than was sent.
    StoredAtAnotherTime {
        /// Its name in Frappe.
        name: String,
        /// At this time.
        at: String,
    },
}

/// An answer, read as far as it can be.
#[derive(Debug, Clone)]
pub struct Said {
    /// The HTTP status.
    pub status: u16,
    /// The body, or why it is no JSON.
    pub body: Result<Value, String>,
    /// When it asks us to come back, if it does.
    pub retry_after_ms: Option<u64>,
}

/// What the answer to a log means. `believes_duplicates`: whether what Frappe calls a duplicate is one.
pub fn judge(said: &Said, sent: &CheckIn, believes_duplicates: bool) -> Verdict {
    use Verdict::{AskWhetherItIsThere, Is};
    let Said { status, retry_after_ms, .. } = *said;
    match status {
        200..=299 => judge_success(said, sent),
        409 => AskWhetherItIsThere(Outcome::ServerError { retry_after_ms: None }),
        417 => match said.class() {
            Some("RateLimitExceededError") => Is(Outcome::RateLimited { retry_after_ms }),
            Some(class) if PASSING_CLASSES.contains(&class) => Is(Outcome::ServerError { retry_after_ms }),
            Some(class) if FOR_GOOD_CLASSES.contains(&class) => Is(Outcome::Refused(status)),
            _ if said.text().contains(DUPLICATE) => match believes_duplicates {
                true => Is(Outcome::Duplicate),
                false => AskWhetherItIsThere(Outcome::Refused(status)),
            },
            _ if FOR_GOOD.iter().any(|text| said.text().contains(text)) => Is(Outcome::Refused(status)),
            _ => AskWhetherItIsThere(Outcome::Refused(status)),
        },
        // Something that this person's log needs is gone; without an exception, it is the method or the whole site.
        404 if said.class().is_some() => AskWhetherItIsThere(Outcome::Refused(status)),
        _ => Is(judge_failure(said)),
    }
}

/// What an answer means that took nothing, whatever was asked.
pub fn judge_failure(said: &Said) -> Outcome {
    let Said { status, retry_after_ms, .. } = *said;
    match status {
        401 | 403 => Outcome::Unauthorized,
        404 | 405 => Outcome::Misconfigured(format!(
            "{status}: there is no Frappe HR at this address; check the url, and whether `app` fits its version (hrms \
             from 14 on, erpnext before)"
        )),
        429 => Outcome::RateLimited { retry_after_ms },
        300..=399 => Outcome::Misconfigured(format!(
            "{status}: it redirects, which is not followed; write the address that it redirects to as the url"
        )),
        408 | 425 | 503 => Outcome::ServerError { retry_after_ms },
        // What Frappe itself reports, it has rolled back. What stands before it knows only that it has no answer.
        500..=599 if said.is_frappes_own() => Outcome::ServerError { retry_after_ms },
        500..=599 => Outcome::NotUnderstood(format!("{status}, and not from Frappe itself")),
        400..=499 => Outcome::Refused(status),
        _ => Outcome::NotUnderstood(format!("status {status} has no documented meaning")),
    }
}

fn judge_success(said: &Said, sent: &CheckIn) -> Verdict {
    let status = said.status;
    let body = match &said.body {
        Ok(body) => body,
        Err(why) => return Verdict::Is(Outcome::NotUnderstood(format!("{status} with {why}"))),
    };
    if let Some(class) = said.class() {
        let why = cut(&format!("{class}: {}", said.text()), MAX_ANSWER_BYTES);
        return Verdict::Is(Outcome::ErrorInside(why));
    }
    let told = |key: &str| body.pointer(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    match (told("/message/name"), told("/message/time")) {
        (Some(_), Some(time)) if sent.is_at(time) => Verdict::Is(Outcome::Delivered),
        (Some(name), Some(at)) => Verdict::StoredAtAnotherTime { name: cut(name, 140), at: cut(at, 40) },
        _ => Verdict::Is(Outcome::NotUnderstood(format!("{status} without a check-in's name and time"))),
    }
}

impl Said {
    /// The exception's class, if there was one: `exc_type`, or what `exception` begins with.
    pub fn class(&self) -> Option<&str> {
        let body = self.body.as_ref().ok()?;
        let text = |key: &str| body.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let of_exception = || {
            let class = text("exception")?.split([':', '\n']).next()?;
            class.rsplit('.').next()
        };
        text("exc_type").or_else(of_exception).or_else(|| text("exc").map(|_| "an exception"))
    }

    /// Whether Frappe wrote it, and not what stands before it.
    fn is_frappes_own(&self) -> bool {
        self.class().is_some()
    }

    /// All that it says in words. `_server_messages` is a list, as text, of objects, as text.
    pub fn text(&self) -> String {
        let Ok(body) = &self.body else { return String::new() };
        let mut words = Vec::new();
        for key in ["message", "exception", "_error_message"] {
            words.extend(body.get(key).and_then(Value::as_str).map(str::to_owned));
        }
        let inner = |text: &str| serde_json::from_str::<Value>(text).ok();
        let messages = body.get("_server_messages").and_then(Value::as_str).and_then(inner);
        for message in messages.as_ref().and_then(Value::as_array).into_iter().flatten() {
            let Some(text) = message.as_str() else { continue };
            let object = inner(text);
            let message = object.as_ref().and_then(|object| object.get("message")).and_then(Value::as_str);
            words.push(message.unwrap_or(text).to_owned());
        }
        words.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sent() -> CheckIn {
        CheckIn {
            employee_field_value: "12349".into(),
            timestamp: "2026-03-02 08:00:00.000000".into(),
            device_id: "hq-door-12".into(),
            log_type: None,
            employee_fieldname: "attendance_device_id".into(),
            ambiguous: false,
        }
    }

    fn said(status: u16, body: Value) -> Said {
        Said { status, body: Ok(body), retry_after_ms: None }
    }

    #[track_caller]
    fn is(status: u16, body: Value, expect: Outcome) {
        assert_eq!(judge(&said(status, body.clone()), &sent(), true), Verdict::Is(expect), "{status} {body}");
    }

    #[track_caller]
    fn asks(status: u16, body: Value, otherwise: Outcome) {
        let verdict = judge(&said(status, body.clone()), &sent(), true);
        assert_eq!(verdict, Verdict::AskWhetherItIsThere(otherwise), "{status} {body}");
    }

    /// As Frappe packs a message that was thrown.
    fn thrown(class: &str, message: &str) -> Value {
        let message = json!({ "message": message, "title": "Message", "indicator": "red" }).to_string();
        json!({
            "exc_type": class,
            "exception": format!("frappe.exceptions.{class}: x"),
            "_server_messages": json!([message]).to_string()
        })
    }

    #[test]
    fn a_log_is_delivered_if_it_was_stored_at_the_time_that_was_sent() {
        let stored = |time: &str| json!({ "message": { "name": "EMP-CKIN-03-2026-000123", "time": time } });
        is(200, stored("2026-03-02 08:00:00"), Outcome::Delivered);
        is(200, stored("2026-03-02 08:00:00.000000"), Outcome::Delivered);
        let elsewhen = judge(&said(200, stored("2026-03-02 11:17:09.123456")), &sent(), true);
        let (name, at) = ("EMP-CKIN-03-2026-000123".to_owned(), "2026-03-02 11:17:09.123456".to_owned());
        assert_eq!(elsewhen, Verdict::StoredAtAnotherTime { name, at });
    }

    #[test]
    fn a_success_that_shows_no_log_is_none() {
        let not_understood = |text: &str| Outcome::NotUnderstood(text.into());
        is(200, json!({ "message": "Logged In" }), not_understood("200 without a check-in's name and time"));
        is(
            200,
            json!({ "message": { "name": "X" } }),
            not_understood("200 without a check-in's name and time"),
        );
        is(200, json!([]), not_understood("200 without a check-in's name and time"));
        is(
            200,
            json!({ "exc_type": "ValidationError", "message": "no" }),
            Outcome::ErrorInside("ValidationError: no".into()),
        );
        let html =
            Said { status: 200, body: Err("content of type \"text/html\"".into()), retry_after_ms: None };
        let expect = not_understood("200 with content of type \"text/html\"");
        assert_eq!(judge(&html, &sent(), true), Verdict::Is(expect));
    }

    #[test]
    fn a_duplicate_is_believed_where_frappe_looks_at_all_that_we_sent() {
        let duplicate = thrown(
            "ValidationError",
            "This employee already has a log with the same timestamp.<Br><a href=..>",
        );
        is(417, duplicate.clone(), Outcome::Duplicate);
        let verdict = judge(&said(417, duplicate), &sent(), false);
        assert_eq!(verdict, Verdict::AskWhetherItIsThere(Outcome::Refused(417)));
    }

    #[test]
    fn what_is_said_in_another_language_is_asked_back() {
        let refused = Outcome::Refused(417);
        asks(417, thrown("ValidationError", "Dieser Mitarbeiter hat bereits ein Protokoll"), refused.clone());
        asks(417, json!({}), refused.clone());
        asks(417, json!({ "_server_messages": "rubbish", "exc": "[]" }), refused);
    }

    #[test]
    fn what_is_one_persons_trouble_is_refused_for_good() {
        for message in [
            "No Employee found for the given employee field value. 'attendance_device_id': 12349",
            "Transactions cannot be created for an Inactive Employee HR-EMP-00001.",
            "Log Type is required for check-ins falling in the shift: Day.",
            "Latitude and longitude values are required for checking in.",
            "You must be within 50 meters of your shift location to check in.",
        ] {
            is(417, thrown("ValidationError", message), Outcome::Refused(417));
        }
        is(417, thrown("InactiveEmployeeStatusError", "übersetzt"), Outcome::Refused(417));
        is(417, thrown("CheckinRadiusExceededError", "übersetzt"), Outcome::Refused(417));
        asks(404, thrown("DoesNotExistError", "Shift Assignment X not found"), Outcome::Refused(404));
    }

    #[test]
    fn what_is_everybodys_trouble_holds_everything() {
        is(401, thrown("AuthenticationError", ""), Outcome::Unauthorized);
        is(
            403,
            thrown("PermissionError", "Insufficient Permission for Employee Checkin"),
            Outcome::Unauthorized,
        );
        let outcome = |status| judge(&said(status, json!({})), &sent(), true);
        for status in [301, 302, 404, 405] {
            assert!(matches!(outcome(status), Verdict::Is(Outcome::Misconfigured(_))), "{status}");
        }
    }

    #[test]
    fn a_limit_is_a_limit_by_status_or_by_class() {
        let limited = Said { retry_after_ms: Some(7_000), ..said(429, json!({})) };
        assert_eq!(
            judge(&limited, &sent(), true),
            Verdict::Is(Outcome::RateLimited { retry_after_ms: Some(7_000) })
        );
        is(417, thrown("RateLimitExceededError", "…"), Outcome::RateLimited { retry_after_ms: None });
    }

    #[test]
    fn only_what_frappe_itself_reports_was_rolled_back() {
        let trouble = Outcome::ServerError { retry_after_ms: None };
        is(500, thrown("OperationalError", "MySQL server has gone away"), trouble.clone());
        is(417, thrown("QueryDeadlockError", "…"), trouble.clone());
        is(503, json!({}), trouble.clone());
        asks(409, thrown("DuplicateEntryError", "EMP-CKIN-03-2026-000123"), trouble);
        for status in [500, 502, 504] {
            let gateway = Said { status, body: Err("a body that is no JSON".into()), retry_after_ms: None };
            let expect = Outcome::NotUnderstood(format!("{status}, and not from Frappe itself"));
            assert_eq!(judge(&gateway, &sent(), true), Verdict::Is(expect));
        }
    }
}
