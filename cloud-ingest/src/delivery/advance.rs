//! Step 11 of 12: the loop that moves how far a destination says that taps are complete, one beside each dispatcher; only Frappe
//! HR has such a thing so far. How far that may be is for [`super::complete`] and the destination's own
//! [`watermark`](crate::destination::frappe_hr::watermark) to say; here it is asked, told and written down.
//!
//! **Invariants**: its calls are the destination's like all others: they are within its limit, and none is made while the
//! destination is paused, held or left in peace. Of several replicas one makes them. Nothing that goes wrong here holds a tap
//! back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::complete::Door;
use super::dispatch::Opened;
use super::ticks::Ticker;
use tap_protocol::ids::ControllerId;

use crate::chance::Chance;
use crate::clock::{Clock, Monotonic};
use crate::destination::frappe_hr::watermark::{Progress, Watermark, decide};
use crate::destination::frappe_hr::{Advances, FrappeHr, Pushed};
use crate::destination::settings::{Mode, ShiftTypeMark};
use crate::destination::{Answered, Destination, Outcome, cut};
use crate::event_store::handle::StoreHandle;
use crate::event_store::{EventStore, Rendered, StoreError, Turn, UtcMs, WatermarkRow};
use crate::health::Loop;
use crate::stop::Stop;
use crate::telemetry::{Metrics, with_causes};

/// So often it is looked how far it may go.
const EVERY: Duration = Duration::from_secs(1);

/// Frappe looks at it once an hour; it is told no more often than this.
const MOVES_EVERY_MS: i64 = 60_000;

/// After a failure the next try waits longer and longer, up to this.
const LONGEST_PAUSE_MS: i64 = 60 * 60_000;

/// It is asked where it stands, and told where it is to stand.
const CALLS: u32 = 2;

/// Of what went wrong, so much is kept.
const MAX_TROUBLE_BYTES: usize = 500;

/// What it needs.
pub struct Advancer<D> {
    /// The destination's name in the store.
    pub name: String,
    /// The destination; another one as soon as it was changed.
    pub opened: watch::Receiver<Arc<Opened<D>>>,
    /// Where it looks.
    pub reader: StoreHandle,
    /// Where it writes.
    pub writer: StoreHandle,
    /// The time on the wall.
    pub clock: Clock,
    /// The time that passes.
    pub monotonic: Monotonic,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What nobody can foresee.
    pub chance: Chance,
}

/// Runs until told to stop.
pub async fn run<D: Destination + Advances>(mut advancer: Advancer<D>, mut stop: Stop) {
    let mut ticker = Ticker::new(advancer.chance.bits().cast_signed());
    let mut said = false;
    while !stop.is_said() {
        let opened = Arc::clone(&advancer.opened.borrow_and_update());
        match advancer.look(&opened, &mut ticker).await {
            Ok(()) => said = false,
            Err(error) => {
                advancer.metrics.store_error(Loop::Dispatch);
                if !std::mem::replace(&mut said, true) {
                    let (destination, why) = (&advancer.name, with_causes(&error));
                    tracing::error!(destination, why, "cannot find out how far taps are complete");
                }
            }
        }
        tokio::select! {
            () = stop.said() => {}
            () = sleep(EVERY) => {}
        }
    }
}

/// What time it was by the store's clock, and what this process's own had counted by then.
#[derive(Debug, Clone, Copy)]
struct Time {
    now: UtcMs,
    at_ms: u64,
}

