//! Takes out of a text what may identify a card or open a lock. Pure.
//!
//! A card's number is known nowhere on a controller, so it cannot be searched for; what could be one is taken out: eight or
//! more hexadecimal digits in a row (decimal ones included), or four or more pairs with one separator. That is more than
//! needed, which is the right side to err on. What stays are ids of our own that are named.

use serde_json::Value;

/// What stands instead.
const GONE: &str = "[removed]";

/// The shortest card number has four bytes.
const SHORTEST_DIGITS: usize = 8;
const FEWEST_PAIRS: usize = 4;

/// 32 bytes in base64 are 43 letters; a shorter word may be any word.
const LONG_WORD: usize = 40;

/// What is looked for, and what may stay.
#[derive(Debug, Default)]
pub struct Scrub {
    secrets: Vec<String>,
    known: Vec<String>,
}

impl Scrub {
    /// `secrets` are removed in any case of letters; `known` are hexadecimal ids that may stay.
    pub fn new(secrets: Vec<String>, known: Vec<String>) -> Scrub {
        // A secret's padding may be left away.
        let secrets = secrets.into_iter().map(|secret| secret.trim_end_matches('=').to_lowercase()).collect();
        let known = known.into_iter().map(|id| id.replace('-', "").to_lowercase()).collect();
        Scrub { secrets, known }
    }

    /// Every text in `value`, keys included.
    pub fn json(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.json(item)),
            Value::Object(fields) => {
                let old = std::mem::take(fields);
                for (key, mut value) in old {
                    self.json(&mut value);
                    fields.insert(self.text(&key), value);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// The text without what must not be in it.
    pub fn text(&self, text: &str) -> String {
        let text = without_private_keys(text);
        let text = self.without_secrets(&text);
        let mut out = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(letter) = rest.chars().next() {
            let starts_word = out.chars().last().is_none_or(|before| !is_base64(before));
            let taken = match self.number(rest) {
                0 if starts_word => encoded(rest),
                0 => 0,
                number => number,
            };
            if taken > 0 {
                // Several in a row are one.
                if !out.ends_with(GONE) {
                    out.push_str(GONE);
                }
                rest = &rest[taken..];
            } else {
                // A run that may stay, stays whole: its tail alone would look like another.
                let id = uuid(rest).filter(|id| self.is_known(id)).map_or(0, str::len);
                let stays = digits(rest).max(id).max(letter.len_utf8());
                out.push_str(&rest[..stays]);
                rest = &rest[stays..];
            }
        }
        out
    }

    /// How many bytes at the front may be a card's number.
    fn number(&self, text: &str) -> usize {
        let run = digits(text);
        let id = uuid(text).unwrap_or(&text[..run]);
        match run {
            SHORTEST_DIGITS.. if self.is_known(id) => 0,
            SHORTEST_DIGITS.. => id.len(),
            _ => pairs(text),
        }
    }

    fn is_known(&self, id: &str) -> bool {
        self.known.contains(&id.replace('-', "").to_lowercase())
    }

    fn without_secrets(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for secret in self.secrets.iter().filter(|secret| !secret.is_empty()) {
            // Same length, because only ASCII letters change.
            while let Some(at) = out.to_ascii_lowercase().find(secret.as_str()) {
                let end = at + secret.len();
                let padding = out[end..].bytes().take_while(|byte| *byte == b'=').count();
                out.replace_range(at..end + padding, GONE);
            }
        }
        out
    }
}

/// Hexadecimal digits at the front.
fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_hexdigit).count()
}

/// `01234567-89ab-cdef-0123-456789abcdef` at the front.
fn uuid(text: &str) -> Option<&str> {
    const LENGTHS: [usize; 5] = [8, 4, 4, 4, 12];
    let mut at = 0;
    for (i, length) in LENGTHS.into_iter().enumerate() {
        if i > 0 {
            at += text.get(at..)?.strip_prefix('-').map(|_| 1)?;
        }
        if digits(text.get(at..)?) != length {
            return None;
        }
        at += length;
    }
    text.get(..at)
}

/// `04 A2 24 B1`, `04:a2:24:b1`, `0x04, 0xa2, 0x24, 0xb1` at the front.
fn pairs(text: &str) -> usize {
    let mut at = 0;
    let mut end = 0;
    let mut count = 0;
    let mut separator = None;
    loop {
        let prefix = if text[at..].starts_with("0x") || text[at..].starts_with("0X") { 2 } else { 0 };
        if digits(&text[at + prefix..]) != 2 {
            break;
        }
        count += 1;
        end = at + prefix + 2;
        let between = text[end..].bytes().take_while(|byte| b" :-,.".contains(byte)).count();
        let here = &text[end..end + between];
        if between == 0 || between > 2 || *separator.get_or_insert(here) != here {
            break;
        }
        at = end + between;
    }
    if count >= FEWEST_PAIRS { end } else { 0 }
}

