//! What happened, line by line: all of it as a hash, the end of it as text. Knows nothing of what the lines mean.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::io::{self, Write as _};

/// Lines kept for the report of a violation.
const TAIL_LINES: usize = 60;

/// A run's trace.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    lines: u64,
    tail: VecDeque<String>,
    print: bool,
}

impl Trace {
    /// An empty trace; `print` also writes each line to standard output.
    pub fn new(print: bool) -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, lines: 0, tail: VecDeque::with_capacity(TAIL_LINES), print }
    }

    /// Adds a line: when, who, what.
    pub fn say(&mut self, now_ms: u64, who: fmt::Arguments<'_>, what: fmt::Arguments<'_>) {
        // The oldest line's memory is used again: a run has tens of thousands of lines.
        let mut line =
            if self.tail.len() == TAIL_LINES { self.tail.pop_front() } else { None }.unwrap_or_default();
        line.clear();
        let _ = write!(line, "{:>10.3} s  ", now_ms as f64 / 1000.0);
        let start = line.len();
        let _ = write!(line, "{who}");
        while line.len() < start + 12 {
            line.push(' ');
        }
        let _ = write!(line, "{what}");
        // FNV-1a.
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.lines += 1;
        if self.print {
            // Whoever reads may stop reading.
            let _ = writeln!(io::stdout(), "{line}");
        }
        self.tail.push_back(line);
    }

    /// Stands for the whole trace.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many lines there were.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The last lines.
    pub fn into_tail(self) -> Vec<String> {
        self.tail.into()
    }
}
