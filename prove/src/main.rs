//! `./dev prove`: runs the full figures, says what they showed, and writes it down as evidence. Or runs one state again.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use prove::bait::{Bait, tape_of_sql};
use prove::report::{Origin, Part, Report};
use prove::scenario::{self, Scenario};
use prove::{attacks, bit_flips, engine, fuzzing, io_errors, life, planting, power_loss};

/// The proofs of the outbox and of delivery, and the attacks on the protocol, in full.
#[derive(Debug, Parser)]
#[command(name = "prove", version)]
struct Arguments {
    /// Where all chance comes from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs only this; can be given several times.
    #[arg(long, value_enum)]
    only: Vec<Only>,
    /// How many states of power loss.
    #[arg(long, default_value_t = 210_000)]
    states: u64,
    /// Lets every so many-th call fail; one takes them all.
    #[arg(long, default_value_t = 1)]
    stride: usize,
    /// How many flipped bits.
    #[arg(long, default_value_t = 20_000)]
    flips: u64,
    /// How many random lives.
    #[arg(long, default_value_t = 2_000)]
    lives: u64,
    /// How many random days of the delivery engine.
    #[arg(long, default_value_t = 10_000)]
    days: u64,
    /// How many attacks of each class.
    #[arg(long, default_value_t = 84_000)]
    attacks: u64,
    /// Writes outbox.md, engine.md, attacks.md and the same as JSON into this folder.
    #[arg(long)]
    write: Option<PathBuf>,
    /// The commit that this is, for the evidence.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// The day that this is, for the evidence.
    #[arg(long, default_value = "unknown")]
    date: String,
    /// Prints the evidence as JSON.
    #[arg(long)]
    json: bool,
    /// Runs one state of power loss again, such as append:17:3 or append:17:3+5:9.
    #[arg(long, group = "again")]
    state: Option<power_loss::State>,
    /// Runs one failing call again, such as append:17:full:sticky.
    #[arg(long, group = "again")]
    case: Option<io_errors::Case>,
    /// Flips one bit again, such as killed:1234.
    #[arg(long, group = "again")]
    flip: Option<bit_flips::Case>,
    /// Lives one random life again.
    #[arg(long, group = "again")]
    life: Option<u64>,
    /// Plays one day of the delivery engine again.
    #[arg(long, group = "again")]
    day: Option<u64>,
    /// Tries one attack again, such as fork:17.
    #[arg(long, group = "again")]
    attack: Option<attacks::Case>,
    /// Writes what fuzzers begin with into this folder.
    #[arg(long, group = "again")]
    seeds: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Only {
    PowerLoss,
    IoErrors,
    BitFlips,
    Model,
    Baits,
    Engine,
    Attacks,
    AttackBaits,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Panics are caught, counted and told as what they broke.
    std::panic::set_hook(Box::new(|_| {}));
    if let Some(again) = run_again(&arguments) {
        return match again {
            Ok(said) => {
                println!("{said}");
                ExitCode::SUCCESS
            }
            Err(what) => {
                eprintln!("{what}");
                ExitCode::FAILURE
            }
        };
    }
    let report = match run(&arguments) {
        Ok(report) => report,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    if arguments.json {
        println!("{:#}", report.json());
    } else {
        println!("{}", report.table());
        report.broken().iter().for_each(|line| println!("{line}"));
    }
    let is_proved = report.is_proved();
    if let Some(folder) = &arguments.write
        && let Err(error) = write(report, folder)
    {
        eprintln!("cannot write the evidence to {}: {error}", folder.display());
        return ExitCode::FAILURE;
    }
    if is_proved { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(arguments: &Arguments) -> Result<Report, String> {
    let seed = arguments.seed;
    // A WAL's salts are SQLite's own chance.
    power_loss_vfs::make_salts_repeat(seed as i32);
    let wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    let origin = Origin { commit: arguments.commit.clone(), date: arguments.date.clone(), seed };
    let mut report = Report::new(origin);
    if wanted(Only::PowerLoss) {
        for scenario in scenario::ALL {
            let states = scenario.states_of(arguments.states);
            let tape = scenario.tape();
            let (tally, took) = timed(&format!("power loss: {}", scenario.name), states, |progress| {
                power_loss::prove(scenario.name, &tape, states, seed, progress)
            });
            report.add(Part::power_loss(scenario.name, tape.ops.len(), tally, took));
        }
        let tape = tape_of_sql("full");
        let (tally, took) =
            timed("control", 1_000, |progress| power_loss::prove("control", &tape, 1_000, seed, progress));
        report.add(Part::power_loss("control: own SQL with FULL", tape.ops.len(), tally, took));
    }
    if wanted(Only::IoErrors) {
        for scenario in scenario::ALL {
            let calls = io_errors::calls_of(&scenario) / arguments.stride as u64;
            let (tally, took) = timed(&format!("I/O errors: {}", scenario.name), calls, |progress| {
                io_errors::prove(&scenario, arguments.stride, seed, progress)
            });
            report.add(Part::io_errors(scenario.name, tally, took));
        }
    }
    if wanted(Only::BitFlips) {
        let (tally, took) =
            timed("bit flips", arguments.flips, |progress| bit_flips::prove(arguments.flips, seed, progress));
        report.add(Part::bit_flips(tally, took));
    }
    if wanted(Only::Model) {
        let (tally, took) =
            timed("model", arguments.lives, |progress| life::prove(arguments.lives, seed, progress));
        report.add(Part::model(tally, took));
    }
    if wanted(Only::Baits) {
        for bait in Bait::ALL {
            let tape = bait.tape();
            let name = bait.to_string();
            let (tally, took) = timed(&format!("bait: {name}"), 1_000, |progress| {
                power_loss::prove("bait", &tape, 1_000, seed, progress)
            });
            report.add(Part::bait(&name, tally, took));
        }
    }
    if wanted(Only::Engine) {
        let (tally, took) =
            timed("engine", arguments.days, |progress| engine::prove(arguments.days, seed, progress));
        report.add(Part::engine(tally, took));
    }
    if wanted(Only::Attacks) {
        for class in attacks::Class::ALL {
            let (tally, took) = timed(&format!("attacks: {}", class.name()), arguments.attacks, |progress| {
                attacks::prove(class, arguments.attacks, seed, progress)
            });
            report.add(Part::attacks(class.name(), tally, took));
        }
    }
    if wanted(Only::AttackBaits) {
        take_checks_away(1_000, &mut report)?;
    }
    Ok(report)
}

/// With a bar, where somebody looks.
fn timed<T>(what: &str, count: u64, work: impl FnOnce(&(dyn Fn(u64) + Sync)) -> T) -> (T, Duration) {
    let bar = match std::io::stderr().is_terminal() {
        true => ProgressBar::new(count),
        false => ProgressBar::hidden(),
    };
    let style = ProgressStyle::with_template("{msg:32} {bar:40} {pos}/{len}  {per_sec}  {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what.to_owned());
    #[expect(
        clippy::disallowed_methods,
        reason = "how long a proof takes is told, and nothing depends on it"
    )]
    let began = Instant::now();
    let done = work(&|n| bar.inc(n));
    bar.finish_and_clear();
    (done, began.elapsed())
}

fn run_again(arguments: &Arguments) -> Option<Result<String, String>> {
    power_loss_vfs::make_salts_repeat(arguments.seed as i32);
    let fine = || "nothing is broken".to_owned();
    let unknown = |name: &str| format!("there is no scenario {name:?}");
    if let Some(state) = &arguments.state {
        let scenario = Scenario::named(&state.scenario).ok_or_else(|| unknown(&state.scenario));
        return Some(
            scenario.and_then(|scenario| power_loss::replay(&scenario.tape(), state)).map(|()| fine()),
        );
    }
    if let Some(case) = &arguments.case {
        let scenario = Scenario::named(&case.scenario).ok_or_else(|| unknown(&case.scenario));
        return Some(scenario.and_then(|scenario| {
            let refused =
                io_errors::replay(&scenario, case, arguments.seed).map_err(|wrong| wrong.to_string())?;
            Ok(format!("{refused} acts were refused, {}", fine()))
        }));
    }
    if let Some(case) = &arguments.flip {
        let subject = bit_flips::ALL.into_iter().find(|subject| subject.name == case.subject);
        let subject = subject.ok_or_else(|| unknown(&case.subject));
        return Some(subject.map(|subject| format!("{:#?}", bit_flips::replay(&subject, case.seed))));
    }
    if let Some(case) = arguments.attack {
        return Some(attacks::replay(case));
    }
    if let Some(day) = arguments.day {
        return Some(engine::again(arguments.seed, day).map(|facts| format!("{facts:?}: {}", fine())));
    }
    if let Some(folder) = &arguments.seeds {
        return Some(
            write_seeds(folder).map_err(|error| format!("cannot write to {}: {error}", folder.display())),
        );
    }
    arguments.life.map(|n| life::live(arguments.seed, n).map(|()| fine()))
}

fn write_seeds(folder: &Path) -> std::io::Result<String> {
    for target in fuzzing::ALL {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (n, bytes) in fuzzing::seeds::of(target.name).iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{n:02}")), bytes)?;
        }
    }
    Ok(format!("{} targets have their seeds", fuzzing::ALL.len()))
}

/// A page each for the outbox and for the attacks; one that nothing was proved for stays as it is.
fn write(report: Report, folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for (name, page) in report.by_page().into_iter().filter(|(_, page)| !page.is_empty()) {
        std::fs::write(folder.join(format!("{name}.md")), page.markdown())?;
        std::fs::write(folder.join(format!("{name}.json")), format!("{:#}\n", page.json()))?;
    }
    Ok(())
}

/// Takes every check away, in a copy beside what this was built into.
fn take_checks_away(cases: u64, report: &mut Report) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = program.ancestors().nth(2).ok_or("it is in no target folder")?;
    let (caught, took) = timed("checks taken away", 1, |_| planting::play(target, cases));
    let caught = caught.map_err(|error| error.to_string())?;
    let baits = planting::all();
    let files: BTreeSet<&str> = baits.iter().map(|bait| bait.file).collect();
    for file in files {
        let of_file: Vec<_> = caught.iter().filter(|caught| baits[caught.bait].file == file).collect();
        let names: Vec<String> =
            of_file.iter().map(|caught| format!("{} ({})", baits[caught.bait].name, caught.class)).collect();
        let checks = baits.iter().filter(|bait| bait.file == file).count() as u64;
        // All files together took it; each tells its share.
        let share = took.mul_f64(of_file.len() as f64 / caught.len().max(1) as f64);
        report.add(Part::taken_away(file, checks, &of_file, &names, share));
    }
    Ok(())
}
