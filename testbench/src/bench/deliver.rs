//! Deliveries a second to an attendance system that answers at once, from a backlog of a million, and with a hundred thousand
//! keys in the way that wait for somebody to say whose badge it is.

use std::time::Duration;

use anyhow::Context as _;
use cloud_ingest::event_store::{UtcMs, place::Place};

use super::{Figure, Goal, doors::Doors};
use crate::{
    site::{Site, SiteOptions, StoreKind},
    stopwatch::{Stopwatch, utc_ms},
};

const BACKLOG: usize = 1_000_000;
const PARKED_KEYS: u32 = 100_000;
const PARKED_TAPS: usize = 200_000;
const PERSONS: u32 = 5_000;

const GROUP_MESSAGES: usize = 64;
const MESSAGE_RECORDS: usize = 250;

/// The engine is measured, not what it is told to keep to.
const NO_LIMIT: &str = "per_second = 100000\nburst = 10000\nmax_in_flight = 64";

const WARM_UP: Duration = Duration::from_secs(3);
const MEASURED: Duration = Duration::from_secs(15);

pub(super) async fn measure() -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for store in StoreKind::ALL {
        eprintln!("  {}: a backlog of {BACKLOG} …", store.name());
        let options = SiteOptions { store, destination: NO_LIMIT.into(), ..SiteOptions::default() };
        let mut site = super::drain::release_site(options).await?;
        site.edge.take().context("edge-agent runs")?.terminate(Duration::from_secs(15)).await?;
        stop(&mut site).await?;
        let place = site.place()?;
        fill(place.clone(), Doors::new(1..=16, 0..PERSONS), true, utc_ms(), BACKLOG).await?;
        let without = rate(&mut site).await?;
        eprintln!("  {}: {without:.0} a second; and {PARKED_KEYS} keys in the way …", store.name());
        // Received before all others, so that they stand in front of them.
        let long_ago = utc_ms() - 86_400_000;
        let strangers = Doors::new(17..=32, PERSONS..PERSONS + PARKED_KEYS);
        fill(place, strangers, false, long_ago, PARKED_TAPS).await?;
        let with = rate(&mut site).await?;
        eprintln!("  {}: {with:.0} a second", store.name());
        let name = store.name();
        figures.push(Figure::new(format!("deliveries from 1,000,000, {name}"), without, "deliveries/s"));
        figures.push(
            Figure::new(format!("deliveries, 100,000 keys parked, {name}"), with, "deliveries/s")
                .beside("without", without)
                .goal(Goal::RatioAtLeast(0.5)),
        );
    }
    Ok(figures)
}

async fn stop(site: &mut Site) -> anyhow::Result<()> {
    site.cloud.take().context("cloud-ingest runs")?.terminate(Duration::from_secs(30)).await.map(drop)
}

async fn fill(place: Place, mut doors: Doors, bound: bool, at_ms: i64, taps: usize) -> anyhow::Result<()> {
    // The store's calls block.
    tokio::task::spawn_blocking(move || {
        let mut store = place.open(UtcMs(at_ms))?;
        doors.introduce(store.as_mut())?;
        if bound {
            doors.bind(store.as_mut())?;
        }
        let group = GROUP_MESSAGES * MESSAGE_RECORDS;
        for _ in 0..taps.div_ceil(group) {
            store.append(&doors.group(GROUP_MESSAGES, MESSAGE_RECORDS), UtcMs(at_ms))?;
        }
        Ok(())
    })
    .await?
}

async fn rate(site: &mut Site) -> anyhow::Result<f64> {
    let decided = site.legacy.decided();
    site.start_cloud(&[]).await?;
    tokio::time::sleep(WARM_UP).await;
    let (before, taken) = (*decided.borrow(), Stopwatch::start());
    tokio::time::sleep(MEASURED).await;
    let rate = (*decided.borrow() - before) as f64 / taken.elapsed().as_secs_f64();
    stop(site).await?;
    site.legacy.reset();
    Ok(rate)
}
