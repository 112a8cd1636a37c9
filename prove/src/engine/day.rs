//! What may happen on a day of the delivery engine. Pure values, and how they are drawn.

use proptest::prelude::*;

/// Replicas of the service.
pub const REPLICAS: usize = 3;

/// Badges there are. Every third is nobody's at first.
pub const BADGES: u8 = 12;

/// Persons there are: several badges are one person's, so lines become one.
pub const PERSONS: u8 = 5;

/// One day.
#[derive(Debug, Clone)]
pub struct Day {
    /// What the destination is.
    pub terms: Terms,
    /// What happens, in its order.
    pub steps: Vec<Step>,
    /// Where all other chance comes from.
    pub seed: u64,
    /// When all is well again, everything is told so much later than the rate allows.
    pub settles_within_ms: u64,
}

/// What a destination is, as far as it is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// Calls a second.
    pub per_second: f64,
    /// Calls at once after a pause.
    pub burst: u32,
    /// Calls under way.
    pub concurrency: u32,
    /// How long one call may take.
    pub timeout_ms: u64,
    /// So many failures in a row open the breaker.
    pub trip_after: u32,
    /// For so long at first.
    pub open_s: u32,
    /// And never for longer.
    pub max_open_s: u32,
    /// It can be asked what it has, and does not know a key again.
    pub looks_up: bool,
}

/// Something happens.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// These badges are shown, one after the other.
    Taps(Vec<u8>),
    /// A badge becomes somebody's, if it was nobody's.
    Bind(u8),
    /// Time passes.
    Wait(u64),
    /// The API is like that, for so long, to so many requests in a hundred.
    Mood(Mood, u64, u8),
    /// A replica dies with all that it was doing; what it had sent arrives.
    Kill(usize),
    /// It starts again, if it is not there.
    Start(usize),
    /// A replica stands still for so long.
    Freeze(usize, u64),
    /// A replica takes it to be so many years later.
    Clock(usize, i64),
    /// Nobody can reach the store for so long.
    StoreAway(u64),
    /// So many commits are made, and nobody hears of it.
    AnswersLost(u8),
    /// For so long the store does what a replica asks, and the replica hears of it only afterwards.
    AnswersLate(usize, u64),
    /// A person stops the destination.
    Pause,
    /// A person lets it go on.
    Resume,
    /// A person sets other limits.
    Limits(f64, u32),
}

/// How the API answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// As documented.
    Well,
    /// 429, after so long, or without a word of how long.
    TooMany(Option<u64>),
    /// 503, and when to come back.
    Busy(u64),
    /// 500, nothing done.
    Error,
    /// Nobody is there.
    Gone,
    /// No answer in time, nothing done.
    SilentBefore,
    /// No answer in time, and it was done.
    SilentAfter,
    /// It was done, and the connection breaks.
    BreaksOff,
    /// It was done, and the answer is a web page.
    Garbage,
    /// 401.
    ClosedDoor,
    /// An answer that takes nearly as long as it may.
    Slow,
    /// 200, with an error inside.
    ErrorInside,
}

fn terms() -> impl Strategy<Value = Terms> {
    (
        prop::sample::select(vec![1.0, 3.0, 10.0]),
        prop::sample::select(vec![1u32, 3, 10]),
        prop::sample::select(vec![1u32, 3, 8]),
        prop::sample::select(vec![2_000u64, 15_000]),
        (2u32..5, 2u32..6, 6u32..20),
        any::<bool>(),
    )
        .prop_map(
            |(per_second, burst, concurrency, timeout_ms, (trip_after, open_s, max_open_s), looks_up)| {
                Terms { per_second, burst, concurrency, timeout_ms, trip_after, open_s, max_open_s, looks_up }
            },
        )
}

