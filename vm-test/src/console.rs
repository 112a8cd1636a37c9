//! The words between this machine and `guest/agent.pl` in the other one. Pure.

/// What the guest says, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It has booted, and its agent listens.
    Hello {
        /// Another one for each boot.
        boot_id: String,
    },
    /// A script printed a line.
    Out {
        /// Which script.
        id: u32,
        /// The line.
        text: String,
    },
    /// A script is over.
    End {
        /// Which script.
        id: u32,
        /// How it ended; 128 and more is a signal.
        code: i32,
    },
}

impl Said {
    /// A line without its end; `None` if it is nothing that the agent says.
    pub fn parse(line: &str) -> Option<Said> {
        let (verb, rest) = line.split_once(' ')?;
        let (id, text) = rest.split_once(' ').unwrap_or((rest, ""));
        match verb {
            "hello" => Some(Said::Hello { boot_id: rest.to_owned() }),
            "out" => Some(Said::Out { id: id.parse().ok()?, text: text.to_owned() }),
            "end" => Some(Said::End { id: id.parse().ok()?, code: text.parse().ok()? }),
            _ => None,
        }
    }
}

/// Has this script run as `id`.
pub fn run(id: u32, script: &str) -> Vec<u8> {
    format!("run {id} {}\n{script}", script.len()).into_bytes()
}

/// Ends the script `id` and what it started.
pub fn stop(id: u32) -> Vec<u8> {
    format!("stop {id}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    #[track_caller]
    fn check(line: &str, expected: Option<Said>) {
        assert_eq!(Said::parse(line), expected, "{line}");
    }

    #[test]
    fn what_the_guest_says_is_understood() {
        check("hello 0c9a", Some(Said::Hello { boot_id: "0c9a".into() }));
        check("out 7 two words", Some(Said::Out { id: 7, text: "two words".into() }));
        check("out 7 ", Some(Said::Out { id: 7, text: String::new() }));
        check("out 7", Some(Said::Out { id: 7, text: String::new() }));
        check("end 7 137", Some(Said::End { id: 7, code: 137 }));
    }

    #[test]
    fn what_no_agent_says_is_nothing() {
        ["", "hello", "out x y", "end 7", "end 7 x", "run 7 1", "[    0.1] kernel"]
            .iter()
            .for_each(|line| check(line, None));
    }

    #[test]
    fn a_script_goes_with_its_length_in_bytes() {
        assert_eq!(run(3, "echo ä\n"), "run 3 8\necho ä\n".as_bytes());
    }

    /// The real agent, with a pseudo terminal's worth of plumbing replaced by a socket: its port is a name in a folder.
    #[test]
    fn the_real_agent_runs_scripts_side_by_side_and_says_how_they_ended() {
        let agent = include_str!("../guest/agent.pl")
            .replace("sysopen $port, $port_name, O_RDWR", "open $port, '+<&=', 0");
        let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut child = Command::new("perl")
            .args(["-e", &agent])
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(there)))
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(here.try_clone().unwrap()).lines().map(|line| line.unwrap());
        assert_eq!(lines.next().unwrap(), "");
        assert!(matches!(Said::parse(&lines.next().unwrap()), Some(Said::Hello { .. })));
        let mut port = here;
        // One that waits for ever, and beside it one of several lines, the last without an end.
        port.write_all(&run(1, "echo begun; exec sleep 600")).unwrap();
        assert_eq!(lines.next().unwrap(), "out 1 begun");
        port.write_all(&run(2, "echo a\necho b >&2\nprintf c\nexit 3")).unwrap();
        let heard: Vec<String> = lines.by_ref().take(4).collect();
        assert_eq!(heard, ["out 2 a", "out 2 b", "out 2 c", "end 2 3"]);
        port.write_all(&stop(1)).unwrap();
        assert_eq!(lines.next().unwrap(), "end 1 143");
        drop(lines);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
