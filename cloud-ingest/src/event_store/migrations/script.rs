//! Step 9 of 12: what a migration's script does, statement by statement, in words for people. Pure: it knows how SQL is
//! written and nothing of what is stored.

use serde::Serialize;

/// What a statement keeps from others while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lock {
    /// Nothing that is there already.
    Nothing,
    /// A table, from everybody, for a moment.
    Moment,
    /// A table, from writers, for as long as it takes to go through its rows.
    Writers,
    /// Nothing, though it goes through all rows of a table.
    Reads,
    /// Several tables, for a moment: a block that decides by itself.
    Several,
    /// It is not known here.
    Unknown,
}

/// One statement of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its first words, or what the script says of it.
    pub does: String,
    /// Which table it is about.
    pub table: Option<String>,
    /// What it keeps from others.
    pub lock: Lock,
    /// How many rows it goes through, if it goes through all.
    pub rows: Option<u64>,
}

/// So much of a statement is shown.
const SHOWN_CHARS: usize = 90;

impl Step {
    /// What `statement`, with the comment before it, does to tables that have so many `rows`.
    pub fn of(statement: &str, rows: &dyn Fn(&str) -> u64) -> Step {
        let (said, sql) = without_comments(statement);
        let words: Vec<&str> = sql.split(|c: char| c.is_whitespace() || "(),;".contains(c)).collect();
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let after = |keyword: &str| {
            let at = words.iter().position(|word| *word == keyword)?;
            words.get(at + 1).map(|name| (*name).to_owned())
        };
        let (table, lock) = match words.as_slice() {
            ["CREATE", "TABLE" | "FUNCTION", ..] | ["GRANT" | "REVOKE" | "COMMENT" | "SELECT", ..] => {
                (None, Lock::Nothing)
            }
            ["INSERT", "INTO", ..] if !words.contains(&"SELECT") => (None, Lock::Nothing),
            ["INSERT", "INTO", ..] => (after("FROM"), Lock::Reads),
            ["CREATE", "INDEX", ..] | ["CREATE", "UNIQUE", "INDEX", ..] => (after("ON"), Lock::Writers),
            ["ALTER", "TABLE", table, "VALIDATE", ..] => (Some((*table).to_owned()), Lock::Reads),
            ["ALTER", "TABLE", table, ..] => (Some((*table).to_owned()), Lock::Moment),
            ["ALTER", "INDEX", ..] => (None, Lock::Moment),
            ["DROP", "TABLE" | "INDEX", name, ..] => (Some((*name).to_owned()), Lock::Moment),
            ["UPDATE", table, ..] | ["DELETE", "FROM", table, ..] => {
                (Some((*table).to_owned()), Lock::Writers)
            }
            ["DO", ..] => (None, Lock::Several),
            _ => (None, Lock::Unknown),
        };
        let goes_through = matches!(lock, Lock::Writers | Lock::Reads);
        let rows = table.as_deref().filter(|_| goes_through).map(rows);
        // A block is best told by its author.
        let shown = if lock == Lock::Several && !said.is_empty() { said } else { sql };
        Step { does: shortened(&shown), table, lock, rows }
    }
}

fn shortened(sql: &str) -> String {
    let line = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{} …", line[..end].trim_end()),
        None => line,
    }
}

/// What is said in comments before it, and the statement.
fn without_comments(statement: &str) -> (String, String) {
    let (comments, sql): (Vec<&str>, Vec<&str>) =
        statement.trim().lines().partition(|line| line.trim_start().starts_with("--"));
    let said: Vec<&str> =
        comments.iter().map(|line| line.trim_start().trim_start_matches('-').trim()).collect();
    (said.join(" "), sql.join("\n").trim().to_owned())
}

/// The statements of a script, each with the comments before it. Semicolons within quotes, comments and dollar quotes end
/// none.
pub fn statements(script: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let (mut begin, mut at) = (0, 0);
    while at < script.len() {
        let rest = &script[at..];
        at += match rest.as_bytes()[0] {
            b'-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            b'\'' => 1 + rest[1..].find('\'').map_or(rest.len() - 1, |end| end + 1),
            b'$' => dollar_quoted(rest),
            b';' => {
                found.push(&script[begin..at]);
                begin = at + 1;
                1
            }
            _ => rest.chars().next().map_or(1, char::len_utf8),
        };
    }
    found.push(&script[begin..]);
    found.retain(|statement| !without_comments(statement).1.is_empty());
    found
}

/// The length of `$tag$ … $tag$` at the beginning, or of the sign alone.
fn dollar_quoted(text: &str) -> usize {
    let Some(tag) = text[1..].find('$').map(|end| &text[..end + 2]) else { return 1 };
    let is_tag = tag[1..tag.len() - 1].chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match text[tag.len()..].find(tag).filter(|_| is_tag) {
        Some(end) => end + 2 * tag.len(),
        None => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::super::ALL;
    use super::*;

    #[track_caller]
    fn check(sql: &str, table: Option<&str>, lock: Lock, rows: Option<u64>) {
        let step = Step::of(sql, &|table| if table == "events" { 7 } else { 1 });
        assert_eq!((step.table.as_deref(), step.lock, step.rows), (table, lock, rows), "{sql}");
    }

    #[test]
    fn what_a_statement_locks_is_known_by_its_first_words() {
        check("CREATE TABLE a (b BIGINT)", None, Lock::Nothing, None);
        check("INSERT INTO a VALUES (1)", None, Lock::Nothing, None);
        check("INSERT INTO a SELECT position FROM events", Some("events"), Lock::Reads, Some(7));
        check("-- Why.\nALTER TABLE events ADD COLUMN x BIGINT", Some("events"), Lock::Moment, None);
        check("ALTER TABLE events VALIDATE CONSTRAINT x", Some("events"), Lock::Reads, Some(7));
        check("CREATE UNIQUE INDEX i ON events (x)", Some("events"), Lock::Writers, Some(7));
        check("UPDATE taps SET x = 1", Some("taps"), Lock::Writers, Some(1));
        check("DROP INDEX i", Some("i"), Lock::Moment, None);
        check("-- Partitions.\nDO $$ BEGIN; END $$", None, Lock::Several, None);
        check("VACUUM", None, Lock::Unknown, None);
    }

    #[test]
    fn statements_end_at_semicolons_of_their_own() {
        let script = "-- a; b\nSELECT 'x;''y';\nDO $$ one; two $$;\n\nDO $f$ $$;$$ $f$;\n-- the end;\n";
        let found = statements(script);
        assert_eq!(found, ["-- a; b\nSELECT 'x;''y'", "\nDO $$ one; two $$", "\n\nDO $f$ $$;$$ $f$"]);
    }

    #[test]
    fn every_statement_of_every_version_is_one_whose_locks_are_known() {
        for migration in &ALL {
            let before = migration.postgres_before.unwrap_or_default();
            for script in [migration.sqlite, migration.postgres, before] {
                for statement in statements(script) {
                    let step = Step::of(statement, &|_| 0);
                    assert_ne!(step.lock, Lock::Unknown, "{}: {step:?}", migration.name);
                }
            }
        }
    }
}
