//! Letters, and replays as dispatchers carry them out: who is a member, who goes when, and what becomes of each.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::world::{Door, HR, World, person};
use crate::delivery::class::Class;
use crate::destination::settings::{AfterUnknown, OnDead};
use crate::directory::timeline::When;
use crate::event_store::people::{DifferenceFilter, What};
use crate::event_store::replays::{
    Doing, Filter, MAX_GATHERED_AT_ONCE, NewReplay, ReplayChange, ReplayStanding, ReplayState, RowOutcome,
};
use crate::event_store::{
    Binding, Claimed, Deed, DeliveryState, Next, PersonId, Position, Rendered, StoreError, UtcMs,
};

const CARDS: [(u8, &str); 5] = [(1, "anna"), (2, "ben"), (3, "cleo"), (4, "dora"), (5, "emil")];

/// One tap per card given, at the first door.
fn taps(world: &mut World, cards: &[u8]) -> Vec<Position> {
    world.bind(&CARDS);
    let mut door = Door::new(1);
    cards.iter().map(|card| world.tap(&mut door, *card)).collect()
}

/// Sends all there is, each to this end.
fn send_all(world: &mut World, next: &Next) {
    loop {
        let claimed = world.claim();
        if claimed.is_empty() {
            return;
        }
        claimed.iter().for_each(|one| world.send(one, next.clone()));
    }
}

fn deed(world: &World, what: &str) -> Deed {
    Deed { who: "mara".into(), why: "because".into(), ..Deed::by_itself(world.now, what, HR) }
}

fn letters() -> Filter {
    Filter { letters: true, ..Filter::default() }
}

fn make(world: &mut World, doing: Doing, filter: Filter) -> u64 {
    let new = NewReplay { destination: HR.into(), doing, filter };
    let deed = deed(world, "replay");
    let no = world.store().make_replay(&new, &deed).unwrap();
    while world.store().gather(no).unwrap() {}
    world.check();
    no
}

fn state(world: &mut World, no: u64) -> ReplayState {
    world.store().replay(no).unwrap().unwrap()
}

/// What became of each member: in a word, and why.
fn outcomes(world: &mut World, no: u64) -> Vec<(RowOutcome, Option<String>)> {
    let rows = world.store().replay_rows(no, 0, 1_000).unwrap();
    rows.into_iter().map(|row| (row.outcome, row.detail)).collect()
}

fn members(world: &mut World, no: u64) -> Vec<Position> {
    world.store().replay_rows(no, 0, 10_000).unwrap().into_iter().map(|row| row.position).collect()
}

fn positions(claimed: &[Claimed]) -> Vec<Position> {
    claimed.iter().map(|one| one.claim.position).collect()
}

/// Turns until a replay has ended, each answered like that; gives the order in which members were sent.
fn carry_out(world: &mut World, no: u64, next: &Next) -> Vec<Position> {
    let mut sent = Vec::new();
    for _ in 0..10_000 {
        for one in world.claim() {
            sent.push(one.claim.position);
            world.send(&one, next.clone());
        }
        if state(world, no).standing == ReplayStanding::Done {
            return sent;
        }
    }
    panic!("{:?} does not end", state(world, no));
}

pub fn letters_are_counted_by_reason_with_what_was_said_last(world: &mut World) {
    let at = taps(world, &[1, 2, 3, 4]);
    let claimed = world.claim();
    world.send(&claimed[0], Next::Dead);
    world.send(&claimed[1], Next::Dead);
    world.send(&claimed[2], Next::AskPerson);
    world.send(&claimed[3], Next::NotSent);
    world.body = Rendered::Impossible("no zone".into());
    // What was rendered once stays so.
    assert_eq!(world.turn_at(HR, &[], 9).claimed.len(), 1);
    let mut door = Door::new(2);
    let fifth = world.tap(&mut door, 5);
    world.turn_at(HR, &[], 9);
    let letters = world.store().letters().unwrap();
    let counted: Vec<(&str, u64)> = letters.iter().map(|one| (one.reason.as_str(), one.count)).collect();
    assert_eq!(counted, [("impossible", 1), ("refused", 2), ("unknown", 1)]);
    let newest: Vec<_> = letters.iter().map(|one| one.newest.as_ref().unwrap().event_id).collect();
    assert_eq!(newest, [fifth, at[1], at[2]].map(|at| world.row(at).event_id));
    assert_eq!(letters[0].newest.as_ref().unwrap().answer.as_deref(), Some("no zone"));
    world.restart();
    assert_eq!(world.store().letters().unwrap(), letters);
}

