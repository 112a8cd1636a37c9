//! A controller is who its certificate says, whatever it says itself: no other's session can be ended, taken over or
//! left behind.

use testbench::rig::{Connect, Edit, Publish, Will};

use super::Rig;

const OWN: &str = "hq-door-1";
const OTHERS: &str = "hq-door-2";
const OTHERS_RECEIPT: &str = "tap/v1/hq-door-2/receipt";

#[tokio::test]
async fn another_controllers_session_lives_on_whatever_client_id_and_user_name_are_claimed() {
    assert!(others_session_survives(&Rig::start().await).await);
}

#[tokio::test]
async fn without_the_bound_client_id_the_session_would_be_taken() {
    let unbound = Edit {
        file: "tapline.conf",
        from: "use_username_as_clientid true",
        to: "use_username_as_clientid false",
    };
    assert!(!others_session_survives(&Rig::with_planted(&[unbound]).await).await);
}

async fn others_session_survives(rig: &Rig) -> bool {
    let mut other = rig.controller(OTHERS).await;
    other.subscribe(&[OTHERS_RECEIPT]).await.unwrap();
    let identity = rig.pki.root.controller(OWN).unwrap();
    let claims = Connect { user_name: Some(OTHERS), ..Connect::clean(OTHERS) };
    let mut thief = rig.session(&identity, claims).await;
    thief.subscribe(&["#"]).await.unwrap();
    let mut speaker = rig.observer("speaker").await;
    let receipt = Publish { topic: OTHERS_RECEIPT, payload: "receipt", qos: 1, retain: false };
    speaker.publish(&[receipt]).await.unwrap();
    assert_eq!(thief.settle().await.unwrap(), [], "nothing of the other is heard");
    other.settle().await.is_ok_and(|heard| heard.len() == 1)
}

/// MQTT ends the older session of a client id: a controller that connects twice is one controller.
#[tokio::test]
async fn a_second_session_of_a_controller_ends_its_first_whatever_they_call_themselves() {
    let rig = Rig::start().await;
    let identity = rig.pki.root.controller(OWN).unwrap();
    let mut first = rig.session(&identity, Connect::clean("one")).await;
    first.settle().await.unwrap();
    let mut second = rig.session(&identity, Connect::clean("two")).await;
    first.ended().await;
    second.settle().await.unwrap();
}

#[tokio::test]
async fn what_a_controller_leaves_behind_is_its_own() {
    let rig = Rig::start().await;
    let (own, other) = (rig.pki.root.controller(OWN).unwrap(), rig.pki.root.controller(OTHERS).unwrap());
    let stays = Connect { clean_session: false, ..Connect::clean(OTHERS) };
    let mut thief = rig.line(&own).await;
    assert!(!thief.connect(stays).await.unwrap().session_present);
    thief.subscribe(&[OTHERS_RECEIPT, "tap/v1/+/receipt", "tap/v1/hq-door-1/receipt"]).await.unwrap();
    thief.disconnect().await.unwrap();
    let mut speaker = rig.observer("speaker").await;
    let say = |topic| Publish { topic, payload: "receipt", qos: 1, retain: false };
    speaker.publish(&[say(OTHERS_RECEIPT), say("tap/v1/hq-door-1/receipt")]).await.unwrap();

    let mut other = rig.line(&other).await;
    assert!(!other.connect(stays).await.unwrap().session_present, "nobody made a session for it");
    assert_eq!(other.settle().await.unwrap(), []);
    let mut thief = rig.line(&own).await;
    assert!(
        thief.connect(stays).await.unwrap().session_present,
        "the session is there, under the name of the certificate"
    );
    let kept: Vec<_> = thief.settle().await.unwrap().into_iter().map(|message| message.topic).collect();
    assert!(!kept.is_empty() && kept.iter().all(|topic| topic == "tap/v1/hq-door-1/receipt"), "{kept:?}");
}

/// No root of ours would issue these; if one did, the patterns must not become wildcards.
#[tokio::test]
async fn a_name_with_a_wildcard_or_a_level_in_it_reaches_no_controllers_topics() {
    let rig = Rig::start().await;
    let mut observer = rig.observer("observer").await;
    observer.subscribe(&["tap/#"]).await.unwrap();
    let mut let_in = 0;
    for name in ["+", "#", "a/b", "hq-door-1/records", ""] {
        let identity = rig.pki.root.controller(name).unwrap();
        let will = Some(Will { topic: "tap/v1/hq-door-2/gone", payload: "gone", retain: false });
        let mut client = rig.line(&identity).await;
        if client.connect(Connect { will, ..Connect::clean(OTHERS) }).await.is_err() {
            continue;
        }
        let_in += 1;
        client.subscribe(&["#", OTHERS_RECEIPT]).await.unwrap();
        let say = |topic| Publish { topic, payload: "x", qos: 1, retain: false };
        let all = ["tap/v1/hq-door-2/records", "tap/v1/hq-door-1/records", "tap/v1/hq-door-1/records/hello"];
        client.publish(&all.map(say)).await.unwrap();
        rig.observer("speaker").await.publish(&[say(OTHERS_RECEIPT)]).await.unwrap();
        assert_eq!(client.settle().await.unwrap(), [], "{name:?} hears");
        drop(client);
        // Of the same name, so that the broker has dealt with the one before.
        let _ = rig.line(&identity).await.connect(Connect::clean(OTHERS)).await;
        let came = observer.settle().await.unwrap().into_iter().map(|message| message.topic);
        let said: Vec<_> = came
            .filter(|topic| topic != OTHERS_RECEIPT && topic.parse::<tap_protocol::topic::Topic>().is_ok())
            .collect();
        assert_eq!(said, [""; 0], "{name:?} says");
    }
    assert!(let_in > 0, "Mosquitto lets such names in, so it is the rules that hold");
}
