//! The listener over real TCP and TLS 1.3, with a client that trusts our root alone.

use std::sync::atomic::{AtomicI64, Ordering};

use data_encoding::HEXLOWER;
use rcgen::{KeyPair, SigningKey as _};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tap_protocol::enrolment::{EnrollToken, transcript};
use tap_protocol::keys::SigningKey;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::challenge::GOOD_FOR_MS;
use super::*;
use crate::event_store::handle::StoreThread;
use crate::event_store::{Deed, Member, NewToken, RecordKey};
use crate::fixture::{self, START};
use crate::keyring::live::{self, Looking};
use crate::keyring::ring::Kind;
use crate::keyring::{self as folder, tests as folder_tests};

/// A cloud with its listener, and what a test turns.
struct Cloud {
    address: std::net::SocketAddr,
    store: StoreHandle,
    thread: StoreThread,
    keys: LiveKeys,
    looking: Looking,
    dir: TempDir,
    now: Arc<AtomicI64>,
    end: oneshot::Sender<()>,
    serving: JoinHandle<std::io::Result<()>>,
}

/// A controller whose clock shows what the cloud's does.
#[derive(Debug)]
struct AsTheCloud(Arc<AtomicI64>);

impl TimeProvider for AsTheCloud {
    fn current_time(&self) -> Option<UnixTime> {
        let now_ms = self.0.load(Ordering::SeqCst).unsigned_abs();
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_millis(now_ms)))
    }
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Value,
}

impl Answer {
    #[track_caller]
    fn bundle(self) -> Bundle {
        assert_eq!(self.status, 200, "{self:?}");
        serde_json::from_value(self.body).unwrap()
    }

    #[track_caller]
    fn is_refused(&self, status: u16, code: &str, said: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.body["code"], code, "{self:?}");
        assert!(self.body["detail"].as_str().unwrap().contains(said), "{self:?}");
        assert!(self.head.contains("application/problem+json"), "{}", self.head);
    }
}

impl Cloud {
    async fn start() -> Cloud {
        let dir = folder_tests::folder();
        let (keys, looking) = live::open(dir.path().to_owned(), Keys::load(dir.path()).unwrap());
        let (store, thread) = StoreHandle::spawn("store", Box::new(fixture::store())).unwrap();
        let now = Arc::new(AtomicI64::new(START.0));
        let clock = Clock::from_fn({
            let now = Arc::clone(&now);
            move || UtcMs(now.load(Ordering::SeqCst))
        });
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let settings = EnrolmentEntry {
            listen: address,
            url: "https://enrol.example:8444/".into(),
            names: vec!["127.0.0.1".into()],
            broker_url: "mqtts://broker.example".parse().unwrap(),
            certificate_days: 30,
            record_key_overlap_days: 7,
            crl_file: None,
        };
        let listener =
            TlsListener::new(tcp, listening(settings.all_names(), keys.clone()), clock.clone()).unwrap();
        let enrolling = Enrolling::new(store.clone(), keys.clone(), settings, clock).unwrap();
        let (end, ended) = oneshot::channel();
        let serving = tokio::spawn(serve(listener, enrolling, async move {
            let _ = ended.await;
        }));
        Cloud { address, store, thread, keys, looking, dir, now, end, serving }
    }

    async fn stop(self) {
        drop(self.end);
        self.serving.await.unwrap().unwrap();
        self.thread.close().await;
    }

    fn now(&self) -> UtcMs {
        UtcMs(self.now.load(Ordering::SeqCst))
    }

    fn passes(&self, ms: i64) {
        self.now.fetch_add(ms, Ordering::SeqCst);
    }

    /// One request on a connection of its own, under TLS 1.3 and our root, as a controller that has just the pin.
    async fn ask(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.ask_trusting(method, path, body, self.keys.now().server_root().unwrap().der().clone()).await
    }

