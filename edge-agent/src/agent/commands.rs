//! What the cloud asks of this controller, as the loop sees it.

use tap_protocol::command::Command;

use super::{Agent, with_causes};
use crate::now::Now;

impl Agent {
    pub(super) fn command(&mut self, payload: &[u8], _now: &Now) -> Result<(), String> {
        Command::open(payload, &self.setup.controller, &self.identity.control_keys)
            .map_err(|error| with_causes(&error))?;
        Err("this edge-agent takes no command yet".into())
    }
}
