//! A serial port that can be unplugged: we hold the device's end of a pseudo-terminal; it knows no reader's frames.

use std::{
    ffi::OsStr,
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, fs::symlink},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{OptionalActions, tcgetattr, tcsetattr},
};

/// What is read at once: a pseudo-terminal's buffer.
const BUFFER_BYTES: usize = 4096;

/// A port at a stable path, as udev makes one: a symlink that goes and comes with the device.
#[derive(Debug)]
pub struct PtyPair {
    path: PathBuf,
    /// `None` while unplugged.
    device: Option<OwnedFd>,
}

impl PtyPair {
    /// Plugs in a port at `path`, which mustn't exist.
    ///
    /// # Errors
    ///
    /// When the system has no pseudo-terminal left, or `path` is taken.
    pub fn plug_in(path: &Path) -> io::Result<Self> {
        let mut pair = Self { path: path.to_owned(), device: None };
        pair.plug_in_again()?;
        Ok(pair)
    }

    /// Where a program opens the port.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the port away: the program reads end of file or an error from now on, and the path is gone.
    ///
    /// # Errors
    ///
    /// When it is away already.
    pub fn unplug(&mut self) -> io::Result<()> {
        self.device.take().ok_or(io::ErrorKind::NotConnected)?;
        fs::remove_file(&self.path)
    }

    /// Brings it back at the same path: for the program a new port, which it has to open.
    ///
    /// # Errors
    ///
    /// Like [`plug_in`](Self::plug_in).
    pub fn plug_in_again(&mut self) -> io::Result<()> {
        let device = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&device)?;
        unlockpt(&device)?;
        // A terminal echoes and translates until told otherwise; a serial reader never does.
        let mut raw = tcgetattr(&device)?;
        raw.make_raw();
        tcsetattr(&device, OptionalActions::Now, &raw)?;
        fcntl_setfl(&device, fcntl_getfl(&device)? | OFlags::NONBLOCK)?;
        let name = ptsname(&device, Vec::new())?;
        symlink(OsStr::from_bytes(name.as_bytes()), &self.path)?;
        self.device = Some(device);
        Ok(())
    }

    /// Sends a frame, or a piece of one, to the program.
    ///
    /// # Errors
    ///
    /// `NotConnected` while unplugged; `WouldBlock` when nobody reads and the buffer of 4 KiB is full.
    pub fn write(&self, mut frame: &[u8]) -> io::Result<()> {
        while !frame.is_empty() {
            let written = rustix::io::write(self.device()?, frame)?;
            frame = &frame[written..];
        }
        Ok(())
    }

    /// What the program has sent since the last call; nothing while it doesn't have the port open.
    ///
    /// # Errors
    ///
    /// `NotConnected` while unplugged.
    pub fn read_available(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; BUFFER_BYTES];
        match rustix::io::read(self.device()?, &mut bytes) {
            Ok(length) => bytes.truncate(length),
            // Linux says EIO while nobody has the other end open.
            Err(Errno::AGAIN | Errno::IO) => bytes.clear(),
            Err(e) => return Err(e.into()),
        }
        Ok(bytes)
    }

    fn device(&self) -> io::Result<&OwnedFd> {
        self.device.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for PtyPair {
    fn drop(&mut self) {
        // It may be unplugged already.
        let _ = self.unplug();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_serial::{SerialPortBuilderExt, SerialStream};

    use super::*;

    fn open(port: &PtyPair) -> SerialStream {
        tokio_serial::new(port.path().to_str().unwrap(), 9600).open_native_async().unwrap()
    }

    async fn gets(program: &mut SerialStream, frame: &[u8]) {
        let mut got = vec![0; frame.len()];
        program.read_exact(&mut got).await.unwrap();
        assert_eq!(got, frame);
    }

    #[tokio::test]
    async fn frames_pass_unchanged_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let port = PtyPair::plug_in(&dir.path().join("ttyReader")).unwrap();
        let mut program = open(&port);
        let every_byte: Vec<u8> = (0..=255).collect();
        port.write(&every_byte).unwrap();
        gets(&mut program, &every_byte).await;
        assert_eq!(port.read_available().unwrap(), b"", "no echo");

        program.write_all(b"beep\r\n").await.unwrap();
        assert_eq!(port.read_available().unwrap(), b"beep\r\n");
    }

    #[tokio::test]
    async fn a_port_that_was_unplugged_comes_back_at_the_same_path() {
        let dir = tempfile::tempdir().unwrap();
        let mut port = PtyPair::plug_in(&dir.path().join("ttyReader")).unwrap();
        let mut program = open(&port);
        port.unplug().unwrap();
        assert!(!port.path().exists());
        assert!(matches!(program.read(&mut [0; 1]).await, Ok(0) | Err(_)), "end of file or an error");
        assert_eq!(port.write(b"x").unwrap_err().kind(), io::ErrorKind::NotConnected);

        port.plug_in_again().unwrap();
        let mut program = open(&port);
        port.write(b"back").unwrap();
        gets(&mut program, b"back").await;
    }
}
