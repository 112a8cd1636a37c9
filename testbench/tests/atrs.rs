//! Every answer to reset that Debian's collection knows (package pcsc-tools, some 4,000) through the code that reads them.
//! The collection is under the GPL, so it is read where the package puts it.

use std::{collections::BTreeMap, fs};

use data_encoding::HEXUPPER;
use edge_agent::{
    admission::{Admission, Admitted},
    reader::{
        atr::{self, Kind},
        card_read::CardRead,
    },
};
use tap_protocol::ids::ReaderName;

const COLLECTION: &str = "/usr/share/pcsc/smartcard_list.txt";

/// The entries: hexadecimal bytes and at times `..`, which stands for any byte.
fn entries() -> Vec<String> {
    let text = fs::read(COLLECTION).unwrap_or_else(|error| {
        panic!("{COLLECTION}: {error}; it is in the package pcsc-tools, which ./dev setup installs")
    });
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines = text.lines().filter(|line| !line.starts_with(['#', '\t', ' ']) && !line.trim().is_empty());
    lines.map(|line| line.trim().to_uppercase()).collect()
}

/// An entry's bytes, with `any` for whatever is left open: `.` for a digit, `[4,9]` and `[1-3]` for one of some, `.*` for
/// the rest.
fn bytes(entry: &str, any: u8) -> Vec<u8> {
    let any = format!("{any:02X}");
    let mut digits = String::new();
    let mut rest = entry.replace(".*", "").replace(' ', "");
    while let Some(c) = rest.chars().next() {
        let (digit, length) = match c {
            '[' => (rest.chars().nth(1), rest.find(']').expect("a choice ends") + 1),
            '.' => (any.chars().nth(digits.len() % 2), 1),
            digit => (Some(digit), 1),
        };
        digits.extend(digit);
        rest = rest.split_off(length);
    }
    HEXUPPER.decode(digits.as_bytes()).unwrap_or_else(|error| panic!("{entry}: {error}"))
}

/// The entry's bytes for several choices of what it leaves open.
fn choices(entry: &str) -> impl Iterator<Item = Vec<u8>> {
    [0x00, 0x3B, 0x7F, 0x80, 0xFF].into_iter().map(|any| bytes(entry, any))
}

#[test]
fn no_answer_to_reset_that_was_ever_seen_stops_a_tap() {
    let reader: ReaderName = "in".parse().unwrap();
    for entry in entries() {
        for atr in choices(&entry) {
            for number in ["04A224B1C2D380", "E43B6777", "E004015012345678", "04112233445566778899"] {
                let read = CardRead {
                    reader: reader.clone(),
                    credential: number.parse().unwrap(),
                    seen_at_boottime_ms: 0,
                    atr: Some(atr.clone()),
                    missed: 0,
                };
                let admitted = Admission::new(0, []).admit(&read);
                assert!(matches!(admitted, Admitted::Tap { .. }), "{entry}: {admitted:?}");
            }
        }
    }
}

#[test]
fn what_was_ever_seen_is_understood_or_called_malformed() {
    let entries = entries();
    assert!(entries.len() > 4_000, "{} entries", entries.len());
    let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for entry in &entries {
        choices(entry).for_each(|atr| assert!(!atr::read(&atr).to_string().is_empty()));
        if entry.contains(['.', '[']) {
            continue;
        }
        let contactless = entry.starts_with("3B 8") && entry[6..].starts_with("80 01");
        let kind = match atr::read(&bytes(entry, 0)) {
            Kind::Storage { .. } => "storage",
            Kind::Iso14443_4 { .. } => "processor",
            Kind::Contact => "contact",
            Kind::Malformed(_) if contactless => "malformed contactless",
            Kind::Malformed(_) => "malformed contact",
        };
        kinds.entry(kind).or_default().push(entry);
    }
    let count = |kind: &str| kinds.get(kind).map_or(0, Vec::len);
    // Debian 12: 21, 476, 3224 and 7. Later collections have more.
    assert!(count("storage") >= 20 && count("processor") > 400 && count("contact") > 3_000, "{kinds:?}");
    // 1 in 70, as was counted by hand: not so many that our own reading would be to blame.
    let malformed = count("malformed contactless");
    assert!(malformed >= 5 && malformed * 40 < count("processor"), "{:?}", kinds["malformed contactless"]);
    assert!(count("malformed contact") * 20 < count("contact"), "{:?}", kinds["malformed contact"]);
}
