//! What people are told, as the reader's light and buzzer hear it.

use std::path::Path;

use testbench::{
    rig::{CardFeeder, Pcscd, VirtualReader, program_path},
    site::badge_uid,
    virtual_card::{HOLD, Tap, VirtualCard},
};
use tokio::process::Command;

use crate::doorway::{Doorway, hex};
/// Two virtual readers that pass for models with a lamp, and a serial one.
fn readers_with_lamps(_: &str, port: &Path) -> String {
    format!(
        r#"[[reader]]
name = "in"
pcsc = {{ match = "{}", lamp = "acr122u" }}

[[reader]]
name = "side"
pcsc = {{ match = "{}", lamp = "acr1252u" }}

[[reader]]
name = "out"
serial = {{ port = "{}" }}
"#,
        VirtualReader::First.name(),
        VirtualReader::Second.name(),
        port.display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_are_told_reaches_the_readers_lamp_and_a_broken_one_stops_nothing() {
    let mut doorway = Doorway::build_with(readers_with_lamps).await;
    doorway.is_up("side").await;
    let mut side = CardFeeder::start(&doorway.pcscd, VirtualReader::Second, doorway.site.dir()).unwrap();
    let uid = hex(&badge_uid(1));
    // One that signals take turns with: light and sound of this reader, timed by itself.
    let shown = doorway.cards.tap(&uid, HOLD).await.unwrap();
    signals(&shown, "FF0040A", "0403000101");
    let phone = VirtualCard::with_uid(&[0x08, 0x24, 0xA9, 0x37]);
    signals(&doorway.cards.present(phone, HOLD).await.unwrap(), "FF00405", "0401010403");

    for (nth, answer) in [&[0x63, 0x00][..], &[], &[0xFF; 64]].into_iter().enumerate() {
        let card = VirtualCard::with_uid(&[4, 1, 2, 3, 4, 5, nth as u8]).with_lamp_answering(answer);
        signals(&doorway.cards.present(card, HOLD).await.unwrap(), "FF0040A", "0403000101");
        doorway.has_recorded("in", nth as u64 + 2).await;
    }

    // Without a card this driver lets no command through, so here no light is lit that could stay on: 300 ms of sound.
    for n in 1..=2 {
        let shown = side.tap(&hex(&badge_uid(n)), HOLD).await.unwrap();
        assert_eq!(shown.lamp_commands, ["E0000028011E"], "{shown:?}");
        doorway.has_recorded("side", n as u64).await;
    }
    let said = std::fs::read_to_string(doorway.site.dir().join("edge-agent.log")).unwrap();
    assert_eq!(said.matches("does not work").count(), 1, "said once, then counted: {said}");
    assert_eq!(said.matches("ifdDriverOptions").count(), 1, "said once, then counted: {said}");
    assert_eq!(doorway.reader("in").await.odd.get("lamp_failed"), Some(&3));
    assert!(doorway.reader("side").await.odd["lamp_not_allowed"] >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_service_and_every_signal_are_shown_without_a_card_where_the_driver_lets_commands_through() {
    let dir = tempfile::tempdir().unwrap();
    let pcscd = Pcscd::start_with_lamp(dir.path(), "ACS ACR122U").await.unwrap();
    let config = dir.path().join("edge-agent.toml");
    let text = r#"controller = "hq-door-1"
[broker]
url = "mqtt://127.0.0.1:1"
[keys]
record_key_file = "none"
token_key_file = "none"
receipt_public_key_file = "none"
[[reader]]
name = "in"
pcsc = { match = "ACR122U" }
"#;
    std::fs::write(&config, text).unwrap();
    let shown = Command::new(program_path("edge-agent").unwrap())
        .args(["readers", "test", "in", "--signals", "--config", &config.display().to_string()])
        .env("PCSCLITE_CSOCK_NAME", pcscd.socket_path())
        .output()
        .await
        .unwrap();
    assert!(shown.status.success(), "{shown:?}");
    let commands = pcscd.lamp_commands();
    let (red, dark, amber) = ("FF00400D0400000000", "FF00400C0400000000", "FF00400F0400000000");
    let out_of_service =
        commands.iter().take_while(|command| [red, dark].contains(&command.as_str())).count();
    assert!(out_of_service >= 4 && commands[..2] == [red, dark], "blinking, and red first: {commands:?}");
    let mut rest = commands[out_of_service..].to_vec();
    // *Please wait* goes on until the next.
    rest.dedup();
    let signals = [
        "FF0040AF0403000101",
        "FF0040AF0401010201",
        "FF0040FF0401010301",
        "FF00405F0401010403",
        "FF0040FF0402030100",
        "FF00405F0403010301",
    ];
    assert_eq!(rest, [&[amber][..], &signals, &[red]].concat(), "in service, six signals, the end");
}

/// The card saw this one command for its reader's lamp, but for the light afterwards.
#[track_caller]
fn signals(shown: &Tap, begins: &str, ends: &str) {
    let [command] = shown.lamp_commands.as_slice() else { panic!("not one signal: {shown:?}") };
    assert!(command.starts_with(begins) && command.ends_with(ends), "{command}");
}
