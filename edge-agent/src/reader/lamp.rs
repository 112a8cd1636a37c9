//! Step 4 of 12, PC/SC readers with lamp and buzzer: what a signal is in a model's own commands. Pure: sends nothing.
//!
//! | model | light and sound | unit | success |
//! |---|---|---|---|
//! | ACR122U | `FF 00 40 P2 04 T1 T2 n link`, both in one command, timed by the reader | 100 ms | `90 xx`, xx being the light's state |
//! | ACR1252U, ACR1255U-J1 | `E0 00 00 29 01 light` and `E0 00 00 28 01 time`; light stays until told otherwise | 10 ms | `E1 00 00 00 01 xx` |
//!
//! (ACS, reference manuals of these readers.) A model that is not in the table gets no command at all: what is a lamp
//! to one reader may be a write to another.
//!
//! The ACR122U ends every signal by itself and returns to the standing light. The others are timed from here, so their
//! light is used only where it can be put out again whatever the card does: see [`Plan`].
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use serde::Deserialize;

use crate::signal::pattern::{Beep, Colour, IN_SERVICE, OUT_OF_SERVICE, Pattern};

/// A reader whose lamp we know how to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LampModel {
    /// ACR122U, and ACR122T, its small sister.
    Acr122u,
    /// ACR1252U and ACR1251U.
    Acr1252u,
    /// ACR1255U-J1: the same commands, the two colours swapped.
    Acr1255u,
}

/// What the configuration says about a reader's lamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LampChoice {
    /// By the reader's PC/SC name.
    #[default]
    Auto,
    /// As an ACR122U.
    Acr122u,
    /// As an ACR1252U.
    Acr1252u,
    /// As an ACR1255U-J1.
    Acr1255u,
    /// Leave it alone.
    None,
}

impl LampChoice {
    /// The model of the reader with this PC/SC name.
    pub fn model(self, pcsc_name: &str) -> Option<LampModel> {
        match self {
            LampChoice::Auto => LampModel::of(pcsc_name),
            LampChoice::Acr122u => Some(LampModel::Acr122u),
            LampChoice::Acr1252u => Some(LampModel::Acr1252u),
            LampChoice::Acr1255u => Some(LampModel::Acr1255u),
            LampChoice::None => None,
        }
    }
}

/// Parts of PC/SC names, as libccid and ACS's own driver give them.
const MODELS: [(&str, LampModel); 5] = [
    ("ACR122U", LampModel::Acr122u),
    ("ACR122T", LampModel::Acr122u),
    ("ACR1251", LampModel::Acr1252u),
    ("ACR1252", LampModel::Acr1252u),
    ("ACR1255U-J1", LampModel::Acr1255u),
];

/// How a command can reach the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Path {
    /// As if for the card, which must be there. Always allowed.
    Card,
    /// Straight to the reader, card or not. libccid allows it only if it was configured so.
    Reader,
}

/// One command, and how long to wait after it before the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The bytes.
    pub command: Vec<u8>,
    /// Milliseconds; the reader goes on by itself meanwhile.
    pub then_wait_ms: u16,
}

/// A signal as commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The ways to try, best first.
    pub paths: &'static [Path],
    /// The commands, in order.
    pub steps: Vec<Step>,
}

impl LampModel {
    /// By the PC/SC name.
    pub fn of(pcsc_name: &str) -> Option<LampModel> {
        let name = pcsc_name.to_uppercase();
        MODELS.iter().find(|(part, _)| name.contains(part)).map(|(_, model)| *model)
    }

    /// A signal, after which the standing light is restored (`None`: nobody has said yet what it should be).
    pub fn signal(self, pattern: &Pattern, in_service: Option<bool>) -> Plan {
        match self {
            // A command to an ACR122U takes as long as the signal, so it is nothing to be given up halfway.
            LampModel::Acr122u => {
                Plan { paths: &[Path::Card, Path::Reader], steps: vec![acr122u_blink(pattern, in_service)] }
            }
            LampModel::Acr1252u | LampModel::Acr1255u => {
                Plan { paths: &[Path::Reader], steps: self.timed_from_here(pattern, in_service) }
            }
        }
    }

