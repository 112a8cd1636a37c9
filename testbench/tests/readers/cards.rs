//! What cards say and do: every kind of number, rubbish, malformed answers to reset, and cards that nobody looked at.

use std::time::Duration;

use testbench::{
    oracle::check_promise,
    rig::{wait_for, wait_until},
    site::{HEALS_WITHIN, badge_uid},
    virtual_card::{HOLD, VirtualCard},
};

use crate::doorway::{Doorway, hex, id_12la, rdm6300};
#[tokio::test(flavor = "multi_thread")]
async fn cards_at_real_readers_go_all_the_way() {
    let mut doorway = Doorway::build().await;
    // Serial badges are unknown to the directory at first: told afterwards, they must not be lost.
    let numbers = [[0x62, 0xe3, 0x08, 0x6c, 0xed], [0x01, 0x00, 0x07, 0x34, 0xe0]];
    for n in 0..4 {
        doorway.show(n).await;
    }
    doorway.write_and_expect_tap(&rdm6300(numbers[0])).await;
    doorway.write_and_expect_tap(&id_12la(numbers[1])).await;
    let csv = doorway.site.dir().join("serial.csv");
    std::fs::write(&csv, "badge,person\n62E3086CED,S1\n01000734E0,S2\n").unwrap();
    doorway.site.cloud_cli(&["badges", "import", &csv.display().to_string()]).unwrap();
    let logs = doorway.site.logs();
    let logs: Vec<_> = logs.iter().map(|log| log.as_path()).collect();
    wait_until("six taps to be delivered", HEALS_WITHIN, &logs, async || {
        doorway.site.cloud_ledger().await.is_ok_and(|ledger| ledger.in_state("delivered") == 6)
    })
    .await;
    check_promise(&doorway.site, &[]).await.unwrap();
    let bodies: Vec<String> = doorway.site.legacy.report().processed.into_iter().map(|c| c.body).collect();
    assert!(
        bodies.iter().any(|body| body.contains(r#""person":"S1""#) && body.contains(r#""direction":"out""#))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_left_on_the_reader_is_one_tap() {
    let mut doorway = Doorway::build().await;
    let uid = data_encoding::HEXUPPER.decode(badge_uid(1).as_bytes()).unwrap();
    doorway.cards.tap(&uid, Duration::from_secs(6)).await.unwrap();
    doorway.show(2).await;
    assert_eq!(doorway.reader("in").await.taps, 2);
    let frame = rdm6300([1, 2, 3, 4, 5]);
    for _ in 0..20 {
        doorway.serial.write(&frame).unwrap();
    }
    doorway.has_recorded("out", 1).await;
    doorway.write_and_expect_tap(&rdm6300([1, 2, 3, 4, 6])).await;
    assert_eq!(doorway.reader("out").await.taps, 2);
    assert_eq!(doorway.status().await.counters.repeats, 19);
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_from_cards_is_counted_and_a_good_card_goes_through() {
    let mut doorway = Doorway::build().await;
    let uid = data_encoding::HEXUPPER.decode(badge_uid(1).as_bytes()).unwrap();
    let rubbish: [(&str, &[u8]); 13] = [
        ("status_word", &[0x6a, 0x81]),
        ("status_word", &[0x6e, 0x00]),
        ("status_word", &[0x69, 0x82]),
        ("status_word", &[0x04, 0xa1, 0xb2, 0xc3, 0x91, 0x00]),
        ("empty_uid", &[0x90, 0x00]),
        ("no_status_word", &[0x90]),
        ("bad_uid_length", &[0x01, 0x90, 0x00]),
        ("bad_uid_length", &[1, 2, 3, 0x90, 0x00]),
        ("bad_uid_length", &[1, 2, 3, 4, 5, 0x90, 0x00]),
        ("bad_uid_length", &[1, 2, 3, 4, 5, 6, 0x90, 0x00]),
        ("bad_uid_length", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 0x90, 0x00]),
        ("bad_uid_length", &[7; 64]),
        ("random_id", &[0x08, 0x24, 0xa9, 0x37, 0x90, 0x00]),
    ];
    for (nth, (kind, answer)) in rubbish.into_iter().enumerate() {
        // The last fixture but one has no success at its end, so it is judged by its status word.
        let kind = if answer == [7; 64] { "status_word" } else { kind };
        let before = doorway.reader("in").await.rejected.get(kind).copied().unwrap_or_default();
        let card = VirtualCard::with_uid(&uid).answering(answer);
        // Longer than the agent goes on asking a card that answers oddly.
        doorway
            .cards
            .present(card, 2 * HOLD)
            .await
            .unwrap_or_else(|error| panic!("fixture {nth}: {error:#}"));
        doorway.has_rejected("in", kind, before + 1).await;
    }
    assert_eq!(doorway.reader("in").await.taps, 0);
    doorway.show(1).await;
    let said = std::fs::read_to_string(doorway.site.dir().join("edge-agent.log")).unwrap();
    let complaints = said.lines().filter(|line| line.contains("no tap")).count();
    assert!(complaints <= 6, "once per kind and minute, not {complaints} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_every_length_are_taps_and_random_ones_are_not() {
    const CLASSIC: &str = "3B 8F 80 01 80 4F 0C A0 00 00 03 06 03 00 01 00 00 00 00 6A";
    const DESFIRE: &str = "3B 81 80 01 80 80";
    let mut doorway = Doorway::build().await;
    let badges = [
        ("E4 3B 67 77", CLASSIC),
        ("04 A2 24 B1 C2 D3 80", DESFIRE),
        ("E0 04 01 50 12 34 56 78", "3B 8F 80 01 80 4F 0C A0 00 00 03 06 0B 00 14 00 00 00 00 77"),
        ("04 11 22 33 44 55 66 77 88 99", CLASSIC),
        ("80 24 A9 37", CLASSIC),
    ];
    for (nth, (uid, atr)) in badges.into_iter().enumerate() {
        let card = VirtualCard::with_uid(&hex(uid)).with_atr(hex(atr));
        doorway.cards.present(card, HOLD).await.unwrap();
        doorway.has_recorded("in", nth as u64 + 1).await;
    }
    let phones = [("08 24 A9 37", CLASSIC), ("08 0D 35 23", DESFIRE), ("80 24 A9 37", DESFIRE)];
    for (nth, (uid, atr)) in phones.into_iter().enumerate() {
        let card = VirtualCard::with_uid(&hex(uid)).with_atr(hex(atr));
        doorway.cards.present(card, HOLD).await.unwrap();
        doorway.has_rejected("in", "random_id", nth as u64 + 1).await;
    }
    assert_eq!(doorway.reader("in").await.taps, badges.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn cards_with_malformed_answers_to_reset_are_taps() {
    let mut doorway = Doorway::build().await;
    // From the field: bytes too many, wrong checksums, bytes too few. The last three are nonsense.
    let atrs = [
        "3B 84 80 01 01 11 20 03 36 90 00",
        "3B 86 80 01 06 75 77 81 02 8F 00",
        "3B 87 80 01 77 43 32 53 01 00 01 53 77 43 32 53 01 00 01",
        "3B 88 80 01 00 00 00 00 77 83 95 00 00",
        "3B 8C 80 01 50 27 52 31 81 00 00 00 00 00 71 81",
        "3B 8E 80 01 80 31 80 66 B1 84 0C 01 6E 01 83 00 90 00 1C 02 14 50",
        "3B 8F 80 01 80 4F 0C A0 00 1A 00 00 00 00 78",
        "3B 8F",
        "00 00 00 00",
        "FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF",
    ];
    for (nth, atr) in atrs.into_iter().enumerate() {
        let uid = [0x04, 0xA2, 0x24, 0xB1, 0xC2, 0xD3, nth as u8];
        let card = VirtualCard::with_uid(&uid).with_atr(hex(atr));
        let shown = doorway.cards.present(card, HOLD).await.unwrap();
        assert!(shown.uid_was_read(), "{atr}: {shown:?}");
        doorway.has_recorded("in", nth as u64 + 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cards_that_come_and_go_while_nobody_looks_are_counted() {
    let mut doorway = Doorway::build().await;
    doorway.show(1).await;
    doorway.site.edge.as_mut().unwrap().pause().unwrap();
    // What woke the agent's wait is the first; the second is known from the event counter alone.
    for _ in 0..2 {
        let unread = VirtualCard::with_uid(&[4, 1, 2, 3, 4, 5, 6]).giving_up_after(HOLD);
        let shown = doorway.cards.present(unread, HOLD).await.unwrap();
        assert!(!shown.uid_was_read(), "{shown:?}");
    }
    doorway.site.edge.as_mut().unwrap().resume().unwrap();
    doorway.has_rejected("in", "too_quick", 1).await;
    // pcscd says of the one that was seen that it is gone, or, if it was asked just then, that the exchange failed.
    let log = doorway.site.dir().join("edge-agent.log");
    wait_for("two rejected at in", HEALS_WITHIN, &[&log], async || {
        (doorway.reader("in").await.rejected.values().sum::<u64>() == 2).then_some(())
    })
    .await;
    doorway.show(2).await;
    assert_eq!(doorway.reader("in").await.rejected.get("too_quick"), Some(&1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_number_right_after_its_card_left_is_told_and_never_refused() {
    let mut doorway = Doorway::build().await;
    let uid = hex(&badge_uid(1));
    for _ in 0..2 {
        doorway.cards.tap(&uid, HOLD).await.unwrap();
    }
    wait_until("the number to be suspicious", HEALS_WITHIN, &[], async || {
        doorway.reader("in").await.odd.get("same_number_again") == Some(&1)
    })
    .await;
    // Within the debounce time it is a repeat, as ever; a card of another number is a tap and no oddity.
    assert_eq!((doorway.reader("in").await.taps, doorway.status().await.counters.repeats), (1, 1));
    doorway.show(2).await;
    assert_eq!(doorway.reader("in").await.odd["same_number_again"], 1);
    let log = std::fs::read_to_string(doorway.site.dir().join("edge-agent.log")).unwrap();
    assert!(log.contains("the same number was read again") && !log.contains(&badge_uid(1)), "{log}");
}
