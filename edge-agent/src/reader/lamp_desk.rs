//! Step 4 of 12, PC/SC: one reader's lamp, beside its card work and never in its way. Knows no PC/SC: that is a [`Wire`].
//!
//! A command to a lamp can take a second (an ACR122U answers when its beep is over) or for ever (pcscd hangs). So the
//! agent's loop only puts a wish into a mailbox, where the latest wins, and a thread of its own carries it out. A wish
//! that could not be shown in time is dropped: a late green would be taken for the next person's.
//!
//! A thread whose call hangs is left behind and replaced, once, as in `supervise`: when its call returns it finds that
//! its term is over. No failure of a lamp reaches anybody: it is said once, with what to do, and then counted.

use std::ffi::{CStr, CString};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tap_protocol::ids::ReaderName;
use tokio::sync::Notify;

use super::card_read::Oddity;
use super::lamp::{LampChoice, LampModel, Path, Plan};
use crate::signal::pattern::OUT_OF_SERVICE;
use crate::signal::{Lamp, Signal};

/// A wish older than this is not carried out any more: by then another card may be on the reader.
const LATE_AFTER_MS: u64 = 1_000;

/// The longest that *wait* is repeated. Whoever wished for it has long given up by then.
const LONGEST_REPEAT_MS: u64 = 10_000;

/// A call that lasts longer hangs: four times the longest signal.
const HANGS_AFTER_MS: u64 = 5_000;

/// Threads at a time: the one that works, and one that may be stuck.
const MOST_THREADS: usize = 2;

/// How long a stopping reader may take to show that it is out of service.
const FAREWELL: Duration = Duration::from_millis(300);

/// Why a command had no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WireError {
    /// There is no card through which to send it.
    NoCard,
    /// The driver does not let commands through to the reader itself.
    NotAllowed,
    /// Anything else, in its own words.
    Failed(String),
}

/// What carries commands to readers.
pub trait Wire: Send {
    /// Sends one command and gives the reader's answer. May block.
    fn send(&mut self, reader: &CStr, path: Path, command: &[u8]) -> Result<Vec<u8>, WireError>;
}

/// Makes a wire; called in the thread that will use it.
pub type MakeWire = Box<dyn Fn() -> Box<dyn Wire> + Send + Sync>;

/// Where a lamp's failures are counted. Must return at once.
pub type Count = Box<dyn Fn(Oddity) + Send + Sync>;

/// One reader's lamp; clones are the same. Closed by [`LampDesk::close`].
#[derive(Clone)]
pub struct LampDesk(Arc<Shared>);

struct Shared {
    reader: ReaderName,
    choice: LampChoice,
    clock: fn() -> u64,
    make_wire: MakeWire,
    count: Count,
    mailbox: Mutex<Mailbox>,
    news: Condvar,
    ended: Notify,
}

#[derive(Default)]
struct Mailbox {
    attached: Option<(CString, LampModel)>,
    in_service: Option<bool>,
    standing_is_news: bool,
    wish: Option<Wish>,
    closed: bool,
    /// The term of the thread that works; older ones end when they notice.
    term: u64,
    in_call_since_ms: Option<u64>,
    threads: usize,
    /// Complaints that were made since the reader was attached.
    said: Vec<&'static str>,
}

#[derive(Clone, Copy)]
struct Wish {
    signal: Signal,
    asked_ms: u64,
}

impl LampDesk {
    /// A lamp that is not attached yet.
    pub fn new(
        reader: ReaderName,
        choice: LampChoice,
        clock: fn() -> u64,
        make_wire: MakeWire,
        count: Count,
    ) -> LampDesk {
        LampDesk(Arc::new(Shared {
            reader,
            choice,
            clock,
            make_wire,
            count,
            mailbox: Mutex::default(),
            news: Condvar::new(),
            ended: Notify::new(),
        }))
    }

