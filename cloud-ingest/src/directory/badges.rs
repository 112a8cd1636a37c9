//! Beside the line: the list of who holds which badge, as HR exports it. Knows no store: it turns a file into bindings.
//!
//! The file is CSV with a header that names the columns `badge` and `person`; others may stand beside them. It comes
//! out of spreadsheets, so a semicolon separates as well as a comma, a byte order mark is no part of the header, and
//! rows without content do not count. Nothing is imported unless every line is good: half a list is worse than none,
//! because nobody knows which half. So all that is wrong is told at once, each with its line. The badge itself is
//! never repeated in a message.

use std::collections::BTreeMap;
use std::fmt;

use csv::{ByteRecord, ReaderBuilder};
use tap_protocol::badge::{BadCredential, Credential, SealedBadge, Token, TokenKey};

use crate::event_store::{Binding, PersonId};

/// A person's id goes into every request; legacy systems allow far less than this.
pub const MAX_PERSON_BYTES: usize = 140;

/// More badges than any tenant has: a larger file is another file.
pub const MAX_BADGES: usize = 1_000_000;

/// Why a file of badges was not imported: everything that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct BadBadges {
    /// In the order of the file.
    pub lines: Vec<BadLine>,
}

impl fmt::Display for BadBadges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wrong = self.lines.len();
        write!(
            f,
            "nothing was imported: {wrong} {} wrong",
            if wrong == 1 { "line is" } else { "lines are" }
        )?;
        self.lines.iter().try_for_each(|bad| write!(f, "\n  line {}: {}", bad.line, bad.problem))
    }
}

/// One line that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    /// Counted from 1, the header included, as an editor counts.
    pub line: u64,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What can be wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The header does not name both columns.
    #[error("the first line must name the columns, as in \"badge,person\"; {0:?} is missing")]
    MissingColumn(&'static str),
    /// UTF-16, as some programs call "Unicode text".
    #[error("this is UTF-16; save the file as \"CSV UTF-8\"")]
    Utf16,
    /// Some other encoding.
    #[error("this is not UTF-8; save the file as \"CSV UTF-8\"")]
    NotUtf8,
    /// A cell is empty, or the line ends before it.
    #[error("there is no {0}")]
    Empty(&'static str),
    /// Not a badge.
    #[error("the badge cannot be read: {0}")]
    Badge(BadCredential),
    /// `1.00073E+09`: a spreadsheet took the badge for a number, and its digits are gone.
    #[error(
        "the badge was turned into a number by a spreadsheet; format the column as text and enter it again"
    )]
    SpreadsheetNumber,
    /// Too long to be an id.
    #[error("the person has {0} bytes; an id has at most {MAX_PERSON_BYTES}")]
    LongPerson(usize),
    /// A line break or the like.
    #[error("the person has a line break or another character that cannot be seen")]
    ControlCharacter,
    /// One badge, two persons.
    #[error("the same badge is given to another person in line {first}")]
    GivenTwice {
        /// Where it was given before.
        first: u64,
    },
    /// The file has too many badges.
    #[error("there are more than {MAX_BADGES} badges")]
    TooMany,
}

/// Reads the whole file and seals every badge under each of `keys`. One binding per badge, in the order of the file; a line that
/// says again what another said is no error.
pub fn read_badges(file: &[u8], keys: &[TokenKey]) -> Result<Vec<Binding>, BadBadges> {
    if file.starts_with(&[0xff, 0xfe]) || file.starts_with(&[0xfe, 0xff]) {
        return Err(BadBadges { lines: vec![BadLine { line: 1, problem: Problem::Utf16 }] });
    }
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let mut reader = ReaderBuilder::new()
        .delimiter(separator(file))
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(file);
    let mut list = List::default();
    let mut columns = None;
    let mut record = ByteRecord::new();
    // Reading from memory, flexible and as bytes, the csv crate finds nothing to refuse.
    while reader.read_byte_record(&mut record).unwrap_or(false) {
        let line = record.position().map_or(0, |start| line_of(file, start));
        if record.iter().all(<[u8]>::is_empty) {
            continue;
        }
        match &columns {
            None => match Columns::find(&record) {
                Ok(found) => columns = Some(found),
                Err(problem) => return Err(BadBadges { lines: vec![BadLine { line, problem }] }),
            },
            Some(columns) => match columns.read(&record, keys) {
                Ok(binding) => list.add(line, binding),
                Err(problem) => list.bad.push(BadLine { line, problem }),
            },
        }
        if list.bindings.len() > MAX_BADGES {
            list.bad.push(BadLine { line, problem: Problem::TooMany });
            break;
        }
    }
    if columns.is_none() {
        list.bad.push(BadLine { line: 1, problem: Problem::MissingColumn("badge") });
    }
    if list.bad.is_empty() { Ok(list.bindings) } else { Err(BadBadges { lines: list.bad }) }
}