pub fn a_letter_is_sent_again_under_its_key_and_by_what_is_known_now(world: &mut World) {
    let at = taps(world, &[1, 1]);
    world.body = Rendered::Body("before".into());
    let first = world.claim_one();
    world.send(&first, Next::Dead);
    send_all(world, &Next::Delivered);
    assert_eq!(world.states(), ["dead", "delivered"]);

    let no = make(world, Doing::Replay, letters());
    assert_eq!(members(world, no), at[..1]);
    world.body = Rendered::Body("now".into());
    let again = world.claim_one();
    assert_eq!((again.event_id, again.claim.attempt, again.failures), (first.event_id, 2, 0));
    assert_eq!((again.body.as_str(), again.class), ("now", Class::Replay));
    assert_eq!(outcomes(world, no), [(RowOutcome::Sending, Some("refused".into()))]);
    let late = world.store().destinations().unwrap()[0].oldest_open_received;
    assert_eq!(late, None, "what is told again makes no live tap late");
    world.send(&again, Next::Delivered);
    world.turn_at(HR, &[], 0);
    assert_eq!(world.states(), ["delivered", "delivered"]);
    assert_eq!(outcomes(world, no), [(RowOutcome::Delivered, Some("delivered".into()))]);
    let row = world.store().replay_rows(no, 0, 9).unwrap().remove(0);
    assert_eq!((row.state_before, row.body_before.as_deref()), (Some(DeliveryState::Dead), Some("before")));
    assert_eq!((row.event_id, row.ended), (first.event_id, Some(world.now)));
    let done = state(world, no);
    assert_eq!((done.standing, done.ended), (ReplayStanding::Done, Some(world.now)));
    assert_eq!((done.who.as_str(), done.why.as_str(), done.filter), ("mara", "because", letters()));
    assert_eq!(world.store().letters().unwrap(), []);
    assert_eq!(world.store().deeds(1).unwrap()[0].what, "replay");
    let attempts: Vec<_> = world.detail(at[0]).attempts.into_iter().map(|one| one.outcome.unwrap()).collect();
    assert_eq!(attempts, ["refused", "delivered"], "what was before stays on record");
}

pub fn the_members_of_a_replay_are_those_of_when_it_was_made(world: &mut World) {
    let at = taps(world, &[1, 2, 3]);
    let claimed = world.claim();
    world.send(&claimed[0], Next::Dead);
    world.send(&claimed[1], Next::Delivered);
    let no = make(world, Doing::Replay, letters());
    world.send(&claimed[2], Next::Dead);
    let mut door = Door::new(2);
    world.tap(&mut door, 4);
    assert_eq!(members(world, no), at[..1]);
    carry_out(world, no, &Next::Dead);
    assert_eq!(outcomes(world, no), [(RowOutcome::Dead, Some("refused".into()))]);
    assert_eq!(world.states(), ["dead", "delivered", "dead", "dead"]);
    assert_eq!(members(world, no), at[..1]);
}

