//! Who may say and hear what: every controller against every topic. What is right is worked out here from the protocol,
//! not from the broker's files.

use std::collections::BTreeSet;

use tap_protocol::topic::Channel;
use testbench::rig::{Connect, Edit, Level, Publish, RawMqtt, Will};

use super::Rig;

/// Names that are easily taken for each other, for parts of a topic, or for nothing.
const IDS: [&str; 12] = [
    "hq-door-1",
    "hq-door-11",
    "hq-door-111",
    "hq",
    "a",
    "tap",
    "v1",
    "records",
    "receipt",
    "0",
    "hq-door-2",
    "a-very-long-name-that-has-as-many-letters-as-a-controller-may-x",
];

/// What a controller says.
const SAID: [Channel; 4] = [Channel::Records, Channel::Hello, Channel::Gone, Channel::Report];

/// What was looked at, and what was wrong.
#[derive(Debug, Default)]
struct Judged {
    cells: usize,
    wrong: Vec<String>,
}

impl Judged {
    fn check(&mut self, right: bool, what: impl FnOnce() -> String) {
        self.cells += 1;
        if !right {
            self.wrong.push(what());
        }
    }
}

#[tokio::test]
async fn a_controller_says_and_hears_what_is_its_own_and_nothing_else() {
    let rig = Rig::start().await;
    let judged = judge(&rig, &IDS).await;
    assert_eq!(judged.wrong, [""; 0], "of {} cells", judged.cells);
    assert!(judged.cells >= 8_000, "{} cells", judged.cells);
}

#[tokio::test]
async fn cloud_ingest_says_and_hears_the_other_half_and_cannot_speak_for_a_controller() {
    let rig = Rig::start().await;
    let service = rig.pki.service.trusting(&rig.pki.root).unwrap();
    let mut in_clear = RawMqtt::tcp(rig.broker.service).await.unwrap();
    in_clear.connect(Connect::clean("cloud-ingest")).await.unwrap();
    let mut over_tls = RawMqtt::tls(rig.broker.service_tls, service).await.unwrap();
    over_tls.connect(Connect::clean("cloud-ingest-2")).await.unwrap();
    for mut client in [in_clear, over_tls] {
        let mut judged = Judged::default();
        let mut observer = rig.observer("observer").await;
        observer.subscribe(&["#", "$other/#"]).await.unwrap();
        let topics = topics(&IDS);
        say(&mut client, "the cloud", &topics).await;
        let came: BTreeSet<_> = observer.settle().await.unwrap().into_iter().map(|m| m.topic).collect();
        let is_said = |topic: &str| SAID.iter().any(|c| matches(&c.of_every_controller(), topic));
        let is_heard = |topic: &str| {
            let heard = Channel::ALL.into_iter().filter(|channel| !SAID.contains(channel));
            heard.into_iter().any(|c| matches(&c.of_every_controller(), topic))
        };
        for topic in &topics {
            judged.check(came.contains(topic) == is_heard(topic), || format!("the cloud says {topic}"));
        }
        client.subscribe(&["#"]).await.unwrap();
        say(&mut observer, "anybody", &topics).await;
        let heard: BTreeSet<_> = client.settle().await.unwrap().into_iter().map(|m| m.topic).collect();
        for topic in &topics {
            judged.check(heard.contains(topic) == is_said(topic), || format!("the cloud hears {topic}"));
        }
        assert_eq!(judged.wrong, [""; 0], "of {} cells", judged.cells);
    }
}

/// A matrix that finds nothing wrong proves nothing, unless it finds what was planted.
#[tokio::test]
async fn every_planted_hole_is_found() {
    let acl = |from, to| Edit { file: "tapline.acl", from, to };
    let conf = |from, to| Edit { file: "tapline.conf", from, to };
    let holes: &[(&str, &[Edit])] = &[
        (
            "the client id in the patterns, and nothing that binds it",
            &[
                acl("pattern write tap/v1/%u/records", "pattern write tap/v1/%c/records"),
                conf("use_username_as_clientid true", "use_username_as_clientid false"),
            ],
        ),
        ("a missing line", &[acl("pattern read tap/v1/%u/command\n", "")]),
        ("another missing line", &[acl("pattern write tap/v1/%u/report\n", "")]),
        ("hellos of all", &[acl("write tap/v1/%u/hello", "write tap/v1/+/hello")]),
        ("wills of all", &[acl("write tap/v1/%u/gone", "write tap/v1/+/gone")]),
        ("rosters for all", &[acl("read tap/v1/%u/roster", "read tap/v1/+/roster")]),
        ("everything is heard", &[acl("read tap/v1/%u/receipt", "read #")]),
        ("the own receipt is said", &[acl("read tap/v1/%u/receipt", "readwrite tap/v1/%u/receipt")]),
        ("the own records are heard", &[acl("write tap/v1/%u/records", "readwrite tap/v1/%u/records")]),
        ("a level more", &[acl("tap/v1/%u/records", "tap/v1/%u/records/#")]),
        ("no rules", &[conf("acl_file /etc/mosquitto/tapline.acl\n", "")]),
        ("retained messages", &[conf("retain_available false", "retain_available true")]),
    ];
    for (hole, edits) in holes {
        let rig = Rig::with_planted(edits).await;
        let judged = judge(&rig, &IDS[..3]).await;
        assert!(!judged.wrong.is_empty(), "{hole}: not found in {} cells", judged.cells);
    }
}

