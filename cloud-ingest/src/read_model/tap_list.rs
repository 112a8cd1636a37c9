//! Beside the line: the list of a day's taps, a line for each, as a table that other programs read. Pure: the lines and
//! the names of destinations are arguments.
//!
//! Two things can go wrong with such files. A spreadsheet takes a cell that begins like a formula for one, so such a cell
//! gets an apostrophe before it. And a time without its offset is two times in the night when clocks go back, so each is
//! written as the site's clock showed it, with its offset, and in UTC besides.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Map, Value};

use crate::event_store::UtcMs;
use crate::event_store::exports::TapLine;

/// The columns before those of destinations.
const COLUMNS: [&str; 15] = [
    "event_id",
    "position",
    "site",
    "controller",
    "reader",
    "local_time",
    "utc_time",
    "uncertainty_ms",
    "estimated",
    "person",
    "direction_placed",
    "direction_decided",
    "badge_token",
    "verdict",
    "stored_utc",
];

/// The names of all columns. Each destination has two: how far the tap is there, and which way it is told to go.
pub fn header(destinations: &[String]) -> Vec<String> {
    let own = COLUMNS.map(str::to_owned).into_iter();
    own.chain(destinations.iter().flat_map(|name| [format!("{name}_state"), format!("{name}_direction")]))
        .collect()
}

/// A tap's cells, in the order of [`header`].
pub fn cells(line: &TapLine, destinations: &[String]) -> Vec<String> {
    let own = [
        line.event_id.to_string(),
        line.position.0.to_string(),
        line.site.clone(),
        line.controller.to_string(),
        line.reader.clone(),
        local(line.occurred.at, &line.zone),
        utc(line.occurred.at),
        line.occurred.uncertainty_ms.to_string(),
        if line.occurred.estimated { "yes" } else { "no" }.to_owned(),
        line.person.as_ref().map(|person| person.0.clone()).unwrap_or_default(),
        line.placed.name().to_owned(),
        line.decided.name().to_owned(),
        line.token.to_string(),
        line.verdict.clone(),
        utc(line.received),
    ];
    let of = |name: &String| {
        let delivery = line.deliveries.iter().find(|delivery| delivery.destination == *name);
        let state = delivery.map(|delivery| delivery.state.name());
        let told = delivery.and_then(|delivery| delivery.told).map(|told| told.name());
        [state, told].map(|cell| cell.unwrap_or_default().to_owned())
    };
    own.into_iter().chain(destinations.iter().flat_map(of)).collect()
}

/// The same as a JSON object: an empty cell is left out, and nothing is guarded, as no spreadsheet reads it.
pub fn object(line: &TapLine, destinations: &[String]) -> Value {
    let named = header(destinations).into_iter().zip(cells(line, destinations));
    let told = named.filter(|(_, cell)| !cell.is_empty()).map(|(name, cell)| {
        let value = match name.as_str() {
            "position" | "uncertainty_ms" => cell.parse::<u64>().map_or(Value::Null, Value::from),
            "estimated" => Value::from(cell == "yes"),
            _ => Value::from(cell),
        };
        (name, value)
    });
    Value::Object(told.collect::<Map<_, _>>())
}

/// The cell as no spreadsheet takes it for a formula.
pub fn guarded(cell: String) -> String {
    match cell.chars().next() {
        Some('=' | '+' | '-' | '@' | '\t' | '\r') => format!("'{cell}"),
        _ => cell,
    }
}

fn utc(at: UtcMs) -> String {
    Timestamp::from_millisecond(at.0).map_or_else(|_| format!("{} ms", at.0), |at| format!("{at:.3}"))
}

/// As the site's clock showed it, with its offset; in UTC where this machine does not know the zone.
fn local(at: UtcMs, zone: &str) -> String {
    let Ok(instant) = Timestamp::from_millisecond(at.0) else { return utc(at) };
    let zoned = instant.to_zoned(TimeZone::get(zone).unwrap_or(TimeZone::UTC));
    zoned.strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string()
}

