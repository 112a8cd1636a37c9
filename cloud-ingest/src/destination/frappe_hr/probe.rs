//! Beside step 12: trying a Frappe site out, before the first tap depends on it. Tells it nothing without a sample.

use reqwest::Method;
use serde_json::{Value, json};

use super::check_in::{self, CheckIn};
use super::{FrappeHr, answers};
use crate::destination::settings::FrappeApp;
use crate::destination::{Answered, Finding, Outcome, Probe, Sample};
use crate::event_store::UtcMs;

/// A sample is told at a time that has passed by this, because a user without the right to set times stores the present:
/// at the present, that would go unseen.
const SAMPLE_IS_OLD_MS: i64 = 60 * 60 * 1000;

impl FrappeHr {
    pub(super) async fn try_out(&self, sample: Option<&Sample>) -> Probe {
        let mut probe = Probe::default();
        let user = match self.logged_in_user().await {
            Ok(user) => user,
            Err(answered) => {
                probe.note("log in", Finding::Bad, says(&answered));
                return probe;
            }
        };
        probe.note("log in", Finding::Good, format!("as {user}"));
        if self.url.scheme() == "http" {
            let says =
                "the key travels readable for everybody on the way: use https, or a network of your own";
            probe.note("encryption", Finding::Doubtful, says);
        }
        self.try_language(&user, &mut probe).await;
        self.try_reading(&mut probe).await;
        for mark in &self.settings.watermarks {
            self.try_shift_type(&mark.shift_type, &mut probe).await;
        }
        if let Some(sample) = sample.filter(|_| probe.is_good()) {
            self.try_adding(sample, &mut probe).await;
        }
        probe
    }

    async fn logged_in_user(&self) -> Result<String, Answered> {
        let answer =
            self.call(Method::GET, &["api", "method", "frappe.auth.get_logged_user"], &[], None).await?;
        let said = self.said(&answer);
        if !(200..300).contains(&said.status) {
            return Err(answer.meaning(answers::judge_failure(&said)));
        }
        match said.body.as_ref().ok().and_then(|body| body.get("message")).and_then(Value::as_str) {
            Some(user) => Ok(user.to_owned()),
            None => {
                let why = "there is no Frappe at this address: it does not say who we are".to_owned();
                Err(answer.meaning(Outcome::Misconfigured(why)))
            }
        }
    }

    /// Duplicates are told from other errors by English words.
    async fn try_language(&self, user: &str, probe: &mut Probe) {
        let filters = json!([["name", "=", user]]);
        let language = match self.list("User", filters, &["name", "language"]).await {
            Ok(users) => {
                users.first().and_then(|user| user.get("language")).and_then(Value::as_str).map(str::to_owned)
            }
            Err(_) => None,
        };
        match language {
            Some(language) if language == "en" || language.starts_with("en-") => {
                probe.note("language", Finding::Good, language);
            }
            other => {
                let language = other.unwrap_or_else(|| "not to be seen by this user".into());
                let says = format!(
                    "the user's language is {language}: messages that are not English cost a question each; set it to \
                     English"
                );
                probe.note("language", Finding::Doubtful, says);
            }
        }
    }

    /// What is asked after a request without an answer.
    async fn try_reading(&self, probe: &mut Probe) {
        let field = self.settings.employee_field.as_str();
        match self.list("Employee", json!([[field, "is", "set"]]), &["name", field]).await {
            Ok(employees) if employees.is_empty() => {
                let says = format!("no Employee has anything in {field}: nobody's taps would be taken");
                probe.note("employees", Finding::Doubtful, says);
            }
            Ok(_) => probe.note("employees", Finding::Good, format!("found by {field}")),
            Err(answered) => {
                let says = format!(
                    "Employee cannot be searched by {field}: check the field's name and the user's roles; {}",
                    says(&answered)
                );
                probe.note("employees", Finding::Bad, says);
            }
        }
        match self.list("Employee Checkin", json!([]), &["name"]).await {
            Ok(_) => probe.note("check-ins", Finding::Good, "can be read"),
            Err(answered) => {
                let says = format!(
                    "check-ins cannot be read, so after a time-out nobody would know whether one is there: give the user \
                     the role HR User; {}",
                    says(&answered)
                );
                probe.note("check-ins", Finding::Bad, says);
            }
        }
    }

