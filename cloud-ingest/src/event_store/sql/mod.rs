//! Step 9 of 12: the event store over any database that speaks the statements here. Knows no MQTT, no HTTP, and of the
//! databases only that they run statements in transactions.
//!
//! One transaction writes at a time: on SQLite because there is one writer to a file, on PostgreSQL because each begins by
//! locking the store's one row. So what is read in a transaction stays true until it ends, one set of modules serves both
//! databases, and positions, written last before COMMIT, have no gaps (ADR 0021).
//!
//! The parts: `intake` stores batches, `occurring` finds out when their taps were, `delivery` leases and finishes,
//! `reading` answers questions; all changes go through `writing`, which keeps counters and lanes right; `statements` has
//! every statement, `session` is what a database must be able to do.

mod archive;
mod badges;
mod bindings;
mod capture;
mod claiming;
mod commands;
mod completeness;
mod delivery;
mod destinations;
mod differences;
mod directions;
mod exports;
mod feeding;
mod fleet;
mod following;
mod intake;
mod leases;
mod occurring;
mod people;
mod proof;
mod reading;
mod replays;
mod rereading;
pub mod session;
pub mod statements;
mod values;
mod writing;

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use tap_protocol::badge::{SealedBadge, Token, TokenKeyId};
use tap_protocol::command::Order;
use tap_protocol::envelope::VerifiedBatch;
use tap_protocol::hello::Hello;
use tap_protocol::ids::{ControllerId, EventId, OutboxId, Seq, StoreEpoch};
use tap_protocol::keys::SigningKey;

use self::session::Session;
use self::writing::Writing;
use super::archive::{Archive, Archived, Candidate, Cut, NewSegment, Range, Segment, Told};
use super::capture::{ApiKeyId, ApiKeyState, Capture, NewApiKey, NoApiKey, Source, TakenIn, ToCapture};
use super::commands::{CommandEnd, CommandRow, TroubleKind, TroubleRow};
use super::completeness::{Completeness, WatermarkRow};
use super::exports::{Exports, Portion, TapLine};
use super::people::{Difference, DifferenceFilter, People};
use super::replays::{
    Filter, Letters, NewReplay, ReplayChange, ReplayRow, ReplayState, Replays, Retold, Sifted,
};
use super::rereading::{self as read_again, Reread, Rereading};
use super::{
    Appended, BadgeFilter, BadgeRow, Binding, Bound, Change, Commands, Controller, ControllerState,
    DeadLetter, Deed, Deliveries, DeliveryCount, DestinationState, Directory, Enrolment, EventDetail,
    EventFilter, EventRow, EventStore, Fleet, Leases, Member, NewDestination, NewToken, OutboxMark, Position,
    Proof, Refusal, Renewal, RevokedCertificate, RosterState, Site, Snapshot, Standing, Stood, StoreError,
    TokenId, TokenState, Totals, Turn, Turned, UtcMs, Walked, Which,
};
use crate::delivery::complete::Door;
use crate::delivery::ticks::Passed;
use crate::directory::direction::{Rule, Rules};
use crate::intake::lease::{self, Fence};

/// A database.
pub trait Database {
    /// One transaction that writes, and the only one at its time: all that `job` does, or nothing. Durable when it returns.
    fn write<T>(&mut self, job: impl FnOnce(&dyn Session) -> Result<T, StoreError>) -> Result<T, StoreError>;

    /// As [`Database::write`], for whoever archives: it alone may change or remove what is [append-only](APPEND_ONLY).
    fn as_archivist<T>(
        &mut self,
        job: impl FnOnce(&dyn Session) -> Result<T, StoreError>,
    ) -> Result<T, StoreError>;

    /// Hears of the last position after each transaction that gave some: a database that has to makes room ahead of it.
    fn has_given(&mut self, _last: Position) {}

    /// One snapshot for all that `job` reads.
    fn read<T>(&mut self, job: impl FnOnce(&dyn Session) -> Result<T, StoreError>) -> Result<T, StoreError>;
}

