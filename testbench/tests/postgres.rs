//! The promise with the event store on a real PostgreSQL: killed and started again under load, frozen, cut off, full. What
//! the simulator believes of a store is shown here on the real one; everything else is as in `end_to_end.rs`.

use testbench::{
    fault_proxy::Direction,
    oracle::{check_promise, committed},
    rig::wait_until,
    site::{BADGES, Green, HEALS_WITHIN, Site, SiteOptions, StoreKind, StoreServer},
};

async fn site() -> Site {
    Site::start(SiteOptions { store: StoreKind::Postgres, ..SiteOptions::default() }).await.unwrap()
}

fn server(site: &mut Site) -> &mut StoreServer {
    site.store.as_mut().unwrap()
}

async fn tap(site: &Site, greens: &mut Vec<Green>, count: usize) {
    for _ in 0..count {
        greens.push(site.tap(greens.len() % BADGES).await.expect("the door needs no cloud"));
    }
}

/// Waits until everything that was committed is receipted and delivered, then lets the oracle judge.
async fn settles_and_keeps_the_promise(site: &Site, greens: &[Green]) {
    let logs = site.logs();
    let logs: Vec<_> = logs.iter().map(|log| log.as_path()).collect();
    wait_until("every record to be receipted", HEALS_WITHIN, &logs, async || {
        site.edge_status().await.is_ok_and(|status| status.pending == 0)
    })
    .await;
    let taps = committed(site).unwrap().taps.len() as u64;
    wait_until("every tap to be delivered", HEALS_WITHIN, &logs, async || {
        site.cloud_ledger().await.is_ok_and(|ledger| ledger.in_state("delivered") == taps)
    })
    .await;
    check_promise(site, greens).await.unwrap();
    // Positions have no gap, whatever was rolled back.
    let positions = "SELECT count(*) = max(position) AND min(position) = 1 FROM events";
    assert_eq!(site.store.as_ref().unwrap().query(positions).unwrap(), "t");
    is_ready(site).await;
}

async fn is_ready(site: &Site) {
    wait_until("the service to be ready", HEALS_WITHIN, &[], async || {
        site.get_text("/health/ready").await.is_ok_and(|(status, _)| status == 200)
    })
    .await;
}

/// Until the service itself says that it has no store: to monitoring, which asks for readiness, and in its log.
async fn says_that_the_store_is_away(site: &Site) {
    wait_until("the service to say that its store does not answer", HEALS_WITHIN, &[], async || {
        let said = site.get_text("/health/ready").await;
        said.is_ok_and(|(status, text)| status == 503 && text.contains("the store does not answer"))
    })
    .await;
    let log = std::fs::read_to_string(site.dir().join("cloud-ingest.log")).unwrap();
    assert!(log.contains("the store does not answer"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_killed_and_started_again_under_load() {
    let mut site = site().await;
    let mut greens = Vec::new();
    for kill in 0..5 {
        tap(&site, &mut greens, 20).await;
        server(&mut site).postgres.kill().unwrap();
        // Sometimes it is back before anybody notices, sometimes not.
        if kill % 2 == 0 {
            tap(&site, &mut greens, 20).await;
        }
        if kill == 0 {
            says_that_the_store_is_away(&site).await;
        }
        server(&mut site).postgres.restart().unwrap();
    }
    tap(&site, &mut greens, 20).await;
    settles_and_keeps_the_promise(&site, &greens).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_frozen_for_a_while() {
    let mut site = site().await;
    let mut greens = Vec::new();
    tap(&site, &mut greens, 40).await;
    server(&mut site).postgres.freeze().unwrap();
    tap(&site, &mut greens, 80).await;
    says_that_the_store_is_away(&site).await;
    assert!(site.edge_status().await.unwrap().pending >= 80, "nothing is receipted that is not committed");
    server(&mut site).postgres.thaw().unwrap();
    tap(&site, &mut greens, 20).await;
    settles_and_keeps_the_promise(&site, &greens).await;
}

/// In the middle of statements on the way up, and of answers on the way down: a commit whose answer is lost was made.
#[tokio::test(flavor = "multi_thread")]
async fn connections_to_the_server_break_in_the_middle_of_anything() {
    let site = site().await;
    let mut greens = Vec::new();
    let line = &site.store.as_ref().unwrap().line;
    for (n, direction) in [Direction::Up, Direction::Down].repeat(8).into_iter().enumerate() {
        line.cut_after(direction, 700 + 411 * n as u64).await.unwrap();
        tap(&site, &mut greens, 10).await;
        wait_until("the line to be cut", HEALS_WITHIN, &[], async || {
            tokio::net::TcpStream::connect(line.addr()).await.is_err()
        })
        .await;
        line.restore().await.unwrap();
    }
    tap(&site, &mut greens, 20).await;
    settles_and_keeps_the_promise(&site, &greens).await;
}

/// A service that starts while its server is away says so and ends; systemd starts it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_starts_without_its_server_says_what_is_missing() {
    let mut site = site().await;
    let mut greens = Vec::new();
    tap(&site, &mut greens, 20).await;
    site.kill_cloud().unwrap();
    server(&mut site).postgres.kill().unwrap();
    let why = site.start_cloud(&[]).await.unwrap_err().to_string();
    assert!(why.contains("cannot open PostgreSQL database"), "{why}");
    server(&mut site).postgres.restart().unwrap();
    site.start_cloud(&[]).await.unwrap();
    tap(&site, &mut greens, 40).await;
    settles_and_keeps_the_promise(&site, &greens).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cloud_ingest_is_killed_at_every_crash_point_on_a_server() {
    let mut site = site().await;
    let mut greens = Vec::new();
    tap(&site, &mut greens, 20).await;
    for point in cloud_ingest::crash::POINTS {
        site.kill_cloud().unwrap();
        // It may die before it is ready: what was left to deliver runs into the crash point at once.
        let started = site.start_cloud(&[("CRASH_AT", point)]).await;
        tap(&site, &mut greens, 15).await;
        if started.is_ok() {
            let cloud = site.cloud.as_mut().unwrap();
            wait_until(&format!("the crash at {point}"), HEALS_WITHIN, &[], async || !cloud.is_running())
                .await;
        }
        site.start_cloud(&[]).await.unwrap();
    }
    settles_and_keeps_the_promise(&site, &greens).await;
}
