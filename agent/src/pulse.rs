//! A steady beat to look at the records by.
//!
//! A timerfd instead of the runtime's timers: setting one of those again costs a write and two waits, ten
//! times a second for as long as nothing happens.

use std::{future, io, os::fd::AsFd as _, os::fd::OwnedFd, time::Duration};

use rustix::{
    io::read,
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};
use tokio::io::unix::AsyncFd;

use crate::probe::source::readiness;

#[derive(Debug)]
pub struct Pulse {
    fd: AsyncFd<OwnedFd>,
}

impl Pulse {
    /// Beats every `interval` from now on; less than a second.
    ///
    /// # Errors
    /// When there are no descriptors left, or the runtime refuses it.
    pub fn every(interval: Duration) -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let pulse = Self { fd: readiness(timer.as_fd())? };
        pulse.set(interval)?;
        Ok(pulse)
    }

    /// Beats every `interval` from now on; less than a second.
    ///
    /// # Errors
    /// None that a timer of ours has; the kernel's answer is handed on.
    pub fn set(&self, interval: Duration) -> io::Result<()> {
        let interval = Timespec { tv_sec: 0, tv_nsec: interval.subsec_nanos().into() };
        let beats = Itimerspec { it_interval: interval, it_value: interval };
        timerfd_settime(self.fd.get_ref(), TimerfdTimerFlags::empty(), &beats)?;
        Ok(())
    }

    /// Waits for the next beat. None is lost when the wait is given up.
    pub async fn beat(&self) {
        loop {
            let Ok(mut guard) = self.fd.readable().await else { return future::pending().await };
            // Before the read, which takes all beats there are: the next one makes it ready again.
            guard.clear_ready();
            let mut beats = [0; 8];
            if read(self.fd.get_ref(), &mut beats) == Ok(8) {
                return;
            }
        }
    }
}