    async fn ask_trusting(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
        root: CertificateDer<'static>,
    ) -> Answer {
        let mut roots = RootCertStore::empty();
        roots.add(root).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clock = Arc::new(AsTheCloud(Arc::clone(&self.now)));
        let config = ClientConfig::builder_with_details(provider, clock)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("enrol.example").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, tcp).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: enrol.example\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // An answer may come before all of a large body was read.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let text = String::from_utf8(answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_owned(),
            body: serde_json::from_str(body).unwrap_or(Value::Null),
        }
    }

    async fn challenge(&self) -> String {
        let answer = self.ask("GET", "/enrol/v1/challenge", b"").await;
        serde_json::from_value::<Challenge>(answer.body).unwrap().challenge
    }

    async fn token(&self, controller: &str) -> EnrollToken {
        let root_pin = self.keys.now().server_root().unwrap().pin();
        let token = EnrollToken { id: random().unwrap(), secret: random().unwrap(), root_pin };
        let new = NewToken {
            id: token.id,
            secret_sha256: digest(&SHA256, &token.secret).as_ref().try_into().unwrap(),
            controller: controller.parse().unwrap(),
            site: "hq".into(),
            label: "Main entrance".into(),
            expires: UtcMs(self.now().0 + DAY_MS),
        };
        let deed = Deed::by_itself(self.now(), "create_token", controller);
        self.store.run(move |store| store.put_enroll_tokens(&[new], &deed)).await.unwrap();
        token
    }

    async fn enroll(&self, device: &Device, token: &EnrollToken) -> Answer {
        let challenge = self.challenge().await;
        self.post("enroll", &device.enrolls(&challenge, token)).await
    }

    async fn renew(&self, current: &Device, next: &Device, controller: &str) -> Answer {
        let challenge = self.challenge().await;
        self.post("renew", &next.renews(&challenge, controller, current)).await
    }

    async fn post(&self, what: &str, request: &impl serde::Serialize) -> Answer {
        self.ask("POST", &format!("/enrol/v1/{what}"), &serde_json::to_vec(request).unwrap()).await
    }

    async fn member(&self, controller: &str) -> Option<Member> {
        let id = controller.parse().unwrap();
        self.store.run(move |store| store.member(&id)).await.unwrap()
    }

    async fn set_standing(&self, controller: &str, standing: Standing, why: &str) {
        let id = controller.parse().unwrap();
        let deed = Deed { why: why.into(), ..Deed::by_itself(self.now(), "test", controller) };
        self.store.run(move |store| store.set_standing(&id, standing, &deed)).await.unwrap();
    }

    async fn fleet(&self) -> Vec<Member> {
        // The fixture's doors were never enrolled; here, a building whose doors all were.
        let fleet = self.store.run(|store| store.fleet()).await.unwrap();
        fleet.into_iter().filter(|member| member.certificate.is_some()).collect()
    }

    /// One step of a rotation, as the command line takes it, noticed by the running service.
    async fn step<T>(&mut self, step: impl FnOnce(&mut folder::ring::Ring, &[Member], UtcMs) -> T) {
        let mut ring = folder::read_ring(self.dir.path()).unwrap();
        let known = ring.keys.len();
        step(&mut ring, &self.fleet().await, self.now());
        for entry in &ring.keys[known..] {
            folder::make_files(self.dir.path(), entry).unwrap();
        }
        folder::write_ring(self.dir.path(), &ring).unwrap();
        self.looking.look().unwrap();
    }
}

/// A controller's own keys.
struct Device {
    tls: KeyPair,
    record: SigningKey,
}

impl Device {
    fn new(seed: u8) -> Device {
        Device { tls: KeyPair::generate().unwrap(), record: SigningKey::from_seed(&[seed; 32]) }
    }

    fn keys(&self, label: &[u8], challenge: &str, who: &str) -> tap_protocol::enrolment::Keys {
        let (tls, record) = (self.tls.public_key_raw(), self.record.public());
        let signed = transcript(label, challenge, who, tls, &record);
        tap_protocol::enrolment::Keys {
            tls_public_key: HEXLOWER.encode(tls),
            record_public_key: record.to_string(),
            tls_proof: HEXLOWER.encode(&self.tls.sign(&signed).unwrap()),
            record_proof: HEXLOWER.encode(&self.record.sign(&signed)),
        }
    }

    fn enrolls(&self, challenge: &str, token: &EnrollToken) -> EnrollRequest {
        EnrollRequest {
            challenge: challenge.to_owned(),
            token_id: token.id_text(),
            token_secret: token.secret_text(),
            keys: self.keys(ENROLL_LABEL, challenge, &token.id_text()),
            agent_version: "0.1.0".into(),
        }
    }

    fn renews(&self, challenge: &str, controller: &str, current: &Device) -> RenewRequest {
        let keys = self.keys(RENEW_LABEL, challenge, controller);
        let signed =
            transcript(RENEW_LABEL, challenge, controller, self.tls.public_key_raw(), &self.record.public());
        RenewRequest {
            challenge: challenge.to_owned(),
            controller: controller.parse().unwrap(),
            keys,
            current_proof: HEXLOWER.encode(&current.record.sign(&signed)),
            agent_version: "0.1.0".into(),
        }
    }
}

