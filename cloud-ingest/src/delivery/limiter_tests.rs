//! The limiter against a receiver that counts for itself: replicas that wake late, calls that arrive late, answers that
//! take their time, replicas that die, and wall clocks that are set to anything.

use proptest::prelude::*;

use super::*;
use crate::delivery::ticks::{Kept, Ticker};

const LIMITS: Limits = Limits { per_second: 10.0, burst: 5, per_day: None, concurrency: 8 };

fn room(limiter: &Limiter, limits: &Limits, under_way: u64) -> u32 {
    limiter.room(limits, under_way, UtcMs(0)).calls
}

#[test]
fn a_quiet_destination_takes_a_burst_and_then_its_pace() {
    let mut limiter = Limiter::new(&LIMITS, Ticks(0));
    assert_eq!(room(&limiter, &LIMITS, 0), 5);
    limiter.take(5);
    assert_eq!(limiter.room(&LIMITS, 0, UtcMs(0)), Room { calls: 0, again_in_ms: 100 });
    limiter.pass(&LIMITS, Ticks(100), UtcMs(0));
    assert_eq!(room(&limiter, &LIMITS, 0), 1);
}

#[test]
fn what_is_under_way_counts_against_concurrency_over_all_replicas() {
    let limiter = Limiter::new(&Limits { burst: 50, ..LIMITS }, Ticks(0));
    assert_eq!(room(&limiter, &LIMITS, 6), 2);
    assert_eq!(room(&limiter, &LIMITS, 8), 0);
    assert_eq!(room(&limiter, &LIMITS, 9), 0);
}

#[test]
fn an_ended_call_counts_for_a_minute_after_its_end() {
    let limits = Limits { per_second: 0.05, burst: 1, ..LIMITS };
    assert_eq!(limits.per_minute(), 4);
    let mut limiter = Limiter::new(&limits, Ticks(0));
    limiter.tokens = 100.0;
    limiter.end(4);
    limiter.pass(&limits, Ticks(61_499), UtcMs(0));
    limiter.tokens = 100.0;
    assert_eq!(limiter.room(&limits, 0, UtcMs(0)), Room { calls: 0, again_in_ms: 1 });
    limiter.pass(&limits, Ticks(61_500), UtcMs(0));
    limiter.tokens = 100.0;
    assert_eq!(room(&limiter, &limits, 0), 4);
}

#[test]
fn a_day_has_its_share_and_the_next_one_another() {
    let limits = Limits { per_day: Some(7), ..LIMITS };
    let mut limiter = Limiter::new(&limits, Ticks(0));
    limiter.pass(&limits, Ticks(0), UtcMs(DAY_MS));
    limiter.take(5);
    limiter.pass(&limits, Ticks(10_000), UtcMs(2 * DAY_MS - 1_000));
    assert_eq!(room(&limiter, &limits, 0), 2);
    limiter.take(2);
    let none = limiter.room(&limits, 0, UtcMs(2 * DAY_MS - 1_000));
    assert_eq!(none, Room { calls: 0, again_in_ms: 1_000 });
    limiter.pass(&limits, Ticks(11_000), UtcMs(2 * DAY_MS));
    assert!(room(&limiter, &limits, 0) > 0);
}

#[test]
fn a_wall_clock_that_was_years_ahead_closes_nothing_and_gives_no_second_share() {
    let limits = Limits { per_day: Some(7), ..LIMITS };
    let mut limiter = Limiter::new(&limits, Ticks(0));
    limiter.pass(&limits, Ticks(0), UtcMs(5_000 * DAY_MS));
    limiter.take(5);
    limiter.pass(&limits, Ticks(10_000), UtcMs(1_000 * DAY_MS));
    assert_eq!(room(&limiter, &limits, 0), 2, "the day goes on under its right name");
    limiter.pass(&limits, Ticks(10_000), UtcMs(1_001 * DAY_MS));
    assert!(room(&limiter, &limits, 0) > 2);
}

#[test]
fn what_was_not_called_is_given_back() {
    let limits = Limits { per_day: Some(5), ..LIMITS };
    let mut limiter = Limiter::new(&limits, Ticks(0));
    limiter.take(5);
    limiter.give_back(3);
    assert_eq!(room(&limiter, &limits, 0), 3);
}

/// A destination with replicas in front of it, and what it counts itself.
struct Run {
    limits: Limits,
    limiter: Limiter,
    kept: Kept,
    tickers: [Ticker; 3],
    /// Real time, and what each replica's wall clock is off by.
    now_ms: u64,
    off_ms: [i64; 3],
    /// When it arrives, and when its end is written down.
    under_way: Vec<(u64, u64)>,
    arrivals: Vec<u64>,
}

impl Run {
    fn new(limits: Limits) -> Run {
        let limiter = Limiter::new(&limits, Ticks(0));
        let (tickers, off_ms) = ([1, 2, 3].map(Ticker::new), [0; 3]);
        Run {
            limits,
            limiter,
            kept: Kept::default(),
            tickers,
            now_ms: 100_000,
            off_ms,
            under_way: vec![],
            arrivals: vec![],
        }
    }

