//! Step 7 of 12, from files: an export's bytes into portions. Knows no signatures; whatever it reads is bounded before it
//! is believed.

use std::fmt;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use tap_protocol::export::{EXPORT, PROOF, portion_length};

/// Something that can be read from any place: a file.
pub trait Bytes: Read + Seek + Send {}
impl<T: Read + Seek + Send> Bytes for T {}

/// A file under the name that people know it by.
pub struct Source {
    /// For messages.
    pub name: String,
    /// Its content.
    pub bytes: Box<dyn Bytes>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({})", self.name)
    }
}

/// One message of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Portion {
    /// 1, 2, 3 …
    pub number: u64,
    /// Where it begins.
    pub offset: u64,
    /// The message.
    pub content: Vec<u8>,
}

/// Why a file cannot be read to its end. What was before holds.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// Another file.
    #[error("is no export of edge-agent outbox export; nothing was read from it")]
    NotAnExport,
    /// Ours, and of the other kind.
    #[error("is a proof (controllers proof), no export; nothing was read from it")]
    AProof,
    /// Too short.
    #[error(
        "is cut off in batch {number} (at byte {offset}): was the stick pulled out early? What is before it was read; copy \
         it again, or export again"
    )]
    CutOff {
        /// In which portion.
        number: u64,
        /// At which byte that begins.
        offset: u64,
    },
    /// A length that cannot be.
    #[error(
        "is damaged at batch {number} (at byte {offset}): no batch is that long. What is before it was read, what comes \
         after it cannot be found; copy it again, or export again"
    )]
    Damaged {
        /// At which portion.
        number: u64,
        /// At which byte that begins.
        offset: u64,
    },
    /// The medium.
    #[error("cannot be read on at byte {offset}: {source}; what is before it was read")]
    Read {
        /// At which byte.
        offset: u64,
        /// Why.
        source: io::Error,
    },
}

/// The portions of one file, in order.
pub struct Portions {
    bytes: BufReader<Box<dyn Bytes>>,
    number: u64,
    offset: u64,
    is_over: bool,
}

impl Portions {
    /// Of this file, from its beginning.
    pub fn new(source: Source) -> Portions {
        Portions { bytes: BufReader::new(source.bytes), number: 0, offset: 0, is_over: false }
    }

    /// A portion that was read before, once more.
    pub fn again(&mut self, number: u64, offset: u64) -> Option<Portion> {
        self.bytes.seek(SeekFrom::Start(offset)).ok()?;
        (self.number, self.offset) = (number - 1, offset);
        self.read_one().ok().flatten()
    }

    fn read_one(&mut self) -> Result<Option<Portion>, Problem> {
        if self.offset == 0 {
            self.begin()?;
        }
        let (number, offset) = (self.number + 1, self.offset);
        let cut_off = Problem::CutOff { number, offset };
        let mut length = [0; 4];
        let read = self.read_up_to(&mut length)?;
        if read == 0 {
            return Ok(None);
        }
        if read < length.len() {
            return Err(cut_off);
        }
        let length = portion_length(length).ok_or(Problem::Damaged { number, offset })?;
        let mut content = vec![0; length];
        if self.read_up_to(&mut content)? < length {
            return Err(cut_off);
        }
        (self.number, self.offset) = (number, offset + 4 + length as u64);
        Ok(Some(Portion { number, offset, content }))
    }

    fn begin(&mut self) -> Result<(), Problem> {
        let mut magic = [0; EXPORT.len()];
        self.read_up_to(&mut magic)?;
        if &magic == PROOF {
            return Err(Problem::AProof);
        }
        if &magic != EXPORT {
            return Err(Problem::NotAnExport);
        }
        self.offset = EXPORT.len() as u64;
        Ok(())
    }

    fn read_up_to(&mut self, into: &mut [u8]) -> Result<usize, Problem> {
        let mut read = 0;
        while read < into.len() {
            match self.bytes.read(&mut into[read..]) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Problem::Read { offset: self.offset, source }),
            }
        }
        Ok(read)
    }
}

impl Iterator for Portions {
    type Item = Result<Portion, Problem>;

    fn next(&mut self) -> Option<Result<Portion, Problem>> {
        if self.is_over {
            return None;
        }
        let read = self.read_one();
        self.is_over = !matches!(read, Ok(Some(_)));
        read.transpose()
    }
}
