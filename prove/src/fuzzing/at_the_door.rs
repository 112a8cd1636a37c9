//! What a controller reads from cards, readers, people and its configuration.

use edge_agent::certificate;
use edge_agent::config::Config;
use edge_agent::control::Request;
use edge_agent::enrolment::bundle as enrolled;
use edge_agent::reader::apdu::parse_uid_answer;
use edge_agent::reader::framing::Framing;
use edge_agent::reader::number_line::{Base, LineFormat, LineTechnology};
use edge_agent::reader::wiegand::{Digits, WiegandFormat};
use edge_agent::reader::{atr, interpret};
use edge_agent::roster::book::Book;
use tap_protocol::badge::{Credential, Token, TokenKey, TokenKeyId};
use tap_protocol::enrolment::Bundle;
use tap_protocol::roster::{ENTRY_BYTES, RosterHead};

/// A number that was read must survive being written down, sealed and shown.
fn check_credential(credential: &Credential) {
    let key = TokenKey::new(TokenKeyId(1), [0x33; 32]);
    assert_eq!(key.open(&key.seal(credential)).as_ref(), Ok(credential));
    interpret::interpretations(credential);
}

pub fn card_answer(bytes: &[u8]) {
    if let Ok(credential) = parse_uid_answer(bytes) {
        check_credential(&credential);
        assert_eq!(
            credential.reveal().parse().as_ref(),
            Ok(&credential),
            "a card's number is read as it is told"
        );
        assert!(bytes.starts_with(credential.bits()), "no byte of a number that the card did not send");
    }
}

pub fn atr(bytes: &[u8]) {
    assert!(!atr::read(bytes).to_string().is_empty());
    atr::has_processor(bytes);
}

/// The first byte says which reader, the second where the stream is cut in two.
pub fn serial(bytes: &[u8]) {
    let [which, cut, stream @ ..] = bytes else { return };
    let line = |base, digits, technology, prefix: &str| {
        let (prefix, suffix) = (prefix.to_owned(), String::new());
        Framing::Line(LineFormat { prefix, suffix, base, digits, technology, bits: None })
    };
    let framing = match which % 6 {
        0 => Framing::Em4100,
        1 => line(Base::Hex, 8, LineTechnology::Hf, ""),
        2 => line(Base::Hex, 10, LineTechnology::Em4100, "UID:"),
        3 => Framing::Wiegand(WiegandFormat::default()),
        4 => Framing::Wiegand(WiegandFormat { digits: Digits::HexLeft, ..WiegandFormat::default() }),
        _ => Framing::Wiegand(WiegandFormat { digits: Digits::Binary, ..WiegandFormat::default() }),
    };
    let whole: Vec<_> = framing.parser().feed(stream).collect();
    assert!(whole.len() <= stream.len(), "at most one number a byte");
    whole.iter().flatten().for_each(check_credential);
    let (first, second) = stream.split_at(usize::from(*cut).min(stream.len()));
    let mut parser = framing.parser();
    let mut pieces: Vec<_> = parser.feed(first).collect();
    pieces.extend(parser.feed(second));
    assert_eq!(pieces, whole, "where the bytes were cut must not matter");
}

pub fn badge(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(credential) = text.parse::<Credential>() {
        check_credential(&credential);
        assert_eq!(credential.reveal().parse().as_ref(), Ok(&credential));
    }
}

pub fn control(bytes: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let again = serde_json::to_vec(&request).expect("a question is JSON");
        assert_eq!(serde_json::from_slice::<Request>(&again).ok(), Some(request));
    }
}

pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = Config::from_text("fuzz.toml", text) {
        // An empty file is wrong in its first line.
        assert!(error.line.is_none_or(|line| (1..=text.lines().count().max(1) + 1).contains(&line)));
        assert!(!error.message.is_empty());
    }
}

/// The first line is a place, the second a value, the rest the file.
pub fn config_edit(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines = text.splitn(3, '\n');
    let (Some(path), Some(value), Some(file)) = (lines.next(), lines.next(), lines.next()) else { return };
    if let Ok(changed) = strict_config::set(file, path, value) {
        let twice = strict_config::set(&changed, path, value).expect("what was set can be set again");
        assert_eq!(twice, changed, "setting the same again changes nothing");
    }
}

/// All entries of a roster.
pub fn roster_book(bytes: &[u8]) {
    let head = RosterHead {
        controller: "hq-door-12".parse().expect("a slug"),
        version: 7,
        issued_utc_ms: 1,
        expires_utc_ms: 2,
        entries: (bytes.len() / ENTRY_BYTES) as u32,
        chunks: Vec::new(),
    };
    let Ok(book) = Book::new(head, bytes.to_vec(), 0) else { return };
    for entry in bytes.chunks_exact(ENTRY_BYTES) {
        let token = Token(entry[..16].try_into().expect("sixteen bytes"));
        assert_eq!(
            book.standing(token).map(|standing| standing as u8),
            Some(entry[16]),
            "what is on it is found"
        );
    }
}

/// A certificate's own bytes.
pub fn certificate(bytes: &[u8]) {
    if let Some(about) = certificate::of_der(bytes) {
        assert!(
            !about.subject.chars().chain(about.issuer.chars()).any(char::is_control),
            "fit for a terminal"
        );
    }
}

/// What the cloud hands out at enrolment.
pub fn bundle(bytes: &[u8]) {
    let Ok(bundle) = serde_json::from_slice::<Bundle>(bytes) else { return };
    if let Ok(checked) = enrolled::check(bundle.clone()) {
        assert_eq!(checked.certificate.subject, bundle.controller.as_str());
        assert!(checked.broker.tls && !checked.files().is_empty());
    }
}