const DOOR: &str = "hq-door-12";

#[tokio::test]
async fn a_token_and_two_keys_make_a_controller_that_can_work() {
    let cloud = Cloud::start().await;
    let (device, token) = (Device::new(50), cloud.token(DOOR).await);
    let bundle = cloud.enroll(&device, &token).await.bundle();
    let keys = cloud.keys.now();
    assert_eq!((bundle.controller.as_str(), &*bundle.label, &*bundle.site), (DOOR, "Main entrance", "hq"));
    assert_eq!(bundle.not_after_utc_ms, START.0 + 30 * DAY_MS);
    assert_eq!(bundle.broker_url, "mqtts://broker.example:8883");
    assert_eq!(bundle.enrolment_url, "https://enrol.example:8444");
    assert_eq!(bundle.receipt_keys, [keys.receipt().public().to_string()]);
    assert_eq!(bundle.control_keys, [keys.control().public().to_string()]);
    assert_eq!((bundle.token_key_id, bundle.token_keys.len()), (1, 1));
    assert_eq!(bundle.token_keys[0].key, HEXLOWER.encode(&keys.token_secrets()[0].1));
    assert_eq!(bundle.roots, keys.signing_root().unwrap().pem());
    let certificate = CertificateDer::from_pem_slice(bundle.certificate.as_bytes()).unwrap();
    assert!(certificate.windows(DOOR.len()).any(|part| part == DOOR.as_bytes()));
    let member = cloud.member(DOOR).await.unwrap();
    assert_eq!(member.controller.record_keys, [RecordKey::new(device.record.public())]);
    assert_eq!(member.fetched.unwrap().holds, keys.ring.holdings());
    cloud.stop().await;
}

#[tokio::test]
async fn a_lost_answer_is_given_again_and_a_used_token_is_good_for_nobody_else() {
    let cloud = Cloud::start().await;
    let (device, token) = (Device::new(50), cloud.token(DOOR).await);
    let first = cloud.enroll(&device, &token).await.bundle();
    let again = cloud.enroll(&device, &token).await.bundle();
    assert_ne!(first.certificate, again.certificate);
    cloud.enroll(&Device::new(51), &token).await.is_refused(409, "token_used", "ask for a new one");
    cloud.passes(DAY_MS);
    cloud.enroll(&device, &token).await.is_refused(410, "token_expired", "ended at 2026-03-03");
    cloud.stop().await;
}

#[tokio::test]
async fn tokens_that_are_wrong_withdrawn_or_of_nobody_let_nobody_in() {
    let cloud = Cloud::start().await;
    let (device, token) = (Device::new(50), cloud.token(DOOR).await);
    let unknown = |answer: Answer| answer.is_refused(403, "token_unknown", "copy all of it");
    unknown(cloud.enroll(&device, &EnrollToken { secret: [0; 16], ..token.clone() }).await);
    unknown(cloud.enroll(&device, &EnrollToken { id: [0; 5], ..token.clone() }).await);
    let challenge = cloud.challenge().await;
    let half = EnrollRequest { token_secret: "abc".into(), ..device.enrolls(&challenge, &token) };
    unknown(cloud.post("enroll", &half).await);
    assert!(cloud.member(DOOR).await.is_none(), "nothing came of it");
    let deed = Deed::by_itself(cloud.now(), "withdraw_token", "it");
    let id = token.id;
    assert!(cloud.store.run(move |store| store.withdraw_enroll_token(id, &deed)).await.unwrap());
    cloud.enroll(&device, &token).await.is_refused(410, "token_withdrawn", "taken back");
    cloud.stop().await;
}

#[tokio::test]
async fn a_challenge_serves_once_for_five_minutes_and_only_here() {
    let cloud = Cloud::start().await;
    let (device, token) = (Device::new(50), cloud.token(DOOR).await);
    let challenge = cloud.challenge().await;
    let request = device.enrolls(&challenge, &token);
    cloud.post("enroll", &request).await.bundle();
    cloud.post("enroll", &request).await.is_refused(409, "challenge", "used before");
    let late = cloud.challenge().await;
    cloud.passes(GOOD_FOR_MS);
    cloud.post("enroll", &device.enrolls(&late, &token)).await.is_refused(400, "challenge", "five minutes");
    let made_up = device.enrolls(&"ab".repeat(32), &token);
    cloud.post("enroll", &made_up).await.is_refused(400, "challenge", "not from here");
    cloud.stop().await;
}