fn mood() -> impl Strategy<Value = Mood> {
    prop_oneof![
        2 => Just(Mood::Well),
        2 => (1_000u64..30_000).prop_map(|ms| Mood::TooMany(Some(ms / 1_000 * 1_000))),
        1 => Just(Mood::TooMany(None)),
        1 => (1_000u64..20_000).prop_map(|ms| Mood::Busy(ms / 1_000 * 1_000)),
        2 => Just(Mood::Error),
        1 => Just(Mood::Gone),
        1 => Just(Mood::SilentBefore),
        2 => Just(Mood::SilentAfter),
        1 => Just(Mood::BreaksOff),
        1 => Just(Mood::Garbage),
        1 => Just(Mood::ClosedDoor),
        2 => Just(Mood::Slow),
        1 => Just(Mood::ErrorInside),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let replica = || 0..REPLICAS;
    prop_oneof![
        12 => prop::collection::vec(0..BADGES, 1..12).prop_map(Step::Taps),
        2 => prop::collection::vec(0..BADGES, 40..80).prop_map(Step::Taps),
        2 => (0..BADGES).prop_map(Step::Bind),
        8 => (1u64..3_000).prop_map(Step::Wait),
        5 => (3_000u64..70_000).prop_map(Step::Wait),
        8 => (mood(), 2_000u64..60_000, prop::sample::select(vec![30u8, 100])).prop_map(|(mood, ms, share)| Step::Mood(mood, ms, share)),
        3 => replica().prop_map(Step::Kill),
        4 => replica().prop_map(Step::Start),
        3 => (replica(), 500u64..30_000).prop_map(|(which, ms)| Step::Freeze(which, ms)),
        1 => (replica(), prop::sample::select(vec![-10i64, 0, 10])).prop_map(|(which, years)| Step::Clock(which, years)),
        1 => (500u64..25_000).prop_map(Step::StoreAway),
        1 => (1u8..3).prop_map(Step::AnswersLost),
        1 => (replica(), 500u64..25_000).prop_map(|(which, ms)| Step::AnswersLate(which, ms)),
        1 => Just(Step::Pause),
        2 => Just(Step::Resume),
        1 => (prop::sample::select(vec![1.0, 3.0, 10.0]), 1u32..10).prop_map(|(rate, burst)| Step::Limits(rate, burst)),
    ]
}

/// Days of some minutes, mostly.
pub fn day() -> impl Strategy<Value = Day> {
    (terms(), prop::collection::vec(step(), 1..40), any::<u64>()).prop_map(|(terms, steps, seed)| Day {
        terms,
        steps,
        seed,
        settles_within_ms: 300_000,
    })
}

const PLAIN: Terms = Terms {
    per_second: 3.0,
    burst: 3,
    concurrency: 8,
    timeout_ms: 15_000,
    trip_after: 3,
    open_s: 2,
    max_open_s: 6,
    looks_up: false,
};

/// The API asks for patience for some minutes and never says for how long: nothing has failed, so nothing is slow after.
pub fn patience() -> Day {
    let mut steps: Vec<Step> = (0..BADGES).map(Step::Bind).collect();
    let badges = (0..BADGES).collect();
    steps.extend([Step::Mood(Mood::TooMany(None), 240_000, 100), Step::Taps(badges), Step::Wait(240_000)]);
    Day { terms: PLAIN, steps, seed: 1, settles_within_ms: 15_000 }
}

/// The first replica alone, an API that takes its time, and a tap.
fn alone_with_a_slow_api(then: [Step; 3]) -> Day {
    let mut steps: Vec<Step> = (0..BADGES).map(Step::Bind).collect();
    steps.extend([Step::Kill(1), Step::Kill(2), Step::Mood(Mood::Slow, 60_000, 100)]);
    steps.extend(then);
    steps.extend([Step::Start(1), Step::Wait(60_000)]);
    Day { terms: PLAIN, steps, seed: 1, settles_within_ms: 15_000 }
}

/// A replica stands still while its request is under way, until its claim has run out and another has claimed the same. It
/// gives the request up when it goes on, and that must end nothing any more.
pub fn taken_over() -> Day {
    alone_with_a_slow_api([Step::Taps(vec![1]), Step::Wait(50), Step::Freeze(0, 12_000)])
}

/// A replica hears of its claim when that has run out and another has claimed the same: it must not send.
pub fn heard_late() -> Day {
    alone_with_a_slow_api([Step::AnswersLate(0, 12_000), Step::Taps(vec![1]), Step::Wait(50)])
}

/// Ten minutes of backlog, and an API that is well: of what it allows, 95 % are used.
pub fn backlog() -> Day {
    let taps = 1_800;
    let badges: Vec<u8> = (0..BADGES).cycle().take(taps).collect();
    let at_full_rate_ms = taps as f64 * 1_000.0 / PLAIN.per_second;
    let settles_within_ms = (at_full_rate_ms / 0.95 - at_full_rate_ms) as u64;
    Day { terms: PLAIN, steps: vec![Step::Taps(badges)], seed: 1, settles_within_ms }
}
