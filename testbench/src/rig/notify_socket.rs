//! A stand-in for the service manager's end of `sd_notify`: hears what a program says of itself; it doesn't know whom.

use std::{
    io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::stopwatch::Stopwatch;

/// Whoever waited for room in the socket writes at once when there is some; after such a silence nobody waits.
const SILENCE: Duration = Duration::from_millis(100);

/// A message is some lines of `NAME=value`.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// The socket that `NOTIFY_SOCKET` names.
#[derive(Debug)]
pub struct NotifySocket {
    path: PathBuf,
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl NotifySocket {
    /// Makes the socket in `dir`.
    ///
    /// # Errors
    ///
    /// When there is one already.
    pub fn bind(dir: &Path) -> io::Result<Self> {
        let path = dir.join("notify.sock");
        let socket = UnixDatagram::bind(&path)?;
        Ok(Self { path, socket, heard: Vec::new() })
    }

    /// Where it is: the value for `NOTIFY_SOCKET`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every line heard so far, oldest first: `READY=1`, `STATUS=…`, `WATCHDOG=1`, `STOPPING=1`. Hears out whoever is
    /// speaking, also one who had to wait because nobody listened.
    pub fn heard(&mut self) -> &[String] {
        let _ = self.socket.set_read_timeout(Some(SILENCE));
        while self.receive().is_ok() {}
        &self.heard
    }

    /// Waits for a line that begins with `start`, among those not heard before, and gives it.
    ///
    /// # Panics
    ///
    /// When none comes `within` that time; the message says what came.
    #[track_caller]
    pub fn wait_for(&mut self, start: &str, within: Duration) -> String {
        self.heard_within(start, within).unwrap_or_else(|| {
            panic!("nobody said `{start}` within {within:?}; heard: {:?}", self.heard);
        })
    }

    fn heard_within(&mut self, start: &str, within: Duration) -> Option<String> {
        let waited = Stopwatch::start();
        let mut from = self.heard.len();
        loop {
            if let Some(line) = self.heard[from..].iter().find(|line| line.starts_with(start)) {
                return Some(line.clone());
            }
            from = self.heard.len();
            let left = within.saturating_sub(waited.elapsed());
            if left.is_zero() {
                return None;
            }
            let _ =
                self.socket.set_nonblocking(false).and_then(|()| self.socket.set_read_timeout(Some(left)));
            let _ = self.receive();
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut message = vec![0; MAX_MESSAGE_BYTES];
        let length = self.socket.recv(&mut message)?;
        let text = String::from_utf8_lossy(&message[..length]);
        self.heard.extend(text.lines().map(str::to_owned));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard_in_order_and_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut manager = NotifySocket::bind(dir.path()).unwrap();
        let program = UnixDatagram::unbound().unwrap();
        program.connect(manager.path()).unwrap();
        program.send(b"STATUS=starting\nREADY=1\n").unwrap();
        program.send(b"WATCHDOG=1").unwrap();
        assert_eq!(manager.wait_for("READY=", Duration::from_secs(5)), "READY=1");
        assert_eq!(manager.wait_for("WATCHDOG=", Duration::from_secs(5)), "WATCHDOG=1");
        assert_eq!(manager.heard(), ["STATUS=starting", "READY=1", "WATCHDOG=1"]);
    }

    #[test]
    fn waiting_in_vain_ends() {
        let dir = tempfile::tempdir().unwrap();
        let mut manager = NotifySocket::bind(dir.path()).unwrap();
        assert_eq!(manager.heard_within("READY=1", Duration::from_millis(1)), None);
    }
}
