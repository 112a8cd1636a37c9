//! Step 12 of 12: what can be told of a tap, as named fields, and texts with such fields in them. Pure: knows no JSON
//! shape and no destination.

use core::fmt;

use jiff::Timestamp;
use jiff::tz::{AmbiguousOffset, TimeZone};
use serde::{Deserialize, Serialize};
use tap_protocol::ids::EventId;
use tap_protocol::tap::Direction;

use super::CannotRender;
use crate::event_store::{DeliverableTap, UtcMs};

/// What a template can say of a tap: the closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// The event's id, which is the idempotency key.
    EventId,
    /// Whose badge it was.
    Person,
    /// The site's short name.
    Site,
    /// The site's time zone, as an IANA name.
    Zone,
    /// The controller's id.
    Controller,
    /// The reader's name.
    Reader,
    /// Which way, in the template's words.
    Direction,
    /// When, in UTC: `2026-03-02T07:00:00.250Z`.
    OccurredUtc,
    /// When, at the site, with its offset: `2026-03-02T08:00:00.250+01:00`.
    OccurredLocal,
    /// What clocks at the site showed, to the second: `2026-03-02 08:00:00`. In the hour that autumn repeats, two
    /// moments have the same.
    OccurredNaive,
    /// The same in UTC: `2026-03-02 07:00:00`.
    OccurredNaiveUtc,
    /// Whole seconds since 1970, a number.
    OccurredEpochS,
    /// Milliseconds since 1970, a number.
    OccurredEpochMs,
    /// Give or take, milliseconds, a number.
    UncertaintyMs,
}

impl Field {
    /// All of them, in the order in which they are documented.
    pub const ALL: [Field; 14] = [
        Field::EventId,
        Field::Person,
        Field::Site,
        Field::Zone,
        Field::Controller,
        Field::Reader,
        Field::Direction,
        Field::OccurredUtc,
        Field::OccurredLocal,
        Field::OccurredNaive,
        Field::OccurredNaiveUtc,
        Field::OccurredEpochS,
        Field::OccurredEpochMs,
        Field::UncertaintyMs,
    ];

    /// The name between braces.
    pub fn name(self) -> &'static str {
        match self {
            Field::EventId => "event_id",
            Field::Person => "person",
            Field::Site => "site",
            Field::Zone => "zone",
            Field::Controller => "controller",
            Field::Reader => "reader",
            Field::Direction => "direction",
            Field::OccurredUtc => "occurred_utc",
            Field::OccurredLocal => "occurred_local",
            Field::OccurredNaive => "occurred_naive",
            Field::OccurredNaiveUtc => "occurred_naive_utc",
            Field::OccurredEpochS => "occurred_epoch_s",
            Field::OccurredEpochMs => "occurred_epoch_ms",
            Field::UncertaintyMs => "uncertainty_ms",
        }
    }

    /// What it says of this tap.
    pub fn of(
        self,
        event: EventId,
        tap: &DeliverableTap,
        words: &DirectionWords,
    ) -> Result<Value, CannotRender> {
        Ok(match self {
            Field::EventId => Value::Text(event.to_string()),
            Field::Person => Value::Text(tap.person.0.clone()),
            Field::Site => Value::Text(tap.site.id.clone()),
            Field::Zone => Value::Text(tap.site.zone.clone()),
            Field::Controller => Value::Text(tap.controller.as_str().to_owned()),
            Field::Reader => Value::Text(tap.reader.as_str().to_owned()),
            Field::Direction => words.of(tap.direction).map_or(Value::Null, Value::Text),
            Field::OccurredUtc => Value::Text(utc_time(tap.occurred)),
            Field::OccurredLocal => Value::Text(local_time(tap.occurred, &tap.site.zone)),
            Field::OccurredNaive => Value::Text(Naive::of(tap.occurred, &tap.site.zone)?.text),
            Field::OccurredNaiveUtc => Value::Text(Naive::of(tap.occurred, "UTC")?.text),
            Field::OccurredEpochS => Value::Number(tap.occurred.0.div_euclid(1000)),
            Field::OccurredEpochMs => Value::Number(tap.occurred.0),
            Field::UncertaintyMs => Value::Number(i64::try_from(tap.uncertainty_ms).unwrap_or(i64::MAX)),
        })
    }
}