impl<D: Destination + Advances> Advancer<D> {
    async fn look(&self, opened: &Arc<Opened<D>>, ticker: &mut Ticker) -> Result<(), StoreError> {
        let Some(frappe) = opened.destination.as_frappe_hr() else { return Ok(()) };
        let marks = frappe.watermarks();
        if marks.is_empty() || opened.settings.mode != Mode::Live {
            return Ok(());
        }
        let name = self.name.clone();
        let said = self.clock.now();
        let known = move |store: &mut dyn EventStore| {
            Ok((store.doors(&name)?, store.watermarks()?, store.clock(said)?))
        };
        // Account of it has only begun to be kept.
        let (Some(doors), rows, now) = self.reader.run(known).await? else { return Ok(()) };
        let time = Time { now, at_ms: self.monotonic.ms() };
        for mark in marks {
            let own = |row: &&WatermarkRow| row.destination == self.name && row.name == mark.shift_type;
            let before = rows.iter().find(own).cloned();
            let row = before.clone().unwrap_or_else(|| WatermarkRow::new(&self.name, &mark.shift_type));
            let (row, to) = stands(mark, &doors, row, self.time(time));
            if before.as_ref().is_none_or(|before| is_news(before, &row)) {
                tell_who_holds(before.as_ref(), &row);
                self.put(row.clone(), 0).await?;
            }
            if let Some(to) = to {
                self.advance(opened, frappe, row, &to, ticker, time).await?;
            }
        }
        Ok(())
    }

    /// Moves it, if this is the time, there is room for the calls, and nobody else does.
    async fn advance(
        &self,
        opened: &Arc<Opened<D>>,
        frappe: &FrappeHr,
        row: WatermarkRow,
        to: &str,
        ticker: &mut Ticker,
        time: Time,
    ) -> Result<(), StoreError> {
        let now = self.time(time);
        let next = UtcMs(now.0 + MOVES_EVERY_MS);
        let begun = {
            let (opened, name) = (Arc::clone(opened), row.name.clone());
            let (destination, monotonic, ticker) = (self.name.clone(), self.monotonic.clone(), *ticker);
            move |store: &mut dyn EventStore| {
                let turn = Turn {
                    destination: &destination,
                    version: opened.version,
                    rules: &opened.rules(),
                    now,
                    vouch: &|| ticker.vouch(monotonic.ms()),
                    ended: &[],
                    under_way: &[],
                    room: 0,
                    render: &|_, _| Rendered::Impossible("nothing is claimed".into()),
                };
                store.begin_watermark(&turn, &name, CALLS, next)
            }
        };
        // Most of the time it is too early: that is no reason to ask the one who writes.
        if row.next > now && row.next.0 <= now.0 + LONGEST_PAUSE_MS {
            return Ok(());
        }
        let Some(passed) = self.writer.run(begun).await? else { return Ok(()) };
        ticker.told(&passed);
        let pushed = frappe.push_watermark(&row.name, to).await;
        let moved = after(row, to, pushed, self.time(time));
        self.put(moved, CALLS).await
    }

    fn time(&self, then: Time) -> UtcMs {
        UtcMs(then.now.0.saturating_add_unsigned(self.monotonic.ms().saturating_sub(then.at_ms)))
    }

    async fn put(&self, row: WatermarkRow, calls: u32) -> Result<(), StoreError> {
        self.writer.run(move |store| store.put_watermark(&row, calls)).await
    }
}

/// How far it could go now, by whom it is held there, and where it is to be moved to.
fn stands(
    mark: &ShiftTypeMark,
    doors: &[Door],
    row: WatermarkRow,
    now: UtcMs,
) -> (WatermarkRow, Option<String>) {
    let told = |door: &Door| {
        let (delivered_through, _) = door.told_through()?;
        Some(Progress { controller: door.controller.clone(), site: door.site.clone(), delivered_through })
    };
    let progress: Vec<Progress> = doors.iter().filter_map(told).collect();
    let (held_back_by, to, trouble) = match decide(mark, &progress, row.stands_at.as_deref()) {
        Ok(Watermark::Move { to, held_back_by }) => (Some(held_back_by), Some(to), row.trouble),
        Ok(Watermark::Stay { held_back_by }) => (held_back_by, None, row.trouble),
        Err(why) => (None, None, Some(why.to_string())),
    };
    let last = doors.iter().find(|door| Some(&door.controller) == held_back_by.as_ref());
    let (complete, why) = match last.and_then(Door::told_through) {
        Some((complete, holds)) => (complete, Some(holds.sentence().to_owned())),
        None => (None, Some("there is no door at its sites".to_owned())),
    };
    let row = WatermarkRow { complete, held_back_by, held_back_why: why, trouble, looked: now, ..row };
    (row, to)
}

