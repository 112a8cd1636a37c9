//! Beside the line: what one of several processes on one store does. Pure.

use std::fmt;

use clap::ValueEnum;

use crate::health::Loop;

/// One part of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Take taps in from the broker; of several, one does and the others stand by
    Ingest,
    /// Deliver
    Dispatch,
    /// Answer people and controllers: page, API, enrolment
    Api,
    /// Everything
    All,
}

/// The parts that one process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// It takes in, or stands by to.
    pub ingest: bool,
    /// It delivers.
    pub dispatch: bool,
    /// It answers people and controllers.
    pub api: bool,
}

impl Roles {
    /// What is asked for by name.
    pub fn new(named: &[Role]) -> Roles {
        let does = |role| named.contains(&role) || named.contains(&Role::All);
        Roles { ingest: does(Role::Ingest), dispatch: does(Role::Dispatch), api: does(Role::Api) }
    }

    /// Whether nothing is left to another process.
    pub fn are_all(self) -> bool {
        self.ingest && self.dispatch && self.api
    }

    /// The loops that must turn then.
    pub fn loops(self) -> Vec<Loop> {
        let turns = |which: &Loop| match which {
            Loop::Broker | Loop::Intake => self.ingest,
            Loop::Dispatch => self.dispatch,
            Loop::Watch => true,
        };
        Loop::ALL.into_iter().filter(turns).collect()
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [(self.ingest, "ingest"), (self.dispatch, "dispatch"), (self.api, "api")];
        let named: Vec<_> = named.into_iter().filter_map(|(does, name)| does.then_some(name)).collect();
        f.write_str(&named.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_does_what_it_is_told_and_only_those_loops_must_turn() {
        let some = Roles::new(&[Role::Ingest, Role::Api]);
        assert!(some.ingest && !some.dispatch && some.api && !some.are_all());
        assert_eq!(some.loops(), [Loop::Broker, Loop::Intake, Loop::Watch]);
        assert_eq!(some.to_string(), "ingest,api");
        assert!(Roles::new(&[Role::All]).are_all());
        assert_eq!(Roles::new(&[Role::Dispatch, Role::All]).loops(), Loop::ALL);
    }
}
