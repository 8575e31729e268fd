//! Waking a reactor thread from other threads: an eventfd that its ring reads.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Wakes one thread; many calls before it wakes cost one system call.
pub(crate) struct Waker {
    event: EventFd,
    signalled: AtomicBool,
}

impl Waker {
    /// A waker that nobody listens to yet. The eventfd blocks, so that the ring's read waits instead of failing.
    pub(crate) fn new() -> nix::Result<Self> {
        let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?;
        Ok(Self {
            event,
            signalled: AtomicBool::new(false),
        })
    }

    /// Wakes the thread, or does nothing if it has been woken and has not looked yet.
    pub(crate) fn wake(&self) {
        if !self.signalled.swap(true, Ordering::SeqCst) {
            // The counter cannot overflow: there is at most one unread signal.
            let _ = self.event.write(1);
        }
    }

    /// The thread has read the eventfd and is about to look at what it was woken for.
    pub(crate) fn acknowledge(&self) {
        self.signalled.store(false, Ordering::SeqCst);
    }

    /// A descriptor for the ring to read.
    pub(crate) fn descriptor(&self) -> std::io::Result<OwnedFd> {
        self.event.as_fd().try_clone_to_owned()
    }

    /// Whether a signal has not been acknowledged.
    #[cfg(test)]
    pub(crate) fn is_signalled(&self) -> bool {
        self.signalled.load(Ordering::SeqCst)
    }
}
