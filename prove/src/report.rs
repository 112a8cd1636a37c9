//! What was proved, for people and for programs. Knows the tallies; nothing of how they came about.

use std::fmt::Write;
use std::time::Duration;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use serde_json::{Value, json};

use crate::planting::Caught;
use crate::{attacks, bit_flips, engine, io_errors, life, power_loss};

/// Where the figures come from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The commit.
    pub commit: String,
    /// The day.
    pub date: String,
    /// The seed.
    pub seed: u64,
}

/// One line of the evidence.
#[derive(Debug, Clone)]
pub struct Part {
    layer: &'static str,
    name: String,
    /// Figures in the order of their telling.
    figures: Vec<(&'static str, u64)>,
    is_proved: bool,
    /// What broke, and how to run it again.
    broken: Vec<String>,
    took: Duration,
}

/// All of it.
#[derive(Debug, Clone)]
pub struct Report {
    origin: Origin,
    parts: Vec<Part>,
}

impl Part {
    /// Power cuts in one scenario.
    pub fn power_loss(scenario: &str, changes: usize, tally: power_loss::Tally, took: Duration) -> Part {
        let told =
            |(state, what): &(power_loss::State, String)| format!("{what}: ./dev prove --state {state}");
        Part {
            layer: "power loss",
            name: scenario.to_owned(),
            figures: vec![
                ("changes of the medium", changes as u64),
                ("states", tally.states),
                ("cut twice", tally.cut_twice),
                ("accepted records to be found", tally.accepted),
                ("states that broke a promise", tally.broken),
            ],
            is_proved: tally.broken == 0,
            broken: tally.examples.iter().map(told).collect(),
            took,
        }
    }

    /// Failing calls in one scenario.
    pub fn io_errors(scenario: &str, tally: io_errors::Tally, took: Duration) -> Part {
        let told = |(case, what): &(io_errors::Case, String)| format!("{what}: ./dev prove --case {case}");
        Part {
            layer: "I/O errors",
            name: scenario.to_owned(),
            figures: vec![
                ("calls", tally.calls),
                ("calls that failed", tally.calls_failed),
                ("cases", tally.cases),
                ("acts refused", tally.refused),
                ("cases got over unnoticed", tally.unnoticed),
                ("short reads that left reported damage", tally.damaged),
                ("cases that broke a promise", tally.broken),
            ],
            is_proved: tally.broken == 0,
            broken: tally.examples.iter().map(told).collect(),
            took,
        }
    }

    /// Flipped bits.
    pub fn bit_flips(tally: bit_flips::Tally, took: Duration) -> Part {
        let told = |(case, what): &(bit_flips::Case, String)| format!("{what}: ./dev prove --flip {case}");
        Part {
            layer: "bit flips",
            name: "database and log of four outboxes".to_owned(),
            figures: vec![
                ("cases", tally.cases),
                ("harmless", tally.harmless),
                ("reported as damage", tally.damaged),
                ("records salvaged", tally.salvaged),
                ("records lost and told", tally.lost_and_told),
                ("most of these in one case", tally.most_lost),
                ("last transaction of the log gone", tally.shortened),
                ("most records gone with it", tally.most_missing),
                ("silently wrong", tally.broken),
            ],
            is_proved: tally.broken == 0,
            broken: tally.examples.iter().map(told).collect(),
            took,
        }
    }

    /// Random lives.
    pub fn model(tally: life::Tally, took: Duration) -> Part {
        let told = |(n, what): &(u64, String)| format!("{what}: ./dev prove --life {n}");
        Part {
            layer: "model",
            name: "random lives of a shelf, the relay and a cloud".to_owned(),
            figures: vec![
                ("lives", tally.lives),
                ("steps", tally.steps),
                ("kinds of steps", tally.kinds.len() as u64),
                ("lives that differed from the model", tally.broken),
            ],
            is_proved: tally.broken == 0,
            broken: tally.examples.iter().map(told).collect(),
            took,
        }
    }

    /// Random days of the delivery engine.
    pub fn engine(tally: engine::Tally, took: Duration) -> Part {
        let told = |(n, what): &(u64, String)| format!("{what}: ./dev prove --day {n}");
        let mut figures = vec![("days", tally.days)];
        figures.extend(tally.facts);
        figures.push(("days on which a promise was broken", tally.broken));
        Part {
            layer: ENGINE,
            name: "three replicas, one store, an API in every mood".to_owned(),
            figures,
            is_proved: tally.broken == 0 && tally.days > 0,
            broken: tally.examples.iter().map(told).collect(),
            took,
        }
    }