/// Whether somebody would want to know: it has moved on, or something else holds it that is behind.
fn is_news(before: &WatermarkRow, row: &WatermarkRow) -> bool {
    let moved_ms = before.complete.zip(row.complete).map(|(before, now)| before.0.abs_diff(now.0));
    let moved = moved_ms.map_or(before.complete != row.complete, |ms| ms >= MOVES_EVERY_MS as u64 / 2);
    moved || before.trouble != row.trouble || holds(before) != holds(row)
}

/// Who is behind, and why. Where all is well, one door or the other has always said hello longest ago: that is not it.
fn holds(row: &WatermarkRow) -> Option<(Option<&ControllerId>, Option<&str>)> {
    row.is_behind(row.looked).then_some((row.held_back_by.as_ref(), row.held_back_why.as_deref()))
}

fn tell_who_holds(before: Option<&WatermarkRow>, row: &WatermarkRow) {
    let held = before.and_then(holds);
    if held == holds(row) {
        return;
    }
    let (destination, shift_type) = (&row.destination, &row.name);
    match holds(row) {
        Some((Some(controller), why)) => {
            let why = format!("{controller} {}", why.unwrap_or_default());
            tracing::info!(destination, shift_type, why, "a door holds Last Sync of Checkin back");
        }
        Some((None, why)) => {
            tracing::warn!(destination, shift_type, why, "Last Sync of Checkin cannot be moved");
        }
        None => tracing::info!(destination, shift_type, "no door holds Last Sync of Checkin back any more"),
    }
}

/// What came of moving it, and when it is tried again.
fn after(row: WatermarkRow, to: &str, pushed: Pushed, now: UtcMs) -> WatermarkRow {
    let (destination, shift_type) = (row.destination.clone(), row.name.clone());
    let settled = WatermarkRow {
        trouble: None,
        failures: 0,
        next: UtcMs(now.0 + MOVES_EVERY_MS),
        looked: now,
        ..row.clone()
    };
    let trouble = match pushed {
        Pushed::Moved => {
            tracing::debug!(destination, shift_type, to, "Last Sync of Checkin is moved");
            return WatermarkRow { stands_at: Some(to.to_owned()), moved: Some(now), ..settled };
        }
        Pushed::StandsAt(at) if at == to => return WatermarkRow { stands_at: Some(at), ..settled },
        Pushed::StandsAt(at) => {
            let why = format!(
                "it stands at {at}, and the taps of all doors are there only through {to}: somebody else has moved it, and \
                 people may be marked absent whose taps are on their way. Put it back in Frappe, if that was no person's will"
            );
            let known = row.trouble.is_some();
            if !known {
                tracing::warn!(destination, shift_type, why, "Last Sync of Checkin is too far ahead");
            }
            return WatermarkRow { stands_at: Some(at), trouble: Some(why), ..settled };
        }
        Pushed::AutoUpdateIsOn => {
            "Auto Update Last Sync is on in Frappe, which then marks people absent whose taps are on their way: switch it \
             off in the Shift Type; nothing is moved from here meanwhile"
                .to_owned()
        }
        Pushed::Failed(answered) => in_words(&answered),
    };
    if row.trouble.as_deref() != Some(trouble.as_str()) {
        tracing::error!(destination, shift_type, why = trouble, "Last Sync of Checkin cannot be moved");
    }
    let failures = row.failures.saturating_add(1);
    let pause_ms = (MOVES_EVERY_MS << failures.min(10)).min(LONGEST_PAUSE_MS);
    WatermarkRow {
        trouble: Some(cut(&trouble, MAX_TROUBLE_BYTES)),
        failures,
        next: UtcMs(now.0 + pause_ms),
        looked: now,
        ..row
    }
}

