//! The controller that these tests stand in front of; it does not know what they try.

use std::path::Path;

use edge_agent::status::{ReaderStatus, Status};
use tap_protocol::hello::ReaderState;
use testbench::{
    rig::{CardFeeder, Pcscd, PtyPair, VirtualReader, program_path, wait_for, wait_until},
    site::{HEALS_WITHIN, Site, SiteOptions, badge_uid},
    virtual_card::HOLD,
};
use tokio::process::Command;
/// A controller with a PC/SC reader `in` and a serial reader `out`.
pub struct Doorway {
    pub site: Site,
    pub pcscd: Pcscd,
    pub cards: CardFeeder,
    pub serial: PtyPair,
    _dir: tempfile::TempDir,
}

impl Doorway {
    pub async fn build() -> Doorway {
        let doorway = Doorway::build_with(readers).await;
        doorway.site.bind_badges().unwrap();
        doorway
    }

    /// Nobody has a badge; with the `[[reader]]` tables that this makes of the first virtual reader's name and the serial port.
    pub async fn build_with(readers: fn(&str, &Path) -> String) -> Doorway {
        let dir = tempfile::tempdir().unwrap();
        let pcscd = Pcscd::start(dir.path()).await.unwrap();
        let cards = CardFeeder::start(&pcscd, VirtualReader::First, dir.path()).unwrap();
        let port = dir.path().join("ttyRDM6300");
        let serial = PtyPair::plug_in(&port).unwrap();
        let site = Site::start(SiteOptions {
            readers: readers(VirtualReader::First.name(), &port),
            edge_env: vec![("PCSCLITE_CSOCK_NAME".into(), pcscd.socket_path().display().to_string())],
            // Without a roster every card gets the green light, whatever it is.
            unbound: true,
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
    pub fn cli(&self, verb: &[&str]) -> Command {
        let mut command = Command::new(program_path("edge-agent").unwrap());
        command.args(verb);
        command.args(["--config", &self.site.dir().join("edge-agent.toml").display().to_string()]);
        command.env("PCSCLITE_CSOCK_NAME", self.pcscd.socket_path()).kill_on_drop(true);
        command
    }

    pub async fn has_problem(&self, words: &str) {
        let problems = self.status().await.problems.join("\n");
        assert!(problems.contains(words), "{problems}");
    }

    pub async fn status(&self) -> Status {
        self.site.edge_status().await.unwrap_or_else(|error| {
            let log = std::fs::read_to_string(self.site.dir().join("edge-agent.log")).unwrap_or_default();
            panic!("the agent does not answer: {error:#}\n{log}")
        })
    }

    pub async fn reader(&self, name: &str) -> ReaderStatus {
        self.status().await.readers.into_iter().find(|reader| reader.reader.as_str() == name).unwrap()
    }

    pub async fn is_up(&self, name: &str) {
        self.is(name, ReaderState::Up).await;
    }

    pub async fn is(&self, name: &str, state: ReaderState) {
        let logs = self.site.logs();
        let logs: Vec<_> = logs.iter().map(|log| log.as_path()).collect();
        wait_until(&format!("reader {name} to be {state:?}"), HEALS_WITHIN, &logs, async || {
            self.reader(name).await.state == state
        })
        .await;
    }

    /// Holds badge `n` to the PC/SC reader until it was read, and waits until it is recorded.
    pub async fn show(&mut self, n: usize) {
        let before = self.reader("in").await.taps;
        let uid = data_encoding::HEXUPPER.decode(badge_uid(n).as_bytes()).unwrap();
        let shown = self.cards.tap(&uid, HOLD).await.unwrap();
        assert!(shown.uid_was_read(), "{shown:?}");
        self.has_recorded("in", before + 1).await;
    }

    pub async fn write_and_expect_tap(&mut self, frame: &[u8]) {
        let before = self.reader("out").await.taps;
        self.serial.write(frame).unwrap();
        self.has_recorded("out", before + 1).await;
    }

    pub async fn has_recorded(&self, name: &str, taps: u64) {
        wait_until(&format!("{taps} taps at {name}"), HEALS_WITHIN, &[], async || {
            self.reader(name).await.taps == taps
        })
        .await;
    }

    pub async fn has_rejected(&self, name: &str, kind: &str, count: u64) {
        let log = self.site.dir().join("edge-agent.log");
        wait_for(&format!("{count} × {kind} at {name}"), HEALS_WITHIN, &[&log], async || {
            (self.reader(name).await.rejected.get(kind).copied().unwrap_or_default() >= count).then_some(())
        })
        .await;
    }
}

pub fn readers(pcsc: &str, port: &Path) -> String {
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
pub fn rdm6300(number: [u8; 5]) -> Vec<u8> {
    let checksum = number.iter().fold(0, |all, byte| all ^ byte);
    let digits: String = number.iter().chain([&checksum]).map(|byte| format!("{byte:02X}")).collect();
    [b"\x02".as_slice(), digits.as_bytes(), b"\x03"].concat()
}

/// The same with CR LF before the ETX: an ID-12LA's frame.
pub fn id_12la(number: [u8; 5]) -> Vec<u8> {
    let mut frame = rdm6300(number);
    frame.pop();
    frame.extend(b"\r\n\x03");
    frame
}

pub fn hex(digits: &str) -> Vec<u8> {
    data_encoding::HEXUPPER.decode(digits.replace(' ', "").as_bytes()).unwrap()
}
