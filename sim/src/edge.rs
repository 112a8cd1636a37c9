//! A door: hardware, disk and the agent's process, which may come and go. What the disk's medium holds survives the
//! process; what the hardware knows of time does not survive a reboot. It knows nothing of what the cloud has.

use edge_agent::now::Now;
use edge_agent::outbox::worker::OutboxView;
use edge_agent::relay::Mark;
use edge_agent::settlement::{How, Settled};
use tap_protocol::badge::{Credential, SealedBadge};
use tap_protocol::chain;
use tap_protocol::ids::{BootId, ControllerId, OutboxId, Seq};
use tap_protocol::keys::{PublicKey, SigningKey};
use tap_protocol::record::{Body, ClockState, PreviousStop, Record};

use self::agent::{Agent, InHand};
use crate::bait::Bait;
use crate::disk::{Disk, TapNo};
use crate::net::{ConnNo, Packet};
use crate::stage::{DoorEvent, Event, Job, Stage};

mod agent;

pub use self::agent::Pending;

/// A badge of the world.
#[derive(Debug)]
pub struct Badge {
    /// What the card gives.
    pub credential: Credential,
    /// As it is recorded.
    pub sealed: SealedBadge,
}

/// A door and everything at it.
pub struct Door {
    /// All but the process.
    pub machine: Machine,
    agent: Option<Agent>,
}

/// Hardware and disk: what outlives the process.
pub struct Machine {
    /// Its number.
    pub no: usize,
    /// Its name.
    pub id: ControllerId,
    /// Its record key.
    pub key: SigningKey,
    /// Its disk.
    pub disk: Disk,
    /// A copy of the disk.
    pub backup: Option<Disk>,
    /// Another machine's card, copied from this one's: they take turns, as a broker that knows one client makes them.
    pub twin: Option<Disk>,
    /// Which run of the process; events for another run go nowhere.
    pub run: u32,
    /// Which boot.
    pub boot_id: BootId,
    /// Appends fail until then.
    pub disk_full_until_ms: u64,
    /// Commits are slow until then.
    pub disk_slow_until_ms: u64,
    /// At the next start the disk is in another machine.
    pub moved: bool,
    receipt_key: PublicKey,
    booted_at_ms: u64,
    drift_ppm: i64,
    wall_error_ms: i64,
    /// The wall clock stands still at this.
    frozen_ms: Option<i64>,
    clock: ClockState,
    keep_receipted: u64,
    /// The outbox in which this run's start is written, and this boot's number there.
    started: Option<(OutboxId, u32)>,
}

impl Door {
    /// A door that is switched on at `booted_at_ms`.
    pub fn new(no: usize, seed: &mut crate::dice::Dice, receipt_key: PublicKey, keep_receipted: u64) -> Door {
        let synced = seed.percent(50);
        let machine = Machine {
            no,
            id: crate::broker::door_name(no).parse().expect("it is a slug"),
            key: SigningKey::from_seed(&seed.bytes()),
            disk: Disk::default(),
            backup: None,
            twin: None,
            run: 0,
            boot_id: BootId(seed.bytes()),
            disk_full_until_ms: 0,
            disk_slow_until_ms: 0,
            moved: false,
            receipt_key,
            booted_at_ms: 0,
            drift_ppm: seed.between(0, 160) as i64 - 80,
            wall_error_ms: if synced { 0 } else { -3_600_000 },
            frozen_ms: None,
            clock: if synced { ClockState::Synced } else { ClockState::Unsynced },
            keep_receipted,
            started: None,
        };
        Door { machine, agent: None }
    }

    /// A card at the reader.
    pub fn card(&mut self, stage: &mut Stage, badge: &Badge, inwards: bool) {
        let Some(agent) = &mut self.agent else {
            stage.tally.count("cards shown to a dead door");
            return;
        };
        agent.card(&mut self.machine, stage, badge, inwards);
        agent.after_all(&mut self.machine, stage);
    }

    /// Something happens to the process.
    pub fn handle(&mut self, stage: &mut Stage, run: u32, what: DoorEvent) {
        let machine = &mut self.machine;
        if run != machine.run {
            return;
        }
        if let DoorEvent::Start = what {
            self.agent = Some(Agent::start(machine, stage));
        }
        let Some(agent) = &mut self.agent else { return };
        match what {
            DoorEvent::Start => {}
            // An earlier tick was planned meanwhile, and has planned the next one.
            DoorEvent::Wake if agent.next_wake_ms.is_some_and(|planned_ms| stage.now_ms < planned_ms) => {
                return;
            }
            DoorEvent::Wake => {
                stage.oracle.door_woke(machine.no, stage.now_ms);
                agent.tick(machine, stage);
            }
            DoorEvent::DiskDone => agent.disk_done(machine, stage),
            DoorEvent::Connect => agent.connect(machine, stage),
        }
        agent.after_all(machine, stage);
    }

    /// A packet for this door.
    pub fn packet(&mut self, stage: &mut Stage, conn: ConnNo, packet: Packet) {
        let Some(agent) = &mut self.agent else { return };
        agent.packet(&mut self.machine, stage, conn, packet);
        agent.after_all(&mut self.machine, stage);
    }

