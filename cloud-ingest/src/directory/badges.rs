//! Beside the line: the list of who holds which badge, as HR exports it. Knows no store: it turns a file into bindings.
//!
//! The file is CSV with a header that names the columns `badge` and `person`, and `from` and `to` if it says when;
//! others may stand beside them. It comes out of spreadsheets, so a semicolon separates as well as a comma, a byte order mark is no part of the header, and
//! rows without content do not count. Nothing is imported unless every line is good: half a list is worse than none,
//! because nobody knows which half. So all that is wrong is told at once, each with its line. The badge itself is
//! never repeated in a message.

use std::collections::BTreeMap;
use std::fmt;

use csv::{ByteRecord, ReaderBuilder};
use jiff::tz::TimeZone;
use tap_protocol::badge::{BadCredential, Credential, SealedBadge, Token, TokenKey};

use super::moment::{self, BadMoment, End};
use super::printed::NotFound;
use super::timeline::{EVER, FOR_EVER, Stretch, When};
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
    /// No card has that number printed on it.
    #[error("the number cannot be told from others: {0}")]
    Printed(NotFound),
    /// No moment.
    #[error("the column {0:?}: {1}")]
    Moment(&'static str, BadMoment),
    /// It ends before it begins.
    #[error("\"to\" is not after \"from\"")]
    Backwards,
    /// One badge, two persons at one time.
    #[error("the same badge is given to another person at that time in line {first}")]
    GivenTwice {
        /// Where it was given before.
        first: u64,
    },
    /// The file has too many badges.
    #[error("there are more than {MAX_BADGES} badges")]
    TooMany,
}

/// How to read what the columns say.
pub struct Columns<'a> {
    /// Under each of these every badge is sealed.
    pub keys: &'a [TokenKey],
    /// Where those live who wrote `from` and `to`.
    pub zone: Option<&'a TimeZone>,
    /// Which card `badge` means.
    pub card: &'a mut dyn FnMut(&str) -> Result<Credential, Problem>,
}

/// The card, where the column has what readers read.
pub fn as_read(badge: &str) -> Result<Credential, Problem> {
    badge.parse().map_err(|bad| match is_spreadsheet_number(badge) {
        true => Problem::SpreadsheetNumber,
        false => Problem::Badge(bad),
    })
}

/// Reads the whole file. The bindings are in the order of the file; a line that says again what another said is no error.
pub fn read_badges(file: &[u8], how: Columns<'_>) -> Result<Vec<Binding>, BadBadges> {
    let Columns { keys, zone, card } = how;
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
            None => match Places::find(&record) {
                Ok(found) => columns = Some(found),
                Err(problem) => return Err(BadBadges { lines: vec![BadLine { line, problem }] }),
            },
            Some(columns) => match columns.read(&record, zone, card).map(|line| line.binding(keys)) {
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

/// Where the columns are.
struct Places {
    badge: usize,
    person: usize,
    from: Option<usize>,
    to: Option<usize>,
}

/// What a line says.
struct Line {
    credential: Credential,
    person: PersonId,
    when: When,
}

impl Line {
    fn binding(self, keys: &[TokenKey]) -> Binding {
        Binding { seals: seals(&self.credential, keys), person: Some(self.person), when: self.when }
    }
}

impl Places {
    fn find(header: &ByteRecord) -> Result<Places, Problem> {
        let find = |name: &str| header.iter().position(|cell| cell.eq_ignore_ascii_case(name.as_bytes()));
        Ok(Places {
            badge: find("badge").ok_or(Problem::MissingColumn("badge"))?,
            person: find("person").ok_or(Problem::MissingColumn("person"))?,
            from: find("from"),
            to: find("to"),
        })
    }

    fn read(
        &self,
        record: &ByteRecord,
        zone: Option<&TimeZone>,
        card: &mut dyn FnMut(&str) -> Result<Credential, Problem>,
    ) -> Result<Line, Problem> {
        let cell = |column: usize| {
            let text = std::str::from_utf8(record.get(column).unwrap_or_default());
            text.map_err(|_| Problem::NotUtf8)
        };
        let filled = |name: &'static str, column: usize| match cell(column)? {
            "" => Err(Problem::Empty(name)),
            text => Ok(text),
        };
        let moment = |name: &'static str, column: Option<usize>, end: End| {
            let Some(text) = column.map(cell).transpose()?.filter(|text| !text.is_empty()) else {
                return Ok(None);
            };
            moment::read(text, zone, end).map(Some).map_err(|bad| Problem::Moment(name, bad))
        };
        let badge = filled("badge", self.badge)?;
        let person = person_id(filled("person", self.person)?)?;
        let credential = card(badge)?;
        let when =
            When { from: moment("from", self.from, End::From)?, until: moment("to", self.to, End::To)? };
        if said(when).from >= said(when).until {
            return Err(Problem::Backwards);
        }
        Ok(Line { credential, person, when })
    }
}