    /// What is left of a signal when nothing but the card's presence lets us through: a beep ends by itself, a light
    /// might stay on after the card has left, and a green light that stays is a false promise.
    pub fn sound_alone(self, pattern: &Pattern) -> Option<Plan> {
        match self {
            LampModel::Acr122u => None,
            LampModel::Acr1252u | LampModel::Acr1255u => {
                let beeps = match pattern.beep {
                    Beep::Silent => vec![],
                    Beep::Throughout => vec![(pattern.total_ms(), pattern.total_ms())],
                    Beep::WithLight => {
                        let each = (pattern.lit_ms, pattern.lit_ms + pattern.dark_ms);
                        vec![each; pattern.flashes.into()]
                    }
                };
                let step = |(beep_ms, then_wait_ms)| Step { command: buzzer(beep_ms), then_wait_ms };
                Some(Plan { paths: &[Path::Card], steps: beeps.into_iter().map(step).collect() })
            }
        }
    }

    /// The standing light. Out of service blinks: `lit` is what it is at the moment.
    pub fn standing(self, in_service: bool, lit: bool) -> Plan {
        let colour = if in_service { Some(IN_SERVICE) } else { lit.then_some(OUT_OF_SERVICE.colour) };
        match self {
            LampModel::Acr122u => {
                let command = vec![0xFF, 0x00, 0x40, 0b1100 | red_green(colour), 4, 0, 0, 0, 0];
                Plan { paths: &[Path::Card, Path::Reader], steps: vec![Step { command, then_wait_ms: 0 }] }
            }
            LampModel::Acr1252u | LampModel::Acr1255u => Plan {
                paths: &[Path::Reader],
                steps: vec![Step { command: self.light(colour), then_wait_ms: 0 }],
            },
        }
    }

    /// Whether the reader did what it was told.
    pub fn succeeded(self, answer: &[u8]) -> bool {
        match self {
            // Compared with 90 00, every success would look like a failure.
            LampModel::Acr122u => matches!(answer, [0x90, _]),
            LampModel::Acr1252u | LampModel::Acr1255u => matches!(answer, [0xE1, 0, 0, 0, 1, _]),
        }
    }

    fn timed_from_here(self, pattern: &Pattern, in_service: Option<bool>) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut step = |command, then_wait_ms| steps.push(Step { command, then_wait_ms });
        if pattern.beep == Beep::Throughout {
            step(buzzer(pattern.total_ms()), 0);
        }
        for _ in 0..pattern.flashes {
            if pattern.beep == Beep::WithLight {
                step(buzzer(pattern.lit_ms), 0);
            }
            step(self.light(Some(pattern.colour)), pattern.lit_ms);
            step(self.light(None), pattern.dark_ms);
        }
        if let Some(in_service) = in_service {
            let colour = if in_service { IN_SERVICE } else { OUT_OF_SERVICE.colour };
            step(self.light(Some(colour)), 0);
        }
        steps
    }

    fn light(self, colour: Option<Colour>) -> Vec<u8> {
        let red_green = red_green(colour);
        let bits = match self {
            LampModel::Acr1255u => (red_green & 1) << 1 | red_green >> 1,
            LampModel::Acr122u | LampModel::Acr1252u => red_green,
        };
        vec![0xE0, 0x00, 0x00, 0x29, 0x01, bits]
    }
}

