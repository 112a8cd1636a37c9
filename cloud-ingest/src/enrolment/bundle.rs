//! Beside the line: what a controller is given. Knows the cloud's keys and the configuration; makes the certificate, stores
//! nothing.

use data_encoding::HEXLOWER;
use tap_protocol::enrolment::{Bundle, TokenKeyEntry};

use crate::ca::{self, CaError};
use crate::config::EnrolmentEntry;
use crate::event_store::{Controller, DeviceKeys, Issue, Serial, UtcMs};
use crate::keyring::Keys;

/// A certificate that was made and is not written down yet.
pub struct Made {
    /// What the store is to write down.
    pub issue: Issue,
    certificate: String,
}

/// Makes the certificate of `name`.
pub fn make(
    name: &str,
    device: DeviceKeys,
    agent_version: &str,
    keys: &Keys,
    days: u32,
    (now, random): (UtcMs, Serial),
) -> Result<Made, CaError> {
    let root = keys.signing_root().ok_or(CaError::NoCertificate)?;
    let serial = ca::serial(random);
    let (certificate, not_after) = root.issue_client(name, &device.tls, serial, now, days)?;
    let issue = Issue {
        at: now,
        keys: device,
        serial,
        not_after,
        holds: keys.ring.holdings(),
        agent_version: agent_version.to_owned(),
    };
    Ok(Made { issue, certificate })
}

/// The whole answer, once the certificate is written down.
pub fn fill(made: Made, controller: &Controller, keys: &Keys, settings: &EnrolmentEntry) -> Bundle {
    let public = |keys: &[tap_protocol::keys::PublicKey]| keys.iter().map(ToString::to_string).collect();
    Bundle {
        controller: controller.id.clone(),
        label: controller.label.clone(),
        site: controller.site.clone(),
        certificate: made.certificate,
        not_after_utc_ms: made.issue.not_after.0,
        roots: keys.roots().iter().map(|root| root.pem()).collect(),
        broker_url: settings.broker_url.to_string(),
        enrolment_url: settings.url.trim_end_matches('/').to_owned(),
        token_keys: keys
            .token_secrets()
            .iter()
            .map(|(id, key)| TokenKeyEntry { id: id.0, key: HEXLOWER.encode(key) })
            .collect(),
        token_key_id: keys.sealing_key().id().0,
        receipt_keys: public(keys.receipt_public()),
        control_keys: public(keys.control_public()),
        cloud_utc_ms: made.issue.at.0,
    }
}
