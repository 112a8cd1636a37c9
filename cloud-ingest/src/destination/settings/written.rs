//! Step 12 of 12: settings as somebody writes them, and all that can be wrong with them. Pure: what passes is a
//! [`DestinationSettings`], what does not says where and what to write instead.

use serde::{Deserialize, Serialize};
use url::Url;

use super::{
    AcrossControllers, AfterUnknown, BadSettings, Breaker, DeliverFrom, DestinationSettings,
    FrappeHrSettings, HttpJsonSettings, Kind, KindName, Limits, MAX_CONCURRENCY, MAX_TIMEOUT_MS, Mode,
    OnDead, Routing,
};
use crate::destination::fields;
use crate::destination::guard::Network;
use crate::destination::rules;

/// Settings as they are written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
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
    /// Everything by default.
    pub(super) fn new(kind: KindName, url: &str) -> Written {
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
    if !(0.001..=100_000.0).contains(&per_second) {
        return Err(bad("limits.per_second", "use 0.001 to 100000; 0.1 is one in ten seconds"));
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
