//! Beside step 7 of 12: whether two controllers use one identity. Pure: knows no broker, no store, no clock.
//!
//! A boot id is random, and a boot that is over never comes back. So a boot that says hello after another one has said hello
//! since is another machine: a copied card. A broker keeps one session per client id, and each of the two pushes the other
//! out; what they say then alternates.

use std::collections::{BTreeMap, VecDeque};

use tap_protocol::ids::{BootId, ControllerId};

/// Boots of a controller that are remembered: copies of one card that take turns.
const MAX_BOOTS: usize = 8;

/// Hellos are delivered again by a broker for as long as it keeps them; only one that is newer counts.
#[derive(Debug, Default)]
pub struct Twins {
    /// Per controller, the boots that said hello and how late in them that was last, the latest last.
    boots: BTreeMap<ControllerId, VecDeque<(BootId, u64)>>,
}

impl Twins {
    /// A hello was taken. Whether it shows that two controllers use this identity.
    pub fn hello(&mut self, controller: &ControllerId, boot: BootId, boottime_ms: u64) -> bool {
        let boots = self.boots.entry(controller.clone()).or_default();
        let known = boots.iter().position(|(known, _)| *known == boot);
        let Some(at) = known else {
            if boots.len() == MAX_BOOTS {
                boots.pop_front();
            }
            boots.push_back((boot, boottime_ms));
            return false;
        };
        let is_repeated = boottime_ms <= boots[at].1;
        let is_last = at + 1 == boots.len();
        if is_repeated {
            return false;
        }
        boots.remove(at);
        boots.push_back((boot, boottime_ms));
        !is_last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the last of these hellos shows: boot and boottime of each.
    #[track_caller]
    fn check(hellos: &[(u8, u64)], expected: bool) {
        let mut twins = Twins::default();
        let door = "door-1".parse().unwrap();
        let mut shown = false;
        for (boot, boottime_ms) in hellos {
            shown = twins.hello(&door, BootId([*boot; 16]), *boottime_ms);
        }
        assert_eq!(shown, expected, "{hellos:?}");
        assert!(!twins.hello(&"door-2".parse().unwrap(), BootId([1; 16]), 9));
    }

    #[test]
    fn one_controller_that_restarts_and_reboots_is_one() {
        check(&[(1, 10)], false);
        check(&[(1, 10), (1, 20), (1, 30)], false);
        check(&[(1, 10), (2, 10), (3, 10)], false);
    }

    #[test]
    fn a_boot_that_comes_back_is_another_machine() {
        check(&[(1, 10), (2, 10), (1, 20)], true);
        check(&[(1, 10), (2, 10), (3, 10), (2, 20)], true);
        check(&[(1, 10), (2, 10), (1, 20), (1, 30)], false);
    }

    #[test]
    fn a_hello_that_the_broker_delivers_again_shows_nothing() {
        check(&[(1, 10), (2, 10), (1, 10)], false);
        check(&[(1, 10), (1, 20), (2, 10), (1, 10), (1, 20)], false);
    }
}