    /// The connection is gone, or (`unanswered`) was never answered.
    pub fn notices(&mut self, stage: &mut Stage, conn: ConnNo, unanswered: bool) {
        let Some(agent) = &mut self.agent else { return };
        let is_up = agent.session.as_ref().is_some_and(|session| session.conn == conn);
        if agent.connecting == Some(conn) || (is_up && !unanswered) {
            agent.link_down(&self.machine, stage);
            agent.after_all(&mut self.machine, stage);
        }
    }

    /// The process dies. What was being committed may be on the medium or not.
    pub fn die(&mut self, stage: &mut Stage) {
        let machine = &mut self.machine;
        machine.run += 1;
        machine.disk.crash();
        let Some(mut agent) = self.agent.take() else { return };
        let in_hand = std::mem::replace(&mut agent.in_hand, InHand::Nothing);
        if let InHand::Commit(group) = in_hand {
            if stage.dice.percent(50) && stage.now_ms >= machine.disk_full_until_ms {
                machine.commit(stage, &group);
                stage.tally.count("commits that nobody was told of");
            } else {
                group
                    .iter()
                    .filter_map(|pending| pending.tap)
                    .for_each(|(tap, _)| stage.oracle.interrupted(tap));
            }
        }
        for job in agent.jobs {
            if let Job::Append(Pending { tap: Some((tap, _)), .. }) = job {
                stage.oracle.interrupted(tap);
            }
        }
        let conn = agent.session.map(|session| session.conn).or(agent.connecting);
        if let Some(conn) = conn {
            stage.cut(conn, 500);
        }
    }

    /// The other card's machine comes instead of this one; at the first time the card is copied.
    pub fn takes_turns(&mut self, stage: &mut Stage) {
        let back_in_ms = stage.dice.between(1_000, 10_000);
        self.die(stage);
        let machine = &mut self.machine;
        let twin = machine.twin.take().unwrap_or_else(|| machine.disk.medium());
        machine.twin = Some(std::mem::replace(&mut machine.disk, twin));
        machine.reboot(stage, back_in_ms);
        self.start(stage, back_in_ms);
    }

    /// Starts the process.
    pub fn start(&mut self, stage: &mut Stage, in_ms: u64) {
        let (door, run) = (self.machine.no, self.machine.run);
        stage.after(in_ms, Event::Door { door, run, what: DoorEvent::Start });
    }

    /// Whether the process runs.
    pub fn is_up(&self) -> bool {
        self.agent.is_some()
    }

    /// How many jobs wait for the disk.
    pub fn waiting_jobs(&self) -> usize {
        self.agent.as_ref().map_or(0, |agent| agent.jobs.len())
    }
}

impl Machine {
    /// Another boot begins now: boottime starts from zero, and a Pi has no clock of its own.
    pub fn reboot(&mut self, stage: &mut Stage, in_ms: u64) {
        self.boot_id = BootId(stage.dice.bytes());
        self.booted_at_ms = stage.now_ms + in_ms;
        let error_ms = *stage.dice.pick(&[0, -60_000, -600_000, -86_400_000]);
        self.set_clock(error_ms, ClockState::Unsynced);
    }

    /// Somebody, or something, sets the wall clock off by so much.
    pub fn set_clock(&mut self, error_ms: i64, clock: ClockState) {
        (self.wall_error_ms, self.clock) = (error_ms, clock);
        self.frozen_ms = None;
    }

    /// Sets the wall clock to 1970.
    pub fn set_clock_to_1970(&mut self, stage: &Stage) {
        self.set_clock(-stage.utc().0, ClockState::Unsynced);
    }

    /// The wall clock stops where it is.
    pub fn freeze_clock(&mut self, stage: &Stage) {
        self.frozen_ms = Some(stage.utc().0 + self.wall_error_ms);
        self.clock = ClockState::Unsynced;
    }

    /// How far the wall clock is off.
    pub fn clock_error_ms(&self) -> i64 {
        self.wall_error_ms
    }

    /// All cards that are somewhere.
    pub fn disks(&self) -> impl Iterator<Item = &Disk> {
        [&self.disk].into_iter().chain(&self.twin)
    }

    fn now(&self, stage: &Stage) -> Now {
        let since_boot_ms = stage.now_ms.saturating_sub(self.booted_at_ms) as i64;
        let boottime_ms = (since_boot_ms + since_boot_ms * self.drift_ppm / 1_000_000).unsigned_abs();
        let wall_ms = self.frozen_ms.unwrap_or(stage.utc().0 + self.wall_error_ms);
        Now { boottime_ms, wall_ms, clock: self.clock }
    }

    /// Appends in one commit and tells the oracle.
    fn append(&mut self, stage: &mut Stage, records: Vec<(Vec<u8>, Option<TapNo>)>) -> Seq {
        let newest = self.disk.newest();
        let first = newest.append(records.clone());
        for (n, (bytes, tap)) in records.into_iter().enumerate() {
            stage.oracle.committed(self.no, newest.id, first.plus(n as u64), bytes, tap);
        }
        first
    }

