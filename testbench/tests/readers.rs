//! Real readers: the real pcscd with virtual cards, serial ports on ptys, and everything that goes wrong with them.
//! Needs root, for pcscd's namespaces.

use std::{path::Path, process::Stdio, time::Duration};

use edge_agent::status::{ReaderStatus, Status};
use tap_protocol::hello::ReaderState;
use testbench::{
    oracle::check_promise,
    rig::{CardFeeder, Pcscd, PtyPair, VirtualReader, program_path, wait_for, wait_until},
    site::{HEALS_WITHIN, Site, SiteOptions, badge_uid},
    virtual_card::{HOLD, Tap, VirtualCard},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{ChildStdout, Command},
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
        Doorway::build_with(readers).await
    }

    /// With the `[[reader]]` tables that this makes of the first virtual reader's name and the serial port.
    async fn build_with(readers: fn(&str, &Path) -> String) -> Doorway {
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

    /// One of edge-agent's verbs, as somebody at this door would run it.
    fn cli(&self, verb: &[&str]) -> Command {
        let mut command = Command::new(program_path("edge-agent").unwrap());
        command.args(verb);
        command.args(["--config", &self.site.dir().join("edge-agent.toml").display().to_string()]);
        command.env("PCSCLITE_CSOCK_NAME", self.pcscd.socket_path()).kill_on_drop(true);
        command
    }

    async fn has_problem(&self, words: &str) {
        let problems = self.status().await.problems.join("\n");
        assert!(problems.contains(words), "{problems}");
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
    doorway.has_recorded("out", 1).await;
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
    doorway.pcscd.resume().unwrap();
    doorway.is_up("in").await;
    doorway.show(3).await;
}

/// Long enough for the waits between tries to reach their longest, 5 s, and to be seen several times.
const CPU_WINDOW: Duration = Duration::from_secs(20);

/// User and system time of edge-agent in a window of [`CPU_WINDOW`], in per cent.
async fn cpu_per_cent(doorway: &Doorway) -> f64 {
    let ticks = || {
        let pid = doorway.site.edge.as_ref().unwrap().pid().as_raw_nonzero();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks();
    // Not to wait for something, but because this window is what is measured.
    tokio::time::sleep(CPU_WINDOW).await;
    // A tick is 10 ms.
    (ticks() - before) as f64 * 10.0 / CPU_WINDOW.as_millis() as f64 * 100.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_and_an_absent_pcscd_cost_no_cpu_and_the_command_to_type_is_told() {
    tokio::join!(a_stopped_pcscd_costs_no_cpu(), an_absent_pcscd_costs_no_cpu());
}

async fn a_stopped_pcscd_costs_no_cpu() {
    let mut doorway = Doorway::build().await;
    doorway.pcscd.pause().unwrap();
    doorway.is("in", ReaderState::Down).await;
    let listed = async || doorway.cli(&["readers", "list"]).output().await.unwrap();
    let (per_cent, listed) = tokio::join!(cpu_per_cent(&doorway), listed());
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("pcscd has not answered for 5 s"), "{listed}");
    assert!(per_cent < 2.0, "{per_cent} % of a core");
    doorway.has_problem("systemctl restart pcscd.service").await;
    doorway.pcscd.resume().unwrap();
    doorway.is_up("in").await;
    doorway.show(1).await;
}

async fn an_absent_pcscd_costs_no_cpu() {
    let mut doorway = Doorway::build().await;
    doorway.pcscd.kill9().unwrap();
    doorway.is("in", ReaderState::Down).await;
    let per_cent = cpu_per_cent(&doorway).await;
    assert!(per_cent < 2.0, "{per_cent} % of a core");
    doorway.has_problem("systemctl start pcscd.socket").await;
    doorway.pcscd.restart().await.unwrap();
    doorway.is_up("in").await;
    doorway.show(1).await;
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

fn hex(digits: &str) -> Vec<u8> {
    data_encoding::HEXUPPER.decode(digits.replace(' ', "").as_bytes()).unwrap()
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
    doorway.has_rejected("in", "card_gone", 1).await;
    doorway.has_rejected("in", "too_quick", 1).await;
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
