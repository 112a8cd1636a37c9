//! Beside the line: the verbs of replays: send taps again that were told before, and look at, pause and cancel what was
//! begun. Without `--go` it is said what it would mean, and nothing is done.

use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};

use super::deed::{Why, deed};
use super::members::{self, Order, Which, follow, in_a_line};
use super::reading::{open, open_to_write, table};
use super::{ConfigFile, Form, Output, print_json};
use crate::api::replays::{Replay, ReplayRows};
use crate::api::view;
use crate::clock::Clock;
use crate::event_store::DeliveryState;
use crate::event_store::replays::{Doing, ReplayChange};

/// So many members are shown at once, unless said otherwise.
const DEFAULT_ROWS: u16 = 50;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ReplayArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    begin: Begin,
}

#[derive(Debug, Args)]
struct Begin {
    #[command(flatten)]
    which: Which,
    /// Deliveries in these states
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = state, default_value = "delivered,dead")]
    state: Vec<DeliveryState>,
    /// Do it
    #[arg(long, requires = "why")]
    go: bool,
    /// Why, for the log and for whoever asks
    #[arg(long)]
    why: Option<String>,
    /// Also where the destination cannot tell repeats: what it has taken is there twice then
    #[arg(long)]
    even_twice: bool,
    /// Follow it to its end
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// All that were ever made, the newest first
    List {
        /// At most so many
        #[arg(long, default_value_t = 20)]
        limit: u16,
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
    /// One, with what became of each of its deliveries
    Show {
        /// Which
        number: u64,
        /// Only deliveries after this one
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// At most so many deliveries
        #[arg(long, default_value_t = DEFAULT_ROWS)]
        limit: u16,
        /// Follow it to its end first
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
    /// Begin nothing more for now; what is under way ends
    Pause(Changed),
    /// Go on where it was
    Resume(Changed),
    /// Begin nothing more, for ever: what was not begun stays as it was
    Cancel(Changed),
}

#[derive(Debug, Args)]
struct Changed {
    /// Which
    number: u64,
    /// Why, for the log
    #[arg(long)]
    why: String,
    #[command(flatten)]
    config: ConfigFile,
}

fn state(name: &str) -> Result<DeliveryState, String> {
    let ended = DeliveryState::ALL.into_iter().filter(|state| !state.is_open());
    let mut ended = ended.collect::<Vec<_>>().into_iter();
    ended.find(|state| state.name() == name).ok_or_else(|| "use delivered, dead or discarded".to_owned())
}

pub fn run(args: ReplayArgs) -> anyhow::Result<ExitCode> {
    match args.verb {
        None => begin(args.begin),
        Some(Verb::List { limit, config, output }) => list(limit, &config, output.output),
        Some(Verb::Show { number, after, limit, wait, config, output }) => {
            if wait {
                follow(&config, number)?;
            }
            show(number, after, limit, &config, output.output)
        }
        Some(Verb::Pause(changed)) => change(changed, "pause", ReplayChange::Pause),
        Some(Verb::Resume(changed)) => change(changed, "resume", ReplayChange::Resume),
        Some(Verb::Cancel(changed)) => change(changed, "cancel", ReplayChange::Cancel),
    }
}

fn begin(args: Begin) -> anyhow::Result<ExitCode> {
    let Begin { which, state, go, why, even_twice, wait, config, output } = args;
    ensure!(
        which.says_which(),
        "say which taps are meant: --from and --to, or --site, --door, --person, --event. (Deliveries that wait for a \
         person are `cloud-ingest dlq`.)"
    );
    let loaded = config.load()?;
    let mut store = open(&config)?;
    let mut meant = which.meant(&loaded, &mut store)?;
    meant.filter.states = state;
    let forecast = members::forecast(&meant, &loaded, &mut store)?;
    if !go {
        match output.output {
            Form::Json => print_json(&forecast)?,
            Form::Table => {
                members::show(&forecast, &meant.destination)?;
                println!("Nothing is sent: this was a dry run. With --go and --why it is done.");
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let name = &meant.destination.destination;
    ensure!(
        even_twice || forecast.taken_before == 0 || members::tells_repeats(&meant.destination)?,
        "{name} cannot tell repeats, and {} of these it has taken already: they would be there twice. Send only what it \
         refused (--state dead), or say --even-twice",
        forecast.taken_before
    );
    let order = Order { doing: Doing::Replay, why: why.unwrap_or_default(), wait, form: output.output };
    drop(store);
    members::carry_out(meant, order, &loaded, &config)
}

fn list(limit: u16, config: &ConfigFile, form: Form) -> anyhow::Result<ExitCode> {
    let replays = open(config)?.replays(limit.into())?;
    if form == Form::Json {
        print_json(&replays.iter().map(Replay::of).collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = table(["replay", "made", "what", "how far", "who", "why"]);
    for one in &replays {
        table.add_row([
            one.no.to_string(),
            view::time(one.made),
            one.doing.name().replace('_', " "),
            in_a_line(one),
            one.who.clone(),
            one.why.clone(),
        ]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}

fn show(number: u64, after: u64, limit: u16, config: &ConfigFile, form: Form) -> anyhow::Result<ExitCode> {
    let mut store = open(config)?;
    let found = store.replay(number)?;
    let state = found.with_context(|| format!("there is no replay {number}: `replay list` has all"))?;
    let rows = store.replay_rows(number, after, limit.into())?;
    let shown = ReplayRows::of(&state, &rows);
    if form == Form::Json {
        print_json(&shown)?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("replay {number}: {}", in_a_line(&state));
    println!("{} {}: {}", state.who, view::time(state.made), state.why);
    let mut table = table(["no", "event id", "outcome", "why", "before", "ended"]);
    for row in &rows {
        table.add_row([
            row.n.to_string(),
            row.event_id.to_string(),
            row.outcome.name().to_owned(),
            row.detail.clone().unwrap_or_default(),
            row.state_before.map_or_else(String::new, |state| state.name().to_owned()),
            row.ended.map(view::time).unwrap_or_default(),
        ]);
    }
    println!("{table}");
    if let Some(last) = rows.last().filter(|_| rows.len() == usize::from(limit)) {
        println!("there may be more: --after {}", last.n);
    }
    Ok(ExitCode::SUCCESS)
}

fn change(
    Changed { number, why, config }: Changed,
    what: &str,
    change: ReplayChange,
) -> anyhow::Result<ExitCode> {
    let loaded = config.load()?;
    let now = Clock::system().now();
    let deed = deed(now, &format!("{what}_replay"), &number.to_string(), Why(why));
    let mut store = open_to_write(&loaded, now)?;
    let changed = store.change_replay(number, change, &deed)?;
    let state = store.replay(number)?.with_context(|| format!("there is no replay {number}"))?;
    ensure!(changed, "replay {number} cannot be told to {what}: it is {}", state.standing.name());
    println!("replay {number}: {}", in_a_line(&state));
    Ok(ExitCode::SUCCESS)
}