pub fn many_positions_are_gone_through_in_portions_and_none_is_left_out(world: &mut World) {
    world.bind(&CARDS);
    let mut door = Door::new(1);
    let many = MAX_GATHERED_AT_ONCE + 7;
    (0..many).for_each(|_| door.tap(1));
    let mut sent = 0;
    while sent < many as u64 {
        let last = (sent + 200).min(many as u64);
        let batch = door.batch(sent + 1, last);
        let now = world.now;
        world.store().append(&[batch], now).unwrap();
        sent = last;
    }
    let everything = Filter { states: vec![DeliveryState::Discarded], ..Filter::default() };
    world.body = Rendered::NotWanted("not such".into());
    let (now, rules) = (world.now, world.rules.clone());
    let mut more = true;
    while more {
        let turned = world.store().turn(&crate::event_store::Turn {
            destination: HR,
            version: 1,
            rules: &rules,
            now,
            vouch: &|| crate::delivery::ticks::Ticker::new(5).vouch(0),
            ended: &[],
            under_way: &[],
            room: 9,
            render: &|_, _| Rendered::NotWanted("not such".into()),
        });
        more = turned.unwrap().more;
    }
    let new = NewReplay { destination: HR.into(), doing: Doing::Replay, filter: everything };
    let made = deed(world, "replay");
    let no = world.store().make_replay(&new, &made).unwrap();
    assert!(world.store().gather(no).unwrap(), "there is another portion");
    assert_eq!(state(world, no).counts.members, MAX_GATHERED_AT_ONCE as u64);
    world.restart();
    // Whoever made it died: a dispatcher's turn goes on, and begins nothing before all are gone through.
    let turned = world.turn_at(HR, &[], 9);
    assert!(turned.more && turned.claimed.is_empty());
    assert!(!world.store().gather(no).unwrap());
    assert_eq!(members(world, no), (1..=many as u64).map(Position).collect::<Vec<_>>());
}

pub fn a_filter_by_time_takes_the_taps_of_that_time(world: &mut World) {
    let mut door = Door::new(1);
    world.bind(&CARDS);
    let times: Vec<(Position, UtcMs)> = (0..4)
        .map(|_| {
            let at = door.next_utc();
            (world.tap(&mut door, 1), at)
        })
        .collect();
    door.unsynced_tap(2);
    send_all(world, &Next::Delivered);
    let (from, until) = (Some(times[1].1), Some(times[3].1));
    let no = make(world, Doing::Replay, Filter { from, until, ..Filter::default() });
    assert_eq!(members(world, no), [times[1].0, times[2].0]);
    let unknown =
        NewReplay { destination: "nowhere".into(), doing: Doing::Replay, filter: Filter::default() };
    let made = deed(world, "replay");
    let refused = world.store().make_replay(&unknown, &made);
    assert!(matches!(refused, Err(StoreError::NotFound { what: "destination", .. })), "{refused:?}");
}

pub fn only_a_few_members_are_open_at_a_time(world: &mut World) {
    let at = taps(world, &[1, 2, 3, 4, 5]);
    send_all(world, &Next::Delivered);
    let no = make(world, Doing::Replay, Filter::default());
    world.rules.limits.concurrency = 2;
    let first = world.claim();
    assert_eq!(positions(&first), at[..2]);
    assert_eq!(state(world, no).counts.sending, 2);
    assert_eq!(world.claim(), []);
    world.send(&first[0], Next::Delivered);
    let second = world.claim();
    assert_eq!(positions(&second), at[2..3]);
    assert_eq!((state(world, no).counts.sending, state(world, no).counts.waiting), (2, 2));
}

pub fn of_a_line_one_goes_after_the_other_and_never_beside_a_live_tap(world: &mut World) {
    let at = taps(world, &[1, 1, 2, 1, 2]);
    send_all(world, &Next::Delivered);
    let mut door = Door::new(2);
    let live = world.tap(&mut door, 2);
    let no = make(world, Doing::Replay, Filter::default());
    let first = world.claim();
    assert_eq!(positions(&first), [live, at[0]], "ben's line is not empty");
    let then = UtcMs(world.now.0 + 60_000);
    world.send(&first[1], Next::RetryIn(60_000));
    world.turn_at(HR, &[], 0);
    assert_eq!(world.claim(), []);
    world.send(&first[0], Next::Delivered);
    assert_eq!(positions(&world.claim()), at[2..3]);
    world.now = then;
    world.expire_leases();
    let sent = carry_out(world, no, &Next::Delivered);
    let annas: Vec<&Position> = sent.iter().filter(|one| [at[0], at[1], at[3]].contains(one)).collect();
    assert_eq!(annas, [&at[0], &at[1], &at[3]], "in the order of positions");
}

