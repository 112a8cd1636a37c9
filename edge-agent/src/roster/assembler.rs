//! Beside the line: how a roster comes together. Pure: takes what the cloud sent and what the disk answered, says what to do
//! next. Knows no socket, no disk and no clock of its own.
//!
//! Four chunks are asked for at a time, the next when these are on the disk, and the same again when nothing comes for a
//! while, later each time. Chunks go to the disk under their hashes, so what an earlier roster had in common with this one,
//! or what came before a restart, is never asked for; a badge that was revoked costs one chunk.

use std::collections::BTreeSet;

use tap_protocol::roster::{RosterChunk, RosterHead};

use super::book::{self, NotARoster};

/// Chunks that are asked for at once: 130 KB, what a slow line brings in some seconds.
pub const ASK_CHUNKS: u32 = 4;

/// Without a chunk for this long, the same is asked for again; each time after twice as long …
const ASK_AGAIN_MS: u64 = 15_000;

/// … and never longer than this.
const ASK_AGAIN_AT_MOST_MS: u64 = 300_000;

/// After the disk refused a chunk, nothing is asked for during this time.
const DISK_PAUSE_MS: u64 = 300_000;

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Do {
    /// Look which chunks of it the disk has; answer with [`Assembler::looked`].
    Look(RosterHead),
    /// Ask the cloud; if that does not go out now, say [`Assembler::not_asked`].
    Ask {
        /// Of which roster.
        version: u64,
        /// The first chunk.
        from: u32,
        /// How many.
        count: u32,
    },
    /// All chunks are on the disk: put them together, keep the head's message beside them.
    Finish {
        /// Of which roster.
        head: RosterHead,
        /// The head as the cloud signed it.
        message: Vec<u8>,
    },
}

/// What a head means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Nothing new.
    Nothing,
    /// The roster in use counts for longer.
    Redate,
    /// Another roster than the one in use: [`Assembler::next`] says how to get it.
    Another,
}

/// Why a message about rosters counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A replay, or a cloud that went back.
    #[error("it announces roster {offered}, and roster {have} is here already")]
    Older {
        /// What it offers.
        offered: u64,
        /// What is here.
        have: u64,
    },
    /// Two rosters under one version.
    #[error("it announces roster {0} with other badges than before")]
    Contradicts(u64),
    /// Put together before, and it broke a rule.
    #[error("roster {0} was put together before and breaks the protocol's rules")]
    Spoilt(u64),
    /// A chunk of something that is not being fetched.
    #[error("nobody waits for chunk {index} of roster {version}")]
    NotWanted {
        /// Of which roster.
        version: u64,
        /// Which chunk.
        index: u32,
    },
    /// Other bytes than the head announced.
    #[error("chunk {index} of roster {version} is not what its head announced")]
    WrongHash {
        /// Of which roster.
        version: u64,
        /// Which chunk.
        index: u32,
    },
    /// The bytes that the head announced, and they break a rule.
    #[error("chunk {index} of roster {version} breaks a rule")]
    Chunk {
        /// Of which roster.
        version: u64,
        /// Which chunk.
        index: u32,
        /// Which rule.
        source: NotARoster,
    },
}

/// The roster that is being fetched.
#[derive(Debug, Default)]
pub struct Assembler {
    target: Option<Target>,
    connected: bool,
    /// A roster that breaks the rules although all of it is authentic: asking again brings the same.
    spoilt: Option<u64>,
}

#[derive(Debug)]
struct Target {
    head: RosterHead,
    message: Vec<u8>,
    phase: Phase,
    /// Not on the disk and not on the way there.
    lacking: BTreeSet<u32>,
    /// On the way to the disk.
    writing: BTreeSet<u32>,
    /// Asked for, and not here yet.
    asked: BTreeSet<u32>,
    ask_due_ms: u64,
    pause_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The disk has to be asked, …
    ToLook,
    /// … is being asked, …
    Looking,
    /// … and has answered: what it lacks is fetched.
    Fetching,
    /// It puts everything together.
    Finishing,
}

