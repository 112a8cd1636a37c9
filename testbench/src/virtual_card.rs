//! A badge held to the virtual PC/SC reader: the card's side of vsmartcard's vpcd protocol. It doesn't know pcscd's clients.
//!
//! Frames are a two-byte big-endian length and a payload. A payload of one byte is a control code, anything longer
//! an APDU; the card speaks only when asked for its ATR or given an APDU. To connect is to hold the badge to the
//! reader, to hang up is to take it away.

use std::{io, net::SocketAddr, time::Duration};

use data_encoding::HEXUPPER_PERMISSIVE;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::stopwatch::{Stopwatch, boottime_us};

/// What Debian's `/etc/reader.conf.d/vpcd` makes the first virtual reader listen on.
pub const VPCD_PORT: u16 = 35_963;

/// How long a badge is held by default. The virtual reader is polled every 400 ms and misses shorter taps.
pub const HOLD: Duration = Duration::from_millis(700);

/// How long the reader is left empty between two badges. If it were given the next one before it noticed that the
/// last has gone, it would take them for one, and its client could talk to neither.
pub const EMPTY: Duration = Duration::from_millis(500);

/// After this long without its UID having been read, the badge is taken away.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// ATR of a contactless storage card (PC/SC part 3, 3.1.3.2.3.1): NXP MIFARE Ultralight / NTAG.
const CONTACTLESS_ATR: [u8; 20] = [
    0x3B, 0x8F, 0x80, 0x01, 0x80, 0x4F, 0x0C, 0xA0, 0x00, 0x00, 0x03, 0x06, 0x03, 0x00, 0x03, 0x00, 0x00,
    0x00, 0x00, 0x68,
];

/// Get Data, PC/SC part 3, 3.2.2.1.3: the UID, all of it.
const GET_UID: [u8; 5] = [0xFF, 0xCA, 0x00, 0x00, 0x00];

/// SW1 SW2: normal completion.
const COMPLETED: [u8; 2] = [0x90, 0x00];

/// SW1 SW2: function not supported.
const NOT_SUPPORTED: [u8; 2] = [0x6A, 0x81];

/// A badge and how it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualCard {
    atr: Vec<u8>,
    uid_answer: Vec<u8>,
    lamp_answer: Option<Vec<u8>>,
    give_up_after: Duration,
}

impl VirtualCard {
    /// A well-behaved contactless badge.
    pub fn with_uid(uid: &[u8]) -> Self {
        Self {
            atr: CONTACTLESS_ATR.to_vec(),
            uid_answer: [uid, &COMPLETED].concat(),
            lamp_answer: None,
            give_up_after: GIVE_UP_AFTER,
        }
    }

    /// Answers the UID command with exactly these bytes, status word included or left out: `6A81`, `9000`, nothing.
    pub fn answering(self, uid_answer: impl Into<Vec<u8>>) -> Self {
        Self { uid_answer: uid_answer.into(), ..self }
    }

    /// Its reader answers commands to its lamp with exactly these bytes, instead of doing what they say.
    pub fn with_lamp_answering(self, lamp_answer: impl Into<Vec<u8>>) -> Self {
        Self { lamp_answer: Some(lamp_answer.into()), ..self }
    }

    /// Has this ATR, however malformed.
    pub fn with_atr(self, atr: impl Into<Vec<u8>>) -> Self {
        Self { atr: atr.into(), ..self }
    }

    /// Is taken away after this long, if nobody reads its UID.
    pub fn giving_up_after(self, give_up_after: Duration) -> Self {
        Self { give_up_after, ..self }
    }

