//! One tap after the other through everything that is between a door and the attendance system, none of it busy: how long
//! until it is stored for good, and until it is answered.

use std::{path::Path, process::Stdio};

use anyhow::{Context as _, ensure};
use tap_protocol::{
    ids::Seq,
    keys::PublicKey,
    receipt::Receipt,
    topic::{Channel, Topic},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use super::{Figure, load::Tapper, percentile};
use crate::{
    site::{CONTROLLER, Site, SiteOptions, StoreKind},
    stopwatch::Stopwatch,
};

const WARM_UP: usize = 50;
const TAPS: usize = 400;

pub(super) async fn measure() -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for store in StoreKind::ALL {
        eprintln!("  {}", store.name());
        let site = super::drain::release_site(SiteOptions { store, ..SiteOptions::default() }).await?;
        let (stored, answered) = one_after_the_other(&site).await?;
        for percent in [50, 99] {
            let figure = |what: &str, times: &[f64]| {
                let name = format!("tap → {what} p{percent}, {}", store.name());
                Figure::new(name, percentile(times.iter().copied(), percent), "ms")
            };
            figures.extend([figure("stored", &stored), figure("answered", &answered)]);
        }
    }
    Ok(figures)
}

/// Milliseconds from the moment before a tap to its receipt on the wire, and to the attendance system's answer.
async fn one_after_the_other(site: &Site) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    let mut receipts = Receipts::listen(site).await?;
    let mut decided = site.legacy.decided();
    let mut tapper = Tapper::connect(&site.control_socket()).await?;
    let (mut stored, mut answered) = (Vec::new(), Vec::new());
    for n in 0..WARM_UP + TAPS {
        let answers_before = *decided.borrow_and_update();
        let watch = Stopwatch::start();
        let green = tapper.tap().await?;
        let until_stored = async {
            receipts.of(Seq(green.seq)).await?;
            anyhow::Ok(watch.elapsed().as_secs_f64() * 1e3)
        };
        let until_answered = async {
            decided.wait_for(|count| *count > answers_before).await?;
            anyhow::Ok(watch.elapsed().as_secs_f64() * 1e3)
        };
        let (stored_ms, answered_ms) = tokio::try_join!(until_stored, until_answered)?;
        if n >= WARM_UP {
            stored.push(stored_ms);
            answered.push(answered_ms);
        }
    }
    ensure!(site.legacy.report().repeats.is_empty(), "nothing was sent twice");
    Ok((stored, answered))
}

/// What the controller is sent, heard beside it.
struct Receipts {
    key: PublicKey,
    lines: Lines<BufReader<ChildStdout>>,
    _listener: Child,
}

impl Receipts {
    async fn listen(site: &Site) -> anyhow::Result<Receipts> {
        let topic = Topic::new(&site.controller(), Channel::Receipt).to_string();
        let port = site.broker.addr().port().to_string();
        let mut listener = Command::new("mosquitto_sub")
            .args(["-p", &port, "-q", "1", "-t", &topic, "-F", "%x"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting mosquitto_sub (Debian package mosquitto-clients)")?;
        let said = listener.stdout.take().context("its standard output")?;
        let key = public_key(&site.dir().join("keys/receipt-1.pub"))?;
        Ok(Receipts { key, lines: BufReader::new(said).lines(), _listener: listener })
    }

    /// Waits for a receipt that covers this record.
    async fn of(&mut self, seq: Seq) -> anyhow::Result<()> {
        loop {
            let line = self.lines.next_line().await?.context("mosquitto_sub has ended")?;
            let message = data_encoding::HEXLOWER_PERMISSIVE.decode(line.as_bytes())?;
            if Receipt::open(&message, &CONTROLLER.parse()?, &[self.key])?.stored_through >= seq {
                return Ok(());
            }
        }
    }
}

fn public_key(path: &Path) -> anyhow::Result<PublicKey> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes())?;
    Ok(PublicKey(bytes.try_into().ok().context("a public key has 32 bytes")?))
}