#[tokio::test]
async fn both_keys_must_have_signed_this_very_request() {
    let cloud = Cloud::start().await;
    let (device, other, token) = (Device::new(50), Device::new(51), cloud.token(DOOR).await);
    let mut request = device.enrolls(&cloud.challenge().await, &token);
    request.keys.tls_public_key = HEXLOWER.encode(other.tls.public_key_raw());
    cloud.post("enroll", &request).await.is_refused(403, "proof", "the TLS key did not sign");
    let challenge = cloud.challenge().await;
    let mut request = device.enrolls(&challenge, &token);
    request.keys.record_proof = other.enrolls(&challenge, &token).keys.record_proof;
    cloud.post("enroll", &request).await.is_refused(403, "proof", "the record key did not sign");
    let elsewhere = device.enrolls(&cloud.challenge().await, &token);
    let moved = EnrollRequest { challenge: cloud.challenge().await, ..elsewhere };
    cloud.post("enroll", &moved).await.is_refused(403, "proof", "the TLS key did not sign");
    let mut request = device.enrolls(&cloud.challenge().await, &token);
    request.keys.tls_public_key = format!("04{}", "00".repeat(64));
    cloud.post("enroll", &request).await.is_refused(403, "proof", "the TLS key");
    request = device.enrolls(&cloud.challenge().await, &token);
    request.keys.record_public_key = "zz".into();
    cloud.post("enroll", &request).await.is_refused(403, "proof", "no Ed25519 key");
    assert!(cloud.member(DOOR).await.is_none(), "nothing came of it");
    cloud.stop().await;
}

#[tokio::test]
async fn rubbish_and_what_is_too_large_is_refused_and_nothing_of_the_inside_is_told() {
    let cloud = Cloud::start().await;
    for (method, path, body, status) in [
        ("POST", "/enrol/v1/enroll", &b"{"[..], 400),
        ("POST", "/enrol/v1/enroll", b"[]", 400),
        ("POST", "/enrol/v1/renew", b"\xff\xfe", 400),
        ("POST", "/enrol/v1/renew", br#"{"challenge":"x","extra":1}"#, 400),
        ("POST", "/enrol/v1/enroll", &[b' '; MAX_BODY_BYTES + 1], 413),
        ("GET", "/enrol/v1/enroll", b"", 405),
        ("POST", "/enrol/v1/challenge", b"", 405),
        ("GET", "/enrol/v1/bundle", b"", 404),
        ("GET", "/", b"", 404),
    ] {
        let answer = cloud.ask(method, path, body).await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert!(answer.head.contains("application/problem+json"), "{answer:?}");
        let said = answer.body["detail"].as_str().unwrap();
        for inside in ["line 1", "column", "serde", "expected", "panicked", "sqlite"] {
            assert!(!said.contains(inside), "{said}");
        }
    }
    cloud.stop().await;
}

#[tokio::test]
async fn no_refusal_carries_a_secret() {
    let cloud = Cloud::start().await;
    let (device, token) = (Device::new(50), cloud.token(DOOR).await);
    cloud.enroll(&device, &token).await.bundle();
    let secrets: Vec<String> = std::fs::read_dir(cloud.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "key"))
        .flat_map(|path| {
            let text = std::fs::read_to_string(path).unwrap();
            let lines = text.lines().filter(|line| !line.starts_with("-----")).map(str::to_owned);
            lines.collect::<Vec<_>>()
        })
        .chain([token.secret_text()])
        .collect();
    assert!(secrets.len() > 4);
    let mut answers = vec![
        cloud.enroll(&Device::new(51), &token).await,
        cloud.enroll(&device, &EnrollToken { secret: [0; 16], ..token.clone() }).await,
        cloud.renew(&Device::new(51), &Device::new(51), DOOR).await,
        cloud.renew(&device, &device, "hq-door-99").await,
        cloud.ask("GET", "/enrol/v1/challenge", b"").await,
        cloud.ask("POST", "/enrol/v1/renew", b"{}").await,
    ];
    let bundle = cloud.renew(&device, &device, DOOR).await;
    let token_key = HEXLOWER.encode(&cloud.keys.now().token_secrets()[0].1);
    let bundle_text = bundle.body.to_string();
    assert_eq!(bundle.status, 200);
    for secret in secrets.iter().filter(|secret| **secret != token_key) {
        assert!(!bundle_text.contains(secret), "the bundle has the token key and no other secret");
    }
    assert!(bundle_text.contains(&token_key));
    assert!(!format!("{:?}", bundle.bundle()).contains(&token_key));
    cloud.set_standing(DOOR, Standing::Revoked, "stolen").await;
    answers.push(cloud.renew(&device, &device, DOOR).await);
    for answer in &answers {
        let all = format!("{}{}", answer.head, answer.body);
        assert!(secrets.iter().all(|secret| !all.contains(secret)), "{answer:?}");
    }
    cloud.stop().await;
}

