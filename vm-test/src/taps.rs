//! What the people who tap in the guest were told, line by line (`guest/tapper.pl`). Pure.

use std::time::Duration;

/// What somebody was told who tapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Green: it is recorded.
    Accepted {
        /// Its number in the outbox.
        seq: u64,
        /// Its name for ever.
        event_id: String,
        /// When, by the guest's own time since it booted.
        uptime: Duration,
    },
    /// Not green, and why.
    Refused {
        /// When.
        uptime: Duration,
        /// In the agent's words.
        why: String,
    },
    /// Nobody was there to ask.
    Away {
        /// When.
        uptime: Duration,
    },
}

impl Told {
    /// A line of the tapper; `None` for anything else.
    pub fn parse(line: &str) -> Option<Told> {
        let mut words = line.splitn(3, ' ');
        let (verb, second, rest) = (words.next()?, words.next()?, words.next().unwrap_or_default());
        let uptime = |text: &str| text.parse().ok().map(Duration::from_millis);
        match verb {
            "tap" => {
                let (event_id, at) = rest.split_once(' ')?;
                let (seq, event_id) = (second.parse().ok()?, event_id.to_owned());
                Some(Told::Accepted { seq, event_id, uptime: uptime(at)? })
            }
            "refused" => Some(Told::Refused { uptime: uptime(second)?, why: rest.to_owned() }),
            "away" => Some(Told::Away { uptime: uptime(second)? }),
            _ => None,
        }
    }

    /// The number, if it was green.
    pub fn accepted(&self) -> Option<u64> {
        match self {
            Told::Accepted { seq, .. } => Some(*seq),
            Told::Refused { .. } | Told::Away { .. } => None,
        }
    }
}

/// The numbers of those who saw green.
pub fn accepted(told: &[Told]) -> Vec<u64> {
    told.iter().filter_map(Told::accepted).collect()
}

/// The longest time without a green light between two that there were, within one boot.
pub fn longest_gap(told: &[Told]) -> Duration {
    let greens = told.iter().filter_map(|told| match told {
        Told::Accepted { uptime, .. } => Some(*uptime),
        Told::Refused { .. } | Told::Away { .. } => None,
    });
    let mut longest = Duration::ZERO;
    let mut last = None;
    for green in greens {
        longest = longest.max(last.map_or(Duration::ZERO, |last| green.saturating_sub(last)));
        last = Some(green);
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn told(line: &str) -> Told {
        Told::parse(line).unwrap_or_else(|| panic!("{line}"))
    }

    #[test]
    fn each_line_of_the_tapper_is_understood() {
        let uptime = Duration::from_millis(31_040);
        let accepted = Told::Accepted { seq: 12, event_id: "0192-a".into(), uptime };
        assert_eq!(told("tap 12 0192-a 31040"), accepted);
        let refused = Told::Refused { uptime, why: "{\"refused\":{\"why\":\"the disk is full\"}}".into() };
        assert_eq!(told("refused 31040 {\"refused\":{\"why\":\"the disk is full\"}}"), refused);
        assert_eq!(told("away 31040 Connection refused"), Told::Away { uptime });
        for line in ["", "tap", "tap 12", "tap x id 3", "tap 12 id", "away soon", "perl: warning: locale"] {
            assert_eq!(Told::parse(line), None, "{line}");
        }
    }

    #[test]
    fn the_gap_is_between_greens_whatever_was_said_meanwhile() {
        let lines =
            ["tap 1 a 1000", "tap 2 b 1100", "away 1200 x", "refused 4000 y", "tap 3 c 4100", "away 9000 x"];
        let told: Vec<Told> = lines.iter().map(|line| told(line)).collect();
        assert_eq!(longest_gap(&told), Duration::from_millis(3_000));
        assert_eq!(accepted(&told), [1, 2, 3]);
        assert_eq!(longest_gap(&told[..1]), Duration::ZERO);
    }
}
