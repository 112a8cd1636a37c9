//! `edge-agent config`: what the configuration says, what each key means, and one change at a time. A change is checked
//! as a whole before it is written, so that there never is a wrong file on the disk.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use edge_agent::config::keys::{Default as KeyDefault, KEYS, Key, Kind, find};
use edge_agent::config::{EXIT_CONFIG, Written, layers};
use serde_json::json;
use strict_config::{Layers, to_toml};

use super::{ConfigArg, EXIT_USAGE, Output, complain, say};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Say whether the configuration is right, and what is wrong with it.
    Check {
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Print the value of one key: what holds now, said or default.
    Get {
        /// Such as broker.url or reader[0].name.
        key: String,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Change one key in its file; comments and everything else stay. The agent reads it when it is restarted.
    Set {
        /// Such as broker.url or reader[0].name.
        key: String,
        /// The new value, such as mqtts://broker.example.com or 1500.
        value: String,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Print what holds for every key and where it is said.
    List {
        /// Explain every key instead: type, default, variable, meaning. Needs no configuration.
        #[arg(long)]
        doc: bool,
        #[command(flatten)]
        config: ConfigArg,
        /// For people or for scripts.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
}

impl Verb {
    pub fn run(self) -> ExitCode {
        let done = match self {
            Verb::Check { config } => check(&config.config),
            Verb::Get { key, config } => get(&key, &config.config),
            Verb::Set { key, value, config } => set(&key, &value, &config.config),
            Verb::List { doc: true, output, .. } => {
                say(&document(output));
                Ok(())
            }
            Verb::List { config, output, .. } => list(&config.config, output),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err((code, why)) => {
                complain(&why);
                ExitCode::from(code)
            }
        }
    }
}

/// An exit code and a sentence.
type Failure = (u8, String);

fn wrong_config(error: impl ToString) -> Failure {
    (EXIT_CONFIG, error.to_string())
}

fn check(path: &Path) -> Result<(), Failure> {
    let layers = layers(path).map_err(wrong_config)?;
    Written::from_layers(&layers).map_err(wrong_config)?;
    let drop_ins = layers.files().count() - 1;
    let more = if drop_ins == 0 { String::new() } else { format!(" (with {drop_ins} drop-ins)") };
    say(&format!("{}{more} is fine\n", path.display()));
    Ok(())
}

fn get(path: &str, file: &Path) -> Result<(), Failure> {
    let key = known(path)?;
    let layers = layers(file).map_err(wrong_config)?;
    Written::from_layers(&layers).map_err(wrong_config)?;
    let value = match (layers.get(path), key.default) {
        (Some((toml::Value::String(text), _)), _) => text,
        (Some((value, _)), _) => value.to_string(),
        (None, KeyDefault::Is(default)) => default.trim_matches('"').to_owned(),
        (None, _) => return Err((1, format!("{path} is not set"))),
    };
    say(&format!("{value}\n"));
    Ok(())
}

fn set(path: &str, value: &str, main: &Path) -> Result<(), Failure> {
    let key = known(path)?;
    if matches!(key.kind, Kind::Table | Kind::List) {
        return Err((EXIT_USAGE, format!("{path} is a {}: set one of its keys", key.type_name())));
    }
    let toml = to_toml(key.value(), value).map_err(|why| (EXIT_USAGE, format!("{path}: {why}")))?;
    let layers = layers(main).map_err(wrong_config)?;
    // What wins now is what has to change; a key that nobody said goes where its table is, or to the main file.
    let mut around = std::iter::successors(Some(path), |inner| Some(inner.rsplit_once('.')?.0));
    let file = match around.find_map(|place| layers.get(place)) {
        None => main.to_owned(),
        Some((_, place)) => place.file.clone().ok_or_else(|| {
            let why = format!("{path} is given by the {place}, which wins over every file: change it there");
            (1, why)
        })?,
    };
    let old = layers.text_of(&file).unwrap_or_default();
    // An entry of a list counts through all files; within its own file it may have another number.
    let here = place_in_file(&layers, &file, path);
    let new = strict_config::set(old, &here, &toml)
        .map_err(|why| (1, format!("{}: {path} cannot be set: {why}", file.display())))?;
    Written::from_layers(&layers.clone().with_text(&file, &new)).map_err(|error| {
        (EXIT_CONFIG, format!("nothing was changed, because this would be wrong: {error}"))
    })?;
    if new == old {
        say(&format!("{path} was {value} already, in {}\n", file.display()));
        return Ok(());
    }
    replace(&file, &new).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::PermissionDenied => ": run this as root (sudo)",
            _ => "",
        };
        (1, format!("cannot write {}: {error}{hint}; nothing was changed", file.display()))
    })?;
    say(&format!(
        "{path} is now {value}, in {}\nsystemctl restart edge-agent makes it hold.\n",
        file.display()
    ));
    Ok(())
}

