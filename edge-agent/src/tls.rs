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
