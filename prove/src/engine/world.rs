//! Lets a day happen: three replicas, each with the real supervisor and dispatcher, on one real store in memory, in one
//! runtime whose time jumps from one thing that happens to the next. Whatever is chance comes from the day's seed.

pub mod doors;
pub mod machine;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloud_ingest::chance::Chance;
use cloud_ingest::clock::{Clock, Monotonic};
use cloud_ingest::delivery::supervise::{self, Supervisor};
use cloud_ingest::destination::settings::{
    AfterUnknown, Breaker, DestinationSettings, FrappeHrSettings, Kind, Limits,
};
use cloud_ingest::event_store::handle::{Jobs, StoreHandle};
use cloud_ingest::event_store::sqlite::SqliteStore;
use cloud_ingest::event_store::{Change, Deed, Deliveries, DeliveryState, EventStore, UtcMs};
use cloud_ingest::stop;
use cloud_ingest::telemetry::Metrics;
use power_loss_vfs::Dice;
use tap_protocol::ids::EventId;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::api::{Api, Books};
use super::day::{BADGES, Day, Mood, REPLICAS, Step, Terms};
use super::referee::Referee;
use doors::{Door, LEGACY, START_MS};
use machine::Machine;

/// Taps that come in one batch, at most.
const BATCH: usize = 200;

const YEAR_MS: i64 = 365 * 24 * 60 * 60 * 1_000;

/// How often what happened that is worth a count.
pub type Facts = BTreeMap<&'static str, u64>;

/// What all parts of a day share.
pub struct Shared {
    began: Instant,
    /// Numbers what is heard and what is asked: several things happen in one millisecond.
    next_no: AtomicU64,
    /// How long one request may take.
    pub timeout_ms: u64,
    /// Whether the API can be asked what it has.
    pub looks_up: bool,
    stage: Mutex<Stage>,
}

/// What is looked at by one at a time.
pub struct Stage {
    store: SqliteStore,
    /// The judge.
    pub referee: Referee,
    /// The API's.
    pub books: Books,
    /// The day's chance.
    pub dice: Dice,
    /// As in [`Shared`].
    pub timeout_ms: u64,
    store_away_until_ms: u64,
    lost_answers: u8,
    facts: Facts,
}

impl Shared {
    /// Does something at this moment.
    pub fn with<T>(&self, what: impl FnOnce(&mut Stage, u64) -> T) -> T {
        let now_ms = self.now_ms();
        what(&mut self.stage.lock().expect("whoever panics with it ends the day"), now_ms)
    }

    /// The next number of all that is heard and asked.
    pub fn next_no(&self) -> u64 {
        self.next_no.fetch_add(1, Ordering::Relaxed)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(Instant::now().duration_since(self.began).as_millis()).expect("a day")
    }
}

/// Plays a day to its end: what happened, or what must not have.
pub fn play(day: &Day) -> Result<Facts, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    // The day begins within the runtime: outside, time is not paused.
    runtime.block_on(async { World::new(day).live(&day.steps).await })
}

fn settings(terms: &Terms) -> DestinationSettings {
    let mut settings = DestinationSettings::http_json("http://127.0.0.1:9/").expect("it is an address");
    settings.timeout_ms = terms.timeout_ms;
    settings.limits = Limits {
        per_second: terms.per_second,
        burst: terms.burst,
        per_day: None,
        concurrency: terms.concurrency,
    };
    settings.breaker = Breaker {
        trip_after: terms.trip_after,
        open_s: terms.open_s,
        max_open_s: terms.max_open_s,
        ramp_s: 5,
    };
    if terms.looks_up {
        // The kind that can; what it speaks does not matter here.
        settings.kind = Kind::FrappeHr(FrappeHrSettings::default());
        settings.after_unknown = AfterUnknown::LookUp;
    }
    settings
}

struct World {
    shared: Arc<Shared>,
    settings: DestinationSettings,
    replicas: Vec<Replica>,
    door: Door,
    bound: BTreeSet<u8>,
    /// Taps that are nobody's yet, by badge.
    nobodys: BTreeMap<u8, Vec<(EventId, u64)>>,
    /// Nothing is sent until a person lets it go on.
    needs_person: bool,
    /// So much later than the rate allows, all must be told.
    settles_within_ms: u64,
}

