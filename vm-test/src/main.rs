//! `./dev vm-test`: plays the scenarios on a booted Debian, says what they showed, and writes it down as evidence.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::builder::PossibleValuesParser;
use clap::{Parser, ValueEnum};
use indicatif::ProgressBar;
use vm_test::host;
use vm_test::image::Image;
use vm_test::packages::Packages;
use vm_test::report::{Part, Report};
use vm_test::scenario::{self, Fault, Scenario, Stage};

/// The packages on a booted Debian: installed, killed, hung, rebooted, cut off from power.
#[derive(Debug, Parser)]
#[command(name = "vm-test", version)]
struct Arguments {
    /// Where all chance comes from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Plays only this; can be given several times.
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(scenario::ALL.map(|each| each.name)))]
    only: Vec<String>,
    /// Plays each with a fault planted, which must break it: the test of the test.
    #[arg(long)]
    planted: bool,
    /// How many images of the disk a power cut is judged by.
    #[arg(long, default_value_t = 300)]
    images: usize,
    /// Where the packages are.
    #[arg(long, value_name = "DIR", default_value = "target/debian")]
    debs: PathBuf,
    /// Where the Debian is kept, and the files of the scenarios.
    #[arg(long, value_name = "DIR", default_value = "target/vm")]
    work: PathBuf,
    /// Writes vm.md and vm.json into this folder; vm-planted.md and .json with --planted.
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    /// The commit that this is, for the evidence.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// The day that this is, for the evidence.
    #[arg(long, default_value = "unknown")]
    date: String,
    /// For people or for programs.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    #[default]
    Text,
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything held.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let scenarios = wanted(&arguments.only);
    let plays = plays(&scenarios, arguments.planted);
    ensure!(
        !plays.is_empty(),
        "there is no fault to plant in power cuts: what would be noticed, power-cut-control shows"
    );
    host::has_all_programs()?;
    let progress = Progress::new();
    std::fs::create_dir_all(&arguments.work)
        .with_context(|| format!("making {}", arguments.work.display()))?;
    let work = arguments.work.canonicalize()?;
    let image = Image::at(&work);
    if !image.is_made() {
        progress.timed("image", |_| image.make()).1?;
    }
    let packages =
        progress.timed("packages", |_| Packages::lay_out(&arguments.debs, &work.join("packages"))).1?;
    let mut report = Report {
        commit: arguments.commit.clone(),
        date: arguments.date.clone(),
        packages: packages.sums().to_vec(),
        seed: arguments.seed,
        is_planted: arguments.planted,
        parts: Vec::new(),
    };
    for (scenario, fault) in plays {
        let folder = work.join(scenario.name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder)?;
        let (took, seen) = progress.timed(scenario.name, |tell| {
            (scenario.play)(&Stage {
                image: &image,
                packages: &packages,
                folder: &folder,
                seed: arguments.seed,
                images: arguments.images,
                fault,
                tell,
            })
        });
        let seen = seen.map_err(|error| format!("{error:#}"));
        let (promise, seen) = match fault {
            None => (scenario.promise.to_owned(), seen),
            Some(fault) => (format!("with {}, it breaks", fault.what), fault.judge(seen)),
        };
        if seen.is_ok() {
            // What broke is kept, to be looked at.
            std::fs::remove_dir_all(&folder)?;
        }
        report.parts.push(Part { name: scenario.name, promise, seen, took });
    }
    match arguments.output {
        Output::Text => println!("{}", report.table()),
        Output::Json => println!("{:#}", report.json()),
    }
    if let Some(folder) = &arguments.write {
        let name = if arguments.planted { "vm-planted" } else { "vm" };
        let to = |extension: &str| folder.join(name).with_extension(extension);
        std::fs::write(to("md"), report.markdown())
            .and_then(|()| std::fs::write(to("json"), format!("{:#}\n", report.json())))
            .with_context(|| format!("writing the evidence to {}", folder.display()))?;
    }
    Ok(report.is_proved())
}

/// The scenarios of these names, or all.
fn wanted(only: &[String]) -> Vec<Scenario> {
    let is_wanted = |scenario: &Scenario| only.is_empty() || only.iter().any(|name| name == scenario.name);
    scenario::ALL.into_iter().filter(is_wanted).collect()
}

/// What is played: each as it is, or each once with every fault of its own.
fn plays(scenarios: &[Scenario], planted: bool) -> Vec<(&Scenario, Option<&'static Fault>)> {
    let mut plays = Vec::new();
    for scenario in scenarios {
        match planted {
            false => plays.push((scenario, None)),
            true => plays.extend(scenario.faults.iter().map(|fault| (scenario, Some(fault)))),
        }
    }
    plays
}

/// Says what is done: a line that moves where somebody looks, lines in a log elsewhere.
struct Progress {
    is_watched: bool,
}

impl Progress {
    fn new() -> Progress {
        Progress { is_watched: std::io::stderr().is_terminal() }
    }

    /// Does it, and says how long it took.
    fn timed<T>(&self, name: &str, work: impl FnOnce(&dyn Fn(&str)) -> T) -> (Duration, T) {
        let spinner = if self.is_watched { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        spinner.enable_steady_tick(Duration::from_millis(120));
        spinner.set_message(name.to_owned());
        #[expect(
            clippy::disallowed_methods,
            reason = "how long a scenario takes is told, and nothing depends on it"
        )]
        let began = Instant::now();
        let tell = |what: &str| {
            spinner.set_message(format!("{name}: {what}"));
            if !self.is_watched {
                eprintln!("{:4} s  {name}: {what}", began.elapsed().as_secs());
            }
        };
        if !self.is_watched {
            eprintln!("{name}");
        }
        let done = work(&tell);
        spinner.finish_and_clear();
        (began.elapsed(), done)
    }
}
