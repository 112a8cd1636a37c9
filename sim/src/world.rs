//! One seed's world: it plans what will happen, lets it happen step by step, and has the oracle look after every step.

use cloud_ingest::delivery::{breaker, rules};
use cloud_ingest::event_store::{
    Binding, Controller, Deed, Deliveries, Directory, EventStore, NewDestination, PersonId, RecordKey, Site,
    UtcMs,
};
use tap_protocol::badge::{TokenKey, TokenKeyId};
use tap_protocol::keys::SigningKey;

use crate::bait::Bait;
use crate::broker::Broker;
use crate::dispatcher::{self, Dispatcher, LEGACY, PER_SECOND, TIMEOUT_MS};
use crate::edge::{Badge, Door};
use crate::fault::Fault;
use crate::intake::Intake;
use crate::journey::Day;
use crate::legacy::{Legacy, Reply};
use crate::net::{Client, ConnNo, Packet, Way};
use crate::oracle::Broken;
use crate::stage::{DispatchEvent, Event, Stage};
use crate::tally::Tally;
use crate::vault::Vault;

/// Badges in the world.
pub const BADGES: usize = 20;

/// Of these, so many are bound late.
const UNBOUND: usize = 6;

/// Several badges may be one person's.
const PERSONS: usize = 14;

/// Invariant 10: beyond the backlog, so much time may pass after healing …
const PATIENCE_MS: u64 = 5 * 60_000;

/// … and one request and one lease that were under way when everything healed.
const UNDER_WAY_MS: u64 = TIMEOUT_MS + rules::LEASE_MS + breaker::DENIED_OPEN_MS;

/// After everything is whole again, a card and its copy take turns this often while there is something to do.
const TWINS_TURN_MS: u64 = 120_000;

/// Deliveries a second, at the slowest, of a healthy legacy API.
const RATE_PER_SECOND: u64 = PER_SECOND as u64;

/// All accepted taps are looked for at least this often, in steps.
const LOOK_FOR_ALL_EVERY: u64 = 1_000;

/// That is asked of the store, after so many steps: what is said of it stays said.
const LOOK_AT_WHAT_IS_COMPLETE_EVERY: u64 = 16;

/// A run that takes more steps than this has lost its way.
const MAX_STEPS: u64 = 2_000_000;

/// How one seed is run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Run {
    /// The seed.
    pub seed: u64,
    /// A planted bug.
    pub bait: Option<Bait>,
    /// Write every line of the trace to standard output.
    pub print: bool,
}

/// How one seed ended.
#[derive(Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Steps taken.
    pub steps: u64,
    /// Virtual time passed.
    pub virtual_ms: u64,
    /// The trace's hash.
    pub trace_hash: u64,
    /// What was exercised.
    pub tally: Tally,
    /// What was broken, if anything.
    pub violation: Option<Violation>,
}

/// A broken promise.
#[derive(Debug)]
pub struct Violation {
    /// What.
    pub broken: Broken,
    /// In which step.
    pub step: u64,
    /// At which virtual time.
    pub at_ms: u64,
    /// The last lines of the trace.
    pub tail: Vec<String>,
}

/// The world.
pub struct World {
    /// What all share.
    pub stage: Stage,
    /// The doors.
    pub doors: Vec<Door>,
    /// The broker.
    pub broker: Broker,
    /// The intake.
    pub intake: Intake,
    /// The store.
    pub vault: Vault,
    /// The dispatchers.
    pub dispatchers: Vec<Dispatcher>,
    /// The legacy API.
    pub legacy: Legacy,
    /// The doors prune what is receipted, so the store must not be put back.
    pub has_pruned: bool,
    badges: Vec<Badge>,
    bound: Vec<bool>,
    /// If the destination wants order across controllers.
    day: Option<Day>,
    healed: Option<(u64, u64)>,
    /// Everything was done once; a day has passed since.
    rested: bool,
    done: bool,
}

/// Runs one seed to its end, or to the first broken promise.
pub fn run(run: Run) -> Outcome {
    let mut world = World::new(run);
    let mut steps = 0;
    while !world.done
        && world.stage.oracle.broken.is_none()
        && let Some(event) = world.stage.next_event()
    {
        steps += 1;
        world.step(event);
        world.look_around(steps);
    }
    world.end(run.seed, steps)
}

