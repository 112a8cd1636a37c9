//! Beside the line: several texts that make up one configuration: a file, the drop-ins beside it, the environment. Knows
//! how they are laid over each other and from which of them each value came; reads no variable by itself.
//!
//! Later layers win, key by key. Entries of a `[[list]]` in a file are added to those before them; the environment
//! replaces a list as a whole.
//!
//! Positions: each layer is parsed as if it stood behind all layers before it, so an offset alone names layer and line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer, ValueDeserializer};

use crate::{ConfigError, closest, explain, line_of, offset_of, path_at};

/// Drop-ins lie in the folder of this name beside the file.
const DROP_INS: &str = "conf.d";

/// No hand-written configuration is longer; what is, is something else.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What a value of the environment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// The variable's text as it is.
    Text,
    /// TOML: a number, a truth value, a list.
    Toml,
}

/// All texts that make up one configuration, in the order in which the later ones win.
#[derive(Debug, Clone)]
pub struct Layers(Vec<Layer>);

#[derive(Debug, Clone)]
struct Layer {
    /// As it is shown in errors.
    name: String,
    /// `None` for the environment.
    file: Option<PathBuf>,
    text: String,
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, or the environment's variable, in words.
    pub name: String,
    /// Which file can be edited to change it; `None` for the environment.
    pub file: Option<PathBuf>,
    /// Counted from 1; `None` for the environment.
    pub line: Option<usize>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl Layers {
    /// One text alone, the content of `file`.
    pub fn of(file: &str, text: &str) -> Layers {
        Layers(vec![Layer { name: file.into(), file: Some(file.into()), text: text.into() }])
    }

    /// `file`, and every `*.toml` in the folder `conf.d` beside it, in the order of their names.
    pub fn read(file: &Path) -> Result<Layers, ConfigError> {
        let mut files = vec![file.to_owned()];
        files.extend(drop_ins(file)?);
        let layer = |file: PathBuf| {
            let text = read(&file)?;
            Ok(Layer { name: file.display().to_string(), file: Some(file), text })
        };
        files.into_iter().map(layer).collect::<Result<_, ConfigError>>().map(Layers)
    }

    /// Adds what variables named `PREFIX_…` say. `a.b_c` is `PREFIX_A__B_C`; with `_FILE` behind it, the variable names a
    /// file that holds the value. `keys` are those that can be given in this way.
    pub fn with_environment<'a>(
        mut self,
        prefix: &str,
        keys: impl IntoIterator<Item = (&'a str, Value)>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Layers, ConfigError> {
        let keys: Vec<_> = keys.into_iter().collect();
        let ours = |(name, value): (OsString, OsString)| {
            let rest = name.to_str()?.strip_prefix(prefix)?.strip_prefix('_')?;
            Some((name.to_str()?.to_owned(), rest.to_lowercase().replace("__", "."), value))
        };
        let mut variables: Vec<_> = variables.into_iter().filter_map(ours).collect();
        variables.sort();
        for (variable, path, value) in variables {
            self.0.push(from_environment(&variable, &path, value, &keys, prefix)?);
        }
        Ok(self)
    }

    /// The files, the first one first.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().filter_map(|layer| layer.file.as_deref())
    }

    /// The text of one of [`Layers::files`].
    pub fn text_of(&self, file: &Path) -> Option<&str> {
        self.0.iter().find(|layer| layer.file.as_deref() == Some(file)).map(|layer| layer.text.as_str())
    }

    /// The same with another text in one of its files.
    pub fn with_text(mut self, file: &Path, text: &str) -> Layers {
        for layer in self.0.iter_mut().filter(|layer| layer.file.as_deref() == Some(file)) {
            layer.text = text.to_owned();
        }
        self
    }

