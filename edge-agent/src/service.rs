//! Whether a tap would be recorded, to be seen before the tap: the standing light. Pure; knows neither lights nor disk.
//!
//! Out of service begins when a commit failed or does not come back, and ends only with proof: a commit, or a trial
//! write that went the same way. Trials are made while out of service, because nobody taps at a red light.

/// A commit that takes longer than this leaves nobody waiting for it: the door is out of service.
pub const COMMIT_WITHIN_MS: u64 = crate::feedback::ANSWER_WITHIN_MS;

/// While out of service a trial write is made this often.
pub const TRY_EVERY_MS: u64 = 2_000;

/// The standing light's memory.
#[derive(Debug, Default)]
pub struct Service {
    /// The last thing that was heard of writing was a failure.
    failed: bool,
    /// This controller is out of trust: what would be recorded would not be taken.
    revoked: bool,
    shown: Option<bool>,
    try_due_ms: u64,
}

impl Service {
    /// Something was written for good.
    pub fn wrote(&mut self) {
        self.failed = false;
    }

    /// Something could not be written.
    pub fn failed(&mut self) {
        self.failed = true;
    }

    /// Nothing is recorded from now on.
    pub fn revoke(&mut self) {
        self.revoked = true;
    }

    /// Whether nothing is recorded because this controller is out of trust.
    pub fn is_revoked(&self) -> bool {
        self.revoked
    }

    /// Whether the light has to change, and to what; `Some(true)` is in service. `commit_since_ms`: since when the oldest
    /// outstanding commit has been.
    pub fn change(&mut self, commit_since_ms: Option<u64>, now_ms: u64) -> Option<bool> {
        let hangs =
            commit_since_ms.is_some_and(|since_ms| now_ms.saturating_sub(since_ms) > COMMIT_WITHIN_MS);
        let in_service = !self.failed && !hangs && !self.revoked;
        (self.shown.replace(in_service) != Some(in_service)).then_some(in_service)
    }

    /// Whether to try a write now. A write that is under way is the trial itself.
    pub fn trial_is_due(&mut self, commit_since_ms: Option<u64>, now_ms: u64) -> bool {
        let due = self.failed && commit_since_ms.is_none() && now_ms >= self.try_due_ms;
        if due {
            self.try_due_ms = now_ms + TRY_EVERY_MS;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_is_in_service_from_the_start_and_says_so_once() {
        let mut service = Service::default();
        assert_eq!(service.change(None, 1), Some(true));
        assert_eq!(service.change(Some(1), 2), None);
        assert!(!service.trial_is_due(None, 2));
    }

    #[test]
    fn a_revoked_controller_stays_out_of_service_whatever_is_written() {
        let mut service = Service::default();
        service.change(None, 0);
        service.revoke();
        assert_eq!(service.change(None, 1), Some(false));
        service.wrote();
        assert_eq!(service.change(None, 2), None);
        assert!(!service.trial_is_due(None, 9_000), "there is nothing to try");
    }

    #[test]
    fn a_failed_commit_puts_it_out_of_service_until_a_write_succeeds() {
        let mut service = Service::default();
        service.change(None, 0);
        service.failed();
        assert_eq!(service.change(None, 10), Some(false));
        assert!(service.trial_is_due(None, 10));
        assert!(!service.trial_is_due(None, 1_900));
        assert!(service.trial_is_due(None, 2_010));
        service.wrote();
        assert_eq!(service.change(None, 2_020), Some(true));
        assert!(!service.trial_is_due(None, 9_000));
    }

    #[test]
    fn a_commit_that_does_not_come_back_puts_it_out_of_service_and_is_not_tried_on_top() {
        let mut service = Service::default();
        service.change(None, 0);
        assert_eq!(service.change(Some(1_000), 3_000), None);
        assert_eq!(service.change(Some(1_000), 3_001), Some(false));
        assert!(!service.trial_is_due(Some(1_000), 9_000));
        service.wrote();
        assert_eq!(service.change(None, 9_001), Some(true));
    }
}
