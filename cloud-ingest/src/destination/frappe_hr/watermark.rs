//! Step 12 of 12: how far a shift type's *Last Sync of Checkin* may go. Pure: given how far each door's taps have been
//! delivered; asks and sends nothing.
//!
//! Frappe marks people absent up to that time and looks at no later log of theirs. So it is ours to move, and no further
//! than every door is complete.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tap_protocol::ids::ControllerId;

use crate::destination::CannotRender;
use crate::destination::fields::named;
use crate::destination::settings::ShiftTypeMark;
use crate::event_store::UtcMs;

/// How far one door has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Which.
    pub controller: ControllerId,
    /// At which site.
    pub site: String,
    /// Every tap that happened there before this moment is in Frappe, or a person has set it aside: none is on the door,
    /// under way, waiting for a time or a badge's owner, or refused. `None` while nothing is known.
    pub delivered_through: Option<UtcMs>,
}

/// What is to become of the time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "watermark")]
pub enum Watermark {
    /// It may go to this.
    Move {
        /// As Frappe writes times.
        to: String,
        /// The door that keeps it from going further.
        held_back_by: ControllerId,
    },
    /// It stays where it is.
    Stay {
        /// The door that holds it back; `None` if there is no door at all.
        held_back_by: Option<ControllerId>,
    },
}

/// Decides. `stands_at` is where it is, as Frappe writes times.
pub fn decide(
    mark: &ShiftTypeMark,
    doors: &[Progress],
    stands_at: Option<&str>,
) -> Result<Watermark, CannotRender> {
    let ours = doors.iter().filter(|door| mark.sites.is_empty() || mark.sites.contains(&door.site));
    // `None` is before all times: a door of which nothing is known holds everything back.
    let Some(last) = ours.min_by_key(|door| (door.delivered_through, &door.controller)) else {
        return Ok(Watermark::Stay { held_back_by: None });
    };
    let stay = Watermark::Stay { held_back_by: Some(last.controller.clone()) };
    let Some(through) = last.delivered_through else { return Ok(stay) };
    let to = complete_before(through, &named(&mark.zone)?)?;
    // One format for all: the order of the texts is that of the times.
    if stands_at.is_some_and(|stands_at| stands_at >= to.as_str()) {
        return Ok(stay);
    }
    Ok(Watermark::Move { to, held_back_by: last.controller.clone() })
}

/// Offsets change by less than this at once: the largest ever was a day, at the date line.
const LONGEST_LEAP_H: i64 = 25;

