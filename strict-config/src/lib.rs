//! Beside the line: TOML read strictly. Knows no product: needs serde, toml and strsim only.
//!
//! Give it a type with `#[serde(deny_unknown_fields)]` on every struct; it gives back the value, or one sentence that
//! names file, line, key path and, for a misspelt key or choice, what was probably meant. [`Layers`] lays drop-ins and the
//! environment over a file, and [`set`] changes one value in a file and nothing else.

use std::fmt;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

mod edit;
mod layers;

pub use edit::{EditError, set};
pub use layers::{Layers, Place, Value, to_toml};

/// What is wrong with a configuration file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file as it was named.
    pub file: String,
    /// Counted from 1; `None` if it concerns the file as a whole.
    pub line: Option<usize>,
    /// What is wrong, with the key's path.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Reads `text`, the content of `file`.
pub fn parse<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, ConfigError> {
    Layers::of(file, text).parse()
}

/// An error found after reading, such as two entries with one id: at the key that `path` names, for example
/// `controller[2].site`.
pub fn error_at(file: &str, text: &str, path: &str, message: &str) -> ConfigError {
    Layers::of(file, text).error_at(path, message)
}

/// The one of `known` that `given` was probably meant to be.
pub fn closest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const ALIKE: f64 = 0.75;
    // One slip of the finger is always alike, however short the word.
    let likeness = |word| match strsim::osa_distance(given, word) {
        0 | 1 => 1.0,
        _ => strsim::jaro_winkler(given, word),
    };
    known
        .into_iter()
        .map(|word| (likeness(word), word))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, word)| word)
}

/// Serde says "unknown field `x`, expected one of `a`, `b`": the first quoted word is what was given, the others
/// are what there is.
fn explain(message: &str, path: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let (given, known) = match quoted.split_first() {
        Some((given, known)) => (*given, known),
        None => ("", [].as_slice()),
    };
    let hint = match closest(given, known.iter().copied()) {
        Some(meant) => format!("did you mean {meant}?"),
        None if known.is_empty() => "no key is allowed here".to_owned(),
        None => format!("there is {}", known.join(", ")),
    };
    if message.starts_with("unknown field") {
        format!("unknown key {}: {hint}", join(path, given))
    } else if message.starts_with("unknown variant") {
        format!("{path}: {given} is none of the choices: {hint}")
    } else if message.starts_with("missing field") {
        format!("{} is missing", join(path, given))
    } else if message.starts_with("duplicate field") {
        format!("{} is given twice", join(path, given))
    } else if path.is_empty() {
        message.to_owned()
    } else {
        format!("{path}: {message}")
    }
}