/// The line of a record that begins at or after `start`: the csv crate does not count the empty lines before it.
fn line_of(file: &[u8], start: &csv::Position) -> u64 {
    let rest = usize::try_from(start.byte()).ok().and_then(|byte| file.get(byte..)).unwrap_or_default();
    let empty = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
    start.line() + empty.filter(|byte| **byte == b'\n').count() as u64
}

/// What the header is separated by: a spreadsheet takes the semicolon wherever the comma separates decimals.
fn separator(file: &[u8]) -> u8 {
    let header = file.split(|byte| *byte == b'\n').find(|line| !line.trim_ascii().is_empty());
    if header.is_some_and(|line| line.contains(&b';')) { b';' } else { b',' }
}

/// Where the two columns are.
struct Columns {
    badge: usize,
    person: usize,
}

impl Columns {
    fn find(header: &ByteRecord) -> Result<Columns, Problem> {
        let find = |name: &'static str| {
            let column = header.iter().position(|cell| cell.eq_ignore_ascii_case(name.as_bytes()));
            column.ok_or(Problem::MissingColumn(name))
        };
        Ok(Columns { badge: find("badge")?, person: find("person")? })
    }

    fn read(&self, record: &ByteRecord, keys: &[TokenKey]) -> Result<Binding, Problem> {
        let cell = |name: &'static str, column: usize| {
            let text = std::str::from_utf8(record.get(column).unwrap_or_default());
            let text = text.map_err(|_| Problem::NotUtf8)?;
            if text.is_empty() { Err(Problem::Empty(name)) } else { Ok(text) }
        };
        let badge = cell("badge", self.badge)?;
        let person = cell("person", self.person)?;
        if person.len() > MAX_PERSON_BYTES {
            return Err(Problem::LongPerson(person.len()));
        }
        if person.contains(char::is_control) {
            return Err(Problem::ControlCharacter);
        }
        let credential: Credential = badge.parse().map_err(|bad| match is_spreadsheet_number(badge) {
            true => Problem::SpreadsheetNumber,
            false => Problem::Badge(bad),
        })?;
        Ok(Binding { seals: seals(&credential, keys), person: PersonId(person.to_owned()) })
    }
}

/// The badge under each of these keys.
pub fn seals(credential: &Credential, keys: &[TokenKey]) -> Vec<SealedBadge> {
    assert!(!keys.is_empty(), "a tenant has a token key");
    keys.iter().map(|key| key.seal(credential)).collect()
}

/// `1.00073E+09`, `1,00073E+09` or `5E+06`.
fn is_spreadsheet_number(badge: &str) -> bool {
    let number = |c: char| c.is_ascii_digit() || matches!(c, '.' | ',' | '+' | 'E' | 'e');
    badge.chars().all(number) && badge.contains("E+")
}

/// What was read so far.
#[derive(Default)]
struct List {
    bindings: Vec<Binding>,
    /// Line and place in `bindings` of each badge.
    given: BTreeMap<Token, (u64, usize)>,
    bad: Vec<BadLine>,
}

