//! Step 12 of 12: what a destination is, as it is written and kept. Pure, and parsed whole: settings that exist are
//! good ones. The credentials are not in it.

mod written;

use core::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tap_protocol::tap::Direction;
use url::Url;

use super::fields::{self, DirectionWords, Text};
use super::rules::Rule;
use super::settings::written::Written;
use super::template::Template;
use crate::event_store::{DeliverableTap, UtcMs};

/// A request may take this long at most: far below the lease, so that a claim never runs out under a live request.
pub const MAX_TIMEOUT_MS: u64 = 20_000;

/// Requests that may be under way at once; legacy systems give up long before.
pub const MAX_CONCURRENCY: u32 = 256;

/// What a destination is. Read from JSON, which refuses what is out of bounds with a [`BadSettings`]; from its text, as
/// a `serde_json::Value` on the way would sort the members of a template's body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct DestinationSettings {
    /// What it speaks.
    pub kind: Kind,
    /// Where it is.
    pub url: Url,
    /// How long one request may take, its answer included.
    pub timeout_ms: u64,
    /// How much it is asked for.
    pub limits: Limits,
    /// When it is left in peace.
    pub breaker: Breaker,
    /// What becomes of a person's later taps when one was refused for good.
    pub on_dead: OnDead,
    /// Whether a person's taps at several controllers are told in the order in which they happened.
    pub order_across_controllers: Option<AcrossControllers>,
    /// Which taps it is told.
    pub routing: Routing,
    /// Whether it is really told.
    pub mode: Mode,
    /// From which taps on.
    pub deliver_from: DeliverFrom,
    /// What follows a request whose answer never came.
    pub after_unknown: AfterUnknown,
}

/// What a destination speaks.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// A JSON API of one's own description.
    HttpJson(Box<HttpJsonSettings>),
    /// Frappe HR, or ERPNext before it.
    FrappeHr(FrappeHrSettings),
}

impl Kind {
    /// The name in settings, in the store and on screens.
    pub fn name(&self) -> KindName {
        match self {
            Kind::HttpJson(_) => KindName::HttpJson,
            Kind::FrappeHr(_) => KindName::FrappeHr,
        }
    }
}

/// The kinds by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KindName {
    /// A JSON API.
    HttpJson,
    /// Frappe HR.
    FrappeHr,
}

/// A JSON API: what is sent, and what its answers mean.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpJsonSettings {
    /// The request.
    pub template: Template,
    /// What answers mean; without a rule, the contract of `docs/destinations.md`.
    pub answers: Vec<Rule>,
}

/// Frappe HR's Employee Checkin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FrappeHrSettings {
    /// Which application has the method.
    pub app: FrappeApp,
    /// Which field of Employee the person's name is in.
    pub employee_field: String,
    /// What is told as *Location / Device ID*.
    pub device_id: Text,
    /// Whether IN and OUT are told; if not, Frappe works them out from the order.
    pub log_type: bool,
    /// The zone of the times that are told, as Frappe has none; the site's of each tap if not given.
    pub zone: Option<String>,
    /// How long a request without an answer may still be at work in Frappe: before that, asking whether the tap is there
    /// proves nothing. The default is the time after which Frappe's web server ends a request.
    pub settle_s: u32,
    /// Shift types whose *Last Sync of Checkin* is ours to move.
    pub watermarks: Vec<ShiftTypeMark>,
}

/// The application that has Employee Checkin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrappeApp {
    /// Frappe HR, from version 14 on.
    #[default]
    Hrms,
    /// ERPNext up to version 13.
    Erpnext,
}

/// A shift type, and whose taps make it complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShiftTypeMark {
    /// Its name in Frappe.
    pub shift_type: String,
    /// The sites at which its people tap; all if none is named.
    #[serde(default)]
    pub sites: Vec<String>,
    /// Whose clock its shifts go by, as an IANA name.
    pub zone: String,
}

impl Default for FrappeHrSettings {
    fn default() -> FrappeHrSettings {
        FrappeHrSettings {
            app: FrappeApp::Hrms,
            employee_field: "attendance_device_id".into(),
            device_id: Text::parse("{controller}").expect("a field"),
            log_type: true,
            zone: None,
            settle_s: 120,
            watermarks: Vec::new(),
        }
    }
}

impl FrappeHrSettings {
    /// How Frappe calls the directions: it knows two, and an empty one.
    pub fn words(&self) -> DirectionWords {
        let word = |word: &str| self.log_type.then(|| word.to_owned());
        DirectionWords { inwards: word("IN"), outwards: word("OUT"), unspecified: None }
    }
}

/// How much a destination is asked for, by all replicas together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Requests per second in the long run.
    pub per_second: f64,
    /// So many at once after a pause.
    pub burst: u32,
    /// Requests per day in UTC, if that is limited.
    pub per_day: Option<u32>,
    /// Requests under way at once.
    pub concurrency: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { per_second: 10.0, burst: 10, per_day: None, concurrency: 8 }
    }
}