/// What the service adds to and never changes: events, what proves them, and who decided what. On SQLite its connection is
/// refused anything else, on a server its role is ([`super::roles`]).
pub const APPEND_ONLY: [&str; 10] = [
    "batches",
    "events",
    "fleet_log",
    "past_badges",
    "ranges",
    "segment_deliveries",
    "segment_outboxes",
    "segments",
    "signers",
    "site_rules",
];

/// The event store in a database.
#[derive(Debug)]
pub struct SqlStore<D> {
    pub(super) database: D,
}

impl<D: Database> SqlStore<D> {
    fn write<T>(
        &mut self,
        job: impl FnOnce(&mut Writing<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (done, given) = self.database.write(|session| in_writing(session, job))?;
        if let Some(last) = given {
            self.database.has_given(last);
        }
        Ok(done)
    }

    fn read<T>(&mut self, job: impl FnOnce(&dyn Session) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.database.read(job)
    }
}

/// Also says which position was given last, if any was.
fn in_writing<T>(
    session: &dyn Session,
    job: impl FnOnce(&mut Writing<'_>) -> Result<T, StoreError>,
) -> Result<(T, Option<Position>), StoreError> {
    let mut writing = Writing::begin(session)?;
    let done = job(&mut writing)?;
    writing.put_counters()?;
    Ok((done, writing.last_given()))
}

impl<D: Database> EventStore for SqlStore<D> {
    fn store_epoch(&mut self) -> Result<StoreEpoch, StoreError> {
        self.read(reading::store_epoch)
    }

    fn clock(&mut self, said: UtcMs) -> Result<UtcMs, StoreError> {
        self.read(|snapshot| reading::clock(snapshot, said))
    }

    fn put_controller(&mut self, controller: &Controller) -> Result<(), StoreError> {
        self.write(|writing| intake::put_controller(writing, controller))
    }

    fn put_site(&mut self, site: &Site) -> Result<(), StoreError> {
        self.write(|writing| intake::put_site(writing, site))
    }

    fn controller(&mut self, id: &ControllerId) -> Result<Option<Controller>, StoreError> {
        self.read(|snapshot| reading::controller(snapshot, id))
    }

    fn sites(&mut self) -> Result<Vec<Site>, StoreError> {
        self.read(reading::sites)
    }

    fn append(&mut self, batches: &[VerifiedBatch], received: UtcMs) -> Result<Vec<Appended>, StoreError> {
        self.write(|writing| intake::append(writing, batches, received))
    }

    fn note_hello(&mut self, hello: &Hello, received: UtcMs) -> Result<Vec<OutboxMark>, StoreError> {
        self.write(|writing| intake::note_hello(writing, hello, received))
    }

    fn note_gone(&mut self, controller: &ControllerId, received: UtcMs) -> Result<(), StoreError> {
        self.write(|writing| intake::note_gone(writing, controller, received))
    }

    fn marks(&mut self) -> Result<Vec<OutboxMark>, StoreError> {
        self.read(reading::marks)
    }

    fn quarantine(&mut self, letter: &DeadLetter) -> Result<(), StoreError> {
        self.write(|writing| intake::quarantine(writing, letter))
    }

    fn events(&mut self, filter: &EventFilter) -> Result<Vec<EventRow>, StoreError> {
        self.read(|snapshot| reading::events(snapshot, filter))
    }

    fn event(&mut self, id: EventId) -> Result<Option<EventDetail>, StoreError> {
        self.read(|snapshot| reading::event(snapshot, id))
    }

    fn record_bytes(
        &mut self,
        controller: &ControllerId,
        outbox: OutboxId,
        seq: Seq,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|snapshot| reading::record_bytes(snapshot, controller, outbox, seq))
    }

    fn controllers(&mut self) -> Result<Vec<ControllerState>, StoreError> {
        self.read(reading::controllers)
    }

    fn delivery_counts(&mut self) -> Result<Vec<DeliveryCount>, StoreError> {
        self.read(reading::delivery_counts)
    }

    fn totals(&mut self) -> Result<Totals, StoreError> {
        self.read(reading::totals)
    }

    fn dead_letters(&mut self, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        self.read(|snapshot| reading::dead_letters(snapshot, limit))
    }
}

impl<D: Database> Capture for SqlStore<D> {
    fn put_api_key(
        &mut self,
        key: &NewApiKey,
        source: &Source,
        deed: &Deed,
    ) -> Result<Result<(), NoApiKey>, StoreError> {
        self.write(|writing| capture::put_api_key(writing, key, source, deed))
    }

