//! Step 6, under the connection: TLS 1.3 as this agent speaks it, to the broker and to the enrolment server. Whom to trust
//! is either a set of roots or, before there are any, the pin of one; the time is [`KnownTime`]'s.

use std::path::Path;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::certificate::{self, About};
use crate::known_time::KnownTime;

/// A chain is a leaf, a root and what is between: each can be not valid yet once.
const MAX_CHAIN: usize = 4;

/// How much of a root's SHA-256 a token carries.
pub const PIN_BYTES: usize = 16;

/// Whom to trust.
#[derive(Debug, Clone)]
pub enum Trust {
    /// These roots.
    Roots(Vec<CertificateDer<'static>>),
    /// The root whose SHA-256 begins so, which the server sends along.
    Pin([u8; PIN_BYTES]),
}

/// A certificate with those between it and its root, and the key to it.
#[derive(Debug)]
pub struct ClientIdentity {
    /// The certificate first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key to it.
    pub key: PrivateKeyDer<'static>,
}

/// Said to rustls where none of the server's certificates is the pinned root.
pub const NOT_PINNED: &str = "none of the server's certificates is the root that the token names";

/// TLS for one connection. Nothing of an earlier one is kept in it: what was resumed would not look at a new certificate.
pub fn client_config(
    trust: Trust,
    identity: Option<ClientIdentity>,
    time: &Arc<KnownTime>,
) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let check: Arc<dyn ServerCertVerifier> = Arc::new(ServerCheck::new(trust, time, &provider)?);
    let builder = ClientConfig::builder_with_details(provider, Arc::clone(time) as _)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(check);
    match identity {
        Some(identity) => builder.with_client_auth_cert(identity.chain, identity.key),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// rustls' own check, with two things around it: the pinned root is looked for first, and a certificate that is only not
/// valid *yet* is looked at again as of its beginning while nobody knows the time.
#[derive(Debug)]
struct ServerCheck {
    trust: Known,
    time: Arc<KnownTime>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Known {
    Roots(Arc<WebPkiServerVerifier>),
    Pin([u8; PIN_BYTES]),
}

impl ServerCheck {
    fn new(
        trust: Trust,
        time: &Arc<KnownTime>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<ServerCheck, Error> {
        let trust = match trust {
            Trust::Roots(roots) => Known::Roots(verifier(roots, provider)?),
            Trust::Pin(pin) => Known::Pin(pin),
        };
        Ok(ServerCheck { trust, time: Arc::clone(time), provider: Arc::clone(provider) })
    }
}

fn verifier(
    roots: Vec<CertificateDer<'static>>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, Error> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root)?;
    }
    WebPkiServerVerifier::builder_with_provider(store.into(), Arc::clone(provider))
        .build()
        .map_err(|error| Error::General(error.to_string()))
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verifier = match &self.trust {
            Known::Roots(verifier) => Arc::clone(verifier),
            Known::Pin(pin) => {
                let root = intermediates.iter().find(|certificate| pin_of(certificate) == *pin);
                let root = root.ok_or_else(|| Error::General(NOT_PINNED.into()))?;
                verifier(vec![root.clone().into_owned()], &self.provider)?
            }
        };
        let mut at = now;
        for _ in 0..MAX_CHAIN {
            let result =
                verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, at);
            match result {
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext {
                    not_before, ..
                })) if not_before > at && self.time.check_at().may_be_later() => {
                    at = not_before;
                }
                result => return result,
            }
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidYet))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let schemes = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The start of a certificate's SHA-256.
pub fn pin_of(certificate: &CertificateDer<'_>) -> [u8; PIN_BYTES] {
    let hash = digest(&SHA256, certificate);
    hash.as_ref().first_chunk().copied().expect("SHA-256 is longer than a pin")
}

/// What the first certificate in a PEM file says of itself.
pub fn about_file(file: &Path) -> Result<About, String> {
    about_all_of_file(file)?.into_iter().next().ok_or_else(|| "there is no certificate in it".to_owned())
}

