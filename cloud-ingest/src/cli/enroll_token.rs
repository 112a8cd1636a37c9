//! Beside the line: the verbs of enrolment tokens: for one door, or for forty in one step.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use csv::ReaderBuilder;
use data_encoding::BASE32_NOPAD;
use ring::digest::{SHA256, digest};
use serde::Serialize;
use tap_protocol::enrolment::EnrollToken;
use tap_protocol::ids::ControllerId;

use super::deed::{Why, deed};
use super::reading::{open, open_or_make, table};
use super::{ConfigFile, Form, Output, print_json};
use crate::api::view;
use crate::clock::Clock;
use crate::event_store::{NewToken, TokenId, TokenState, UtcMs};
use crate::keyring::{Keys, random};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a token that lets one controller in, once; it is shown once
    Create(Create),
    /// All tokens, and what became of them; never their secrets
    List {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
    /// Take a token back
    Withdraw {
        /// Its number, as `list` shows it
        id: String,
        /// Why, for the log
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        config: ConfigFile,
    },
}

#[derive(Debug, Args)]
pub struct Create {
    /// The controller's name for life, such as hq-door-12
    #[arg(long, required_unless_present = "batch", conflicts_with = "batch")]
    controller: Option<ControllerId>,
    /// One of the configured sites
    #[arg(long, required_unless_present = "batch", conflicts_with = "batch")]
    site: Option<String>,
    /// What people call it
    #[arg(long, required_unless_present = "batch", conflicts_with = "batch")]
    label: Option<String>,
    /// A CSV file with the columns controller, site and label: one token each
    #[arg(long, value_name = "FILE")]
    batch: Option<PathBuf>,
    /// How long it may be used, such as 24h or 7d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration_ms)]
    valid: i64,
    #[command(flatten)]
    config: ConfigFile,
    /// For people or for programs
    #[arg(long, value_name = "FORM", default_value = "table")]
    output: MadeForm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MadeForm {
    Table,
    Csv,
    Json,
}

/// A door that is to be let in.
struct Door {
    controller: ControllerId,
    site: String,
    label: String,
}

/// A token as it is shown, this once.
#[derive(Debug, Serialize)]
struct Made {
    controller: ControllerId,
    label: String,
    expires: String,
    token: String,
    command: String,
}

/// A token must not lie around for years.
const MAX_VALID_MS: i64 = 90 * 24 * 3_600 * 1_000;

/// More doors than any building has.
const MAX_BATCH: usize = 1_000;

pub fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Create(args) => create(args)?,
        Verb::List { config, output } => list(&config, output.output)?,
        Verb::Withdraw { id, reason, config } => withdraw(&id, reason, &config)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn create(args: Create) -> anyhow::Result<()> {
    let loaded = args.config.load()?;
    let settings = loaded.enrolment.as_ref().context("there is no [enrolment] in the configuration yet")?;
    let keys = Keys::load(&loaded.keys.dir)?;
    // The root that vouches for the listener is the one that a new controller meets.
    let root =
        keys.server_root().context("there is no root here yet: make it with `cloud-ingest ca init`")?;
    let doors = match (&args.batch, args.controller, args.site, args.label) {
        (Some(file), ..) => read_doors(file)?,
        (None, Some(controller), Some(site), Some(label)) => vec![Door { controller, site, label }],
        (None, ..) => bail!("--controller, --site and --label belong together"),
    };
    if let Some(door) = doors.iter().find(|door| door.controller.as_str() == loaded.broker.client_id) {
        bail!("{} is what the service itself is called at the broker: choose another name", door.controller);
    }
    let now = Clock::system().now();
    let expires = UtcMs(now.0 + args.valid);
    let mut known = Vec::new();
    let mut made = Vec::new();
    for Door { controller, site, label } in doors {
        let token = EnrollToken { id: random()?, secret: random()?, root_pin: root.pin() };
        let hash = digest(&SHA256, &token.secret);
        known.push(NewToken {
            id: token.id,
            secret_sha256: hash.as_ref().try_into().expect("SHA-256 has 32 bytes"),
            controller: controller.clone(),
            site,
            label: label.clone(),
            expires,
        });
        let url = settings.url.trim_end_matches('/');
        let command = format!("edge-agent enroll --url {url} --token {token}");
        made.push(Made {
            controller,
            label,
            expires: view::time(expires),
            token: token.to_string(),
            command,
        });
    }
    let about = match known.as_slice() {
        [one] => one.controller.to_string(),
        many => format!("{} controllers", many.len()),
    };
    let mut store = open_or_make(&loaded, now)?;
    // The configuration may have been changed since the service started.
    for site in loaded.sites() {
        store.put_site(&site)?;
    }
    store
        .put_enroll_tokens(&known, &deed(now, "create_token", &about, Why(String::new())))
        .context("no token was made")?;
    match args.output {
        MadeForm::Json => print_json(&made)?,
        MadeForm::Csv => print!("{}", as_csv(&made)?),
        MadeForm::Table => show(&made),
    }
    Ok(())
}

fn show(made: &[Made]) {
    if let [one] = made {
        println!("type this at {} ({}), once, before {}:\n", one.controller, one.label, one.expires);
        println!("  {}\n", one.command);
    } else {
        let mut table = table(["controller", "label", "until", "type this at the door, once"]);
        for one in made {
            let controller = one.controller.to_string();
            table.add_row([controller, one.label.clone(), one.expires.clone(), one.command.clone()]);
        }
        println!("{table}");
    }
    println!("the token is not shown again: it is as good as a key until it is used");
}

fn as_csv(made: &[Made]) -> anyhow::Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["controller", "label", "expires", "token", "command"])?;
    for one in made {
        let controller = one.controller.as_str();
        writer.write_record([controller, &one.label, &one.expires, &one.token, &one.command])?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

/// All lines or none: half a building that is let in is worse than none.
fn read_doors(file: &Path) -> anyhow::Result<Vec<Door>> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    let header = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let delimiter = if header.contains(&b';') { b';' } else { b',' };
    let mut reader = ReaderBuilder::new().delimiter(delimiter).trim(csv::Trim::All).from_reader(text);
    let header = reader.headers()?.clone();
    let column = |name: &str| {
        let found = header.iter().position(|cell| cell.eq_ignore_ascii_case(name));
        found.with_context(|| {
            format!("{}: the first line must name controller, site and label", file.display())
        })
    };
    let (controller, site, label) = (column("controller")?, column("site")?, column("label")?);
    let mut doors: Vec<Door> = Vec::new();
    for row in reader.records() {
        let row = row.with_context(|| format!("{} cannot be read", file.display()))?;
        let line = row.position().map_or(0, csv::Position::line);
        let at = || format!("{}, line {line}", file.display());
        let cell = |column: usize| row.get(column).unwrap_or_default();
        let id: ControllerId = cell(controller).parse().with_context(at)?;
        ensure!(doors.iter().all(|door| door.controller != id), "{}: {id} stands there twice", at());
        ensure!(!cell(site).is_empty() && !cell(label).is_empty(), "{}: site and label are needed", at());
        doors.push(Door { controller: id, site: cell(site).to_owned(), label: cell(label).to_owned() });
        ensure!(doors.len() <= MAX_BATCH, "{} has more than {MAX_BATCH} doors", file.display());
    }
    ensure!(!doors.is_empty(), "{} has no doors", file.display());
    Ok(doors)
}

