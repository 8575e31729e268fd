//! What the parts of a reactor share within a turn: the ring, the memory, the clock, and the events they have found.

use std::sync::Arc;
use std::time::Duration;

use cairn_api::ids::DiskId;
use cairn_core::event::{DeviceId, Event, IoId};
use cairn_core::time::Timestamp;
use nix::time::{ClockId, clock_gettime};

use crate::buffers::BufferPool;
use crate::counters::Counters;
use crate::uring::Ring;

/// Distinguishes connections that follow one another, so that a late completion of an old one is not taken for one of
/// the new.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Serial(pub(crate) u64);

/// Whose operation has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tag {
    /// The read of the waker.
    Wake,
    /// A write to the disk.
    DiskWrite(IoId),
    /// A read from the disk.
    DiskRead(IoId),
    /// An operation on an outgoing link.
    Link(DiskId, Serial),
    /// A receive on an incoming link.
    Inbound(Serial),
    /// An operation on a frontend's connection.
    Stream(DeviceId),
}

/// See the module.
pub(crate) struct Context {
    pub(crate) ring: Ring<Tag>,
    pub(crate) pool: BufferPool,
    /// The time of this turn, read after its completions were reaped.
    pub(crate) now: Timestamp,
    /// What has happened and has not been handed to the core.
    pub(crate) events: Vec<Event>,
    pub(crate) counters: Arc<Counters>,
    serial: u64,
}

impl Context {
    pub(crate) fn new(ring: Ring<Tag>, pool: BufferPool, counters: Arc<Counters>) -> Self {
        Self {
            ring,
            pool,
            now: clock(),
            events: Vec::new(),
            counters,
            serial: 0,
        }
    }

    /// A serial never used before.
    pub(crate) fn next_serial(&mut self) -> Serial {
        self.serial += 1;
        Serial(self.serial)
    }
}

/// `CLOCK_BOOTTIME`, which goes on while the machine is suspended.
pub(crate) fn clock() -> Timestamp {
    #[expect(
        clippy::expect_used,
        reason = "the clock exists since Linux 2.6.39 and its id is valid"
    )]
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME can be read");
    let duration = Duration::from(time);
    Timestamp::from_nanos(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}
