//! Step 1 of 12, PC/SC: a card in the field of a reader behind pcscd. Knows no badge rules; step 2 does.
//!
//! One thread, one context. The wait has an end ([`TURN_MS`]), after which the list of readers is looked through, so
//! that nothing depends on an event alone: drivers forget to report removals (CCID #92), and the pseudo reader
//! `\\?PnP?\Notification` misses readers and returns early (PCSC #190, pcsc-tools #76), so it is not used at all.
//!
//! Any error that is not about the card ends the session: the context is dropped, because one that outlives pcscd
//! stays dead while `is_valid` says otherwise, and a new one is established after a wait ([`Retry`]). There is no
//! other way from an error to the next call, so no error can spin. What hangs is `supervise`'s business.
//!
//! No transaction: GET DATA is one exchange with the reader, and beginning a transaction waits without limit for
//! whoever holds one. A card is left powered (`LeaveCard`), the crate's default would reset it for others.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::time::Duration;

use pcsc::{Context, Error, MAX_BUFFER_SIZE, ReaderState, Scope, State};
use tap_protocol::badge::Credential;
use tap_protocol::ids::ReaderName;
use tokio::sync::mpsc;

use super::lamp::LampChoice;
use super::lamp_desk::{LampDesk, Wire};
use super::pcsc_lamp::{self, PcscWire};
use super::retry::Retry;
use super::supervise::{self, Term, TermOver};
use super::watch::{Echo, Look, Watch};
use super::{
    CardRead, DownReason, Oddity, OwnedLamp, ReaderEvent, ReaderKind, RecoveryStep, Reject, RunningReader,
    TURN_MS, apdu, is_called,
};

/// How often a card is asked, with [`ASK_AGAIN_AFTER`] between: a third of a second, which a hand holds still.
const MOST_ASKS: u32 = 6;

/// Long enough for a card to settle in the field.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Waits in a row that may end early with nothing new, as for changes of power or sharing, before they are slowed
/// down: some drivers end every wait at once.
const MOST_EMPTY_WAKES: u32 = 10;

/// The slowed-down wait.
const EMPTY_WAKE_PAUSE: Duration = Duration::from_millis(100);

/// Which PC/SC reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcscConfig {
    /// The reader's name within its controller.
    pub name: ReaderName,
    /// A part of its PC/SC name, in any case; without one, the first reader is taken.
    pub name_contains: Option<String>,
    /// Its light and sound.
    pub lamp: LampChoice,
}

/// Starts reading. Must be called within a tokio runtime. `clock` gives milliseconds of CLOCK_BOOTTIME.
pub fn spawn(config: PcscConfig, events: mpsc::Sender<ReaderEvent>, clock: fn() -> u64) -> RunningReader {
    let make_wire = Box::new(|| -> Box<dyn Wire> { Box::new(PcscWire::default()) });
    let (reader, count) = (config.name.clone(), events.clone());
    // A lamp waits for nobody either: where there is no room, a failure of its is not counted.
    let count = Box::new(move |what| _ = count.try_send(ReaderEvent::Odd { reader: reader.clone(), what }));
    let lamp = LampDesk::new(config.name.clone(), config.lamp, clock, make_wire, count);
    let his = lamp.clone();
    let running =
        supervise::spawn(config.name.clone(), ReaderKind::Pcsc, events, clock, move |term: &Term| {
            let watch = Watch::new(term.card_in_field());
            let Err(over) = Desk { config: &config, term, watch, echo: Echo::default(), lamp: &his }.run();
            over
        });
    RunningReader { lamp: Some(OwnedLamp(lamp)), ..running }
}

/// One term's work.
struct Desk<'a> {
    config: &'a PcscConfig,
    term: &'a Term,
    watch: Watch,
    echo: Echo,
    lamp: &'a LampDesk,
}

/// Why a session with pcscd ended.
enum End {
    Over(TermOver),
    Lost(DownReason),
}

impl From<TermOver> for End {
    fn from(over: TermOver) -> End {
        End::Over(over)
    }
}

