//! `demo`: the whole chain on this machine, door to legacy API, while you watch. Real binaries, the real Mosquitto, the
//! real pcscd with virtual cards; the network is cut in the middle. It knows the story; [`testbench::site`] the wiring.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets::UTF8_HORIZONTAL_ONLY};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Deserialize;
use tap_protocol::ids::EventId;
use testbench::{
    legacy_sim::{Mode, Script},
    oracle::{check_promise, committed},
    rig::{CardFeeder, Pcscd, VirtualReader, wait_until},
    site::{BADGES, HEALS_WITHIN, Site, SiteOptions, badge_person, badge_uid},
    virtual_card::HOLD,
};

/// Badge taps at a door, all the way to a legacy attendance API, through a network that comes and goes.
#[derive(Parser)]
struct Args {
    /// End after the ledger: exit 0 only if accepted = stored = delivered, and nothing is lost or doubled.
    #[arg(long)]
    once: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let dir = tempfile::TempDir::with_prefix("tapline-demo-")?;
    let pcscd = Pcscd::start(dir.path()).await.context("the demo needs the real pcscd")?;
    let site = Arc::new(start(&pcscd, &dir).await?);
    let mut door =
        Door { feeder: CardFeeder::start(&pcscd, VirtualReader::First, dir.path())?, next_badge: 0 };
    introduce(&site);

    let board = Board::default();
    let watching = tokio::spawn(board.clone().watch(Arc::clone(&site)));
    board.act("Everything is up: six people arrive");
    door.taps(&board, 6).await?;
    board.act("The network is cut: six more arrive, and get their green all the same");
    site.uplink.cut().await?;
    door.taps(&board, 6).await?;
    board.act("The network is back");
    site.uplink.restore().await?;
    door.taps(&board, 3).await?;
    board.act("The legacy API asks for a pause (429), then answers too late: the same keys are sent again");
    site.legacy.set_script(Script::first([
        (Mode::TooManyRequests { retry_after_s: 2 }, 1),
        (Mode::TimeoutAfterProcessing, 1),
        (Mode::ServerError { processed: false }, 1),
    ]));
    door.taps(&board, 3).await?;
    settle(&site).await;
    board.is_complete(18).await;
    watching.abort();
    let judged = ledger(&site).await;

    if args.once {
        return judged;
    }
    if let Err(error) = judged {
        println!("\nThe promise is broken: {error:#}");
    }
    println!("\nThe page stays open at {} until Ctrl-C. Tap yourself, in another terminal:", site.url());
    println!(
        "  target/debug/edge-agent tap --config {}/edge-agent.toml --simulate {}",
        dir.path().display(),
        badge_uid(1)
    );
    tokio::signal::ctrl_c().await?;
    Ok(())
}

async fn start(pcscd: &Pcscd, dir: &tempfile::TempDir) -> anyhow::Result<Site> {
    let reader = VirtualReader::First.name();
    Site::start(SiteOptions {
        dir: Some(dir.path().to_owned()),
        readers: format!(
            "[[reader]]\nname = \"entrance\"\ndirection = \"in\"\npcsc = {{ match = \"{reader}\" }}\n"
        ),
        edge_env: vec![("PCSCLITE_CSOCK_NAME".into(), pcscd.socket_path().display().to_string())],
        destination: "timeout_ms = 2000".into(),
        enrolled: true,
        ..SiteOptions::default()
    })
    .await
}

fn introduce(site: &Site) {
    println!("Tapline, all of it on this machine:\n");
    println!("  card ─▶ pcscd ─▶ edge-agent ─▶ outbox ─┄▶ Mosquitto ─▶ cloud-ingest ─▶ store ─▶ legacy API");
    println!("                                     (this line will be cut)\n");
    println!("  page        {}", site.url());
    println!("  broker      over TLS through {}, by the certificate of its enrolment", site.uplink.addr());
    println!("  legacy API  {}", site.legacy.url());
    println!("  logs        {}\n", site.dir().display());
}

/// The door with its virtual reader.
struct Door {
    feeder: CardFeeder,
    next_badge: usize,
}

impl Door {
    async fn taps(&mut self, board: &Board, count: usize) -> anyhow::Result<()> {
        for _ in 0..count {
            // Seven is prime to the number of badges: everybody comes, some twice.
            let badge = self.next_badge % BADGES;
            self.next_badge += 7;
            board.expect(&badge_person(badge));
            let uid = data_encoding::HEXUPPER.decode(badge_uid(badge).as_bytes())?;
            let shown = self.feeder.tap(&uid, HOLD).await?;
            ensure!(shown.uid_was_read(), "nobody read the card: {shown:?}");
        }
        Ok(())
    }
}

/// One line per tap that fills up as the tap travels. Without a terminal each new stage is a line of its own.
#[derive(Clone, Default)]
struct Board(Arc<Mutex<Lines>>);