    /// Holds the badge to the reader at `addr` until its UID was read and `hold` is over.
    ///
    /// # Errors
    ///
    /// When there is no reader at `addr`, or a frame breaks off.
    pub async fn present(&self, addr: SocketAddr, hold: Duration) -> io::Result<Tap> {
        let mut line = Line::connect(addr).await?;
        let held = Stopwatch::start();
        let mut tap = Tap::new(boottime_us());
        loop {
            let until =
                if tap.uid_answered_boottime_us.is_some() { hold } else { self.give_up_after.max(hold) };
            let Ok(frame) = timeout(until.saturating_sub(held.elapsed()), line.receive()).await else {
                break;
            };
            let Some(payload) = frame? else {
                tap.reader_gone = true;
                break;
            };
            if let Some(answer) = self.answer(&payload, &mut tap) {
                if payload == GET_UID {
                    tap.uid_answered_boottime_us.get_or_insert_with(boottime_us);
                }
                line.send(answer).await?;
            }
        }
        tap.held_ms = held.elapsed_ms();
        Ok(tap)
    }

    /// What the card says to one payload, if anything; counts it.
    fn answer<'a>(&'a self, payload: &[u8], tap: &mut Tap) -> Option<&'a [u8]> {
        const POWER_ON: u8 = 1;
        const RESET: u8 = 2;
        const SEND_ATR: u8 = 4;
        match payload {
            [POWER_ON | RESET] => {
                tap.power_ups += 1;
                None
            }
            [SEND_ATR] => {
                tap.atr_requests += 1;
                Some(&self.atr)
            }
            // Power off, and codes that nobody has defined.
            [] | [_] => None,
            apdu => {
                tap.apdus += 1;
                if apdu == GET_UID {
                    return Some(&self.uid_answer);
                }
                let Some(done) = lamp_done(apdu) else { return Some(&NOT_SUPPORTED) };
                tap.lamp_commands.push(HEXUPPER_PERMISSIVE.encode(apdu));
                Some(self.lamp_answer.as_deref().unwrap_or(done))
            }
        }
    }
}

/// What a reader says that has done what a command to its lamp told it; `None` if it is another command. The virtual
/// reader has no lamp and hands everything to the card, which plays both.
fn lamp_done(apdu: &[u8]) -> Option<&'static [u8]> {
    match apdu {
        // ACR122U: the second byte is the light's state, here green.
        [0xFF, 0x00, 0x40, _, 0x04, ..] => Some(&[0x90, 0x02]),
        // ACR1252U: buzzer and light.
        [0xE0, 0x00, 0x00, 0x28 | 0x29, 0x01, _] => Some(&[0xE1, 0x00, 0x00, 0x00, 0x01, 0x00]),
        _ => None,
    }
}

/// What happened to a badge while it was held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    /// How often the reader powered it up or reset it.
    pub power_ups: u32,
    /// How often it was asked for its ATR.
    pub atr_requests: u32,
    /// How many APDUs it answered.
    pub apdus: u32,
    /// Those among them that were for the reader's lamp, hexadecimal.
    pub lamp_commands: Vec<String>,
    /// When it came to the reader, in microseconds on `CLOCK_BOOTTIME`.
    pub inserted_boottime_us: u64,
    /// When it began to answer the first UID command, on the same clock; `None` if nobody asked.
    pub uid_answered_boottime_us: Option<u64>,
    /// How long it was held.
    pub held_ms: u64,
    /// Whether the reader hung up first.
    pub reader_gone: bool,
}

impl Tap {
    fn new(inserted_boottime_us: u64) -> Self {
        Self {
            power_ups: 0,
            atr_requests: 0,
            apdus: 0,
            lamp_commands: Vec::new(),
            inserted_boottime_us,
            uid_answered_boottime_us: None,
            held_ms: 0,
            reader_gone: false,
        }
    }

    /// Whether somebody asked for the UID and got the card's answer.
    pub fn uid_was_read(&self) -> bool {
        self.uid_answered_boottime_us.is_some()
    }
}

/// A connection to vpcd, frame by frame.
struct Line(TcpStream);

impl Line {
    async fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// The next payload, or `None` at the end of the connection. Not cancel-safe: a dropped call may lose a frame.
    async fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        let length = match self.0.read_u16().await {
            Ok(length) => length,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut payload = vec![0; usize::from(length)];
        self.0.read_exact(&mut payload).await?;
        // The kernel falls back to delayed acknowledgements by itself, and vpcd sends length and payload
        // separately with Nagle on: unless re-armed after each read, an exchange takes 44 ms.
        rustix::net::sockopt::set_tcp_quickack(&self.0, true)?;
        Ok(Some(payload))
    }

