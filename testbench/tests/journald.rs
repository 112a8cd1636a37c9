//! Logging under systemd: to journald's own socket with fields, and never in a tap's way. The socket is a stand-in in a
//! mount namespace of the agent's own, because a machine's journald cannot be made to stall in a test. Needs root.

use std::{collections::BTreeMap, os::unix::net::UnixDatagram, process::Command, time::Duration};

use testbench::{
    rig::{program_path, wait_until},
    site::{HEALS_WITHIN, Site, SiteOptions},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_gets_fields_and_a_stalled_journal_stops_no_tap() {
    let mut site = Site::start(SiteOptions::default()).await.unwrap();
    site.kill_edge().unwrap();
    let folder = site.dir().join("journal");
    std::fs::create_dir(&folder).unwrap();
    let journal = UnixDatagram::bind(folder.join("socket")).unwrap();
    journal.set_read_timeout(Some(Duration::from_secs(20))).unwrap();

    let inside = format!(
        "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && mount --bind {} /run/systemd/journal && exec {} run --verbose --config {}",
        folder.display(),
        program_path("edge-agent").unwrap().display(),
        site.dir().join("edge-agent.toml").display(),
    );
    let mut agent = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c", &inside])
        .env("JOURNAL_STREAM", "8:1")
        .spawn()
        .unwrap();
    wait_until("the agent to answer", HEALS_WITHIN, &[], async || site.edge_status().await.is_ok()).await;

    let entry = receive(&journal, "is ready as");
    assert_eq!(entry["SYSLOG_IDENTIFIER"], "edge-agent");
    assert_eq!(entry["PRIORITY"], "5", "a notice");
    let outbox = receive(&journal, "writing to this outbox");
    assert!(outbox["F_OUTBOX"].len() == 32 && outbox["F_SEQ"] == "3", "fields can be searched: {outbox:?}");

    // Nobody reads any more: the socket fills up, and whoever writes to it stands still.
    let before = site.edge_status().await.unwrap().counters;
    for n in 0..3_000 {
        site.tap(n % 20).await.expect("a stalled journal stops no tap");
    }
    let after = site.edge_status().await.unwrap().counters;
    assert_eq!(after.taps_recorded, before.taps_recorded + 3_000);
    assert!(after.log_lines_dropped > before.log_lines_dropped, "lines were dropped, and counted");
    agent.kill().unwrap();
    agent.wait().unwrap();
}

/// The fields of the next entry whose message contains `text`.
fn receive(journal: &UnixDatagram, text: &str) -> BTreeMap<String, String> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length =
            journal.recv(&mut buffer).unwrap_or_else(|error| panic!("no entry with {text:?}: {error}"));
        let fields = fields(&buffer[..length]);
        if fields.get("MESSAGE").is_some_and(|message| message.contains(text)) {
            return fields;
        }
    }
}

/// Journald's native protocol: `NAME=value` and a newline, or `NAME`, a newline, 8 bytes of length (little-endian), the
/// value and a newline (systemd's JOURNAL_NATIVE_PROTOCOL).
fn fields(mut entry: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while let Some(end) = entry.iter().position(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(&entry[..end]).into_owned();
        entry = &entry[end + 1..];
        if let Some((name, value)) = line.split_once('=') {
            fields.insert(name.to_owned(), value.to_owned());
        } else {
            let (length, rest) = entry.split_first_chunk().expect("a length follows");
            let length = u64::from_le_bytes(*length) as usize;
            fields.insert(line, String::from_utf8_lossy(&rest[..length]).into_owned());
            entry = &rest[length + 1..];
        }
    }
    fields
}