/// The time on the wall before which nothing can happen any more from `through` on. That is what a clock shows then,
/// except when it is about to be put back: then it is what it will be put back to.
fn complete_before(through: UtcMs, zone: &TimeZone) -> Result<String, CannotRender> {
    let out_of_range = |_| CannotRender(format!("{} ms since 1970 is out of range", through.0));
    let through = Timestamp::from_millisecond(through.0).map_err(out_of_range)?;
    let horizon = through.saturating_add(SignedDuration::from_hours(LONGEST_LEAP_H)).map_err(out_of_range)?;
    let shown = |at: Timestamp| zone.to_datetime(at);
    let put_back_to = zone
        .following(through)
        .map(|transition| transition.timestamp())
        .take_while(|at| *at <= horizon)
        .map(shown)
        .min();
    let now = shown(through);
    let earliest = put_back_to.map_or(now, |back| back.min(now));
    Ok(earliest.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mark(sites: &[&str]) -> ShiftTypeMark {
        ShiftTypeMark {
            shift_type: "Day".into(),
            sites: sites.iter().map(|site| (*site).to_owned()).collect(),
            zone: "Europe/Berlin".into(),
        }
    }

    /// Minutes after 2026-03-02 07:00 UTC.
    fn door(name: &str, site: &str, minutes: Option<i64>) -> Progress {
        Progress {
            controller: name.parse().unwrap(),
            site: site.into(),
            delivered_through: minutes.map(|minutes| UtcMs(1_772_434_800_000 + minutes * 60_000)),
        }
    }

    fn moves(to: &str, by: &str) -> Watermark {
        Watermark::Move { to: to.into(), held_back_by: by.parse().unwrap() }
    }

    fn stays(by: &str) -> Watermark {
        Watermark::Stay { held_back_by: Some(by.parse().unwrap()) }
    }

    #[test]
    fn it_goes_as_far_as_the_door_that_is_furthest_behind() {
        let doors = [door("a", "hq", Some(60)), door("b", "hq", Some(5)), door("c", "hq", Some(30))];
        assert_eq!(decide(&mark(&[]), &doors, None).unwrap(), moves("2026-03-02 08:05:00", "b"));
        assert_eq!(
            decide(&mark(&[]), &doors, Some("2026-03-02 08:04:59")).unwrap(),
            moves("2026-03-02 08:05:00", "b")
        );
    }

    #[test]
    fn it_never_goes_back_and_names_who_holds_it() {
        let doors = [door("a", "hq", Some(60)), door("b", "hq", Some(5))];
        for stands_at in ["2026-03-02 08:05:00", "2026-03-02 08:05:01", "2027-01-01 00:00:00"] {
            assert_eq!(decide(&mark(&[]), &doors, Some(stands_at)).unwrap(), stays("b"));
        }
    }

    #[test]
    fn a_door_of_which_nothing_is_known_holds_everything() {
        let doors = [door("a", "hq", Some(60)), door("new", "hq", None)];
        assert_eq!(decide(&mark(&[]), &doors, None).unwrap(), stays("new"));
    }

    #[test]
    fn only_doors_of_its_sites_count_and_without_any_it_stays() {
        let doors = [door("a", "hq", Some(60)), door("b", "lab", Some(5)), door("c", "depot", None)];
        assert_eq!(decide(&mark(&["hq"]), &doors, None).unwrap(), moves("2026-03-02 09:00:00", "a"));
        assert_eq!(decide(&mark(&["hq", "lab"]), &doors, None).unwrap(), moves("2026-03-02 08:05:00", "b"));
        assert_eq!(decide(&mark(&["moon"]), &doors, None).unwrap(), Watermark::Stay { held_back_by: None });
    }

    #[test]
    fn it_waits_at_the_hour_to_which_the_clock_will_be_put_back() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        // 2026-10-25: 02:30 comes at 00:30 UTC and again at 01:30 UTC; the clock is put back at 01:00 UTC.
        let midnight = 1_792_886_400_000;
        let at = |minutes: i64| complete_before(UtcMs(midnight + minutes * 60_000), &berlin).unwrap();
        assert_eq!(at(-30), "2026-10-25 01:30:00");
        assert_eq!(at(0), "2026-10-25 02:00:00");
        assert_eq!(at(30), "2026-10-25 02:00:00", "the second 02:10 is still to come");
        assert_eq!(at(59), "2026-10-25 02:00:00");
        assert_eq!(at(60), "2026-10-25 02:00:00");
        assert_eq!(at(90), "2026-10-25 02:30:00");
        assert_eq!(at(120), "2026-10-25 03:00:00");
    }

    #[test]
    fn it_leaps_with_the_clock_in_spring() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        // 2026-03-29: from 01:59:59 to 03:00 at 01:00 UTC.
        let at = |ms| complete_before(UtcMs(ms), &berlin).unwrap();
        assert_eq!(at(1_774_745_999_000), "2026-03-29 01:59:59");
        assert_eq!(at(1_774_746_000_000), "2026-03-29 03:00:00");
    }

    const ZONES: [&str; 6] = [
        "Europe/Berlin",
        "America/St_Johns",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Africa/Casablanca",
        "Asia/Kolkata",
    ];

    proptest! {
        /// What happens later is never told with an earlier time: nobody is marked absent for a tap that is to come.
        #[test]
        fn nothing_that_happens_later_lies_before_it(
            zone in 0..ZONES.len(), through in 1_300_000_000..1_900_000_000_i64, later in 0..200_000_i64
        ) {
            let zone = TimeZone::get(ZONES[zone]).unwrap();
            let complete = complete_before(UtcMs(through * 1000), &zone).unwrap();
            let later = Timestamp::from_second(through + later).unwrap();
            let told = zone.to_datetime(later).strftime("%Y-%m-%d %H:%M:%S").to_string();
            prop_assert!(told >= complete, "{told} comes after {complete}");
        }

        #[test]
        fn it_grows_with_what_is_complete(
            zone in 0..ZONES.len(), through in 1_300_000_000..1_900_000_000_i64, more in 0..200_000_i64
        ) {
            let zone = TimeZone::get(ZONES[zone]).unwrap();
            let (before, after) = (UtcMs(through * 1000), UtcMs((through + more) * 1000));
            prop_assert!(complete_before(before, &zone).unwrap() <= complete_before(after, &zone).unwrap());
        }
    }
}