    /// Attacks of one class.
    pub fn attacks(class: &str, tally: attacks::Tally, took: Duration) -> Part {
        let told = |(case, what): &(attacks::Case, String)| format!("{what}: ./dev prove --attack {case}");
        Part {
            layer: ATTACKS,
            name: class.to_owned(),
            figures: vec![
                ("attacks", tally.cases),
                ("refused for their own reason", tally.refused.values().sum()),
                ("reasons", tally.refused.len() as u64),
                ("honest messages taken beside them", tally.honest),
                ("attacks that did anything else", tally.broken),
            ],
            is_proved: tally.broken == 0 && tally.cases > 0,
            broken: tally.examples.iter().map(told).collect(),
            took,
        }
    }

    /// Checks that were taken away, in one file of the product.
    pub fn taken_away(file: &str, checks: u64, caught: &[&Caught], names: &[String], took: Duration) -> Part {
        let unnoticed = caught.iter().zip(names).filter(|(caught, _)| caught.missed == 0);
        let broken: Vec<String> = unnoticed.map(|(_, name)| format!("nobody misses: {name}")).collect();
        Part {
            layer: TAKEN_AWAY,
            name: file.to_owned(),
            figures: vec![
                ("checks", checks),
                ("classes of attacks on them", caught.len() as u64),
                ("attacks", caught.iter().map(|caught| caught.cases).sum()),
                ("attacks that noticed", caught.iter().map(|caught| caught.missed).sum()),
                ("classes that noticed nothing", broken.len() as u64),
            ],
            is_proved: broken.is_empty() && !caught.is_empty(),
            broken,
            took,
        }
    }

    /// A planted bug, which must be caught.
    pub fn bait(name: &str, tally: power_loss::Tally, took: Duration) -> Part {
        let missed = format!("the planted bug was not caught in {} states", tally.states);
        Part {
            layer: "bait",
            name: name.to_owned(),
            figures: vec![("states", tally.states), ("states in which it was caught", tally.broken)],
            is_proved: tally.broken > 0,
            broken: (tally.broken == 0).then_some(missed).into_iter().collect(),
            took,
        }
    }
}

impl Part {
    fn page(&self) -> &'static str {
        match self.layer {
            ATTACKS | TAKEN_AWAY => ATTACKS,
            ENGINE => ENGINE,
            _ => OUTBOX,
        }
    }
}

impl Report {
    /// Nothing yet.
    pub fn new(origin: Origin) -> Report {
        Report { origin, parts: Vec::new() }
    }

    /// One more.
    pub fn add(&mut self, part: Part) {
        self.parts.push(part);
    }

    /// Whether everything is as it must be.
    pub fn is_proved(&self) -> bool {
        !self.parts.is_empty() && self.parts.iter().all(|part| part.is_proved)
    }

    /// What broke, and how to run it again.
    pub fn broken(&self) -> Vec<String> {
        let lines = |part: &Part| {
            part.broken
                .iter()
                .map(|line| format!("{}, {}: {line}", part.layer, part.name))
                .collect::<Vec<_>>()
        };
        self.parts.iter().flat_map(lines).collect()
    }

