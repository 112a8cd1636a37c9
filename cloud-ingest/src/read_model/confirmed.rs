//! Beside the line: on how many doors a badge is revoked by now. Pure.

use serde::Serialize;

use crate::event_store::{ControllerState, Revocation};

/// "Confirmed on n of m controllers".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Confirmed {
    /// Controllers whose last hello named the roster that says so first, or a newer one.
    pub on: usize,
    /// All controllers that were asked about.
    pub of: usize,
}

/// Where it is confirmed that a badge was revoked.
pub fn confirmed(revocation: &Revocation, controllers: &[ControllerState]) -> Confirmed {
    let has = |state: &&ControllerState| {
        let version = state.hello.as_ref().and_then(|hello| hello.hello.roster_version);
        revocation.roster.is_some() && version >= revocation.roster
    };
    Confirmed { on: controllers.iter().filter(has).count(), of: controllers.len() }
}

#[cfg(test)]
mod tests {
    use tap_protocol::hello::Hello;

    use super::*;
    use crate::event_store::{EventStore, UtcMs};
    use crate::fixture::{self, Door, START};

    #[test]
    fn a_revocation_is_confirmed_by_hellos_that_name_its_roster_or_a_newer_one() {
        let mut store = fixture::store();
        let revocation = |roster| Revocation { at: UtcMs(0), why: "lost".into(), roster };
        let mut said = |roster: Option<u64>| confirmed(&revocation(roster), &store.controllers().unwrap());
        assert_eq!(said(None), Confirmed { on: 0, of: 3 });
        assert_eq!(said(Some(7)), Confirmed { on: 0, of: 3 });
        for (n, version) in [(1, Some(6)), (2, Some(7)), (3, Some(8))] {
            let door = Door::new(n);
            let hello = Hello::open(&door.hello(), &door.id, &door.key.public()).unwrap();
            store.note_hello(&Hello { roster_version: version, ..hello }, START).unwrap();
        }
        let mut said = |roster: Option<u64>| confirmed(&revocation(roster), &store.controllers().unwrap()).on;
        assert_eq!([None, Some(6), Some(7), Some(8), Some(9)].map(&mut said), [0, 3, 2, 1, 0]);
    }
}
