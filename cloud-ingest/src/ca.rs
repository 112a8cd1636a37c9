//! Beside the line: the certificate authority of the controllers. Knows no files and no requests: roots and certificates as
//! PEM, from what it is given and randomness for keys.
//!
//! Two stages are enough: a root in the cloud that signs certificates of at most 30 days. A root that lives in the cloud
//! can be stolen from it; what that costs, and how it is replaced, is in docs/enrolment.md.

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData,
    RevocationReason, RevokedCertParams, SanType, SerialNumber, SignatureAlgorithm, date_time_ymd,
};
use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::event_store::{RevokedCertificate, Serial, UtcMs};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// A root's life: ten years, within which it is rotated whenever somebody wants to.
pub const ROOT_DAYS: i64 = 3_650;

/// A certificate is good this long before it is made: the clock of whoever checks it may be behind.
pub const BACKDATED_MS: i64 = 5 * 60 * 1_000;

/// A root with its key.
pub struct Root {
    number: u16,
    params: CertificateParams,
    ends: UtcMs,
    key: KeyPair,
    der: CertificateDer<'static>,
    pem: String,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A name or key that cannot be in one.
    #[error("a certificate cannot be made of this")]
    Rcgen(#[from] rcgen::Error),
    /// The root's file is something else.
    #[error("the root's file holds no certificate")]
    NoCertificate,
    /// The two files are not of one pair.
    #[error("the root's key is not the one of its certificate")]
    OtherKey,
    /// Nothing can be signed with it any more.
    #[error("the root has ended, or ends before the certificate begins: rotate it")]
    RootEnded,
}

/// A certificate with its key, for a server or a service of ours.
pub struct Issued {
    /// It, then its root: PEM.
    pub chain: String,
    /// Its key: PEM. Secret.
    pub key: String,
}

impl Root {
    /// A new root's certificate and key as PEM.
    pub fn make(number: u16, now: UtcMs) -> Result<(String, String), CaError> {
        let key = KeyPair::generate()?;
        let params = root_params(number, now);
        Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
    }

    /// The root that [`Root::make`] made at `made`.
    pub fn load(number: u16, made: UtcMs, certificate: &str, key: &str) -> Result<Root, CaError> {
        let der =
            CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| CaError::NoCertificate)?;
        let key = KeyPair::from_pem(key)?;
        if !contains(&der, key.public_key_raw()) {
            return Err(CaError::OtherKey);
        }
        let params = root_params(number, made);
        let ends = UtcMs(made.0 + ROOT_DAYS * DAY_MS);
        Ok(Root { number, params, ends, key, der, pem: certificate.to_owned() })
    }

    /// Which it is.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// When it ends.
    pub fn ends(&self) -> UtcMs {
        self.ends
    }

    /// Its certificate.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Its certificate as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// What an enrolment token names it by.
    pub fn pin(&self) -> [u8; 16] {
        let hash = digest(&SHA256, &self.der);
        hash.as_ref()[..16].try_into().expect("SHA-256 has 32 bytes")
    }

    /// A controller's certificate: its name, its TLS key (an uncompressed point), for being a client and nothing else.
    /// Gives the PEM and its end.
    pub fn issue_client(
        &self,
        name: &str,
        tls_point: &[u8],
        serial: Serial,
        now: UtcMs,
        days: u32,
    ) -> Result<(String, UtcMs), CaError> {
        let mut params = self.leaf(name, serial, now, days)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let ends = self.end_of(now, days)?;
        let certificate = params.signed_by(&Point(tls_point), &self.issuer())?;
        Ok((certificate.pem(), ends))
    }

