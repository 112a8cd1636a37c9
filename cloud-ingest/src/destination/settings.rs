//! Step 12 of 12: what a destination is, as it is written and kept. Pure, and parsed whole: settings that exist are
//! good ones. The credentials are not in it.

use core::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tap_protocol::tap::Direction;
use url::Url;

use super::fields::{self, DirectionWords, Text};
use super::guard::Network;
use super::rules::{self, Rule};
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
    /// Networks that it may be in, beside the public internet and those of the whole deployment.
    pub allow_networks: Vec<Network>,
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

/// Settings as they are written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    kind: KindName,
    url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http_json: Option<Box<HttpJsonSettings>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    frappe_hr: Option<FrappeHrSettings>,
    #[serde(default = "default_timeout_ms")]
    timeout_ms: u64,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    breaker: Breaker,
    #[serde(default)]
    on_dead: OnDead,
    #[serde(default)]
    order_across_controllers: Option<AcrossControllers>,
    #[serde(default)]
    routing: Routing,
    #[serde(default)]
    mode: Mode,
    #[serde(default)]
    deliver_from: DeliverFrom,
    #[serde(default)]
    after_unknown: Option<AfterUnknown>,
    #[serde(default)]
    allow_networks: Vec<Network>,
}

fn default_timeout_ms() -> u64 {
    5_000
}

impl Written {
    fn new(kind: KindName, url: &str) -> Written {
        Written {
            kind,
            url: url.to_owned(),
            http_json: None,
            frappe_hr: None,
            timeout_ms: default_timeout_ms(),
            limits: Limits::default(),
            breaker: Breaker::default(),
            on_dead: OnDead::default(),
            order_across_controllers: None,
            routing: Routing::default(),
            mode: Mode::default(),
            deliver_from: DeliverFrom::default(),
            after_unknown: None,
            allow_networks: Vec::new(),
        }
    }

    fn kind(&mut self) -> Result<Kind, BadSettings> {
        match (self.kind, self.http_json.take(), self.frappe_hr.take()) {
            (KindName::HttpJson, settings, None) => Ok(Kind::HttpJson(settings.unwrap_or_default())),
            (KindName::FrappeHr, None, settings) => Ok(Kind::FrappeHr(settings.unwrap_or_default())),
            (KindName::HttpJson, _, Some(_)) => {
                Err(bad("frappe_hr", "the kind is http_json: leave this out, or write kind = \"frappe_hr\""))
            }
            (KindName::FrappeHr, Some(_), _) => {
                Err(bad("http_json", "the kind is frappe_hr: leave this out, or write kind = \"http_json\""))
            }
        }
    }
}

impl From<DestinationSettings> for Written {
    fn from(settings: DestinationSettings) -> Written {
        let kind = settings.kind.name();
        let (http_json, frappe_hr) = match settings.kind {
            Kind::HttpJson(settings) => (Some(settings), None),
            Kind::FrappeHr(settings) => (None, Some(settings)),
        };
        Written {
            kind,
            url: settings.url.into(),
            http_json,
            frappe_hr,
            timeout_ms: settings.timeout_ms,
            limits: settings.limits,
            breaker: settings.breaker,
            on_dead: settings.on_dead,
            order_across_controllers: settings.order_across_controllers,
            routing: settings.routing,
            mode: settings.mode,
            deliver_from: settings.deliver_from,
            after_unknown: Some(settings.after_unknown),
            allow_networks: settings.allow_networks,
        }
    }
}

impl TryFrom<Written> for DestinationSettings {
    type Error = BadSettings;

    fn try_from(mut written: Written) -> Result<DestinationSettings, BadSettings> {
        let kind = written.kind()?;
        let url = address(&written.url)?;
        match &kind {
            Kind::HttpJson(settings) => check_http_json(settings)?,
            Kind::FrappeHr(settings) => check_frappe_hr(settings, &url)?,
        }
        check_bounds(&written)?;
        let after_unknown = after_unknown(&kind, written.after_unknown)?;
        Ok(DestinationSettings {
            kind,
            url,
            timeout_ms: written.timeout_ms,
            limits: written.limits,
            breaker: written.breaker,
            on_dead: written.on_dead,
            order_across_controllers: written.order_across_controllers,
            routing: written.routing,
            mode: written.mode,
            deliver_from: written.deliver_from,
            after_unknown,
            allow_networks: written.allow_networks,
        })
    }
}

/// What is written, else the best that the kind can do.
fn after_unknown(kind: &Kind, written: Option<AfterUnknown>) -> Result<AfterUnknown, BadSettings> {
    match (kind, written) {
        (Kind::FrappeHr(_), None) => Ok(AfterUnknown::LookUp),
        (Kind::FrappeHr(_), Some(chosen)) => Ok(chosen),
        (Kind::HttpJson(settings), None) if settings.template.tells_the_key() => Ok(AfterUnknown::Repeat),
        (Kind::HttpJson(_), None) => Ok(AfterUnknown::AskPerson),
        (Kind::HttpJson(settings), Some(AfterUnknown::Repeat)) if !settings.template.tells_the_key() => {
            Err(bad(
                "after_unknown",
                "a request that is repeated must carry its key: give the template an idempotency_header or an {event_id}, \
             or write ask_person",
            ))
        }
        (Kind::HttpJson(_), Some(AfterUnknown::LookUp)) => Err(bad(
            "after_unknown",
            "http_json has no way to ask whether a tap is there: write repeat, if it knows repetitions by their key, \
             or ask_person",
        )),
        (Kind::HttpJson(_), Some(chosen)) => Ok(chosen),
    }
}