fn in_words(answered: &Answered) -> String {
    match &answered.outcome {
        Outcome::Misconfigured(why) => why.clone(),
        Outcome::Unauthorized => {
            let says = &answered.answer;
            format!(
                "Frappe does not let us: give the user the role HR User, and check its key; it says {says}"
            )
        }
        outcome => format!("{}: {}", outcome.word(), answered.answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_store::Standing;

    const NOW: UtcMs = UtcMs(1_772_434_800_000);

    fn mark() -> ShiftTypeMark {
        ShiftTypeMark { shift_type: "Day".into(), sites: vec![], zone: "Europe/Berlin".into() }
    }

    fn door(name: &str, complete: Option<UtcMs>) -> Door {
        Door {
            controller: name.parse().unwrap(),
            site: "hq".into(),
            standing: Standing::Active,
            is_source: false,
            complete,
            is_missed: false,
            untold: None,
        }
    }

    fn row() -> WatermarkRow {
        WatermarkRow::new("frappe", "Day")
    }

    #[test]
    fn the_door_that_is_furthest_behind_is_named_with_what_holds_it() {
        let doors =
            [door("a", Some(NOW)), Door { untold: Some(UtcMs(NOW.0 - 90_000)), ..door("b", Some(NOW)) }];
        let (row, to) = stands(&mark(), &doors, row(), NOW);
        assert_eq!(row.held_back_by, Some("b".parse().unwrap()));
        assert_eq!((row.complete, to.as_deref()), (Some(UtcMs(NOW.0 - 90_000)), Some("2026-03-02 07:58:30")));
        assert!(row.held_back_why.unwrap().contains("not delivered"));
        let (row, to) = stands(&mark(), &[door("a", None)], self::row(), NOW);
        assert_eq!((row.complete, to, row.held_back_by), (None, None, Some("a".parse().unwrap())));
        let (row, to) = stands(&mark(), &[], self::row(), NOW);
        assert_eq!((to, row.held_back_why.as_deref()), (None, Some("there is no door at its sites")));
    }

    #[test]
    fn a_failure_is_tried_again_after_longer_and_longer_pauses_of_an_hour_at_most() {
        let mut row = row();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            row = after(row, "2026-03-02 08:00:00", Pushed::AutoUpdateIsOn, NOW);
            pauses.push((row.next.0 - NOW.0) / 60_000);
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60, 60, 60]);
        assert!(row.trouble.as_ref().unwrap().contains("switch it off"));
        assert_eq!(row.stands_at, None);
        let row = after(row, "2026-03-02 08:00:00", Pushed::Moved, NOW);
        assert_eq!((row.failures, row.trouble, row.moved), (0, None, Some(NOW)));
        assert_eq!(row.stands_at.as_deref(), Some("2026-03-02 08:00:00"));
    }

    #[test]
    fn somebody_who_moved_it_too_far_is_told_so() {
        let stands_at = Pushed::StandsAt("2027-01-01 00:00:00".into());
        let row = after(row(), "2026-03-02 08:00:00", stands_at, NOW);
        assert_eq!(row.stands_at.as_deref(), Some("2027-01-01 00:00:00"));
        assert!(row.trouble.unwrap().contains("2027-01-01"));
        let there = Pushed::StandsAt("2026-03-02 08:00:00".into());
        assert_eq!(after(self::row(), "2026-03-02 08:00:00", there, NOW).trouble, None);
    }

    #[test]
    fn only_news_is_written_down() {
        let before = WatermarkRow { complete: Some(NOW), ..row() };
        assert!(!is_news(&before, &WatermarkRow { complete: Some(UtcMs(NOW.0 + 29_999)), ..before.clone() }));
        assert!(is_news(&before, &WatermarkRow { complete: Some(UtcMs(NOW.0 + 30_000)), ..before.clone() }));
        assert!(is_news(&before, &WatermarkRow { complete: None, ..before.clone() }));
        let other = WatermarkRow { held_back_by: Some("b".parse().unwrap()), looked: NOW, ..before.clone() };
        assert!(!is_news(&before, &other), "some door is always the last");
        assert!(is_news(&before, &WatermarkRow { looked: UtcMs(NOW.0 + 300_001), ..other }));
    }
}
