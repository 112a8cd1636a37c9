//! What comes over serial lines: rubbish, lines of numbers and Wiegand frames.

use std::path::Path;

use testbench::{
    rig::{PtyPair, wait_until},
    site::HEALS_WITHIN,
};

use crate::doorway::{Doorway, rdm6300};
#[tokio::test(flavor = "multi_thread")]
async fn rubbish_on_the_serial_line_is_counted_and_a_good_frame_goes_through() {
    let doorway = Doorway::build().await;
    let good = rdm6300([9, 9, 9, 9, 1]);
    let mut wrong_checksum = good.clone();
    wrong_checksum[12] ^= 1;
    let mut not_hex = good.clone();
    not_hex[3] = b'g';
    let mut long = good.clone();
    long.insert(5, b'0');
    let rubbish: Vec<(&str, Vec<u8>)> = vec![
        ("noise", vec![0x00; 40]),
        ("noise", vec![0xff; 3_000]),
        ("noise", b"hello, world\r\n".to_vec()),
        ("noise", vec![0x03]),
        ("noise", good[1..].to_vec()),
        ("cut_frame", [&good[..7], &good[..1]].concat()),
        ("cut_frame", [b"\x02\x02\x02".as_slice(), &good[..3], b"\x02"].concat()),
        ("bad_frame", not_hex),
        ("bad_frame", long),
        ("bad_frame", b"\x02\x03".to_vec()),
        ("bad_checksum", wrong_checksum),
        ("bad_checksum", b"\x0262E3086CEE08\x03".to_vec()),
        ("zero_number", rdm6300([0; 5])),
        ("noise", (0..=255).filter(|byte| *byte != 2).collect()),
    ];
    for (nth, (kind, bytes)) in rubbish.iter().enumerate() {
        let taps = doorway.reader("out").await.taps;
        let before = doorway.reader("out").await.rejected.get(*kind).copied().unwrap_or_default();
        doorway.serial.write(bytes).unwrap();
        // A good frame behind it ends every run of rubbish, so that it is counted.
        doorway.serial.write(&rdm6300([8, 8, 8, 8, nth as u8])).unwrap();
        doorway.has_rejected("out", kind, before + 1).await;
        doorway.has_recorded("out", taps + 1).await;
    }
}

/// A Wiegand converter, and a reader that prints a number a line.
fn readers_of_lines(pcsc: &str, port: &Path) -> String {
    format!(
        r#"[[reader]]
name = "in"
pcsc = {{ match = "{pcsc}" }}

[[reader]]
name = "out"
direction = "out"

[reader.serial]
port = "{}"
format = "wiegand"
wiegand = {{ lengths = [26, 34], digits = "binary" }}

[[reader]]
name = "side"

[reader.serial]
port = "{}"
format = "line"
line = {{ base = "decimal", digits = 10, technology = "em4100", bits = 32 }}
"#,
        port.display(),
        port.with_file_name("ttyLines").display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn wiegand_frames_and_lines_of_numbers_go_all_the_way() {
    let mut doorway = Doorway::build_with(readers_of_lines).await;
    let lines = PtyPair::plug_in(&doorway.serial.path().with_file_name("ttyLines")).unwrap();
    doorway.is_up("side").await;
    doorway.write_and_expect_tap(b"26:10001010100111110000100100\r\n").await;
    // The other way round it is published as read with D0 and D1 swapped.
    doorway.write_and_expect_tap(b"34:1011000101011010000110100001000111\r\n").await;
    lines.write(b"0040856634\r\n").unwrap();
    doorway.has_recorded("side", 1).await;

    doorway.serial.write(b"26:10001010100111110000100101\r\n4:1010\r\n26:1000\r\n").unwrap();
    for kind in ["bad_parity", "bad_bit_count", "bad_frame"] {
        doorway.has_rejected("out", kind, 1).await;
    }
    let swapped = "34:0100111010100101111001011110111000\r\n26:01110101011000001111011011\r\n";
    doorway.serial.write(swapped.repeat(3).as_bytes()).unwrap();
    doorway.has_rejected("out", "wires_swapped", 4).await;
    assert_eq!(doorway.reader("out").await.taps, 2, "nothing is repaired");
    lines.write(b"40856634\r\n9999999999\r\n").unwrap();
    doorway.has_rejected("side", "bad_frame", 1).await;
    doorway.has_rejected("side", "number_too_large", 1).await;

    let log = std::fs::read_to_string(doorway.site.dir().join("edge-agent.log")).unwrap();
    assert!(log.contains("the two data wires are swapped at the converter"), "{log}");
    let csv = doorway.site.dir().join("lines.csv");
    let badges = "badge,person\nwiegand:26:8A9F0900,W1\nwiegand:34:B15A1A11C0,W2\nem4100:026F6C3A,L1\n";
    std::fs::write(&csv, badges).unwrap();
    doorway.site.cloud_cli(&["badges", "import", &csv.display().to_string()]).unwrap();
    let logs = doorway.site.logs();
    let logs: Vec<_> = logs.iter().map(|log| log.as_path()).collect();
    wait_until("three taps to be delivered", HEALS_WITHIN, &logs, async || {
        doorway.site.cloud_ledger().await.is_ok_and(|ledger| ledger.in_state("delivered") == 3)
    })
    .await;
}