impl World {
    fn new(run: Run) -> World {
        let mut stage = Stage::new(run.seed, run.bait, run.print);
        let dice = &mut stage.dice;
        let receipt_key = SigningKey::from_seed(&dice.bytes());
        let keeps_all = dice.percent(70);
        let keep_receipted = if keeps_all { 100_000 } else { dice.between(2, 20) };
        let day = Day::of(run.seed);
        let across_ms = day.as_ref().map(|day| day.longest_ms);
        // Nobody walks from one door to itself.
        let door_count = dice.between(1, 4).max(if day.is_some() { 2 } else { 1 }) as usize;
        let doors: Vec<Door> =
            (0..door_count).map(|no| Door::new(no, dice, receipt_key.public(), keep_receipted)).collect();
        let token_key = TokenKey::new(TokenKeyId(1), [0x42; 32]);
        let badge = |no: usize| {
            let credential = format!("04A224B1C2D3{no:02X}").parse().expect("it is a card number");
            Badge { sealed: token_key.seal(&credential), credential }
        };
        stage.oracle.in_order_of_time(across_ms);
        if day.is_some() {
            stage.tally.count("days in the order of time");
        }
        let mut world = World {
            vault: Vault::new(stage.utc()),
            stage,
            doors,
            broker: Broker::new(),
            intake: Intake::new(receipt_key),
            dispatchers: Dispatcher::all(across_ms),
            legacy: Legacy::default(),
            has_pruned: !keeps_all,
            badges: (0..BADGES).map(badge).collect(),
            bound: vec![false; BADGES],
            day,
            healed: None,
            rested: false,
            done: false,
        };
        world.furnish();
        world.plan();
        world
    }

    /// What stands in the store before the first tap.
    fn furnish(&mut self) {
        let store = &mut self.vault.store;
        let site = Site { id: "hq".into(), label: "Headquarters".into(), zone: "UTC".into() };
        store.put_site(&site).expect("an empty store takes a site");
        for door in &self.doors {
            let id = door.machine.id.clone();
            let record_keys = vec![RecordKey::new(door.machine.key.public())];
            let controller = Controller { id, label: "Door".into(), site: "hq".into(), record_keys };
            store.put_controller(&controller).expect("its site is known");
        }
        let destination = NewDestination::from_now(LEGACY, &dispatcher::settings());
        let deed = Deed::by_itself(UtcMs(0), "add", LEGACY);
        store.add_destination(&destination, &deed).expect("a store takes a destination");
        (UNBOUND..BADGES).for_each(|badge| self.bind(badge));
    }

    /// What will happen, as far as that can be known: starts, taps, faults, healing.
    fn plan(&mut self) {
        let stage = &mut self.stage;
        let (taps, faults) = (stage.dice.between(60, 160), stage.dice.between(8, 24));
        let chaos_ms = stage.dice.between(3 * 60_000, 12 * 60_000);
        self.intake.start(stage, 0);
        self.dispatchers.iter_mut().for_each(|one| one.start(stage, 0));
        for door in &mut self.doors {
            let in_ms = stage.dice.below(3_000);
            door.start(stage, in_ms);
        }
        let (mut planned, mut busy) = (0, Vec::new());
        while planned < taps {
            // People come in crowds.
            let crowd = stage.dice.between(1, 12);
            let crowd_ms = stage.dice.below(chaos_ms);
            let door = stage.dice.below(self.doors.len() as u64) as usize;
            for _ in 0..crowd {
                let at_ms = crowd_ms + stage.dice.below(4_000);
                let badge = stage.dice.below(BADGES as u64) as usize;
                let inwards = stage.dice.percent(50);
                stage.at(at_ms, Event::Card { door, badge, inwards });
                busy.push(at_ms);
                if stage.dice.percent(15) {
                    // Held to the reader for longer.
                    stage.at(at_ms + 400, Event::Card { door, badge, inwards });
                }
                planned += 1;
            }
        }
        // A backup is there before it is needed.
        if stage.dice.percent(60) {
            let at_ms = stage.dice.below(chaos_ms / 2);
            for _ in 0..self.doors.len() {
                stage.at(at_ms, Event::Fault(Fault::BackupTaken));
            }
        }
        for _ in 0..faults {
            // Half of it comes while there are people at the doors: what is under way then is what can be lost.
            let at_ms = match stage.dice.percent(50) {
                true => *stage.dice.pick(&busy) + stage.dice.below(50),
                false => stage.dice.below(chaos_ms),
            };
            let fault = *stage.dice.pick(&Fault::ALL);
            stage.at(at_ms, Event::Fault(fault));
        }
        if let Some(day) = &mut self.day {
            day.plan(stage, self.doors.len(), chaos_ms);
        }
        stage.at(chaos_ms + 5_000, Event::Heal);
    }