impl Desk<'_> {
    /// Session after session.
    fn run(&mut self) -> Result<Infallible, TermOver> {
        let mut retry = Retry::default();
        let mut last_kind = None;
        loop {
            let started_ms = self.term.now();
            let why = match self.session(last_kind.is_some()) {
                Err(End::Over(over)) => return Err(over),
                Err(End::Lost(why)) => why,
            };
            self.lamp.detached();
            let seen_before = last_kind.replace(why.kind()) == Some(why.kind());
            self.down(if seen_before { why } else { at_first(why) })?;
            self.term.pause(retry.failed(self.term.now().saturating_sub(started_ms)))?;
        }
    }

    /// One context, until it fails.
    fn session(&mut self, after_loss: bool) -> Result<Infallible, End> {
        let context = self.term.call(|| Context::establish(Scope::System)).map_err(lost)?;
        if after_loss {
            self.term.recovered(RecoveryStep::Context);
        }
        let Err(end) = self.serve(&context);
        // Releasing talks to pcscd, so it may hang like everything else.
        self.term.call(|| drop(context));
        Err(end)
    }

    /// Attends the reader as soon as there is one.
    fn serve(&mut self, context: &Context) -> Result<Infallible, End> {
        loop {
            if let Some(reader) = self.choose(context)? {
                return self.attend(context, &reader);
            }
            self.term.pause(Duration::from_millis(TURN_MS))?;
        }
    }

    /// The reader to attend, if it is there.
    fn choose(&mut self, context: &Context) -> Result<Option<CString>, End> {
        let names = self.readers(context)?;
        let chosen = choose(&names, self.config.name_contains.as_deref());
        if chosen.is_none() {
            let present = names.iter().map(|name| name.to_string_lossy().into_owned()).collect();
            self.down(DownReason::NoReader { wanted: self.config.name_contains.clone(), present })?;
        }
        Ok(chosen.cloned())
    }

    fn readers(&self, context: &Context) -> Result<Vec<CString>, End> {
        self.term.call(|| context.list_readers_owned()).map_err(lost)
    }

    /// Wait after wait at one reader, until it or pcscd is gone.
    fn attend(&mut self, context: &Context, reader: &CStr) -> Result<Infallible, End> {
        let gone = || End::Lost(DownReason::ReaderGone { name: reader.to_string_lossy().into_owned() });
        let mut states = [ReaderState::new(reader, State::UNAWARE)];
        let mut empty_wakes = 0;
        self.watch.forget_count();
        self.lamp.attached(reader);
        loop {
            let waited =
                self.term.call(|| context.get_status_change(Duration::from_millis(TURN_MS), &mut states));
            let seen_at_boottime_ms = self.term.now();
            match waited {
                Ok(()) => {}
                Err(Error::Timeout) => {
                    if !self.readers(context)?.iter().any(|name| name.as_c_str() == reader) {
                        return Err(gone());
                    }
                }
                Err(Error::UnknownReader | Error::ReaderUnavailable) => return Err(gone()),
                Err(error) => return Err(lost(error)),
            }
            let [state] = &mut states;
            if state.event_state().intersects(State::UNKNOWN | State::UNAVAILABLE | State::IGNORE) {
                return Err(gone());
            }
            self.up(reader)?;
            self.term.waited()?;
            if waited.is_err() {
                empty_wakes = 0;
                continue;
            }
            if self.notice(context, state, seen_at_boottime_ms)? {
                empty_wakes = 0;
            } else {
                empty_wakes += 1;
                if empty_wakes > MOST_EMPTY_WAKES {
                    self.term.pause(EMPTY_WAKE_PAUSE)?;
                }
            }
            state.sync_current_state();
        }
    }

    /// Does what a change of state calls for; gives whether there was any.
    fn notice(
        &mut self,
        context: &Context,
        state: &ReaderState,
        seen_at_boottime_ms: u64,
    ) -> Result<bool, End> {
        let flags = state.event_state();
        let change = self.watch.look(Look {
            card: flags.contains(State::PRESENT),
            mute: flags.contains(State::MUTE),
            // 16 bits by definition.
            event_count: state.event_count() as u16,
        });
        if change.removed {
            self.echo.removed(seen_at_boottime_ms);
            self.say(|reader| ReaderEvent::Removed { reader, at_boottime_ms: seen_at_boottime_ms })?;
        }
        if change.read {
            match self.read(context, state.name())? {
                Ok(credential) => {
                    let atr = Some(state.atr()).filter(|atr| !atr.is_empty()).map(<[u8]>::to_vec);
                    let missed = change.missed;
                    let suspicious = self.echo.read(&credential, seen_at_boottime_ms);
                    self.say(|reader| {
                        ReaderEvent::Card(CardRead { reader, credential, seen_at_boottime_ms, atr, missed })
                    })?;
                    // After the tap, which it must not keep waiting.
                    if suspicious {
                        let what = Oddity::SameNumberAgain;
                        self.say(|reader| ReaderEvent::Odd { reader, what })?;
                    }
                    return Ok(true);
                }
                Err(why) => self.say(|reader| ReaderEvent::Rejected { reader, why })?,
            }
        }
        if change.missed > 0 {
            let why = Reject::TooQuick(change.missed);
            self.say(|reader| ReaderEvent::Rejected { reader, why })?;
        }
        Ok(change.removed || change.read || change.missed > 0)
    }

    /// Asks the card for its number, several times if need be.
    fn read(&mut self, context: &Context, reader: &CStr) -> Result<Result<Credential, Reject>, End> {
        let mut last = Reject::CardGone;
        for ask in 0..MOST_ASKS {
            if ask > 0 {
                self.term.pause(ASK_AGAIN_AFTER)?;
            }
            match self.term.call(|| ask_uid(context, reader)) {
                Ok(answer) => match apdu::parse_uid_answer(&answer) {
                    Ok(credential) => return Ok(Ok(credential)),
                    Err(why) if apdu::is_worth_asking_again(why) => last = why,
                    Err(why) => return Ok(Err(why)),
                },
                Err(error) => match fate(error) {
                    Fate::AskAgain(why) => last = why,
                    Fate::GiveUp(why) => return Ok(Err(why)),
                    Fate::Lost => return Err(lost(error)),
                },
            }
        }
        Ok(Err(last))
    }

    fn up(&self, reader: &CStr) -> Result<(), TermOver> {
        let detail = reader.to_string_lossy().into_owned();
        self.say(|reader| ReaderEvent::Up { reader, detail })
    }

    fn down(&self, why: DownReason) -> Result<(), TermOver> {
        self.say(|reader| ReaderEvent::Down { reader, why })
    }

    fn say(&self, event: impl FnOnce(ReaderName) -> ReaderEvent) -> Result<(), TermOver> {
        self.term.say(event(self.term.reader().clone()))
    }
}