#[tokio::test]
async fn an_expired_certificate_is_renewed_with_the_record_key() {
    let cloud = Cloud::start().await;
    let (device, token) = (Device::new(50), cloud.token(DOOR).await);
    cloud.enroll(&device, &token).await.bundle();
    cloud.passes(200 * DAY_MS);
    let bundle = cloud.renew(&device, &device, DOOR).await.bundle();
    assert_eq!(bundle.not_after_utc_ms, cloud.now().0 + 30 * DAY_MS);
    cloud.stop().await;
}

#[tokio::test]
async fn only_a_record_key_of_this_very_controller_renews() {
    let cloud = Cloud::start().await;
    let (device, other) = (Device::new(50), Device::new(51));
    cloud.enroll(&device, &cloud.token(DOOR).await).await.bundle();
    cloud.enroll(&other, &cloud.token("hq-door-13").await).await.bundle();
    let unknown = |answer: Answer| answer.is_refused(403, "controller_unknown", "enrol it again");
    unknown(cloud.renew(&other, &other, DOOR).await);
    unknown(cloud.renew(&device, &device, "hq-door-99").await);
    // Signed for itself, sent for another: the proofs are over the name.
    let request = other.renews(&cloud.challenge().await, "hq-door-13", &other);
    let turned = RenewRequest { controller: DOOR.parse().unwrap(), ..request };
    cloud.post("renew", &turned).await.is_refused(403, "proof", "did not sign");
    cloud.stop().await;
}

#[tokio::test]
async fn a_new_record_key_takes_over_while_the_old_one_stays_good_for_a_week() {
    let cloud = Cloud::start().await;
    let (old, new) = (Device::new(50), Device::new(51));
    cloud.enroll(&old, &cloud.token(DOOR).await).await.bundle();
    cloud.renew(&old, &new, DOOR).await.bundle();
    let keys = cloud.member(DOOR).await.unwrap().controller.record_keys;
    let both = [new.record.public(), old.record.public()];
    assert_eq!(good_keys(&keys, UtcMs(START.0 + 7 * DAY_MS - 1)), both);
    assert_eq!(good_keys(&keys, UtcMs(START.0 + 7 * DAY_MS)), both[..1]);
    // The answer was lost, and the controller has its old key alone: it asks again.
    cloud.passes(DAY_MS);
    cloud.renew(&old, &new, DOOR).await.bundle();
    cloud.passes(6 * DAY_MS);
    cloud.renew(&old, &new, DOOR).await.is_refused(403, "controller_unknown", "");
    cloud.renew(&new, &new, DOOR).await.bundle();
    cloud.stop().await;
}

#[tokio::test]
async fn who_is_out_of_trust_gets_nothing_and_is_told_why_until_enrolled_anew() {
    for standing in [Standing::Revoked, Standing::Retired] {
        let cloud = Cloud::start().await;
        let (device, token) = (Device::new(50), cloud.token(DOOR).await);
        cloud.enroll(&device, &token).await.bundle();
        cloud.set_standing(DOOR, standing, "the door was broken open").await;
        let refused = cloud.renew(&device, &device, DOOR).await;
        refused.is_refused(403, standing.name(), "(the door was broken open)");
        cloud.enroll(&device, &token).await.is_refused(410, "token_withdrawn", "ask for a new one");
        let fresh = Device::new(52);
        cloud.enroll(&fresh, &cloud.token(DOOR).await).await.bundle();
        let member = cloud.member(DOOR).await.unwrap();
        assert_eq!(member.standing, Standing::Active);
        assert_eq!(good_keys(&member.controller.record_keys, cloud.now()), [fresh.record.public()]);
        cloud.stop().await;
    }
}

