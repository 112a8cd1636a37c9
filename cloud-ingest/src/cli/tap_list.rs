//! Beside the line: the list of all taps of a day or of any stretch of time, as CSV or JSON lines, a portion at a time: a
//! million taps take no more memory than a thousand. A tap belongs to the day on which it happened, on its site's clock,
//! however late it was stored.

use std::io::{self, BufWriter, Write};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use jiff::tz::TimeZone;

use super::reading::open;
use crate::directory::moment::{self, End};
use crate::event_store::exports::Portion;
use crate::event_store::place::AnyStore;
use crate::event_store::{Site, UtcMs};
use crate::read_model::tap_list::{cells, guarded, header, object};

/// Taps that are read at once.
const PORTION: usize = 1_000;

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people
    Table,
    /// For programs
    Json,
    /// For spreadsheets: all taps of a stretch of time
    Csv,
    /// For programs, a line for each: all taps of a stretch of time
    Jsonl,
}

/// Which taps.
#[derive(Debug, clap::Args)]
pub struct Stretch {
    /// All taps of that day on the site's clock, such as 2026-03-02
    #[arg(long, conflicts_with_all = ["from", "to"])]
    day: Option<String>,
    /// All taps from then on, such as 2026-03-02 or 2026-03-02T08:00:00+01:00
    #[arg(long, requires = "to")]
    from: Option<String>,
    /// All taps up to then; a date is its whole day
    #[arg(long, requires = "from")]
    to: Option<String>,
    /// Only at this site
    #[arg(long, value_name = "SITE")]
    site: Option<String>,
}

impl Stretch {
    /// Whether taps of some time are wanted, and not the newest events.
    pub fn is_given(&self) -> bool {
        self.day.is_some() || self.from.is_some() || self.site.is_some()
    }

    fn within(&self, zone: &TimeZone) -> anyhow::Result<(UtcMs, UtcMs)> {
        let (from, to) = match (&self.day, &self.from, &self.to) {
            (Some(day), ..) => (day, day),
            (None, Some(from), Some(to)) => (from, to),
            _ => bail!("say which taps: --day 2026-03-02, or --from and --to"),
        };
        let (from, to) = (moment::read(from, Some(zone), End::From)?, moment::read(to, Some(zone), End::To)?);
        ensure!(from < to, "that is no stretch of time: it ends before it begins");
        Ok((from, to))
    }
}

/// Writes them to standard output.
pub fn list(config: &super::ConfigFile, stretch: &Stretch, form: Form) -> anyhow::Result<()> {
    let mut store = open(config)?;
    let mut writer = TapWriter::new(form, io::stdout().lock(), &mut store)?;
    let sites = chosen(store.sites()?, stretch.site.as_deref())?;
    for (zone, site) in groups(&sites) {
        let known =
            TimeZone::get(&zone).with_context(|| format!("this machine does not know the zone {zone}"))?;
        let (from, until) = stretch.within(&known)?;
        // One site, or all of them: what lies between is of the same clock.
        let site = site.or(stretch.site.clone());
        let mut portion = Portion::first(from, until, site, PORTION);
        loop {
            let lines = store.taps_by_time(&portion)?;
            let Some(last) = lines.last() else { break };
            portion.after = (last.occurred.at, last.position);
            for line in &lines {
                // Whoever read enough has closed the pipe.
                match writer.write(line) {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                    done => done.context("cannot write the list")?,
                }
            }
        }
    }
    writer.end().context("cannot write the list")?;
    let without = store.taps_without_time()?;
    if without > 0 {
        eprintln!(
            "{without} taps are in no such list yet: nothing has said when they were. `events list --taps` has them"
        );
    }
    Ok(())
}

fn chosen(sites: Vec<Site>, wanted: Option<&str>) -> anyhow::Result<Vec<Site>> {
    let Some(wanted) = wanted else { return Ok(sites) };
    let names: Vec<String> = sites.iter().map(|site| site.id.clone()).collect();
    let site = sites.into_iter().find(|site| site.id == wanted);
    site.map(|site| vec![site])
        .with_context(|| format!("there is no site {wanted:?}; there are {}", names.join(", ")))
}

/// Sites that share a clock are listed together, in one order; others site by site, each day on its own clock.
fn groups(sites: &[Site]) -> Vec<(String, Option<String>)> {
    match sites {
        [] => Vec::new(),
        [first, others @ ..] if others.iter().all(|other| other.zone == first.zone) => {
            vec![(first.zone.clone(), None)]
        }
        _ => sites.iter().map(|site| (site.zone.clone(), Some(site.id.clone()))).collect(),
    }
}

/// Writes lines in one of the forms.
struct TapWriter<W: Write> {
    form: Lines<W>,
    destinations: Vec<String>,
}

enum Lines<W: Write> {
    Csv(Box<csv::Writer<W>>),
    Json(BufWriter<W>),
}

impl<W: Write> TapWriter<W> {
    fn new(form: Form, to: W, store: &mut AnyStore) -> anyhow::Result<TapWriter<W>> {
        let destinations: Vec<String> =
            store.destinations()?.into_iter().map(|state| state.destination).collect();
        let form = match form {
            Form::Csv => {
                // Lines end as RFC 4180 says.
                let mut csv = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(to);
                csv.write_record(header(&destinations))?;
                Lines::Csv(Box::new(csv))
            }
            Form::Jsonl => Lines::Json(BufWriter::new(to)),
            Form::Table | Form::Json => {
                bail!("taps of a stretch of time are written with --output csv or --output jsonl")
            }
        };
        Ok(TapWriter { form, destinations })
    }

    fn write(&mut self, line: &crate::event_store::exports::TapLine) -> io::Result<()> {
        match &mut self.form {
            Lines::Csv(csv) => {
                let cells = cells(line, &self.destinations).into_iter().map(guarded);
                csv.write_record(cells).map_err(io::Error::from)
            }
            Lines::Json(to) => writeln!(to, "{}", object(line, &self.destinations)),
        }
    }

    fn end(self) -> io::Result<()> {
        match self.form {
            Lines::Csv(mut csv) => csv.flush(),
            Lines::Json(mut to) => to.flush(),
        }
    }
}
