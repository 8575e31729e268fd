//! An append head beside the log: where the next chunk of a cold or index segment goes.

use bytes::Bytes;
use cairn_format::segment::HeadKind;

use super::segments::{Role, Segments};
use crate::log::LogWriter;

/// A place for a chunk.
#[derive(Debug)]
pub(crate) struct Place {
    /// The disk's block that it starts at.
    pub(crate) block: u64,
    /// The epoch of its segment.
    pub(crate) epoch: u64,
    /// The header of the segment, where the chunk is its first: it goes in front of it, in the same write.
    pub(crate) header: Option<Bytes>,
}

/// Where the head stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Open {
    segment: u32,
    epoch: u64,
    next_block: u64,
}

/// An append head.
#[derive(Debug)]
pub(crate) struct Head {
    kind: HeadKind,
    open: Option<Open>,
}

impl Head {
    pub(crate) const fn new(kind: HeadKind) -> Self {
        Self { kind, open: None }
    }

    /// Goes on behind what recovery knows to be used.
    pub(crate) fn go_on_in(&mut self, segment: u32, epoch: u64, next_block: u64) {
        self.open = Some(Open {
            segment,
            epoch,
            next_block,
        });
    }

    /// The segment that it writes to.
    pub(crate) fn segment(&self) -> Option<u32> {
        self.open.map(|open| open.segment)
    }

    /// Blocks that are left in the segment that it writes to.
    pub(crate) fn left(&self, segments: &Segments) -> u64 {
        self.open.map_or(0, |open| {
            segments.blocks_of(open.segment).end.saturating_sub(open.next_block)
        })
    }

    /// What was placed last ends here: it was shorter than it might have been.
    pub(crate) fn give_back(&mut self, next_block: u64) {
        if let Some(open) = &mut self.open {
            open.next_block = next_block;
        }
    }

    /// A place for so many blocks; `None` while no segment can be taken.
    pub(crate) fn place(&mut self, blocks: u32, log: &mut LogWriter, segments: &mut Segments) -> Option<Place> {
        let blocks = u64::from(blocks);
        if let Some(open) = &mut self.open
            && open.next_block + blocks <= segments.blocks_of(open.segment).end
        {
            let block = open.next_block;
            open.next_block += blocks;
            let epoch = open.epoch;
            return Some(Place {
                block,
                epoch,
                header: None,
            });
        }
        let (segment, epoch, header) = log.take_segment(self.kind)?;
        let role = match self.kind {
            HeadKind::Index => Role::Index,
            HeadKind::Cold => Role::Cold,
            HeadKind::Hot => Role::Log,
        };
        segments.use_for(segment, role, epoch, log.next_sequence());
        let block = segments.blocks_of(segment).start + 1;
        self.open = Some(Open {
            segment,
            epoch,
            next_block: block + blocks,
        });
        Some(Place {
            block,
            epoch,
            header: Some(header),
        })
    }
}