impl Assembler {
    /// A head came, and its signature is good. `in_use` is the head of the roster that is looked up now.
    pub fn head(
        &mut self,
        head: RosterHead,
        message: &[u8],
        in_use: Option<&RosterHead>,
    ) -> Result<Heard, Refused> {
        let target = self.target.as_ref().map(|target| &target.head);
        let known = in_use.into_iter().chain(target).max_by_key(|known| known.version);
        match known {
            Some(known) if head.version < known.version => {
                return Err(Refused::Older { offered: head.version, have: known.version });
            }
            Some(known) if head.version == known.version => {
                if (head.entries, &head.chunks) != (known.entries, &known.chunks) {
                    return Err(Refused::Contradicts(head.version));
                }
                if head.issued_utc_ms <= known.issued_utc_ms {
                    return Ok(Heard::Nothing);
                }
                if in_use.is_some_and(|in_use| in_use.version == head.version) {
                    return Ok(Heard::Redate);
                }
                if let Some(target) = &mut self.target {
                    (target.head, target.message) = (head, message.to_vec());
                }
                return Ok(Heard::Nothing);
            }
            Some(_) | None => {}
        }
        if self.spoilt == Some(head.version) {
            return Err(Refused::Spoilt(head.version));
        }
        self.target = Some(Target {
            head,
            message: message.to_vec(),
            phase: Phase::ToLook,
            lacking: BTreeSet::new(),
            writing: BTreeSet::new(),
            asked: BTreeSet::new(),
            ask_due_ms: 0,
            pause_ms: ASK_AGAIN_MS,
        });
        Ok(Heard::Another)
    }

    /// The disk has these chunks of it.
    pub fn looked(&mut self, version: u64, on_disk: &BTreeSet<u32>) {
        if let Some(target) = self.target_of(version)
            && target.phase == Phase::Looking
        {
            let all = 0..target.head.chunks.len() as u32;
            target.lacking = all.filter(|index| !on_disk.contains(index)).collect();
            target.phase = Phase::Fetching;
        }
    }

    /// A chunk came. `hash` is of its bytes. If it is good it belongs on the disk; answer with [`Assembler::written`] or
    /// [`Assembler::not_written`].
    pub fn chunk(&mut self, chunk: &RosterChunk, hash: [u8; 32], now_ms: u64) -> Result<(), Refused> {
        let RosterChunk { version, index, ref bytes } = *chunk;
        let wanted = self.target_of(version).filter(|target| target.lacking.contains(&index));
        let Some(target) = wanted else { return Err(Refused::NotWanted { version, index }) };
        if target.head.chunks.get(index as usize) != Some(&hash) {
            return Err(Refused::WrongHash { version, index });
        }
        let said = book::chunk_bytes(&target.head, index);
        let whole = match said == Some(bytes.len()) {
            true => book::check(bytes).map(drop),
            false => Err(NotARoster::Count { said: target.head.entries, found: bytes.len() }),
        };
        if let Err(source) = whole {
            self.breaks_rules(version);
            return Err(Refused::Chunk { version, index, source });
        }
        target.lacking.remove(&index);
        target.asked.remove(&index);
        target.writing.insert(index);
        target.pause_ms = ASK_AGAIN_MS;
        target.ask_due_ms = now_ms + ASK_AGAIN_MS;
        Ok(())
    }

    /// A chunk is on the disk.
    pub fn written(&mut self, version: u64, index: u32) {
        if let Some(target) = self.target_of(version) {
            target.writing.remove(&index);
        }
    }

    /// The disk does not take a chunk: nothing more is asked for during the next minutes.
    pub fn not_written(&mut self, version: u64, index: u32, now_ms: u64) {
        if let Some(target) = self.target_of(version) {
            target.writing.remove(&index);
            target.lacking.insert(index);
            target.asked.insert(index);
            (target.ask_due_ms, target.pause_ms) = (now_ms + DISK_PAUSE_MS, ASK_AGAIN_MS);
        }
    }

    /// This roster is in use; a newer one may be on its way by now.
    pub fn in_use(&mut self, version: u64) {
        self.target.take_if(|target| target.head.version <= version);
    }

