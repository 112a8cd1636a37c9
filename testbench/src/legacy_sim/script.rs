//! What the legacy API does with the next check-in: a closed list of moods and the order they come in. Pure.

use serde::{Deserialize, Serialize};

/// How the API treats one check-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum Mode {
    /// Processed, 200 and `{"status":"ok","id":"…"}`.
    Ok,
    /// 429 with a `Retry-After` in seconds; not processed.
    TooManyRequests {
        /// The value of `Retry-After`.
        retry_after_s: u32,
    },
    /// 500 with a plain-text body.
    ServerError {
        /// Whether the check-in was recorded before things went wrong.
        #[serde(default)]
        processed: bool,
    },
    /// Processed, and then silence until the client gives up: the client can't know what happened.
    TimeoutAfterProcessing,
    /// Processed at once, answered like [`Mode::Ok`] after a delay.
    Slow {
        /// How long the answer takes.
        delay_ms: u64,
    },
    /// An answer that doesn't say what a client hopes to read.
    Garbage {
        /// Which kind.
        kind: Garbage,
        /// Whether the check-in was recorded all the same. It is, unless said otherwise: the harder case.
        #[serde(default = "yes")]
        processed: bool,
    },
    /// 200 with `{"status":"error","message":"database locked"}`; not processed.
    ErrorInside,
    /// 422 with `{"error":"no such person"}`: refused for good; not processed.
    Refused,
    /// The connection is torn down without a byte of answer; not processed.
    ///
    /// The control routes still answer. For a refused connect put a
    /// [`FaultProxy`](crate::fault_proxy::FaultProxy) in front and cut it.
    Down,
}

impl Mode {
    /// A garbage answer after the check-in was processed.
    pub fn garbage(kind: Garbage) -> Self {
        Self::Garbage { kind, processed: true }
    }
}

fn yes() -> bool {
    true
}

/// The kinds of answer that mean nothing, or lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Garbage {
    /// 200, `application/json`, bytes that are neither JSON nor UTF-8.
    NotJson,
    /// 200 and the first half of a good answer, with a matching length.
    TruncatedJson,
    /// 200 and a good answer labelled `text/plain`.
    WrongContentType,
    /// 200 and a good answer padded to [`HUGE_BODY_BYTES`](super::HUGE_BODY_BYTES).
    HugeBody,
    /// 200 and nothing.
    EmptyBody,
    /// 204.
    NoContent,
    /// 202 and `{"status":"queued"}`: a 2xx that promises nothing.
    Accepted,
    /// 301 to a log-in page.
    Redirect,
    /// 200 and an HTML error page, as frameworks in debug mode send it.
    HtmlErrorPage,
    /// 200 and `[]`: JSON of the wrong shape.
    WrongShape,
    /// 200 and `{"status":1}`: the right member with the wrong type.
    WrongType,
    /// 200 and `{"status":"maybe"}`: a status nobody has documented.
    UnknownStatus,
    /// 200 and 100,000 nested arrays.
    DeepJson,
    /// 200, a good answer, and a lie about its `Content-Encoding`.
    FalseEncoding,
    /// The connection is reset before the first byte.
    ConnectionReset,
    /// The connection is closed in the middle of a good answer's body.
    CutMidBody,
    /// Bytes that aren't HTTP.
    NotHttp,
}

impl Garbage {
    /// Every kind, for tests that walk through all of them.
    pub const ALL: [Self; 17] = [
        Self::NotJson,
        Self::TruncatedJson,
        Self::WrongContentType,
        Self::HugeBody,
        Self::EmptyBody,
        Self::NoContent,
        Self::Accepted,
        Self::Redirect,
        Self::HtmlErrorPage,
        Self::WrongShape,
        Self::WrongType,
        Self::UnknownStatus,
        Self::DeepJson,
        Self::FalseEncoding,
        Self::ConnectionReset,
        Self::CutMidBody,
        Self::NotHttp,
    ];
}

/// Steps to walk through once, one check-in each, and what holds after them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// Played in order; a step of count 0 is skipped.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// Played for ever after the last step.
    #[serde(default)]
    pub then: Then,
}

impl Script {
    /// One mode, for ever.
    pub fn always(mode: Mode) -> Self {
        Self { steps: Vec::new(), then: Then::Always(mode) }
    }

    /// These steps, and then everything is well.
    pub fn first(steps: impl IntoIterator<Item = (Mode, u64)>) -> Self {
        let steps = steps.into_iter().map(|(mode, count)| Step { mode, count }).collect();
        Self { steps, then: Then::default() }
    }

    /// A weighted mix, for ever; the same seed gives the same modes in the same order.
    pub fn mix(seed: u64, modes: impl IntoIterator<Item = (Mode, u32)>) -> Self {
        let modes = modes.into_iter().map(|(mode, weight)| Weighted { mode, weight }).collect();
        Self { steps: Vec::new(), then: Then::Mix(Mix { seed, modes }) }
    }
}