/// What a field says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A whole number.
    Number(i64),
    /// Nothing.
    Null,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => f.write_str(text),
            Value::Number(number) => write!(f, "{number}"),
            Value::Null => Ok(()),
        }
    }
}

/// How a destination calls the directions; `null` where it wants none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DirectionWords {
    /// At an entrance.
    #[serde(rename = "in")]
    pub inwards: Option<String>,
    /// At an exit.
    #[serde(rename = "out")]
    pub outwards: Option<String>,
    /// At a reader for both ways, or of which nobody said.
    pub unspecified: Option<String>,
}

impl Default for DirectionWords {
    fn default() -> DirectionWords {
        let name = |direction: Direction| Some(direction.name().to_owned());
        DirectionWords {
            inwards: name(Direction::In),
            outwards: name(Direction::Out),
            unspecified: name(Direction::Unspecified),
        }
    }
}

impl DirectionWords {
    fn of(&self, direction: Direction) -> Option<String> {
        match direction {
            Direction::In => self.inwards.clone(),
            Direction::Out => self.outwards.clone(),
            Direction::Unspecified => self.unspecified.clone(),
        }
    }
}

/// A text with fields in it: `door {controller}, {{as is}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Text {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Field(Field),
}

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadText {
    /// No such field.
    #[error("there is no field {{{0}}}; there are {fields}", fields = Fields)]
    Unknown(String),
    /// A brace without its partner.
    #[error("{0:?} has a brace that opens or closes nothing; write {{{{ or }}}} for a brace itself")]
    Brace(String),
}

struct Fields;

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Field::ALL.map(|field| format!("{{{}}}", field.name())).join(", "))
    }
}

impl Text {
    /// Reads it.
    pub fn parse(text: &str) -> Result<Text, BadText> {
        let brace = || BadText::Brace(text.to_owned());
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut chars = text.chars().peekable();
        while let Some(char) = chars.next() {
            match char {
                '{' | '}' if chars.peek() == Some(&char) => {
                    chars.next();
                    literal.push(char);
                }
                '{' => {
                    let mut name = String::new();
                    loop {
                        match chars.next() {
                            Some('}') => break,
                            Some('{') | None => return Err(brace()),
                            Some(char) => name.push(char),
                        }
                    }
                    let field = Field::ALL.into_iter().find(|field| field.name() == name);
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    }
                    pieces.push(Piece::Field(field.ok_or(BadText::Unknown(name))?));
                }
                '}' => return Err(brace()),
                char => literal.push(char),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Text { pieces })
    }

    /// The fields in it.
    pub fn fields(&self) -> impl Iterator<Item = Field> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Field(field) => Some(*field),
            Piece::Literal(_) => None,
        })
    }

    /// Filled in: one field alone keeps its kind, all else is text.
    pub fn fill(
        &self,
        event: EventId,
        tap: &DeliverableTap,
        words: &DirectionWords,
    ) -> Result<Value, CannotRender> {
        if let [Piece::Field(field)] = self.pieces[..] {
            return field.of(event, tap, words);
        }
        self.fill_as_text(event, tap, words, Ok).map(Value::Text)
    }

    /// Filled in as text, every field's value put through `encoded` first.
    pub fn fill_as_text(
        &self,
        event: EventId,
        tap: &DeliverableTap,
        words: &DirectionWords,
        encoded: impl Fn(String) -> Result<String, CannotRender>,
    ) -> Result<String, CannotRender> {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(literal) => text.push_str(literal),
                Piece::Field(field) => {
                    text.push_str(&encoded(field.of(event, tap, words)?.to_string())?);
                }
            }
        }
        Ok(text)
    }
}

impl TryFrom<String> for Text {
    type Error = BadText;

    fn try_from(text: String) -> Result<Text, BadText> {
        Text::parse(&text)
    }
}

impl From<Text> for String {
    fn from(text: Text) -> String {
        let escaped = |literal: &str| literal.replace('{', "{{").replace('}', "}}");
        let pieces = text.pieces.iter().map(|piece| match piece {
            Piece::Literal(literal) => escaped(literal),
            Piece::Field(field) => format!("{{{}}}", field.name()),
        });
        pieces.collect()
    }
}