    /// As `Worker::commit`, which writes down the start first where that could not be done at the start.
    fn commit(&mut self, stage: &mut Stage, group: &[Pending]) -> Seq {
        let newest = self.disk.newest().id;
        let boot = match (self.started, group.first()) {
            (Some((outbox, boot)), _) if outbox == newest => boot,
            (_, Some(first)) => self.begin_run(stage, first.now),
            (_, None) => unreachable!("a group has a record"),
        };
        let encode = |pending: &Pending| {
            let record = Record { at: pending.now.stamp(boot), body: pending.body.clone() };
            (record.encode(), pending.tap.map(|(tap, _)| tap))
        };
        self.append(stage, group.iter().map(encode).collect())
    }

    /// As `Worker::begin_run`: the first record of every run. Gives this boot's number in the newest outbox.
    fn begin_run(&mut self, stage: &mut Stage, now: Now) -> u32 {
        let newest = self.disk.newest();
        let boot = newest.boot_number(self.boot_id);
        let previous_stop = match (newest.last().0, newest.stopped_cleanly) {
            (Seq::ZERO, _) => PreviousStop::None,
            (_, true) => PreviousStop::Clean,
            (_, false) => PreviousStop::Unclean,
        };
        newest.stopped_cleanly = false;
        self.started = Some((newest.id, boot));
        let start = self.start_record(now, boot, previous_stop);
        self.append(stage, vec![start]);
        boot
    }

    /// As `Keeper::start_new`: all of it in one commit, or nothing. Whether it was done.
    fn leave(&mut self, stage: &mut Stage, settled: &Settled, at: Now) -> bool {
        let Settled { outbox: old, mut after, how } = *settled;
        if self.is_full(stage) {
            return false;
        }
        let Some(outbox) = self.disk.outboxes.iter().find(|outbox| outbox.id == old) else { return true };
        let Some(last) = self.disk.says_through(outbox) else { return true };
        if stage.has(Bait::SaysAgainFromTheMark) {
            after = after.min(outbox.mark.receipted_through);
        }
        let next = outbox.hash_at(after.next()).filter(|_| after < last);
        let is_written = self.disk.newest().id == old;
        if let (How::Exact(epoch), Some(outbox)) = (how, self.disk.find(old)) {
            outbox.mark = Mark { receipted_through: after, store_epoch: Some(epoch) };
        }
        match next {
            Some(next) => {
                let id = chain::continued(old, after, next);
                let is_taken = self.disk.find(id).is_some();
                let id = if is_taken { OutboxId(stage.dice.bytes()) } else { id };
                self.new_outbox(stage, id);
                let (mut records, said) = self.disk.say_again(old, after, last);
                let boot = self.disk.newest().boot_number(self.boot_id);
                self.started = Some((id, boot));
                stage.tally.add("records said again in a new outbox", records.len() as u64);
                records.iter().filter_map(|(_, tap)| *tap).for_each(|tap| stage.oracle.said_again(tap));
                if !said.has_named(boot) {
                    records.push(self.start_record(at, boot, PreviousStop::None));
                }
                self.append(stage, records);
            }
            None if is_written => {
                self.mint_outbox(stage);
                self.begin_run(stage, at);
            }
            None => {}
        }
        true
    }

    fn start_record(&self, at: Now, boot: u32, previous_stop: PreviousStop) -> (Vec<u8>, Option<TapNo>) {
        let body = Body::AgentStarted { boot_id: self.boot_id, version: "sim".into(), previous_stop };
        (Record { at: at.stamp(boot), body }.encode(), None)
    }

    fn is_full(&self, stage: &Stage) -> bool {
        stage.now_ms < self.disk_full_until_ms
    }

    fn mint_outbox(&mut self, stage: &mut Stage) {
        let id = OutboxId(stage.dice.bytes());
        self.new_outbox(stage, id);
    }

    fn new_outbox(&mut self, stage: &mut Stage, id: OutboxId) {
        stage.tally.count("outboxes");
        stage.say(format_args!("door {}", self.no + 1), format_args!("starts outbox {}", short(id)));
        self.disk.start_new(id);
    }

    fn views(&self) -> Vec<OutboxView> {
        let view = |outbox: &crate::disk::DiskOutbox| {
            let says_through = self.disk.says_through(outbox);
            OutboxView {
                id: outbox.id,
                last_seq: says_through.unwrap_or(outbox.last().0),
                mark: outbox.mark,
                pruned_through: outbox.pruned_through(),
                is_settled: self.disk.is_settled(outbox.id),
                is_retired: says_through.is_none(),
                is_sound: true,
            }
        };
        self.disk.outboxes.iter().map(view).collect()
    }
}

impl Machine {
    fn plan(&self, stage: &mut Stage, delay_ms: u64, what: DoorEvent) {
        stage.after(delay_ms, Event::Door { door: self.no, run: self.run, what });
    }
}

/// The beginning of an outbox's id: enough to tell them apart in a trace.
pub fn short(outbox: OutboxId) -> String {
    outbox.to_string()[..6].to_owned()
}