    fn api_keys(&mut self) -> Result<Vec<ApiKeyState>, StoreError> {
        self.read(capture::api_keys)
    }

    fn capture_sources(&mut self) -> Result<Vec<Source>, StoreError> {
        self.read(capture::sources)
    }

    fn revoke_api_key(&mut self, id: ApiKeyId, deed: &Deed) -> Result<bool, StoreError> {
        self.write(|writing| capture::revoke_api_key(writing, id, deed))
    }

    fn take_in(
        &mut self,
        batches: &[VerifiedBatch],
        captures: &[ToCapture],
        key: &SigningKey,
        received: UtcMs,
    ) -> Result<TakenIn, StoreError> {
        self.write(|writing| capture::take_in(writing, batches, captures, key, received))
    }
}

impl<D: Database> Fleet for SqlStore<D> {
    fn fleet(&mut self) -> Result<Vec<Member>, StoreError> {
        self.read(fleet::fleet)
    }

    fn member(&mut self, id: &ControllerId) -> Result<Option<Member>, StoreError> {
        self.read(|snapshot| fleet::member(snapshot, id))
    }

    fn rename(
        &mut self,
        id: &ControllerId,
        label: Option<&str>,
        site: Option<&str>,
        deed: &Deed,
    ) -> Result<(), StoreError> {
        self.write(|writing| fleet::rename(writing, id, label, site, deed))
    }

    fn set_standing(&mut self, id: &ControllerId, standing: Standing, deed: &Deed) -> Result<(), StoreError> {
        self.write(|writing| fleet::set_standing(writing, id, standing, deed))
    }

    fn trusted_through(&mut self, id: &ControllerId, outbox: OutboxId) -> Result<Option<Seq>, StoreError> {
        self.read(|snapshot| fleet::trusted_through(snapshot, id, outbox))
    }

    fn revoked_certificates(&mut self, now: UtcMs) -> Result<Vec<RevokedCertificate>, StoreError> {
        self.read(|snapshot| fleet::revoked_certificates(snapshot, now))
    }

    fn put_enroll_tokens(&mut self, tokens: &[NewToken], deed: &Deed) -> Result<(), StoreError> {
        self.write(|writing| fleet::put_enroll_tokens(writing, tokens, deed))
    }

    fn enroll_tokens(&mut self) -> Result<Vec<TokenState>, StoreError> {
        self.read(|snapshot| fleet::enroll_tokens(snapshot, None))
    }

    fn enroll_token(&mut self, id: TokenId) -> Result<Option<TokenState>, StoreError> {
        self.read(|snapshot| Ok(fleet::enroll_tokens(snapshot, Some(id))?.pop()))
    }

    fn withdraw_enroll_token(&mut self, id: TokenId, deed: &Deed) -> Result<bool, StoreError> {
        self.write(|writing| fleet::withdraw_enroll_token(writing, id, deed))
    }

    fn enroll(&mut self, enrolment: &Enrolment) -> Result<Result<Controller, Refusal>, StoreError> {
        self.write(|writing| fleet::enroll(writing, enrolment))
    }

    fn renew(&mut self, renewal: &Renewal) -> Result<Result<Controller, Refusal>, StoreError> {
        self.write(|writing| fleet::renew(writing, renewal))
    }

    fn note_deed(&mut self, deed: &Deed) -> Result<(), StoreError> {
        self.write(|writing| fleet::note_deed(writing, deed))
    }