    /// All layers laid over each other, as a value.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        let texts = self.texts();
        let merged = self.merged(&texts)?;
        T::deserialize(Deserializer::from(merged.clone())).map_err(|error| {
            let offset = error.span().map(|span| span.start);
            let path = offset.map(|offset| path_at(merged.get_ref(), offset)).unwrap_or_default();
            self.error(offset, explain(error.message(), &path))
        })
    }

    /// An error found after reading, such as two entries with one id: at the key that `path` names, for example
    /// `controller[2].site`.
    pub fn error_at(&self, path: &str, message: &str) -> ConfigError {
        let texts = self.texts();
        let offset = self.merged(&texts).ok().and_then(|merged| offset_of(merged.get_ref(), path));
        self.error(offset, format!("{path}: {message}"))
    }

    /// An error that concerns no single key.
    pub fn error_as_a_whole(&self, message: &str) -> ConfigError {
        self.error(None, message.to_owned())
    }

    /// The value at `path` and where it stands; `None` if no layer says it.
    pub fn get(&self, path: &str) -> Option<(toml::Value, Place)> {
        let texts = self.texts();
        let merged = self.merged(&texts).ok()?;
        let (value, offset) = find(merged.get_ref(), path)?;
        Some((plain(value), self.place(offset)))
    }

    /// Every value that a layer says, with its path and place, in the order of the paths.
    pub fn all(&self) -> Vec<(String, toml::Value, Place)> {
        let mut leaves = Vec::new();
        let texts = self.texts();
        if let Ok(merged) = self.merged(&texts) {
            collect_table(merged.get_ref(), "", &mut leaves);
        }
        leaves.into_iter().map(|(path, value, offset)| (path, value, self.place(offset))).collect()
    }

    /// Each layer's text behind as many empty lines as the layers before it have bytes.
    fn texts(&self) -> Vec<String> {
        self.0.iter().zip(self.starts()).map(|(layer, start)| "\n".repeat(start) + &layer.text).collect()
    }

    fn merged<'i>(&self, texts: &'i [String]) -> Result<Spanned<DeTable<'i>>, ConfigError> {
        let mut merged: Option<Spanned<DeTable<'i>>> = None;
        for (layer, text) in self.0.iter().zip(texts) {
            let table = DeTable::parse(text).map_err(|error| {
                self.error(error.span().map(|span| span.start), error.message().to_owned())
            })?;
            match &mut merged {
                None => merged = Some(table),
                Some(below) => lay_over(below.get_mut(), table.into_inner(), layer.file.is_some()),
            }
        }
        Ok(merged.expect("there is a first layer"))
    }

    /// Where each layer begins if they stand one behind the other, one byte apart.
    fn starts(&self) -> impl Iterator<Item = usize> {
        self.0.iter().scan(0, |next, layer| {
            let start = *next;
            *next += layer.text.len() + 1;
            Some(start)
        })
    }

    fn place(&self, offset: usize) -> Place {
        let (layer, start) = self
            .0
            .iter()
            .zip(self.starts())
            .take_while(|(_, start)| *start <= offset)
            .last()
            .expect("the first layer begins at 0");
        let line = layer.file.is_some().then(|| line_of(&layer.text, offset - start));
        Place { name: layer.name.clone(), file: layer.file.clone(), line }
    }

    fn error(&self, offset: Option<usize>, message: String) -> ConfigError {
        match offset.map(|offset| self.place(offset)) {
            Some(place) => ConfigError { file: place.name, line: place.line, message },
            None => ConfigError { file: self.0[0].name.clone(), line: None, message },
        }
    }
}

fn read(file: &Path) -> Result<String, ConfigError> {
    let wrong = |message: String| ConfigError { file: file.display().to_string(), line: None, message };
    let cannot = |error: std::io::Error| wrong(format!("cannot be read: {error}"));
    if std::fs::metadata(file).map_err(cannot)?.len() > MAX_FILE_BYTES {
        return Err(wrong("is larger than any configuration".into()));
    }
    std::fs::read_to_string(file).map_err(cannot)
}