struct Replica {
    machine: Arc<Machine>,
    run: u32,
    wake: Arc<Notify>,
    /// All its tasks, while it is up; they end with it.
    tasks: Option<JoinSet<()>>,
}

impl World {
    /// Nothing has happened, and nobody is up.
    fn new(day: &Day) -> World {
        let settings = settings(&day.terms);
        let stage = Stage {
            store: doors::store(&settings),
            referee: Referee::new(day.terms),
            books: Books::default(),
            dice: Dice::new(day.seed),
            timeout_ms: day.terms.timeout_ms,
            store_away_until_ms: 0,
            lost_answers: 0,
            facts: Facts::new(),
        };
        let (timeout_ms, looks_up) = (day.terms.timeout_ms, day.terms.looks_up);
        let (began, next_no) = (Instant::now(), AtomicU64::new(0));
        let shared = Shared { began, next_no, timeout_ms, looks_up, stage: Mutex::new(stage) };
        let replica =
            |no| Replica { machine: Arc::new(Machine::new(no)), run: 0, wake: Arc::default(), tasks: None };
        World {
            shared: Arc::new(shared),
            settings,
            replicas: (0..REPLICAS).map(replica).collect(),
            door: Door::before_the_first(),
            bound: BTreeSet::new(),
            nobodys: BTreeMap::new(),
            needs_person: false,
            settles_within_ms: day.settles_within_ms,
        }
    }

    async fn live(mut self, steps: &[Step]) -> Result<Facts, String> {
        (0..BADGES).filter(|badge| badge % 3 != 0).for_each(|badge| self.bind(badge));
        (0..REPLICAS).for_each(|which| self.start(which));
        for step in steps {
            self.step(step).await;
            let pause_ms = self.shared.with(|stage, _| stage.dice.below(150));
            sleep(Duration::from_millis(pause_ms)).await;
            self.shared.with(|stage, _| stage.referee.foul())?;
        }
        self.heal();
        self.all_is_told().await?;
        Ok(self.shared.with(|stage, now_ms| {
            stage.facts.insert("milliseconds", now_ms);
            stage.facts.insert("requests", stage.referee.arrivals() as u64);
            stage.facts.insert("taps told", stage.books.taken.len() as u64);
            stage.facts.insert("taps refused", stage.books.refused.len() as u64);
            std::mem::take(&mut stage.facts)
        }))
    }

    async fn step(&mut self, step: &Step) {
        let now_ms = self.shared.now_ms();
        let fact = match step {
            Step::Taps(badges) => {
                self.taps(badges);
                "groups of taps"
            }
            Step::Bind(badge) => {
                self.bind(*badge);
                "badges bound"
            }
            Step::Wait(ms) => {
                sleep(Duration::from_millis(*ms)).await;
                "waits"
            }
            Step::Mood(mood, for_ms, share) => {
                self.needs_person |= *mood == Mood::ClosedDoor;
                self.shared.with(|stage, _| stage.books.is_now(*mood, now_ms + for_ms, *share));
                "moods"
            }
            Step::Kill(which) => {
                self.replicas[*which].tasks = None;
                self.shared.with(|stage, _| stage.referee.stands_still(*which));
                "replicas killed"
            }
            Step::Start(which) => {
                self.start(*which);
                "replicas started"
            }
            Step::Freeze(which, for_ms) => {
                self.freeze(*which, *for_ms);
                "replicas frozen"
            }
            Step::Clock(which, years) => {
                self.replicas[*which].machine.set_clock(years * YEAR_MS);
                self.shared.with(|stage, _| stage.referee.clock_is_wrong());
                "clocks set"
            }
            Step::StoreAway(for_ms) => {
                self.shared.with(|stage, _| stage.store_away_until_ms = now_ms + for_ms);
                "stores away"
            }
            Step::AnswersLost(count) => {
                self.shared.with(|stage, _| stage.lost_answers = *count);
                "answers of the store lost"
            }
            Step::AnswersLate(which, for_ms) => {
                self.replicas[*which].machine.hears_late(now_ms + for_ms);
                "replicas that heard late"
            }
            Step::Pause => {
                self.needs_person = true;
                self.change(&Change::Pause);
                self.shared.with(|stage, now_ms| stage.referee.pauses(true, now_ms));
                "pauses"
            }
            Step::Resume => {
                self.resume();
                "resumes"
            }
            Step::Limits(per_second, burst) => {
                self.settings.limits.per_second = *per_second;
                self.settings.limits.burst = *burst;
                let settings = serde_json::to_string(&self.settings).expect("settings are JSON");
                self.change(&Change::Settings(settings));
                self.shared.with(|stage, now_ms| stage.referee.limits(*per_second, *burst, now_ms));
                "limits set"
            }
        };
        self.shared.with(|stage, _| *stage.facts.entry(fact).or_default() += 1);
    }