    /// A page for each of what there is to prove.
    pub fn by_page(self) -> [(&'static str, Report); 3] {
        PAGES.map(|page| {
            let parts = self.parts.iter().filter(|part| part.page() == page).cloned().collect();
            (page, Report { origin: self.origin.clone(), parts })
        })
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// For a terminal.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY).set_header(["layer", "what", "figures", "s", ""]);
        for part in &self.parts {
            let figures = part.figures.iter().map(|(what, n)| format!("{what} {n}"));
            table.add_row([
                part.layer.to_owned(),
                part.name.clone(),
                figures.collect::<Vec<_>>().join("\n"),
                format!("{:.1}", part.took.as_secs_f64()),
                if part.is_proved { "ok" } else { "BROKEN" }.to_owned(),
            ]);
        }
        if let Some(column) = table.column_mut(3) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let parts = self.parts.iter().map(|part| {
            let figures: serde_json::Map<String, Value> =
                part.figures.iter().map(|(what, n)| ((*what).to_owned(), json!(n))).collect();
            json!({
                "layer": part.layer,
                "name": part.name,
                "figures": figures,
                "proved": part.is_proved,
                "broken": part.broken,
                "seconds": (part.took.as_secs_f64() * 10.0).round() / 10.0,
            })
        });
        json!({
            "commit": self.origin.commit,
            "date": self.origin.date,
            "seed": self.origin.seed,
            "sqlite": rusqlite::version(),
            "proved": self.is_proved(),
            "parts": parts.collect::<Vec<_>>(),
        })
    }

    /// For the repository.
    pub fn markdown(&self) -> String {
        let Origin { commit, date, seed } = &self.origin;
        let verdict = if self.is_proved() { "Nothing was broken." } else { "**Something was broken.**" };
        let (title, meaning) = match self.parts.first().map_or(OUTBOX, Part::page) {
            ATTACKS => ("attacks", MEANING_OF_ATTACKS),
            ENGINE => ("the delivery engine", MEANING_OF_THE_ENGINE),
            _ => ("the outbox", MEANING),
        };
        let mut text = format!(
            "# Evidence: {title}\n\nWritten by `./dev prove` at commit `{commit}`, {date}, seed {seed}, SQLite {}. {verdict}\n\n{meaning}",
            rusqlite::version()
        );
        let mut layer = "";
        for part in &self.parts {
            if part.layer != layer {
                layer = part.layer;
                self.begin_layer(&mut text, layer, part);
            }
            let figures = part.figures.iter().map(|(_, n)| grouped(*n)).collect::<Vec<_>>().join(" | ");
            // A String takes everything.
            let _ = writeln!(text, "| {} | {figures} | {:.1} |", part.name, part.took.as_secs_f64());
            for line in &part.broken {
                let _ = writeln!(text, "| **{line}** |");
            }
        }
        text
    }

    fn begin_layer(&self, text: &mut String, layer: &str, first: &Part) {
        let columns = first.figures.iter().map(|(what, _)| *what).collect::<Vec<_>>().join(" | ");
        let rule = "--:|".repeat(first.figures.len() + 1);
        let heading = layer[..1].to_uppercase() + &layer[1..];
        let _ = writeln!(text, "\n## {heading}\n\n| | {columns} | seconds |\n|---|{rule}");
        let same = self.parts.iter().filter(|part| part.layer == layer);
        if same.clone().count() > 1 {
            let sums = (0..first.figures.len())
                .map(|n| grouped(same.clone().filter_map(|part| part.figures.get(n)).map(|(_, n)| n).sum()));
            let seconds: f64 = same.clone().map(|part| part.took.as_secs_f64()).sum();
            let _ = writeln!(text, "| **all** | {} | {seconds:.1} |", sums.collect::<Vec<_>>().join(" | "));
        }
    }
}

/// 1234567 as 1,234,567.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

const OUTBOX: &str = "outbox";
const ENGINE: &str = "engine";
const ATTACKS: &str = "attacks";
const TAKEN_AWAY: &str = "checks taken away";

const PAGES: [&str; 3] = [OUTBOX, ENGINE, ATTACKS];

const MEANING_OF_THE_ENGINE: &str = "\
The supervisors and dispatchers of three replicas, as production runs them, on one store in memory and on paused time; an
API that fails in every way, machines that die, stand still and show another year. The referee knows what is promised, and
nothing of how it is kept. What the words mean, and what is not shown, is in [README.md](README.md). Play one day again with
the line that a failure prints.
";

const MEANING_OF_ATTACKS: &str = "\
Forged, changed, replayed and contradicting messages against the functions that production runs, on a real store and a real
relay. What the words mean, and what is not shown, is in [README.md](README.md). Try one again with the line that a failure
prints.
";

const MEANING: &str = "\
The outbox runs on a disk in memory (`power-loss-vfs`) that stands where SQLite and the outbox expect their files. What
the words mean, and what is not shown, is in [README.md](README.md). Run one state again with the line that a failure prints; the
salts of SQLite's log come from the seed as well, but which of two threads draws first is chance.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn report(broken: u64) -> Report {
        let mut report = Report::new(Origin { commit: "abc".into(), date: "2026-11-21".into(), seed: 1 });
        let mut tally = power_loss::Tally { states: 12_345, broken, ..Default::default() };
        if broken > 0 {
            tally.examples.push(("append:1:2".parse().unwrap(), "a record is gone".into()));
        }
        report.add(Part::power_loss("append", 48, tally.clone(), Duration::from_millis(1_500)));
        report.add(Part::power_loss("prune", 96, tally, Duration::from_millis(500)));
        report
    }

    #[test]
    fn the_evidence_says_where_it_comes_from_and_sums_up() {
        let text = report(0).markdown();
        assert!(
            text.contains("commit `abc`, 2026-11-21, seed 1") && text.contains("Nothing was broken."),
            "{text}"
        );
        assert!(text.contains("| **all** | 144 | 24,690 | 0 | 0 | 0 | 2.0 |"), "{text}");
        assert_eq!(report(0).json()["parts"][0]["figures"]["states"], 12_345);
    }

    #[test]
    fn what_broke_is_told_with_the_line_to_run_it_again() {
        let report = report(1);
        assert!(!report.is_proved());
        assert!(report.broken()[0].ends_with("a record is gone: ./dev prove --state append:1:2"));
        assert!(report.markdown().contains("Something was broken"));
    }

    #[test]
    fn a_bait_that_is_not_caught_proves_nothing() {
        let mut report = report(0);
        report.add(Part::bait(
            "NORMAL",
            power_loss::Tally { states: 10, ..Default::default() },
            Duration::ZERO,
        ));
        assert!(!report.is_proved());
    }
}
