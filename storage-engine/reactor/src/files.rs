//! Files that a ring works on: owned descriptors, registered with the ring while there is room in its table.
//!
//! Every operation holds its file, so a descriptor is closed, and its slot reused, only when no operation names it.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;

use nix::sys::socket;

/// The slots of a ring's table.
#[derive(Default)]
pub(crate) struct FileTable {
    slots: RefCell<Slots>,
}

#[derive(Default)]
struct Slots {
    free: Vec<u32>,
    /// Slots whose file is closed here and still held by the ring.
    vacated: Vec<u32>,
}

impl FileTable {
    /// A table of `slots` empty slots; 0 where registration is not possible.
    pub(crate) fn new(slots: u32) -> Rc<Self> {
        let free = (0..slots).rev().collect();
        Rc::new(Self {
            slots: RefCell::new(Slots {
                free,
                vacated: Vec::new(),
            }),
        })
    }

    /// A slot for a new file.
    pub(crate) fn take(&self) -> Option<u32> {
        self.slots.borrow_mut().free.pop()
    }

    /// Gives back a slot that the ring has been told to empty, or that was never filled.
    pub(crate) fn put_back(&self, slot: u32) {
        self.slots.borrow_mut().free.push(slot);
    }

    /// A slot that the ring must be told to empty.
    pub(crate) fn next_vacated(&self) -> Option<u32> {
        self.slots.borrow_mut().vacated.pop()
    }
}

/// An open file of a ring.
pub(crate) struct RingFile {
    descriptor: OwnedFd,
    slot: Option<u32>,
    table: Rc<FileTable>,
}

impl RingFile {
    pub(crate) fn new(descriptor: OwnedFd, slot: Option<u32>, table: Rc<FileTable>) -> Self {
        Self {
            descriptor,
            slot,
            table,
        }
    }

    /// Its place in the ring's table.
    pub(crate) fn slot(&self) -> Option<u32> {
        self.slot
    }

    /// Ends both directions of a socket, which also ends every operation on it. The descriptor itself is closed when
    /// those have completed.
    pub(crate) fn shutdown(&self) {
        // An error means that the connection is gone already, which is what was wanted.
        let _ = socket::shutdown(self.descriptor.as_raw_fd(), socket::Shutdown::Both);
    }
}

impl AsRawFd for RingFile {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

impl AsFd for RingFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for RingFile {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.table.slots.borrow_mut().vacated.push(slot);
        }
    }
}
