//! Step 9 of 12: which boots lie around which, and what that says of a boot that nobody told the time. Pure: knows no
//! SQL, no clock.
//!
//! A boot is one boot of one controller. It has a number in each outbox that it wrote to, and numbers ascend with time
//! within an outbox; the kernel's boot id, which the agent's start tells, says which numbers of which outboxes are the
//! same boot. That is all that is believed of the order of boots: outboxes themselves have none, for an old disk may be
//! put back at any time.

use std::collections::{BTreeSet, VecDeque};

use tap_protocol::time_repair::{BootTime, Neighbours};

/// A boot's number in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootNo(pub i64);

/// So many boots are looked at on each side: a door that starts over and over without ever learning the time must not
/// make a store walk through all of its past.
const MAX_LOOKED_AT: usize = 64;

/// Which way to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// At earlier boots.
    Before,
    /// At later boots.
    After,
}

/// What a store knows of boots.
pub trait Boots {
    /// What can go wrong when it is asked.
    type Error;

    /// What is known of a boot as a whole.
    fn time_of(&mut self, boot: BootNo) -> Result<BootTime, Self::Error>;

    /// The next boots on that side, in each outbox that the boot wrote to.
    fn next_to(&mut self, boot: BootNo, side: Side) -> Result<Vec<BootNo>, Self::Error>;
}

/// What is known around a boot.
pub fn neighbours<B: Boots>(boots: &mut B, boot: BootNo) -> Result<Neighbours, B::Error> {
    let known = |walk: &[(BootTime, i64)], side: Side| {
        let said = walk.iter().filter_map(|(time, ran_ms)| match side {
            Side::Before => Some(time.seen_utc_ms?.saturating_add(*ran_ms)),
            Side::After => Some(time.began_by_utc_ms?.saturating_sub(*ran_ms)),
        });
        let said: Vec<i64> = said.collect();
        match side {
            Side::Before => said.into_iter().max(),
            Side::After => said.into_iter().min(),
        }
    };
    let before = walk(boots, boot, Side::Before)?;
    let after = walk(boots, boot, Side::After)?;
    Ok(Neighbours {
        before_utc_ms: known(&before.known, Side::Before),
        after_utc_ms: known(&after.known, Side::After),
        last_boottime_ms: boots.time_of(boot)?.last_boottime_ms,
    })
}

/// The boots whose bounds change when something becomes known of `boot`: those around it that nothing is known of.
pub fn concerned<B: Boots>(boots: &mut B, boot: BootNo) -> Result<Vec<BootNo>, B::Error> {
    let mut concerned = walk(boots, boot, Side::Before)?.unknown;
    concerned.extend(walk(boots, boot, Side::After)?.unknown);
    concerned.sort_unstable();
    concerned.dedup();
    Ok(concerned)
}

/// The way to one side: through boots of which nothing is known, up to those of which something is.
#[derive(Default)]
struct Walk {
    /// With the true time that the boots between took at least, milliseconds.
    known: Vec<(BootTime, i64)>,
    unknown: Vec<BootNo>,
}

