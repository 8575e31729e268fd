//! What a leaf is filled with, and the rows of slots that it gives back.

use std::ops::Range;

use super::dense::Dense;
use super::extents::Extents;
use super::{HOLE, Leaf, Slots, TRIMMED, ZERO};
use crate::map::DiskBlock;

/// What slots hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content<'a> {
    /// Data, contiguous on the disk from `block` on.
    Data {
        /// Where the first slot's data is.
        block: DiskBlock,
        /// CRC32C of each slot's.
        crcs: &'a [u32],
    },
    /// Allocated zeros.
    Zero,
    /// Trimmed, where a hole would show what is below: reads as zeros.
    Trimmed,
    /// Nothing.
    Hole,
}

impl<'a> Content<'a> {
    pub(super) const fn crcs(&self) -> &'a [u32] {
        match self {
            Self::Data { crcs, .. } => crcs,
            Self::Zero | Self::Trimmed | Self::Hole => &[],
        }
    }
}

/// The address of the first block, or what stands in place of one.
pub(super) const fn content_code(content: &Content<'_>) -> u64 {
    match content {
        Content::Data { block, .. } => block.0,
        Content::Zero => ZERO,
        Content::Trimmed => TRIMMED,
        Content::Hole => HOLE,
    }
}

/// Slots of one kind and birth in a row, within one leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece<'a> {
    /// The first slot's place in the leaf.
    pub start: usize,
    /// How many there are.
    pub slots: usize,
    /// The Raft index of the entry that filled them; 0 for a hole.
    pub birth: u64,
    /// What they hold.
    pub content: Content<'a>,
}

impl Piece<'_> {
    /// Whether the slots hold nothing.
    pub const fn is_hole(&self) -> bool {
        matches!(self.content, Content::Hole)
    }

    /// How many of the slots hold data.
    pub const fn data_slots(&self) -> u64 {
        if matches!(self.content, Content::Data { .. }) {
            self.slots as u64
        } else {
            0
        }
    }

    /// The slots.
    pub const fn range(&self) -> Range<usize> {
        self.start..self.start + self.slots
    }
}

/// Iterates over a leaf's [`Piece`]s.
pub(super) struct Pieces<'a> {
    leaf: &'a Leaf,
    /// What is still to come.
    range: Range<usize>,
    /// The first extent that ends after `range.start`, and where its checksums begin.
    extent: usize,
    crc: usize,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(leaf: &'a Leaf, range: Range<usize>) -> Self {
        let (extent, crc) = match &leaf.slots {
            Slots::Extents(leaf) => {
                let first = leaf.first_ending_after(range.start);
                (first, leaf.crc_offset(first))
            }
            Slots::Dense(_) => (0, 0),
        };
        Self {
            leaf,
            range,
            extent,
            crc,
        }
    }

    fn next_extent(&mut self, leaf: &'a Extents) -> Piece<'a> {
        let Range { start, end } = self.range;
        let hole_to = |end: usize| Piece {
            start,
            slots: end - start,
            birth: 0,
            content: Content::Hole,
        };
        let Some(extent) = leaf.get(self.extent) else {
            return hole_to(end);
        };
        let own = extent.range();
        if own.start > start {
            return hole_to(own.start.min(end));
        }
        let piece_end = own.end.min(end);
        let skipped = start - own.start;
        let content = match extent.block() {
            ZERO => Content::Zero,
            TRIMMED => Content::Trimmed,
            block => Content::Data {
                block: DiskBlock(block + skipped as u64),
                crcs: leaf.crcs(self.crc + skipped..self.crc + skipped + (piece_end - start)),
            },
        };
        if piece_end == own.end {
            self.crc += extent.crc_count();
            self.extent += 1;
        }
        Piece {
            start,
            slots: piece_end - start,
            birth: extent.birth(),
            content,
        }
    }

    fn next_row(&self, leaf: &'a Dense) -> Piece<'a> {
        let start = self.range.start;
        let end = leaf.row_end(start, self.range.end);
        let content = match leaf.block(start) {
            ZERO => Content::Zero,
            TRIMMED => Content::Trimmed,
            HOLE => Content::Hole,
            block => Content::Data {
                block: DiskBlock(block),
                crcs: leaf.crcs(start..end),
            },
        };
        Piece {
            start,
            slots: end - start,
            birth: leaf.birth(start),
            content,
        }
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        if self.range.is_empty() {
            return None;
        }
        let piece = match &self.leaf.slots {
            Slots::Extents(leaf) => self.next_extent(leaf),
            Slots::Dense(leaf) => self.next_row(leaf),
        };
        self.range.start = piece.range().end;
        Some(piece)
    }
}
