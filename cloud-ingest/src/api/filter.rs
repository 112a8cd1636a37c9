//! Beside the line: the query of the event list, read strictly. Pure.

use crate::event_store::people::DifferenceFilter;
use crate::event_store::{DeliveryState, EventFilter, Position};
use strict_config::closest;

use super::problem::Problem;

/// Without a limit.
pub const DEFAULT_LIMIT: usize = 50;

/// One page has at most so many events.
pub const MAX_LIMIT: usize = 500;

const NAMES: [&str; 5] = ["before", "controller", "state", "taps", "limit"];

/// Reads `before=17&limit=100`, of the list of differences.
pub fn differences(query: &str) -> Result<DifferenceFilter, Problem> {
    let mut filter = DifferenceFilter { before: None, limit: DEFAULT_LIMIT };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            "before" => filter.before = Some(Position(number(name, value)?)),
            "limit" => filter.limit = limit(value)?,
            _ => return Err(unknown(name, &["before", "limit"])),
        }
    }
    Ok(filter)
}

/// Reads `before=17&controller=door-1&state=dead&taps=true&limit=100`.
pub fn from_query(query: &str) -> Result<EventFilter, Problem> {
    let mut filter = EventFilter { limit: DEFAULT_LIMIT, ..EventFilter::default() };
    // All values are numbers or slugs, so nothing needs percent-decoding.
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            "before" => filter.before = Some(Position(number(name, value)?)),
            "controller" => {
                filter.controller = Some(
                    value.parse().map_err(|error| Problem::bad_request(format!("controller: {error}")))?,
                );
            }
            "state" => {
                let state = DeliveryState::from_name(value).ok_or_else(|| {
                    let names = DeliveryState::ALL.map(DeliveryState::name);
                    Problem::bad_request(format!("state: use one of {}", names.join(", ")))
                })?;
                filter.state = Some(state);
            }
            "taps" => match value {
                "true" => filter.taps_only = true,
                "false" => filter.taps_only = false,
                _ => return Err(Problem::bad_request("taps: use true or false")),
            },
            "limit" => filter.limit = limit(value)?,
            _ => return Err(unknown(name, &NAMES)),
        }
    }
    Ok(filter)
}

const _: () = assert!(MAX_LIMIT == 500, "the match above says so too");

fn limit(value: &str) -> Result<usize, Problem> {
    match number("limit", value)? {
        limit @ 1..=500 => Ok(limit as usize),
        _ => Err(Problem::bad_request(format!("limit: use 1 to {MAX_LIMIT}"))),
    }
}

fn unknown(name: &str, known: &[&str]) -> Problem {
    let hint = match closest(name, known.iter().copied()) {
        Some(meant) => format!("did you mean {meant}?"),
        None => format!("there is {}", known.join(", ")),
    };
    Problem::bad_request(format!("unknown parameter: {hint}"))
}

fn number(name: &str, value: &str) -> Result<u64, Problem> {
    value.parse().map_err(|_| Problem::bad_request(format!("{name}: use a whole number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read() {
        let filter = from_query("before=17&controller=door-1&state=dead&taps=true&limit=500").unwrap();
        assert_eq!(filter.before, Some(Position(17)));
        assert_eq!(filter.controller, Some("door-1".parse().unwrap()));
        assert_eq!(filter.state, Some(DeliveryState::Dead));
        assert!(filter.taps_only);
        assert_eq!(filter.limit, 500);
        assert_eq!(from_query("").unwrap().limit, DEFAULT_LIMIT);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for bad in [
            "limit=0",
            "limit=501",
            "limit=-1",
            "limit=",
            "limit=ten",
            "before=x",
            "controller=DOOR",
            "controller=%2e",
            "state=lost",
            "taps=1",
            "limt=5",
            "limit",
        ] {
            assert!(from_query(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn differences_are_paged_and_nothing_else() {
        let filter = differences("before=17&limit=3").unwrap();
        assert_eq!((filter.before, filter.limit), (Some(Position(17)), 3));
        assert_eq!(differences("").unwrap().limit, DEFAULT_LIMIT);
        for bad in ["limit=0", "limit=501", "before=x", "state=dead", "befor=1"] {
            assert!(differences(bad).is_err(), "{bad}");
        }
    }
}
