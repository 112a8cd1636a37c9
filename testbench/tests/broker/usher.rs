//! A controller that is out of trust loses its session: cloud-ingest's usher against the agent's own link.

use std::{path::Path, time::Duration};

use cloud_ingest::{clock::Clock, config, stop, usher};
use edge_agent::{
    broker_link::{self, LinkEvent},
    config::{BrokerConfig, BrokerUrl},
    credentials::Credentials,
    known_time::KnownTime,
};
use tap_protocol::ids::ControllerId;
use testbench::rig::{Identity, ShippedBroker};
use tokio::{sync::mpsc, time::timeout};

use super::Rig;

const SOON: Duration = Duration::from_secs(20);

/// The agent's link, as the agent itself runs it.
struct Door {
    events: mpsc::Receiver<LinkEvent>,
    _link: tokio::task::JoinHandle<()>,
}

impl Door {
    async fn open(rig: &Rig, id: &str, identity: &Identity) -> Door {
        let (cert_file, key_file) = identity.write(rig.dir.path(), id).unwrap();
        let ca_file = rig.dir.path().join("etc/tapline/ca.pem");
        let addr = rig.broker.controllers;
        let config = BrokerConfig {
            url: BrokerUrl { tls: true, host: addr.ip().to_string(), port: addr.port() },
            ca_file: Some(ca_file),
            cert_file: Some(cert_file),
            key_file: Some(key_file),
        };
        let (sender, events) = mpsc::channel(16);
        let credentials = Credentials::new(config, KnownTime::to_look_with(rig.dir.path()));
        let link = broker_link::start(credentials, &id.parse().unwrap(), sender);
        let mut door = Door { events, _link: link };
        door.until_up().await;
        door
    }

    async fn until_up(&mut self) {
        while !matches!(self.next().await, LinkEvent::Up(_)) {}
    }

    async fn next(&mut self) -> LinkEvent {
        timeout(SOON, self.events.recv()).await.expect("something happens").expect("the link runs")
    }
}

fn in_clear(broker: &ShippedBroker) -> config::Broker {
    toml(&format!("url = \"mqtt://{}\"\nclient_id = \"cloud-ingest\"", broker.service))
}

fn over_tls(broker: &ShippedBroker, dir: &Path) -> config::Broker {
    let files = dir.join("etc/tapline");
    let files = files.display();
    toml(&format!(
        "url = \"mqtts://{}\"\nclient_id = \"cloud-ingest\"\nca_file = \"{files}/ca.pem\"\ncert_file = \"{files}/service.pem\"\nkey_file = \"{files}/service.key\"",
        broker.service_tls
    ))
}

fn toml(text: &str) -> config::Broker {
    toml::from_str(text).unwrap()
}

#[tokio::test]
async fn a_session_is_ended_on_request_and_no_other_and_nothing_is_left_behind() {
    let rig = Rig::start().await;
    let [revoked, other] = ["hq-door-1", "hq-door-2"].map(|id| rig.pki.root.controller(id).unwrap());
    for broker in [in_clear(&rig.broker), over_tls(&rig.broker, rig.dir.path())] {
        let mut door = Door::open(&rig, "hq-door-1", &revoked).await;
        let mut others = Door::open(&rig, "hq-door-2", &other).await;
        let mut observer = rig.observer("observer").await;
        observer.subscribe(&["tap/v1/+/gone"]).await.unwrap();

        usher::end_session(&broker, &"hq-door-1".parse().unwrap()).await.unwrap();

        assert!(matches!(door.next().await, LinkEvent::Down { .. }));
        // Not on the list of revocations yet, it comes back: the usher has left, and nobody ended that session.
        door.until_up().await;
        let gone: Vec<_> =
            observer.settle().await.unwrap().into_iter().map(|message| message.topic).collect();
        assert_eq!(gone, ["tap/v1/hq-door-1/gone"]);
        others.events.try_recv().expect_err("nothing happened to the other");
    }
}

#[tokio::test]
async fn a_revoked_controller_is_out_and_stays_out() {
    let rig = Rig::start().await;
    let revoked = rig.pki.root.controller("hq-door-1").unwrap();
    let mut door = Door::open(&rig, "hq-door-1", &revoked).await;
    let (bell, calls) = usher::bell();
    let (stopper, stop) = stop::pair();
    let running = tokio::spawn(usher::run(in_clear(&rig.broker), calls, Clock::system(), stop));
    let id: ControllerId = "hq-door-1".parse().unwrap();

    rig.broker.reload("crl.pem", &rig.pki.root.revocations(&[&revoked], 30).unwrap()).await.unwrap();
    bell.ring(&id);
    // As long as it gets in, what it says brings the usher again.
    let out = async {
        loop {
            match door.next().await {
                LinkEvent::Up(_) => bell.ring(&id),
                LinkEvent::Down { why } if why.contains("CertificateRevoked") => return,
                LinkEvent::Down { .. } | LinkEvent::Message { .. } => {}
            }
        }
    };
    timeout(SOON, out).await.expect("it is kept out");
    stopper.stop();
    timeout(SOON, running).await.expect("the usher stops").unwrap();
}

#[tokio::test]
async fn an_usher_whose_broker_is_away_tries_again_and_can_be_stopped_meanwhile() {
    let mut rig = Rig::start().await;
    let identity = rig.pki.root.controller("hq-door-1").unwrap();
    let (bell, calls) = usher::bell();
    let (stopper, stop) = stop::pair();
    rig.broker.process.stop().await.unwrap();
    let running = tokio::spawn(usher::run(in_clear(&rig.broker), calls, Clock::system(), stop));
    bell.ring(&"hq-door-1".parse().unwrap());
    rig.broker.process.restart().await.unwrap();
    let mut door = Door::open(&rig, "hq-door-1", &identity).await;
    assert!(matches!(door.next().await, LinkEvent::Down { .. }), "the request was not forgotten");
    stopper.stop();
    timeout(SOON, running).await.expect("the usher stops").unwrap();
}