/// What may stand for a person.
pub fn person_id(text: &str) -> Result<PersonId, Problem> {
    match text {
        "" => Err(Problem::Empty("person")),
        _ if text.len() > MAX_PERSON_BYTES => Err(Problem::LongPerson(text.len())),
        _ if text.contains(char::is_control) => Err(Problem::ControlCharacter),
        _ => Ok(PersonId(text.to_owned())),
    }
}

/// The stretch that a line speaks of: all of time where it says nothing.
fn said(When { from, until }: When) -> Stretch {
    Stretch { from: from.unwrap_or(EVER), until: until.unwrap_or(FOR_EVER) }
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
    /// Line and place in `bindings` of all that is said of each badge.
    given: BTreeMap<Token, Vec<(u64, usize)>>,
    bad: Vec<BadLine>,
}

impl List {
    fn add(&mut self, line: u64, binding: Binding) {
        let given = self.given.entry(binding.seals[0].token).or_default();
        let before = |place: usize| &self.bindings[place];
        if given.iter().any(|(_, place)| *before(*place) == binding) {
            return;
        }
        let stretch = said(binding.when);
        let contradicts = |other: &Binding| {
            let other_stretch = said(other.when);
            let overlap = stretch.from < other_stretch.until && other_stretch.from < stretch.until;
            overlap && other.person != binding.person
        };
        if let Some((first, _)) = given.iter().find(|(_, place)| contradicts(before(*place))) {
            self.bad.push(BadLine { line, problem: Problem::GivenTwice { first: *first } });
        } else {
            given.push((line, self.bindings.len()));
            self.bindings.push(binding);
        }
    }
}

#[cfg(test)]
mod tests {
    use tap_protocol::badge::TokenKeyId;

    use super::*;
    use crate::event_store::UtcMs;

    fn key() -> TokenKey {
        TokenKey::new(TokenKeyId(1), [0x42; 32])
    }

    fn binding(badge: &str, person: &str) -> Binding {
        Binding::new(seals(&badge.parse().unwrap(), &[key()]), PersonId(person.into()))
    }

    fn read(file: &[u8]) -> Result<Vec<Binding>, BadBadges> {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        read_badges(file, Columns { keys: &[key()], zone: Some(&zone), card: &mut as_read })
    }

    #[track_caller]
    fn reads(file: &[u8], expected: &[(&str, &str)]) {
        let expected: Vec<Binding> = expected.iter().map(|(badge, person)| binding(badge, person)).collect();
        assert_eq!(read(file), Ok(expected));
    }

    #[track_caller]
    fn refuses(file: &[u8], expected: &[(u64, Problem)]) {
        let bad = read(file).unwrap_err();
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

    /// 2026-03-02 08:00 in Berlin.
    const MONDAY_AT_EIGHT: UtcMs = UtcMs(1_772_434_800_000);

    #[test]
    fn a_line_may_say_when() {
        let file = b"badge,person,to,from\n04A224B1C2D380,E-1001,2026-03-02 08:00,\n\
            04A224B1C2D380,E-1002,,2026-03-02T08:00:00+01:00\n";
        let anna =
            Binding { when: When { from: None, until: Some(MONDAY_AT_EIGHT) }, ..binding(ANNA.0, "E-1001") };
        let ben =
            Binding { when: When { from: Some(MONDAY_AT_EIGHT), until: None }, ..binding(ANNA.0, "E-1002") };
        assert_eq!(read(file), Ok(vec![anna, ben]));
    }

    #[test]
    fn two_persons_cannot_hold_a_badge_at_once() {
        let file = b"badge,person,from,to\n04A224B1C2D380,E-1,2026-03-02,2026-03-06\n\
            04A224B1C2D380,E-2,2026-03-07,\n04A224B1C2D380,E-3,2026-03-06,2026-03-06\n\
            04A224B1C2D380,E-4,,2026-03-06\n04A224B1C2D380,E-1,2026-03-04,2026-03-05\n";
        refuses(file, &[(4, Problem::GivenTwice { first: 2 }), (5, Problem::GivenTwice { first: 2 })]);
    }

    #[test]
    fn a_time_that_is_none_is_told_with_its_column() {
        let file = b"badge,person,from,to\n04A224B1C2D380,E-1,02.03.2026,\n\
            04A224B1C2D380,E-1,2026-03-05,2026-03-04\n";
        let bad = Problem::Moment("from", BadMoment::Text("02.03.2026".into()));
        refuses(file, &[(2, bad), (3, Problem::Backwards)]);
    }

    #[test]
    fn other_encodings_are_named() {
        refuses(b"badge,person\n04A224B1C2D380,M\xfcller\n", &[(2, Problem::NotUtf8)]);
        refuses(b"\xff\xfeb\0a\0", &[(1, Problem::Utf16)]);
    }

    #[test]
    fn the_message_names_lines_and_never_a_badge() {
        let message = read(b"badge,person\n04A224,E-1\n").unwrap_err().to_string();
        assert!(message.starts_with("nothing was imported: 1 line is wrong\n  line 2: "), "{message}");
        assert!(!message.contains("04A224,"), "{message}");
    }
}