    async fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        let length =
            u16::try_from(payload.len()).map_err(|_| io::Error::other("an answer is below 64 KiB"))?;
        self.0.write_all(&[&length.to_be_bytes(), payload].concat()).await
    }
}

/// One line to `virtual-card --stdin`: `tap UID [hold_ms] [answer=HEX] [lamp=HEX] [atr=HEX] [give_up_ms=MS]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapCommand {
    /// The badge.
    pub card: VirtualCard,
    /// How long it is held.
    pub hold: Duration,
}

impl std::str::FromStr for TapCommand {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        if words.next() != Some("tap") {
            return Err(format!(
                "expected `tap UID [hold_ms] [answer=HEX] [lamp=HEX] [atr=HEX] [give_up_ms=MS]`, got `{line}`"
            ));
        }
        let uid = words.next().ok_or("`tap` needs a UID")?;
        let mut command = Self { card: VirtualCard::with_uid(&parse_hex(uid)?), hold: HOLD };
        for word in words {
            if let Some(hex) = word.strip_prefix("answer=") {
                command.card = command.card.answering(parse_hex(hex)?);
            } else if let Some(hex) = word.strip_prefix("lamp=") {
                command.card = command.card.with_lamp_answering(parse_hex(hex)?);
            } else if let Some(hex) = word.strip_prefix("atr=") {
                command.card = command.card.with_atr(parse_hex(hex)?);
            } else if let Some(ms) = word.strip_prefix("give_up_ms=") {
                command.card = command.card.giving_up_after(parse_ms(ms)?);
            } else {
                command.hold = parse_ms(word)?;
            }
        }
        Ok(command)
    }
}

impl std::fmt::Display for TapCommand {
    /// The line that [`FromStr`](std::str::FromStr) reads back.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The answer says all that the UID would.
        write!(
            f,
            "tap 00 {} answer={} atr={} give_up_ms={}",
            self.hold.as_millis(),
            HEXUPPER_PERMISSIVE.encode(&self.card.uid_answer),
            HEXUPPER_PERMISSIVE.encode(&self.card.atr),
            self.card.give_up_after.as_millis()
        )?;
        match &self.card.lamp_answer {
            Some(answer) => write!(f, " lamp={}", HEXUPPER_PERMISSIVE.encode(answer)),
            None => Ok(()),
        }
    }
}

fn parse_ms(digits: &str) -> Result<Duration, String> {
    digits
        .parse()
        .map(Duration::from_millis)
        .map_err(|_| format!("`{digits}` isn't a number of milliseconds"))
}