impl List {
    fn add(&mut self, line: u64, binding: Binding) {
        let token = binding.seals[0].token;
        match self.given.get(&token) {
            Some((first, place)) if self.bindings[*place].person != binding.person => {
                self.bad.push(BadLine { line, problem: Problem::GivenTwice { first: *first } });
            }
            Some(_) => {}
            None => {
                self.given.insert(token, (line, self.bindings.len()));
                self.bindings.push(binding);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tap_protocol::badge::TokenKeyId;

    use super::*;

    fn key() -> TokenKey {
        TokenKey::new(TokenKeyId(1), [0x42; 32])
    }

    fn binding(badge: &str, person: &str) -> Binding {
        Binding { seals: seals(&badge.parse().unwrap(), &[key()]), person: PersonId(person.into()) }
    }

    #[track_caller]
    fn reads(file: &[u8], expected: &[(&str, &str)]) {
        let expected: Vec<Binding> = expected.iter().map(|(badge, person)| binding(badge, person)).collect();
        assert_eq!(read_badges(file, &[key()]), Ok(expected));
    }

    #[track_caller]
    fn refuses(file: &[u8], expected: &[(u64, Problem)]) {
        let bad = read_badges(file, &[key()]).unwrap_err();
        let got: Vec<_> = bad.lines.into_iter().map(|bad| (bad.line, bad.problem)).collect();
        assert_eq!(got, expected);
    }

    const ANNA: (&str, &str) = ("04A224B1C2D380", "E-1001");
    const BEN: (&str, &str) = ("01000734E0", "E-1002");

    #[test]
    fn a_plain_list_is_read_in_its_order() {
        reads(b"badge,person\n04A224B1C2D380,E-1001\n01000734E0,E-1002\n", &[ANNA, BEN]);
    }

    #[test]
    fn a_list_from_a_spreadsheet_is_read_too() {
        let file = b"\xef\xbb\xbfBadge;Person\r\n\"04 A2 24 B1 C2 D3 80\"; E-1001 \r\n;\r\n01000734E0;E-1002\r\n;\r\n";
        reads(file, &[ANNA, BEN]);
    }

    #[test]
    fn columns_are_found_by_name_and_others_do_not_matter() {
        reads(b"name,person,badge\nAnna,E-1001,04A224B1C2D380\n", &[ANNA]);
    }

    #[test]
    fn a_list_of_nothing_but_its_header_is_empty() {
        reads(b"badge,person", &[]);
    }

    #[test]
    fn one_person_may_have_many_badges() {
        let file = b"badge,person\n04A224B1C2D380,E-1001\n01000734E0,E-1001\n";
        reads(file, &[ANNA, (BEN.0, "E-1001")]);
    }

    #[test]
    fn a_line_may_be_said_twice() {
        reads(b"badge,person\n04A224B1C2D380,E-1001\n04:a2:24:b1:c2:d3:80,E-1001\n", &[ANNA]);
    }

    #[test]
    fn a_badge_of_two_persons_names_both_lines() {
        let file = b"badge,person\n04A224B1C2D380,E-1001\n01000734E0,E-1002\n04:a2:24:b1:c2:d3:80,E-1003\n";
        refuses(file, &[(4, Problem::GivenTwice { first: 2 })]);
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let long = "x".repeat(MAX_PERSON_BYTES + 1);
        let file = format!(
            "badge,person\n04A224,E-1\n,E-2\n04A224B1C2D380,\n01000734E0\n1.00073E+09,E-3\n01000734E0,{long}\n"
        );
        refuses(
            file.as_bytes(),
            &[
                (2, Problem::Badge(BadCredential::Text)),
                (3, Problem::Empty("badge")),
                (4, Problem::Empty("person")),
                (5, Problem::Empty("person")),
                (6, Problem::SpreadsheetNumber),
                (7, Problem::LongPerson(MAX_PERSON_BYTES + 1)),
            ],
        );
    }

    #[test]
    fn lines_are_counted_as_an_editor_counts_them() {
        let file = b"\nbadge,person\r\n\r\n\"04A224B1C2D380\",\"E\n1001\"\nbad,E-1\n";
        refuses(file, &[(4, Problem::ControlCharacter), (6, Problem::Badge(BadCredential::Text))]);
    }

    #[test]
    fn a_list_without_its_header_is_refused() {
        refuses(b"04A224B1C2D380,E-1001\n", &[(1, Problem::MissingColumn("badge"))]);
        refuses(b"badge,name\n04A224B1C2D380,E-1001\n", &[(1, Problem::MissingColumn("person"))]);
        refuses(b"", &[(1, Problem::MissingColumn("badge"))]);
    }

    #[test]
    fn other_encodings_are_named() {
        refuses(b"badge,person\n04A224B1C2D380,M\xfcller\n", &[(2, Problem::NotUtf8)]);
        refuses(b"\xff\xfeb\0a\0", &[(1, Problem::Utf16)]);
    }

    #[test]
    fn the_message_names_lines_and_never_a_badge() {
        let message = read_badges(b"badge,person\n04A224,E-1\n", &[key()]).unwrap_err().to_string();
        assert!(message.starts_with("nothing was imported: 1 line is wrong\n  line 2: "), "{message}");
        assert!(!message.contains("04A224,"), "{message}");
    }
}
