//! After an outage: 100,000 buffered taps through Mosquitto, admitted, verified and stored; beside a bare batched insert
//! of the same rows, and beside a plain Mosquitto bridge that moves as many messages. And the same over TLS.

use std::{hint::black_box, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use edge_agent::outbox::{
    Outbox,
    medium::Disk,
    shelf::{Owner, Shelf},
};
use tap_protocol::{
    badge::{TokenKey, TokenKeyId},
    ids::{BootId, OutboxId},
    keys::SigningKey,
    record::{Body, ClockState, PreviousStop, Record, Stamp},
    tap::{Direction, Tap, Verdict},
};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use super::{Figure, Goal, bare, load::cpu_seconds, median};
use crate::{
    rig::{Mosquitto, MosquittoOptions, Running, wait_until},
    site::{BADGES, CONTROLLER, Site, SiteOptions, badge_uid},
    stopwatch::Stopwatch,
};

/// The backlog of a door with 2,000 taps a day after seven weeks offline.
pub(super) const BACKLOG: u64 = 100_000;

/// Records in one commit of the bare insert.
const COMMIT_RECORDS: usize = 1_000;

const ROUNDS: usize = 3;

/// The bridge's backlog comes in portions: with more than 65,535 messages waiting Mosquitto 2.0 drops the publisher.
const BRIDGE_PORTIONS: u64 = 4;
const PATIENCE: Duration = Duration::from_secs(300);

/// A tap's share of a TCP stream in a backlog, at most.
const BYTES_A_TAP: f64 = 64.0;

/// What the proof of who said it may cost.
const MOST_SIGNATURES_PERCENT: f64 = 10.0;

/// A receipt with its signature, roughly.
const RECEIPT_BYTES: usize = 256;

const SIGNATURES: usize = 501;

pub(super) async fn measure() -> anyhow::Result<Vec<Figure>> {
    let (mut clear, mut secured) = (Vec::new(), Vec::new());
    let (mut inserted, mut bridged) = (Vec::new(), Vec::new());
    let mut live = 0.0;
    for round in 1..=ROUNDS {
        eprintln!("  round {round} of {ROUNDS}");
        let mut site = site_with_backlog(BACKLOG).await?;
        clear.push(drain(&site).await?);
        live = one_live_tap(&site).await?;
        // Stopped, so that its rows are all in the file and nobody else uses the disk.
        site.cloud.take().context("cloud-ingest runs")?.terminate(Duration::from_secs(30)).await?;
        let bare = site.dir().join("bare.sqlite");
        inserted.push(bare::into_sqlite(&site.store_path(), &bare, COMMIT_RECORDS)?);
        bridged.push(bridge(&site.dir().join("bridge")).await?);
        drop(site);
        let site = backlog_at(SiteOptions { tls: true, ..SiteOptions::default() }, BACKLOG).await?;
        secured.push(drain(&site).await?);
    }
    let of = |drains: &[Drained], what: fn(&Drained) -> f64| median(drains.iter().map(what));
    let (in_clear, over_tls) = (of(&clear, |d| d.taps_per_s), of(&secured, |d| d.taps_per_s));
    let inserted = median(inserted);
    Ok(vec![
        Figure::new("drain of 100,000 buffered taps", in_clear, "taps/s")
            .beside("bare insert of the same rows", inserted)
            .goal(Goal::RatioAtLeast(0.25)),
        Figure::new("drain of 100,000 buffered taps, mark", in_clear, "taps/s")
            .beside("Mosquitto bridge, stored nowhere", median(bridged))
            .goal(Goal::ValueAtLeast(20_000.0)),
        Figure::new("drain over TLS, both sides by certificate", over_tls, "taps/s")
            .beside("bare insert of the same rows", inserted)
            .goal(Goal::RatioAtLeast(0.25)),
        Figure::new("drain over TLS, mark", over_tls, "taps/s")
            .beside("in clear", in_clear)
            .goal(Goal::ValueAtLeast(20_000.0)),
        Figure::new("CPU of both sides for a drain over TLS", of(&secured, |d| d.cpu_s), "s")
            .beside("in clear", of(&clear, |d| d.cpu_s)),
        Figure::new("signing and verifying, of that CPU", of(&secured, Drained::signatures_percent), "%")
            .goal(Goal::ValueAtMost(MOST_SIGNATURES_PERCENT)),
        Figure::new("TCP payload a tap in a backlog", of(&clear, |d| d.bytes_a_tap), "B")
            .goal(Goal::ValueAtMost(BYTES_A_TAP)),
        Figure::new("TCP payload a tap in a backlog, over TLS", of(&secured, |d| d.bytes_a_tap), "B"),
        Figure::new("TCP payload of a single live tap", live, "B"),
    ])
}

/// One drain, from the restored network to the last tap in the store.
struct Drained {
    taps_per_s: f64,
    bytes_a_tap: f64,
    /// User and system time of edge-agent and cloud-ingest, without the broker's: the share is larger so.
    cpu_s: f64,
    /// Signatures made and checked meanwhile, by what one takes here and now.
    signatures_s: f64,
}

impl Drained {
    fn signatures_percent(&self) -> f64 {
        100.0 * self.signatures_s / self.cpu_s
    }
}

async fn drain(site: &Site) -> anyhow::Result<Drained> {
    let pids = [&site.edge, &site.cloud].map(|side| side.as_ref().map(Running::pid));
    let cpu = || {
        pids.iter().try_fold(0.0, |sum, pid| anyhow::Ok(sum + cpu_seconds(pid.context("both sides run")?)?))
    };
    let (cpu_before, sent_before) = (cpu()?, site.uplink.stats().up_bytes);
    let counted_before = site.edge_status().await?.counters;
    let taken = Stopwatch::start();
    site.uplink.restore().await?;
    wait_until("the backlog to be stored", PATIENCE, &[], async || {
        site.cloud_ledger().await.is_ok_and(|ledger| ledger.taps >= BACKLOG)
    })
    .await;
    let taps_per_s = BACKLOG as f64 / taken.elapsed().as_secs_f64();
    let bytes_a_tap = (site.uplink.stats().up_bytes - sent_before) as f64 / BACKLOG as f64;
    let cpu_s = cpu()? - cpu_before;
    let counted = site.edge_status().await?.counters;
    // A batch is signed at the door and checked in the cloud, a receipt the other way round.
    let (batches, receipts) =
        (counted.batches_sent - counted_before.batches_sent, counted.receipts - counted_before.receipts);
    ensure!(batches > 0 && receipts > 0, "{batches} batches and {receipts} receipts were counted");
    let bytes_a_batch = bytes_a_tap * BACKLOG as f64 / batches as f64;
    let signatures_s = batches as f64 * signature_seconds(bytes_a_batch as usize)
        + receipts as f64 * signature_seconds(RECEIPT_BYTES);
    Ok(Drained { taps_per_s, bytes_a_tap, cpu_s, signatures_s })
}

/// To sign a message of this size and to check the signature, both together: the middle of many.
fn signature_seconds(bytes: usize) -> f64 {
    let (key, message) = (SigningKey::from_seed(&[7; 32]), vec![0x5a; bytes]);
    let public = key.public();
    median((0..SIGNATURES).map(|_| {
        let taken = Stopwatch::start();
        let signature = key.sign(black_box(&message));
        public.verify(black_box(&message), black_box(&signature)).expect("it was signed with that key");
        taken.elapsed().as_secs_f64()
    }))
}

/// A site of release binaries.
pub(super) async fn release_site(options: SiteOptions) -> anyhow::Result<Site> {
    let broker = MosquittoOptions { max_inflight_messages: Some(64), ..options.broker.clone() };
    Site::start(SiteOptions { broker, ..options }).await
}

/// A site whose controller has so many unsent taps on its disk, the link being cut. The legacy API is out of reach
/// too: delivery has its own pace and is not what is measured.
pub(super) async fn site_with_backlog(count: u64) -> anyhow::Result<Site> {
    backlog_at(SiteOptions::default(), count).await
}

async fn backlog_at(options: SiteOptions, count: u64) -> anyhow::Result<Site> {
    let mut site = release_site(options).await?;
    site.legacy_line.cut().await?;
    site.uplink.cut().await?;
    site.edge.take().context("edge-agent runs")?.terminate(Duration::from_secs(15)).await?;
    fill(&site, count)?;
    site.start_edge().await?;
    Ok(site)
}

/// Appends records to the outbox as the agent would, a commit per thousand.
fn fill(site: &Site, count: u64) -> anyhow::Result<()> {
    let key = std::fs::read_to_string(site.dir().join("keys/token-1.key"))?;
    let key = data_encoding::HEXLOWER_PERMISSIVE.decode(key.trim().as_bytes())?;
    let key = TokenKey::new(TokenKeyId(1), key.try_into().ok().context("a token key has 32 bytes")?);
    let badges =
        (0..BADGES).map(|n| Ok(key.seal(&badge_uid(n).parse()?))).collect::<anyhow::Result<Vec<_>>>()?;
    let path = site.outbox_files()?.pop().context("there is an outbox")?;
    let owner = { Outbox::open(&Disk, &path)?.machine().to_vec() };
    let owner = Owner { controller: CONTROLLER.parse()?, machine: owner };
    let mut shelf = Shelf::open(Disk::shared(), &site.outbox_dir(), &owner, || OutboxId([0; 16]))?;
    let outbox = shelf.newest();
    let boot_id = BootId([0xbe; 16]);
    let boot = outbox.boot_number(boot_id)?;
    let at = |ms: u64| Stamp {
        boot,
        boottime_ms: ms,
        wall_ms: 1_795_000_000_000 + ms as i64,
        clock: ClockState::Synced,
    };
    let started = Body::AgentStarted { boot_id, version: "bench".into(), previous_stop: PreviousStop::Clean };
    outbox.append(&[Record { at: at(0), body: started }.encode()])?;
    let tap = |n: u64| {
        let badge = badges[n as usize % BADGES].clone();
        let body = Body::Tap(Tap {
            reader: "entrance".parse().expect("it is a slug"),
            badge,
            direction: Direction::In,
            verdict: Verdict::NoRoster,
        });
        Record { at: at(n * 1_000), body }.encode()
    };
    for first in (0..count).step_by(1_000) {
        let records: Vec<_> = (first..count.min(first + 1_000)).map(tap).collect();
        outbox.append(&records)?;
    }
    Ok(())
}

async fn one_live_tap(site: &Site) -> anyhow::Result<f64> {
    let taps = site.cloud_ledger().await?.taps;
    wait_until("quiet", PATIENCE, &[], async || site.edge_status().await.is_ok_and(|s| s.pending == 0)).await;
    let before = site.uplink.stats().up_bytes;
    site.tap(1).await?;
    wait_until("the live tap to be stored", PATIENCE, &[], async || {
        site.cloud_ledger().await.is_ok_and(|ledger| ledger.taps > taps)
    })
    .await;
    Ok((site.uplink.stats().up_bytes - before) as f64)
}

/// What the field uses instead: a broker at the door with a bridge to the broker in the cloud, QoS 1, both in memory.
async fn bridge(dir: &Path) -> anyhow::Result<f64> {
    std::fs::create_dir_all(dir.join("cloud"))?;
    std::fs::create_dir_all(dir.join("door"))?;
    let unlimited = |more: Vec<String>| MosquittoOptions {
        max_queued_messages: Some(0),
        max_inflight_messages: Some(64),
        more,
        ..MosquittoOptions::default()
    };
    let mut cloud = Mosquitto::start(&dir.join("cloud"), &unlimited(Vec::new())).await?;
    let connection = ["connection bridge", "topic tap/# out 1", "cleansession false", "restart_timeout 1"];
    let mut more: Vec<String> = connection.map(str::to_owned).to_vec();
    more.insert(1, format!("address {}", cloud.addr()));
    let door = Mosquitto::start(&dir.join("door"), &unlimited(more)).await?;
    let cloud_port = cloud.addr().port().to_string();
    let mut subscriber = tokio::process::Command::new("mosquitto_sub")
        .args(["-p", &cloud_port, "-t", "tap/#", "-q", "1", "-C", &(BACKLOG + 1).to_string(), "-F", "%l"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut arrivals = BufReader::new(subscriber.stdout.take().context("its standard output")?);
    // Through once, so that the bridge and the subscription stand (retained: whichever of them stands first); then the
    // broker in the cloud holds its breath.
    let one = ["-t", "tap/v1/door/records", "-q", "1", "-r", "-m", "first"];
    let door_port = door.addr().port().to_string();
    ensure!(
        tokio::process::Command::new("mosquitto_pub")
            .args(["-p", &door_port])
            .args(one)
            .status()
            .await?
            .success()
    );
    arrivals.read_line(&mut String::new()).await?;

    let mut taken = Duration::ZERO;
    for _ in 0..BRIDGE_PORTIONS {
        let portion = BACKLOG / BRIDGE_PORTIONS;
        cloud.pause()?;
        publish(&door_port, portion).await?;
        cloud.resume()?;
        let watch = Stopwatch::start();
        let arrive = async {
            for _ in 0..portion {
                ensure!(arrivals.read_line(&mut String::new()).await? > 0, "mosquitto_sub has ended");
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, arrive).await.context("the bridge did not bring everything")??;
        taken += watch.elapsed();
    }
    Ok(BACKLOG as f64 / taken.as_secs_f64())
}

/// Messages of a tap's size into the broker at the door.
async fn publish(port: &str, count: u64) -> anyhow::Result<()> {
    let mut publisher = tokio::process::Command::new("mosquitto_pub")
        .args(["-p", port, "-t", "tap/v1/door/records", "-q", "1", "-l"])
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = publisher.stdin.take().context("its standard input")?;
    let thousand = format!("{}\n", "x".repeat(50)).repeat(1_000);
    for _ in 0..count / 1_000 {
        lines.write_all(thousand.as_bytes()).await?;
    }
    drop(lines);
    ensure!(publisher.wait().await?.success(), "mosquitto_pub failed");
    Ok(())
}