#[derive(Default)]
struct Lines {
    screen: MultiProgress,
    /// Who was shown to the reader, in order: the n-th tap committed is the n-th of them.
    expected: Vec<String>,
    lines: BTreeMap<EventId, Line>,
}

struct Line {
    bar: ProgressBar,
    who: String,
    stage: u8,
}

/// What a tap has behind it, in order.
const STAGES: [&str; 4] = ["recorded", "stored", "sent", "delivered"];

#[derive(Deserialize)]
struct Page {
    events: Vec<ApiEvent>,
}

#[derive(Deserialize)]
struct ApiEvent {
    event_id: EventId,
    #[serde(default)]
    deliveries: Vec<ApiDelivery>,
}

#[derive(Deserialize)]
struct ApiDelivery {
    state: String,
    attempts: u32,
}

impl Board {
    fn act(&self, title: &str) {
        let lines = self.lines();
        let said = format!("\n── {title}\n");
        if lines.screen.println(&said).is_err() || lines.screen.is_hidden() {
            println!("{said}");
        }
    }

    fn expect(&self, who: &str) {
        self.lines().expected.push(who.to_owned());
    }

    /// Follows the outbox and the API until it is aborted.
    async fn watch(self, site: Arc<Site>) {
        loop {
            if let Ok(on_the_medium) = committed(&site) {
                for tap in on_the_medium.taps {
                    self.lines().reached(tap.event_id, 0);
                }
            }
            if let Ok(page) = site.get::<Page>("/api/v1/events?limit=200").await {
                for event in page.events {
                    if let Some(delivery) = event.deliveries.first() {
                        let stage = match (delivery.state.as_str(), delivery.attempts) {
                            ("delivered", _) => 3,
                            (_, 0) => 1,
                            _ => 2,
                        };
                        self.lines().reached(event.event_id, stage);
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn is_complete(&self, taps: usize) {
        wait_until("every line to be complete", HEALS_WITHIN, &[], async || {
            let lines = self.lines();
            lines.lines.len() == taps && lines.lines.values().all(|line| line.stage == 3)
        })
        .await;
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.0.lock().expect("nothing panics while it draws")
    }
}

impl Lines {
    fn reached(&mut self, event_id: EventId, stage: u8) {
        let number = self.lines.len();
        let line = self.lines.entry(event_id).or_insert_with(|| {
            let who = self.expected.get(number).cloned().unwrap_or_default();
            let bar = self.screen.add(ProgressBar::new(STAGES.len() as u64));
            let style = ProgressStyle::with_template("  {prefix}  {bar:12.green} {wide_msg}");
            bar.set_style(style.expect("the template is right").progress_chars("●●┄"));
            bar.set_prefix(format!("{who}  record {:>2}", event_id.seq()));
            Line { bar, who, stage: u8::MAX }
        });
        if line.stage == stage || line.stage != u8::MAX && line.stage > stage {
            return;
        }
        line.stage = stage;
        let said = STAGES[usize::from(stage)];
        line.bar.set_position(u64::from(stage) + 1);
        line.bar.set_message(said);
        if line.bar.is_hidden() {
            println!("  {}  record {:>2}  {said}", line.who, event_id.seq());
        }
        if stage == 3 {
            line.bar.abandon_with_message(said);
        }
    }
}

async fn settle(site: &Site) {
    let logs = site.logs();
    let logs: Vec<_> = logs.iter().map(|log| log.as_path()).collect();
    wait_until("everything to arrive", HEALS_WITHIN, &logs, async || {
        let receipted = site.edge_status().await.is_ok_and(|status| status.pending == 0);
        let delivered =
            site.cloud_ledger().await.is_ok_and(|l| l.taps > 0 && l.in_state("delivered") == l.taps);
        receipted && delivered
    })
    .await;
}

/// Compares the three places and prints the result. An error if they differ.
async fn ledger(site: &Site) -> anyhow::Result<()> {
    let judged = check_promise(site, &[]).await;
    let accepted = committed(site)?.taps.len();
    let books = site.cloud_ledger().await?;
    let report = site.legacy.report();
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_header(["the ledger", "taps", "read from"]);
    let processed = report.processed.len();
    let rows = [
        ("accepted (green)", accepted.to_string(), "the outbox on the controller's disk"),
        ("stored", books.taps.to_string(), "cloud-ingest's event store"),
        ("delivered", books.in_state("delivered").to_string(), "cloud-ingest's deliveries"),
        ("booked by the legacy API", processed.to_string(), "its own memory"),
        ("sent more than once, booked once", report.repeats.len().to_string(), "its own memory"),
        ("lost", accepted.saturating_sub(processed).to_string(), "accepted − booked"),
        ("doubled", processed.saturating_sub(accepted).to_string(), "booked − accepted"),
    ];
    for (what, count, source) in rows {
        table.add_row([what, &count, source]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("\n{table}");
    if judged.is_ok() {
        println!("\nEvery tap that was answered with green was booked exactly once, in order per person.");
    }
    judged.map(drop)
}