/// A token's line, without its secret.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    controller: ControllerId,
    site: String,
    label: String,
    state: &'static str,
    created: String,
    expires: String,
    used: Option<String>,
    withdrawn: Option<String>,
}

impl Row {
    fn of(state: &TokenState, now: UtcMs) -> Row {
        let word = match state {
            TokenState { used: Some(_), .. } => "used",
            TokenState { withdrawn: Some(_), .. } => "withdrawn",
            TokenState { token, .. } if token.expires <= now => "expired",
            TokenState { .. } => "open",
        };
        Row {
            id: text(&state.token.id),
            controller: state.token.controller.clone(),
            site: state.token.site.clone(),
            label: state.token.label.clone(),
            state: word,
            created: view::time(state.created),
            expires: view::time(state.token.expires),
            used: state.used.as_ref().map(|(used, _)| view::time(*used)),
            withdrawn: state.withdrawn.map(view::time),
        }
    }
}

fn list(config: &ConfigFile, form: Form) -> anyhow::Result<()> {
    let now = Clock::system().now();
    let tokens = open(config)?.enroll_tokens()?;
    let rows: Vec<Row> = tokens.iter().map(|state| Row::of(state, now)).collect();
    if form == Form::Json {
        return print_json(&rows);
    }
    let mut table = table(["token", "controller", "label", "state", "created", "expires"]);
    for row in rows {
        let controller = row.controller.to_string();
        table.add_row([row.id, controller, row.label, row.state.into(), row.created, row.expires]);
    }
    println!("{table}");
    Ok(())
}