    fn deeds(&mut self, limit: usize) -> Result<Vec<Deed>, StoreError> {
        self.read(|snapshot| fleet::deeds(snapshot, limit))
    }

    fn deed_count(&mut self) -> Result<u64, StoreError> {
        self.read(fleet::deed_count)
    }
}

impl<D: Database> Deliveries for SqlStore<D> {
    fn add_destination(&mut self, new: &NewDestination, deed: &Deed) -> Result<bool, StoreError> {
        self.write(|writing| destinations::add(writing, new, deed))
    }

    fn change_destination(&mut self, name: &str, change: &Change, deed: &Deed) -> Result<(), StoreError> {
        self.write(|writing| destinations::change(writing, name, change, deed))
    }

    fn destinations(&mut self) -> Result<Vec<DestinationState>, StoreError> {
        self.read(destinations::destinations)
    }

    fn turn(&mut self, turn: &Turn<'_>) -> Result<Turned, StoreError> {
        self.write(|writing| delivery::turn(writing, turn))
    }
}

impl<D: Database> Directory for SqlStore<D> {
    fn bind_badges(&mut self, bindings: &[Binding], now: UtcMs) -> Result<Bound, StoreError> {
        self.write(|writing| badges::bind_badges(writing, bindings, now))
    }

    fn add_seals(&mut self, seals: &[(Token, SealedBadge)]) -> Result<usize, StoreError> {
        self.write(|writing| badges::add_seals(writing, seals))
    }

    fn revoke_badges(&mut self, which: &Which, why: &str, now: UtcMs) -> Result<Stood, StoreError> {
        self.write(|writing| badges::revoke(writing, which, why, now))
    }

    fn reinstate_badges(&mut self, which: &Which) -> Result<Stood, StoreError> {
        self.write(|writing| badges::reinstate(writing, which))
    }

    fn badges(&mut self, filter: &BadgeFilter) -> Result<Vec<BadgeRow>, StoreError> {
        self.read(|snapshot| badges::badges(snapshot, filter))
    }

    fn roster_state(&mut self) -> Result<RosterState, StoreError> {
        self.read(|snapshot| badges::roster_state(snapshot))
    }

    fn roster(
        &mut self,
        keys: &[TokenKeyId],
        claimed: Option<u64>,
        now: UtcMs,
    ) -> Result<Snapshot, StoreError> {
        self.write(|writing| badges::roster(writing, keys, claimed, now))
    }
}

impl<D: Database> People for SqlStore<D> {
    fn put_rule(&mut self, site: &str, rule: &Rule) -> Result<Rule, StoreError> {
        self.write(|writing| directions::put_rule(writing, site, rule))
    }

    fn rules(&mut self, site: &str) -> Result<Rules, StoreError> {
        self.read(|snapshot| directions::rules(snapshot, site))
    }

    fn put_card_profiles(&mut self, site: &str, profiles: &[&str]) -> Result<(), StoreError> {
        self.write(|writing| people::put_card_profiles(writing, site, profiles))
    }

    fn card_profiles(&mut self, site: &str) -> Result<Vec<String>, StoreError> {
        self.read(|snapshot| people::card_profiles(snapshot, site))
    }

    fn seen(&mut self, tokens: &[Token]) -> Result<BTreeSet<Token>, StoreError> {
        self.read(|snapshot| people::seen(snapshot, tokens))
    }

    fn seal_of(&mut self, token: Token) -> Result<Option<SealedBadge>, StoreError> {
        self.read(|snapshot| people::seal_of(snapshot, token))
    }

    fn differences(&mut self, filter: &DifferenceFilter) -> Result<Vec<Difference>, StoreError> {
        self.read(|snapshot| differences::differences(snapshot, filter))
    }
}

impl<D: Database> Exports for SqlStore<D> {
    fn taps_by_time(&mut self, portion: &Portion) -> Result<Vec<TapLine>, StoreError> {
        self.read(|snapshot| exports::taps_by_time(snapshot, portion))
    }

