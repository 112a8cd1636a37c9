//! The outbox as people meet it: a page of the SD card that went bad, a disk that is really full, a folder in memory, and
//! the verbs beside a running agent. Real taps, real processes, the whole chain. Mounting needs root.

use std::{
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use testbench::{
    rig::{program_path, wait_until},
    site::{HEALS_WITHIN, Site, SiteOptions},
};

/// Stops the agent in good order, so that its log is in its file.
async fn stop(site: &mut Site) {
    let mut edge = site.edge.take().expect("edge-agent runs");
    edge.terminate(Duration::from_secs(15)).await.unwrap();
}

async fn drained(site: &Site) {
    wait_until("everything to have a receipt", HEALS_WITHIN, &[], async || {
        site.edge_status().await.is_ok_and(|status| status.pending == 0 && status.outboxes.len() > 1)
    })
    .await;
}

/// Overwrites a page in the middle of the file.
fn spoil(file: &Path) -> u64 {
    let pages = std::fs::metadata(file).unwrap().len() / 1024;
    let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
    file.write_all_at(&[0xa5; 1024], pages / 2 * 1024).unwrap();
    pages / 2
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_page_costs_its_own_taps_is_told_and_stops_nobody() {
    let mut site = Site::start(SiteOptions::default()).await.unwrap();
    site.uplink.cut().await.unwrap();
    for n in 0..600 {
        site.tap(n % 20).await.unwrap();
    }
    stop(&mut site).await;
    let file = site.outbox_files().unwrap().pop().unwrap();
    spoil(&file);

    tokio::time::timeout(Duration::from_secs(2), async {
        site.start_edge().await.unwrap();
        site.tap(1).await.unwrap();
    })
    .await
    .expect("taps are accepted within two seconds");

    site.uplink.restore().await.unwrap();
    drained(&site).await;
    for n in 0..20 {
        site.tap(n).await.unwrap();
    }
    drained(&site).await;

    let status = site.edge_status().await.unwrap();
    assert!(status.problems.iter().any(|problem| problem.contains("cannot be read any more")), "{status:?}");
    let listed = site.edge_cli(&["outbox", "list", "--output", "json"]).unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let states: Vec<&str> =
        listed.as_array().unwrap().iter().map(|one| one["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["set_aside", "mended", "whole"]);
    assert!(!file.exists(), "it was renamed");

    // The books: what is in the store and what is told as lost is what was accepted.
    let lost = lost_taps(&site);
    let ledger = site.cloud_ledger().await.unwrap();
    assert_eq!(ledger.taps + lost, 621);
    assert!((1..20).contains(&lost), "{lost} taps on one page of 1 KiB");
}

/// Records at whose number the store has a tombstone.
fn lost_taps(site: &Site) -> u64 {
    let store =
        rusqlite::Connection::open_with_flags(site.store_path(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)
            .unwrap();
    let mut bytes = store.prepare("SELECT bytes FROM events").unwrap();
    let bytes = bytes.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap();
    let is_tombstone = |bytes: &Vec<u8>| {
        matches!(
            tap_protocol::record::Record::decode(bytes),
            Ok(tap_protocol::record::Record { at, body: tap_protocol::record::Body::Lost { .. } }) if at.boot == 0
        )
    };
    bytes.map(Result::unwrap).filter(is_tombstone).count() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_page_of_what_the_cloud_has_loses_nothing() {
    let mut site = Site::start(SiteOptions::default()).await.unwrap();
    for n in 0..600 {
        site.tap(n % 20).await.unwrap();
    }
    wait_until("everything to have a receipt", HEALS_WITHIN, &[], async || {
        site.edge_status().await.is_ok_and(|status| status.pending == 0)
    })
    .await;
    stop(&mut site).await;
    spoil(&site.outbox_files().unwrap().pop().unwrap());
    let verified = site.edge_cli(&["outbox", "verify"]).unwrap();
    assert!(!verified.status.success());
    assert!(String::from_utf8_lossy(&verified.stdout).contains("is damaged"), "{verified:?}");
    // Nothing sends what is long receipted, but the check that goes around reads it.
    site.start_edge().await.unwrap();
    site.tap(3).await.unwrap();
    wait_until("the damage to be found", HEALS_WITHIN, &[], async || {
        site.edge_status().await.is_ok_and(|status| status.outboxes.len() == 2 && status.pending == 0)
    })
    .await;
    let status = site.edge_status().await.unwrap();
    assert!(!status.problems.iter().any(|problem| problem.contains("are lost")), "{status:?}");
    assert_eq!(lost_taps(&site), 0);
}

/// An agent whose outboxes are on a file system of 8 MB of its own.
struct SmallDisk {
    agent: Child,
    folder: PathBuf,
}

impl SmallDisk {
    async fn start(site: &mut Site) -> SmallDisk {
        stop(site).await;
        let state = site.dir().join("state");
        let inside = format!(
            "mount -t tmpfs -o size=8m none {} && exec {} run --config {} 2>>{}",
            state.display(),
            program_path("edge-agent").unwrap().display(),
            site.dir().join("edge-agent.toml").display(),
            site.dir().join("edge-agent.log").display(),
        );
        let agent = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c", &inside])
            .spawn()
            .unwrap();
        let folder = PathBuf::from(format!("/proc/{}/root{}", agent.id(), state.display()));
        wait_until("the agent to answer", HEALS_WITHIN, &[], async || site.edge_status().await.is_ok()).await;
        SmallDisk { agent, folder }
    }

    /// Fills it to the last byte, as a log does that nobody rotates.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.folder.join("filler")).unwrap();
        let mut piece = vec![0; 64 * 1024];
        while !piece.is_empty() {
            if file.write_all(&piece).is_err() {
                piece.truncate(piece.len() / 2);
            }
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.folder.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

fn on_a_small_disk() -> SiteOptions {
    let outbox = "[outbox]\nallow_volatile = true\nmin_free_bytes = 262144\n";
    SiteOptions { readers: outbox.into(), ..SiteOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_taps_says_so_and_comes_round_by_itself() {
    let mut site = Site::start(on_a_small_disk()).await.unwrap();
    site.uplink.cut().await.unwrap();
    let disk = SmallDisk::start(&mut site).await;
    let mut green = 0;
    for n in 0..50 {
        site.tap(n % 20).await.unwrap();
        green += 1;
    }
    disk.fill();
    let mut refusal = None;
    for n in 0..5_000 {
        match site.tap(n % 20).await {
            Ok(_) => green += 1,
            Err(error) => {
                refusal = Some(error.to_string());
                break;
            }
        }
    }
    let refusal = refusal.expect("a full disk takes no more");
    assert!(refusal.contains("the outbox is full"), "{refusal}");
    let status = site.edge_status().await.unwrap();
    assert!(status.problems.iter().any(|problem| problem.contains("full")), "{status:?}");

    disk.make_room();
    site.tap(5).await.expect("there is room again");
    green += 1;
    site.uplink.restore().await.unwrap();
    wait_until("everything to be stored", HEALS_WITHIN, &[], async || {
        site.cloud_ledger().await.is_ok_and(|ledger| ledger.taps == green)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_history_makes_room_for_taps() {
    let mut site = Site::start(on_a_small_disk()).await.unwrap();
    let disk = SmallDisk::start(&mut site).await;
    for n in 0..4_000 {
        site.tap(n % 20).await.unwrap();
    }
    wait_until("everything to have a receipt", HEALS_WITHIN, &[], async || {
        site.edge_status().await.is_ok_and(|status| status.pending == 0)
    })
    .await;
    disk.fill();
    for n in 0..2_000 {
        site.tap(n % 20).await.expect("history goes first");
    }
    let status = site.edge_status().await.unwrap();
    assert!(status.outboxes.last().unwrap().pruned_through > 0, "{status:?}");
    wait_until("everything to be stored", HEALS_WITHIN, &[], async || {
        site.cloud_ledger().await.is_ok_and(|ledger| ledger.taps == 6_000)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outboxes_in_memory_are_refused_by_name_and_the_agent_says_so() {
    let mut site = Site::start(SiteOptions::default()).await.unwrap();
    let disk = SmallDisk::start(&mut site).await;
    let refusal = site.tap(1).await.unwrap_err().to_string();
    assert!(refusal.contains("is a tmpfs: it is in memory, and gone with the power"), "{refusal}");
    let status = site.edge_status().await.unwrap();
    assert!(status.problems.iter().any(|problem| problem.contains("tmpfs")), "{status:?}");
    assert!(
        !disk
            .folder
            .join("outbox")
            .read_dir()
            .unwrap()
            .any(|file| { file.unwrap().path().extension().is_some_and(|extension| extension == "outbox") })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verbs_work_beside_a_running_agent_and_those_that_write_refuse_to() {
    let mut site = Site::start(SiteOptions::default()).await.unwrap();
    site.uplink.cut().await.unwrap();
    for n in 0..300 {
        site.tap(n % 20).await.unwrap();
    }
    let verified = site.edge_cli(&["outbox", "verify"]).unwrap();
    assert!(verified.status.success(), "{verified:?}");
    let to = site.dir().join("stick.export");
    let exported = site.edge_cli(&["outbox", "export", "--to", &to.display().to_string()]).unwrap();
    assert!(exported.status.success(), "{exported:?}");
    let bytes = std::fs::read(&to).unwrap();
    let records: usize = edge_agent::outbox::export::messages(&bytes)
        .map(|message| tap_protocol::envelope::UnverifiedBatch::parse(message.unwrap()).unwrap())
        .map(|batch| {
            let key = std::fs::read_to_string(site.dir().join("keys/record.pub")).unwrap();
            let key = data_encoding::HEXLOWER.decode(key.trim().as_bytes()).unwrap();
            let key = tap_protocol::keys::PublicKey(key.try_into().unwrap());
            batch.verify(&site.controller(), &key).unwrap().records().count()
        })
        .sum();
    let pending = site.edge_status().await.unwrap().pending;
    assert!(records as u64 >= pending && pending >= 300, "{records} of {pending}: marks are lazy");

    let refused = site.edge_cli(&["outbox", "prune", "--yes"]).unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("stop it first"));

    site.uplink.restore().await.unwrap();
    wait_until("everything to have a receipt", HEALS_WITHIN, &[], async || {
        site.edge_status().await.is_ok_and(|status| status.pending == 0)
    })
    .await;
    stop(&mut site).await;
    let pruned = site.edge_cli(&["outbox", "prune", "--yes", "--output", "json"]).unwrap();
    let pruned: serde_json::Value = serde_json::from_slice(&pruned.stdout).unwrap();
    assert!(pruned["records"].as_u64().unwrap() >= 300, "{pruned}");
    site.start_edge().await.unwrap();
    site.tap(1).await.unwrap();
}
