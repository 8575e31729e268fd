//! What gateways' requests read from the disk: so much at once, and groups take turns beyond that.
//!
//! A disk serves what it is asked for in an order of its own, and whoever has most under way gets most of it. So only some
//! of the clients' reads are given to it at a time: enough to keep any disk busy, and little enough that one more block is
//! read within a few milliseconds. The others wait here, where [`crate::fair`] says whose turn it is. What groups read for
//! their own sake (old entries for a follower, repairs, scrubbing) has bounds of its own and is not held up.

use std::collections::BTreeMap;
use std::ops::Range;

use cairn_api::ids::GroupId;
use cairn_api::units::BLOCK_BYTES;

use crate::event::{Effect, IoId};
use crate::fair::FairQueue;
use crate::shared::{Purpose, Shared};

/// Bytes that the disk is asked for at once for clients, unless one read is longer: four of the longest.
const READ_BYTES_MAX: u64 = 4 << 20;

/// A read that waits for its turn.
#[derive(Debug)]
struct Waiting {
    offset: u64,
    length: u32,
    purpose: Purpose,
}

/// Clients' reads of a disk.
#[derive(Debug)]
pub(crate) struct Reading {
    waiting: FairQueue<Waiting>,
    /// Length of each that the disk was asked for.
    under_way: BTreeMap<IoId, u32>,
    bytes: u64,
}

impl Reading {
    pub(crate) const fn new(is_fair: bool) -> Self {
        Self {
            waiting: FairQueue::new(!is_fair),
            under_way: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// Reads that wait.
    pub(crate) const fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether one of those that wait is of blocks in this range of the disk.
    pub(crate) fn is_about(&self, blocks: &Range<u64>) -> bool {
        let range = blocks.start * BLOCK_BYTES..blocks.end * BLOCK_BYTES;
        self.waiting.iter().any(|waiting| range.contains(&waiting.offset))
    }

    /// The group is gone; nobody waits for what it wanted to read. What the disk was asked for still comes.
    pub(crate) fn forget(&mut self, group: GroupId) {
        self.waiting
            .forget(group, |waiting| waiting.purpose.group() == Some(group));
    }
}

impl Shared {
    /// Starts a read for a client, now or when it is its group's turn.
    pub(crate) fn read_for_client(&mut self, offset: u64, length: u32, purpose: Purpose) {
        let waiting = Waiting {
            offset,
            length,
            purpose,
        };
        let group = waiting.purpose.group().unwrap_or_default();
        self.reading.waiting.push(group, waiting, u64::from(length), true);
        self.start_reads();
    }

    /// A read has ended; whether it was a client's or not.
    pub(crate) fn read_ended_on_disk(&mut self, io: IoId) {
        if let Some(length) = self.reading.under_way.remove(&io) {
            self.reading.bytes -= u64::from(length);
            self.start_reads();
        }
    }

    fn start_reads(&mut self) {
        while let Some(next) = self.reading.waiting.peek() {
            let bytes = u64::from(next.length);
            if self.reading.bytes > 0 && self.reading.bytes + bytes > READ_BYTES_MAX {
                return;
            }
            let Some(next) = self.reading.waiting.pop() else { return };
            let io = self.io.next();
            self.reading.under_way.insert(io, next.length);
            self.reading.bytes += bytes;
            self.reads.insert(io, next.purpose);
            let (offset, length) = (next.offset, next.length);
            self.effects.push(Effect::Read { io, offset, length });
        }
    }
}