    /// It could not be put together, because the disk does not give back what it took: from the look at it on again.
    pub fn not_finished(&mut self, version: u64, now_ms: u64) {
        if let Some(target) = self.target_of(version) {
            target.phase = Phase::ToLook;
            target.ask_due_ms = now_ms + DISK_PAUSE_MS;
        }
    }

    /// It was put together and breaks the rules.
    pub fn breaks_rules(&mut self, version: u64) {
        self.spoilt = Some(version);
        self.in_use(version);
    }

    /// A session is up: what was asked for on the last one may never come.
    pub fn connected(&mut self) {
        self.connected = true;
        if let Some(target) = &mut self.target {
            target.asked.clear();
            target.pause_ms = ASK_AGAIN_MS;
        }
    }

    /// The session is over.
    pub fn disconnected(&mut self) {
        self.connected = false;
    }

    /// What to do next, if anything.
    pub fn next(&mut self, now_ms: u64) -> Option<Do> {
        let connected = self.connected;
        let target = self.target.as_mut()?;
        match target.phase {
            // After a failure the disk is left alone for a while.
            Phase::ToLook if now_ms >= target.ask_due_ms => {
                target.phase = Phase::Looking;
                Some(Do::Look(target.head.clone()))
            }
            Phase::Fetching if target.lacking.is_empty() && target.writing.is_empty() => {
                target.phase = Phase::Finishing;
                Some(Do::Finish { head: target.head.clone(), message: target.message.clone() })
            }
            Phase::Fetching if connected && target.is_due(now_ms) => target.ask(now_ms),
            Phase::ToLook | Phase::Looking | Phase::Fetching | Phase::Finishing => None,
        }
    }

    /// What [`Do::Ask`] said did not go out.
    pub fn not_asked(&mut self, now_ms: u64) {
        if let Some(target) = &mut self.target {
            target.ask_due_ms = now_ms + ASK_AGAIN_MS;
        }
    }

    /// The disk did not take the request of [`Do::Look`] or [`Do::Finish`].
    pub fn not_begun(&mut self, now_ms: u64) {
        if let Some(version) = self.target.as_ref().map(|target| target.head.version) {
            self.not_finished(version, now_ms);
        }
    }

    /// When [`Assembler::next`] is to be asked at the latest, if nothing else happens.
    pub fn wake_at_ms(&self) -> Option<u64> {
        let target = self.target.as_ref()?;
        match target.phase {
            Phase::ToLook => Some(target.ask_due_ms),
            Phase::Fetching if self.connected && !target.asked.is_empty() => Some(target.ask_due_ms),
            Phase::Fetching | Phase::Looking | Phase::Finishing => None,
        }
    }

    /// The roster that is being fetched: its version, its chunks, and how many of them are here.
    pub fn progress(&self) -> Option<(u64, usize, usize)> {
        let target = self.target.as_ref()?;
        let chunks = target.head.chunks.len();
        let here = match target.phase {
            Phase::ToLook | Phase::Looking => 0,
            Phase::Fetching | Phase::Finishing => chunks - target.lacking.len() - target.writing.len(),
        };
        Some((target.head.version, chunks, here))
    }

    fn target_of(&mut self, version: u64) -> Option<&mut Target> {
        self.target.as_mut().filter(|target| target.head.version == version)
    }
}

impl Target {
    /// Nothing is outstanding, neither here nor at the disk; or it has been for too long.
    fn is_due(&self, now_ms: u64) -> bool {
        (self.asked.is_empty() && self.writing.is_empty()) || now_ms >= self.ask_due_ms
    }

    fn ask(&mut self, now_ms: u64) -> Option<Do> {
        let from = *self.lacking.first()?;
        let run = (from..).take(ASK_CHUNKS as usize).take_while(|index| self.lacking.contains(index));
        let asked: BTreeSet<u32> = run.collect();
        let again = self.asked == asked;
        self.pause_ms = if again { (self.pause_ms * 2).min(ASK_AGAIN_AT_MOST_MS) } else { ASK_AGAIN_MS };
        self.ask_due_ms = now_ms + self.pause_ms;
        let count = asked.len() as u32;
        self.asked = asked;
        Some(Do::Ask { version: self.head.version, from, count })
    }
}

#[cfg(test)]
#[path = "assembler_tests.rs"]
mod tests;
