//! Step 12 of 12: a tap as Frappe's Employee Checkin. Pure: knows the fields of one log, not how it is sent.

use serde::{Deserialize, Serialize};
use tap_protocol::ids::EventId;

use crate::destination::CannotRender;
use crate::destination::fields::{Field, Naive, Value};
use crate::destination::settings::FrappeHrSettings;
use crate::event_store::DeliverableTap;

/// A field of type *Data* holds so many characters.
const MAX_DATA_CHARS: usize = 140;

/// The arguments of `add_log_based_on_employee_field`: kept as they were rendered, and read back for comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckIn {
    /// Who, as in the field below.
    pub employee_field_value: String,
    /// What a clock on the wall showed, to the second. Frappe has no time zones. Newer versions cut microseconds before
    /// they look for a duplicate and older ones compare them: without any, both see the same.
    pub timestamp: String,
    /// *Location / Device ID*.
    pub device_id: String,
    /// `IN`, `OUT`, or nothing.
    pub log_type: Option<LogType>,
    /// The field of Employee that names who.
    pub employee_fieldname: String,
    /// Whether the clock showed this time twice that day. Not for Frappe, which would not know what to do with it.
    #[serde(skip)]
    pub ambiguous: bool,
}

/// Frappe's two directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum LogType {
    /// At an entrance.
    In,
    /// At an exit.
    Out,
}

impl LogType {
    /// As Frappe writes it.
    pub fn name(self) -> &'static str {
        match self {
            LogType::In => "IN",
            LogType::Out => "OUT",
        }
    }
}

/// The log of a tap.
///
/// In the hour that autumn repeats, Frappe cannot tell the first 02:30 from the second. Both are told as the clock showed
/// them, and the device carries the offset (`hq-door-12 +01:00`): for whoever wonders, and for us to see that a log at
/// that time is this one and not the other.
pub fn render(
    settings: &FrappeHrSettings,
    event: EventId,
    tap: &DeliverableTap,
) -> Result<CheckIn, CannotRender> {
    let words = settings.words();
    let zone = settings.zone.as_ref().unwrap_or(&tap.site.zone);
    let Naive { text, ambiguous } = Naive::of(tap.occurred, zone)?;
    let mut device_id = settings.device_id.fill_as_text(event, tap, &words, Ok)?;
    if let Some(offset) = &ambiguous {
        device_id = format!("{device_id} {offset}");
    }
    for (what, value) in [("device_id", &device_id), ("the person's name", &tap.person.0)] {
        if value.chars().count() > MAX_DATA_CHARS {
            return Err(CannotRender(format!(
                "{what} has more than the {MAX_DATA_CHARS} characters that Frappe takes"
            )));
        }
    }
    if tap.person.0.is_empty() {
        return Err(CannotRender("the person has no name".into()));
    }
    let log_type = match Field::Direction.of(event, tap, &words)? {
        Value::Text(word) if word == LogType::In.name() => Some(LogType::In),
        Value::Text(_) => Some(LogType::Out),
        Value::Number(_) | Value::Null => None,
    };
    Ok(CheckIn {
        employee_field_value: tap.person.0.clone(),
        timestamp: format!("{text}.000000"),
        device_id,
        log_type,
        employee_fieldname: settings.employee_field.clone(),
        ambiguous: ambiguous.is_some(),
    })
}

impl CheckIn {
    /// What is kept.
    pub fn into_text(self) -> String {
        serde_json::to_string(&self).expect("texts are always JSON")
    }

    /// What was kept.
    pub fn from_text(text: &str) -> Result<CheckIn, String> {
        let mut check_in: CheckIn = serde_json::from_str(text).map_err(|error| error.to_string())?;
        check_in.ambiguous = ends_with_offset(&check_in.device_id);
        Ok(check_in)
    }

    /// Whether a time that Frappe tells is the one that was sent, however many microseconds it writes.
    pub fn is_at(&self, told: &str) -> bool {
        to_the_second(&self.timestamp).is_some() && to_the_second(&self.timestamp) == to_the_second(told)
    }
}

/// ` +01:00`, as [`render`] adds it.
fn ends_with_offset(device_id: &str) -> bool {
    let Some((_, offset)) = device_id.rsplit_once(' ') else { return false };
    let digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    offset
        .strip_prefix(['+', '-'])
        .and_then(|offset| offset.split_once(':'))
        .is_some_and(|(hours, minutes)| digits(hours) && digits(minutes))
}

