//! Records that nobody could read when they came, and a later program reads.

use tap_protocol::record::ClockState;

use super::InMemory;
use super::world::{Door, HR, World};
use crate::event_store::meaning::blindfold;
use crate::event_store::rereading::{Portion, Reread};
use crate::event_store::{Deed, EventFilter, EventRow, NewDestination, Next, Position, Since};

impl World {
    /// Reads everything anew that can be read, so many records at once.
    pub fn read_anew(&mut self, room: usize) -> Portion {
        let mut all = Portion::default();
        loop {
            let now = self.now;
            all = all.and(self.store().read_anew(room, now).unwrap());
            self.check();
            if !all.more {
                return all;
            }
        }
    }

    fn rereading(&mut self) -> Reread {
        self.store().rereading().unwrap()
    }
}

/// What everybody sees of an event, but for the class of its deliveries.
fn seen(row: &EventRow) -> String {
    let tap = row.tap.as_ref().map(|tap| {
        let deliveries = tap.deliveries.iter().map(|delivery| {
            let person = delivery.person.as_ref().map(|person| &person.0);
            format!(
                "{} {} {:?} {person:?} due {:?} behind {:?}",
                delivery.destination,
                delivery.state,
                delivery.held_for,
                delivery.next_attempt,
                delivery.behind
            )
        });
        format!("at {:?}: {:?}", tap.occurred, deliveries.collect::<Vec<_>>())
    });
    format!("{} {} {} {tap:?}", row.position.0, row.event_id, row.kind)
}

/// A morning at three doors: clocks that are right and wrong, boots, two outboxes of one boot, badges of nobody. It is dark
/// for so long between boots that nobody estimates a time before it is known, which would be told for good.
fn a_morning(world: &mut World) {
    world.bind(&[(1, "anna"), (2, "ben")]);
    let [mut one, mut two, mut three] = [1, 2, 3].map(Door::new);
    one.start(11, ClockState::Synced);
    [1, 2, 1, 9].into_iter().for_each(|card| one.tap(card));
    world.store_all_of(&mut one);
    two.start(21, ClockState::Synced);
    two.tap(2);
    two.reboot(200_000, 22, ClockState::Unsynced);
    two.unsynced_tap(1);
    world.store_all_of(&mut two);
    let mut beside = two.new_outbox(92);
    beside.start(22, ClockState::Unsynced);
    beside.unsynced_tap(2);
    beside.anchor();
    world.store_all_of(&mut beside);
    two.boottime_ms = beside.boottime_ms;
    two.reboot(300_000, 23, ClockState::Unsynced);
    two.unsynced_tap(9);
    two.anchor();
    two.unsynced_tap(1);
    world.store_all_of(&mut two);
    three.start(31, ClockState::Unsynced);
    three.unsynced_tap(1);
    three.buffer_high();
    three.unsynced_tap(2);
    world.store_all_of(&mut three);
    one.tap(2);
    world.store_all_of(&mut one);
}

