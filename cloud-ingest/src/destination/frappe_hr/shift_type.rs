//! Step 12 of 12: a shift type's *Last Sync of Checkin*, read and moved. How far it may go is for [`super::watermark`].

use reqwest::Method;
use serde_json::{Value, json};

use super::check_in::to_the_second;
use super::{FrappeHr, answers};
use crate::destination::{Answered, Outcome};

/// What became of moving it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed {
    /// It is there now.
    Moved,
    /// It was there already, or further: somebody else has moved it to this.
    StandsAt(String),
    /// *Auto Update Last Sync* is on: Frappe moves it by its own clock, and marks people absent whose taps are still on
    /// the way. It was not touched; a person has to switch that off.
    AutoUpdateIsOn,
    /// Frappe did not do it, and this is what it said.
    Failed(Answered),
}

/// What a shift type says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShiftType {
    /// Whether Frappe marks attendance by it at all.
    pub(super) marks_attendance: bool,
    /// Whether Frappe moves the time by itself.
    pub(super) auto_update: bool,
    /// Where it stands, to the second.
    pub(super) last_sync: Option<String>,
}

impl ShiftType {
    fn read(document: &Value) -> ShiftType {
        // A check box is 0 or 1; in answers of some versions a truth value.
        let is_checked = |key: &str| match document.get(key) {
            Some(Value::Bool(yes)) => *yes,
            Some(Value::Number(number)) => number.as_i64() != Some(0),
            _ => false,
        };
        let last_sync = document.get("last_sync_of_checkin").and_then(Value::as_str);
        ShiftType {
            marks_attendance: is_checked("enable_auto_attendance"),
            auto_update: is_checked("auto_update_last_sync"),
            // Microseconds are cut, so that it never looks further than it is.
            last_sync: last_sync.and_then(|time| time.get(..19)).and_then(to_the_second).map(str::to_owned),
        }
    }
}

impl FrappeHr {
    /// Moves a shift type's *Last Sync of Checkin* to this time, never back, and only while it is ours to move. A success
    /// is that Frappe shows the new time.
    pub async fn push_watermark(&self, shift_type: &str, to: &str) -> Pushed {
        let stands = match self.shift_type(shift_type).await {
            Ok(stands) => stands,
            Err(answered) => return Pushed::Failed(answered),
        };
        if stands.auto_update {
            return Pushed::AutoUpdateIsOn;
        }
        if let Some(at) = stands.last_sync.filter(|at| at.as_str() >= to) {
            return Pushed::StandsAt(at);
        }
        let body = json!({ "last_sync_of_checkin": to }).to_string();
        match self.shift_type_call(Method::PUT, shift_type, Some(body)).await {
            Ok((moved, _)) if moved.last_sync.as_deref() == Some(to) => Pushed::Moved,
            Ok((moved, answered)) => {
                let at = moved.last_sync.as_deref().unwrap_or("nothing");
                let why = format!(
                    "asked to move {shift_type} to {to}, Frappe shows {at}: the user needs the role HR User"
                );
                Pushed::Failed(Answered { outcome: Outcome::Misconfigured(why), ..answered })
            }
            Err(answered) => Pushed::Failed(answered),
        }
    }

    pub(super) async fn shift_type(&self, name: &str) -> Result<ShiftType, Answered> {
        self.shift_type_call(Method::GET, name, None).await.map(|(shift_type, _)| shift_type)
    }

    async fn shift_type_call(
        &self,
        method: Method,
        name: &str,
        body: Option<String>,
    ) -> Result<(ShiftType, Answered), Answered> {
        let answer = self.call(method, &["api", "resource", "Shift Type", name], &[], body).await?;
        let said = self.said(&answer);
        match said.status {
            200..=299 => {}
            404 => {
                let why = format!("Frappe has no Shift Type {name:?}, or this user may not see it");
                return Err(answer.meaning(Outcome::Misconfigured(why)));
            }
            _ => return Err(answer.meaning(answers::judge_failure(&said))),
        }
        match said.body.as_ref().ok().and_then(|body| body.get("data")).filter(|data| data.is_object()) {
            Some(document) => Ok((ShiftType::read(document), answer.meaning(Outcome::Delivered))),
            None => {
                let why = format!("{} without the Shift Type that was asked for", said.status);
                Err(answer.meaning(Outcome::NotUnderstood(why)))
            }
        }
    }
}