async fn judge(rig: &Rig, ids: &[&str]) -> Judged {
    let mut judged = Judged::default();
    what_is_said(rig, ids, &mut judged).await;
    what_is_heard(rig, ids, &mut judged).await;
    what_is_to_stay(rig, ids, &mut judged).await;
    what_is_said_at_the_end(rig, ids, &mut judged).await;
    judged
}

/// Every controller on every topic in every quality of service, under another's client id, in both versions of MQTT.
async fn what_is_said(rig: &Rig, ids: &[&str], judged: &mut Judged) {
    let mut observer = rig.observer("observer").await;
    observer.subscribe(&["#", "$SYS/broker/uptime", "$other/#"]).await.unwrap();
    let topics = topics(ids);
    for (n, id) in ids.iter().enumerate() {
        let mut client = connected(rig, ids, n).await;
        for qos in [0, 1, 2] {
            let payloads: Vec<_> = topics.iter().map(|topic| format!("{id} says {topic}, {qos}")).collect();
            let publishes: Vec<_> = topics
                .iter()
                .zip(&payloads)
                .map(|(topic, payload)| Publish { topic, payload, qos, retain: false })
                .collect();
            publish(&mut client, &publishes).await;
            let came: BTreeSet<_> =
                observer.settle().await.unwrap().into_iter().map(|message| message.payload).collect();
            for (topic, payload) in topics.iter().zip(&payloads) {
                let own = SAID.map(|channel| format!("tap/v1/{id}/{}", channel.name()));
                judged.check(came.contains(payload) == own.contains(topic), || payload.clone());
            }
        }
    }
}

/// Every controller with every filter, while everything is said.
async fn what_is_heard(rig: &Rig, ids: &[&str], judged: &mut Judged) {
    let mut speaker = rig.observer("speaker").await;
    let topics = topics(ids);
    let mut clients = Vec::new();
    for n in 0..ids.len() {
        clients.push(connected(rig, ids, n).await);
    }
    let exact = ids.iter().flat_map(|id| Channel::ALL.map(|c| format!("tap/v1/{id}/{}", c.name())));
    let own = |id: &str| {
        [format!("tap/v1/{id}/#"), format!("tap/v1/{id}/+"), format!("$share/g/tap/v1/{id}/receipt")]
    };
    let wide = [
        "#",
        "+/#",
        "tap/#",
        "tap/v1/#",
        "tap/v1/+/#",
        "tap/v1/+/receipt",
        "tap/v1/+/roster",
        "tap/v1/+/+",
        "tap/+/+/command",
        "+/+/+/+",
        "tap/v1/%u/receipt",
        "$SYS/#",
        "$other/#",
        "$share/g/#",
        "$share/g/tap/v1/+/receipt",
        "$share/g/tap/v1/+/command",
    ];
    let filters: Vec<_> =
        exact.chain(ids.iter().flat_map(|id| own(id))).chain(wide.map(str::to_owned)).collect();
    for filter in &filters {
        for client in &mut clients {
            client.subscribe(&[filter]).await.unwrap();
        }
        say(&mut speaker, filter, &topics).await;
        for (client, id) in clients.iter_mut().zip(ids) {
            let heard = client.settle().await.unwrap();
            // The broker's own numbers would be somebody else's words, too.
            let heard: BTreeSet<_> = heard.into_iter().map(|message| message.topic).collect();
            let may = [Channel::Receipt, Channel::Roster, Channel::Command];
            let may = may.map(|channel| format!("tap/v1/{id}/{}", channel.name()));
            let right = match filter.strip_prefix("$share/g/") {
                // Each message goes to one of the group, who may not be allowed to hear it.
                Some(_) => heard.iter().all(|topic| may.contains(topic)),
                None => heard == may.into_iter().filter(|topic| matches(filter, topic)).collect(),
            };
            judged.check(right, || format!("{id} listens to {filter} and hears {heard:?}"));
            client.unsubscribe(&[filter]).await.unwrap();
        }
    }
}

