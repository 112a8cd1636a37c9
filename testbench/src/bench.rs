//! Figures with something beside them. Each group interleaves what is measured with its floor or peer in the same run,
//! because a disk's floor may move a hundredfold within an hour; every figure is the median of its rounds.
//!
//! It knows how to measure; what a good figure is stands beside each as its goal.

use std::path::Path;

use anyhow::Context as _;
use comfy_table::{Attribute, Cell, CellAlignment, Color, Table, presets::UTF8_HORIZONTAL_ONLY};
use serde::Serialize;

mod append;
mod bare;
mod deliver;
mod door;
mod doors;
mod drain;
mod footprint;
mod live;
mod load;

/// One figure. The array of all of them is `target/bench.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// The floor or peer of the same run: what it is, and how much.
    pub beside: Option<(String, f64)>,
    /// `value ÷ beside`.
    pub ratio: Option<f64>,
    /// What is promised, if anything is.
    pub goal: Option<String>,
    /// Whether it is kept.
    pub holds: Option<bool>,
}

/// A bound on the value or on the ratio.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    ValueAtMost(f64),
    ValueAtLeast(f64),
    RatioAtMost(f64),
    RatioAtLeast(f64),
}

impl Figure {
    fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, beside: None, ratio: None, goal: None, holds: None }
    }

    fn beside(self, what: impl Into<String>, peer: f64) -> Self {
        Self { beside: Some((what.into(), peer)), ratio: Some(self.value / peer), ..self }
    }

    fn goal(self, goal: Goal) -> Self {
        let ratio = self.ratio.unwrap_or(f64::NAN);
        let (text, holds) = match goal {
            Goal::ValueAtMost(most) => (format!("≤ {most} {}", self.unit), self.value <= most),
            Goal::ValueAtLeast(least) => (format!("≥ {least} {}", self.unit), self.value >= least),
            Goal::RatioAtMost(most) => (format!("≤ {most} ×"), ratio <= most),
            Goal::RatioAtLeast(least) => (format!("≥ {least} ×"), ratio >= least),
        };
        Self { goal: Some(text), holds: Some(holds), ..self }
    }
}

/// Measures every group whose name contains `only`, prints the table and writes the JSON.
///
/// # Errors
///
/// When something does not start or cannot be measured. A goal that is missed is a figure, not an error.
pub async fn run(only: &str, json: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(
        !cfg!(debug_assertions),
        "figures of a debug build mean nothing: run ./dev bench, which builds for release"
    );
    let wanted = |name: &str| name.contains(only);
    let mut figures = Vec::new();
    if wanted("door") {
        eprintln!("door: tap → green beside append + fdatasync, bytes, taps per second …");
        figures.extend(door::measure().await.context("door")?);
    }
    if wanted("append") {
        eprintln!(
            "append: 98,304 records in groups as intake makes them, beside a bare insert, on both stores …"
        );
        figures.extend(append::measure().await.context("append")?);
    }
    if wanted("drain") {
        eprintln!("drain: 100,000 buffered taps through Mosquitto into the store, in clear and over TLS …");
        figures.extend(drain::measure().await.context("drain")?);
    }
    if wanted("live") {
        eprintln!("live: tap → stored and tap → answered, on both stores …");
        figures.extend(live::measure().await.context("live")?);
    }
    if wanted("deliver") {
        eprintln!("deliver: deliveries per second from a backlog of a million, on both stores …");
        figures.extend(deliver::measure().await.context("deliver")?);
    }
    if wanted("footprint") {
        eprintln!("footprint: memory, start, size …");
        figures.extend(footprint::measure().await.context("footprint")?);
    }
    println!("{}", table(&figures));
    if let Some(folder) = json.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(json, serde_json::to_string_pretty(&figures)? + "\n")?;
    println!("written to {}", json.display());
    Ok(())
}

fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_header(["figure", "value", "beside", "ratio", "goal", ""]);
    for figure in figures {
        let verdict = match figure.holds {
            Some(true) => Cell::new("holds").fg(Color::Green),
            Some(false) => Cell::new("MISSED").fg(Color::Red).add_attribute(Attribute::Bold),
            None => Cell::new(""),
        };
        let beside = figure.beside.as_ref().map(|(what, much)| format!("{what}: {}", number(*much)));
        table.add_row([
            Cell::new(&figure.name),
            Cell::new(format!("{} {}", number(figure.value), figure.unit))
                .set_alignment(CellAlignment::Right),
            Cell::new(beside.unwrap_or_default()),
            Cell::new(figure.ratio.map(|ratio| format!("{ratio:.2} ×")).unwrap_or_default()),
            Cell::new(figure.goal.as_deref().unwrap_or_default()),
            verdict,
        ]);
    }
    table
}

fn number(value: f64) -> String {
    match value.abs() {
        1_000.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The middle one.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    percentile(values, 50)
}

fn percentile(values: impl IntoIterator<Item = f64>, percent: usize) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len().saturating_sub(1)) * percent / 100).copied().unwrap_or(f64::NAN)
}
