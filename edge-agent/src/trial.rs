//! Step 6, before the connection: which certificate the next session is tried with. Pure: what happened and when are
//! arguments.
//!
//! A new certificate has to get as far as a session on the broker before the old one is given up. The broker knows a
//! controller by its client id, and ends the session that has it when another one comes: so the trial *is* the next
//! session. The running one is ended in good order, the next begins with the new certificate, and if it is refused the one
//! after that is begun with the old again. Taps are in the outbox meanwhile, as whenever there is no session.

/// After a certificate was refused where the old one still works, it is tried again so much later, and then twice as late
/// each time.
const AGAIN_AFTER_MS: u64 = 3_600_000;
const AGAIN_AFTER_AT_MOST_MS: u64 = 24 * 3_600_000;

/// One of two certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The one that has worked before.
    Current,
    /// The new one.
    Trial,
}

/// What is known of a new certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    not_before_ms: u64,
    /// Refusals while the current one works.
    refused: u32,
    /// The last attempt was with it, and failed: it is the current one's turn.
    failed_last: bool,
}

impl Trial {
    /// It has just come.
    pub fn begin(now_ms: u64) -> Trial {
        Trial { not_before_ms: now_ms, refused: 0, failed_last: false }
    }

    /// What the next session is tried with. Where neither works, they take turns.
    pub fn next(&self, now_ms: u64) -> Which {
        if self.failed_last || now_ms < self.not_before_ms { Which::Current } else { Which::Trial }
    }

    /// A session with this one did not come up.
    pub fn failed(&mut self, which: Which) {
        self.failed_last = which == Which::Trial;
    }

    /// A session with the current one came up. Returns whether the new one was refused just before.
    pub fn current_works(&mut self, now_ms: u64) -> bool {
        let was_refused = std::mem::take(&mut self.failed_last);
        if was_refused {
            let wait = AGAIN_AFTER_MS.saturating_mul(1 << self.refused.min(16)).min(AGAIN_AFTER_AT_MOST_MS);
            self.not_before_ms = now_ms.saturating_add(wait);
            self.refused += 1;
        }
        was_refused
    }

    /// When a session that runs with the current one is to be ended for a trial.
    pub fn due_ms(&self) -> u64 {
        self.not_before_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_certificate_is_tried_at_once() {
        assert_eq!(Trial::begin(5).next(5), Which::Trial);
    }

    #[test]
    fn where_neither_works_they_take_turns() {
        let mut trial = Trial::begin(0);
        let mut turns = Vec::new();
        for now_ms in 0..4 {
            let which = trial.next(now_ms);
            turns.push(which);
            trial.failed(which);
        }
        assert_eq!(turns, [Which::Trial, Which::Current, Which::Trial, Which::Current]);
    }

    #[test]
    fn one_that_is_refused_while_the_old_one_works_rests_longer_each_time_and_is_never_given_up() {
        let mut trial = Trial::begin(0);
        let mut now_ms = 0;
        let mut waits = Vec::new();
        for _ in 0..40 {
            assert_eq!(trial.next(now_ms), Which::Trial);
            trial.failed(Which::Trial);
            assert_eq!(trial.next(now_ms), Which::Current);
            assert!(trial.current_works(now_ms));
            assert_eq!(
                trial.next(trial.due_ms() - 1),
                Which::Current,
                "a lost session alone brings no trial"
            );
            waits.push(trial.due_ms() - now_ms);
            now_ms = trial.due_ms();
        }
        assert_eq!(waits[..3], [AGAIN_AFTER_MS, 2 * AGAIN_AFTER_MS, 4 * AGAIN_AFTER_MS]);
        assert!(waits.iter().all(|wait| *wait <= AGAIN_AFTER_AT_MOST_MS));
        assert_eq!(waits.last(), Some(&AGAIN_AFTER_AT_MOST_MS));
    }

    #[test]
    fn a_session_with_the_old_one_says_nothing_of_a_new_one_that_was_not_tried() {
        let mut trial = Trial::begin(0);
        assert!(!trial.current_works(7));
        assert_eq!(trial.next(7), Which::Trial);
    }
}