/// `reader[2].name` may be `reader[0].name` in the drop-in that adds it.
fn place_in_file(layers: &Layers, file: &Path, path: &str) -> String {
    let Some((list, rest)) = path.split_once('[') else { return path.to_owned() };
    let Some((index, rest)) = rest.split_once(']') else { return path.to_owned() };
    let Ok(index) = index.parse::<usize>() else { return path.to_owned() };
    let elsewhere = layers.files().take_while(|other| *other != file).filter_map(|other| {
        let text = layers.text_of(other)?;
        let table: toml::Table = toml::from_str(text).ok()?;
        Some(table.get(list)?.as_array()?.len())
    });
    format!("{list}[{}]{rest}", index - elsewhere.sum::<usize>().min(index))
}

/// Whole or not at all: a new file beside the old one, with its owner and mode, takes its name.
fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    // Behind a link the file itself is replaced, not the link.
    let file = file.canonicalize()?;
    let before = std::fs::metadata(&file)?;
    let folder = file.parent().unwrap_or(Path::new("/"));
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    // Not *.toml: nothing reads it, should it be left behind.
    let draft = folder.join(format!(".{name}.new"));
    let write = || {
        let mut out = File::create(&draft)?;
        out.set_permissions(Permissions::from_mode(before.mode() & 0o7777))?;
        let now = out.metadata()?;
        if (now.uid(), now.gid()) != (before.uid(), before.gid()) {
            std::os::unix::fs::fchown(&out, Some(before.uid()), Some(before.gid()))?;
        }
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        std::fs::rename(&draft, &file)?;
        File::open(folder)?.sync_all()
    };
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&draft);
    })
}

fn list(file: &Path, output: Output) -> Result<(), Failure> {
    let layers = layers(file).map_err(wrong_config)?;
    Written::from_layers(&layers).map_err(wrong_config)?;
    let mut lines: Vec<(String, String, String)> = layers
        .all()
        .into_iter()
        // An empty table says nothing, unless it says how a reader is connected.
        .filter(|(path, value, _)| path.contains('[') || !value.as_table().is_some_and(toml::Table::is_empty))
        .map(|(path, value, place)| (path, value.to_string(), place.to_string()))
        .collect();
    for key in KEYS.iter().filter(|key| !key.path.contains('[') && layers.get(key.path).is_none()) {
        if let KeyDefault::Is(default) = key.default {
            lines.push((key.path.to_owned(), default.to_owned(), "default".into()));
        }
    }
    lines.sort();
    let text = match output {
        Output::Json => {
            let object = |(key, value, from): &(String, String, String)| json!({"key": key, "value": value, "from": from});
            pretty(&lines.iter().map(object).collect::<Vec<_>>())
        }
        Output::Text => {
            let width = lines.iter().map(|(path, value, _)| path.len() + value.len() + 3).max().unwrap_or(0);
            let line = |(path, value, from): &(String, String, String)| {
                format!("{:<width$}  # {from}\n", format!("{path} = {value}"))
            };
            lines.iter().map(line).collect()
        }
    };
    say(&text);
    Ok(())
}

fn document(output: Output) -> String {
    match output {
        Output::Json => {
            let object = |key: &Key| {
                json!({
                    "key": key.path,
                    "type": key.type_name(),
                    "required": key.default == KeyDefault::Required,
                    "default": match key.default { KeyDefault::Is(default) => Some(default), _ => None },
                    "variable": key.variable(),
                    "meaning": key.meaning,
                })
            };
            pretty(&KEYS.iter().map(object).collect::<Vec<_>>())
        }
        Output::Text => KEYS.iter().map(paragraph).collect::<Vec<_>>().join("\n"),
    }
}

fn paragraph(key: &Key) -> String {
    let default = match key.default {
        KeyDefault::Required => "must be said".to_owned(),
        KeyDefault::Unset => "not set unless said".to_owned(),
        KeyDefault::Is(default) => format!("default {default}"),
    };
    let variable = key.variable().map(|variable| format!("; variable {variable}")).unwrap_or_default();
    let meaning = wrap(key.meaning, 96, "    ");
    format!("{} ({}; {default}{variable})\n{meaning}", key.path, key.type_name())
}

/// Lines of at most `width` letters, each after `indent`.
fn wrap(text: &str, width: usize, indent: &str) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.len() + 1 + word.len() > width {
            lines.push_str(&format!("{indent}{line}\n"));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines + &format!("{indent}{line}\n")
}

fn pretty(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

fn known(path: &str) -> Result<&'static Key, Failure> {
    find(path).map_err(|meant| {
        let hint = match meant {
            Some(meant) => format!("did you mean {meant}?"),
            None => "edge-agent config list --doc explains every key".to_owned(),
        };
        (EXIT_USAGE, format!("there is no key {path}: {hint}"))
    })
}