/// The drop-ins beside `file`. No folder means none; one that cannot be read is an error, because what it says would be
/// missed.
fn drop_ins(file: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let folder = file.with_file_name(DROP_INS);
    let cannot = |error: std::io::Error| ConfigError {
        file: folder.display().to_string(),
        line: None,
        message: format!("cannot be read: {error}"),
    };
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(cannot(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(cannot)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn from_environment(
    variable: &str,
    path: &str,
    value: OsString,
    keys: &[(&str, Value)],
    prefix: &str,
) -> Result<Layer, ConfigError> {
    let name = format!("environment variable {variable}");
    let wrong = |message: String| Err(ConfigError { file: name.clone(), line: None, message });
    let Ok(mut value) = value.into_string() else { return wrong("is not UTF-8".into()) };
    let named = |path: &str| keys.iter().find(|(key, _)| *key == path);
    let found = named(path).map(|key| (key, false));
    let found = found.or_else(|| named(path.strip_suffix("_file")?).map(|key| (key, true)));
    let Some((&(key, kind), is_file)) = found else {
        let hint = match closest(path, keys.iter().map(|(key, _)| *key)) {
            Some(meant) => {
                format!("did you mean {prefix}_{}?", meant.to_uppercase().replace('.', "__"))
            }
            None => "no key is called so".to_owned(),
        };
        return wrong(format!("unknown key {path}: {hint}"));
    };
    if is_file {
        value = match read(Path::new(&value)) {
            Ok(content) => content.trim_end_matches(['\n', '\r']).to_owned(),
            Err(error) => return wrong(error.to_string()),
        };
    }
    match to_toml(kind, &value) {
        Ok(value) => Ok(Layer { name, file: None, text: format!("{key} = {value}") }),
        Err(why) => wrong(format!("{key}: {why}")),
    }
}

/// `text`, as a person types it, as TOML.
pub fn to_toml(kind: Value, text: &str) -> Result<String, String> {
    match kind {
        Value::Text => Ok(toml::Value::String(text.to_owned()).to_string()),
        Value::Toml => match DeValue::parse(text) {
            Ok(_) => Ok(text.trim().to_owned()),
            Err(error) => Err(format!("{text:?} cannot be read as TOML: {}", error.message())),
        },
    }
}

fn lay_over<'i>(below: &mut DeTable<'i>, above: DeTable<'i>, adds_to_lists: bool) {
    for (key, value) in above {
        let span = value.span();
        match (below.get_mut(&key).map(Spanned::get_mut), value.into_inner()) {
            (Some(DeValue::Table(below)), DeValue::Table(above)) => lay_over(below, above, adds_to_lists),
            (Some(DeValue::Array(below)), DeValue::Array(above)) if adds_to_lists && is_of_tables(&above) => {
                above.into_iter().for_each(|item| below.push(item));
            }
            (_, value) => {
                // The key's own position must become that of the layer that won.
                below.remove(&key);
                below.insert(key, Spanned::new(span, value));
            }
        }
    }
}

fn is_of_tables(items: &[Spanned<DeValue<'_>>]) -> bool {
    items.iter().any(|item| matches!(item.get_ref(), DeValue::Table(_)))
}

/// The value at `a.b[2].c`, and where it (or, for a table's header, its key) stands.
pub(crate) fn find<'t, 'i>(table: &'t DeTable<'i>, path: &str) -> Option<(&'t Spanned<DeValue<'i>>, usize)> {
    let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
    let (name, index) = match head.split_once('[') {
        Some((name, index)) => (name, Some(index.strip_suffix(']')?.parse::<usize>().ok()?)),
        None => (head, None),
    };
    let (key, mut value) = table.iter().find(|(key, _)| key.get_ref() == name)?;
    let mut offset = key.span().start;
    if let Some(index) = index {
        let DeValue::Array(items) = value.get_ref() else { return None };
        value = items.get(index)?;
        offset = value.span().start;
    }
    match (rest, value.get_ref()) {
        (None, _) => Some((value, offset)),
        (Some(rest), DeValue::Table(inner)) => find(inner, rest),
        (Some(_), _) => None,
    }
}

/// Every value that is no table and no list of tables.
fn collect_table(table: &DeTable<'_>, path: &str, leaves: &mut Vec<(String, toml::Value, usize)>) {
    for (key, value) in table {
        let path =
            if path.is_empty() { key.get_ref().to_string() } else { format!("{path}.{}", key.get_ref()) };
        collect(value, &path, key.span().start, leaves);
    }
}

fn collect(
    value: &Spanned<DeValue<'_>>,
    path: &str,
    offset: usize,
    leaves: &mut Vec<(String, toml::Value, usize)>,
) {
    match value.get_ref() {
        DeValue::Table(table) if !table.is_empty() => collect_table(table, path, leaves),
        DeValue::Array(items) if is_of_tables(items) => {
            for (i, item) in items.iter().enumerate() {
                collect(item, &format!("{path}[{i}]"), item.span().start, leaves);
            }
        }
        _ => leaves.push((path.to_owned(), plain(value), offset)),
    }
}

/// The value without positions.
fn plain(value: &Spanned<DeValue<'_>>) -> toml::Value {
    toml::Value::deserialize(ValueDeserializer::from(value.clone())).expect("any TOML is a TOML value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        id: String,
        wait_ms: Option<u64>,
        broker: Broker,
        #[serde(default)]
        reader: Vec<Reader>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Broker {
        url: String,
        ca_file: Option<String>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Reader {
        name: String,
    }

    const KEYS: [(&str, Value); 5] = [
        ("id", Value::Text),
        ("wait_ms", Value::Toml),
        ("broker.url", Value::Text),
        ("broker.ca_file", Value::Text),
        ("reader", Value::Toml),
    ];

    const MAIN: &str = "id = 'a'\nwait_ms = 1\n[broker]\nurl = 'x'\n[[reader]]\nname = 'in'\n";

    fn folder(drop_ins: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("main.toml");
        std::fs::write(&main, MAIN).unwrap();
        std::fs::create_dir(folder.path().join("conf.d")).unwrap();
        for (name, text) in drop_ins {
            std::fs::write(folder.path().join("conf.d").join(name), text).unwrap();
        }
        (folder, main)
    }

    fn read_with(drop_ins: &[(&str, &str)], environment: &[(&str, &str)]) -> Result<Sample, String> {
        let (folder, main) = folder(drop_ins);
        let variables = environment.iter().map(|(name, value)| (name.into(), value.into()));
        let said = Layers::read(&main)
            .and_then(|layers| layers.with_environment("DOOR", KEYS, variables))
            .and_then(|layers| layers.parse());
        said.map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
    }

    #[test]
    fn later_files_win_key_by_key_and_add_to_lists() {
        let sample = read_with(
            &[
                ("20-b.toml", "broker.url = 'z'\n[[reader]]\nname = 'out'\n"),
                ("10-a.toml", "wait_ms = 2\n[broker]\nurl = 'y'\nca_file = 'c'\n"),
                ("30-c.toml.dpkg-dist", "rubbish"),
            ],
            &[],
        )
        .unwrap();
        assert_eq!((sample.wait_ms, sample.broker.url.as_str()), (Some(2), "z"));
        assert_eq!(sample.broker.ca_file.as_deref(), Some("c"));
        let names: Vec<_> = sample.reader.iter().map(|reader| reader.name.as_str()).collect();
        assert_eq!(names, ["in", "out"]);
    }

    #[test]
    fn the_environment_wins_over_files_and_replaces_lists() {
        let sample = read_with(
            &[("10-a.toml", "wait_ms = 2\n")],
            &[
                ("DOOR_WAIT_MS", "3"),
                ("DOOR_ID", "007"),
                ("DOOR_BROKER__CA_FILE", "/ca.pem"),
                ("DOOR_READER", "[{ name = 'side' }]"),
                ("DOORBELL", "rings"),
            ],
        )
        .unwrap();
        assert_eq!((sample.id.as_str(), sample.wait_ms), ("007", Some(3)));
        assert_eq!(sample.broker.ca_file.as_deref(), Some("/ca.pem"));
        assert_eq!(sample.reader, [Reader { name: "side".into() }]);
    }

    #[test]
    fn a_variable_may_name_a_file_that_holds_the_value() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "mqtts://b\n").unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(read_with(&[], &[("DOOR_BROKER__URL_FILE", path)]).unwrap().broker.url, "mqtts://b");
        let error = read_with(&[], &[("DOOR_BROKER__URL_FILE", "/nonexistent/x")]).unwrap_err();
        assert!(
            error.starts_with("environment variable DOOR_BROKER__URL_FILE: /nonexistent/x: cannot be read"),
            "{error}"
        );
    }

    #[track_caller]
    fn refused(drop_in: &str, environment: &[(&str, &str)], message: &str) {
        let error = read_with(&[("10-a.toml", "# nothing\n"), ("20-b.toml", drop_in)], environment);
        assert_eq!(error.unwrap_err(), message);
    }

    #[test]
    fn what_is_wrong_is_named_in_the_right_file_and_line() {
        refused("\nwait = 3\n", &[], "conf.d/20-b.toml:2: unknown key wait: did you mean wait_ms?");
        refused(
            "[broker]\n\nur = 'x'\n",
            &[],
            "conf.d/20-b.toml:3: unknown key broker.ur: did you mean url?",
        );
        refused(
            "wait_ms = 'long'\n",
            &[],
            "conf.d/20-b.toml:1: wait_ms: invalid type: string \"long\", expected u64",
        );
        refused("[[reader]]\n", &[], "conf.d/20-b.toml:1: reader[1].name is missing");
        refused(
            "broker = 7\n",
            &[],
            "conf.d/20-b.toml:1: broker: invalid type: integer `7`, expected struct Broker",
        );
        refused(
            "\n\nid = \n",
            &[],
            "conf.d/20-b.toml:3: string values must be quoted, expected literal string",
        );
    }

    #[test]
    fn what_is_wrong_in_the_environment_is_named_by_its_variable() {
        refused(
            "",
            &[("DOOR_BROKER__ULR", "x")],
            "environment variable DOOR_BROKER__ULR: unknown key broker.ulr: did you mean DOOR_BROKER__URL?",
        );
        refused(
            "",
            &[("DOOR_WAIT_MS", "long")],
            "environment variable DOOR_WAIT_MS: wait_ms: \"long\" cannot be read as TOML: string values must be quoted, expected literal string",
        );
        refused(
            "",
            &[("DOOR_WAIT_MS", "-1")],
            "environment variable DOOR_WAIT_MS: wait_ms: invalid value: integer `-1`, expected u64",
        );
        refused(
            "",
            &[("DOOR_WAIT_MS", "1\nid = 'x'")],
            "environment variable DOOR_WAIT_MS: wait_ms: \"1\\nid = 'x'\" cannot be read as TOML: unexpected content, expected nothing",
        );
    }

    #[test]
    fn every_value_knows_where_it_stands() {
        let (_folder, main) = folder(&[("10-a.toml", "\nwait_ms = 2\n[[reader]]\nname = 'out'\n")]);
        let layers = Layers::read(&main)
            .unwrap()
            .with_environment("DOOR", KEYS, [("DOOR_ID".into(), "b".into())])
            .unwrap();
        let at = |path: &str| {
            let (value, place) = layers.get(path).unwrap();
            (value.to_string(), place.name.rsplit('/').next().unwrap().to_owned(), place.line)
        };
        assert_eq!(at("wait_ms"), ("2".into(), "10-a.toml".into(), Some(2)));
        assert_eq!(at("broker.url"), ("\"x\"".into(), "main.toml".into(), Some(4)));
        assert_eq!(at("reader[1].name"), ("\"out\"".into(), "10-a.toml".into(), Some(4)));
        assert_eq!(at("id"), ("\"b\"".into(), "environment variable DOOR_ID".into(), None));
        assert!(layers.get("nothing").is_none());
        let paths: Vec<_> = layers.all().into_iter().map(|(path, ..)| path).collect();
        assert_eq!(paths, ["broker.url", "id", "reader[0].name", "reader[1].name", "wait_ms"]);
    }
}