#[cfg(test)]
mod tests {
    use tap_protocol::badge::Token;
    use tap_protocol::ids::{EventId, OutboxId, Seq};
    use tap_protocol::tap::Direction;

    use super::*;
    use crate::event_store::exports::LineDelivery;
    use crate::event_store::{DeliveryState, Occurred, PersonId, Position};

    fn line(at: &str, person: &str) -> TapLine {
        let controller: tap_protocol::ids::ControllerId = "hq-door-1".parse().unwrap();
        TapLine {
            position: Position(7),
            event_id: EventId::new(&controller, OutboxId([1; 16]), Seq(2)),
            site: "hq".into(),
            zone: "Europe/Berlin".into(),
            controller,
            reader: "in".into(),
            occurred: Occurred {
                at: UtcMs(at.parse::<Timestamp>().unwrap().as_millisecond()),
                uncertainty_ms: 3,
                estimated: false,
            },
            received: UtcMs(1_772_434_800_000),
            person: (!person.is_empty()).then(|| PersonId(person.into())),
            token: Token([9; 16]),
            verdict: "known".into(),
            placed: Direction::Unspecified,
            decided: Direction::In,
            deliveries: vec![LineDelivery {
                destination: "hr".into(),
                state: DeliveryState::Delivered,
                told: Some(Direction::In),
            }],
        }
    }

    fn names() -> Vec<String> {
        ["hr", "gate"].map(str::to_owned).to_vec()
    }

    #[test]
    fn every_column_has_a_cell() {
        let (header, cells) = (header(&names()), cells(&line("2026-03-02T07:00:00.25Z", "E-1"), &names()));
        assert_eq!(header.len(), cells.len());
        let cell = |name: &str| cells[header.iter().position(|known| known == name).unwrap()].as_str();
        assert_eq!(cell("local_time"), "2026-03-02T08:00:00.250+01:00");
        assert_eq!(cell("utc_time"), "2026-03-02T07:00:00.250Z");
        assert_eq!((cell("person"), cell("direction_decided"), cell("hr_state")), ("E-1", "in", "delivered"));
        assert_eq!((cell("gate_state"), cell("gate_direction")), ("", ""));
    }

    #[test]
    fn the_hour_that_autumn_repeats_is_told_apart_by_its_offset() {
        let local = |at: &str| cells(&line(at, ""), &[])[5].clone();
        assert_eq!(local("2026-10-25T00:30:00Z"), "2026-10-25T02:30:00.000+02:00");
        assert_eq!(local("2026-10-25T01:30:00Z"), "2026-10-25T02:30:00.000+01:00");
        assert_eq!(local("2026-03-29T01:00:00Z"), "2026-03-29T03:00:00.000+02:00");
    }

    #[test]
    fn a_zone_that_this_machine_does_not_know_leaves_utc() {
        let line = TapLine { zone: "Moon/Base".into(), ..line("2026-03-02T07:00:00Z", "") };
        assert_eq!(cells(&line, &[])[5], "2026-03-02T07:00:00.000+00:00");
    }

    #[test]
    fn no_cell_is_a_formula() {
        for hostile in ["=1+1", "+49", "-2", "@SUM(A1)", "\t=1", "\r=1"] {
            assert_eq!(guarded(hostile.into()), format!("'{hostile}"));
        }
        for harmless in ["", "E-1007", "a=b", "'x", "2026-03-02T08:00:00.000+01:00"] {
            assert_eq!(guarded(harmless.into()), harmless);
        }
    }

    #[test]
    fn as_json_numbers_are_numbers_and_nothing_is_guarded() {
        let told = object(&line("2026-03-02T07:00:00Z", "=E-1"), &names());
        assert_eq!(told["position"], 7);
        assert_eq!(told["person"], "=E-1");
        assert_eq!(told["estimated"], false);
        assert!(told.get("gate_state").is_none());
    }
}
