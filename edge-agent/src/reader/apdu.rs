//! Step 1 of 12, PC/SC: the question for a card's number and its answer. Pure: knows no reader and no pcscd.
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use tap_protocol::badge::{Credential, Technology};

use super::card_read::Reject;

/// GET DATA, UID (PC/SC part 3, 3.2.2.1.3): the reader answers it, not the card.
pub const GET_UID: [u8; 5] = [0xFF, 0xCA, 0x00, 0x00, 0x00];

const SUCCESS: u16 = 0x9000;

/// Card could not be read just now: no information given, and gone a moment later.
const FAILED_THIS_TIME: u16 = 0x6300;

/// The number in an answer to [`GET_UID`]: UID bytes as the reader gave them, then the status word 90 00.
///
/// Lengths: ISO 14443-A 4, 7 and 10 bytes, 14443-B 4, FeliCa and ISO 15693 8.
pub fn parse_uid_answer(answer: &[u8]) -> Result<Credential, Reject> {
    let (uid, status_word) = answer.split_last_chunk::<2>().ok_or(Reject::NoStatusWord)?;
    match (u16::from_be_bytes(*status_word), uid.len()) {
        (SUCCESS, 0) => Err(Reject::EmptyUid),
        (SUCCESS, 4 | 7 | 8 | 10) => {
            Credential::from_bytes(Technology::Hf, uid).map_err(|_| Reject::BadUidLength(uid.len()))
        }
        (SUCCESS, n) => Err(Reject::BadUidLength(n)),
        (status_word, _) => Err(Reject::StatusWord(status_word)),
    }
}

/// Whether the same question may well be answered in a moment: right after an insertion readers give empty answers
/// (75 % of second reads in pcsc-sharp #38), while "not supported" stays.
pub fn is_worth_asking_again(reject: Reject) -> bool {
    matches!(reject, Reject::NoStatusWord | Reject::EmptyUid | Reject::StatusWord(FAILED_THIS_TIME))
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXUPPER;
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(answer: &str, expect: Result<&str, Reject>) {
        let answer = HEXUPPER.decode(answer.replace(' ', "").as_bytes()).unwrap();
        let got = parse_uid_answer(&answer).map(|credential| credential.reveal());
        assert_eq!(got, expect.map(|uid| format!("hf:{uid}")));
    }

    #[test]
    fn published_answers() {
        check("04 A2 24 B1 C2 D3 80 90 00", Ok("04A224B1C2D380"));
        check("6A 81", Err(Reject::StatusWord(0x6A81)));
        check("6E 00", Err(Reject::StatusWord(0x6E00)));
        check("90 00", Err(Reject::EmptyUid));
        check("", Err(Reject::NoStatusWord));
    }

    #[test]
    fn every_length_that_exists_is_read() {
        check("E4 3B 67 77 90 00", Ok("E43B6777"));
        check("01 2E 3D 4C 5B 6A 79 80 90 00", Ok("012E3D4C5B6A7980"));
        check("E0 04 01 50 12 34 56 78 90 00", Ok("E004015012345678"));
        check("04 11 22 33 44 55 66 77 88 99 90 00", Ok("04112233445566778899"));
    }

    #[test]
    fn a_uid_may_look_like_a_status_word() {
        check("90 00 90 00 90 00", Ok("90009000"));
        check("6A 81 6E 00 90 00", Ok("6A816E00"));
    }

    #[test]
    fn rubbish_is_refused_by_kind() {
        check("90", Err(Reject::NoStatusWord));
        check("00", Err(Reject::NoStatusWord));
        check("00 90", Err(Reject::StatusWord(0x0090)));
        check("00 00", Err(Reject::StatusWord(0)));
        check("FF FF", Err(Reject::StatusWord(0xFFFF)));
        check("90 02", Err(Reject::StatusWord(0x9002)));
        check("63 00", Err(Reject::StatusWord(0x6300)));
        check("6C 04", Err(Reject::StatusWord(0x6C04)));
        check("61 07", Err(Reject::StatusWord(0x6107)));
        check("67 00", Err(Reject::StatusWord(0x6700)));
        check("04 A2 24 B1 C2 D3 80 6A 81", Err(Reject::StatusWord(0x6A81)));
        check("04 A2 24 B1 C2 D3 80", Err(Reject::StatusWord(0xD380)));
        check("04 90 00", Err(Reject::BadUidLength(1)));
        check("04 A2 90 00", Err(Reject::BadUidLength(2)));
        check("04 A2 24 90 00", Err(Reject::BadUidLength(3)));
        check("04 A2 24 B1 C2 90 00", Err(Reject::BadUidLength(5)));
        check("04 A2 24 B1 C2 D3 90 00", Err(Reject::BadUidLength(6)));
        check("04 A2 24 B1 C2 D3 80 00 00 90 00", Err(Reject::BadUidLength(9)));
        check(&"00".repeat(254).replace("0000", "9000"), Err(Reject::BadUidLength(252)));
    }

    #[test]
    fn only_what_may_pass_is_asked_again() {
        for passing in [Reject::EmptyUid, Reject::NoStatusWord, Reject::StatusWord(0x6300)] {
            assert!(is_worth_asking_again(passing), "{passing:?}");
        }
        for lasting in [Reject::StatusWord(0x6A81), Reject::StatusWord(0x6E00), Reject::BadUidLength(5)] {
            assert!(!is_worth_asking_again(lasting), "{lasting:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_the_number_they_hold_or_a_reason(answer in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(credential) = parse_uid_answer(&answer) {
                prop_assert_eq!(credential.bits(), &answer[..answer.len() - 2]);
            }
        }
    }
}
