//! What the person at the door sees while the disk is slow or refuses: the real agent under strace's fault injection, a
//! serial reader on a pty, and the log as its lamp.

use std::time::Duration;

use edge_agent::status::{ReaderStatus, Status};
use tap_protocol::hello::ReaderState;
use testbench::{
    oracle::committed,
    rig::{PtyPair, SyscallFault, wait_until},
    site::{Site, SiteOptions},
};

/// Far longer than any commit here takes.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);

/// A controller with one serial reader, `out`.
struct Door {
    site: Site,
    serial: PtyPair,
    _dir: tempfile::TempDir,
}

impl Door {
    async fn build() -> Door {
        let dir = tempfile::tempdir().unwrap();
        let port = dir.path().join("ttyRDM6300");
        let serial = PtyPair::plug_in(&port).unwrap();
        let readers = format!(
            "[[reader]]\nname = \"out\"\ndirection = \"out\"\nserial = {{ port = \"{}\" }}\n",
            port.display()
        );
        let site =
            Site::start(SiteOptions { readers, verbose: true, unbound: true, ..SiteOptions::default() })
                .await
                .unwrap();
        let door = Door { site, serial, _dir: dir };
        door.becomes("up", |status| reader(status).state == ReaderState::Up).await;
        door
    }

    /// Makes system calls of the agent slow or fail.
    async fn meddle(&self, faults: &[&str]) -> SyscallFault {
        let agent = self.site.edge.as_ref().unwrap().pid();
        SyscallFault::attach(agent, faults, self.site.dir()).await.unwrap()
    }

    fn show(&self, card: u8) {
        let number = [1, 2, 3, 4, card];
        let checksum = number.iter().fold(0, |all, byte| all ^ byte);
        let digits: String = number.iter().chain([&checksum]).map(|byte| format!("{byte:02X}")).collect();
        self.serial.write(format!("\x02{digits}\x03").as_bytes()).unwrap();
    }

    async fn becomes(&self, what: &str, is_so: impl Fn(&Status) -> bool) {
        let log = self.site.dir().join("edge-agent.log");
        wait_until(what, SHOWN_WITHIN, &[&log], async || is_so(&self.site.edge_status().await.unwrap()))
            .await;
    }

    /// Everything that was shown at the reader so far.
    fn shown(&self) -> Vec<&'static str> {
        let log = std::fs::read_to_string(self.site.dir().join("edge-agent.log")).unwrap();
        let signals = ["recorded offline", "recorded", "out of service", "wait"];
        let at_the_door =
            log.lines().filter(|line| line.contains("signal: ") && line.contains(r#"reader="out""#));
        at_the_door.filter_map(|line| signals.into_iter().find(|signal| line.contains(signal))).collect()
    }

    /// What the standing light says.
    fn is_in_service(&self) -> bool {
        let log = std::fs::read_to_string(self.site.dir().join("edge-agent.log")).unwrap();
        let last =
            log.lines().rfind(|line| line.contains("standing light: ")).expect("it is shown from the start");
        last.contains("in service")
    }

    async fn shows(&self, expect: &[&str]) {
        let log = self.site.dir().join("edge-agent.log");
        wait_until(&format!("{expect:?}"), SHOWN_WITHIN, &[&log], async || self.shown() == expect).await;
    }
}

fn reader(status: &Status) -> &ReaderStatus {
    status.readers.iter().find(|reader| reader.reader.as_str() == "out").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_disk_shows_wait_and_green_only_to_who_is_still_there() {
    let door = Door::build().await;
    door.show(1);
    door.shows(&["recorded"]).await;

    let slow = door.meddle(&["fdatasync:delay_enter=900000"]).await;
    door.show(2);
    door.shows(&["recorded", "wait", "recorded"]).await;
    slow.end().await.unwrap();

    // The second person comes before the first one's commit: the light is the second one's.
    let slow = door.meddle(&["fdatasync:delay_enter=900000"]).await;
    door.show(3);
    door.becomes("the first of them is on its way", |status| reader(status).last_tap_age_ms > Some(50)).await;
    door.show(4);
    door.becomes("both are recorded", |status| reader(status).taps == 4).await;
    assert_eq!(door.site.edge_status().await.unwrap().counters.signals_withheld, 1);
    slow.end().await.unwrap();
    assert_eq!(door.shown().iter().filter(|shown| **shown == "recorded").count(), 3);

    // Too slow for anybody to wait: told to try again, and nothing turns green when the commit comes after all.
    let before = door.shown().len();
    let hanging = door.meddle(&["fdatasync:delay_enter=3000000"]).await;
    door.show(5);
    door.becomes("recorded at last", |status| reader(status).taps == 5).await;
    assert_eq!(door.shown()[before..], ["wait", "out of service"]);
    hanging.end().await.unwrap();
    assert_eq!(committed(&door.site).unwrap().taps.len(), 5, "shown or not, every tap counts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_refuses_is_told_at_the_reader_and_goes_on_by_itself() {
    for fault in ["fdatasync:error=ENOSPC", "fdatasync:error=EIO"] {
        let door = Door::build().await;
        door.show(1);
        door.shows(&["recorded"]).await;
        let refusing = door.meddle(&[fault]).await;
        door.show(2);
        door.shows(&["recorded", "out of service"]).await;
        let status = door.site.edge_status().await.unwrap();
        assert_eq!((status.counters.taps_refused, reader(&status).taps), (1, 1), "{fault}");
        assert!(status.problems.iter().any(|problem| problem.contains("cannot be recorded")), "{status:?}");
        assert!(!door.is_in_service(), "red before the next tap");
        refusing.end().await.unwrap();
        door.becomes("in service by itself", |status| status.problems.is_empty()).await;
        assert!(door.is_in_service());
        door.show(2);
        door.shows(&["recorded", "out of service", "recorded"]).await;
        assert_eq!(committed(&door.site).unwrap().taps.len(), 2, "what was refused is not there");
    }
}