pub fn a_live_tap_waits_for_one_member_at_most(world: &mut World) {
    world.bind(&CARDS);
    let mut door = Door::new(1);
    (0..40).for_each(|n| door.tap(n % 5 + 1));
    world.store_all_of(&mut door);
    send_all(world, &Next::Delivered);
    make(world, Doing::Replay, Filter::default());
    let mut live_door = Door::new(2);
    for card in [3, 1, 5, 1] {
        let under_way = world.claim();
        assert_eq!(under_way.len(), 5, "one of each line");
        let live = world.tap(&mut live_door, card);
        assert_eq!(world.claim(), [], "nobody overtakes");
        let theirs = under_way.iter().find(|one| one.tap.person == person(CARDS[card as usize - 1].1));
        world.send(theirs.unwrap(), Next::Delivered);
        let next = world.claim();
        assert_eq!(positions(&next), [live], "whatever else is left of the replay");
        assert_eq!(next[0].class, Class::Live);
        next.iter().for_each(|one| world.send(one, Next::Delivered));
        let others = under_way.iter().filter(|one| one.claim != theirs.unwrap().claim);
        others.for_each(|one| world.send(one, Next::Delivered));
    }
}

pub fn live_taps_have_their_share_while_there_is_a_replay(world: &mut World) {
    taps(world, &[1, 2, 1, 2, 1, 2, 1, 2]);
    send_all(world, &Next::Delivered);
    make(world, Doing::Replay, Filter::default());
    let mut door = Door::new(3);
    let mut classes = Vec::new();
    for _ in 0..40 {
        // Somebody is always waiting.
        [3, 4].iter().for_each(|card| {
            world.tap(&mut door, *card);
        });
        let one = world.claim_at(HR, 1).remove(0);
        classes.push(one.class);
        world.send(&one, Next::Delivered);
    }
    assert_eq!(classes[0], Class::Live);
    let replayed = classes.iter().filter(|class| **class == Class::Replay).count();
    assert!((1..=2).contains(&replayed), "{classes:?}");
}

fn change(world: &mut World, no: u64, change: ReplayChange) -> bool {
    let deed = deed(world, "change_replay");
    let changed = world.store().change_replay(no, change, &deed).unwrap();
    world.check();
    changed
}

pub fn a_paused_replay_begins_nothing_and_goes_on_where_it_was(world: &mut World) {
    let at = taps(world, &[1, 1, 1]);
    send_all(world, &Next::Delivered);
    let no = make(world, Doing::Replay, Filter::default());
    let first = world.claim_one();
    assert!(change(world, no, ReplayChange::Pause) && !change(world, no, ReplayChange::Pause));
    world.send(&first, Next::Delivered);
    assert_eq!(world.claim(), []);
    assert_eq!(state(world, no).standing, ReplayStanding::Paused);
    assert_eq!(outcomes(world, no)[0].0, RowOutcome::Delivered, "what was under way comes to its end");
    world.restart();
    assert!(change(world, no, ReplayChange::Resume) && !change(world, no, ReplayChange::Resume));
    assert_eq!(carry_out(world, no, &Next::Delivered), at[1..]);
}

pub fn a_cancelled_replay_leaves_the_rest_as_it_was(world: &mut World) {
    taps(world, &[1, 1, 1]);
    send_all(world, &Next::Dead);
    let no = make(world, Doing::Replay, letters());
    let first = world.claim_one();
    assert!(change(world, no, ReplayChange::Cancel));
    world.send(&first, Next::Delivered);
    assert_eq!(world.claim(), []);
    assert_eq!(world.states(), ["delivered", "dead", "dead"]);
    let ended = state(world, no);
    assert_eq!(
        (ended.standing, ended.counts.delivered, ended.counts.waiting),
        (ReplayStanding::Cancelled, 1, 2)
    );
    assert!(!change(world, no, ReplayChange::Resume) && !change(world, no, ReplayChange::Cancel));
    let no_such = deed(world, "x");
    let refused = world.store().change_replay(99, ReplayChange::Pause, &no_such);
    assert!(matches!(refused, Err(StoreError::NotFound { what: "replay", .. })), "{refused:?}");
}