    async fn try_shift_type(&self, name: &str, probe: &mut Probe) {
        match self.shift_type(name).await {
            Err(answered) => probe.note("shift type", Finding::Bad, format!("{name}: {}", says(&answered))),
            Ok(shift_type) if shift_type.auto_update => {
                let says = format!(
                    "{name}: Auto Update Last Sync is on, so Frappe marks people absent whose taps are still on the way; \
                     switch it off"
                );
                probe.note("shift type", Finding::Bad, says);
            }
            Ok(shift_type) if !shift_type.marks_attendance => {
                let says = format!("{name}: Enable Auto Attendance is off, so Frappe marks nobody by it");
                probe.note("shift type", Finding::Doubtful, says);
            }
            Ok(shift_type) => {
                let at = shift_type.last_sync.unwrap_or_else(|| "nothing yet".into());
                probe.note("shift type", Finding::Good, format!("{name}: complete up to {at}"));
            }
        }
    }

    /// Adds a log that attendance does not look at, looks whether it is as it was sent, and deletes it.
    async fn try_adding(&self, sample: &Sample, probe: &mut Probe) {
        const WHAT: &str = "add a check-in";
        let mut tap = sample.tap.clone();
        tap.occurred = UtcMs(tap.occurred.0 - SAMPLE_IS_OLD_MS);
        let check_in = match check_in::render(&self.settings, sample.event, &tap) {
            Ok(check_in) => check_in,
            Err(why) => return probe.note(WHAT, Finding::Bad, why.to_string()),
        };
        let mut body = serde_json::to_value(&check_in).expect("a check-in is JSON");
        body["skip_auto_attendance"] = 1.into();
        let answered = self.add(&check_in, body.to_string()).await;
        match answered.outcome {
            Outcome::Delivered => probe.note(WHAT, Finding::Good, "stored at the time that was sent"),
            Outcome::Duplicate => {
                let says = "it was there already, from an earlier trial: whether the user may set times was not seen";
                probe.note(WHAT, Finding::Doubtful, says);
            }
            _ => {
                probe.note(WHAT, Finding::Bad, says(&answered));
                return;
            }
        }
        self.try_deleting(&check_in, probe).await;
    }

    async fn try_deleting(&self, check_in: &CheckIn, probe: &mut Probe) {
        const WHAT: &str = "find and delete it";
        let name = match self.find(check_in).await {
            Ok(Some(name)) => name,
            Ok(None) => {
                let hint = match self.settings.app {
                    FrappeApp::Hrms => "",
                    FrappeApp::Erpnext => " (or a log of the other direction is there at that second)",
                };
                let says = format!(
                    "the check-in that was just stored is not found{hint}: time-outs would double taps"
                );
                return probe.note(WHAT, Finding::Bad, says);
            }
            Err(answered) => return probe.note(WHAT, Finding::Bad, says(&answered)),
        };
        match self.delete(&name).await {
            Ok(answer) if (200..300).contains(&answer.status) => {
                probe.note(WHAT, Finding::Good, format!("{name} is gone"));
            }
            Ok(answer) => {
                let says = format!("{name} could not be deleted ({}): delete it by hand", answer.status);
                probe.note(WHAT, Finding::Doubtful, says);
            }
            Err(answered) => {
                let says = format!("{name} could not be deleted: delete it by hand; {}", says(&answered));
                probe.note(WHAT, Finding::Doubtful, says);
            }
        }
    }
}

/// What an end means, for whoever tries a destination out.
fn says(answered: &Answered) -> String {
    match &answered.outcome {
        Outcome::Unauthorized => {
            let status = answered.status.unwrap_or_default();
            format!("Frappe does not let us ({status}): check the key, the secret and the user's roles")
        }
        Outcome::Misconfigured(why) => why.clone(),
        Outcome::TimedOut => "no answer in time: check timeout_ms, and whether the site is up".into(),
        outcome => format!("{}: {}", outcome.word(), answered.answer),
    }
}