    /// The reader is there, under this PC/SC name. Its standing light may have been lost with its power.
    pub fn attached(&self, pcsc_name: &CStr) {
        let model = self.0.choice.model(&pcsc_name.to_string_lossy());
        self.put(|mailbox| {
            mailbox.attached = model.map(|model| (pcsc_name.to_owned(), model));
            mailbox.standing_is_news = true;
            mailbox.said.clear();
        });
    }

    /// The reader is gone, or pcscd is.
    pub fn detached(&self) {
        self.put(|mailbox| mailbox.attached = None);
    }

    /// For the agent.
    pub fn lamp(&self) -> Box<dyn Lamp> {
        Box::new(self.clone())
    }

    /// Nothing will be recorded here any more: says so by light if it can, and ends the thread.
    pub fn close(&self) {
        self.put(|mailbox| mailbox.closed = true);
    }

    /// After [`LampDesk::close`]: until the light says so, but not for long.
    pub async fn farewell(&self) {
        let runs = self.0.lock().threads > 0;
        if runs {
            let _ = tokio::time::timeout(FAREWELL, self.0.ended.notified()).await;
        }
    }

    /// Changes the mailbox and sees to it that somebody works on it. Never waits for a lamp.
    fn put(&self, change: impl FnOnce(&mut Mailbox)) {
        let mut mailbox = self.0.lock();
        change(&mut mailbox);
        let now_ms = (self.0.clock)();
        let stuck =
            mailbox.in_call_since_ms.is_some_and(|since_ms| now_ms.saturating_sub(since_ms) > HANGS_AFTER_MS);
        let wanted = mailbox.attached.is_some() && !mailbox.closed;
        if wanted && (mailbox.threads == 0 || stuck && mailbox.threads < MOST_THREADS) {
            mailbox.term += 1;
            mailbox.in_call_since_ms = None;
            let worker = Worker { shared: Arc::clone(&self.0), term: mailbox.term };
            // Without a thread there is no light; the next wish tries again.
            let name = format!("lamp-{}", self.0.reader);
            if thread::Builder::new().name(name).spawn(move || worker.run()).is_ok() {
                mailbox.threads += 1;
            }
        }
        self.0.news.notify_all();
    }
}

impl std::fmt::Debug for LampDesk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LampDesk({})", self.0.reader)
    }
}

impl Lamp for LampDesk {
    fn show(&mut self, reader: &ReaderName, signal: Signal) {
        if *reader == self.0.reader {
            let asked_ms = (self.0.clock)();
            self.put(|mailbox| mailbox.wish = Some(Wish { signal, asked_ms }));
        }
    }

