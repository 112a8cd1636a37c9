//! Tells at once that somebody set the wall clock: a timer that the kernel cancels when that happens. Without it the
//! agent notices at its next look, a second later at most; what is told here is only *look now*.
//!
//! A thread of its own waits, because it has nothing else to do and a blocked read costs nothing. It ends with the
//! process.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};

/// When the timer would ring: never, as far as anybody here is concerned.
const NEVER_S: i64 = 1 << 40;

/// The thread calls a handful of system calls.
const STACK_BYTES: usize = 64 * 1024;

/// The watch on the wall clock.
#[derive(Debug)]
pub struct ClockWatch {
    told: Receiver<()>,
}

impl ClockWatch {
    /// Watches from now on. Where the kernel cannot do it, nothing is ever told.
    pub fn start() -> ClockWatch {
        // One is enough: whoever looks sees all that happened.
        let (tell, told) = channel(1);
        let watching = armed().map_err(std::io::Error::from).and_then(|timer| {
            let thread = std::thread::Builder::new().name("clock-watch".into()).stack_size(STACK_BYTES);
            thread.spawn(move || watch(&timer, &tell))
        });
        if let Err(error) = watching {
            tracing::warn!(
                "the kernel does not tell when the clock is set ({error}); it is noticed within a second"
            );
        }
        ClockWatch { told }
    }

    /// Returns when the wall clock was set. Nothing is lost if this is dropped before.
    pub async fn is_set(&mut self) {
        match self.told.recv().await {
            Some(()) => {}
            None => std::future::pending().await,
        }
    }
}

fn watch(timer: &OwnedFd, tell: &Sender<()>) {
    loop {
        match rustix::io::read(timer, &mut [0; 8]) {
            Err(Errno::CANCELED) => {
                if let Err(TrySendError::Closed(())) = tell.try_send(()) {
                    return;
                }
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
        if arm(timer).is_err() {
            return;
        }
    }
}

fn armed() -> rustix::io::Result<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC)?;
    arm(&timer)?;
    Ok(timer)
}

fn arm(timer: &OwnedFd) -> rustix::io::Result<()> {
    let never = Itimerspec {
        it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: Timespec { tv_sec: NEVER_S, tv_nsec: 0 },
    };
    match timerfd_settime(timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &never) {
        // It was set between: armed all the same, and the next read says so.
        Ok(_) | Err(Errno::CANCELED) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// That it tells is for a machine whose clock may be set. That it does not tell without reason can be seen anywhere.
    #[tokio::test]
    async fn the_kernel_takes_the_watch_and_tells_nothing_without_reason() {
        let timer = armed().expect("this kernel can cancel a timer when the clock is set");
        arm(&timer).expect("and again");
        let mut watch = ClockWatch::start();
        assert!(
            timeout(Duration::from_millis(50), watch.is_set()).await.is_err(),
            "nobody has set the clock"
        );
    }

    #[tokio::test]
    async fn without_the_kernels_help_nothing_is_told_and_nothing_spins() {
        let (_, told) = channel(1);
        let mut watch = ClockWatch { told };
        assert!(timeout(Duration::from_millis(20), watch.is_set()).await.is_err());
    }

    #[tokio::test]
    async fn what_was_told_while_nobody_listened_is_heard_once() {
        let (tell, told) = channel(1);
        let mut watch = ClockWatch { told };
        let told = [(); 3].map(|()| tell.try_send(()).is_ok());
        assert_eq!(told, [true, false, false]);
        watch.is_set().await;
        assert!(timeout(Duration::from_millis(20), watch.is_set()).await.is_err());
    }
}