fn walk<B: Boots>(boots: &mut B, from: BootNo, side: Side) -> Result<Walk, B::Error> {
    let mut walk = Walk::default();
    let mut seen = BTreeSet::from([from]);
    let mut ahead: VecDeque<(BootNo, i64)> = VecDeque::from([(from, 0)]);
    while let Some((boot, ran_ms)) = ahead.pop_front() {
        for next in boots.next_to(boot, side)? {
            if seen.len() > MAX_LOOKED_AT || !seen.insert(next) {
                continue;
            }
            let time = boots.time_of(next)?;
            if time.is_known() {
                walk.known.push((time, ran_ms));
            } else {
                walk.unknown.push(next);
                ahead.push_back((next, ran_ms.saturating_add(time.ran_at_least_ms())));
            }
        }
    }
    Ok(walk)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tap_protocol::time_repair::TrueTime;

    use super::*;

    /// Outboxes with the boots that wrote to them, in their order; and when each boot was.
    struct Made {
        outboxes: Vec<Vec<i64>>,
        times: Vec<BootTime>,
    }

    impl Boots for Made {
        type Error = Infallible;

        fn time_of(&mut self, boot: BootNo) -> Result<BootTime, Infallible> {
            Ok(self.times[boot.0 as usize])
        }

        fn next_to(&mut self, boot: BootNo, side: Side) -> Result<Vec<BootNo>, Infallible> {
            let next = self.outboxes.iter().filter_map(|outbox| {
                let at = outbox.iter().position(|no| *no == boot.0)?;
                let next = match side {
                    Side::Before => at.checked_sub(1)?,
                    Side::After => at + 1,
                };
                outbox.get(next).map(|no| BootNo(*no))
            });
            Ok(next.collect())
        }
    }

    fn ran(boottime_ms: u64, time: TrueTime) -> BootTime {
        let mut boot = BootTime::default();
        boot.saw(boottime_ms, time);
        boot
    }

    fn known(utc_ms: i64) -> BootTime {
        ran(1_000, TrueTime::Known { utc_ms, uncertainty_ms: 0 })
    }

    fn unknown(uptime_ms: u64) -> BootTime {
        ran(uptime_ms, TrueTime::Unknown)
    }

    #[track_caller]
    fn lies_between(
        outboxes: &[&[i64]],
        times: &[BootTime],
        of: i64,
        before: Option<i64>,
        after: Option<i64>,
    ) {
        let mut made =
            Made { outboxes: outboxes.iter().map(|boots| boots.to_vec()).collect(), times: times.to_vec() };
        let found = neighbours(&mut made, BootNo(of)).unwrap();
        let last_boottime_ms = times[of as usize].last_boottime_ms;
        assert_eq!(found, Neighbours { before_utc_ms: before, after_utc_ms: after, last_boottime_ms });
    }

    #[test]
    fn a_boot_lies_between_the_next_that_are_known() {
        let times = [known(100_000), unknown(5_000), known(900_000)];
        lies_between(&[&[0, 1, 2]], &times, 1, Some(100_000), Some(899_001));
        lies_between(&[&[0, 1]], &times, 1, Some(100_000), None);
        lies_between(&[&[1, 2]], &times, 1, None, Some(899_001));
        lies_between(&[&[0], &[1], &[2]], &times, 1, None, None);
    }

    #[test]
    fn boots_between_that_are_not_known_take_their_time() {
        let times = [known(100_000), unknown(5_000), unknown(7_000), known(900_000)];
        lies_between(&[&[0, 1, 2, 3]], &times, 1, Some(100_000), Some(899_001 - 6_999));
        lies_between(&[&[0, 1, 2, 3]], &times, 2, Some(104_999), Some(899_001));
    }

    #[test]
    fn a_boot_that_wrote_to_two_outboxes_ties_them_together() {
        let times = [known(100_000), unknown(5_000), known(900_000)];
        lies_between(&[&[0, 1], &[1, 2]], &times, 1, Some(100_000), Some(899_001));
        let times = [known(100_000), unknown(5_000), unknown(6_000), known(900_000)];
        lies_between(&[&[0, 1], &[1, 2, 3]], &times, 2, Some(104_999), Some(899_001));
    }

    #[test]
    fn what_becomes_known_concerns_the_unknown_around_it_and_nobody_beyond() {
        let times = [unknown(1), known(5), unknown(1), unknown(1), known(9), unknown(1)];
        let mut made = Made { outboxes: vec![(0..6).collect()], times: times.to_vec() };
        assert_eq!(concerned(&mut made, BootNo(4)).unwrap(), [2, 3, 5].map(BootNo));
        assert_eq!(concerned(&mut made, BootNo(1)).unwrap(), [0, 2, 3].map(BootNo));
    }

    #[test]
    fn a_door_that_starts_a_thousand_times_is_looked_at_a_little() {
        let mut times = vec![known(0)];
        times.extend(std::iter::repeat_n(unknown(1), 1_000));
        let mut made = Made { outboxes: vec![(0..1_001).collect()], times };
        assert_eq!(neighbours(&mut made, BootNo(1_000)).unwrap().before_utc_ms, None);
        assert_eq!(concerned(&mut made, BootNo(0)).unwrap().len(), MAX_LOOKED_AT);
    }
}
