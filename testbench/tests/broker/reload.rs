//! What takes effect while the broker runs, and what does harm: revocations, a second root, a new certificate of its own.
//! Each is a file, and a SIGHUP.

use std::{fs, path::Path, process::Command};

use testbench::rig::{Authority, Connect, Identity, RawMqtt};

use super::Rig;

/// Connects with this certificate; why not, if not.
async fn enters(rig: &Rig, identity: &Identity) -> Result<(), String> {
    let config = identity.trusting(&rig.pki.root).unwrap();
    let mut line = RawMqtt::tls(rig.broker.controllers, config).await.map_err(|error| error.to_string())?;
    line.connect(Connect::clean("x")).await.map(drop).map_err(|error| format!("{error:?}"))
}

async fn is_refused(rig: &Rig, identity: &Identity, says: &str) {
    let said = enters(rig, identity).await.expect_err("it is refused");
    assert!(said.contains(says), "{said}");
}

fn doors<const N: usize>(authority: &Authority, ids: [&str; N]) -> [Identity; N] {
    ids.map(|id| authority.controller(id).unwrap())
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_from_the_next_connection_on_and_no_other_is() {
    let rig = Rig::start().await;
    let [revoked, other] = doors(&rig.pki.root, ["hq-door-1", "hq-door-2"]);
    let mut session = rig.session(&revoked, Connect::clean("x")).await;
    let mut others = rig.session(&other, Connect::clean("x")).await;
    rig.broker.reload("crl.pem", &rig.pki.root.revocations(&[&revoked], 30).unwrap()).await.unwrap();

    session.settle().await.expect("a session that stands is not touched: ending it is the usher's work");
    is_refused(&rig, &revoked, "CertificateRevoked").await;
    others.settle().await.unwrap();
    enters(&rig, &other).await.unwrap();
    let [enrolled_again] = doors(&rig.pki.root, ["hq-door-1"]);
    enters(&rig, &enrolled_again).await.unwrap();
}

#[tokio::test]
async fn the_list_that_was_read_last_counts_whatever_it_says_of_its_age() {
    let rig = Rig::start().await;
    let [one, two] = doors(&rig.pki.root, ["hq-door-1", "hq-door-2"]);
    for (revoked, age_s) in [(&one, 60), (&two, 60), (&one, 90)] {
        rig.broker.reload("crl.pem", &rig.pki.root.revocations(&[revoked], age_s).unwrap()).await.unwrap();
        for identity in [&one, &two] {
            let refused = enters(&rig, identity).await.is_err();
            assert_eq!(refused, std::ptr::eq(identity, revoked), "age {age_s}");
        }
    }
}

#[tokio::test]
async fn a_second_root_needs_its_own_list_and_the_first_can_go_while_sessions_stand() {
    let rig = Rig::start().await;
    let second = Authority::new("Tapline test root, the second").unwrap();
    let ([old], [new]) = (doors(&rig.pki.root, ["hq-door-1"]), doors(&second, ["hq-door-2"]));
    is_refused(&rig, &new, "UnknownCA").await;
    let both = rig.pki.root.certificate() + &second.certificate();
    rig.broker.reload("ca.pem", &both).await.unwrap();
    // OpenSSL has one alert for "no such root" and "no list of this root".
    is_refused(&rig, &new, "UnknownCA").await;
    let lists = rig.pki.root.revocations(&[], 30).unwrap() + &second.revocations(&[], 30).unwrap();
    rig.broker.reload("crl.pem", &lists).await.unwrap();
    enters(&rig, &new).await.unwrap();
    let mut session = rig.session(&old, Connect::clean("x")).await;

    rig.broker.reload("ca.pem", &second.certificate()).await.unwrap();
    enters(&rig, &new).await.unwrap();
    session.settle().await.unwrap();
    is_refused(&rig, &old, "UnknownCA").await;
}

#[tokio::test]
async fn the_brokers_own_certificate_can_change() {
    let rig = Rig::start().await;
    let second = Authority::new("Tapline test root, the second").unwrap();
    let [door] = doors(&rig.pki.root, ["hq-door-1"]);
    let mut session = rig.session(&door, Connect::clean("x")).await;
    let server = second.server().unwrap();
    // First the key: alone it fits nothing, and for that moment nobody gets in.
    rig.broker.reload("server.key", &server.key).await.unwrap();
    enters(&rig, &door).await.unwrap_err();
    rig.broker.reload("server.pem", &server.certificate).await.unwrap();
    let mut line = RawMqtt::tls(rig.broker.controllers, door.trusting(&second).unwrap()).await.unwrap();
    session.settle().await.unwrap();
    line.connect(Connect::clean("x")).await.unwrap();
    let said = enters(&rig, &door).await.unwrap_err();
    assert!(said.contains("UnknownIssuer") || said.contains("BadSignature"), "{said}");
}

/// So a list has to be renewed long before its end, or have a far one: nobody fetches it but this broker.
#[tokio::test]
async fn after_the_end_of_its_list_nobody_gets_in() {
    let rig = Rig::start().await;
    let [door] = doors(&rig.pki.root, ["hq-door-1"]);
    rig.broker.reload("crl.pem", &rig.pki.root.expired_revocations().unwrap()).await.unwrap();
    is_refused(&rig, &door, "Certificate").await;
}

/// So a list is looked at before it is put there: `systemd/tapline-revocations.service`.
#[tokio::test]
async fn with_a_list_that_cannot_be_read_everybody_gets_in() {
    let rig = Rig::start().await;
    let [revoked] = doors(&rig.pki.root, ["hq-door-1"]);
    let list = rig.pki.root.revocations(&[&revoked], 30).unwrap();
    rig.broker.reload("crl.pem", &list).await.unwrap();
    is_refused(&rig, &revoked, "CertificateRevoked").await;
    rig.broker.reload("crl.pem", &list[..list.len() / 2]).await.unwrap();
    enters(&rig, &revoked).await.unwrap();
    rig.broker.reload("crl.pem", &list).await.unwrap();
    is_refused(&rig, &revoked, "CertificateRevoked").await;
}

#[tokio::test]
async fn with_a_certificate_of_its_own_that_cannot_be_read_nobody_gets_in_until_it_can() {
    let rig = Rig::start().await;
    let [door] = doors(&rig.pki.root, ["hq-door-1"]);
    rig.broker.reload("server.pem", "rubbish").await.unwrap();
    enters(&rig, &door).await.unwrap_err();
    rig.broker.reload("server.pem", &rig.pki.server.certificate).await.unwrap();
    enters(&rig, &door).await.unwrap();
}

/// The unit's commands but for the reload, in another folder.
#[test]
fn a_list_is_handed_to_the_broker_only_if_it_can_be_read() {
    let unit = include_str!("../../../systemd/tapline-revocations.service");
    let path = include_str!("../../../systemd/tapline-revocations.path");
    assert!(path.contains("PathChanged=/var/lib/cloud-ingest/ca/crl.pem\n"));
    let dir = tempfile::tempdir().unwrap();
    let (made, given) = (dir.path().join("ca/crl.pem"), dir.path().join("tapline/crl.pem"));
    for file in [&made, &given] {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
    }
    let commands: Vec<_> = unit.lines().filter_map(|line| line.strip_prefix("ExecStart=")).collect();
    assert_eq!(commands.last(), Some(&"/usr/bin/systemctl reload mosquitto.service"));
    let hand_over = || commands[..commands.len() - 1].iter().all(|command| runs(command, dir.path()));

    let authority = Authority::new("Tapline test root").unwrap();
    let list = authority.revocations(&[], 0).unwrap();
    fs::write(&made, &list).unwrap();
    assert!(hand_over());
    assert_eq!(fs::read_to_string(&given).unwrap(), list);
    for bad in [&list[..list.len() / 2], "rubbish", ""] {
        fs::write(&made, bad).unwrap();
        assert!(!hand_over(), "{bad:?}");
        assert_eq!(fs::read_to_string(&given).unwrap(), list);
    }
}

fn runs(command: &str, dir: &Path) -> bool {
    let here = |word: &str| {
        let word = word.replace("/var/lib/cloud-ingest", &dir.display().to_string());
        word.replace("/etc/mosquitto", &dir.display().to_string())
    };
    let words: Vec<_> = command.split(' ').map(here).collect();
    Command::new(&words[0]).args(&words[1..]).output().unwrap().status.success()
}
