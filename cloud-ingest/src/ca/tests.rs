//! Certificates as rustls judges them, which is how every client and server of ours will.

use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, client::WebPkiServerVerifier};

use super::*;

const NOW: UtcMs = UtcMs(1_772_434_800_000);

fn root(number: u16) -> Root {
    let (certificate, key) = Root::make(number, NOW).unwrap();
    Root::load(number, NOW, &certificate, &key).unwrap()
}

fn store(root: &Root) -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    store.add(root.der().clone()).unwrap();
    Arc::new(store)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn at(ms: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(ms.unsigned_abs()))
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
}

/// A P-256 point, as a controller sends it.
fn point() -> Vec<u8> {
    KeyPair::generate().unwrap().public_key_raw().to_vec()
}

fn is_let_in(root: &Root, pem: &str, lists: &[String], when: UtcMs) -> Result<(), rustls::Error> {
    let lists = lists.iter().map(|pem| CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap());
    let verifier = WebPkiClientVerifier::builder_with_provider(store(root), provider())
        .with_crls(lists)
        .build()
        .unwrap();
    let chain = certificates(pem);
    verifier.verify_client_cert(&chain[0], &[], at(when.0)).map(drop)
}

#[test]
fn a_controllers_certificate_lets_it_in_for_its_days_and_as_a_client_alone() {
    let root = root(1);
    let (pem, ends) = root.issue_client("hq-door-12", &point(), serial([7; 16]), NOW, 30).unwrap();
    assert_eq!(ends, UtcMs(NOW.0 + 30 * DAY_MS));
    let no_lists = [root.revocation_list(&[], NOW).unwrap()];
    for good in [UtcMs(NOW.0 - BACKDATED_MS), NOW, ends] {
        is_let_in(&root, &pem, &no_lists, good).unwrap();
    }
    for bad in [UtcMs(NOW.0 - BACKDATED_MS - 1_000), UtcMs(ends.0 + 1_000)] {
        assert!(is_let_in(&root, &pem, &no_lists, bad).is_err());
    }
    let other = super::tests::root(2);
    assert!(is_let_in(&other, &pem, &[other.revocation_list(&[], NOW).unwrap()], NOW).is_err());
    let verifier = WebPkiServerVerifier::builder_with_provider(store(&root), provider()).build().unwrap();
    let name = ServerName::try_from("hq-door-12").unwrap();
    assert!(verifier.verify_server_cert(&certificates(&pem)[0], &[], &name, &[], at(NOW.0)).is_err());
}

#[test]
fn a_servers_certificate_is_good_for_all_of_its_names() {
    let root = root(1);
    let names = ["broker.example".to_owned(), "192.0.2.7".to_owned()];
    let issued = root.issue_server(&names, serial([8; 16]), NOW, 30).unwrap();
    let chain = certificates(&issued.chain);
    assert_eq!(chain[1], *root.der());
    let verifier = WebPkiServerVerifier::builder_with_provider(store(&root), provider()).build().unwrap();
    let is_good = |name: &'static str| {
        let name = ServerName::try_from(name).unwrap();
        verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], at(NOW.0)).is_ok()
    };
    assert!(is_good("broker.example") && is_good("192.0.2.7"));
    assert!(!is_good("other.example") && !is_good("192.0.2.8"));
}

#[test]
fn who_is_on_the_list_is_not_let_in_and_the_others_are() {
    let root = root(1);
    let [bad, good] = [[7; 16], [9; 16]].map(serial);
    let [stolen, other] =
        [bad, good].map(|serial| root.issue_client("hq-door-12", &point(), serial, NOW, 30).unwrap().0);
    let list = [root.revocation_list(&[RevokedCertificate { serial: bad, revoked: NOW }], NOW).unwrap()];
    let refused = is_let_in(&root, &stolen, &list, NOW).unwrap_err();
    assert!(refused.to_string().contains("Revoked"), "{refused}");
    is_let_in(&root, &other, &list, NOW).unwrap();
    let years_later = UtcMs(NOW.0 + 2_000 * DAY_MS);
    let (much_later, _) = root.issue_client("hq-door-12", &point(), good, years_later, 30).unwrap();
    is_let_in(&root, &much_later, &list, years_later).unwrap();
}

#[test]
fn no_certificate_outlives_its_root() {
    let root = root(1);
    let late = UtcMs(NOW.0 + (ROOT_DAYS - 10) * DAY_MS);
    let (_, ends) = root.issue_client("hq-door-12", &point(), serial([7; 16]), late, 30).unwrap();
    assert_eq!(ends, root.ends());
    let over = UtcMs(root.ends().0 + 1);
    let refused = root.issue_client("hq-door-12", &point(), serial([7; 16]), over, 30);
    assert!(matches!(refused, Err(CaError::RootEnded)));
}

#[test]
fn a_roots_files_must_be_one_pair() {
    let (certificate, key) = Root::make(1, NOW).unwrap();
    let (_, other_key) = Root::make(1, NOW).unwrap();
    assert!(Root::load(1, NOW, &certificate, &key).is_ok());
    assert!(matches!(Root::load(1, NOW, &certificate, &other_key), Err(CaError::OtherKey)));
    assert!(matches!(Root::load(1, NOW, "nothing", &key), Err(CaError::NoCertificate)));
}
