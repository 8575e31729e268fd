//! The block map of a volume: where on the disk each block's data is, its checksum, and what snapshots keep of the past.
//!
//! Applying an entry changes this map and nothing else; the payload stays where the log put it. What is absent reads as
//! zeros. Every slot carries its **birth**, the Raft index of the entry that filled it: equal on all replicas, so that
//! decisions of all replicas may rest on it. A leaf of 2 MiB holds extents with 4 bytes of checksum a block while it has few
//! of them, and 16 bytes a slot when it has many.
//!
//! # Snapshots
//! The map is a *head*, which is the volume as it is, and one *delta* for each snapshot. A snapshot is the Raft index `at` of
//! the entry that made it; making it adds an empty delta and costs nothing else. When a slot of the head is overwritten, and
//! it was born at or before the newest snapshot, the old slot **moves** into that snapshot's delta; otherwise nobody can see it
//! any more, and its block is garbage at once. So every slot is in exactly one place, the head or one delta: nothing is shared,
//! nothing is counted, and whoever moves a block has one slot to change.
//!
//! Write `a < b` for snapshots made at `a` before `b`, and call the slot that a block had in the head at the time of a
//! snapshot the one *visible* in it. A slot that was born at `b` and replaced at `d` was visible in the snapshots from `b` up to,
//! not including, `d`.
//!
//! 1. *A slot in a delta was visible in that snapshot* (it was born by then, and replaced later), *and in none that is newer*
//!    and existed when it was replaced. It moved to the newest that there was.
//! 2. *At one address, slots in newer deltas, and last the head, are younger.* Each was born when the one before it was
//!    replaced or later: in time, slots of one address follow each other without overlap.
//! 3. So *the block at an address in snapshot `s`* is the first slot found in the delta of `s`, in the newer ones in order, and
//!    in the head, if it was born by `s`: no older slot is in these places (it would have moved to an older delta only if it was
//!    replaced before `s`, and then it is not visible in `s`), and by 2 every later one is younger. If the first one found was born
//!    after `s`, or there is none, the block was a hole.
//! 4. *Deleting `s`* hides it at once; its delta stays where it is, in the order, and is merged away in steps. Let `p` be the
//!    next older snapshot that is not deleted. A slot in the delta of `s` that was born by `p` is visible in `p`, since it was
//!    replaced after `s > p`; the delta of `p` has no slot at that address, since that one would be visible in `p` too, and only
//!    one is. So it moves there. A slot that was born after `p` is not visible in `p`, nor in any older one, nor by 1 in a newer
//!    one: it is garbage. By 3 every snapshot reads the same whichever slots have moved so far, because the delta of `s` is looked at
//!    after that of `p` and before every newer one.
//! 5. While `s` is being merged away, the head's old slots go to the newest snapshot that is *not* deleted, by the same rule.
//!
//! # A base
//! The map of a clone lies over a snapshot of another volume, its base: where it has nothing, the base shows. So a trim within
//! the base leaves a slot of its own there, [`Slot::Trimmed`], that is kept, moved and merged like any other. What becomes of
//! the base in time stands in [`fill`].

mod chain;
mod changed;
mod digest;
mod fill;
mod layer;
mod leaf;
mod paging;
mod relocate;
mod runs;
mod snapshots;
mod space;
mod state;
mod view;
mod volume;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use cairn_api::units::Lba;

pub use self::changed::{Change, ChangeKind};
pub use self::layer::Owner;
pub use self::leaf::{Content, LEAF_SLOTS, Leaf, Piece};
pub use self::space::{HeadSpace, SnapshotSpace};
pub(crate) use self::state::{Found, Marked, StagedMap};
pub use self::view::View;
pub use self::volume::BlockMap;

/// A block address on the disk, in units of `BLOCK_SIZE` from its first byte.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DiskBlock(pub u64);

impl DiskBlock {
    /// The largest address: the three above it mark slots without data inside leaves. 2^48 blocks are an exbibyte.
    pub const MAX: Self = Self((1 << 48) - 4);

    /// The block `count` further on.
    #[must_use]
    pub const fn advance(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

/// What the map knows of one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slot {
    /// Never written, or trimmed: reads as zeros, or as what a base has there.
    Hole,
    /// Allocated zeros that take no space on the disk.
    Zero,
    /// Trimmed in a clone: reads as zeros, whatever the base has.
    Trimmed,
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
        /// CRC32C of each block; borrowed from the map unless the run was joined.
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
    /// Trimmed over a base: reads as zeros.
    Trimmed {
        /// First block.
        lba: Lba,
        /// Blocks.
        blocks: u64,
    },
    /// Nothing: reads as zeros, or as what a base has there.
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
            Self::Data { lba, .. } | Self::Zeros { lba, .. } | Self::Trimmed { lba, .. } | Self::Hole { lba, .. } => {
                *lba
            }
        }
    }

    /// Blocks.
    pub const fn blocks(&self) -> u64 {
        match self {
            Self::Data { blocks, .. }
            | Self::Zeros { blocks, .. }
            | Self::Trimmed { blocks, .. }
            | Self::Hole { blocks, .. } => *blocks,
        }
    }
}
