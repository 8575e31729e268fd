//! The block map of a volume: where on the disk each block's data is, and its checksum.
//!
//! Applying an entry changes this map and nothing else; the payload stays where the log put it. The map is a persistent
//! tree of three levels, each behind an `Arc`: a root of nodes of 512 MiB, nodes of leaves of 2 MiB, leaves of 512
//! slots. What is absent reads as zeros. A change copies only what a frozen root still shares ([`BlockMap::freeze`]), and
//! every slot carries the birth epoch in which it was written, so that a later snapshot can tell its own blocks from
//! those it inherited.
//!
//! A leaf holds extents with 4 bytes of checksum a block while it has few of them, and 16 bytes a slot when it has many.

mod leaf;
mod runs;
mod tree;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use cairn_api::units::Lba;

pub use self::tree::{BlockMap, FrozenMap};

/// A block address on the disk, in units of `BLOCK_SIZE` from its first byte.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DiskBlock(pub u64);

impl DiskBlock {
    /// The largest address: the two above it mark slots without data inside leaves. 2^62 blocks are 16 ZiB.
    pub const MAX: Self = Self((1 << 62) - 1);

    /// The block `count` further on.
    #[must_use]
    pub const fn advance(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

/// What the map knows of one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slot {
    /// Never written, or trimmed: reads as zeros.
    Hole,
    /// Allocated zeros that take no space on the disk.
    Zero,
    /// Data.
    Data {
        /// Where it is.
        block: DiskBlock,
        /// CRC32C of its 4 KiB.
        crc: u32,
    },
}

/// Blocks of one kind in a row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Run<'a> {
    /// Data that is contiguous on the disk.
    Data {
        /// First block.
        lba: Lba,
        /// Where its data is; that of each further block follows it.
        block: DiskBlock,
        /// CRC32C of each block; borrowed from the map unless the run crosses a leaf's border.
        crcs: Cow<'a, [u32]>,
        /// Blocks: as many as there are checksums.
        blocks: u64,
    },
    /// Allocated zeros.
    Zeros {
        /// First block.
        lba: Lba,
        /// Blocks.
        blocks: u64,
    },
    /// Nothing: reads as zeros.
    Hole {
        /// First block.
        lba: Lba,
        /// Blocks.
        blocks: u64,
    },
}

impl Run<'_> {
    /// First block.
    pub const fn lba(&self) -> Lba {
        match self {
            Self::Data { lba, .. } | Self::Zeros { lba, .. } | Self::Hole { lba, .. } => *lba,
        }
    }

    /// Blocks.
    pub const fn blocks(&self) -> u64 {
        match self {
            Self::Data { blocks, .. } | Self::Zeros { blocks, .. } | Self::Hole { blocks, .. } => *blocks,
        }
    }
}
