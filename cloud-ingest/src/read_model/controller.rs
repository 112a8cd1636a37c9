//! Beside the line: everything that is known of one controller. Pure: asks the store, and nothing else.

use tap_protocol::ids::ControllerId;

use crate::event_store::commands::{CommandRow, TroubleRow};
use crate::event_store::{ControllerState, EventStore, Member, StoreError};

/// One controller with what contradicts itself there, and what it was told to do.
#[derive(Debug)]
pub struct Known {
    /// Who, its last hello and its outboxes.
    pub state: ControllerState,
    /// What trust in it rests on.
    pub member: Member,
    /// The latest first.
    pub troubles: Vec<TroubleRow>,
    /// The newest first.
    pub commands: Vec<CommandRow>,
}

/// Asks the store; `None` if it knows no such controller.
pub fn of(store: &mut dyn EventStore, id: &ControllerId) -> Result<Option<Known>, StoreError> {
    let Some(state) = store.controllers()?.into_iter().find(|state| state.controller.id == *id) else {
        return Ok(None);
    };
    let Some(member) = store.member(id)? else { return Ok(None) };
    let (troubles, commands) = (store.troubles(id)?, store.commands(id)?);
    Ok(Some(Known { state, member, troubles, commands }))
}