    fn in_service(&mut self, reader: &ReaderName, yes: bool) {
        if *reader == self.0.reader {
            self.put(|mailbox| {
                mailbox.standing_is_news |= mailbox.in_service != Some(yes);
                mailbox.in_service = Some(yes);
            });
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread's work. Dropping it, be it by a panic, makes room for the next.
struct Worker {
    shared: Arc<Shared>,
    term: u64,
}

/// The next thing to do, and for which reader.
enum Job {
    Show {
        reader: CString,
        model: LampModel,
        wish: Wish,
        in_service: Option<bool>,
    },
    Stand {
        reader: CString,
        model: LampModel,
        in_service: bool,
    },
    /// The light of a reader that is out of service blinks.
    Blink,
}

/// The mailbox was closed, or a newer thread has taken over.
struct Over;

/// How a plan ended.
#[derive(PartialEq, Eq)]
enum Ended {
    Done,
    /// Something newer came.
    Replaced,
    /// It had no effect.
    Failed,
}

impl Worker {
    fn run(self) {
        let mut wire = (self.shared.make_wire)();
        let mut standing = None;
        let mut lit = true;
        while let Ok(job) = self.next(standing.is_some()) {
            match job {
                Job::Show { reader, model, wish, in_service } => {
                    self.show(&mut *wire, &reader, model, wish, in_service);
                }
                Job::Stand { reader, model, in_service } => {
                    lit = true;
                    let done = self.carry_out(&mut *wire, &reader, model, &model.standing(in_service, lit));
                    standing = (done == Ended::Done && !in_service).then_some((reader, model));
                }
                Job::Blink => {
                    lit = !lit;
                    if let Some((reader, model)) = &standing {
                        let done = self.carry_out(&mut *wire, reader, *model, &model.standing(false, lit));
                        // A light that cannot be changed any more is tried again when there is news.
                        standing = standing.filter(|_| done == Ended::Done);
                    }
                }
            }
        }
        self.farewell(&mut *wire);
    }

    /// Waits for something to do.
    fn next(&self, blinking: bool) -> Result<Job, Over> {
        let mut mailbox = self.shared.lock();
        loop {
            if mailbox.closed || mailbox.term != self.term {
                return Err(Over);
            }
            if let Some((reader, model)) = mailbox.attached.clone() {
                if let Some(wish) = mailbox.wish.take() {
                    if (self.shared.clock)().saturating_sub(wish.asked_ms) <= LATE_AFTER_MS {
                        return Ok(Job::Show { reader, model, wish, in_service: mailbox.in_service });
                    }
                    (self.shared.count)(Oddity::LampLate);
                    continue;
                }
                if let (true, Some(in_service)) = (mailbox.standing_is_news, mailbox.in_service) {
                    mailbox.standing_is_news = false;
                    return Ok(Job::Stand { reader, model, in_service });
                }
            }
            let blink = blinking && mailbox.attached.is_some();
            mailbox = if blink {
                let half = Duration::from_millis(OUT_OF_SERVICE.lit_ms.into());
                let (mailbox, waited) =
                    self.shared.news.wait_timeout(mailbox, half).unwrap_or_else(PoisonError::into_inner);
                if waited.timed_out() {
                    return Ok(Job::Blink);
                }
                mailbox
            } else {
                self.shared.news.wait(mailbox).unwrap_or_else(PoisonError::into_inner)
            };
        }
    }

    fn show(
        &self,
        wire: &mut dyn Wire,
        reader: &CStr,
        model: LampModel,
        wish: Wish,
        in_service: Option<bool>,
    ) {
        let pattern = wish.signal.pattern();
        let whole = model.signal(pattern, in_service);
        let started_ms = (self.shared.clock)();
        let mut turn_ms = started_ms;
        let mut done = self.carry_out(wire, reader, model, &whole);
        if let (Ended::Failed, Some(sound)) = (&done, model.sound_alone(pattern)) {
            done = self.carry_out(wire, reader, model, &sound);
        }
        while done == Ended::Done && pattern.until_replaced {
            // A reader may have answered before it was through.
            let now_ms = (self.shared.clock)();
            let left_ms = u64::from(pattern.total_ms()).saturating_sub(now_ms.saturating_sub(turn_ms));
            if self.is_replaced(Duration::from_millis(left_ms)) || now_ms >= started_ms + LONGEST_REPEAT_MS {
                return;
            }
            turn_ms = (self.shared.clock)();
            done = self.carry_out(wire, reader, model, &whole);
        }
    }

    /// Command by command; gives up between two of them if something newer is to be shown.
    fn carry_out(&self, wire: &mut dyn Wire, reader: &CStr, model: LampModel, plan: &Plan) -> Ended {
        let mut paths = plan.paths.iter().copied();
        let Some(mut path) = paths.next() else { return Ended::Failed };
        for step in &plan.steps {
            loop {
                let why = match self.call(|| wire.send(reader, path, &step.command)) {
                    Ok(answer) if model.succeeded(&answer) => break,
                    Ok(_) => WireError::Failed("the reader did not understand the command".to_owned()),
                    Err(why) => why,
                };
                match (why, paths.next()) {
                    (WireError::NoCard, Some(other)) => path = other,
                    (why, _) => {
                        self.complain(reader, &why);
                        return Ended::Failed;
                    }
                }
            }
            if step.then_wait_ms > 0 && self.is_replaced(Duration::from_millis(step.then_wait_ms.into())) {
                return Ended::Replaced;
            }
        }
        Ended::Done
    }

    /// Notes how long a call lasts, for whoever wonders whether it hangs.
    fn call<T>(&self, call: impl FnOnce() -> T) -> T {
        let set = |since_ms: Option<u64>| {
            let mut mailbox = self.shared.lock();
            if mailbox.term == self.term {
                mailbox.in_call_since_ms = since_ms;
            }
        };
        set(Some((self.shared.clock)()));
        let answer = call();
        set(None);
        answer
    }

    /// Waits, unless something newer comes.
    fn is_replaced(&self, wait: Duration) -> bool {
        let news =
            |mailbox: &mut Mailbox| mailbox.wish.is_some() || mailbox.closed || mailbox.term != self.term;
        let quiet = |mailbox: &mut Mailbox| !news(mailbox);
        let waited = self.shared.news.wait_timeout_while(self.shared.lock(), wait, quiet);
        let (mut mailbox, _) = waited.unwrap_or_else(PoisonError::into_inner);
        news(&mut mailbox)
    }

    fn farewell(&self, wire: &mut dyn Wire) {
        let attached = {
            let mailbox = self.shared.lock();
            mailbox.attached.clone().filter(|_| mailbox.term == self.term && mailbox.in_service.is_some())
        };
        if let Some((reader, model)) = attached {
            self.carry_out(wire, &reader, model, &model.standing(false, true));
        }
    }

    /// Says each kind once for as long as the reader is attached, and counts all.
    fn complain(&self, reader: &CStr, why: &WireError) {
        let (kind, oddity) = match why {
            WireError::NotAllowed => ("not_allowed", Oddity::LampNotAllowed),
            WireError::NoCard => ("no_card", Oddity::LampFailed),
            WireError::Failed(_) => ("failed", Oddity::LampFailed),
        };
        (self.shared.count)(oddity);
        let mut mailbox = self.shared.lock();
        if mailbox.said.contains(&kind) {
            return;
        }
        mailbox.said.push(kind);
        drop(mailbox);
        let (name, pcsc_name) = (&self.shared.reader, reader.to_string_lossy());
        match why {
            WireError::NotAllowed => tracing::warn!(
                reader = %name,
                "The driver lets no light commands through to \"{pcsc_name}\" while no card is on it, so out of \
                 service cannot be seen before a tap; taps are recorded as ever. To allow them, set ifdDriverOptions \
                 to 0x0001 in /etc/libccid_Info.plist, then: systemctl restart pcscd.service"
            ),
            WireError::NoCard => tracing::debug!(reader = %name, "the card left before its signal was shown"),
            WireError::Failed(error) => tracing::warn!(
                reader = %name,
                "The light of \"{pcsc_name}\" does not work: {error}. Taps are recorded as ever; if it is another \
                 model than its name says, set lamp = \"none\" for this reader"
            ),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.lock().threads -= 1;
        self.shared.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc;

    use data_encoding::HEXUPPER;

    use super::*;

    /// What a call hangs at until the test opens it.
    type Gate = Arc<OnceLock<()>>;

    /// A reader that says what it was told, and answers like an ACR122U or like an ACR1252U.
    struct FakeWire {
        heard: mpsc::SyncSender<String>,
        card: bool,
        allowed: bool,
        gate: Gate,
    }

    impl Wire for FakeWire {
        fn send(&mut self, _: &CStr, path: Path, command: &[u8]) -> Result<Vec<u8>, WireError> {
            match path {
                Path::Card if !self.card => return Err(WireError::NoCard),
                Path::Reader if !self.allowed => return Err(WireError::NotAllowed),
                Path::Card | Path::Reader => {}
            }
            self.heard.send(HEXUPPER.encode(command)).map_err(|_| WireError::Failed("over".into()))?;
            self.gate.wait();
            Ok(if command[0] == 0xFF { vec![0x90, 0x02] } else { vec![0xE1, 0, 0, 0, 1, 0] })
        }
    }

    struct Rig {
        desk: LampDesk,
        heard: mpsc::Receiver<String>,
        counted: mpsc::Receiver<Oddity>,
        gate: Gate,
    }

    fn name() -> ReaderName {
        "in".parse().unwrap()
    }

    fn still() -> u64 {
        1_000
    }

    fn rig(choice: LampChoice, card: bool, allowed: bool, clock: fn() -> u64) -> Rig {
        let (tell, heard) = mpsc::sync_channel(100);
        let gate = Gate::default();
        let his = Arc::clone(&gate);
        let make = move || -> Box<dyn Wire> {
            Box::new(FakeWire { heard: tell.clone(), card, allowed, gate: Arc::clone(&his) })
        };
        let (count, counted) = mpsc::sync_channel(100);
        let count = Box::new(move |oddity| count.send(oddity).unwrap());
        Rig { desk: LampDesk::new(name(), choice, clock, Box::new(make), count), heard, counted, gate }
    }

    impl Rig {
        fn open(self) -> Rig {
            self.gate.set(()).unwrap();
            self.desk.attached(c"Reader");
            self
        }

        fn show(&self, signal: Signal) {
            self.desk.lamp().show(&name(), signal);
        }

        fn hears(&self, command: &str) {
            assert_eq!(self.heard.recv_timeout(Duration::from_secs(10)).unwrap(), command);
        }

        fn counts(&self, oddity: Oddity) {
            assert_eq!(self.counted.recv_timeout(Duration::from_secs(10)).unwrap(), oddity);
        }

        /// Whatever the lamp was still to do is done.
        fn ends(&self) {
            self.desk.close();
            while self.desk.0.lock().threads > 0 {
                thread::yield_now();
            }
        }
    }

    const RECORDED: &str = "FF0040A00403000101";
    const NOT_A_BADGE: &str = "FF0040500401010403";

    #[test]
    fn a_signal_is_shown_and_somebody_elses_is_not() {
        let rig = rig(LampChoice::Acr122u, true, false, still).open();
        rig.desk.lamp().show(&"out".parse().unwrap(), Signal::OutOfService);
        rig.show(Signal::Recorded);
        rig.hears(RECORDED);
        rig.ends();
        assert!(rig.heard.try_recv().is_err() && rig.counted.try_recv().is_err());
    }

    #[test]
    fn a_reader_of_no_known_model_is_told_nothing() {
        let rig = rig(LampChoice::Auto, true, true, still).open();
        rig.show(Signal::Recorded);
        assert_eq!(rig.desk.0.lock().threads, 0);
    }

    #[test]
    fn of_the_wishes_that_came_meanwhile_the_latest_wins() {
        let rig = rig(LampChoice::Acr122u, true, false, still);
        rig.desk.attached(c"Reader");
        rig.show(Signal::Recorded);
        rig.hears(RECORDED);
        rig.show(Signal::OutOfService);
        rig.show(Signal::RecordedOffline);
        rig.show(Signal::NotABadge);
        rig.gate.set(()).unwrap();
        rig.hears(NOT_A_BADGE);
        rig.ends();
        assert!(rig.heard.try_recv().is_err());
    }

    #[test]
    fn a_wish_that_comes_too_late_is_dropped() {
        static NOW: AtomicU64 = AtomicU64::new(0);
        let rig = rig(LampChoice::Acr122u, true, false, || NOW.load(Ordering::Relaxed));
        rig.desk.attached(c"Reader");
        rig.show(Signal::NotABadge);
        rig.hears(NOT_A_BADGE);
        rig.show(Signal::Recorded);
        NOW.store(LATE_AFTER_MS + 1, Ordering::Relaxed);
        rig.gate.set(()).unwrap();
        rig.counts(Oddity::LampLate);
        rig.ends();
        assert!(rig.heard.try_recv().is_err(), "a late green was shown");
    }

    #[test]
    fn a_thread_that_hangs_is_replaced_once_and_nobody_waits_for_it() {
        static NOW: AtomicU64 = AtomicU64::new(0);
        let rig = rig(LampChoice::Acr122u, true, false, || NOW.load(Ordering::Relaxed));
        rig.desk.attached(c"Reader");
        for later in [0, 1, 2, 3] {
            NOW.store(later * (HANGS_AFTER_MS + 1), Ordering::Relaxed);
            rig.show(Signal::Recorded);
            if later < 2 {
                rig.hears(RECORDED);
            }
        }
        assert_eq!(rig.desk.0.lock().threads, MOST_THREADS);
        rig.gate.set(()).unwrap();
        rig.hears(RECORDED);
        rig.ends();
    }

    #[test]
    fn without_permission_a_light_that_could_stay_on_is_not_lit_but_the_beep_is_heard() {
        let rig = rig(LampChoice::Acr1252u, true, false, still).open();
        rig.desk.lamp().in_service(&name(), true);
        rig.show(Signal::Recorded);
        rig.hears("E0000028011E");
        rig.counts(Oddity::LampNotAllowed);
        rig.ends();
        assert!(rig.heard.try_recv().is_err(), "a light was lit");
        assert_eq!(rig.desk.0.lock().said, ["not_allowed"]);
    }

    #[test]
    fn out_of_service_blinks_before_any_tap_and_in_service_is_steady() {
        let rig = rig(LampChoice::Acr122u, false, true, still).open();
        rig.desk.lamp().in_service(&name(), false);
        for command in ["FF00400D0400000000", "FF00400C0400000000", "FF00400D0400000000"] {
            rig.hears(command);
        }
        rig.desk.lamp().in_service(&name(), true);
        rig.hears("FF00400F0400000000");
        // Were it still blinking, this would not be the next.
        rig.show(Signal::Recorded);
        rig.hears("FF0040AF0403000101");
    }

    #[test]
    fn a_reader_that_comes_back_gets_its_standing_light_again() {
        let rig = rig(LampChoice::Acr122u, false, true, still).open();
        rig.desk.lamp().in_service(&name(), true);
        rig.hears("FF00400F0400000000");
        rig.desk.detached();
        rig.desk.attached(c"Reader");
        rig.hears("FF00400F0400000000");
    }

    #[test]
    fn please_wait_goes_on_until_something_else_is_shown() {
        let rig = rig(LampChoice::Acr1252u, false, true, still).open();
        rig.show(Signal::Wait);
        for _ in 0..2 {
            rig.hears("E00000290103");
            rig.hears("E00000290100");
        }
        rig.show(Signal::Recorded);
        while rig.heard.recv_timeout(Duration::from_secs(10)).unwrap() != "E0000028011E" {}
        rig.hears("E00000290102");
        rig.hears("E00000290100");
        rig.ends();
    }

    #[test]
    fn a_reader_that_answers_at_once_is_not_told_to_wait_again_and_again() {
        let rig = rig(LampChoice::Acr122u, true, false, still).open();
        rig.show(Signal::Wait);
        rig.hears("FF0040F00402030100");
        let much_sooner = Duration::from_millis(u64::from(Signal::Wait.pattern().total_ms()) / 2);
        assert!(rig.heard.recv_timeout(much_sooner).is_err());
        rig.hears("FF0040F00402030100");
    }

    #[tokio::test]
    async fn a_reader_that_stops_says_that_it_is_out_of_service() {
        let rig = rig(LampChoice::Acr122u, false, true, still).open();
        rig.desk.lamp().in_service(&name(), true);
        rig.hears("FF00400F0400000000");
        rig.desk.close();
        rig.desk.farewell().await;
        rig.hears("FF00400D0400000000");
        assert_eq!(rig.desk.0.lock().threads, 0);
        rig.show(Signal::Recorded);
        assert_eq!(rig.desk.0.lock().threads, 0);
    }
}
