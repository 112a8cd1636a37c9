//! Certificates for tests, good and bad ones; it doesn't know who checks them.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};

use crate::stopwatch::utc_ms;

const DAY_S: i64 = 86_400;

/// One who signs certificates.
pub struct Authority {
    root: CertifiedIssuer<'static, KeyPair>,
    next_serial: AtomicU64,
}

/// A certificate with its key.
#[derive(Debug)]
pub struct Identity {
    /// The certificate, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
    der: CertificateDer<'static>,
    key_der: Vec<u8>,
    serial: u64,
}

/// What a certificate is to be.
#[derive(Clone, Copy, Debug)]
struct Wish<'a> {
    common_name: &'a str,
    usage: Usage,
    /// From so many seconds from now to so many.
    valid_s: (i64, i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Usage {
    Server,
    Client,
    Root,
}

/// So long is a controller's certificate good.
const CONTROLLER_VALID_S: (i64, i64) = (-300, 30 * DAY_S);

impl Authority {
    /// A root of this name, good for a year.
    ///
    /// # Errors
    ///
    /// When a certificate cannot be made of that.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        Self::lasting(name, 365)
    }

    /// A root of this name, good for so many days.
    ///
    /// # Errors
    ///
    /// When a certificate cannot be made of that.
    pub fn lasting(name: &str, days: u32) -> anyhow::Result<Self> {
        let valid_s = (-DAY_S, i64::from(days) * DAY_S);
        let wish = Wish { common_name: name, usage: Usage::Root, valid_s };
        let root = CertifiedIssuer::self_signed(params(wish, 1), KeyPair::generate()?)?;
        Ok(Self { root, next_serial: AtomicU64::new(2) })
    }

    /// The root's certificate, PEM.
    pub fn certificate(&self) -> String {
        self.root.pem()
    }

    /// A broker's, or the enrolment server's: for 127.0.0.1 and no other name.
    ///
    /// # Errors
    ///
    /// Like [`new`](Self::new), and the same for those that follow.
    pub fn server(&self) -> anyhow::Result<Identity> {
        self.issue(Wish { common_name: "broker", usage: Usage::Server, valid_s: (-300, 90 * DAY_S) })
    }

    /// A controller's, good for 30 days.
    ///
    /// # Errors
    ///
    /// When a certificate cannot be made of that.
    pub fn controller(&self, id: &str) -> anyhow::Result<Identity> {
        self.issue(Wish { common_name: id, usage: Usage::Client, valid_s: CONTROLLER_VALID_S })
    }

    /// A controller's whose 30 days were over a minute ago.
    ///
    /// # Errors
    ///
    /// When a certificate cannot be made of that.
    pub fn expired_controller(&self, id: &str) -> anyhow::Result<Identity> {
        self.issue(Wish { common_name: id, usage: Usage::Client, valid_s: (-30 * DAY_S, -60) })
    }

    /// A controller's whose days begin tomorrow.
    ///
    /// # Errors
    ///
    /// When a certificate cannot be made of that.
    pub fn controller_of_tomorrow(&self, id: &str) -> anyhow::Result<Identity> {
        self.issue(Wish { common_name: id, usage: Usage::Client, valid_s: (DAY_S, 31 * DAY_S) })
    }

    /// Takes these back, and no others: the list, PEM, as if made so many seconds ago.
    ///
    /// # Errors
    ///
    /// When a list cannot be made of that.
    pub fn revocations(&self, revoked: &[&Identity], age_s: i64) -> anyhow::Result<String> {
        self.list(revoked, (-age_s, 365 * DAY_S))
    }

    /// A list that nobody has renewed in time.
    ///
    /// # Errors
    ///
    /// When a list cannot be made of that.
    pub fn expired_revocations(&self) -> anyhow::Result<String> {
        self.list(&[], (-2 * DAY_S, -DAY_S))
    }

    fn list(&self, revoked: &[&Identity], (made_s, until_s): (i64, i64)) -> anyhow::Result<String> {
        let revoked_certs = revoked.iter().map(|identity| RevokedCertParams {
            serial_number: SerialNumber::from(identity.serial),
            revocation_time: date_time_ymd(1970, 1, 1) + since_1970(made_s),
            reason_code: Some(RevocationReason::PrivilegeWithdrawn),
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(1970, 1, 1) + since_1970(made_s),
            next_update: date_time_ymd(1970, 1, 1) + since_1970(until_s),
            crl_number: SerialNumber::from(self.next_serial.fetch_add(1, Relaxed)),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.root)?.pem()?)
    }

    fn issue(&self, wish: Wish<'_>) -> anyhow::Result<Identity> {
        issue(wish, self.next_serial.fetch_add(1, Relaxed), Some(&self.root))
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Identity {
    /// A client's that vouches for itself.
    ///
    /// # Errors
    ///
    /// When a certificate cannot be made of that.
    pub fn self_signed(common_name: &str) -> anyhow::Result<Identity> {
        issue(Wish { common_name, usage: Usage::Client, valid_s: CONTROLLER_VALID_S }, 1, None)
    }

    /// Writes both into `dir`, as `NAME.pem` and `NAME.key`.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    pub fn write(&self, dir: &Path, name: &str) -> anyhow::Result<(PathBuf, PathBuf)> {
        let (certificate, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        fs::write(&certificate, &self.certificate).context("writing a certificate")?;
        fs::write(&key, &self.key).context("writing a key")?;
        Ok((certificate, key))
    }

    /// What a client with this certificate does that trusts `authority` alone.
    ///
    /// # Errors
    ///
    /// When rustls does not like one of them.
    pub fn trusting(&self, authority: &Authority) -> anyhow::Result<Arc<ClientConfig>> {
        client(authority, Some(self), &rustls::version::TLS13)
    }
}

/// A client's side of TLS that trusts `authority` alone, with or without a certificate, in one version of TLS.
///
/// # Errors
///
/// When rustls does not like one of them.
pub fn client(
    authority: &Authority,
    identity: Option<&Identity>,
    version: &'static SupportedProtocolVersion,
) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.root.der().clone())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])?
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key_der.clone()));
            builder.with_client_auth_cert(vec![identity.der.clone()], key)?
        }
    };
    Ok(Arc::new(config))
}

fn issue(wish: Wish<'_>, serial: u64, by: Option<&Issuer<'static, KeyPair>>) -> anyhow::Result<Identity> {
    let key = KeyPair::generate()?;
    let params = params(wish, serial);
    let certificate = match by {
        Some(issuer) => params.signed_by(&key, issuer)?,
        None => params.self_signed(&key)?,
    };
    Ok(Identity {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
        der: certificate.der().clone(),
        key_der: key.serialize_der(),
        serial,
    })
}

fn params(wish: Wish<'_>, serial: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, wish.common_name);
    params.serial_number = Some(SerialNumber::from(serial));
    params.not_before = date_time_ymd(1970, 1, 1) + since_1970(wish.valid_s.0);
    params.not_after = date_time_ymd(1970, 1, 1) + since_1970(wish.valid_s.1);
    params.use_authority_key_identifier_extension = wish.usage != Usage::Root;
    match wish.usage {
        Usage::Root => {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        }
        Usage::Server => {
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            params.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        }
        Usage::Client => {
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }
    }
    params
}

/// So many seconds from now, as rcgen counts time from 1970: its type of a moment has no name here.
fn since_1970(from_now_s: i64) -> Duration {
    let seconds = utc_ms() / 1_000 + from_now_s;
    Duration::from_secs(u64::try_from(seconds).expect("it is later than 1970"))
}