/// What every certificate in a PEM file says of itself.
pub fn about_all_of_file(file: &Path) -> Result<Vec<About>, String> {
    let certificates = CertificateDer::pem_file_iter(file).map_err(|error| error.to_string())?;
    let about = certificates.map(|certificate| {
        let certificate = certificate.map_err(|error| error.to_string())?;
        certificate::of_der(&certificate).ok_or_else(|| "what it says of itself cannot be read".to_owned())
    });
    about.collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

    use super::*;
    use crate::enrolment::sample;
    use crate::verification_time::BUILT_UTC_S;

    const DAY_S: i64 = 86_400;

    fn at(s: i64) -> std::time::Duration {
        std::time::Duration::from_secs(u64::try_from(s).unwrap())
    }

    fn chain(from_s: i64, to_s: i64) -> (CertificateDer<'static>, CertificateDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut root = sample::params("root");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_der = root.self_signed(&key).unwrap().der().clone();
        let mut leaf = CertificateParams::new(vec!["cloud.example.com".into()]).unwrap();
        leaf.not_before = date_time_ymd(1970, 1, 1) + at(from_s);
        leaf.not_after = date_time_ymd(1970, 1, 1) + at(to_s);
        let leaf = leaf.signed_by(&KeyPair::generate().unwrap(), &Issuer::new(root, key)).unwrap();
        (leaf.der().clone(), root_der)
    }

    /// Whether a server with this chain is believed at what the agent believes to be `utc_s`.
    fn believed(
        (leaf, root): &(CertificateDer<'static>, CertificateDer<'static>),
        trust: Trust,
        known_utc_s: Option<i64>,
    ) -> Result<(), Error> {
        let time = Arc::new(KnownTime::in_the_dark());
        if let Some(known_s) = known_utc_s {
            time.learn(known_s * 1000, 60_000);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let check = ServerCheck::new(trust, &time, &provider).unwrap();
        let name = ServerName::try_from("cloud.example.com").unwrap();
        let now = UnixTime::since_unix_epoch(at(known_utc_s.unwrap_or(BUILT_UTC_S)));
        check.verify_server_cert(leaf, std::slice::from_ref(root), &name, &[], now).map(drop)
    }

    #[test]
    fn who_does_not_know_the_time_takes_a_certificate_that_is_newer_than_all_it_knows() {
        let new = chain(BUILT_UTC_S + 700 * DAY_S, BUILT_UTC_S + 730 * DAY_S);
        let roots = || Trust::Roots(vec![new.1.clone()]);
        assert_eq!(believed(&new, roots(), None), Ok(()));
        assert!(matches!(
            believed(&new, roots(), Some(BUILT_UTC_S + DAY_S)),
            Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { .. }))
        ));
    }

    #[test]
    fn a_certificate_that_has_ended_has_ended() {
        let old = chain(BUILT_UTC_S - 60 * DAY_S, BUILT_UTC_S - 30 * DAY_S);
        let result = believed(&old, Trust::Roots(vec![old.1.clone()]), None);
        assert!(matches!(result, Err(Error::InvalidCertificate(CertificateError::ExpiredContext { .. }))));
    }

    #[test]
    fn a_pin_is_trusted_with_what_its_root_signed_and_nothing_else() {
        let now_s = BUILT_UTC_S + DAY_S;
        let (ours, theirs) = (chain(BUILT_UTC_S, now_s + DAY_S), chain(BUILT_UTC_S, now_s + DAY_S));
        let pin = Trust::Pin(pin_of(&ours.1));
        assert_eq!(believed(&ours, pin.clone(), Some(now_s)), Ok(()));
        let nowhere = believed(&theirs, pin.clone(), Some(now_s));
        assert_eq!(nowhere, Err(Error::General(NOT_PINNED.into())));
        let smuggled = (theirs.0, ours.1.clone());
        assert!(matches!(believed(&smuggled, pin.clone(), Some(now_s)), Err(Error::InvalidCertificate(_))));
        let as_its_own_leaf = (ours.1.clone(), ours.1.clone());
        assert!(believed(&as_its_own_leaf, pin, Some(now_s)).is_err());
    }
}