/// The first reader whose name contains `wanted`, in any case.
fn choose<'a>(names: &'a [CString], wanted: Option<&str>) -> Option<&'a CString> {
    names.iter().find(|name| is_called(&name.to_string_lossy(), wanted))
}

/// A reader that pcscd has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// Its PC/SC name.
    pub name: String,
    /// Whether a card is on it.
    pub card: bool,
}

/// The readers that pcscd has now. For people; blocks for as long as pcscd does.
pub fn present() -> Result<Vec<Present>, DownReason> {
    let reason = |error| match lost(error) {
        End::Lost(why) => why,
        End::Over(TermOver) => unreachable!("an error is not the end of a term"),
    };
    let context = Context::establish(Scope::System).map_err(reason)?;
    let names = context.list_readers_owned().map_err(reason)?;
    let mut states: Vec<ReaderState> =
        names.into_iter().map(|name| ReaderState::new(name, State::UNAWARE)).collect();
    if !states.is_empty() {
        context.get_status_change(Duration::ZERO, &mut states).map_err(reason)?;
    }
    let present = states.iter().map(|state| Present {
        name: state.name().to_string_lossy().into_owned(),
        card: state.event_state().contains(State::PRESENT),
    });
    Ok(present.collect())
}

/// One connection, one question, one answer.
fn ask_uid(context: &Context, reader: &CStr) -> Result<Vec<u8>, Error> {
    let card = pcsc_lamp::connect(context, reader)?;
    let mut buffer = [0; MAX_BUFFER_SIZE];
    let answer = card.transmit(&apdu::GET_UID, &mut buffer).map(<[u8]>::to_vec);
    pcsc_lamp::leave(card);
    answer
}

