//! Step 7 of 12, as far as it is about rosters: what doors say of theirs goes to the librarian, and nothing waits for it.

use tap_protocol::hello::Hello;
use tap_protocol::ids::ControllerId;
use tokio::sync::mpsc;

/// What doors say of their rosters. Whatever finds no room is said again: hellos every minute, wishes after 15 s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Which roster a door has.
    Has {
        /// Which door.
        controller: ControllerId,
        /// Which roster, if any.
        version: Option<u64>,
    },
    /// Which chunks a door lacks.
    Wants {
        /// Which door.
        controller: ControllerId,
        /// Of which roster.
        version: u64,
        /// The first.
        from: u32,
        /// How many.
        count: u32,
    },
}

/// More than there are doors behind one broker: a hello of each can wait.
const MAX_WAITING: usize = 2_048;

/// The worker's way to the librarian.
#[derive(Debug, Clone)]
pub struct RosterDesk(mpsc::Sender<Said>);

/// A desk, and where the librarian hears what is said there.
pub fn desk() -> (RosterDesk, mpsc::Receiver<Said>) {
    let (desk, said) = mpsc::channel(MAX_WAITING);
    (RosterDesk(desk), said)
}

impl RosterDesk {
    /// A door said hello.
    pub fn greeted(&self, hello: &Hello) {
        let _ = self
            .0
            .try_send(Said::Has { controller: hello.controller.clone(), version: hello.roster_version });
    }

    /// A door asked for chunks.
    pub fn wanted(&self, controller: ControllerId, version: u64, from: u32, count: u32) {
        let _ = self.0.try_send(Said::Wants { controller, version, from, count });
    }
}
