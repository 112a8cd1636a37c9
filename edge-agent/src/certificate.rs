//! Beside the line: what a certificate says of itself: from when to when it is valid, whose it is and who made it. Only that
//! is read, to be shown and to know when to renew; whom to trust is rustls' business. Pure.
//!
//! X.509 (RFC 5280) in DER: a certificate is `SEQUENCE { SEQUENCE { [0] version?, INTEGER serial, SEQUENCE algorithm,
//! SEQUENCE issuer, SEQUENCE { Time notBefore, Time notAfter }, SEQUENCE subject, … } … }`. Issuer and subject are
//! `SEQUENCE { SET { SEQUENCE { OBJECT type, text } … } … }`.

use data_encoding::HEXLOWER;
use serde::Serialize;

/// Seconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Dates {
    /// Valid from then on.
    pub not_before_s: i64,
    /// And no longer than that.
    pub not_after_s: i64,
}

/// What is read of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct About {
    /// Whose it is: the subject's common name.
    pub subject: String,
    /// Who made it: the issuer's common name.
    pub issuer: String,
    /// Its number, hexadecimal.
    pub serial: String,
    /// From when to when it holds.
    #[serde(flatten)]
    pub dates: Dates,
}

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xA0;
const SET: u8 = 0x31;

/// `SEQUENCE { OBJECT 2.5.4.3` begins a common name: the object's five bytes.
const COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];

/// Of a certificate's own bytes; `None` if they are none.
pub fn of_der(der: &[u8]) -> Option<About> {
    let (certificate, _) = field(der, SEQUENCE)?;
    let (to_be_signed, _) = field(certificate, SEQUENCE)?;
    let rest = field(to_be_signed, VERSION).map_or(to_be_signed, |(_, rest)| rest);
    let (serial, rest) = field(rest, INTEGER)?;
    let (_, rest) = field(rest, SEQUENCE)?;
    let (issuer, rest) = field(rest, SEQUENCE)?;
    let (validity, rest) = field(rest, SEQUENCE)?;
    let (not_before_s, more) = time(validity)?;
    let (not_after_s, _) = time(more)?;
    let (subject, _) = field(rest, SEQUENCE)?;
    Some(About {
        subject: common_name(subject).unwrap_or_default(),
        issuer: common_name(issuer).unwrap_or_default(),
        serial: HEXLOWER.encode(serial.strip_prefix(&[0]).unwrap_or(serial)),
        dates: Dates { not_before_s, not_after_s },
    })
}

/// The first common name, without what could confuse a terminal.
fn common_name(mut names: &[u8]) -> Option<String> {
    while !names.is_empty() {
        let (set, rest) = field(names, SET)?;
        let (pair, _) = field(set, SEQUENCE)?;
        if let Some(value) = pair.strip_prefix(&COMMON_NAME) {
            let text = value.first().and_then(|tag| field(value, *tag))?.0;
            let text = String::from_utf8_lossy(text);
            return Some(text.chars().filter(|letter| !letter.is_control()).collect());
        }
        names = rest;
    }
    None
}

/// Takes one field of this type off the front: its content and what follows.
fn field(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = der.split_first_chunk()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7F => (usize::from(first), rest),
        // A length of one to four bytes.
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// `YYMMDDhhmmssZ` (50 and later are of the last century) or `YYYYMMDDhhmmssZ`.
fn time(der: &[u8]) -> Option<(i64, &[u8])> {
    let (text, rest, year_digits) = match field(der, UTC_TIME) {
        Some((text, rest)) => (text, rest, 2),
        None => field(der, GENERALIZED_TIME).map(|(text, rest)| (text, rest, 4))?,
    };
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if text.len() != year_digits + 10 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = |from: usize, to: usize| text[from..to].parse::<i64>().ok();
    let year = match (year_digits, number(0, year_digits)?) {
        (2, year @ 0..50) => 2000 + year,
        (2, year) => 1900 + year,
        (_, year) => year,
    };
    let part = |n: usize| number(year_digits + 2 * n, year_digits + 2 * n + 2);
    let (month, day) = (part(0)?, part(1)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds = part(2)? * 3_600 + part(3)? * 60 + part(4)?;
    Some((days_since_1970(year, month, day) * 86_400 + seconds, rest))
}

/// Howard Hinnant's `days_from_civil`: years begin in March, so that leap days come last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrolment::sample;

    fn of_time(tag: u8, text: &str) -> Option<i64> {
        let der = [&[tag, text.len() as u8], text.as_bytes()].concat();
        time(&der).map(|(seconds, _)| seconds)
    }

    #[test]
    fn both_forms_of_a_date_are_read() {
        assert_eq!(of_time(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(of_time(UTC_TIME, "261121123624Z"), Some(1_795_264_584));
        assert_eq!(of_time(UTC_TIME, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(of_time(GENERALIZED_TIME, "20500101000000Z"), Some(2_524_608_000));
        assert_eq!(of_time(GENERALIZED_TIME, "20240229120000Z"), Some(1_709_208_000));
        assert_eq!(of_time(GENERALIZED_TIME, "99991231235959Z"), Some(253_402_300_799));
        for bad in ["", "26112112362", "261321123624Z", "26112112362xZ", "2611211236é4Z"] {
            assert_eq!(of_time(UTC_TIME, bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_certificate_says_whose_it_is_who_made_it_and_how_long_it_holds() {
        let mut params = sample::params("hq-door-12");
        params.serial_number = Some(vec![0x8a, 0x01].into());
        let root = rcgen::Issuer::new(sample::params("root\u{1b}[2J"), rcgen::KeyPair::generate().unwrap());
        let certificate = params.signed_by(&rcgen::KeyPair::generate().unwrap(), &root).unwrap();
        let about = of_der(certificate.der()).unwrap();
        assert_eq!((about.subject.as_str(), about.issuer.as_str()), ("hq-door-12", "root[2J"));
        assert_eq!(about.serial, "8a01");
        assert_eq!(about.dates, Dates { not_before_s: 1_798_761_600, not_after_s: 1_801_353_600 });
        let cut = certificate.der().len();
        for end in 0..cut {
            assert!(of_der(&certificate.der()[..end]).is_none(), "{end} bytes of {cut}");
        }
    }

    #[test]
    fn no_bytes_however_wrong_are_more_than_nothing() {
        for length in 0..64 {
            for byte in [0x00, 0x30, 0x80, 0x84, 0xA0, 0xFF] {
                assert_eq!(of_der(&vec![byte; length]), None);
            }
        }
        assert_eq!(of_der(&[0x30, 0x84, 0xFF, 0xFF, 0xFF, 0xFF]), None);
    }
}