fn bad(at: &str, why: impl Into<String>) -> BadSettings {
    BadSettings { at: at.to_owned(), why: why.into() }
}

/// The address, which is https or http, names a host, and has nothing secret or superfluous in it.
fn address(text: &str) -> Result<Url, BadSettings> {
    let example = "write one such as https://hr.example.com/api/attendance";
    let url =
        Url::parse(text).map_err(|why| bad("url", format!("{text:?} is no address ({why}): {example}")))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(bad("url", format!("{text:?} is no address of a web service: {example}")));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // Not repeated here: it has a secret in it.
        return Err(bad(
            "url",
            "leave the user and the password out: credentials are given apart and kept secret",
        ));
    }
    if url.fragment().is_some() {
        return Err(bad("url", format!("{text:?} has a #, which is never sent: leave it out")));
    }
    Ok(url)
}

fn check_http_json(settings: &HttpJsonSettings) -> Result<(), BadSettings> {
    if let Some((at, why)) = settings.template.complaint() {
        return Err(bad(&format!("http_json.template.{at}"), why));
    }
    match rules::complaint(&settings.answers) {
        Some(why) => Err(bad("http_json.answers", why)),
        None => Ok(()),
    }
}

fn check_frappe_hr(settings: &FrappeHrSettings, url: &Url) -> Result<(), BadSettings> {
    let is_name = |text: &str| {
        !text.is_empty()
            && text.len() <= 140
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if url.path() != "/" || url.query().is_some() {
        return Err(bad("url", "for frappe_hr this is the site alone, such as https://hr.example.com"));
    }
    if !is_name(&settings.employee_field) {
        return Err(bad(
            "frappe_hr.employee_field",
            "write the name of a field of Employee, such as attendance_device_id or name",
        ));
    }
    if settings.settle_s > 3_600 {
        return Err(bad("frappe_hr.settle_s", "use 0 to 3600"));
    }
    if let Some(zone) = &settings.zone {
        zone_at("frappe_hr.zone", zone)?;
    }
    for (i, mark) in settings.watermarks.iter().enumerate() {
        let at = |key: &str| format!("frappe_hr.watermarks[{i}].{key}");
        let name = &mark.shift_type;
        if name.is_empty()
            || name.len() > 140
            || name.contains(['/', '\\'])
            || name.chars().any(char::is_control)
        {
            return Err(bad(&at("shift_type"), format!("{name:?} is no name of a Shift Type")));
        }
        if settings.watermarks[..i].iter().any(|other| other.shift_type == *name) {
            return Err(bad(&at("shift_type"), format!("{name:?} is there twice")));
        }
        zone_at(&at("zone"), &mark.zone)?;
    }
    Ok(())
}

fn zone_at(at: &str, zone: &str) -> Result<(), BadSettings> {
    fields::named(zone)
        .map(|_| ())
        .map_err(|_| bad(at, format!("{zone:?} is no time zone: write one such as Europe/Berlin")))
}

fn check_bounds(written: &Written) -> Result<(), BadSettings> {
    let Limits { per_second, burst, per_day, concurrency } = written.limits;
    let Breaker { trip_after, open_s, max_open_s, ramp_s } = written.breaker;
    if !(100..=MAX_TIMEOUT_MS).contains(&written.timeout_ms) {
        return Err(bad("timeout_ms", format!("use 100 to {MAX_TIMEOUT_MS}")));
    }
    if !(0.001..=1_000.0).contains(&per_second) {
        return Err(bad("limits.per_second", "use 0.001 to 1000; 0.1 is one in ten seconds"));
    }
    if !(1..=10_000).contains(&burst) {
        return Err(bad("limits.burst", "use 1 to 10000; 1 sends evenly"));
    }
    if per_day == Some(0) {
        return Err(bad(
            "limits.per_day",
            "use 1 or more, or leave it out; to send nothing, pause the destination",
        ));
    }
    if !(1..=MAX_CONCURRENCY).contains(&concurrency) {
        return Err(bad("limits.concurrency", format!("use 1 to {MAX_CONCURRENCY}")));
    }
    if !(1..=1_000).contains(&trip_after) {
        return Err(bad("breaker.trip_after", "use 1 to 1000"));
    }
    if !(1..=3_600).contains(&open_s) {
        return Err(bad("breaker.open_s", "use 1 to 3600"));
    }
    if !(open_s..=86_400).contains(&max_open_s) {
        return Err(bad("breaker.max_open_s", format!("use {open_s} (which is open_s) to 86400")));
    }
    if ramp_s > 3_600 {
        return Err(bad("breaker.ramp_s", "use 0 to 3600"));
    }
    if matches!(written.on_dead, OnDead::HoldHours(hours) if !(1..=24 * 31).contains(&hours)) {
        return Err(bad("on_dead", "use 1 to 744 hours, or hold, or skip"));
    }
    if written.order_across_controllers.is_some_and(|across| !(1..=86_400).contains(&across.max_wait_s)) {
        return Err(bad("order_across_controllers.max_wait_s", "use 1 to 86400"));
    }
    let is_reader = |name: &&String| {
        name.split_once('/').is_none_or(|(controller, reader)| controller.is_empty() || reader.is_empty())
    };
    if let Some(name) = written.routing.readers.iter().find(is_reader) {
        let why =
            format!("{name:?} is no reader: write controller/reader, or controller/* for all of its readers");
        return Err(bad("routing.readers", why));
    }
    Ok(())
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
