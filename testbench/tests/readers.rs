//! Real readers: the real pcscd with virtual cards, serial ports on ptys, and everything that goes wrong with them.
//! Needs root, for pcscd's namespaces.

use std::{path::Path, time::Duration};

use edge_agent::status::{ReaderStatus, Status};
use tap_protocol::hello::ReaderState;
use testbench::{
    oracle::check_promise,
    rig::{CardFeeder, Pcscd, PtyPair, VirtualReader, wait_for, wait_until},
    site::{HEALS_WITHIN, Site, SiteOptions, badge_uid},
    virtual_card::{HOLD, VirtualCard},
};

/// A controller with a PC/SC reader `in` and a serial reader `out`.
struct Doorway {
    site: Site,
    pcscd: Pcscd,
    cards: CardFeeder,
    serial: PtyPair,
    _dir: tempfile::TempDir,
}

impl Doorway {
    async fn build() -> Doorway {
        let dir = tempfile::tempdir().unwrap();
        let pcscd = Pcscd::start(dir.path()).await.unwrap();
        let cards = CardFeeder::start(&pcscd, VirtualReader::First, dir.path()).unwrap();
        let port = dir.path().join("ttyRDM6300");
        let serial = PtyPair::plug_in(&port).unwrap();
        let site = Site::start(SiteOptions {
            readers: readers(VirtualReader::First.name(), &port),
            edge_env: vec![("PCSCLITE_CSOCK_NAME".into(), pcscd.socket_path().display().to_string())],
            ..SiteOptions::default()
        })
        .await
        .unwrap();
        let doorway = Doorway { site, pcscd, cards, serial, _dir: dir };
        doorway.is_up("in").await;
        doorway.is_up("out").await;
        doorway
    }

    async fn status(&self) -> Status {
        self.site.edge_status().await.unwrap()
    }

    async fn reader(&self, name: &str) -> ReaderStatus {
        self.status().await.readers.into_iter().find(|reader| reader.reader.as_str() == name).unwrap()
    }

    async fn is_up(&self, name: &str) {
        self.is(name, ReaderState::Up).await;
    }

    async fn is(&self, name: &str, state: ReaderState) {
        let logs = self.site.logs();
        let logs: Vec<_> = logs.iter().map(|log| log.as_path()).collect();
        wait_until(&format!("reader {name} to be {state:?}"), HEALS_WITHIN, &logs, async || {
            self.reader(name).await.state == state
        })
        .await;
    }

    /// Holds badge `n` to the PC/SC reader until it was read, and waits until it is recorded.
    async fn show(&mut self, n: usize) {
        let before = self.reader("in").await.taps;
        let uid = data_encoding::HEXUPPER.decode(badge_uid(n).as_bytes()).unwrap();
        let shown = self.cards.tap(&uid, HOLD).await.unwrap();
        assert!(shown.uid_was_read(), "{shown:?}");
        self.has_recorded("in", before + 1).await;
    }

    async fn write_and_expect_tap(&mut self, frame: &[u8]) {
        let before = self.reader("out").await.taps;
        self.serial.write(frame).unwrap();
        self.has_recorded("out", before + 1).await;
    }

    async fn has_recorded(&self, name: &str, taps: u64) {
        wait_until(&format!("{taps} taps at {name}"), HEALS_WITHIN, &[], async || {
            self.reader(name).await.taps == taps
        })
        .await;
    }

    async fn has_rejected(&self, name: &str, kind: &str, count: u64) {
        let log = self.site.dir().join("edge-agent.log");
        wait_for(&format!("{count} × {kind} at {name}"), HEALS_WITHIN, &[&log], async || {
            (self.reader(name).await.rejected.get(kind).copied().unwrap_or_default() >= count).then_some(())
        })
        .await;
    }
}

fn readers(pcsc: &str, port: &Path) -> String {
    format!(
        r#"[[reader]]
name = "in"
direction = "in"
pcsc = {{ match = "{pcsc}" }}

[[reader]]
name = "out"
direction = "out"
serial = {{ port = "{}" }}
"#,
        port.display()
    )
}

/// STX, ten hexadecimal digits and their checksum, ETX: an RDM6300's frame. Published: `62E3086CED` has checksum 08.
fn rdm6300(number: [u8; 5]) -> Vec<u8> {
    let checksum = number.iter().fold(0, |all, byte| all ^ byte);
    let digits: String = number.iter().chain([&checksum]).map(|byte| format!("{byte:02X}")).collect();
    [b"\x02".as_slice(), digits.as_bytes(), b"\x03"].concat()
}

/// The same with CR LF before the ETX: an ID-12LA's frame.
fn id_12la(number: [u8; 5]) -> Vec<u8> {
    let mut frame = rdm6300(number);
    frame.pop();
    frame.extend(b"\r\n\x03");
    frame
}

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
    doorway.write_and_expect_tap(&rdm6300([1, 2, 3, 4, 6])).await;
    assert_eq!(doorway.reader("out").await.taps, 2);
    assert_eq!(doorway.status().await.counters.repeats, 19);
}

#[tokio::test(flavor = "multi_thread")]
async fn pcscd_killed_hanging_and_absent_is_survived() {
    let mut doorway = Doorway::build().await;
    doorway.show(1).await;

    doorway.pcscd.kill9().unwrap();
    doorway.is("in", ReaderState::Down).await;
    let problems = doorway.status().await.problems.join("\n");
    assert!(problems.contains("pcscd"), "{problems}");
    doorway.site.tap(5).await.expect("a dead reader keeps nobody else from tapping");
    doorway.pcscd.restart().await.unwrap();
    doorway.is_up("in").await;
    doorway.show(2).await;

    doorway.pcscd.pause().unwrap();
    doorway.is("in", ReaderState::Down).await;
    let busy = cpu_ticks(&doorway);
    let (window, within) = (Duration::from_secs(5), HEALS_WITHIN);
    let since = doorway.status().await.uptime_ms;
    wait_until("five seconds with a hanging pcscd", within, &[], async || {
        doorway.status().await.uptime_ms >= since + window.as_millis() as u64
    })
    .await;
    // Asking for its status every 20 ms is most of what it does here.
    let ticks = cpu_ticks(&doorway) - busy;
    assert!(ticks < 50, "{ticks} ticks of 10 ms in 5 s: a busy loop");
    doorway.pcscd.resume().unwrap();
    doorway.is_up("in").await;
    doorway.show(3).await;
}

/// User and system time of edge-agent so far, in ticks of 10 ms.
fn cpu_ticks(doorway: &Doorway) -> u64 {
    let pid = doorway.site.edge.as_ref().unwrap().pid().as_raw_nonzero();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
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

#[tokio::test(flavor = "multi_thread")]
async fn a_serial_port_that_went_away_is_opened_again() {
    let mut doorway = Doorway::build().await;
    doorway.write_and_expect_tap(&rdm6300([1, 1, 1, 1, 1])).await;
    doorway.serial.unplug().unwrap();
    doorway.is("out", ReaderState::Down).await;
    let problems = doorway.status().await.problems.join("\n");
    assert!(problems.contains("serial port"), "{problems}");
    doorway.serial.plug_in_again().unwrap();
    doorway.is_up("out").await;
    doorway.write_and_expect_tap(&rdm6300([1, 1, 1, 1, 2])).await;
}
