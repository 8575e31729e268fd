//! The requests that the device has not completed, and the tags they go by.

use bytes::Bytes;
use cairn_api::block::{BlockOp, Tag};

use crate::limits::{Limits, PAYLOAD_BYTES_MAX, STATUS_EXTENTS_MAX};
use crate::wire::{Request, command, command_flag};

/// Bits of a tag that name the slot; the rest is a counter, which tells a late completion from the slot's next request.
const SLOT_BITS: u32 = 16;

/// A request that the device is to carry out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InFlight {
    /// The request as it came.
    pub(crate) request: Request,
    /// Bytes of the export that it is about: its length, or that in its payload.
    pub(crate) effect_bytes: u64,
}

impl InFlight {
    const fn has(&self, flag: u16) -> bool {
        self.request.flags & flag != 0
    }

    /// Whether a read must be answered with one content chunk.
    pub(crate) const fn is_unfragmented(&self) -> bool {
        self.has(command_flag::DF)
    }

    /// The effect of reads and writes, which was found to be at most [`PAYLOAD_BYTES_MAX`].
    fn payload_bytes(&self) -> u32 {
        u32::try_from(self.effect_bytes).unwrap_or(PAYLOAD_BYTES_MAX)
    }

    /// Length of a write's payload.
    pub(crate) fn payload_length(&self) -> usize {
        self.payload_bytes() as usize
    }

    /// The extents that a block status reply may have.
    pub(crate) const fn extents_max(&self) -> u32 {
        if self.has(command_flag::REQ_ONE) {
            1
        } else {
            STATUS_EXTENTS_MAX
        }
    }

    /// Bytes of payload that the request holds while it is in flight.
    pub(crate) const fn cost(&self) -> u64 {
        match self.request.command {
            command::READ | command::WRITE => self.effect_bytes,
            command::BLOCK_STATUS => self.extents_max() as u64 * 16,
            _ => 0,
        }
    }

    /// The request in the device's terms. FUA asks for nothing: every acknowledged write is durable.
    pub(crate) fn operation(&self, payload: Bytes) -> BlockOp {
        let (offset, length) = (self.request.offset, self.effect_bytes);
        match self.request.command {
            command::READ => BlockOp::Read {
                offset,
                length: self.payload_bytes(),
            },
            command::WRITE => BlockOp::Write { offset, data: payload },
            command::TRIM => BlockOp::Trim { offset, length },
            command::WRITE_ZEROES => BlockOp::WriteZeroes {
                offset,
                length,
                no_hole: self.has(command_flag::NO_HOLE),
            },
            command::BLOCK_STATUS => BlockOp::Status {
                offset,
                length,
                extents_max: self.extents_max(),
            },
            // The only other command that is ever let through; an unknown one is refused when it is judged.
            _ => BlockOp::Flush,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Option<(Tag, InFlight)>>,
    free: Vec<u16>,
    /// Requests so far.
    counter: u64,
    /// The sum of [`InFlight::cost`].
    cost: u64,
}

impl Slots {
    pub(super) const fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether a request of this cost may go in flight. One that is alone always may.
    pub(super) fn has_room(&self, limits: &Limits, cost: u64) -> bool {
        let bytes_max = limits.bytes_max.max(PAYLOAD_BYTES_MAX.into());
        let requests_max = usize::from(limits.requests_max.max(1));
        self.len() < requests_max && self.cost + cost <= bytes_max && self.cost < bytes_max
    }

    pub(super) fn insert(&mut self, work: InFlight) -> Tag {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            // At most `Limits::requests_max`, which is 16 bits, are in flight.
            u16::try_from(self.slots.len() - 1).unwrap_or(u16::MAX)
        });
        self.counter += 1;
        let tag = Tag((self.counter << SLOT_BITS) | u64::from(slot));
        self.cost += work.cost();
        self.slots[usize::from(slot)] = Some((tag, work));
        tag
    }

    pub(super) fn remove(&mut self, tag: Tag) -> Option<InFlight> {
        let slot = u16::try_from(tag.0 & ((1 << SLOT_BITS) - 1)).ok()?;
        let entry = self.slots.get_mut(usize::from(slot))?;
        let (_, work) = entry.take_if(|(known, _)| *known == tag)?;
        self.free.push(slot);
        self.cost -= work.cost();
        Some(work)
    }
}
