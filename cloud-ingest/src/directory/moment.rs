//! Beside the line: moments as people write them. Pure: the time zone is an argument.
//!
//! A date and a time of day mean the site's own clock, so they need its zone; with an offset behind them they need
//! nothing. A date alone means a whole day: *from* Monday is from its first moment, *to* Friday is to its last. A time
//! that the clocks skip or show twice in a night is refused rather than guessed.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};

use super::timeline::EVER;
use crate::event_store::UtcMs;

/// The word for a binding that began before all that is known.
const EVER_WORD: &str = "ever";

/// Which end of a stretch a date stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its first moment.
    From,
    /// The first moment after it.
    To,
}

/// Why something is no moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadMoment {
    /// It is written otherwise.
    #[error(
        "{0:?} is no date or time: write 2026-03-02 (the whole day), 2026-03-02 08:00, or 2026-03-02T08:00:00+01:00"
    )]
    Text(String),
    /// There is no zone to read it in.
    #[error(
        "{0:?} needs a time zone, since there are sites in several: write it with an offset, or give --zone"
    )]
    Zoneless(String),
    /// The clocks go forward over it.
    #[error("{0:?} never was on the clock of {1}, which goes forward over it: write it with an offset")]
    Skipped(String, String),
    /// The clocks show it twice.
    #[error("{0:?} was twice on the clock of {1}, which goes back over it: write it with an offset")]
    Twice(String, String),
}

/// Reads a moment; `zone` is where people live who wrote it.
pub fn read(text: &str, zone: Option<&TimeZone>, end: End) -> Result<UtcMs, BadMoment> {
    let text = text.trim();
    if end == End::From && text.eq_ignore_ascii_case(EVER_WORD) {
        return Ok(EVER);
    }
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Ok(UtcMs(instant.as_millisecond()));
    }
    let local = match text.parse::<Date>().ok().filter(|_| text.len() <= "2026-03-02".len()) {
        Some(date) => {
            let day = match end {
                End::From => Ok(date),
                End::To => date.tomorrow(),
            };
            day.map_err(|_| BadMoment::Text(text.to_owned()))?.at(0, 0, 0, 0)
        }
        None => text.parse::<DateTime>().map_err(|_| BadMoment::Text(text.to_owned()))?,
    };
    let zone = zone.ok_or_else(|| BadMoment::Zoneless(text.to_owned()))?;
    let name = || zone.iana_name().unwrap_or("this zone").to_owned();
    let ambiguous = zone.to_ambiguous_timestamp(local);
    let instant = match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } => ambiguous.compatible(),
        // A day that has no midnight begins when the clocks say so.
        AmbiguousOffset::Gap { .. } if local.time() == jiff::civil::Time::midnight() => ambiguous.later(),
        AmbiguousOffset::Fold { .. } if local.time() == jiff::civil::Time::midnight() => ambiguous.earlier(),
        AmbiguousOffset::Gap { .. } => return Err(BadMoment::Skipped(text.to_owned(), name())),
        AmbiguousOffset::Fold { .. } => return Err(BadMoment::Twice(text.to_owned(), name())),
    };
    let instant = instant.map_err(|_| BadMoment::Text(text.to_owned()))?;
    Ok(UtcMs(instant.as_millisecond()))
}

/// The zone that all sites share, if they do.
pub fn shared_zone<'a>(zones: impl IntoIterator<Item = &'a str>) -> Option<TimeZone> {
    let mut zones = zones.into_iter();
    let first = zones.next()?;
    if zones.any(|other| other != first) { None } else { TimeZone::get(first).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn means(text: &str, end: End, expected: &str) {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let moment = read(text, Some(&berlin), end).unwrap();
        assert_eq!(Timestamp::from_millisecond(moment.0).unwrap().to_string(), expected);
    }

    #[test]
    fn a_time_is_on_the_sites_own_clock_unless_it_has_an_offset() {
        means("2026-03-02 08:00", End::From, "2026-03-02T07:00:00Z");
        means("2026-07-02T08:00:30", End::To, "2026-07-02T06:00:30Z");
        means("2026-03-02T08:00:00+02:00", End::From, "2026-03-02T06:00:00Z");
        means("2026-03-02T08:00:00Z", End::To, "2026-03-02T08:00:00Z");
    }

    #[test]
    fn a_date_is_the_whole_day() {
        means("2026-03-02", End::From, "2026-03-01T23:00:00Z");
        means("2026-03-02", End::To, "2026-03-02T23:00:00Z");
        means("2026-03-29", End::To, "2026-03-29T22:00:00Z");
    }

    #[test]
    fn a_time_that_never_was_or_was_twice_is_refused() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let read = |text| read(text, Some(&berlin), End::From);
        assert!(matches!(read("2026-03-29 02:30"), Err(BadMoment::Skipped(..))));
        assert!(matches!(read("2026-10-25 02:30"), Err(BadMoment::Twice(..))));
        assert!(matches!(read("02.03.2026"), Err(BadMoment::Text(_))));
        assert!(matches!(read(""), Err(BadMoment::Text(_))));
    }

    #[test]
    fn ever_is_a_beginning_and_no_end() {
        assert_eq!(read("ever", None, End::From), Ok(EVER));
        assert!(read("ever", None, End::To).is_err());
    }

    #[test]
    fn without_a_zone_only_offsets_are_understood() {
        let zoneless = BadMoment::Zoneless("2026-03-02".into());
        assert_eq!(read("2026-03-02", None, End::From), Err(zoneless));
        assert!(read("2026-03-02T08:00:00Z", None, End::From).is_ok());
        assert!(shared_zone(["Europe/Berlin", "Europe/Berlin"]).is_some());
        assert!(shared_zone(["Europe/Berlin", "Europe/Paris"]).is_none());
        assert!(shared_zone([]).is_none());
    }
}