impl Default for Script {
    fn default() -> Self {
        Self::always(Mode::Ok)
    }
}

/// One mode for the next `count` check-ins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// How they are treated.
    #[serde(flatten)]
    pub mode: Mode,
    /// How many.
    pub count: u64,
}

/// What holds when the steps are through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// One mode.
    Always(Mode),
    /// A seeded mix.
    Mix(Mix),
}

impl Default for Then {
    fn default() -> Self {
        Self::Always(Mode::Ok)
    }
}

/// Modes drawn by weight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// Decides every draw.
    pub seed: u64,
    /// What is drawn from; a mix without any weight is [`Mode::Ok`].
    pub modes: Vec<Weighted>,
}

/// A mode and how often it comes, relative to the others in its mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weighted {
    /// The mode.
    #[serde(flatten)]
    pub mode: Mode,
    /// Its share.
    pub weight: u32,
}

/// A script and how far it has been played.
#[derive(Debug, Default)]
pub(super) struct Playing {
    script: Script,
    played: u64,
}

impl Playing {
    pub(super) fn new(script: Script) -> Self {
        Self { script, played: 0 }
    }

    /// The mode of the next check-in.
    pub(super) fn next_mode(&mut self) -> Mode {
        let mode = self.script.mode_at(self.played);
        self.played += 1;
        mode
    }
}

impl Script {
    fn mode_at(&self, nth: u64) -> Mode {
        let mut after_steps = nth;
        for step in &self.steps {
            if after_steps < step.count {
                return step.mode;
            }
            after_steps -= step.count;
        }
        match &self.then {
            Then::Always(mode) => *mode,
            Then::Mix(mix) => mix.draw(after_steps),
        }
    }
}

impl Mix {
    fn draw(&self, nth: u64) -> Mode {
        let total: u64 = self.modes.iter().map(|weighted| u64::from(weighted.weight)).sum();
        if total == 0 {
            return Mode::Ok;
        }
        let mut ticket = splitmix64(self.seed, nth) % total;
        for weighted in &self.modes {
            if ticket < u64::from(weighted.weight) {
                return weighted.mode;
            }
            ticket -= u64::from(weighted.weight);
        }
        unreachable!("a ticket is below the sum of all weights")
    }
}

/// The nth output of SplitMix64 (Steele, Lea, Flood 2014), which needs no state to jump to.
fn splitmix64(seed: u64, nth: u64) -> u64 {
    let mut z = seed.wrapping_add(nth.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(script: Script, count: usize) -> Vec<Mode> {
        let mut playing = Playing::new(script);
        std::iter::repeat_with(|| playing.next_mode()).take(count).collect()
    }

    #[test]
    fn steps_come_first_and_in_order_and_then_the_default() {
        let script =
            Script::first([(Mode::Down, 2), (Mode::ErrorInside, 0), (Mode::TimeoutAfterProcessing, 1)]);
        assert_eq!(play(script, 4), [Mode::Down, Mode::Down, Mode::TimeoutAfterProcessing, Mode::Ok]);
    }

    #[test]
    fn a_mix_follows_its_weights_and_its_seed() {
        let mix = |seed| Script::mix(seed, [(Mode::Ok, 9), (Mode::Down, 1), (Mode::ErrorInside, 0)]);
        let modes = play(mix(7), 10_000);
        let downs = modes.iter().filter(|mode| **mode == Mode::Down).count();
        assert!((900..1100).contains(&downs), "a tenth of 10,000, not {downs}");
        assert!(!modes.contains(&Mode::ErrorInside));
        assert_eq!(modes, play(mix(7), 10_000));
        assert_ne!(modes, play(mix(8), 10_000));
    }

    #[test]
    fn a_mix_of_nothing_is_a_healthy_server() {
        assert_eq!(play(Script::mix(1, [(Mode::Down, 0)]), 1), [Mode::Ok]);
    }

    #[test]
    fn the_generator_is_the_published_one() {
        // First outputs for seed 1234567, as in the reference implementation's test vectors.
        assert_eq!(splitmix64(1_234_567, 0), 6_457_827_717_110_365_317);
        assert_eq!(splitmix64(1_234_567, 1), 3_203_168_211_198_807_973);
    }

    #[test]
    fn a_script_reads_well_as_json() {
        let script: Script = serde_json::from_str(
            r#"{"steps":[{"mode":"slow","delay_ms":300,"count":3},{"mode":"garbage","kind":"not_http","count":1}],
                "then":{"mix":{"seed":7,"modes":[{"mode":"ok","weight":8},{"mode":"too_many_requests","retry_after_s":2,"weight":1}]}}}"#,
        )
        .unwrap();
        assert_eq!(script.steps[0].mode, Mode::Slow { delay_ms: 300 });
        assert_eq!(script.steps[1].mode, Mode::garbage(Garbage::NotHttp));
        let text = serde_json::to_string(&script).unwrap();
        assert_eq!(serde_json::from_str::<Script>(&text).unwrap(), script);
    }
}