/// RFC 3339 in UTC with milliseconds.
fn utc_time(at: UtcMs) -> String {
    match Timestamp::from_millisecond(at.0) {
        Ok(at) => at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
        Err(_) => format!("out of range: {} ms", at.0),
    }
}

/// RFC 3339 with milliseconds and the zone's offset at that moment; UTC if the zone is not known to this system.
pub fn local_time(at: UtcMs, zone: &str) -> String {
    let Ok(at) = Timestamp::from_millisecond(at.0) else { return format!("out of range: {} ms", at.0) };
    let zone = TimeZone::get(zone).unwrap_or(TimeZone::UTC);
    at.to_zoned(zone).strftime("%Y-%m-%dT%H:%M:%S.%3f%:z").to_string()
}

/// A moment as a clock on the wall shows it, to the second, cut and never rounded: without an offset, so that in the
/// hour that autumn repeats two moments look the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naive {
    /// `2026-03-02 08:00:00`.
    pub text: String,
    /// If the clock shows this twice: the offset that tells which of the two it was, such as `+01:00`.
    pub ambiguous: Option<String>,
}

impl Naive {
    /// What clocks in `zone` show at that moment. Where an offset can be written, an unknown zone is made up for by
    /// UTC; here it would be hours off in silence, so it is an error.
    pub fn of(at: UtcMs, zone: &str) -> Result<Naive, CannotRender> {
        let at = Timestamp::from_millisecond(at.0)
            .map_err(|_| CannotRender(format!("{} ms since 1970 is out of range", at.0)))?;
        let zone = named(zone)?;
        let shown = at.to_zoned(zone.clone());
        let ambiguous = match zone.to_ambiguous_zoned(shown.datetime()).offset() {
            AmbiguousOffset::Fold { .. } => Some(shown.strftime("%:z").to_string()),
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Gap { .. } => None,
        };
        Ok(Naive { text: shown.strftime("%Y-%m-%d %H:%M:%S").to_string(), ambiguous })
    }
}

