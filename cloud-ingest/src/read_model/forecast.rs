//! Beside the line: what a replay would mean before it is made: how many of what, where and when, and how long it takes.
//! Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::destination::settings::Limits;
use crate::event_store::replays::{Retold, Sifted};
use crate::event_store::{DeliveryState, UtcMs};

/// So many members are rendered for the comparison with what was sent.
pub const COMPARED: usize = 1_000;

/// So many that differ are shown whole.
pub const EXAMPLES: usize = 3;

/// What a replay would mean.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Forecast {
    /// How many members it would have.
    pub members: u64,
    /// Those of them that the destination has taken already.
    pub taken_before: u64,
    /// By state, or by reason where they wait for a person.
    pub by_type: BTreeMap<String, u64>,
    /// By `controller/reader`.
    pub by_door: BTreeMap<String, u64>,
    /// By the day of the tap at its site.
    pub by_day: BTreeMap<String, u64>,
    /// At least so long, if nothing else is sent.
    pub at_least_s: u64,
    /// How the first members compare with what was sent.
    pub compared: Compared,
}

/// How members compare with what was sent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Compared {
    /// The first so many were looked at.
    pub looked_at: u64,
    /// They would be told as before.
    pub same: u64,
    /// They would be told otherwise.
    pub otherwise: u64,
    /// They were never told.
    pub never_sent: u64,
    /// They would not be sent, by reason.
    pub left_out: BTreeMap<String, u64>,
    /// Some that would be told otherwise.
    pub examples: Vec<Otherwise>,
}

/// One that would be told otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Otherwise {
    /// Which.
    pub event_id: String,
    /// What was sent.
    pub before: String,
    /// What would be.
    pub now: String,
}

impl Forecast {
    /// One member more, at a site with that time zone.
    pub fn add(&mut self, one: &Sifted, zone: &str) {
        self.members += 1;
        self.taken_before += u64::from(one.state == DeliveryState::Delivered);
        let of_type = one.reason.clone().unwrap_or_else(|| one.state.name().to_owned());
        *self.by_type.entry(of_type).or_default() += 1;
        *self.by_door.entry(format!("{}/{}", one.controller, one.reader)).or_default() += 1;
        let day = one.occurred.map_or_else(|| "not known".to_owned(), |at| day(at, zone));
        *self.by_day.entry(day).or_default() += 1;
    }

    /// How long it takes at these limits.
    pub fn takes(&mut self, limits: &Limits) {
        self.at_least_s = seconds(self.members, limits);
    }
}

impl Compared {
    /// One more that was looked at: `rendered` is what would be sent, or why nothing would be.
    pub fn add(&mut self, one: &Retold, rendered: Result<String, String>) {
        self.looked_at += 1;
        match (rendered, &one.body) {
            (Err(why), _) => *self.left_out.entry(why).or_default() += 1,
            (Ok(_), None) => self.never_sent += 1,
            (Ok(now), Some(before)) if now == *before => self.same += 1,
            (Ok(now), Some(before)) => {
                self.otherwise += 1;
                if self.examples.len() < EXAMPLES {
                    let before = before.clone();
                    self.examples.push(Otherwise { event_id: one.event_id.to_string(), before, now });
                }
            }
        }
    }
}

/// The date on the site's calendar.
pub fn day(at: UtcMs, zone: &str) -> String {
    let zone = TimeZone::get(zone).unwrap_or(TimeZone::UTC);
    match Timestamp::from_millisecond(at.0) {
        Ok(at) => at.to_zoned(zone).date().to_string(),
        Err(_) => "not known".into(),
    }
}

/// So many calls take so long: by the second, and by the day where days are limited.
fn seconds(calls: u64, limits: &Limits) -> u64 {
    let by_rate = (calls.saturating_sub(u64::from(limits.burst)) as f64 / limits.per_second).ceil() as u64;
    let days = limits.per_day.map_or(0, |per_day| calls.saturating_sub(1) / u64::from(per_day.max(1)));
    by_rate.max(days * 24 * 3_600)
}

/// In the words of people: `40 s`, `12 min`, `3 h 20 min`, `2 days`.
pub fn in_words(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds.div_ceil(60)),
        7_200..172_800 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use tap_protocol::ids::{ControllerId, EventId, OutboxId, Seq};

    use super::*;
    use crate::event_store::Position;

    fn candidate(state: DeliveryState, reason: Option<&str>, occurred: Option<UtcMs>) -> Sifted {
        let controller: ControllerId = "door-1".parse().unwrap();
        Sifted {
            position: Position(1),
            event_id: EventId::new(&controller, OutboxId([1; 16]), Seq(1)),
            state,
            reason: reason.map(str::to_owned),
            person: None,
            controller,
            site: "hq".into(),
            reader: "in".parse().unwrap(),
            occurred,
        }
    }

    #[test]
    fn members_are_counted_by_type_door_and_the_sites_own_day() {
        let mut forecast = Forecast::default();
        // 23:30 UTC is the next day in Berlin.
        let late = Some(UtcMs(1_772_494_200_000));
        forecast.add(&candidate(DeliveryState::Dead, Some("refused"), late), "Europe/Berlin");
        forecast.add(&candidate(DeliveryState::Delivered, None, late), "UTC");
        forecast.add(&candidate(DeliveryState::Delivered, None, None), "UTC");
        assert_eq!((forecast.members, forecast.taken_before), (3, 2));
        assert_eq!(forecast.by_type, BTreeMap::from([("delivered".into(), 2), ("refused".into(), 1)]));
        assert_eq!(forecast.by_door, BTreeMap::from([("door-1/in".into(), 3)]));
        let days = [("2026-03-02", 1), ("2026-03-03", 1), ("not known", 1)];
        assert_eq!(forecast.by_day, days.map(|(day, count)| (day.to_owned(), count)).into());
    }

    #[test]
    fn it_takes_as_long_as_the_limits_say() {
        let limits = Limits { per_second: 2.0, burst: 10, per_day: None, concurrency: 1 };
        assert_eq!(seconds(5, &limits), 0);
        assert_eq!(seconds(110, &limits), 50);
        let by_day = Limits { per_day: Some(100), ..limits };
        assert_eq!(seconds(100, &by_day), 45);
        assert_eq!(seconds(201, &by_day), 2 * 86_400);
        assert_eq!([45, 600, 7_260, 172_800].map(in_words), ["45 s", "10 min", "2 h 1 min", "2 days"]);
    }

    #[test]
    fn what_would_be_told_is_compared_with_what_was() {
        let controller: ControllerId = "door-1".parse().unwrap();
        let retold = |body: Option<&str>| Retold {
            position: Position(1),
            event_id: EventId::new(&controller, OutboxId([1; 16]), Seq(1)),
            body: body.map(str::to_owned),
            tap: Err("unused"),
        };
        let mut compared = Compared::default();
        compared.add(&retold(Some("a")), Ok("a".into()));
        (0..5).for_each(|_| compared.add(&retold(Some("a")), Ok("b".into())));
        compared.add(&retold(None), Ok("b".into()));
        compared.add(&retold(Some("a")), Err("nobody's".into()));
        assert_eq!(
            (compared.looked_at, compared.same, compared.otherwise, compared.never_sent),
            (8, 1, 5, 1)
        );
        assert_eq!(compared.examples.len(), EXAMPLES);
        assert_eq!(compared.left_out, BTreeMap::from([("nobody's".into(), 1)]));
    }
}
