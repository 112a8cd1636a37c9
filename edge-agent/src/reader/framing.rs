//! Step 1 of 12, serial: which of the known ways a reader speaks. Pure: knows no port and no time.

use tap_protocol::badge::Credential;

use super::card_read::Reject;
use super::em4100;
use super::number_line::{self, LineFormat};
use super::wiegand::{self, WiegandFormat};

/// What comes over a serial line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Framing {
    /// RDM6300, ID-12LA, ID-20LA.
    #[default]
    Em4100,
    /// A number a line.
    Line(LineFormat),
    /// A Wiegand frame a line, from a converter that sends the bit count.
    Wiegand(WiegandFormat),
}

/// Finds numbers in a stream of bytes, which may come in any pieces. Its memory is one frame or line.
#[derive(Debug)]
pub enum Parser {
    /// See [`Framing::Em4100`].
    Em4100(em4100::Parser),
    /// See [`Framing::Line`].
    Line(number_line::Parser),
    /// See [`Framing::Wiegand`].
    Wiegand(wiegand::Parser),
}

impl Framing {
    /// At the start of a stream.
    pub fn parser(&self) -> Parser {
        match self {
            Framing::Em4100 => Parser::Em4100(em4100::Parser::default()),
            Framing::Line(format) => Parser::Line(number_line::Parser::new(format.clone())),
            Framing::Wiegand(format) => Parser::Wiegand(wiegand::Parser::new(format.clone())),
        }
    }
}

impl Parser {
    /// Takes bytes and gives what they complete: a number, or the reason for none.
    pub fn feed<'a>(&'a mut self, bytes: &'a [u8]) -> impl Iterator<Item = Result<Credential, Reject>> + 'a {
        bytes.iter().filter_map(|byte| match self {
            Parser::Em4100(parser) => parser.push(*byte),
            Parser::Line(parser) => parser.push(*byte),
            Parser::Wiegand(parser) => parser.push(*byte),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reader::number_line::{Base, LineTechnology};

    fn framings() -> [Framing; 3] {
        let line = LineFormat {
            prefix: String::new(),
            suffix: String::new(),
            base: Base::Decimal,
            digits: 10,
            technology: LineTechnology::Em4100,
            bits: Some(32),
        };
        [Framing::Em4100, Framing::Line(line), Framing::Wiegand(WiegandFormat::default())]
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..20),
            Just(b"\x0262E3086CED08\x03".to_vec()),
            Just(b"0040856634\r\n".to_vec()),
            Just(b"26:22A7C24\r\n".to_vec()),
        ];
        proptest::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter_to_any_framing(
            stream in stream(), cuts in proptest::collection::vec(0usize..400, 0..12),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            for framing in framings() {
                let whole: Vec<_> = framing.parser().feed(&stream).collect();
                let mut parser = framing.parser();
                let mut pieces = Vec::new();
                for piece in cuts.windows(2) {
                    pieces.extend(parser.feed(&stream[piece[0]..piece[1]]));
                }
                prop_assert_eq!(pieces, whole);
            }
        }
    }
}
