//! Beside the line: changes one value in a TOML text and leaves every other byte as it is. Knows no file.
//!
//! The change is made in the text, at the place that the parser gives, and then proved: the new text must be read as the
//! old one with that one value in that one place. What cannot be proved is not done.

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use crate::layers::find;
use crate::line_of;

/// Why a value cannot be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EditError {
    /// The text is no TOML.
    NotToml {
        /// Counted from 1.
        line: Option<usize>,
        /// What is wrong.
        message: String,
    },
    /// The path names a table or goes through something that is none.
    NoSuchPlace,
    /// The value stands where only a person can put it right.
    ByHandOnly,
}

impl std::fmt::Display for EditError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EditError::NotToml { line: Some(line), message } => write!(f, "line {line}: {message}"),
            EditError::NotToml { line: None, message } => f.write_str(message),
            EditError::NoSuchPlace => f.write_str("there is no such place in the file: an entry of a list must be there before its keys can be set, and a table is set key by key"),
            EditError::ByHandOnly => f.write_str("this file is written in a way that only a person can change: edit it by hand"),
        }
    }
}

impl std::error::Error for EditError {}

/// `text` with `value` (TOML) at `path`, such as `broker.url` or `reader[0].name`. Comments, order and spacing stay.
pub fn set(text: &str, path: &str, value: &str) -> Result<String, EditError> {
    let not_toml = |error: toml::de::Error| EditError::NotToml {
        line: error.span().map(|span| line_of(text, span.start)),
        message: error.message().to_owned(),
    };
    let document = DeTable::parse(text).map_err(not_toml)?;
    let mut wanted: Table = toml::from_str(text).map_err(not_toml)?;
    let stated = format!("value = {value}");
    let new: Table = toml::from_str(&stated).map_err(not_toml)?;
    if new.len() > 1 {
        let message = "more than a value was given".to_owned();
        return Err(EditError::NotToml { line: None, message });
    }
    // Without what may stand around a value, such as a comment: set twice, it would be there twice.
    let value = match DeTable::parse(&stated).map_err(not_toml)?.get_ref().get("value") {
        Some(value) => &stated[value.span()],
        None => value,
    };
    put(&mut wanted, path, new["value"].clone()).ok_or(EditError::NoSuchPlace)?;
    if matches!(find(document.get_ref(), path), Some((old, _)) if is_table(old.get_ref())) {
        return Err(EditError::NoSuchPlace);
    }
    candidates(text, document.get_ref(), path, value)
        .into_iter()
        .find(|candidate| toml::from_str::<Table>(candidate).is_ok_and(|read| read == wanted))
        .ok_or(EditError::ByHandOnly)
}

fn is_table(value: &DeValue<'_>) -> bool {
    matches!(value, DeValue::Table(_))
}

/// The same change in the value: what the new text must be read as.
fn put(table: &mut Table, path: &str, value: Value) -> Option<()> {
    let Some((head, rest)) = path.split_once('.') else {
        if path.is_empty() || path.contains('[') {
            return None;
        }
        table.insert(path.to_owned(), value);
        return Some(());
    };
    let inner = match head.split_once('[') {
        Some((name, index)) => {
            let index: usize = index.strip_suffix(']')?.parse().ok()?;
            table.get_mut(name)?.as_array_mut()?.get_mut(index)?
        }
        None => table.entry(head).or_insert_with(|| Value::Table(Table::new())),
    };
    put(inner.as_table_mut()?, rest, value)
}