    fn step(&mut self, event: Event) {
        let stage = &mut self.stage;
        match event {
            Event::Card { door, badge, inwards } => {
                stage.tally.count("cards shown");
                self.doors[door].card(stage, &self.badges[badge], inwards);
                stage.oracle.look_at_door(&self.doors[door]);
            }
            Event::Door { door, run, what } => {
                self.doors[door].handle(stage, run, what);
                stage.oracle.look_at_door(&self.doors[door]);
            }
            Event::Packet(conn, way, packet) => self.packet(conn, way, packet),
            Event::ClientNotices(conn) => self.client_notices(conn, false),
            Event::GivesUp(conn) => self.client_notices(conn, true),
            Event::BrokerNotices(conn) => self.broker.notices(stage, conn),
            Event::BrokerUp => self.broker.up = true,
            Event::Intake(run, what) => {
                if self.intake.handle(stage, &mut self.vault, run, what) {
                    self.dispatchers.iter_mut().for_each(|one| one.wake(stage));
                }
            }
            Event::Dispatch(run, what) => {
                if let Some(one) = self.dispatchers.iter_mut().find(|one| one.run == run) {
                    one.handle(stage, &mut self.vault, run, what);
                }
            }
            Event::Request { run, call, key } => self.request(run, call, &key),
            Event::PowerBlip { door, dark_ms } => {
                let door = &mut self.doors[door];
                door.die(stage);
                door.machine.reboot(stage, dark_ms);
                door.start(stage, dark_ms);
            }
            Event::TwinsTurn { door } => self.doors[door].takes_turns(stage),
            Event::DoorAway { door, for_ms } => {
                stage
                    .say(format_args!("door {}", door + 1), format_args!("is away for {} s", for_ms / 1_000));
                let client = Client::Door(door);
                stage.shut_out(client, for_ms);
                self.broker.conn(client).into_iter().for_each(|conn| stage.cut(conn, 1_000));
            }
            Event::Fault(fault) => self.strike(fault),
            Event::Heal => {
                self.heal();
                let backlog = self.backlog();
                self.healed = Some((self.stage.now_ms, backlog));
                self.stage.after(1_000, Event::Look);
            }
            Event::Look => self.look_whether_all_is_done(),
        }
    }

    fn packet(&mut self, conn: ConnNo, way: Way, packet: Packet) {
        let stage = &mut self.stage;
        if !stage.net.is_open(conn, way) {
            return;
        }
        match (way, stage.net.client(conn)) {
            (Way::Up, _) => self.broker.packet(stage, conn, packet),
            (Way::Down, Client::Cloud) => self.intake.packet(stage, conn, packet),
            (Way::Down, Client::Door(door)) => {
                self.doors[door].packet(stage, conn, packet);
                stage.oracle.look_at_door(&self.doors[door]);
            }
        }
    }

    fn client_notices(&mut self, conn: ConnNo, unanswered: bool) {
        let stage = &mut self.stage;
        match stage.net.client(conn) {
            Client::Cloud => self.intake.notices(stage, conn, unanswered),
            Client::Door(door) => self.doors[door].notices(stage, conn, unanswered),
        }
    }

    fn request(&mut self, run: u32, call: u64, key: &str) {
        let stage = &mut self.stage;
        let reply = self.legacy.request(key, stage.now_ms, &mut stage.dice);
        stage.oracle.the_receiver_counts_no_more_than_was_promised(self.legacy.within_a_minute());
        let (delay_ms, what) = match reply {
            Reply::Answer(status, retry_after_s, body, after_ms) => {
                (after_ms, DispatchEvent::Answer(call, status, retry_after_s, body))
            }
            Reply::Silence => return,
            Reply::Refused => (1, DispatchEvent::Unreachable(call)),
            Reply::Broken => (50, DispatchEvent::BrokenOff(call)),
        };
        stage.after(delay_ms, Event::Dispatch(run, what));
    }

    /// After every step.
    fn look_around(&mut self, steps: u64) {
        let stage = &mut self.stage;
        if std::mem::take(&mut self.vault.touched) {
            stage.oracle.look_at_store(&mut self.vault.store, stage.now_ms);
        }
        if steps.is_multiple_of(LOOK_AT_WHAT_IS_COMPLETE_EVERY) {
            stage.oracle.what_is_complete_is_stored(&mut self.vault.store, &self.doors);
        }
        stage.oracle.what_goes_in_time_has_nobody_before_it(&self.doors);
        if stage.oracle.look_for_all || steps.is_multiple_of(LOOK_FOR_ALL_EVERY) {
            stage.oracle.nothing_accepted_is_lost(&self.doors);
        }
        let intake = self.intake.waiting();
        stage.oracle.every_queue_is_bounded("the intake's inbox", intake, cloud_ingest::intake::MAX_WAITING);
        for one in &self.dispatchers {
            stage.oracle.every_queue_is_bounded("calls", one.under_way(), Dispatcher::slots());
        }
        if steps >= MAX_STEPS {
            stage.oracle.every_run_ends(steps);
        }
    }

