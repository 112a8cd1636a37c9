//! On the controller: resident memory, time from start to the first green, size of the binary.

use std::time::Duration;

use anyhow::Context as _;

use super::{
    Figure, Goal,
    drain::{BACKLOG, release_site, site_with_backlog},
    load::resident_kib,
    median,
};
use crate::{
    rig::{Program, program_path, wait_until},
    site::{Site, SiteOptions},
    stopwatch::Stopwatch,
};

const ROUNDS: usize = 5;
const MOST_RESIDENT_MIB: f64 = 12.0;
const FIRST_TAP_WITHIN_MS: f64 = 150.0;
const STATUS_WITHIN_MS: f64 = 50.0;

/// The backlog of a busy gate after months offline.
const MILLION: u64 = 1_000_000;

/// A large tenant's.
const ROSTER_BADGES: u32 = 100_000;

pub(super) async fn measure() -> anyhow::Result<Vec<Figure>> {
    let mut idle_site = release_site(SiteOptions::default()).await?;
    let idle = resident_after_a_tap_mib(&idle_site).await?;
    let empty_start = first_tap_ms(&mut idle_site).await?;
    drop(idle_site);
    let with_roster = resident_with_a_roster_mib().await?;
    let mut full_site = site_with_backlog(BACKLOG).await?;
    let pending = resident_after_a_tap_mib(&full_site).await?;
    let full_start = first_tap_ms(&mut full_site).await?;
    full_site.uplink.restore().await?;
    let draining = most_resident_while_draining(&full_site).await?;
    drop(full_site);
    let mut million_site = site_with_backlog(MILLION).await?;
    let million = resident_after_a_tap_mib(&million_site).await?;
    let million_start = first_tap_ms(&mut million_site).await?;
    let million_status = status_ms(&million_site).await?;
    drop(million_site);
    let size = std::fs::metadata(program_path("edge-agent")?)?.len() as f64 / 1024.0 / 1024.0;
    let memory =
        |name: &str, mib: f64| Figure::new(name, mib, "MiB").goal(Goal::ValueAtMost(MOST_RESIDENT_MIB));
    let start =
        |name: &str, ms: f64| Figure::new(name, ms, "ms").goal(Goal::ValueAtMost(FIRST_TAP_WITHIN_MS));
    Ok(vec![
        memory("resident memory, idle", idle),
        memory("resident memory, 100,000 badges", with_roster),
        memory("resident memory, 100,000 pending", pending),
        memory("resident memory, 1,000,000 pending", million),
        Figure::new("resident memory, most while draining", draining, "MiB"),
        start("start → first tap, empty outbox", empty_start),
        start("start → first tap, 100,000 pending", full_start),
        start("start → first tap, 1,000,000 pending", million_start),
        Figure::new("status, 1,000,000 pending", million_status, "ms")
            .goal(Goal::ValueAtMost(STATUS_WITHIN_MS)),
        Figure::new("edge-agent, stripped", size, "MiB"),
    ])
}

async fn resident_after_a_tap_mib(site: &Site) -> anyhow::Result<f64> {
    site.tap(1).await?;
    resident_mib(site)
}

/// After the roster came, which is when there was the most of it at once.
async fn resident_with_a_roster_mib() -> anyhow::Result<f64> {
    let site = release_site(SiteOptions::default()).await?;
    let badges: String = (0..ROSTER_BADGES).map(|n| format!("04B0{n:010X},P{n}\n")).collect();
    let csv = site.dir().join("many.csv");
    std::fs::write(&csv, format!("badge,person\n{badges}"))?;
    site.cloud_cli(&["badges", "import", &csv.display().to_string()])?;
    wait_until("the roster to be in use", Duration::from_secs(120), &[], async || {
        let status = site.edge_status().await;
        status.is_ok_and(|status| status.roster.is_some_and(|roster| roster.badges >= ROSTER_BADGES))
    })
    .await;
    resident_after_a_tap_mib(&site).await
}

fn resident_mib(site: &Site) -> anyhow::Result<f64> {
    let pid = site.edge.as_ref().context("edge-agent runs")?.pid();
    Ok(resident_kib(pid)? / 1024.0)
}

async fn most_resident_while_draining(site: &Site) -> anyhow::Result<f64> {
    let mut most: f64 = 0.0;
    wait_until("the backlog to be stored", Duration::from_secs(300), &[], async || {
        most = most.max(resident_mib(site).unwrap_or_default());
        site.edge_status().await.is_ok_and(|status| status.pending == 0)
    })
    .await;
    Ok(most)
}

/// From spawning the process to the answer to a tap that was tried as fast as the socket could be found.
async fn first_tap_ms(site: &mut Site) -> anyhow::Result<f64> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        site.edge.take().context("edge-agent runs")?.terminate(Duration::from_secs(15)).await?;
        let config = site.dir().join("edge-agent.toml");
        let program = Program::new("edge-agent")?.args(["run", "--config"]).args([config]);
        let taken = Stopwatch::start();
        site.edge = Some(program.start(site.dir()).await?);
        while site.tap(1).await.is_err() {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        rounds.push(taken.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(rounds))
}

/// One answer of the running agent to `status`.
async fn status_ms(site: &Site) -> anyhow::Result<f64> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let taken = Stopwatch::start();
        let status = site.edge_status().await?;
        rounds.push(taken.elapsed().as_secs_f64() * 1e3);
        anyhow::ensure!(status.pending >= MILLION, "{} are pending", status.pending);
    }
    Ok(median(rounds))
}
