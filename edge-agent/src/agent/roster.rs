//! What the cloud says of badges, as the loop sees it: what came is judged, what is due is asked for, and what is in use is
//! looked up. Knows no reader: the verdict is asked for where a tap is made.

use tap_protocol::badge::Token;
use tap_protocol::report::{Report, What};
use tap_protocol::roster::{RosterMessage, chunk_hash};
use tap_protocol::tap::Verdict;
use tap_protocol::topic::{Channel, Topic};

use super::{Agent, with_causes};
use crate::now::Now;
use crate::roster::assembler::{Assembler, Do, Heard};
use crate::roster::book::{self, Book};
use crate::roster::keeper::{Job, Kept, RosterThread};
use crate::status::{RosterFetch, RosterStatus};

/// The roster in use, and the one on its way.
pub(super) struct Rosters {
    book: Option<Box<Book>>,
    pub(super) assembler: Assembler,
    keeper: RosterThread,
}

impl Rosters {
    pub(super) fn new(keeper: RosterThread) -> Rosters {
        Rosters { book: None, assembler: Assembler::default(), keeper }
    }

    /// The roster in use, for hellos.
    pub(super) fn version(&self) -> Option<u64> {
        self.book.as_ref().map(|book| book.head().version)
    }

    pub(super) fn stop(self) {
        self.keeper.stop();
    }
}

impl Agent {
    pub(super) fn verdict(&self, token: Token, now: &Now) -> Verdict {
        let utc_ms = self.anchors.best_utc_ms(now);
        book::verdict(self.rosters.book.as_deref(), token, utc_ms, now.boottime_ms)
    }

    pub(super) fn roster(&mut self, payload: &[u8], now: &Now) -> Result<(), String> {
        let message = RosterMessage::open(payload, &self.setup.controller, &self.identity.control_keys)
            .map_err(|error| with_causes(&error))?;
        let rosters = &mut self.rosters;
        match message {
            RosterMessage::Head(head) => {
                let in_use = rosters.book.as_deref().map(Book::head);
                let heard = rosters.assembler.head(head.clone(), payload, in_use);
                match heard.map_err(|refused| with_causes(&refused))? {
                    Heard::Nothing => {}
                    Heard::Another => {
                        tracing::info!(
                            version = head.version,
                            badges = head.entries,
                            "there is another roster"
                        );
                    }
                    Heard::Redate => {
                        if let Some(book) = &mut rosters.book {
                            book.redate(&head, now.boottime_ms);
                        }
                        // Without room for it, the next head says the same.
                        let _ = rosters.keeper.submit(Job::Redate { message: payload.to_vec() });
                    }
                }
            }
            RosterMessage::Chunk(chunk) => {
                let hash = chunk_hash(&chunk.bytes);
                let taken = rosters.assembler.chunk(&chunk, hash, now.boottime_ms);
                taken.map_err(|refused| with_causes(&refused))?;
                let (version, index) = (chunk.version, chunk.index);
                if rosters.keeper.submit(Job::Write { version, index, hash, bytes: chunk.bytes }).is_err() {
                    rosters.assembler.not_written(version, index, now.boottime_ms);
                }
            }
        }
        Ok(())
    }

    /// The roster's thread answered.
    pub(super) fn kept(&mut self, kept: Kept, now: &Now) {
        match kept {
            Kept::Opened(Ok(Some(book))) => self.use_roster(book, now),
            Kept::Opened(Ok(None)) => {}
            Kept::Opened(Err(error)) => {
                tracing::warn!("the kept roster is dropped and asked for again: {}", with_causes(&error));
            }
            Kept::Looked { version, on_disk } => self.rosters.assembler.looked(version, &on_disk),
            Kept::Written { version, index, done: Ok(()) } => self.rosters.assembler.written(version, index),
            Kept::Written { version, index, done: Err(error) } => {
                self.rosters.assembler.not_written(version, index, now.boottime_ms);
                self.roster_is_not_kept(&with_causes(&error), now);
            }
            Kept::Finished { book: Ok(book), .. } => {
                self.use_roster(book, now);
                // So that the cloud can say who has it.
                self.relay.hello_now(now.boottime_ms);
            }
            Kept::Finished { version, book: Err(error) } => {
                if error.is_the_clouds() {
                    self.rosters.assembler.breaks_rules(version);
                } else {
                    self.rosters.assembler.not_finished(version, now.boottime_ms);
                }
                self.roster_is_not_kept(&with_causes(&error), now);
            }
            Kept::NotRedated(error) => self.roster_is_not_kept(&with_causes(&error), now),
        }
    }