/// Every controller that wants a message to stay, on its own topics and on its neighbour's: it neither goes out nor stays.
async fn what_is_to_stay(rig: &Rig, ids: &[&str], judged: &mut Judged) {
    let mut observer = rig.observer("observer").await;
    observer.subscribe(&["#"]).await.unwrap();
    for (n, id) in ids.iter().enumerate() {
        let neighbour = ids[(n + 1) % ids.len()];
        for topic in topics_of(&[id, neighbour]) {
            let mut client = connected(rig, ids, n).await;
            let payload = format!("{id} wants to stay on {topic}");
            let retained = [Publish { topic: &topic, payload: &payload, qos: 1, retain: true }];
            // It is disconnected, and the end of the connection is the end of the broker's work on it.
            let _ = client.publish(&retained).await;
            let came = observer.settle().await.unwrap();
            judged.check(came.is_empty(), || payload);
        }
    }
    let mut late = rig.observer("late").await;
    late.subscribe(&["#"]).await.unwrap();
    let stayed = late.settle().await.unwrap();
    judged.check(stayed.is_empty(), || format!("{} messages stayed", stayed.len()));
}

/// Every controller's last will, on its own topics and on its neighbour's.
async fn what_is_said_at_the_end(rig: &Rig, ids: &[&str], judged: &mut Judged) {
    let mut observer = rig.observer("observer").await;
    observer.subscribe(&["#"]).await.unwrap();
    for (n, id) in ids.iter().enumerate() {
        let neighbour = ids[(n + 1) % ids.len()];
        let identity = rig.pki.root.controller(id).unwrap();
        for (topic, retain) in topics_of(&[id, neighbour]).into_iter().zip([false, true].into_iter().cycle())
        {
            let payload = format!("{id} leaves {topic}");
            let will = Some(Will { topic: &topic, payload: &payload, retain });
            let mut client = rig.line(&identity).await;
            // Refusing is as good as keeping still.
            let accepted = client.connect(Connect { will, ..Connect::clean(neighbour) }).await.is_ok();
            // Another session of the same name ends this one without a goodbye.
            let next = rig.session(&identity, Connect::clean(id)).await;
            next.disconnect().await.unwrap();
            let said = observer.settle().await.unwrap().iter().any(|message| message.payload == payload);
            let own = SAID.iter().any(|channel| topic == format!("tap/v1/{id}/{}", channel.name()));
            judged.check(said == (own && !retain), || format!("{payload}, accepted: {accepted}"));
        }
    }
}

/// The nth controller, which says that it is its neighbour; every other one speaks MQTT 5.
async fn connected(rig: &Rig, ids: &[&str], n: usize) -> RawMqtt {
    let identity = rig.pki.root.controller(ids[n]).unwrap();
    let level = if n.is_multiple_of(2) { Level::V4 } else { Level::V5 };
    let neighbour = ids[(n + 1) % ids.len()];
    rig.session(&identity, Connect { level, ..Connect::clean(neighbour) }).await
}

async fn say(client: &mut RawMqtt, payload: &str, topics: &[String]) {
    let publishes: Vec<_> =
        topics.iter().map(|topic| Publish { topic, payload, qos: 1, retain: false }).collect();
    publish(client, &publishes).await;
}

/// In portions below what MQTT 5 lets a client have under way.
async fn publish(client: &mut RawMqtt, publishes: &[Publish<'_>]) {
    for portion in publishes.chunks(32) {
        client.publish(portion).await.unwrap();
    }
}

/// Every channel of every controller, and what only looks like one.
fn topics(ids: &[&str]) -> Vec<String> {
    let odd = ["tap/v1", "tap/v1//records", "tap/v1/%u/records", "tap/v1/%c/hello", "anything", "$other/x"];
    let near = |id: &&str| {
        [
            format!("tap/v1/{id}"),
            format!("tap/v1/{id}/"),
            format!("tap/v1/{id}/records/more"),
            format!("tap/v2/{id}/records"),
            format!("/tap/v1/{id}/records"),
            format!("TAP/v1/{id}/records"),
            format!("tap/v1/{id}/Hello"),
        ]
    };
    topics_of(ids).into_iter().chain(ids.iter().flat_map(near)).chain(odd.map(str::to_owned)).collect()
}

fn topics_of(ids: &[&str]) -> Vec<String> {
    ids.iter().flat_map(|id| Channel::ALL.map(|channel| format!("tap/v1/{id}/{}", channel.name()))).collect()
}

/// Whether a filter of MQTT covers a topic that does not begin with `$`.
fn matches(filter: &str, topic: &str) -> bool {
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}