/// `path.key`, where the path may end in that key already.
fn join(path: &str, key: &str) -> String {
    if path.is_empty() || path == key || path.ends_with(&format!(".{key}")) {
        if path.is_empty() { key.to_owned() } else { path.to_owned() }
    } else {
        format!("{path}.{key}")
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// The path of the innermost key or value at `offset`.
fn path_at(table: &DeTable<'_>, offset: usize) -> String {
    let mut path = String::new();
    walk(table, offset, &mut path);
    path
}

/// Where one key's entry stands: an error's offset is either its key's, or lies in its value.
fn walk(table: &DeTable<'_>, offset: usize, path: &mut String) {
    for (key, value) in table {
        let inside =
            key.span().contains(&offset) || value.span().contains(&offset) || encloses(value, offset);
        if inside {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(key.get_ref());
            walk_value(value, offset, path);
            return;
        }
    }
}

fn walk_value(value: &Spanned<DeValue<'_>>, offset: usize, path: &mut String) {
    match value.get_ref() {
        DeValue::Table(table) => walk(table, offset, path),
        DeValue::Array(items) => {
            if let Some((index, item)) = items
                .iter()
                .enumerate()
                .find(|(_, item)| item.span().contains(&offset) || encloses(item, offset))
            {
                path.push_str(&format!("[{index}]"));
                walk_value(item, offset, path);
            }
        }
        _ => {}
    }
}

/// A `[table]`'s own span is its header alone, so its entries are asked too.
fn encloses(value: &Spanned<DeValue<'_>>, offset: usize) -> bool {
    match value.get_ref() {
        DeValue::Table(table) => table.iter().any(|(key, value)| {
            key.span().contains(&offset) || value.span().contains(&offset) || encloses(value, offset)
        }),
        DeValue::Array(items) => {
            items.iter().any(|item| item.span().contains(&offset) || encloses(item, offset))
        }
        _ => false,
    }
}

/// Where `a.b[2].c` stands; if the last part is not there, where its parent does.
fn offset_of(table: &DeTable<'_>, path: &str) -> Option<usize> {
    let (head, rest) = path.split_once('.').unwrap_or((path, ""));
    let (name, index) = match head.split_once('[') {
        Some((name, index)) => (name, index.trim_end_matches(']').parse::<usize>().ok()),
        None => (head, None),
    };
    let (key, value) = table.iter().find(|(key, _)| key.get_ref() == name)?;
    let (value, here) = match (value.get_ref(), index) {
        (DeValue::Array(items), Some(index)) => {
            let item = items.get(index)?;
            (item, item.span().start)
        }
        _ => (value, key.span().start),
    };
    match value.get_ref() {
        DeValue::Table(inner) if !rest.is_empty() => Some(offset_of(inner, rest).unwrap_or(here)),
        _ => Some(here),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it can be read matters here")]
    struct Sample {
        destination: Destination,
        #[serde(default)]
        door: Vec<Door>,
        colour: Option<Colour>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it can be read matters here")]
    struct Destination {
        url: String,
        max_in_flight: Option<u16>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it can be read matters here")]
    struct Door {
        id: String,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Colour {
        Green,
        Amber,
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(parse::<Sample>("x.toml", text).unwrap_err().to_string(), expected);
    }

    #[test]
    fn a_misspelt_key_is_named_with_line_path_and_intention() {
        check(
            "[destination]\nurl = \"x\"\nmax_inflight = 3\n",
            "x.toml:3: unknown key destination.max_inflight: did you mean max_in_flight?",
        );
        check("[destination]\nurl = 'x'\n[dor]\n", "x.toml:3: unknown key dor: did you mean door?");
    }

    #[test]
    fn a_key_like_no_other_is_answered_with_all_there_are() {
        check(
            "[destination]\nurl = 'x'\nzzz = 1\n",
            "x.toml:3: unknown key destination.zzz: there is url, max_in_flight",
        );
    }

    #[test]
    fn keys_in_a_list_are_named_with_their_place() {
        check(
            "[destination]\nurl = 'x'\n[[door]]\nid = 'a'\n[[door]]\nid = 'b'\nidd = 'c'\n",
            "x.toml:7: unknown key door[1].idd: did you mean id?",
        );
    }

    #[test]
    fn wrong_types_and_choices_are_named() {
        check(
            "[destination]\nurl = 'x'\nmax_in_flight = 'many'\n",
            "x.toml:3: destination.max_in_flight: invalid type: string \"many\", expected u16",
        );
        check(
            "[destination]\nurl = 'x'\nmax_in_flight = 70000\n",
            "x.toml:3: destination.max_in_flight: invalid value: integer `70000`, expected u16",
        );
        check(
            "colour = 'gren'\n[destination]\nurl = 'x'\n",
            "x.toml:1: colour: gren is none of the choices: did you mean green?",
        );
    }

    #[test]
    fn a_missing_key_is_named_under_its_table() {
        check("[destination]\n", "x.toml:1: destination.url is missing");
        check("\n", "x.toml:1: destination is missing");
        check("[destination]\nurl = 'x'\n\n[[door]]\n", "x.toml:4: door[0].id is missing");
    }

    #[test]
    fn text_that_is_no_toml_is_named_with_its_line() {
        let error = parse::<Sample>("x.toml", "[destination]\nurl = \n").unwrap_err();
        assert_eq!(error.line, Some(2), "{error}");
    }

    #[test]
    fn errors_found_later_get_their_line() {
        let text = "[destination]\nurl = 'x'\n\n[[door]]\nid = 'a'\n[[door]]\nid = 'a'\n";
        let at = |path| error_at("x.toml", text, path, "no").to_string();
        assert_eq!(at("door[1].id"), "x.toml:7: door[1].id: no");
        assert_eq!(at("door[1].label"), "x.toml:6: door[1].label: no");
        assert_eq!(at("destination.url"), "x.toml:2: destination.url: no");
        assert_eq!(at("nowhere"), "x.toml: nowhere: no");
    }
}