/// `P2`: final red, final green, then whether these are to be set; red and green while blinking, then whether they
/// blink. What does not blink is dark meanwhile.
fn acr122u_blink(pattern: &Pattern, in_service: Option<bool>) -> Step {
    let blinking = red_green(Some(pattern.colour));
    let final_light = match in_service {
        None => 0,
        Some(true) => 0b1100 | red_green(Some(IN_SERVICE)),
        Some(false) => 0b1100 | red_green(Some(OUT_OF_SERVICE.colour)),
    };
    let p2 = blinking << 6 | blinking << 4 | final_light;
    let link = match pattern.beep {
        Beep::Silent => 0,
        Beep::WithLight => 1,
        Beep::Throughout => 3,
    };
    let (t1, t2) = (units(pattern.lit_ms, 100), units(pattern.dark_ms, 100));
    Step { command: vec![0xFF, 0x00, 0x40, p2, 4, t1, t2, pattern.flashes, link], then_wait_ms: 0 }
}

fn buzzer(ms: u16) -> Vec<u8> {
    vec![0xE0, 0x00, 0x00, 0x28, 0x01, units(ms, 10)]
}

/// The longest that fits, if it does not.
fn units(ms: u16, unit_ms: u16) -> u8 {
    u8::try_from(ms / unit_ms).unwrap_or(u8::MAX)
}