pub fn a_process_may_die_between_any_two_turns(world: &mut World) {
    let at = taps(world, &[1, 2, 1, 3, 1, 2]);
    send_all(world, &Next::Dead);
    let no = make(world, Doing::Replay, letters());
    world.rules.limits.concurrency = 2;
    let mut sent: BTreeMap<Position, u32> = BTreeMap::new();
    for turn in 0..60 {
        world.restart();
        world.expire_leases();
        world.now.0 += super::world::LEASE_MS;
        world.expire_leases();
        for one in world.claim() {
            *sent.entry(one.claim.position).or_default() += 1;
            // Every third dies with its request under way.
            if turn % 3 != 2 {
                world.send(&one, Next::Delivered);
            }
        }
    }
    assert_eq!(state(world, no).standing, ReplayStanding::Done);
    assert_eq!(state(world, no).counts.delivered, at.len() as u64);
    assert_eq!(sent.keys().copied().collect::<Vec<_>>(), at);
}

pub fn a_discarded_letter_frees_its_line(world: &mut World) {
    let at = taps(world, &[1, 1, 2]);
    world.rules.on_dead = OnDead::Hold;
    let claimed = world.claim();
    world.send(&claimed[0], Next::Dead);
    world.send(&claimed[1], Next::Dead);
    assert_eq!(world.states(), ["dead", "parked", "dead"]);
    let annas = Filter { persons: vec!["anna".into()], ..letters() };
    let no = make(world, Doing::Discard, annas);
    let next = world.claim();
    assert_eq!(positions(&next), [at[1]]);
    assert_eq!(world.states(), ["discarded", "in_flight", "dead"]);
    assert_eq!(outcomes(world, no), [(RowOutcome::Discarded, None)]);
    let said = world.detail(at[0]).attempts.pop().unwrap();
    assert_eq!((said.outcome.as_deref(), said.answer.as_deref()), (Some("discarded"), Some("mara: because")));
    assert_eq!(state(world, no).standing, ReplayStanding::Done);
}

pub fn what_a_person_says_was_processed_is_delivered_by_their_word(world: &mut World) {
    let at = taps(world, &[1, 1]);
    world.rules.unknown.then = AfterUnknown::AskPerson;
    let claimed = world.claim_one();
    world.send(&claimed, Next::AskPerson);
    let no = make(world, Doing::SaidDelivered, letters());
    assert_eq!(positions(&world.claim()), at[1..]);
    assert_eq!(world.states(), ["delivered", "in_flight"]);
    assert_eq!(outcomes(world, no), [(RowOutcome::Delivered, None)]);
    let said = world.detail(at[0]).attempts.pop().unwrap();
    assert_eq!((said.number, said.outcome.as_deref()), (2, Some("said_delivered")));
}

pub fn what_may_have_been_processed_is_sent_again_as_it_was(world: &mut World) {
    taps(world, &[1, 1]);
    world.rules.unknown.then = AfterUnknown::AskPerson;
    world.body = Rendered::Body("before".into());
    let claimed = world.claim_one();
    world.send(&claimed, Next::AskPerson);
    world.body = Rendered::Body("now".into());
    let no = make(world, Doing::Replay, letters());
    let again = world.claim_one();
    assert_eq!((again.event_id, again.body.as_str(), again.was_unknown), (claimed.event_id, "before", true));
    world.send(&again, Next::AskPerson);
    world.turn_at(HR, &[], 0);
    assert_eq!(outcomes(world, no), [(RowOutcome::Dead, Some("unknown".into()))]);
    assert_eq!(world.states(), ["unknown for person", "parked"]);
}

