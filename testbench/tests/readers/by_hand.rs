//! `edge-agent readers`, as somebody at the door runs it.

use std::process::Stdio;

use testbench::{
    rig::VirtualReader,
    virtual_card::{HOLD, VirtualCard},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::ChildStdout,
};

use crate::doorway::{Doorway, hex, rdm6300};
#[tokio::test(flavor = "multi_thread")]
async fn readers_are_listed_and_tested_while_the_agent_reads_them() {
    let mut doorway = Doorway::build().await;
    doorway.show(1).await;
    let listed = doorway.cli(&["readers", "list", "--output", "json"]).output().await.unwrap();
    assert!(listed.status.success(), "{listed:?}");
    let listing: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let names = listing["pcsc"]["readers"].as_array().unwrap().iter().map(|reader| &reader["name"]);
    assert_eq!(names.collect::<Vec<_>>(), [VirtualReader::First.name(), VirtualReader::Second.name()]);
    let configured = &listing["configured"];
    assert_eq!(configured[0]["found"], VirtualReader::First.name());
    assert_eq!(configured[0]["agent"]["taps"], 1);
    assert_eq!(configured[1]["found"], doorway.serial.path().display().to_string());
    let listed = doorway.cli(&["readers", "list"]).output().await.unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    assert!(text.contains("in: PC/SC \"Virtual PCD 00 00\""), "{text}");
    assert!(text.contains("the agent reads it, 1 taps"), "{text}");

    let test = ["readers", "test", "in", "--cards", "1", "--output", "json"];
    let mut test = doorway.cli(&test).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(test.stdout.take().unwrap()).lines();
    says(&mut lines, "up").await;
    let phone = VirtualCard::with_uid(&[0x08, 0x24, 0xA9, 0x37]).with_atr(hex("3B 81 80 01 80 80"));
    doorway.cards.present(phone, HOLD).await.unwrap();
    let card = says(&mut lines, "card").await;
    assert_eq!(card["badge"], "hf:0824A937");
    assert!(card["not_a_badge"].as_str().unwrap().contains("random number"), "{card}");
    assert!(card["atr_meaning"].as_str().unwrap().contains("DESFire"), "{card}");
    assert!(card["interpretations"].to_string().contains(r#""decimal","value":"136620343""#), "{card}");
    assert!(test.wait().await.unwrap().success());
    // The agent read it at the same time.
    doorway.has_rejected("in", "random_id", 1).await;

    let held = doorway.cli(&["readers", "test", "out"]).output().await.unwrap();
    let said = String::from_utf8(held.stderr).unwrap();
    assert!(said.contains("the running agent holds the serial port"), "{said}");
    assert!(!held.status.success());
    doorway.write_and_expect_tap(&rdm6300([1, 2, 3, 4, 5])).await;

    // Without the agent the port is free.
    doorway.site.kill_edge().unwrap();
    let mut test =
        doorway.cli(&["readers", "test", "out", "--cards", "1"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(test.stdout.take().unwrap()).lines();
    let ready = lines.next_line().await.unwrap().unwrap();
    assert!(ready.starts_with("out: ready"), "{ready}");
    doorway.serial.write(b"rubbish").unwrap();
    doorway.serial.write(&rdm6300([0x01, 0x02, 0x6F, 0x6C, 0x3A])).unwrap();
    let mut said = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        said += &line;
    }
    for words in
        ["no number: noise on the line", "em4100:01026F6C3A (40 bits)", "00623,27706", "0004335823930"]
    {
        assert!(said.contains(words), "{words} is not in: {said}");
    }
    let logs: String = doorway.site.logs().iter().map(|log| std::fs::read_to_string(log).unwrap()).collect();
    assert!(!logs.contains("0824A937"), "a clear number is in a log");
}

/// The next event of this kind: pcscd may still be about to notice that the card before is gone.
async fn says(lines: &mut Lines<BufReader<ChildStdout>>, event: &str) -> serde_json::Value {
    loop {
        let line = lines.next_line().await.unwrap().unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        if said["event"] == event {
            return said;
        }
    }
}