fn withdraw(id: &str, reason: String, config: &ConfigFile) -> anyhow::Result<()> {
    let decoded = BASE32_NOPAD.decode(id.to_ascii_uppercase().as_bytes()).ok();
    let number: Option<TokenId> = decoded.and_then(|bytes| bytes.try_into().ok());
    let number = number.with_context(|| format!("{id} is no token's number: see `enroll-token list`"))?;
    let now = Clock::system().now();
    let taken = open_or_make(&config.load()?, now)?
        .withdraw_enroll_token(number, &deed(now, "withdraw_token", id, Why(reason)))?;
    ensure!(taken, "there is no token {id}, or it was taken back before");
    println!("token {id} lets nobody in any more");
    Ok(())
}

fn text(id: &TokenId) -> String {
    BASE32_NOPAD.encode(id).to_ascii_lowercase()
}

/// `90m`, `24h` or `7d` in milliseconds.
fn duration_ms(text: &str) -> Result<i64, String> {
    let wrong = || "write it like 90m, 24h or 7d; at most 90 days".to_owned();
    let (number, unit_ms) = match text.trim().split_at_checked(text.trim().len().saturating_sub(1)) {
        Some((number, "m")) => (number, 60_000),
        Some((number, "h")) => (number, 3_600_000),
        Some((number, "d")) => (number, 86_400_000),
        _ => return Err(wrong()),
    };
    let number: i64 = number.parse().map_err(|_| wrong())?;
    let ms = number.checked_mul(unit_ms).ok_or_else(wrong)?;
    if (1..=MAX_VALID_MS).contains(&ms) { Ok(ms) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(duration_ms("90m"), Ok(5_400_000));
        assert_eq!(duration_ms("24h"), Ok(86_400_000));
        assert_eq!(duration_ms("7d"), Ok(604_800_000));
        for bad in ["", "h", "0h", "-1h", "91d", "24", "24 hours", "99999999999999999d", "é"] {
            assert!(duration_ms(bad).is_err(), "{bad}");
        }
    }

    fn doors(text: &str) -> anyhow::Result<Vec<String>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let doors = read_doors(file.path())?.into_iter();
        Ok(doors.map(|door| format!("{}|{}|{}", door.controller, door.site, door.label)).collect())
    }

    #[test]
    fn a_building_is_read_from_a_spreadsheet_all_or_nothing() {
        let read =
            doors("\u{feff}Label;Controller;Site\r\nMain entrance;hq-door-1;hq\r\nYard;hq-door-2;hq\r\n");
        assert_eq!(read.unwrap(), ["hq-door-1|hq|Main entrance", "hq-door-2|hq|Yard"]);
        for (bad, said) in [
            ("controller,site\na,hq\n", "must name controller, site and label"),
            ("controller,site,label\nA B,hq,x\n", "line 2"),
            ("controller,site,label\na,hq,x\na,hq,y\n", "stands there twice"),
            ("controller,site,label\na,,x\n", "site and label are needed"),
            ("controller,site,label\n", "has no doors"),
        ] {
            let refused = format!("{:#}", doors(bad).unwrap_err());
            assert!(refused.contains(said), "{bad:?}: {refused}");
        }
    }
}
