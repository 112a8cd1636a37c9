//! What the cloud says of badges, as the loop sees it. Knows no reader: the verdict is asked for where a tap is made.

use tap_protocol::roster::RosterMessage;

use super::{Agent, with_causes};
use crate::now::Now;

impl Agent {
    pub(super) fn roster(&mut self, payload: &[u8], _now: &Now) -> Result<(), String> {
        RosterMessage::open(payload, &self.setup.controller, &self.identity.control_keys)
            .map_err(|error| with_causes(&error))?;
        Err("this edge-agent takes no roster yet".into())
    }
}