    fn look_whether_all_is_done(&mut self) {
        let Some((healed_ms, backlog)) = self.healed else { return };
        let stage = &mut self.stage;
        // A day on the cloud's clock: whoever still has no time by then keeps nobody waiting.
        self.dispatchers.iter_mut().for_each(|one| one.a_day_passes = self.rested);
        let left = stage.oracle.what_is_left(&mut self.vault.store, &self.doors, self.rested);
        let since_ms = stage.now_ms - healed_ms;
        let mut allowed_ms = backlog * 1_000 / RATE_PER_SECOND + PATIENCE_MS + UNDER_WAY_MS;
        // What is on a copied card is sent when its turn comes.
        for door in self.doors.iter_mut().filter(|door| door.machine.twin.is_some()) {
            allowed_ms += 2 * TWINS_TURN_MS + PATIENCE_MS;
            if left.is_some() && (since_ms / 1_000).is_multiple_of(TWINS_TURN_MS / 1_000) {
                door.takes_turns(stage);
            }
        }
        match left {
            None if !self.rested => {
                self.rested = true;
                stage.after(1_000, Event::Look);
            }
            None => {
                stage.tally.at_least("longest time from healing to rest, seconds", since_ms / 1_000);
                self.done = true;
            }
            Some(what) if since_ms > allowed_ms => stage.oracle.everything_is_done_in_time(&what, since_ms),
            Some(_) => stage.after(1_000, Event::Look),
        }
    }

    /// Taps and deliveries that are still to be done.
    fn backlog(&mut self) -> u64 {
        let disks = self.doors.iter().flat_map(|door| door.machine.disks()).flat_map(|disk| &disk.outboxes);
        let unreceipted: u64 = disks.map(|outbox| outbox.last().0.0 - outbox.mark.receipted_through.0).sum();
        let counts = self.vault.store.delivery_counts().unwrap_or_default();
        let open: u64 = counts.iter().filter(|count| count.state.is_open()).map(|count| count.count).sum();
        unreceipted + open + self.members_waiting()
    }

    fn end(mut self, seed: u64, steps: u64) -> Outcome {
        if self.stage.oracle.broken.is_none() {
            self.stage.oracle.nothing_accepted_is_lost(&self.doors);
            let (store, tally) = (&mut self.vault.store, &mut self.stage.tally);
            self.stage.oracle.the_ledger_balances(store, &self.legacy, tally);
        }
        let Stage { oracle, trace, tally, now_ms, .. } = self.stage;
        let trace_hash = trace.hash();
        let violation = oracle.broken.map(|broken| Violation {
            broken,
            step: steps,
            at_ms: now_ms,
            tail: trace.into_tail(),
        });
        Outcome { seed, steps, virtual_ms: now_ms, trace_hash, tally, violation }
    }

    // Badges.

    /// Binds the first unbound badge; says whether there was one.
    pub fn bind_one_unbound(&mut self) -> bool {
        let Some(badge) = self.bound.iter().position(|bound| !bound) else { return false };
        self.bind(badge);
        true
    }

    /// After the store was put back, the directory is imported again.
    pub fn bind_again(&mut self) {
        let bound: Vec<usize> = (0..BADGES).filter(|badge| self.bound[*badge]).collect();
        bound.into_iter().for_each(|badge| self.bind(badge));
    }

    fn bind(&mut self, badge: usize) {
        self.bound[badge] = true;
        let sealed = self.badges[badge].sealed.clone();
        let token = sealed.token;
        let person = PersonId(format!("E-{}", badge % PERSONS));
        let stage = &mut self.stage;
        stage.say(format_args!("directory"), format_args!("badge {badge} is {}'s", person.0));
        let binding = Binding::new(vec![sealed], person.clone());
        let bound = self.vault.store.bind_badges(&[binding], stage.utc()).expect("it never fails");
        stage.tally.add("deliveries released by a binding", bound.released as u64);
        stage.oracle.bound(token, person, stage.now_ms);
        self.vault.touched = true;
        self.dispatchers.iter_mut().for_each(|one| one.wake(stage));
    }
}
