//! What the cloud reads from people, controllers without a certificate, and the attendance system.

use cloud_ingest::config::Config;
use cloud_ingest::destination::Outcome;
use cloud_ingest::destination::http_json::judge;
use cloud_ingest::event_store::UtcMs;
use cloud_ingest::import::{Portions, Source};
use edge_agent::outbox::export;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tap_protocol::enrolment::{Bundle, Challenge, EnrollRequest, EnrollToken, RenewRequest};

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