    /// What would hold anything up is over.
    fn heal(&mut self) {
        self.shared.with(|stage, now_ms| {
            stage.books.is_now(Mood::Well, now_ms, 0);
            (stage.store_away_until_ms, stage.lost_answers) = (0, 0);
        });
        for which in 0..REPLICAS {
            self.replicas[which].machine.set_clock(0);
            self.replicas[which].machine.hears_late(0);
            self.replicas[which].machine.stand_still(None);
            self.start(which);
        }
        (0..BADGES).for_each(|badge| self.bind(badge));
        // Who was let in by nobody is asked again after five minutes, unless a person says that it is mended.
        if self.needs_person {
            self.resume();
        }
    }

    /// Within backlog ÷ rate and so much more, everything is told, and the store knows it.
    async fn all_is_told(&mut self) -> Result<(), String> {
        let backlog = self
            .shared
            .with(|stage, _| stage.referee.owed().filter(|event| !stage.books.is_final(*event)).count());
        let within_ms =
            (backlog as f64 * 1_000.0 / self.settings.limits.per_second) as u64 + self.settles_within_ms;
        let until_ms = self.shared.now_ms() + within_ms;
        loop {
            sleep(Duration::from_secs(1)).await;
            let is_over = self.shared.with(|stage, now_ms| {
                stage.referee.foul()?;
                if stage.has_settled() {
                    return Ok(true);
                }
                if now_ms < until_ms {
                    return Ok(false);
                }
                stage.referee.checks_the_end(&stage.books, now_ms);
                stage.referee.foul()?;
                Err(format!(
                    "all is told, and the store does not know it: {:?}",
                    stage.store.delivery_counts()
                ))
            })?;
            if is_over {
                return Ok(());
            }
        }
    }

    fn taps(&mut self, badges: &[u8]) {
        badges.chunks(BATCH).for_each(|badges| self.batch(badges));
        self.replicas.iter().for_each(|replica| replica.wake.notify_one());
    }

    fn batch(&mut self, badges: &[u8]) {
        let (door, bound, nobodys) = (&mut self.door, &self.bound, &mut self.nobodys);
        self.shared.with(|stage, now_ms| {
            let taps = door.taps(&mut stage.store, badges, utc(now_ms));
            for (badge, (event, position)) in badges.iter().zip(taps) {
                match bound.contains(badge) {
                    true => stage.referee.owes(event, position, doors::person_of(*badge), now_ms),
                    false => nobodys.entry(*badge).or_default().push((event, position)),
                }
            }
        });
    }

    fn bind(&mut self, badge: u8) {
        if !self.bound.insert(badge) {
            return;
        }
        let nobodys = self.nobodys.remove(&badge).unwrap_or_default();
        // A claim may have been made of which nobody has heard; then it goes before what is bound now.
        self.shared.with(|stage, now_ms| {
            for event in stage.referee.unsent_of(doors::person_of(badge)) {
                let detail = stage.store.event(event).expect("memory gives it");
                if detail.is_some_and(|detail| !detail.attempts.is_empty()) {
                    stage.referee.may_have_been_sent(event, now_ms);
                }
            }
            doors::bind(&mut stage.store, badge, utc(now_ms));
            for (event, position) in nobodys {
                stage.referee.owes(event, position, doors::person_of(badge), now_ms);
            }
        });
    }

    fn change(&self, change: &Change) {
        self.shared.with(|stage, now_ms| {
            let deed = Deed::by_itself(utc(now_ms), "set", LEGACY);
            stage.store.change_destination(LEGACY, change, &deed).expect("memory takes it");
        });
    }

    fn resume(&mut self) {
        self.change(&Change::Resume);
        self.shared.with(|stage, now_ms| stage.referee.pauses(false, now_ms));
    }

    fn freeze(&self, which: usize, for_ms: u64) {
        let machine = Arc::clone(&self.replicas[which].machine);
        machine.stand_still(Some(self.shared.now_ms()));
        self.shared.with(|stage, _| stage.referee.stands_still(which));
        tokio::spawn(async move {
            sleep(Duration::from_millis(for_ms)).await;
            machine.stand_still(None);
        });
    }

