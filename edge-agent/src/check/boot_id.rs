//! Check: the kernel tells one boot from another, which is what true times are worked out from.

use serde_json::json;

use super::{Finding, Subject};
use crate::clock;

pub fn look(_: &Subject) -> Finding {
    match clock::boot_id() {
        Ok(id) => {
            Finding::ok("the kernel tells this boot from others").with(json!({"boot_id": id.to_string()}))
        }
        Err(error) => Finding::error(
            format!("the kernel's boot id cannot be read: {error}"),
            "the agent does not start without it, because true times could not be worked out",
            "is /proc mounted? A unit that hides it with ProcSubset=pid must say Environment=BOOT_ID=%b",
        ),
    }
}