    /// One turn of a replica: what has ended is written down, what there is room for is claimed.
    fn turn(&mut self, who: usize, latencies: &mut dyn FnMut() -> (u64, u64)) -> Room {
        let monotonic_ms = self.now_ms + 1_000_000 * who as u64;
        let passed = self.kept.pass(&self.tickers[who].vouch(monotonic_ms));
        self.tickers[who].told(&passed);
        let wall = UtcMs(self.now_ms as i64 + self.off_ms[who]);
        self.limiter.pass(&self.limits, passed.ticks, wall);
        let before = self.under_way.len();
        self.under_way.retain(|(_, end_ms)| *end_ms > self.now_ms);
        self.limiter.end((before - self.under_way.len()) as u32);
        let room = self.limiter.room(&self.limits, self.under_way.len() as u64, wall);
        self.limiter.take(room.calls);
        for _ in 0..room.calls {
            let (arrives_ms, answered_ms) = latencies();
            self.arrivals.push(self.now_ms + arrives_ms);
            self.under_way.push((self.now_ms + arrives_ms, self.now_ms + arrives_ms + answered_ms));
        }
        room
    }

    /// The most that the receiver counted within any minute.
    fn worst_minute(&mut self) -> u64 {
        self.arrivals.sort_unstable();
        let mut first = 0;
        let worst = self.arrivals.iter().enumerate().map(|(last, at_ms)| {
            while self.arrivals[first] + 60_000 < *at_ms {
                first += 1;
            }
            last - first + 1
        });
        worst.max().unwrap_or(0) as u64
    }
}

#[derive(Debug, Clone)]
enum Step {
    Turn { who: usize, arrives_ms: u64, answered_ms: u64 },
    Wait(u64),
    SetClock { who: usize, off_ms: i64 },
    Restart(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let years = 10 * 365 * DAY_MS;
    prop_oneof![
        8 => (0..3usize, 0..9_000u64, 0..9_000u64)
            .prop_map(|(who, arrives_ms, answered_ms)| Step::Turn { who, arrives_ms, answered_ms }),
        8 => (0..400u64).prop_map(Step::Wait),
        2 => (5_000..70_000u64).prop_map(Step::Wait),
        1 => (0..3usize, -years..years).prop_map(|(who, off_ms)| Step::SetClock { who, off_ms }),
        1 => (0..3usize).prop_map(Step::Restart),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    let per_second = prop_oneof![Just(0.05), Just(0.5), Just(3.0), Just(10.0), Just(100.0)];
    (per_second, 0..40u32, 1..60u32).prop_map(|(per_second, burst, concurrency)| Limits {
        per_second,
        burst,
        per_day: None,
        concurrency,
    })
}

proptest! {
    #[test]
    fn the_receiver_never_counts_more_than_was_promised_whatever_clocks_and_replicas_do(
        limits in limits(),
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut run = Run::new(limits);
        for step in steps {
            match step {
                Step::Turn { who, arrives_ms, answered_ms } => {
                    run.turn(who, &mut || (arrives_ms, answered_ms));
                    let at_once = run.under_way.len();
                    prop_assert!(at_once <= limits.concurrency as usize, "{at_once} at once");
                }
                Step::Wait(ms) => run.now_ms += ms,
                Step::SetClock { who, off_ms } => run.off_ms[who] = off_ms,
                Step::Restart(who) => run.tickers[who] = Ticker::new(run.now_ms as i64 + 10),
            }
        }
        let worst = run.worst_minute();
        prop_assert!(worst <= limits.per_minute(), "{worst} calls in a minute of {}", limits.per_minute());
    }
}

/// Ten minutes of backlog: three replicas that wake up to 40 ms late, calls of 150 ms.
#[test]
fn with_a_backlog_nearly_all_that_is_allowed_is_used() {
    for (per_second, burst) in [(0.5, 1), (2.0, 1), (10.0, 1), (10.0, 20), (50.0, 10), (200.0, 50)] {
        let limits = Limits { per_second, burst, per_day: None, concurrency: 64 };
        let mut run = Run::new(limits);
        let (began_ms, mut wakes) = (run.now_ms, [run.now_ms; 3]);
        while run.now_ms < began_ms + 600_000 {
            let who = (0..3).min_by_key(|who| wakes[*who]).unwrap();
            run.now_ms = wakes[who];
            let mut sent = 0;
            let room = run.turn(who, &mut || {
                sent += 1;
                (30 + sent, 120)
            });
            wakes[who] = run.now_ms + room.again_in_ms.clamp(1, 500) + [7, 40, 23][who];
        }
        let used = run.arrivals.len() as f64 / (600.0 * per_second);
        assert!(used >= 0.95, "{:.1} % of {limits:?} used", used * 100.0);
        assert!(run.worst_minute() <= limits.per_minute());
    }
}