    /// A replica of the service, as far as it delivers.
    fn start(&mut self, which: usize) {
        let replica = &mut self.replicas[which];
        if replica.tasks.is_some() {
            return;
        }
        replica.run += 1;
        replica.wake = Arc::default();
        let (shared, machine, run) = (&self.shared, &replica.machine, replica.run);
        let (writer, writes) = StoreHandle::queue();
        let (reader, reads) = StoreHandle::queue();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(Arc::clone(shared), Arc::clone(machine), Some(run), writes));
        tasks.spawn(serve(Arc::clone(shared), Arc::clone(machine), None, reads));
        let open = {
            let (shared, machine) = (Arc::clone(shared), Arc::clone(machine));
            move |_: &DestinationSettings, _: Option<&str>| {
                Ok(Api { shared: Arc::clone(&shared), machine: Arc::clone(&machine), run })
            }
        };
        let clock = {
            let (shared, machine) = (Arc::clone(shared), Arc::clone(machine));
            Clock::from_fn(move || UtcMs(START_MS + machine.wall_ms(shared.now_ms())))
        };
        let monotonic = {
            let (shared, machine) = (Arc::clone(shared), Arc::clone(machine));
            Monotonic::from_fn(move || {
                // The last that a dispatcher does before it asks the store, and after it has heard of what has ended.
                machine.looks_at_time(shared.next_no());
                machine.monotonic_ms(shared.now_ms())
            })
        };
        let chance = {
            let dice = Mutex::new(Dice::new(shared.with(|stage, _| stage.dice.bits())));
            Chance::from_fn(move || dice.lock().expect("nobody panics with it").bits())
        };
        let supervisor = Supervisor {
            open: Box::new(open),
            writer,
            reader,
            clock,
            monotonic,
            chance,
            metrics: Arc::new(Metrics::new()),
            health: Arc::default(),
            wake: Arc::clone(&replica.wake),
        };
        tasks.spawn(async move {
            // Nobody stops it: it runs until it is killed.
            let (_stopper, stop) = stop::pair();
            supervise::run(supervisor, stop).await;
        });
        replica.tasks = Some(tasks);
    }
}

impl Stage {
    /// Whether the store knows of every tap what became of it.
    fn has_settled(&mut self) -> bool {
        let counts = self.store.delivery_counts().expect("memory gives it");
        let count = |state| counts.iter().filter(|one| one.state == state).map(|one| one.count).sum::<u64>();
        let (taken, refused) = (self.books.taken.len() as u64, self.books.refused.len() as u64);
        let all = counts.iter().map(|one| one.count).sum::<u64>();
        all == self.referee.owed().count() as u64
            && (count(DeliveryState::Delivered), count(DeliveryState::Dead)) == (taken, refused)
            && taken + refused == all
    }
}

/// The way between a replica and the store: takes a little time, and may end anywhere. `run` is that of a writer.
async fn serve(shared: Arc<Shared>, machine: Arc<Machine>, run: Option<u32>, mut jobs: Jobs) {
    while let Some(job) = jobs.next().await {
        let asked_no = machine.looked_at_time();
        let way_ms = shared.with(|stage, _| stage.dice.below(4));
        sleep(Duration::from_millis(way_ms)).await;
        machine.goes_on().await;
        let ran = shared.with(|stage, now_ms| {
            if now_ms < stage.store_away_until_ms {
                return None;
            }
            let reply = job.run(&mut stage.store);
            let Some(run) = run else { return Some((reply, now_ms)) };
            stage.referee.written((machine.no, run), asked_no, now_ms);
            let is_lost = stage.lost_answers > 0;
            stage.lost_answers = stage.lost_answers.saturating_sub(1);
            (!is_lost).then_some((reply, now_ms))
        });
        let Some((reply, ran_ms)) = ran else { continue };
        if run.is_some() {
            sleep(Duration::from_millis(machine.hears_until_ms().saturating_sub(ran_ms))).await;
        }
        machine.goes_on().await;
        if run.is_some() {
            machine.hears_from_store(ran_ms);
        }
        reply.tell();
    }
}

fn utc(now_ms: u64) -> UtcMs {
    UtcMs(START_MS + i64::try_from(now_ms).expect("a day"))
}