/// Bytes from hexadecimal digits of either case.
///
/// # Errors
///
/// Says what is wrong with them.
pub fn parse_hex(digits: &str) -> Result<Vec<u8>, String> {
    HEXUPPER_PERMISSIVE.decode(digits.as_bytes()).map_err(|e| format!("`{digits}` isn't hexadecimal: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const UID: [u8; 7] = [0x04, 0xA2, 0x24, 0xB1, 0xC2, 0xD3, 0x80];

    /// A reader without pcscd: sends the payloads, collects an answer to each that deserves one, then `after`.
    async fn read_card(card: VirtualCard, hold: Duration, ask: &[&[u8]]) -> (Tap, Vec<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let reader = async {
            let mut line = Line(listener.accept().await.unwrap().0);
            let mut answers = Vec::new();
            for payload in ask {
                line.send(payload).await.unwrap();
                if payload.len() > 1 || payload == &[4] {
                    answers.push(line.receive().await.unwrap().expect("the card is still there"));
                }
            }
            assert_eq!(line.receive().await.unwrap(), None, "the card says nothing unasked");
            answers
        };
        let (tap, answers) = tokio::join!(card.present(addr, hold), reader);
        (tap.unwrap(), answers)
    }

    #[tokio::test]
    async fn a_badge_gives_its_atr_and_its_uid_and_refuses_the_rest() {
        let hold = Duration::from_millis(50);
        let ask: &[&[u8]] = &[&[1], &[4], &GET_UID, &[0x00, 0xA4, 0x04, 0x00], &[0]];
        let (tap, answers) = read_card(VirtualCard::with_uid(&UID), hold, ask).await;
        assert_eq!(answers, [CONTACTLESS_ATR.to_vec(), [&UID[..], &[0x90, 0x00]].concat(), vec![0x6A, 0x81]]);
        assert_eq!((tap.power_ups, tap.atr_requests, tap.apdus), (1, 1, 2));
        assert!(tap.uid_was_read() && !tap.reader_gone && tap.held_ms >= 50, "{tap:?}");
    }

    #[tokio::test]
    async fn a_badge_nobody_reads_is_taken_away_in_the_end() {
        let card = VirtualCard::with_uid(&UID).giving_up_after(Duration::from_millis(30));
        let (tap, _) = read_card(card, Duration::ZERO, &[&[1], &[4]]).await;
        assert!(!tap.uid_was_read() && tap.held_ms >= 30, "{tap:?}");
    }

    #[tokio::test]
    async fn scripted_answers_go_out_as_they_are() {
        for answer in [&[0x6A, 0x81][..], &[0x6E, 0x00], &[0x90, 0x00], &[], &[0xFF; 300]] {
            let card = VirtualCard::with_uid(&UID).answering(answer).with_atr([0x3B]);
            let (_, answers) = read_card(card, Duration::ZERO, &[&[4], &GET_UID]).await;
            assert_eq!(answers, [&[0x3B], answer]);
        }
    }

    #[tokio::test]
    async fn commands_to_a_lamp_are_answered_as_by_its_reader_and_noted() {
        let acr122u = [0xFF, 0x00, 0x40, 0x50, 0x04, 0x05, 0x05, 0x03, 0x01];
        let acr1252u = [0xE0, 0x00, 0x00, 0x28, 0x01, 0x0A];
        let ask: &[&[u8]] = &[&GET_UID, &acr122u, &acr1252u];
        let (tap, answers) = read_card(VirtualCard::with_uid(&UID), Duration::from_millis(50), ask).await;
        assert_eq!(answers[1..], [vec![0x90, 0x02], vec![0xE1, 0, 0, 0, 1, 0]]);
        assert_eq!(tap.lamp_commands, ["FF0040500405050301", "E0000028010A"]);
        let broken = VirtualCard::with_uid(&UID).with_lamp_answering([0x63, 0x00]);
        let (_, answers) = read_card(broken, Duration::from_millis(50), ask).await;
        assert_eq!(answers[1..], [[0x63, 0x00], [0x63, 0x00]]);
    }

    #[tokio::test]
    async fn a_reader_that_hangs_up_ends_the_tap() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let card = VirtualCard::with_uid(&UID);
        let (tap, ()) =
            tokio::join!(card.present(addr, HOLD), async { drop(listener.accept().await.unwrap()) });
        assert!(tap.unwrap().reader_gone);
    }

    #[test]
    fn a_tap_command_reads_back_as_written() {
        let command: TapCommand = "tap 04a224B1C2D380 650 atr=3B00 lamp=6300 give_up_ms=900".parse().unwrap();
        let card = VirtualCard::with_uid(&UID).with_atr([0x3B, 0x00]).with_lamp_answering([0x63, 0x00]);
        assert_eq!(command.card, card.giving_up_after(Duration::from_millis(900)));
        assert_eq!(command.hold, Duration::from_millis(650));
        assert_eq!(command.to_string().parse::<TapCommand>().unwrap(), command);
    }

    #[test]
    fn a_bad_tap_command_says_what_is_wrong() {
        let complaint = |line: &str| line.parse::<TapCommand>().unwrap_err();
        assert!(complaint("").contains("expected `tap UID"));
        assert!(complaint("tap").contains("needs a UID"));
        assert!(complaint("tap 0G").contains("isn't hexadecimal"));
        assert!(complaint("tap 04 soon").contains("milliseconds"));
    }
}