/// When a destination that only fails is left in peace, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    /// After so many failures in a row.
    pub trip_after: u32,
    /// The first pause before one request tries again.
    pub open_s: u32,
    /// Pauses double up to this.
    pub max_open_s: u32,
    /// How long it takes from the first success to the full rate.
    pub ramp_s: u32,
}

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker { trip_after: 10, open_s: 10, max_open_s: 300, ramp_s: 30 }
    }
}

/// What becomes of the taps behind one that was refused for good; nobody else waits in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDead {
    /// They wait until a person has decided.
    Hold,
    /// They go on.
    #[default]
    Skip,
    /// They wait for so many hours, then go on.
    HoldHours(u32),
}

/// Order over all controllers of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcrossControllers {
    /// A tap waits for controllers that are behind, but no longer than this.
    pub max_wait_s: u32,
}

/// Which taps a destination is told: those that fit every list; an empty list fits all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Routing {
    /// `in`, `out`, `unspecified`.
    pub directions: Vec<Direction>,
    /// Sites by their short names.
    pub sites: Vec<String>,
    /// Readers, as `controller/reader`; `controller/*` is all of its readers.
    pub readers: Vec<String>,
    /// Kinds of record.
    pub record_types: Vec<RecordType>,
}

/// The records that can be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordType {
    /// A tap.
    Tap,
}

impl Routing {
    /// Whether this tap is one of them.
    pub fn takes(&self, tap: &DeliverableTap) -> bool {
        let is_it = |name: &String| match name.split_once('/') {
            Some((controller, reader)) => {
                controller == tap.controller.as_str() && (reader == "*" || reader == tap.reader.as_str())
            }
            None => false,
        };
        fits(&self.directions, |direction| *direction == tap.direction)
            && fits(&self.sites, |site| *site == tap.site.id)
            && fits(&self.readers, is_it)
            && fits(&self.record_types, |kind| *kind == RecordType::Tap)
    }
}

fn fits<T>(list: &[T], is_it: impl Fn(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(is_it)
}

/// Whether a destination is really told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It is.
    #[default]
    Live,
    /// Requests are made and kept, and not sent.
    Shadow,
}

/// From which taps on a destination is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeliverFrom {
    /// Those that are stored after it was added.
    #[default]
    Now,
    /// All that are stored.
    Beginning,
    /// Those that happened at this time or later.
    Time(UtcMs),
}

impl TryFrom<String> for DeliverFrom {
    type Error = String;

    fn try_from(text: String) -> Result<DeliverFrom, String> {
        match text.as_str() {
            "now" => Ok(DeliverFrom::Now),
            "beginning" => Ok(DeliverFrom::Beginning),
            time => match time.parse::<Timestamp>() {
                Ok(time) => Ok(DeliverFrom::Time(UtcMs(time.as_millisecond()))),
                Err(_) => {
                    Err(format!("{time:?}: write now, beginning, or a time such as 2026-11-01T00:00:00Z"))
                }
            },
        }
    }
}

impl From<DeliverFrom> for String {
    fn from(from: DeliverFrom) -> String {
        from.to_string()
    }
}

impl fmt::Display for DeliverFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeliverFrom::Now => f.write_str("now"),
            DeliverFrom::Beginning => f.write_str("beginning"),
            DeliverFrom::Time(at) => f.write_str(&fields::local_time(*at, "UTC")),
        }
    }
}

/// What follows a request whose answer never came or could not be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterUnknown {
    /// The same request again, under the same key: for a destination that knows a repetition from a second tap.
    Repeat,
    /// It is asked whether the tap is there.
    LookUp,
    /// A person is asked.
    AskPerson,
}

/// Why something is no settings: where, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {why}")]
pub struct BadSettings {
    /// Which key.
    pub at: String,
    /// What is wrong with it, and what to do.
    pub why: String,
}

impl DestinationSettings {
    /// A JSON API at this address, everything else by default.
    pub fn http_json(url: &str) -> Result<DestinationSettings, BadSettings> {
        DestinationSettings::try_from(Written::new(KindName::HttpJson, url))
    }

    /// Frappe HR at this address, everything else by default.
    pub fn frappe_hr(url: &str) -> Result<DestinationSettings, BadSettings> {
        DestinationSettings::try_from(Written::new(KindName::FrappeHr, url))
    }

    /// Whether this tap is told to it at all. From when on is another question, see [`DeliverFrom`].
    pub fn takes(&self, tap: &DeliverableTap) -> bool {
        self.routing.takes(tap)
    }

    /// The same, if it is within all bounds: for settings that were made by code.
    pub fn checked(self) -> Result<DestinationSettings, BadSettings> {
        DestinationSettings::try_from(Written::from(self))
    }
}

#[cfg(test)]
#[path = "settings/tests.rs"]
mod tests;