    fn taps_without_time(&mut self) -> Result<u64, StoreError> {
        self.read(exports::taps_without_time)
    }
}

impl<D: Database> Commands for SqlStore<D> {
    fn places(
        &mut self,
        controller: &ControllerId,
        outbox: OutboxId,
        seqs: &[Seq],
    ) -> Result<Vec<OutboxMark>, StoreError> {
        self.read(|snapshot| commands::places(snapshot, controller, outbox, seqs))
    }

    fn queue_command(
        &mut self,
        controller: &ControllerId,
        order: &Order,
        why: &str,
        now: UtcMs,
    ) -> Result<u64, StoreError> {
        self.write(|writing| commands::queue(writing, controller, order, why, now))
    }

    fn next_command(&mut self, controller: &ControllerId) -> Result<Option<CommandRow>, StoreError> {
        self.read(|snapshot| commands::next(snapshot, controller))
    }

    fn end_command(
        &mut self,
        controller: &ControllerId,
        number: u64,
        end: &CommandEnd,
    ) -> Result<bool, StoreError> {
        self.write(|writing| commands::end(writing, controller, number, end))
    }

    fn commands(&mut self, controller: &ControllerId) -> Result<Vec<CommandRow>, StoreError> {
        self.read(|snapshot| commands::commands(snapshot, controller))
    }

    fn note_trouble(
        &mut self,
        controller: &ControllerId,
        kind: TroubleKind,
        outbox: Option<OutboxId>,
        at: Option<Seq>,
        now: UtcMs,
    ) -> Result<bool, StoreError> {
        self.write(|writing| commands::trouble(writing, controller, kind, outbox, at, now))
    }

    fn troubles(&mut self, controller: &ControllerId) -> Result<Vec<TroubleRow>, StoreError> {
        self.read(|snapshot| commands::troubles(snapshot, controller))
    }
}

impl<D: Database> Archive for SqlStore<D> {
    fn archived(&mut self) -> Result<Archived, StoreError> {
        self.read(archive::archived)
    }

    fn range_after(&mut self, after: Position, before: UtcMs) -> Result<Option<Candidate>, StoreError> {
        self.read(|snapshot| archive::range_after(snapshot, after, before))
    }

    fn read_range(
        &mut self,
        range: Range,
        told: &mut dyn FnMut(Told) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.read(|snapshot| archive::read_range(snapshot, range, told))
    }

    fn archive(&mut self, segment: &NewSegment) -> Result<Cut, StoreError> {
        let done = self
            .database
            .as_archivist(|session| in_writing(session, |writing| archive::archive(writing, segment)));
        Ok(done?.0)
    }

    fn remove_archived(&mut self) -> Result<bool, StoreError> {
        self.database.as_archivist(archive::remove_archived)
    }

    fn segments(&mut self) -> Result<Vec<Segment>, StoreError> {
        self.read(archive::segments)
    }

    fn segment_with(&mut self, id: EventId) -> Result<Option<String>, StoreError> {
        self.read(|snapshot| archive::segment_with(snapshot, id))
    }
}

impl<D: Database> Completeness for SqlStore<D> {
    fn doors(&mut self, destination: &str) -> Result<Option<Vec<Door>>, StoreError> {
        self.read(|snapshot| completeness::doors(snapshot, destination))
    }

    fn waive(&mut self, controller: &ControllerId, deed: &Deed) -> Result<usize, StoreError> {
        self.write(|writing| completeness::waive(writing, controller, deed))
    }

    fn watermarks(&mut self) -> Result<Vec<WatermarkRow>, StoreError> {
        self.read(completeness::watermarks)
    }

    fn put_watermark(&mut self, row: &WatermarkRow, calls: u32) -> Result<(), StoreError> {
        self.write(|writing| completeness::put_watermark(writing, row, calls))
    }

    fn begin_watermark(
        &mut self,
        turn: &Turn<'_>,
        name: &str,
        calls: u32,
        next: UtcMs,
    ) -> Result<Option<Passed>, StoreError> {
        self.write(|writing| completeness::begin_watermark(writing, turn, name, calls, next))
    }
}

impl<D: Database> Leases for SqlStore<D> {
    fn intake_claim(&mut self, broker: &str) -> Result<Option<lease::Claim>, StoreError> {
        self.read(|snapshot| leases::intake_claim(snapshot, broker))
    }