/// `2026-03-02 08:00:00` of a time as Frappe writes it; nothing if there is more to it than zeros.
pub fn to_the_second(told: &str) -> Option<&str> {
    let (second, fraction) = told.split_at_checked(19)?;
    let shape = |(i, byte): (usize, u8)| match i {
        4 | 7 => byte == b'-',
        10 => byte == b' ',
        13 | 16 => byte == b':',
        _ => byte.is_ascii_digit(),
    };
    let zeros = fraction.is_empty()
        || fraction.strip_prefix('.').is_some_and(|digits| digits.bytes().all(|digit| digit == b'0'));
    (second.bytes().enumerate().all(shape) && zeros).then_some(second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::fields::Text;
    use crate::destination::fields::tests::tap;
    use crate::event_store::UtcMs;
    use tap_protocol::tap::Direction;

    fn rendered(settings: &FrappeHrSettings, change: impl FnOnce(&mut DeliverableTap)) -> CheckIn {
        let (event, mut tap) = tap();
        change(&mut tap);
        let check_in = render(settings, event, &tap).unwrap();
        assert_eq!(CheckIn::from_text(&check_in.clone().into_text()).unwrap(), check_in);
        check_in
    }

    #[test]
    fn a_log_has_the_shape_that_frappe_documents() {
        let settings = FrappeHrSettings::default();
        assert_eq!(
            rendered(&settings, |_| {}).into_text(),
            concat!(
                r#"{"employee_field_value":"E-\"1007","timestamp":"2026-03-02 08:00:00.000000","#,
                r#""device_id":"hq-door-12","log_type":"IN","employee_fieldname":"attendance_device_id"}"#
            )
        );
    }

    #[test]
    fn a_direction_that_nobody_knows_is_none() {
        let settings = FrappeHrSettings::default();
        let log_type = |direction| rendered(&settings, |tap| tap.direction = direction).log_type;
        assert_eq!(log_type(Direction::Out), Some(LogType::Out));
        assert_eq!(log_type(Direction::Unspecified), None);
        let settings = FrappeHrSettings { log_type: false, ..settings };
        let quiet = rendered(&settings, |_| {});
        assert_eq!(quiet.log_type, None);
        assert!(quiet.into_text().contains(r#""log_type":null"#));
    }

    #[test]
    fn the_time_is_that_of_the_site_or_of_one_zone_for_all() {
        let mut settings = FrappeHrSettings::default();
        let at = |settings: &FrappeHrSettings| {
            rendered(settings, |tap| tap.site.zone = "Asia/Kolkata".into()).timestamp
        };
        assert_eq!(at(&settings), "2026-03-02 12:30:00.000000");
        settings.zone = Some("Europe/Berlin".into());
        assert_eq!(at(&settings), "2026-03-02 08:00:00.000000");
    }

    #[test]
    fn the_two_half_past_twos_of_autumn_differ_by_their_device() {
        let settings = FrappeHrSettings::default();
        let at = |ms| rendered(&settings, |tap| tap.occurred = UtcMs(ms));
        let (first, second) = (at(1_792_888_200_000), at(1_792_891_800_000));
        assert_eq!(first.timestamp, second.timestamp);
        assert_eq!(
            (first.device_id.as_str(), second.device_id.as_str()),
            ("hq-door-12 +02:00", "hq-door-12 +01:00")
        );
        assert!(first.ambiguous && second.ambiguous);
        assert!(!at(1_792_895_400_000).ambiguous);
    }

    #[test]
    fn what_frappe_could_not_hold_is_not_sent() {
        let (event, mut tap) = tap();
        let mut settings = FrappeHrSettings::default();
        let why =
            |settings: &FrappeHrSettings, tap: &DeliverableTap| render(settings, event, tap).unwrap_err().0;
        tap.person.0 = "é".repeat(141);
        assert!(why(&settings, &tap).contains("the person's name has more than the 140"));
        tap.person.0 = String::new();
        assert_eq!(why(&settings, &tap), "the person has no name");
        tap.person.0 = "é".repeat(140);
        assert!(render(&settings, event, &tap).is_ok());
        settings.device_id = Text::parse(&"x".repeat(141)).unwrap();
        assert!(why(&settings, &tap).contains("device_id has more than"));
        settings = FrappeHrSettings::default();
        tap.site.zone = "Nowhere/Atall".into();
        assert!(why(&settings, &tap).contains("no time zone"));
    }

    #[test]
    fn a_time_is_compared_to_the_second_and_no_other_shape_is_taken() {
        let check_in = rendered(&FrappeHrSettings::default(), |_| {});
        for told in ["2026-03-02 08:00:00", "2026-03-02 08:00:00.000000", "2026-03-02 08:00:00.0"] {
            assert!(check_in.is_at(told), "{told}");
        }
        for told in [
            "",
            "2026-03-02 08:00:01",
            "2026-03-02 08:00:00.250000",
            "2026-03-02T08:00:00",
            "2026-03-02 08:00:00+01:00",
            "2026-03-02 08:00",
            "2026-03-02 08:00:0é",
        ] {
            assert!(!check_in.is_at(told), "{told}");
        }
    }
}