    /// A server's certificate for all of its names, with a new key.
    pub fn issue_server(
        &self,
        names: &[String],
        serial: Serial,
        now: UtcMs,
        days: u32,
    ) -> Result<Issued, CaError> {
        let common_name = names.first().map_or("server", String::as_str);
        let mut params = self.leaf(common_name, serial, now, days)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into()?),
            });
        }
        self.with_new_key(&params)
    }

    fn with_new_key(&self, params: &CertificateParams) -> Result<Issued, CaError> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer())?;
        Ok(Issued { chain: certificate.pem() + &self.pem, key: key.serialize_pem() })
    }

    /// The list of certificates that are good for nothing any more, as PEM. It ends with the root: a broker on OpenSSL
    /// lets nobody in once its list has run out, and a list that nobody can renew for a night must not do that.
    pub fn revocation_list(&self, revoked: &[RevokedCertificate], now: UtcMs) -> Result<String, CaError> {
        let number = now.0.max(1).to_be_bytes();
        let leading = number.iter().take_while(|byte| **byte == 0).count();
        let entry = |revoked: &RevokedCertificate| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&revoked.serial),
            revocation_time: date_time_ymd(1970, 1, 1) + since_1970(revoked.revoked),
            reason_code: Some(RevocationReason::PrivilegeWithdrawn),
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(1970, 1, 1) + since_1970(UtcMs(now.0 - BACKDATED_MS)),
            next_update: date_time_ymd(1970, 1, 1) + since_1970(self.ends),
            crl_number: SerialNumber::from_slice(&number[leading..]),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer())?.pem()?)
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    fn leaf(&self, name: &str, serial: Serial, now: UtcMs, days: u32) -> Result<CertificateParams, CaError> {
        let mut params = leaf_params(name, serial, now, self.end_of(now, days)?);
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    fn end_of(&self, now: UtcMs, days: u32) -> Result<UtcMs, CaError> {
        let end = UtcMs(now.0 + i64::from(days) * DAY_MS).min(self.ends);
        // Whole seconds are all that a certificate can say.
        let end = UtcMs(end.0 - end.0.rem_euclid(1_000));
        if end <= now { Err(CaError::RootEnded) } else { Ok(end) }
    }
}

/// The certificate of this service as the broker's client, with a new key. It vouches for itself, and the broker's
/// listener for the service trusts nothing else: there a client chooses its client id, so no controller's certificate may
/// be good for it, and the root's name must not open it.
pub fn make_service(name: &str, serial: Serial, now: UtcMs, days: u32) -> Result<Issued, CaError> {
    let mut params = leaf_params(name, serial, now, UtcMs(now.0 + i64::from(days) * DAY_MS));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    Ok(Issued { chain: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

fn leaf_params(name: &str, serial: Serial, now: UtcMs, ends: UtcMs) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = common_name(name);
    params.not_before = date_time_ymd(1970, 1, 1) + since_1970(UtcMs(now.0 - BACKDATED_MS));
    params.not_after = date_time_ymd(1970, 1, 1) + since_1970(ends);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

/// Turns 16 random bytes into a serial number: positive, and never with a leading zero, so that all have one length.
pub fn serial(mut random: Serial) -> Serial {
    random[0] = random[0] & 0x7f | 0x40;
    random
}

/// Each root has a name of its own: OpenSSL looks issuers up by it.
fn root_params(number: u16, made: UtcMs) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&format!("Tapline root {number}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date_time_ymd(1970, 1, 1) + since_1970(UtcMs(made.0 - BACKDATED_MS));
    params.not_after = date_time_ymd(1970, 1, 1) + since_1970(UtcMs(made.0 + ROOT_DAYS * DAY_MS));
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn contains(der: &[u8], part: &[u8]) -> bool {
    der.windows(part.len()).any(|window| window == part)
}

/// Milliseconds since 1970 for [`date_time_ymd`]: the type of a moment is in a crate that we have no other use for.
fn since_1970(at: UtcMs) -> Duration {
    Duration::from_millis(at.0.max(0).unsigned_abs())
}

/// A P-256 key of which we have nothing but the point.
struct Point<'a>(&'a [u8]);

impl PublicKeyData for Point<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

#[cfg(test)]
mod tests;