    fn take_intake(
        &mut self,
        broker: &str,
        holder: &str,
        seen: Option<&lease::Claim>,
    ) -> Result<Option<Fence>, StoreError> {
        self.write(|writing| leases::take_intake(writing, broker, holder, seen))
    }

    fn beat_intake(&mut self, broker: &str, fence: Fence) -> Result<bool, StoreError> {
        self.write(|writing| leases::beat_intake(writing, broker, fence))
    }

    fn leave_intake(&mut self, broker: &str, fence: Fence) -> Result<(), StoreError> {
        self.write(|writing| leases::leave_intake(writing, broker, fence))
    }
}

impl<D: Database> Proof for SqlStore<D> {
    fn walk(
        &mut self,
        only: Option<&ControllerId>,
        told: &mut dyn FnMut(Walked<'_>) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.read(|snapshot| proof::walk(snapshot, only, told))
    }

    fn new_epoch(&mut self, heard_of: Option<StoreEpoch>, now: UtcMs) -> Result<StoreEpoch, StoreError> {
        self.write(|writing| proof::new_epoch(writing, heard_of, now))
    }

    fn is_quarantined(&mut self, letter: &DeadLetter) -> Result<bool, StoreError> {
        self.read(|snapshot| proof::is_quarantined(snapshot, letter))
    }
}

impl<D: Database> Replays for SqlStore<D> {
    fn letters(&mut self) -> Result<Vec<Letters>, StoreError> {
        self.read(replays::letters)
    }

    fn matching(
        &mut self,
        destination: &str,
        filter: &Filter,
        each: &mut dyn FnMut(&Sifted) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.read(|snapshot| replays::matching(snapshot, destination, filter, each))
    }

    fn retold(&mut self, destination: &str, positions: &[Position]) -> Result<Vec<Retold>, StoreError> {
        self.read(|snapshot| replays::retold(snapshot, destination, positions))
    }

    fn make_replay(&mut self, new: &NewReplay, deed: &Deed) -> Result<u64, StoreError> {
        self.write(|writing| replays::make(writing, new, deed))
    }

    fn gather(&mut self, replay: u64) -> Result<bool, StoreError> {
        self.write(|writing| replays::gather(writing, replay))
    }

    fn replays(&mut self, limit: usize) -> Result<Vec<ReplayState>, StoreError> {
        self.read(|snapshot| replays::replays(snapshot, limit))
    }

    fn replay(&mut self, replay: u64) -> Result<Option<ReplayState>, StoreError> {
        self.read(|snapshot| replays::replay(snapshot, replay))
    }

    fn replay_rows(&mut self, replay: u64, after: u64, limit: usize) -> Result<Vec<ReplayRow>, StoreError> {
        self.read(|snapshot| replays::rows(snapshot, replay, after, limit))
    }

    fn change_replay(&mut self, replay: u64, change: ReplayChange, deed: &Deed) -> Result<bool, StoreError> {
        self.write(|writing| replays::change(writing, replay, change, deed))
    }
}

impl<D: Database> Rereading for SqlStore<D> {
    fn rereading(&mut self) -> Result<Reread, StoreError> {
        self.read(rereading::state)
    }

    fn read_anew(&mut self, room: usize, now: UtcMs) -> Result<read_again::Portion, StoreError> {
        self.write(|writing| rereading::read_anew(writing, room, now))
    }
}

/// Stores batches in a transaction that the caller ends: for tests of what others see meanwhile.
#[cfg(test)]
pub(super) fn intake_of(
    session: &dyn Session,
    batches: &[VerifiedBatch],
    received: UtcMs,
) -> Result<(), StoreError> {
    let mut writing = Writing::begin(session)?;
    intake::append(&mut writing, batches, received)?;
    writing.put_counters()
}