fn is_base64(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '+' | '/' | '-' | '_')
}

/// A word at the front that may be a secret in base64: one that ends with padding, whatever letters it has (a token of 16
/// bytes can have a slash every few letters, as a path does), or a long one that is no path.
fn encoded(text: &str) -> usize {
    let length = text.chars().take_while(|letter| is_base64(*letter)).count();
    let (word, after) = text.split_at(length);
    let padding = after.bytes().take_while(|byte| *byte == b'=').count();
    // `name=value` and `name="value"` are no padding.
    let next = after[padding..].trim_start_matches(['"', '\'']).chars().next();
    let is_the_end = next.is_none_or(|next| !is_base64(next));
    if (1..=2).contains(&padding) && (length + padding) % 4 == 0 && length >= 6 && is_the_end {
        return length + padding;
    }
    let has = |wanted: fn(&u8) -> bool| word.as_bytes().iter().any(wanted);
    let is_mixed = has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase) && has(u8::is_ascii_digit);
    let is_path = word.starts_with('/') || word.matches('/').count() > length / 12;
    if length >= LONG_WORD && is_mixed && !is_path { length + padding.min(2) } else { 0 }
}

/// PEM, whatever is around it.
fn without_private_keys(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in text.split_inclusive('\n') {
        let begins = line.contains("-----BEGIN") && line.contains("PRIVATE KEY");
        if begins && !inside {
            out.push_str(&format!("{GONE}\n"));
        }
        inside |= begins;
        if !inside {
            out.push_str(line);
        }
        if line.contains("-----END") {
            inside = false;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &str) {
        let known = vec!["000102030405060708090a0b0c0d0e0f".to_owned()];
        let scrub = Scrub::new(vec!["AbCdEf+/12==".into()], known);
        assert_eq!(scrub.text(text), expect);
        let mut value = serde_json::json!({ "a": [text] });
        scrub.json(&mut value);
        assert_eq!(value, serde_json::json!({ "a": [expect] }));
    }

    #[test]
    fn whatever_may_be_a_cards_number_goes() {
        for number in [
            "04A224B1",
            "04a224b1c2d380",
            "04A224B1C2D38011AA55",
            "1302563249",
            "04 A2 24 B1 C2 D3 80",
            "04:a2:24:b1",
            "04-A2-24-B1",
            "0x04, 0xa2, 0x24, 0xb1",
            "04.A2.24.B1",
            "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
            "BKIkscLTgA==",
            "UsPLl/44GTBgVYX/dD3KUw==",
            "/sPLl/44GTBg/YX/dD3KUw==",
            "QKIZSCLTGA==",
            "n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=",
            "n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg",
            "AbCdEf+/12",
            "ABCDEF+/12==",
        ] {
            check(number, GONE);
            check(&format!("card {number}, said"), &format!("card {GONE}, said"));
        }
        check(r#"{"token":"UsPLl/44GTBgVYX/dD3KUw=="}"#, r#"{"token":"[removed]"}"#);
        check("UID04A224B1X", "UI[removed]X");
        check("hf:04A224B1C2D380 twice 04A224B1C2D380", "hf:[removed] twice [removed]");
    }

    #[test]
    fn what_a_person_needs_to_read_stays() {
        for text in [
            "2026-11-21T12:36:24+0000 hq-door-1 edge-agent[4711]: reader is up: ACS ACR122U PICC Interface 00 00",
            "/dev/serial/by-id/usb-1a86_USB_Serial-if00-port0",
            "/sys/bus/usb/devices/usb1/1-1.2/power/control/something/long/enough",
            "record 1234567 of 000102030405060708090a0b0c0d0e0f",
            "boot 00010203-0405-0607-0809-0a0b0c0d0e0f",
            "no broker at broker.example.com:1883: connection refused (os error 111)",
            "SYSLOG_IDENTIFIER=edge-agent key=value broker.url = \"mqtts://broker.example.com\"",
            "192.168.178.21",
            "MESSAGE=hello message=\"hello\"",
            "für Öffner",
        ] {
            check(text, text);
        }
    }

    #[test]
    fn a_private_key_goes_whole() {
        check(
            "before\n-----BEGIN EC PRIVATE KEY-----\nabc\ndef\n-----END EC PRIVATE KEY-----\nafter\n",
            "before\n[removed]\nafter\n",
        );
        check("-----BEGIN PRIVATE KEY-----\ncut off", "[removed]\n");
    }
}
