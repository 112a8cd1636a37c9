//! Beside the line: whether what the cloud gave is whole and fits together, before anything of it is kept. Knows no disk
//! and no network.

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tap_protocol::enrolment::Bundle;
use tap_protocol::keys::PublicKey;

use super::https::HttpsUrl;
use crate::certificate::{self, About};
use crate::config::BrokerUrl;

/// More keys or roots of one kind than any rotation has at a time.
const MAX_OF_A_KIND: usize = 32;

/// What is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("what the cloud sent cannot be used: {0}")]
pub struct BadBundle(String);

/// A bundle that was looked at.
#[derive(Debug, Clone)]
pub struct Checked {
    /// As it came.
    pub bundle: Bundle,
    /// What its certificate says of itself.
    pub certificate: About,
    /// The broker's address.
    pub broker: BrokerUrl,
    /// Where to renew.
    pub enrolment: HttpsUrl,
    /// The key that seals.
    pub token_key: [u8; 32],
}

/// Looks at everything but whether the key belongs to the certificate, which rustls does when it takes both.
pub fn check(bundle: Bundle) -> Result<Checked, BadBundle> {
    let bad = |what: &str| BadBundle(what.to_owned());
    let chain = certificates(&bundle.certificate).ok_or_else(|| bad("the certificate is no PEM"))?;
    let certificate = chain.first().and_then(|leaf| certificate::of_der(leaf));
    let certificate = certificate.ok_or_else(|| bad("the certificate says nothing of itself"))?;
    if certificate.subject != bundle.controller.as_str() {
        return Err(BadBundle(format!(
            "the certificate is for {:?} and the rest for {}",
            certificate.subject, bundle.controller
        )));
    }
    if certificate.dates.not_after_s != bundle.not_after_utc_ms.div_euclid(1000) {
        return Err(bad("the certificate ends at another time than it says"));
    }
    if certificate.dates.not_before_s >= certificate.dates.not_after_s {
        return Err(bad("the certificate ends before it begins"));
    }
    if certificates(&bundle.roots).is_none() {
        return Err(bad("the roots are no PEM"));
    }
    let broker: BrokerUrl =
        bundle.broker_url.parse().map_err(|why| BadBundle(format!("broker_url: {why}")))?;
    if !broker.tls {
        return Err(bad("broker_url must begin with mqtts://"));
    }
    let enrolment = bundle.enrolment_url.parse().map_err(|why| BadBundle(format!("enrolment_url: {why}")))?;
    if bundle.token_keys.len() > MAX_OF_A_KIND {
        return Err(bad("there are too many token keys"));
    }
    let sealing = bundle.token_keys.iter().find(|key| key.id == bundle.token_key_id);
    let token_key = sealing.and_then(|key| key_bytes(&key.key));
    let token_key = token_key.ok_or_else(|| bad("the token key that seals is not among them"))?;
    if bundle.token_keys.iter().any(|key| key_bytes(&key.key).is_none()) {
        return Err(bad("a token key is not 64 hexadecimal digits"));
    }
    for (what, keys) in [("receipt", &bundle.receipt_keys), ("control", &bundle.control_keys)] {
        if keys.len() > MAX_OF_A_KIND || keys.iter().any(|key| key.parse::<PublicKey>().is_err()) {
            return Err(BadBundle(format!("a {what} key is not 64 hexadecimal digits")));
        }
    }
    if bundle.receipt_keys.is_empty() {
        return Err(bad("there is no receipt key: nothing would ever be confirmed"));
    }
    Ok(Checked { certificate, broker, enrolment, token_key, bundle })
}

/// Every certificate of a PEM text; `None` if there is none, too many, or something else.
pub fn certificates(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().ok()?;
    (1..=MAX_OF_A_KIND).contains(&all.len()).then_some(all)
}

fn key_bytes(hex: &str) -> Option<[u8; 32]> {
    HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok()?.try_into().ok()
}

impl Checked {
    /// The files that the agent reads, and what is in them.
    pub fn files(&self) -> Vec<(&'static str, String)> {
        let lines = |keys: &[String]| keys.iter().map(|key| format!("{key}\n")).collect::<String>();
        let bundle = serde_json::to_string_pretty(&self.bundle).expect("it is text and numbers");
        vec![
            ("certificate.pem", self.bundle.certificate.clone()),
            ("roots.pem", self.bundle.roots.clone()),
            ("token.key", HEXLOWER.encode(&self.token_key) + "\n"),
            ("receipt.pub", lines(&self.bundle.receipt_keys)),
            ("control.pub", lines(&self.bundle.control_keys)),
            ("bundle.json", bundle + "\n"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    /// Any point: nobody signs with it here.
    const POINT: [u8; 65] = [4; 65];

    #[track_caller]
    fn refused(change: impl FnOnce(&mut Bundle), why: &str) {
        let mut bundle = sample::bundle(&POINT);
        change(&mut bundle);
        let error = check(bundle).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn a_whole_bundle_is_taken_with_the_key_that_seals() {
        let checked = check(sample::bundle(&POINT)).unwrap();
        assert_eq!(checked.token_key, [0x22; 32]);
        assert_eq!(checked.broker.port, 8883);
        assert_eq!(checked.enrolment.to_string(), "https://cloud.example.com:8443");
    }

    #[test]
    fn each_odd_part_is_refused_for_its_own_reason() {
        refused(|bundle| bundle.certificate.clear(), "the certificate is no PEM");
        refused(|bundle| bundle.certificate = bundle.roots.clone(), "the certificate is for \"root\"");
        refused(|bundle| bundle.not_after_utc_ms += 1_000, "ends at another time");
        refused(|bundle| bundle.roots = "-".into(), "the roots are no PEM");
        refused(|bundle| bundle.broker_url = "mqtt://broker".into(), "must begin with mqtts://");
        refused(|bundle| bundle.broker_url = "broker".into(), "broker_url: \"broker\" is not");
        refused(|bundle| bundle.enrolment_url = "http://cloud".into(), "enrolment_url");
        refused(|bundle| bundle.token_key_id = 9, "the token key that seals is not among them");
        refused(|bundle| bundle.token_keys[0].key.push('0'), "a token key is not 64");
        refused(|bundle| bundle.receipt_keys.clear(), "there is no receipt key");
        refused(|bundle| bundle.receipt_keys.push("zz".into()), "a receipt key is not 64");
        refused(|bundle| bundle.control_keys.push("\n".into()), "a control key is not 64");
        refused(|bundle| bundle.token_keys = vec![bundle.token_keys[1].clone(); 33], "too many");
        refused(|bundle| bundle.roots = bundle.roots.repeat(33), "the roots are no PEM");
    }
}
