//! At the door: from tap to green beside the disk's own floor, what a tap writes, and how many fit into a second.

use std::{fs::File, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use rustix::process::getpid;

use super::{
    Figure, Goal,
    load::{Io, Tapper},
    median, percentile,
};
use crate::{
    site::{Site, SiteOptions},
    stopwatch::Stopwatch,
};

/// What one tap's commit writes to the log: a frame of one page and its header.
const APPEND_BYTES: usize = 1_100;

const ROUNDS: usize = 5;
const TAPS_A_ROUND: usize = 400;

pub(super) async fn measure() -> anyhow::Result<Vec<Figure>> {
    let site = super::drain::release_site(SiteOptions::default()).await?;
    // Alone with its disk: sync is measured elsewhere.
    site.uplink.cut().await?;
    let mut figures = latency(&site).await?;
    figures.extend(bytes(&site).await?);
    figures.extend(throughput(&site).await?);
    Ok(figures)
}

/// One floor append, one tap, one floor append …
async fn latency(site: &Site) -> anyhow::Result<Vec<Figure>> {
    let mut floor_file = Floor::create(&site.dir().join("floor.latency"))?;
    let mut tapper = Tapper::connect(&site.control_socket()).await?;
    for _ in 0..100 {
        tapper.tap().await?;
    }
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (mut taps, mut floors) = (Vec::new(), Vec::new());
        for _ in 0..TAPS_A_ROUND {
            floors.push(floor_file.append_us()?);
            taps.push(tapper.tap().await?.tap_to_signal_us as f64);
        }
        p50.push((percentile(taps.clone(), 50), percentile(floors.clone(), 50)));
        p99.push((percentile(taps, 99), percentile(floors, 99)));
    }
    let figure = |name: &str, rounds: &[(f64, f64)]| {
        let beside = median(rounds.iter().map(|(_, floor)| *floor));
        Figure::new(name, median(rounds.iter().map(|(tap, _)| *tap)), "µs")
            .beside("append + fdatasync", beside)
    };
    Ok(vec![
        figure("tap → green p50", &p50).goal(Goal::RatioAtMost(1.3)),
        figure("tap → green p99", &p99).goal(Goal::RatioAtMost(2.0)),
    ])
}

async fn bytes(site: &Site) -> anyhow::Result<Vec<Figure>> {
    let edge = site.edge.as_ref().expect("it runs").pid();
    let mut tapper = Tapper::connect(&site.control_socket()).await?;
    let mut floor_file = Floor::create(&site.dir().join("floor.bytes"))?;
    let (mut wchar, mut written, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (edge_before, own_before) = (Io::of(edge)?, Io::of(getpid())?);
        for _ in 0..TAPS_A_ROUND {
            tapper.tap().await?;
        }
        let edge_after = Io::of(edge)?;
        for _ in 0..TAPS_A_ROUND {
            floor_file.append_us()?;
        }
        let own_after = Io::of(getpid())?;
        let each = |before: u64, after: u64| (after - before) as f64 / TAPS_A_ROUND as f64;
        wchar.push(each(edge_before.wchar, edge_after.wchar));
        written.push(each(edge_before.write_bytes, edge_after.write_bytes));
        floor.push(each(own_before.write_bytes, own_after.write_bytes));
    }
    Ok(vec![
        Figure::new("bytes a tap gives to write calls", median(wchar), "B")
            .goal(Goal::ValueAtMost(1.6 * 1024.0)),
        Figure::new("bytes a tap sends to storage", median(written), "B")
            .beside("one bare append + fdatasync", median(floor))
            .goal(Goal::RatioAtMost(1.3)),
    ])
}

async fn throughput(site: &Site) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for at_once in [1, 10, 100] {
        let mut rates = Vec::new();
        for _ in 0..3 {
            let each = 2_000 / at_once;
            let mut tappers = Vec::new();
            for _ in 0..at_once {
                tappers.push(Tapper::connect(&site.control_socket()).await?);
            }
            let taken = Stopwatch::start();
            let tasks = tappers.into_iter().map(|mut tapper| {
                tokio::spawn(async move {
                    for _ in 0..each {
                        tapper.tap().await?;
                    }
                    anyhow::Ok(())
                })
            });
            for task in tasks.collect::<Vec<_>>() {
                task.await??;
            }
            rates.push((each * at_once) as f64 / taken.elapsed().as_secs_f64());
        }
        figures.push(Figure::new(format!("taps recorded, {at_once} at once"), median(rates), "taps/s"));
    }
    Ok(figures)
}

/// What the disk itself takes: a file that grows by one append and one fdatasync after the other.
struct Floor {
    file: File,
    block: Vec<u8>,
}

impl Floor {
    fn create(path: &Path) -> anyhow::Result<Self> {
        let file = std::fs::OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
        Ok(Self { file, block: vec![0x5a; APPEND_BYTES] })
    }

    fn append_us(&mut self) -> anyhow::Result<f64> {
        let taken = Stopwatch::start();
        self.file.write_all(&self.block)?;
        self.file.sync_data()?;
        Ok(taken.elapsed().as_secs_f64() * 1e6)
    }
}