/// What an error while reading means.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It may pass.
    AskAgain(Reject),
    /// The card is not there any more, or will never answer.
    GiveUp(Reject),
    /// It is not about the card: a new session is needed.
    Lost,
}

fn fate(error: Error) -> Fate {
    match error {
        Error::NoSmartcard | Error::RemovedCard => Fate::GiveUp(Reject::CardGone),
        Error::SharingViolation => Fate::AskAgain(Reject::Busy),
        Error::UnresponsiveCard | Error::UnpoweredCard => Fate::AskAgain(Reject::Mute),
        Error::NoService
        | Error::ServiceStopped
        | Error::Shutdown
        | Error::CommError
        | Error::InvalidHandle
        | Error::UnknownReader
        | Error::ReaderUnavailable
        | Error::SecurityViolation => Fate::Lost,
        // ResetCard above all, and whatever a driver thinks of.
        other => Fate::AskAgain(Reject::Transmit(other as u32)),
    }
}

/// The session cannot go on.
fn lost(error: Error) -> End {
    End::Lost(match error {
        Error::NoService => DownReason::NoService,
        Error::ServiceStopped | Error::Shutdown | Error::CommError | Error::InvalidHandle => {
            DownReason::ServiceLost
        }
        Error::SecurityViolation | Error::NoAccess => DownReason::NotAllowed,
        other => DownReason::Pcsc { error: format!("{other} ({:08X})", other as u32) },
    })
}

/// pcscd refuses a user by hanging up, and one that dies hangs up too: only twice in a row is a refusal.
fn at_first(why: DownReason) -> DownReason {
    if why == DownReason::NotAllowed { DownReason::ServiceLost } else { why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn chooses(wanted: Option<&str>, expect: Option<&str>) {
        let names = [
            c"\\\\?PnP?\\Notification".to_owned(),
            c"ACS ACR122U PICC Interface 00 00".to_owned(),
            c"HID Global OMNIKEY 5022 [CL] 01 00".to_owned(),
        ];
        let chosen = choose(&names, wanted).map(|name| name.to_str().unwrap());
        assert_eq!(chosen, expect, "{wanted:?}");
    }

    #[test]
    fn a_reader_is_chosen_by_a_part_of_its_name() {
        chooses(None, Some("ACS ACR122U PICC Interface 00 00"));
        chooses(Some(""), Some("ACS ACR122U PICC Interface 00 00"));
        chooses(Some("OMNIKEY 5022"), Some("HID Global OMNIKEY 5022 [CL] 01 00"));
        chooses(Some("omnikey"), Some("HID Global OMNIKEY 5022 [CL] 01 00"));
        chooses(Some(" 00 00"), Some("ACS ACR122U PICC Interface 00 00"));
        chooses(Some("ACR1252"), None);
        chooses(Some("Notification"), None);
    }

    #[test]
    fn errors_about_the_card_do_not_end_the_session_and_others_do() {
        assert_eq!(fate(Error::RemovedCard), Fate::GiveUp(Reject::CardGone));
        assert_eq!(fate(Error::NoSmartcard), Fate::GiveUp(Reject::CardGone));
        assert_eq!(fate(Error::SharingViolation), Fate::AskAgain(Reject::Busy));
        assert_eq!(fate(Error::UnpoweredCard), Fate::AskAgain(Reject::Mute));
        assert_eq!(fate(Error::ResetCard), Fate::AskAgain(Reject::Transmit(0x8010_0068)));
        for error in [Error::CommError, Error::NoService, Error::InvalidHandle, Error::ReaderUnavailable] {
            assert_eq!(fate(error), Fate::Lost, "{error:?}");
        }
    }

    #[test]
    fn what_a_lost_session_is_called() {
        let kind = |error| match lost(error) {
            End::Lost(why) => why.kind(),
            End::Over(TermOver) => "over",
        };
        assert_eq!(kind(Error::NoService), "no_service");
        assert_eq!(kind(Error::CommError), "service_lost");
        assert_eq!(kind(Error::InvalidHandle), "service_lost");
        assert_eq!(kind(Error::SecurityViolation), "not_allowed");
        assert_eq!(kind(Error::NoMemory), "pcsc");
    }
}