/// Ways to write it, the most pleasing one first. Each is only a proposal.
fn candidates(text: &str, document: &DeTable<'_>, path: &str, value: &str) -> Vec<String> {
    let splice = |from: usize, to: usize, new: &str| format!("{}{new}{}", &text[..from], &text[to..]);
    if let Some((old, _)) = find(document, path) {
        return vec![splice(old.span().start, old.span().end, value)];
    }
    let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
    let line = format!("{key} = {value}\n");
    let at_line_end = |offset: usize| text[offset..].find('\n').map_or(text.len(), |n| offset + n + 1);
    let insert_line = |offset: usize| {
        let missing_break = if offset > 0 && !text[..offset].ends_with('\n') { "\n" } else { "" };
        splice(offset, offset, &format!("{missing_break}{line}"))
    };
    let mut found = Vec::new();
    let (begin, entries) = match (parent, find(document, parent)) {
        ("", _) => (0, Some(document)),
        (_, Some((table, _))) => match table.get_ref() {
            DeValue::Table(entries) if text[table.span()].starts_with('{') => {
                // An inline table: before its closing brace.
                let end = table.span().end - 1;
                let comma = if entries.is_empty() { " " } else { ", " };
                let before = text[..end].trim_end().len();
                found.push(splice(before, end, &format!("{comma}{key} = {value} ")));
                return found;
            }
            DeValue::Table(entries) => (at_line_end(table.span().end), Some(entries)),
            _ => return found,
        },
        (_, None) => (text.len(), None),
    };
    let Some(entries) = entries else {
        // A table that nobody has spoken of yet.
        found.push(format!("{}\n\n[{parent}]\n{line}", text.trim_end()));
        return found;
    };
    // Under the commented-out default of the same name, as sample configurations have them.
    let mut offset = begin;
    for here in text[begin..].split_inclusive('\n') {
        if here.starts_with('[') {
            break;
        }
        offset += here.len();
        let commented = here.strip_prefix('#').map(str::trim_start).and_then(|rest| rest.strip_prefix(key));
        if commented.is_some_and(|rest| rest.trim_start().starts_with('=')) {
            found.push(insert_line(offset));
        }
    }
    // What stands under a header of its own is no line of this table.
    let has_header =
        |value: &Spanned<DeValue<'_>>| is_table(value.get_ref()) && !text[value.span()].starts_with('{');
    let is_line = |value: &&Spanned<DeValue<'_>>| match value.get_ref() {
        DeValue::Array(items) => !items.iter().any(has_header),
        _ => !has_header(value),
    };
    if let Some(end) = entries.values().filter(is_line).map(|value| value.span().end).max() {
        found.push(insert_line(at_line_end(end)));
    }
    found.push(insert_line(begin));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# A door.\ncontroller = \"a\" # for life\n#debounce_ms = 1500\n\n[broker]\nurl = 'mqtt://x'\n\n[outbox]\n# How much.\n#keep = 7\n\n[[reader]]\nname = \"in\"\npcsc = { match = \"ACR\" }\n\n[[reader]]\nname = \"out\"\npcsc = {}\n";

    /// `expect` is what changes: a line that is new, or a line and what it becomes.
    #[track_caller]
    fn check(path: &str, value: &str, from: &str, to: &str) {
        assert!(FILE.contains(from), "{from:?}");
        assert_eq!(set(FILE, path, value).unwrap(), FILE.replacen(from, to, 1));
    }

    #[test]
    fn a_value_is_replaced_and_nothing_else_changes() {
        check("controller", "\"b\"", "\"a\" #", "\"b\" #");
        check("broker.url", "\"mqtts://y:1\"", "'mqtt://x'", "\"mqtts://y:1\"");
        check("reader[1].name", "\"side\"", "\"out\"", "\"side\"");
        check("reader[0].pcsc.match", "\"OMNIKEY\"", "\"ACR\"", "\"OMNIKEY\"");
    }

    #[test]
    fn a_new_key_stands_under_its_commented_default_or_at_the_end_of_its_table() {
        check("debounce_ms", "900", "#debounce_ms = 1500\n", "#debounce_ms = 1500\ndebounce_ms = 900\n");
        check("outbox.keep", "9", "#keep = 7\n", "#keep = 7\nkeep = 9\n");
        check("state_dir", "\"/x\"", "# for life\n", "# for life\nstate_dir = \"/x\"\n");
        check("broker.ca_file", "\"c\"", "'mqtt://x'\n", "'mqtt://x'\nca_file = \"c\"\n");
        check("reader[0].direction", "\"in\"", "\"ACR\" }\n", "\"ACR\" }\ndirection = \"in\"\n");
        check("reader[0].pcsc.lamps", "true", "\"ACR\" }", "\"ACR\", lamps = true }");
        check("reader[1].pcsc.match", "\"x\"", "pcsc = {}", "pcsc = { match = \"x\" }");
    }

    #[test]
    fn a_new_table_comes_last() {
        let text = set(FILE, "metrics.listen", "\"127.0.0.1:9\"").unwrap();
        assert_eq!(text, format!("{}\n[metrics]\nlisten = \"127.0.0.1:9\"\n", FILE));
        assert_eq!(set("a = 1", "b.c", "2").unwrap(), "a = 1\n\n[b]\nc = 2\n");
        assert_eq!(set("", "a", "2").unwrap(), "a = 2\n");
        assert_eq!(set("b = 1", "a", "2").unwrap(), "b = 1\na = 2\n");
    }

    #[test]
    fn text_that_looks_like_toml_inside_of_values_misleads_nobody() {
        let text = "a = '''\n#b = 1\n[c]\n'''\nlist = [\n  1, # [c]\n]\n";
        assert_eq!(set(text, "b", "2").unwrap(), format!("{text}b = 2\n"));
        let quoted = "[a]\n'x.y' = 1\nx = { y = 2 }\n";
        assert_eq!(set(quoted, "a.x.y", "3").unwrap(), quoted.replace('2', "3"));
    }

    #[test]
    fn a_comment_given_with_a_value_is_left_out() {
        assert_eq!(set("a = 1 # one\n", "a", "2 # two").unwrap(), "a = 2 # one\n");
    }

    #[test]
    fn what_cannot_be_done_is_said_and_not_tried() {
        assert_eq!(set(FILE, "broker", "1"), Err(EditError::NoSuchPlace));
        assert_eq!(set(FILE, "reader[2].name", "'x'"), Err(EditError::NoSuchPlace));
        assert_eq!(set(FILE, "controller.x", "1"), Err(EditError::NoSuchPlace));
        assert!(matches!(set("a = \n", "b", "1"), Err(EditError::NotToml { line: Some(1), .. })));
        assert!(set(FILE, "debounce_ms", "1\nx = 2").is_err(), "a value is one value");
    }
}
