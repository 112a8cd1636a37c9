//! What was shown, for people and for programs. Knows figures; nothing of how they came about.

use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde_json::{Map, Value, json};

/// Sentences of the agent's are longer than a line.
const TABLE_COLUMNS: u16 = 120;

/// Something that was measured or counted.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    what: String,
    value: Value,
    unit: &'static str,
}

impl Figure {
    /// So many.
    pub fn count(what: impl Into<String>, n: usize) -> Figure {
        Figure { what: what.into(), value: json!(n), unit: "" }
    }

    /// So long.
    pub fn seconds(what: impl Into<String>, took: Duration) -> Figure {
        Figure { what: what.into(), value: json!(tenths(took)), unit: " s" }
    }

    /// In words.
    pub fn words(what: impl Into<String>, words: impl Into<String>) -> Figure {
        Figure { what: what.into(), value: json!(words.into()), unit: "" }
    }
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.value {
            Value::String(words) => write!(f, "{}: {words}", self.what),
            value => write!(f, "{}: {value}{}", self.what, self.unit),
        }
    }
}

/// How a scenario went.
#[derive(Debug)]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// What must hold in it.
    pub promise: String,
    /// What was seen, or what broke.
    pub seen: Result<Vec<Figure>, String>,
    /// How long it took here.
    pub took: Duration,
}

/// All of them.
#[derive(Debug)]
pub struct Report {
    /// The commit.
    pub commit: String,
    /// The day.
    pub date: String,
    /// Which packages.
    pub packages: Vec<String>,
    /// Where chance came from.
    pub seed: u64,
    /// Whether something was wrong on purpose in each, and had to be noticed.
    pub is_planted: bool,
    /// In the order in which they ran.
    pub parts: Vec<Part>,
}

impl Report {
    /// Whether everything held.
    pub fn is_proved(&self) -> bool {
        !self.parts.is_empty() && self.parts.iter().all(|part| part.seen.is_ok())
    }

    /// For a terminal.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table
            .load_style(UTF8_BORDERS_ONLY)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(TABLE_COLUMNS)
            .set_header(["scenario", "seen", "s", ""]);
        for part in &self.parts {
            let (seen, verdict) = match &part.seen {
                Ok(figures) => (lines(figures), "ok"),
                Err(why) => (why.clone(), "BROKEN"),
            };
            table.add_row([
                part.name.to_owned(),
                seen,
                format!("{:.0}", part.took.as_secs_f64()),
                verdict.to_owned(),
            ]);
        }
        if let Some(column) = table.column_mut(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let parts = self.parts.iter().map(|part| {
            let figures = part.seen.as_deref().unwrap_or_default();
            let figures: Map<String, Value> =
                figures.iter().map(|figure| (figure.what.clone(), figure.value.clone())).collect();
            json!({
                "name": part.name,
                "promise": part.promise,
                "proved": part.seen.is_ok(),
                "figures": figures,
                "broken": part.seen.as_ref().err(),
                "seconds": tenths(part.took),
            })
        });
        json!({
            "commit": self.commit,
            "date": self.date,
            "packages": self.packages,
            "seed": self.seed,
            "planted": self.is_planted,
            "proved": self.is_proved(),
            "parts": parts.collect::<Vec<_>>(),
        })
    }

    /// For the repository.
    pub fn markdown(&self) -> String {
        let verdict = match (self.is_planted, self.is_proved()) {
            (false, true) => "Everything held.",
            (false, false) => "**Something broke.**",
            (true, true) => "Every planted fault was noticed.",
            (true, false) => "**Not every planted fault was noticed.**",
        };
        let title = if self.is_planted { "a booted Debian, with planted faults" } else { "a booted Debian" };
        let Report { commit, date, seed, .. } = self;
        let mut text = format!(
            "# Evidence: {title}\n\nWritten by `./dev vm-test` at commit `{commit}`, {date}, seed {seed}. {verdict}\n\n{MEANING}\nThe packages: {}.\n\n",
            self.packages.join(", ")
        );
        text.push_str("| | what must hold | seen | seconds |\n|---|---|---|--:|\n");
        for part in &self.parts {
            let seen = match &part.seen {
                Ok(figures) => lines(figures).replace('\n', "<br>"),
                Err(why) => format!("**{}**", why.lines().next().unwrap_or_default()),
            };
            // A String takes everything.
            let _ = writeln!(
                text,
                "| {} | {} | {} | {:.0} |",
                part.name,
                part.promise,
                seen.replace('|', "\\|"),
                part.took.as_secs_f64()
            );
        }
        text
    }
}

fn lines(figures: &[Figure]) -> String {
    figures.iter().map(Figure::to_string).collect::<Vec<_>>().join("\n")
}

fn tenths(took: Duration) -> f64 {
    (took.as_secs_f64() * 10.0).round() / 10.0
}

const MEANING: &str = "\
The packages of `./dev deb` on Debian 12 with systemd, in a machine of software (qemu without KVM, so times are several times
those of a real controller). Everything is done by what a person can type. What is not shown is in
[README.md](README.md).
";

#[cfg(test)]
mod tests {
    use super::*;

    fn report(broken: Option<&str>) -> Report {
        let part = |name, seen| Part {
            name,
            promise: "nothing is lost".into(),
            seen,
            took: Duration::from_millis(61_234),
        };
        let figures = vec![
            Figure::count("images", 300),
            Figure::seconds("back after", Duration::from_millis(2_345)),
            Figure::words("clock", "1970 | wrong"),
        ];
        let mut parts = vec![part("kill", Ok(figures))];
        parts.extend(broken.map(|why| part("hang", Err(why.to_owned()))));
        Report {
            commit: "abc".into(),
            date: "2026-11-22".into(),
            packages: vec!["edge-agent_1_amd64.deb".into()],
            seed: 1,
            is_planted: false,
            parts,
        }
    }

    #[test]
    fn figures_are_for_people_and_for_programs() {
        let report = report(None);
        assert!(report.is_proved());
        let text = report.markdown();
        let line =
            "| kill | nothing is lost | images: 300<br>back after: 2.3 s<br>clock: 1970 \\| wrong | 61 |";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("The packages: edge-agent_1_amd64.deb."), "{text}");
        assert!(text.contains("commit `abc`, 2026-11-22, seed 1. Everything held."), "{text}");
        assert_eq!(report.json()["parts"][0]["figures"]["images"], 300);
        assert_eq!(report.json()["parts"][0]["seconds"], 61.2);
    }

    #[test]
    fn one_that_broke_breaks_all() {
        let report = report(Some("it did not come back\nand so on"));
        assert!(!report.is_proved());
        assert!(report.markdown().contains("**Something broke.**"));
        assert!(report.markdown().contains("| **it did not come back** |"));
        assert!(report.table().to_string().contains("BROKEN"));
        assert_eq!(report.json()["parts"][1]["proved"], false);
    }

    #[test]
    fn nothing_shown_proves_nothing() {
        let report = Report { parts: Vec::new(), ..report(None) };
        assert!(!report.is_proved());
    }
}