/// Bit 0 red, bit 1 green.
fn red_green(colour: Option<Colour>) -> u8 {
    match colour {
        None => 0b00,
        Some(Colour::Red) => 0b01,
        Some(Colour::Green) => 0b10,
        Some(Colour::Amber) => 0b11,
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXUPPER;

    use super::*;
    use crate::signal::Signal;

    fn pattern(colour: Colour, lit_ms: u16, dark_ms: u16, flashes: u8, beep: Beep) -> Pattern {
        Pattern { colour, lit_ms, dark_ms, flashes, beep, until_replaced: false }
    }

    /// The commands with the waits between them.
    fn text(plan: &Plan) -> Vec<String> {
        let step = |step: &Step| match step.then_wait_ms {
            0 => HEXUPPER.encode(&step.command),
            ms => format!("{} {ms}", HEXUPPER.encode(&step.command)),
        };
        plan.steps.iter().map(step).collect()
    }

    #[track_caller]
    fn acr122u(pattern: Pattern, in_service: Option<bool>, published: &str) {
        assert_eq!(text(&LampModel::Acr122u.signal(&pattern, in_service)), [published.replace(' ', "")]);
    }

    #[test]
    fn published_acr122u_commands() {
        acr122u(pattern(Colour::Red, 500, 500, 3, Beep::WithLight), None, "FF 00 40 50 04 05 05 03 01");
        acr122u(pattern(Colour::Red, 2_000, 0, 1, Beep::WithLight), None, "FF 00 40 50 04 14 00 01 01");
        acr122u(pattern(Colour::Amber, 500, 500, 3, Beep::Throughout), None, "FF 00 40 F0 04 05 05 03 03");
        assert_eq!(text(&LampModel::Acr122u.standing(true, true)), ["FF00400F0400000000"]);
        assert_eq!(text(&LampModel::Acr122u.standing(false, false)), ["FF00400C0400000000"]);
    }

    #[test]
    fn success_of_an_acr122u_is_90_with_the_lights_state() {
        for state in [0x00, 0x01, 0x02, 0x03] {
            assert!(LampModel::Acr122u.succeeded(&[0x90, state]));
        }
        for answer in [&[0x63, 0x00][..], &[0x6A, 0x81], &[0x90], &[], &[0, 0x90, 0]] {
            assert!(!LampModel::Acr122u.succeeded(answer), "{answer:02X?}");
        }
    }

    #[test]
    fn success_of_an_acr1252u_is_a_response_of_one_byte() {
        assert!(LampModel::Acr1252u.succeeded(&[0xE1, 0, 0, 0, 1, 2]));
        assert!(!LampModel::Acr1252u.succeeded(&[0x90, 0]));
        assert!(!LampModel::Acr1252u.succeeded(&[0xE1, 0, 0, 0, 2, 2, 2]));
    }

    #[test]
    fn the_six_signals_on_an_acr122u_return_to_the_standing_light() {
        let commands = Signal::ALL.map(|signal| {
            let plan = LampModel::Acr122u.signal(signal.pattern(), Some(true));
            assert_eq!(plan.paths, [Path::Card, Path::Reader]);
            text(&plan).concat()
        });
        assert_eq!(
            commands,
            [
                "FF0040AF0403000101",
                "FF0040AF0401010201",
                "FF0040FF0401010301",
                "FF00405F0401010403",
                "FF0040FF0402030100",
                "FF00405F0403010301",
            ]
        );
        let out_of_service = LampModel::Acr122u.signal(Signal::OutOfService.pattern(), Some(false));
        assert_eq!(text(&out_of_service), ["FF00405D0403010301"]);
    }

    #[test]
    fn an_acr1252u_is_timed_from_here_in_units_of_10_ms() {
        let plan = LampModel::Acr1252u.signal(Signal::RecordedOffline.pattern(), Some(true));
        assert_eq!(plan.paths, [Path::Reader]);
        assert_eq!(
            text(&plan),
            [
                "E0000028010A",
                "E00000290102 100",
                "E00000290100 100",
                "E0000028010A",
                "E00000290102 100",
                "E00000290100 100",
                "E00000290103",
            ]
        );
        let plan = LampModel::Acr1252u.signal(Signal::NotABadge.pattern(), None);
        assert_eq!(text(&plan)[..3], ["E00000280150", "E00000290101 100", "E00000290100 100"]);
        assert_eq!(plan.steps.len(), 1 + 4 * 2);
    }

    #[test]
    fn an_acr1255u_has_its_colours_the_other_way_round() {
        let green = |model: LampModel| model.light(Some(Colour::Green)).pop().unwrap();
        let red = |model: LampModel| model.light(Some(Colour::Red)).pop().unwrap();
        assert_eq!((red(LampModel::Acr1252u), green(LampModel::Acr1252u)), (1, 2));
        assert_eq!((red(LampModel::Acr1255u), green(LampModel::Acr1255u)), (2, 1));
    }

    #[test]
    fn a_light_that_could_stay_on_is_not_lit_and_the_sound_says_it_alone() {
        for signal in Signal::ALL {
            assert_eq!(LampModel::Acr122u.sound_alone(signal.pattern()), None);
            let plan = LampModel::Acr1252u.sound_alone(signal.pattern()).unwrap();
            assert_eq!(plan.paths, [Path::Card]);
            assert!(plan.steps.iter().all(|step| step.command[3] == 0x28), "{signal}: {plan:?}");
        }
        let sound = |signal: Signal| text(&LampModel::Acr1255u.sound_alone(signal.pattern()).unwrap());
        assert_eq!(sound(Signal::RecordedOffline), ["E0000028010A 200", "E0000028010A 200"]);
        assert_eq!(sound(Signal::Wait), [""; 0]);
    }

    #[track_caller]
    fn is(pcsc_name: &str, model: Option<LampModel>) {
        assert_eq!(LampChoice::Auto.model(pcsc_name), model, "{pcsc_name}");
    }

    #[test]
    fn the_model_is_known_by_the_pcsc_name_and_a_strange_reader_is_left_alone() {
        is("ACS ACR122U PICC Interface 00 00", Some(LampModel::Acr122u));
        is("ACS ACR122U 01 00", Some(LampModel::Acr122u));
        is("ACS ACR1252 Dual Reader [ACR1252 Dual Reader PICC] 00 00", Some(LampModel::Acr1252u));
        is("ACS ACR1251 1S CL Reader [ACR1251 1S CL Reader PICC] 00 00", Some(LampModel::Acr1252u));
        is("ACS ACR1255U-J1 00 00", Some(LampModel::Acr1255u));
        is("ACS ACR1281 1S Dual Reader 00 01", None);
        is("HID Global OMNIKEY 5022 Smart Card Reader 00 00", None);
        is("Virtual PCD 00 00", None);
        assert_eq!(LampChoice::None.model("ACS ACR122U 00 00"), None);
        assert_eq!(LampChoice::Acr1252u.model("Virtual PCD 00 00"), Some(LampModel::Acr1252u));
    }
}
