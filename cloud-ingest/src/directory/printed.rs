//! Beside the line: which card it is that has a number printed on it. Knows profiles and keys; asks whether a card was
//! ever seen, and knows no store.
//!
//! A printed number may be many cards: each profile reads it in its own way, and some numbers leave bits out. What was
//! shown at a door decides between them. A card that nobody has shown yet is found all the same where only one can be
//! meant; where several can, none is guessed.

use std::collections::{BTreeSet, HashSet};

use tap_protocol::badge::{Credential, Token, TokenKey};

use super::profile::Profile;

/// So many readings are asked for at once.
const ASKED_AT_ONCE: usize = 1_000;

/// One way to read a printed number, and whether such a card was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// How.
    pub profile: &'static Profile,
    /// What a reader would give.
    pub credential: Credential,
    /// Whether a door or a list ever named it.
    pub is_seen: bool,
}

/// Why a number leads to no card, or to too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// None of the profiles reads it.
    #[error(
        "no card profile that is used here prints such a number; `sites list` shows the profiles of each site"
    )]
    NoSuchPrint,
    /// More than one card that was seen has it.
    #[error("{0} cards that were seen have this number; name one profile with --profile")]
    Several(usize),
    /// Nobody showed such a card, and more than one can be meant.
    #[error(
        "{0} different cards can have this number, and none of them was shown at a door yet; show it once, or name \
         one profile with --profile"
    )]
    NoneSeen(usize),
}

/// Says which of these tokens were seen.
pub type Seen<'a, E> = dyn FnMut(&[Token]) -> Result<BTreeSet<Token>, E> + 'a;

/// All readings of a number. What is not all printed is told only as far as it was seen.
pub fn readings<E>(
    printed: &str,
    profiles: &[&'static Profile],
    keys: &[TokenKey],
    seen: &mut Seen<'_, E>,
) -> Result<Vec<Reading>, E> {
    let mut found = Vec::new();
    for profile in profiles {
        for some in profile.readings(printed).chunks(ASKED_AT_ONCE) {
            let tokens = |credential| keys.iter().map(move |key: &TokenKey| key.seal(credential).token);
            let asked: Vec<Token> = some.iter().flat_map(tokens).collect();
            let known = seen(&asked)?;
            found.extend(some.iter().zip(asked.chunks(keys.len())).map(|(credential, tokens)| Reading {
                profile,
                credential: credential.clone(),
                is_seen: tokens.iter().any(|token| known.contains(token)),
            }));
        }
    }
    Ok(found)
}

/// The one card that is meant.
pub fn the_one(readings: &[Reading]) -> Result<&Credential, NotFound> {
    // Two profiles may read one number as the same card.
    let (mut seen, mut all) = (HashSet::new(), HashSet::new());
    for reading in readings {
        all.insert(&reading.credential);
        if reading.is_seen {
            seen.insert(&reading.credential);
        }
    }
    match (seen.len(), all.len()) {
        (0, 0) => Err(NotFound::NoSuchPrint),
        (0, 2..) => Err(NotFound::NoneSeen(all.len())),
        (2.., _) => Err(NotFound::Several(seen.len())),
        (1, _) | (0, 1) => {
            let one = seen.into_iter().chain(all).next();
            one.ok_or(NotFound::NoSuchPrint)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tap_protocol::badge::TokenKeyId;

    use super::super::profile::{PROFILES, named};
    use super::*;

    fn keys() -> [TokenKey; 2] {
        [1, 2].map(|n| TokenKey::new(TokenKeyId(n), [n as u8; 32]))
    }

    /// Whom `printed` means, as `profiles` read it, when these cards were seen (each under one key, in turn).
    fn finds(printed: &str, profiles: &[&'static Profile], seen: &[&str]) -> Result<String, NotFound> {
        let tokens: BTreeSet<Token> = seen
            .iter()
            .zip(keys().iter().cycle())
            .map(|(card, key)| key.seal(&card.parse().unwrap()).token)
            .collect();
        let mut asked = |asked: &[Token]| {
            let known = asked.iter().filter(|token| tokens.contains(token));
            Ok::<_, Infallible>(known.copied().collect())
        };
        let Ok(readings) = readings(printed, profiles, &keys(), &mut asked);
        the_one(&readings).map(Credential::reveal)
    }

    fn profiles(names: &[&str]) -> Vec<&'static Profile> {
        names.iter().map(|name| named(name).unwrap()).collect()
    }

    #[test]
    fn a_number_that_can_be_one_card_alone_is_found_before_it_was_ever_shown() {
        let found = finds("2003254244", &profiles(&["uid4-decimal-reversed"]), &[]);
        assert_eq!(found.as_deref(), Ok("hf:E43B6777"));
    }

    #[test]
    fn of_several_cards_the_one_that_was_shown_is_meant() {
        let both = profiles(&["uid4-decimal", "uid4-decimal-reversed"]);
        assert_eq!(finds("2003254244", &both, &[]), Err(NotFound::NoneSeen(2)));
        assert_eq!(finds("2003254244", &both, &["E43B6777"]).as_deref(), Ok("hf:E43B6777"));
        assert_eq!(finds("2003254244", &both, &["01020304", "E43B6777"]).as_deref(), Ok("hf:E43B6777"));
        assert_eq!(finds("2003254244", &both, &["E43B6777", "77673BE4"]), Err(NotFound::Several(2)));
    }

    #[test]
    fn bits_that_are_not_printed_come_from_the_card_that_was_shown() {
        let tens = profiles(&["em4100-10d"]);
        assert_eq!(finds("0040856634", &tens, &[]), Err(NotFound::NoneSeen(256)));
        assert_eq!(finds("0040856634", &tens, &["01026F6C3A"]).as_deref(), Ok("em4100:01026F6C3A"));
        let numbers = profiles(&["h10301-number"]);
        assert_eq!(finds("15890", &numbers, &["wiegand:26:8A9F0900"]).as_deref(), Ok("wiegand:26:8A9F0900"));
    }

    #[test]
    fn two_profiles_that_mean_one_card_are_no_doubt() {
        let same = profiles(&["wiegand34-hex", "wiegand34-hex"]);
        assert!(finds("E43B6777", &same, &[]).is_ok());
    }

    #[test]
    fn what_nobody_prints_is_not_found() {
        let all: Vec<&'static Profile> = PROFILES.iter().collect();
        assert_eq!(finds("badge no. 7", &all, &[]), Err(NotFound::NoSuchPrint));
    }
}
