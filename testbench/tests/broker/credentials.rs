//! Who gets in at all, and that everybody else is turned away for the right reason.

use testbench::rig::{Authority, Connect, Identity, RawMqtt, client};

use super::Rig;

/// What the broker says to this certificate.
async fn refusal(rig: &Rig, identity: Option<&Identity>) -> String {
    let config = client(&rig.pki.root, identity, &rustls::version::TLS13).unwrap();
    RawMqtt::tls_refusal(rig.broker.controllers, config).await
}

#[tokio::test]
async fn only_a_good_certificate_of_the_right_root_gets_in() {
    let rig = Rig::start().await;
    let root = &rig.pki.root;
    rig.controller("hq-door-1").await.settle().await.unwrap();

    let stranger = Authority::new("Tapline test root").unwrap();
    for (who, identity, says) in [
        ("nobody", None, "CertificateRequired"),
        ("another root of the same name", Some(stranger.controller("hq-door-1").unwrap()), "UnknownCA"),
        ("a root of another name", Some(Authority::new("x").unwrap().controller("a").unwrap()), "UnknownCA"),
        ("one who vouches for itself", Some(Identity::self_signed("hq-door-1").unwrap()), "UnknownCA"),
        ("an expired one", Some(root.expired_controller("hq-door-1").unwrap()), "CertificateExpired"),
        ("one of tomorrow", Some(root.controller_of_tomorrow("hq-door-1").unwrap()), "BadCertificate"),
        ("a server", Some(root.server().unwrap()), "UnsupportedCertificate"),
    ] {
        let said = refusal(&rig, identity.as_ref()).await;
        assert!(said.contains(says), "{who}: {said}");
    }
}

#[tokio::test]
async fn nothing_older_than_tls_1_3_and_nothing_in_clear_gets_in() {
    let rig = Rig::start().await;
    let identity = rig.pki.root.controller("hq-door-1").unwrap();
    let older = client(&rig.pki.root, Some(&identity), &rustls::version::TLS12).unwrap();
    for listener in [rig.broker.controllers, rig.broker.service_tls] {
        let said = RawMqtt::tls_refusal(listener, older.clone()).await;
        assert!(said.contains("ProtocolVersion"), "{said}");
        let mut in_clear = RawMqtt::tcp(listener).await.unwrap();
        in_clear.connect(Connect::clean("hq-door-1")).await.unwrap_err();
    }
}

/// The listener where a client may choose its client id.
#[tokio::test]
async fn no_controllers_certificate_is_good_where_cloud_ingest_connects_and_none_of_its_where_they_do() {
    let rig = Rig::start().await;
    for id in ["hq-door-1", "cloud-ingest"] {
        let controller = rig.pki.root.controller(id).unwrap().trusting(&rig.pki.root).unwrap();
        let said = RawMqtt::tls_refusal(rig.broker.service_tls, controller).await;
        assert!(said.contains("UnknownCA"), "{said}");
    }
    let said = refusal(&rig, Some(&rig.pki.service)).await;
    assert!(said.contains("UnknownCA"), "{said}");
}