/// A program that does not know these kinds stores a morning, and one that does reads it anew: it is as if they had been
/// known at once.
#[track_caller]
fn is_as_if_known_at_once(world: &mut World, hidden: &[&'static str], room: usize) {
    let mut reference = World::new(Box::new(InMemory::new()));
    a_morning(&mut reference);
    let blindfold = blindfold::wear(hidden);
    a_morning(world);
    let unread = world.rereading().unreadable;
    assert!(unread > 1, "{unread}");
    assert_eq!(world.read_anew(room), Portion::default(), "this program cannot");
    drop(blindfold);
    world.restart();
    let read = world.read_anew(room);
    assert_eq!((read.read as u64, read.unreadable), (unread, 0));
    for (is, should_be) in world.events().iter().zip(&reference.events()) {
        assert_eq!(seen(is), seen(should_be));
    }
    assert_eq!(world.store().totals().unwrap(), reference.store().totals().unwrap());
    assert_eq!(world.rereading(), Reread { unreadable: 0, read_later: unread, to_look_through: 0 });
    assert_eq!(world.read_anew(room), Portion::default(), "once");
}

pub fn taps_that_nobody_could_read_are_delivered_in_their_places_and_once(world: &mut World) {
    is_as_if_known_at_once(world, &["tap"], 2);
}

pub fn anchors_that_nobody_could_read_tell_the_time_of_what_waits_for_it(world: &mut World) {
    is_as_if_known_at_once(world, &["clock_anchor"], 1);
}

pub fn starts_that_nobody_could_read_say_which_boot_is_which(world: &mut World) {
    is_as_if_known_at_once(world, &["agent_started"], 100);
}

pub fn a_controller_of_which_nothing_could_be_read_is_read_as_a_whole(world: &mut World) {
    is_as_if_known_at_once(world, &["tap", "clock_anchor", "agent_started"], 3);
}

pub fn what_was_sent_meanwhile_stays_and_the_late_one_goes_before_what_waits(world: &mut World) {
    world.bind(&[(1, "anna")]);
    let mut door = Door::new(1);
    let blindfold = blindfold::wear(&["tap"]);
    let late = world.tap(&mut door, 1);
    drop(blindfold);
    let [sent, waiting] = [(); 2].map(|()| world.tap(&mut door, 1));
    let claimed = world.claim_one();
    assert_eq!(claimed.claim.position, sent);
    assert_eq!(world.row(late).kind, "opaque");
    world.read_anew(9);
    world.send(&claimed, Next::Delivered);
    assert_eq!(world.states(), ["pending", "delivered", "parked"]);
    assert_eq!(world.delivery(waiting).behind, Some(world.row(late).event_id));
    let claimed = world.claim_one();
    assert_eq!((claimed.claim.position, claimed.event_id), (late, door.event_id(1)));
    assert_eq!(world.detail(late).reread, Some(world.now));
    assert_eq!(world.detail(sent).reread, None);
    let taps_only = EventFilter { taps_only: true, limit: 9, ..EventFilter::default() };
    assert_eq!(world.store().events(&taps_only).unwrap().len(), 3, "a list of taps has it, too");
}

pub fn late_ones_are_told_to_whoever_would_have_been_told_at_once(world: &mut World) {
    world.bind(&[(1, "anna")]);
    let mut door = Door::new(1);
    let blindfold = blindfold::wear(&["tap"]);
    let late = world.tap(&mut door, 1);
    for (name, from) in [("from-now", Since::Now), ("from-the-beginning", Since::Beginning)] {
        let new = NewDestination { from, ..NewDestination::from_now(name, "{}") };
        let deed = Deed::by_itself(world.now, "add", name);
        assert!(world.store().add_destination(&new, &deed).unwrap());
    }
    // One has been told of all that was there: it does not come by again.
    while world.turn_at("from-the-beginning", &[], 0).more {}
    drop(blindfold);
    world.read_anew(9);
    let told = world.row(late).tap.unwrap().deliveries;
    let told: Vec<&str> = told.iter().map(|delivery| delivery.destination.as_str()).collect();
    assert_eq!(told, [HR, "from-the-beginning"]);
}

pub fn what_no_program_can_read_is_tried_once_by_each(world: &mut World) {
    let mut door = Door::new(1);
    door.raw(&[2, 0, 0]);
    let blindfold = blindfold::wear(&["tap"]);
    door.tap(1);
    world.store_all_of(&mut door);
    drop(blindfold);
    assert_eq!(world.read_anew(1), Portion { read: 1, taps: 1, unreadable: 1, more: false });
    assert_eq!(world.rereading(), Reread { unreadable: 1, read_later: 1, to_look_through: 0 });
    assert_eq!(world.read_anew(1), Portion::default());
    assert_eq!(world.row(Position(1)).kind, "opaque");
}