    fn use_roster(&mut self, book: Box<Book>, now: &Now) {
        let (version, badges, revoked) = (book.head().version, book.badges(), book.revoked());
        tracing::info!(version, badges, revoked, "roster in use");
        self.problems.remove("roster");
        self.rosters.assembler.in_use(version);
        self.rosters.book = Some(book);
        self.roster_grows_old(now);
    }

    fn roster_is_not_kept(&mut self, why: &str, now: &Now) {
        let what = "a newer roster cannot be used; the lights follow the older one, and taps are recorded";
        self.problems.insert("roster", format!("{what}: {why}"));
        if let Some(count) = self.complaints.due("roster", now.boottime_ms) {
            tracing::warn!(why, count, "{what}");
        }
    }

    /// Looks whether the roster has become stale meanwhile.
    pub(super) fn roster_grows_old(&mut self, now: &Now) {
        let utc_ms = self.anchors.best_utc_ms(now);
        let stale = self.rosters.book.as_ref().is_some_and(|book| book.is_stale(utc_ms, now.boottime_ms));
        if !stale {
            self.problems.remove("stale_roster");
        } else if !self.problems.contains_key("stale_roster") {
            let what = "the roster is too old to call a badge unknown: every badge that was not revoked gets the green light, and taps are recorded; see `edge-agent check`";
            tracing::warn!("{what}");
            self.problems.insert("stale_roster", what.into());
        }
    }

    /// Does what brings a newer roster.
    pub(super) fn fetch_roster(&mut self, now: &Now) {
        let now_ms = now.boottime_ms;
        while let Some(next) = self.rosters.assembler.next(now_ms) {
            let rosters = &mut self.rosters;
            let begun = match next {
                Do::Look(head) => rosters.keeper.submit(Job::Look(head)),
                Do::Finish { head, message } => rosters.keeper.submit(Job::Finish { head, message }),
                Do::Ask { version, from, count } => {
                    if !self.ask_for_chunks(version, from, count, now) {
                        self.rosters.assembler.not_asked(now_ms);
                    }
                    continue;
                }
            };
            if begun.is_err() {
                self.rosters.assembler.not_begun(now_ms);
            }
        }
    }

    fn ask_for_chunks(&self, version: u64, from: u32, count: u32, now: &Now) -> bool {
        let Some(session) = &self.session else { return false };
        let report = Report {
            controller: self.setup.controller.clone(),
            boot_id: self.setup.boot_id,
            boottime_ms: now.boottime_ms,
            what: What::RosterWanted { version, from, count },
        };
        let message = report.sign(&self.identity.record_key);
        session.try_publish(&Topic::new(&self.setup.controller, Channel::Report), message).is_ok()
    }

    pub(super) fn roster_status(&self, now: &Now) -> Option<RosterStatus> {
        let book = self.rosters.book.as_ref()?;
        let utc_ms = self.anchors.best_utc_ms(now);
        Some(RosterStatus {
            version: book.head().version,
            badges: book.badges(),
            revoked: book.revoked(),
            age_ms: book.age_ms(utc_ms, now.boottime_ms),
            expires_utc_ms: book.head().expires_utc_ms,
            stale: book.is_stale(utc_ms, now.boottime_ms),
        })
    }

    pub(super) fn roster_fetch(&self) -> Option<RosterFetch> {
        let (version, chunks, here) = self.rosters.assembler.progress()?;
        Some(RosterFetch { version, chunks, here })
    }
}