pub fn a_letter_that_keeps_its_line_back_goes_first_and_does_so_again_if_refused(world: &mut World) {
    let at = taps(world, &[1, 1]);
    world.rules.on_dead = OnDead::Hold;
    let claimed = world.claim_one();
    world.send(&claimed, Next::Dead);
    for next in [Next::Dead, Next::Delivered] {
        assert_eq!(world.states(), ["dead", "parked"]);
        assert_eq!(world.claim(), []);
        make(world, Doing::Replay, letters());
        let again = world.claim_one();
        assert_eq!((again.claim.position, again.class), (at[0], Class::Live), "live taps wait behind it");
        world.send(&again, next);
    }
    assert_eq!(world.states(), ["delivered", "pending"]);
}

pub fn a_member_that_is_refused_keeps_nobody_back(world: &mut World) {
    taps(world, &[1]);
    send_all(world, &Next::Delivered);
    world.rules.on_dead = OnDead::Hold;
    let no = make(world, Doing::Replay, Filter::default());
    carry_out(world, no, &Next::Dead);
    assert_eq!(outcomes(world, no), [(RowOutcome::Dead, Some("refused".into()))]);
    let mut door = Door::new(2);
    let live = world.tap(&mut door, 1);
    assert_eq!(world.claim_one().claim.position, live);
}

fn differences(world: &mut World) -> Vec<(What, String, Option<String>)> {
    let all = DifferenceFilter { before: None, limit: 100 };
    let found = world.store().differences(&all).unwrap();
    found.into_iter().map(|one| (one.what, one.told, one.is)).collect()
}

/// The badge of card 1 was ben's all the time, they say.
fn it_was_bens(world: &mut World) {
    let when = When { from: Some(UtcMs(0)), until: None };
    let ben = Binding { when, person: Some(PersonId("ben".into())), ..super::world::binding(1, "") };
    let now = world.now;
    world.store().bind_badges(&[ben], now).unwrap();
    world.check();
}

pub fn what_was_told_otherwise_is_corrected_before_other_members(world: &mut World) {
    let at = taps(world, &[1, 3]);
    send_all(world, &Next::Delivered);
    it_was_bens(world);
    assert_eq!(differences(world), [(What::Person, "anna".into(), Some("ben".into()))]);
    let no = make(world, Doing::Replay, Filter::default());
    let claimed = world.claim();
    let classes: Vec<_> = claimed.iter().map(|one| (one.claim.position, one.class)).collect();
    assert_eq!(classes, [(at[0], Class::Corrections), (at[1], Class::Replay)]);
    assert_eq!(claimed[0].tap.person, person("ben"));
    claimed.iter().for_each(|one| world.send(one, Next::Delivered));
    world.turn_at(HR, &[], 0);
    assert_eq!((differences(world), state(world, no).counts.delivered), (vec![], 2));
}

pub fn a_correction_that_is_refused_leaves_the_difference(world: &mut World) {
    taps(world, &[1]);
    send_all(world, &Next::Delivered);
    it_was_bens(world);
    let listed = differences(world);
    let no = make(world, Doing::Replay, Filter::default());
    carry_out(world, no, &Next::Dead);
    assert_eq!(world.states(), ["dead"]);
    assert_eq!(differences(world), listed, "the destination still knows it otherwise");
    let again = make(world, Doing::Replay, letters());
    carry_out(world, again, &Next::Delivered);
    assert_eq!(differences(world), []);
}

