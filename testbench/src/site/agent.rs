//! What a test asks a running edge-agent, through the socket that its command line uses.

use std::path::Path;

use anyhow::bail;
use edge_agent::{
    control::{Request, Response, question},
    status::Status,
};
use tap_protocol::tap::Direction;

use super::{Green, badge_uid};

/// One simulated tap of badge `n`.
pub(crate) async fn tap(socket: &Path, n: usize) -> anyhow::Result<Green> {
    let request = Request::Tap { uid: badge_uid(n), direction: Direction::In };
    match question(socket, &request).await? {
        Response::Recorded { seq, event_id, tap_to_signal_us, .. } => {
            Ok(Green { seq, event_id, tap_to_signal_us })
        }
        Response::Refused { why } => bail!("the tap was refused: {why}"),
        other => bail!("the agent answered something else: {other:?}"),
    }
}

/// What it says of itself.
pub(crate) async fn status(socket: &Path) -> anyhow::Result<Status> {
    match question(socket, &Request::Status).await? {
        Response::Status(status) => Ok(*status),
        other => bail!("the agent answered something else: {other:?}"),
    }
}
