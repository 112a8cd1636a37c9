//! What one client can make the broker keep or carry.

use testbench::rig::{Connect, Level, Publish};

use super::Rig;

const RECORDS: &str = "tap/v1/hq-door-1/records";

#[tokio::test]
async fn a_message_of_64_kib_is_carried_a_larger_one_is_dropped_and_a_larger_packet_ends_the_connection() {
    let rig = Rig::start().await;
    let mut observer = rig.observer("observer").await;
    observer.subscribe(&["#"]).await.unwrap();
    let mut client = rig.controller("hq-door-1").await;
    for (bytes, carried) in [(65_536, 1), (65_537, 0)] {
        let payload = "x".repeat(bytes);
        client
            .publish(&[Publish { topic: RECORDS, payload: &payload, qos: 1, retain: false }])
            .await
            .unwrap();
        assert_eq!(observer.settle().await.unwrap().len(), carried, "{bytes} bytes");
    }
    let payload = "x".repeat(68 * 1024);
    client
        .publish(&[Publish { topic: RECORDS, payload: &payload, qos: 1, retain: false }])
        .await
        .unwrap_err();
    rig.controller("hq-door-1").await.settle().await.unwrap();
}

#[tokio::test]
async fn for_one_who_is_away_a_thousand_messages_are_kept() {
    let rig = Rig::start().await;
    let identity = rig.pki.root.controller("hq-door-1").unwrap();
    let stays = Connect { clean_session: false, ..Connect::clean("hq-door-1") };
    let mut client = rig.session(&identity, stays).await;
    client.subscribe(&["tap/v1/hq-door-1/receipt"]).await.unwrap();
    client.disconnect().await.unwrap();
    let mut speaker = rig.observer("speaker").await;
    let receipt = Publish { topic: "tap/v1/hq-door-1/receipt", payload: "x", qos: 1, retain: false };
    for _ in 0..12 {
        speaker.publish(&[receipt; 100]).await.unwrap();
    }
    let mut client = rig.session(&identity, stays).await;
    let kept = client.settle().await.unwrap().len();
    assert_eq!(kept, 1_000);
}

/// Mosquitto 2.0.11 leaves those of MQTT 3.1.1 alone; what they can do is hold a connection, of which there are 900.
#[tokio::test]
async fn a_client_of_mqtt_5_is_told_to_show_itself_every_two_minutes() {
    let rig = Rig::start().await;
    let identity = rig.pki.root.controller("hq-door-1").unwrap();
    for (wanted, told) in [(30, None), (120, None), (121, Some(120)), (0, Some(120))] {
        let mut line = rig.line(&identity).await;
        let connect = Connect { keep_alive_s: wanted, level: Level::V5, ..Connect::clean("x") };
        assert_eq!(line.connect(connect).await.unwrap().keep_alive_s, told, "{wanted}");
    }
}