pub fn what_cannot_be_sent_again_is_left_as_it_was_with_the_reason(world: &mut World) {
    taps(world, &[1, 2]);
    send_all(world, &Next::Delivered);
    let now = world.now;
    let taken_back = Binding {
        when: When { from: Some(UtcMs(0)), until: None },
        person: None,
        ..super::world::binding(1, "")
    };
    world.store().bind_badges(&[taken_back], now).unwrap();
    let no = make(world, Doing::Replay, Filter::default());
    world.body = Rendered::NotWanted("only in".into());
    assert_eq!(world.claim(), []);
    let nobodys = "its badge is nobody's, as far as is known now";
    let skipped = |why: &str| (RowOutcome::Skipped, Some(why.to_owned()));
    assert_eq!(outcomes(world, no), [skipped(nobodys), skipped("only in")]);
    assert_eq!(world.states(), ["delivered", "delivered"]);
    assert_eq!(state(world, no).standing, ReplayStanding::Done);
}

pub fn what_was_dealt_with_meanwhile_is_left_out(world: &mut World) {
    taps(world, &[1, 2]);
    send_all(world, &Next::Dead);
    let first = make(world, Doing::Replay, letters());
    assert!(change(world, first, ReplayChange::Pause));
    let discard = make(world, Doing::Discard, Filter { persons: vec!["ben".into()], ..letters() });
    world.turn_at(HR, &[], 0);
    assert_eq!(state(world, discard).standing, ReplayStanding::Done);
    assert!(change(world, first, ReplayChange::Resume));
    carry_out(world, first, &Next::Delivered);
    let why = "it does not wait for a person any more".to_owned();
    let expected = [(RowOutcome::Delivered, Some("delivered".into())), (RowOutcome::Skipped, Some(why))];
    assert_eq!(outcomes(world, first), expected);
    assert_eq!(world.states(), ["delivered", "discarded"]);
}

pub fn two_replays_of_the_same_end_both(world: &mut World) {
    taps(world, &[1, 1, 2]);
    send_all(world, &Next::Delivered);
    let one = make(world, Doing::Replay, Filter::default());
    let other = make(world, Doing::Replay, Filter::default());
    carry_out(world, one, &Next::Delivered);
    carry_out(world, other, &Next::Delivered);
    let counts = [one, other].map(|no| state(world, no).counts);
    assert!(counts.iter().all(|counts| counts.delivered + counts.skipped == 3), "{counts:?}");
    assert_eq!(world.states(), ["delivered", "delivered", "delivered"]);
}

pub fn nothing_begins_while_nothing_is_sent(world: &mut World) {
    taps(world, &[1]);
    send_all(world, &Next::Delivered);
    let no = make(world, Doing::Replay, Filter::default());
    let pause = deed(world, "pause");
    world.store().change_destination(HR, &crate::event_store::Change::Pause, &pause).unwrap();
    assert_eq!(world.claim(), []);
    assert_eq!(world.states(), ["delivered"], "it is what it was as long as nothing follows from it");
    world.store().change_destination(HR, &crate::event_store::Change::Resume, &pause).unwrap();
    world.rules.shadow = true;
    assert_eq!(world.claim(), []);
    assert_eq!(world.states(), ["delivered"]);
    world.rules.shadow = false;
    assert_eq!(carry_out(world, no, &Next::Delivered).len(), 1);
}

pub fn what_would_be_told_now_is_shown_without_sending_it(world: &mut World) {
    let at = taps(world, &[1, 2]);
    world.body = Rendered::Body("before".into());
    send_all(world, &Next::Delivered);
    it_was_bens(world);
    let mut seen = Vec::new();
    let filter = Filter { persons: vec!["anna".into()], ..Filter::default() };
    let matching = world.store().matching(HR, &filter, &mut |one| {
        seen.push((one.position, one.state));
        ControlFlow::Continue(())
    });
    matching.unwrap();
    assert_eq!(seen, [(at[0], DeliveryState::Delivered)]);
    let retold = world.store().retold(HR, &at).unwrap();
    assert_eq!(retold.iter().map(|one| one.body.as_deref()).collect::<Vec<_>>(), [Some("before"); 2]);
    let persons: Vec<_> = retold.into_iter().map(|one| one.tap.unwrap().person).collect();
    assert_eq!(persons, [person("ben"), person("ben")]);
    assert_eq!(world.states(), ["delivered", "delivered"]);
}