#[tokio::test]
async fn one_address_is_slowed_down_and_told_for_how_long() {
    let cloud = Cloud::start().await;
    let mut last = cloud.ask("GET", "/enrol/v1/challenge", b"").await;
    for _ in 1..pace::BURST {
        assert_eq!(last.status, 200);
        last = cloud.ask("GET", "/enrol/v1/challenge", b"").await;
    }
    let refused = cloud.ask("GET", "/enrol/v1/challenge", b"").await;
    assert_eq!(refused.status, 429);
    assert!(refused.head.contains("retry-after: 1"), "{}", refused.head);
    cloud.passes(pace::PER_QUESTION_MS);
    assert_eq!(cloud.ask("GET", "/enrol/v1/challenge", b"").await.status, 200);
    cloud.stop().await;
}

#[tokio::test]
async fn signing_and_sealing_keys_take_over_without_leaving_anybody_behind() {
    let mut cloud = Cloud::start().await;
    let (device, token) = (Device::new(50), cloud.token(DOOR).await);
    cloud.enroll(&device, &token).await.bundle();
    for kind in [Kind::Receipt, Kind::Control, Kind::Token] {
        cloud.step(|ring, _, now| ring.rotate(kind, now).unwrap()).await;
        cloud
            .step(|ring, fleet, now| {
                assert!(ring.activate(kind, fleet, now, false).is_err(), "it has not heard of {kind:?}");
            })
            .await;
    }
    let told = cloud.renew(&device, &device, DOOR).await.bundle();
    assert_eq!((told.receipt_keys.len(), told.control_keys.len(), told.token_keys.len()), (2, 2, 2));
    assert_eq!(told.token_key_id, 1);
    let before = cloud.keys.now().receipt().public();
    for kind in [Kind::Receipt, Kind::Control, Kind::Token] {
        cloud.step(|ring, fleet, now| ring.activate(kind, fleet, now, false).unwrap()).await;
    }
    assert_ne!(cloud.keys.now().receipt().public(), before);
    assert!(told.receipt_keys.contains(&cloud.keys.now().receipt().public().to_string()));
    cloud
        .step(|ring, fleet, now| {
            assert!(
                ring.retire(Kind::Token, 1, fleet, now, false).is_err(),
                "it still seals with the old one"
            );
        })
        .await;
    let using = cloud.renew(&device, &device, DOOR).await.bundle();
    assert_eq!((using.token_key_id, using.token_keys.len()), (2, 2));
    for kind in [Kind::Receipt, Kind::Control, Kind::Token] {
        cloud.step(|ring, fleet, now| ring.retire(kind, 1, fleet, now, false).unwrap()).await;
    }
    let after = cloud.renew(&device, &device, DOOR).await.bundle();
    assert_eq!((after.receipt_keys.len(), after.control_keys.len(), after.token_keys.len()), (1, 1, 1));
    assert_eq!(cloud.keys.now().token_keys().len(), 2, "old taps stay readable");
    cloud.stop().await;
}

#[tokio::test]
async fn a_new_root_takes_over_and_who_slept_through_it_can_still_renew() {
    let mut cloud = Cloud::start().await;
    let (device, token) = (Device::new(50), cloud.token(DOOR).await);
    let first_root = cloud.keys.now().server_root().unwrap().der().clone();
    cloud.enroll(&device, &token).await.bundle();
    cloud.step(|ring, _, now| ring.rotate(Kind::Root, now).unwrap()).await;
    let both = cloud.renew(&device, &device, DOOR).await.bundle();
    assert_eq!(both.roots.matches("BEGIN CERTIFICATE").count(), 2);
    cloud.step(|ring, fleet, now| ring.activate(Kind::Root, fleet, now, false).unwrap()).await;
    // Whoever knows the first root alone still meets a listener that it trusts.
    let answer = cloud.ask_trusting("GET", "/enrol/v1/challenge", b"", first_root.clone()).await;
    assert_eq!(answer.status, 200);
    cloud
        .step(|ring, fleet, now| {
            assert!(
                ring.retire(Kind::Root, 1, fleet, now, false).is_err(),
                "its certificate is by the old one"
            );
        })
        .await;
    cloud.renew(&device, &device, DOOR).await.bundle();
    cloud.step(|ring, fleet, now| ring.retire(Kind::Root, 1, fleet, now, false).unwrap()).await;
    let after = cloud.renew(&device, &device, DOOR).await.bundle();
    assert_eq!(after.roots.matches("BEGIN CERTIFICATE").count(), 1);
    assert_ne!(*cloud.keys.now().server_root().unwrap().der(), first_root);
    cloud.stop().await;
}
