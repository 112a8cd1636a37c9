//! A certificate authority for tests: roots, servers' and controllers' certificates of any age. It doesn't know who uses
//! them.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, date_time_ymd,
};
use ring::digest::{SHA256, digest};

use crate::stopwatch::utc_ms;

const DAY_S: i64 = 86_400;

/// A root and the key to it.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The root, PEM.
    pub root_pem: String,
    /// The root, DER.
    pub root_der: Vec<u8>,
}

/// From when to when, seconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Not before.
    pub from_s: i64,
    /// Not after.
    pub to_s: i64,
}

impl Life {
    /// From five minutes ago on.
    pub fn of_days(days: i64) -> Self {
        let from_s = utc_ms() / 1_000 - 300;
        Self { from_s, to_s: from_s + days * DAY_S }
    }

    /// The year 2019: over, whatever a controller knows of the time.
    pub fn over() -> Self {
        Self { from_s: 1_546_300_800, to_s: 1_577_836_800 }
    }
}

/// A certificate and the key to it, PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate alone.
    pub certificate: String,
    /// PKCS#8.
    pub key: String,
}

impl Authority {
    /// A new root, good for years.
    ///
    /// # Panics
    ///
    /// When `rcgen` cannot make one, which only a broken build can cause.
    pub fn new(name: &str) -> Self {
        let key = new_key();
        let mut params = params(name, Life::of_days(3_650));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).expect("a root can be made");
        let (root_pem, root_der) = (root.pem(), root.der().to_vec());
        Self { issuer: Issuer::new(params, key), root_pem, root_der }
    }

    /// What an enrolment token says of it.
    ///
    /// # Panics
    ///
    /// Never: SHA-256 is longer than a pin.
    pub fn pin(&self) -> [u8; 16] {
        *digest(&SHA256, &self.root_der).as_ref().first_chunk().expect("SHA-256 is longer than a pin")
    }

    /// A server's certificate for a name or an address.
    ///
    /// # Panics
    ///
    /// When `rcgen` does not take the name.
    pub fn server(&self, name: &str, life: Life) -> Issued {
        let key = new_key();
        let mut params = params(name, life);
        params.subject_alt_names =
            CertificateParams::new([name.to_owned()]).expect("a name").subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate can be made").pem();
        Issued { certificate, key: key.serialize_pem() }
    }

    /// A controller's certificate for a key that it keeps, PEM: the uncompressed point on P-256.
    ///
    /// # Panics
    ///
    /// When `rcgen` does not take it.
    pub fn client(&self, name: &str, point: &[u8], life: Life) -> String {
        let mut params = params(name, life);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.signed_by(&Point(point.to_vec()), &self.issuer).expect("a certificate can be made").pem()
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("the kernel gives random bytes")
}

fn params(name: &str, life: Life) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let at = |s: i64| date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(s).expect("after 1970"));
    params.not_before = at(life.from_s);
    params.not_after = at(life.to_s);
    params.use_authority_key_identifier_extension = true;
    params
}

struct Point(Vec<u8>);

impl PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}
