//! What the cloud reads from people, controllers without a certificate, and the attendance system.

use cloud_ingest::config::Config;
use cloud_ingest::destination::Outcome;
use cloud_ingest::destination::frappe_hr::answers::{self, Said, Verdict};
use cloud_ingest::destination::frappe_hr::check_in::{self, CheckIn};
use cloud_ingest::destination::http_json::judge;
use cloud_ingest::destination::settings::{DestinationSettings, Kind};
use cloud_ingest::destination::template::Rendered;
use cloud_ingest::event_store::{DeliverableTap, PersonId, Site, UtcMs};
use cloud_ingest::import::{Portions, Source};
use edge_agent::outbox::export;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tap_protocol::enrolment::{Bundle, Challenge, EnrollRequest, EnrollToken, RenewRequest};
use tap_protocol::ids::{EventId, OutboxId, Seq};
use tap_protocol::tap::Direction;

use crate::attacks::production;

/// A status, lines of headers, an empty line, a body: as it comes over the wire.
pub fn legacy_answer(bytes: &[u8]) {
    let [high, low, rest @ ..] = bytes else { return };
    let status = u16::from_be_bytes([*high, *low]);
    let end = rest.windows(2).position(|two| two == b"\n\n").unwrap_or(rest.len());
    let (head, body) = (&rest[..end], &rest[(end + 2).min(rest.len())..]);
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..]));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let outcome = judge(status, &headers, body, UtcMs(1_795_248_000_000));
    if matches!(outcome, Outcome::Delivered | Outcome::Duplicate) {
        assert!((200..300).contains(&status) || status == 409, "{status} is no success");
        let says: serde_json::Value = serde_json::from_slice(body).expect("what was understood is JSON");
        assert!(says.is_object());
    }
}

/// A status and a body, as Frappe HR or whatever stands before it answers.
pub fn frappe_answer(bytes: &[u8]) {
    let [high, low, body @ ..] = bytes else { return };
    let sent = CheckIn {
        employee_field_value: "12349".into(),
        timestamp: "2026-03-02 08:00:00.000000".into(),
        device_id: "hq-door-12".into(),
        log_type: None,
        employee_fieldname: "name".into(),
        ambiguous: false,
    };
    let status = u16::from_be_bytes([*high, *low]);
    let body = serde_json::from_slice(body).map_err(|error| error.to_string());
    let said = Said { status, body, retry_after_ms: None };
    match answers::judge(&said, &sent, true) {
        Verdict::Is(Outcome::Delivered) => {
            let body = said.body.as_ref().expect("what was understood is JSON");
            let stored = body.pointer("/message/time").and_then(|time| time.as_str());
            assert!((200..300).contains(&status) && sent.is_at(stored.expect("a time")), "{body}");
        }
        Verdict::Is(Outcome::Duplicate) => {
            assert!(status == 417 && said.text().contains("same timestamp"), "{status} is no duplicate");
        }
        Verdict::StoredAtAnotherTime { at, .. } => assert!((200..300).contains(&status) && !sent.is_at(&at)),
        Verdict::Is(_) | Verdict::AskWhetherItIsThere(_) => {}
    }
}

/// A destination as somebody describes it: what is taken can be kept, read back, and used.
pub fn destination(bytes: &[u8]) {
    let Ok(settings) = serde_json::from_slice::<DestinationSettings>(bytes) else { return };
    let kept = serde_json::to_string(&settings).expect("settings are JSON");
    serde_json::from_str::<DestinationSettings>(&kept).expect("what is kept is read back");
    let controller = "hq-door-12".parse().expect("a name");
    let event = EventId::new(&controller, OutboxId([7; 16]), Seq(258));
    let tap = DeliverableTap {
        person: PersonId("E-\"1007/..".into()),
        controller,
        site: Site { id: "hq".into(), label: "HQ".into(), zone: "Europe/Berlin".into() },
        reader: "in".parse().expect("a name"),
        direction: Direction::Unspecified,
        occurred: UtcMs(1_792_888_200_999),
        uncertainty_ms: 3,
    };
    match &settings.kind {
        Kind::HttpJson(api) => {
            let Ok(rendered) = api.template.render(event, &tap) else { return };
            let object: serde_json::Value = serde_json::from_str(&rendered.body).expect("a body is JSON");
            assert!(object.is_object(), "{object}");
            assert_eq!(Rendered::from_text(rendered.clone().into_text()), rendered);
            let path = rendered.path.unwrap_or_default();
            assert!(!path.split('/').any(|segment| segment == ".."), "{path} leads elsewhere");
        }
        Kind::FrappeHr(frappe) => {
            let Ok(check_in) = check_in::render(frappe, event, &tap) else { return };
            assert!(check_in.ambiguous || frappe.zone.is_some(), "{check_in:?} is half past two in autumn");
            let kept = CheckIn::from_text(&check_in.clone().into_text()).expect("what is kept is read back");
            assert_eq!(kept.timestamp, check_in.timestamp);
        }
    }
}

pub fn badge_list(bytes: &[u8]) {
    if let Ok(bindings) = production::read_badges(bytes) {
        let said = bindings.iter().map(|binding| (binding.seals[0].token, binding.when, &binding.person));
        let mut said: Vec<_> = said.map(|(token, when, who)| (token, when.from, when.until, who)).collect();
        said.sort();
        said.dedup();
        assert_eq!(said.len(), bindings.len(), "nothing is said twice");
        let bounds = |from: Option<UtcMs>, until: Option<UtcMs>| {
            (from.unwrap_or(UtcMs(i64::MIN)), until.unwrap_or(UtcMs(i64::MAX)))
        };
        for (place, (token, from, until, who)) in said.iter().enumerate() {
            let (from, until) = bounds(*from, *until);
            assert!(from < until, "no binding ends before it begins");
            for (_, other_from, other_until, other) in
                said[place + 1..].iter().take_while(|other| other.0 == *token)
            {
                let (other_from, other_until) = bounds(*other_from, *other_until);
                let overlap = from < other_until && other_from < until;
                assert!(!overlap || who == other, "a badge is one person's at a time");
            }
        }
    }
}

pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = Config::parse("fuzz.toml", text) {
        assert!(error.line.is_none_or(|line| (1..=text.lines().count().max(1) + 1).contains(&line)));
        assert!(!error.message.is_empty());
    }
}

/// All that is said in JSON before there is a certificate.
pub fn enrolment(bytes: &[u8]) {
    survives::<Challenge>(bytes);
    survives::<EnrollRequest>(bytes);
    survives::<RenewRequest>(bytes);
    survives::<Bundle>(bytes);
}

fn survives<T: Serialize + DeserializeOwned + PartialEq>(bytes: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(bytes) {
        let again = serde_json::to_vec(&value).expect("it is JSON");
        assert!(
            serde_json::from_slice::<T>(&again).is_ok_and(|read| read == value),
            "it is written as it is read"
        );
    }
}

pub fn enrol_token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(token) = text.parse::<EnrollToken>() {
        assert_eq!(token.to_string().parse(), Ok(token));
    }
}

/// An export: what the cloud reads of it is what the controller wrote.
pub fn import(bytes: &[u8]) {
    let source = Source { name: "stick".into(), bytes: Box::new(std::io::Cursor::new(bytes.to_vec())) };
    let read: Vec<Vec<u8>> =
        Portions::new(source).map_while(Result::ok).map(|portion| portion.content).collect();
    let written: Vec<&[u8]> = export::messages(bytes).map_while(Result::ok).collect();
    assert!(read.len() <= written.len() && read.iter().zip(&written).all(|(read, written)| read == written));
}