/// The zone of that name.
pub fn named(zone: &str) -> Result<TimeZone, CannotRender> {
    TimeZone::get(zone).map_err(|_| {
        CannotRender(format!(
            "this machine knows no time zone {zone:?}, so local time cannot be told: correct the site's zone, or \
             install the time zone database"
        ))
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::event_store::{PersonId, Site};
    use tap_protocol::ids::{OutboxId, Seq};

    /// 2026-03-02 07:00:00.250 UTC.
    pub(crate) const NOW: UtcMs = UtcMs(1_772_434_800_250);

    /// A tap in Berlin, and its event.
    pub(crate) fn tap() -> (EventId, DeliverableTap) {
        let controller = "hq-door-12".parse().unwrap();
        let event = EventId::new(&controller, OutboxId([7; 16]), Seq(258));
        let tap = DeliverableTap {
            person: PersonId("E-\"1007".into()),
            controller,
            site: Site { id: "hq".into(), label: "HQ".into(), zone: "Europe/Berlin".into() },
            reader: "in".parse().unwrap(),
            direction: Direction::In,
            occurred: NOW,
            uncertainty_ms: 3,
        };
        (event, tap)
    }

    #[track_caller]
    fn check(text: &str, expect: Value) {
        let (event, tap) = tap();
        let filled = Text::parse(text).unwrap().fill(event, &tap, &DirectionWords::default()).unwrap();
        assert_eq!(filled, expect, "{text}");
        assert_eq!(String::from(Text::parse(text).unwrap()), text, "it is written as it was read");
    }

    #[track_caller]
    fn text(template: &str, expect: &str) {
        check(template, Value::Text(expect.into()));
    }

    #[test]
    fn every_field_says_what_is_documented() {
        text("{event_id}", "058b8351-c0a3-8a64-a2a3-000000000102");
        text("{person}", "E-\"1007");
        text("{site}", "hq");
        text("{zone}", "Europe/Berlin");
        text("{controller}", "hq-door-12");
        text("{reader}", "in");
        text("{direction}", "in");
        text("{occurred_utc}", "2026-03-02T07:00:00.250Z");
        text("{occurred_local}", "2026-03-02T08:00:00.250+01:00");
        text("{occurred_naive}", "2026-03-02 08:00:00");
        text("{occurred_naive_utc}", "2026-03-02 07:00:00");
        check("{occurred_epoch_s}", Value::Number(1_772_434_800));
        check("{occurred_epoch_ms}", Value::Number(1_772_434_800_250));
        check("{uncertainty_ms}", Value::Number(3));
    }

    #[test]
    fn a_field_among_other_text_is_text() {
        text("", "");
        text("as is", "as is");
        text("{controller}/{reader}", "hq-door-12/in");
        text("±{uncertainty_ms} ms", "±3 ms");
        text("{{{site}}}", "{hq}");
        text("{{}}", "{}");
    }

    #[test]
    fn a_direction_has_the_destinations_words_or_none() {
        let words: DirectionWords =
            serde_json::from_str(r#"{"in":"IN","out":"OUT","unspecified":null}"#).unwrap();
        let (event, mut tap) = tap();
        let mut say = |direction, text: &str| {
            tap.direction = direction;
            Text::parse(text).unwrap().fill(event, &tap, &words).unwrap()
        };
        assert_eq!(say(Direction::In, "{direction}"), Value::Text("IN".into()));
        assert_eq!(say(Direction::Out, "{direction}"), Value::Text("OUT".into()));
        assert_eq!(say(Direction::Unspecified, "{direction}"), Value::Null);
        assert_eq!(say(Direction::Unspecified, "<{direction}>"), Value::Text("<>".into()));
        assert!(serde_json::from_str::<DirectionWords>(r#"{"inn":"IN"}"#).is_err());
    }

    #[test]
    fn a_text_that_is_no_template_says_what_is_wrong() {
        let complaint = |text: &str| Text::parse(text).unwrap_err().to_string();
        assert!(
            complaint("{persn}").starts_with("there is no field {persn}; there are {event_id}, {person}, ")
        );
        for text in ["{", "}", "a}b", "{person", "{per{son}}", "{{}"] {
            assert!(complaint(text).contains("opens or closes nothing"), "{text}");
        }
    }

    #[test]
    fn seconds_are_cut_also_before_1970() {
        let (event, mut tap) = tap();
        tap.occurred = UtcMs(-1);
        let say = |field: Field| field.of(event, &tap, &DirectionWords::default()).unwrap();
        assert_eq!(say(Field::OccurredEpochS), Value::Number(-1));
        assert_eq!(say(Field::OccurredNaiveUtc), Value::Text("1969-12-31 23:59:59".into()));
    }

    #[test]
    fn local_time_follows_the_zone_through_the_year() {
        assert_eq!(local_time(UtcMs(1_783_000_000_000), "Europe/Berlin"), "2026-07-02T15:46:40.000+02:00");
        assert_eq!(local_time(UtcMs(0), "Asia/Kolkata"), "1970-01-01T05:30:00.000+05:30");
        assert_eq!(local_time(UtcMs(1), "Nowhere/Atall"), "1970-01-01T00:00:00.001+00:00");
    }

    #[test]
    fn the_hour_that_autumn_repeats_looks_the_same_twice_and_says_so() {
        // 2026-10-25 02:30 in Berlin, at +02:00 and an hour later at +01:00.
        let first = Naive::of(UtcMs(1_792_888_200_999), "Europe/Berlin").unwrap();
        let second = Naive::of(UtcMs(1_792_891_800_000), "Europe/Berlin").unwrap();
        assert_eq!(
            (first.text.as_str(), first.ambiguous.as_deref()),
            ("2026-10-25 02:30:00", Some("+02:00"))
        );
        assert_eq!(
            (second.text.as_str(), second.ambiguous.as_deref()),
            ("2026-10-25 02:30:00", Some("+01:00"))
        );
        let after = Naive::of(UtcMs(1_792_893_600_000), "Europe/Berlin").unwrap();
        assert_eq!((after.text.as_str(), after.ambiguous), ("2026-10-25 03:00:00", None));
    }

    #[test]
    fn an_unknown_zone_has_no_naive_time() {
        let why = Naive::of(NOW, "Nowhere/Atall").unwrap_err().to_string();
        assert!(why.contains("no time zone \"Nowhere/Atall\""), "{why}");
    }
}
