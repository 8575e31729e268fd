//! A leaf: 512 slots, as extents while they are few, as arrays when they are many.

mod dense;
mod extents;
mod pieces;

use std::ops::Range;

use self::dense::Dense;
use self::extents::Extents;
pub use self::pieces::{Content, Piece};
use self::pieces::{Pieces, content_code};
use super::DiskBlock;

/// Slots of a leaf: 2 MiB of the volume.
pub(super) const SLOTS: usize = 512;
/// Slots of a leaf, for arithmetic on block addresses.
pub const LEAF_SLOTS: u64 = SLOTS as u64;

/// A leaf with more extents than this turns dense. At the limit, isolated blocks cost 20 bytes each as extents (16, and
/// 4 of checksum) and a search touches 3 KiB; a dense leaf costs 8 KiB whatever it holds.
const EXTENTS_MAX: usize = 192;
/// A dense leaf that could do with this many extents turns back. Far enough below [`EXTENTS_MAX`] that a leaf does not
/// swing between the two.
const EXTENTS_RETURN: usize = 64;
/// A dense leaf is looked at for turning back only after a change of this many slots: the look costs a pass over it.
const RETURN_CHANGE_SLOTS: usize = 32;

/// Bits of a block address and of a birth: 2^48 blocks are an exbibyte, 2^48 entries at a million a second nine years of
/// nothing else.
const FIELD_BITS: u32 = 48;
/// The largest birth.
pub(super) const BIRTH_MAX: u64 = (1 << FIELD_BITS) - 1;

/// In place of a block address: allocated zeros.
const ZERO: u64 = DiskBlock::MAX.0 + 1;
/// In place of a block address: trimmed, over a base.
const TRIMMED: u64 = DiskBlock::MAX.0 + 2;
/// In place of a block address, in dense leaves: nothing.
const HOLE: u64 = DiskBlock::MAX.0 + 3;

#[derive(Clone)]
enum Slots {
    Extents(Extents),
    Dense(Box<Dense>),
}

/// 2 MiB of a volume, or of what a snapshot of it keeps.
#[derive(Clone)]
pub struct Leaf {
    slots: Slots,
}

impl Default for Leaf {
    fn default() -> Self {
        Self::new()
    }
}

impl Leaf {
    /// A leaf of holes.
    pub const fn new() -> Self {
        Self {
            slots: Slots::Extents(Extents::new()),
        }
    }

    /// A leaf whose slots are all allocated zeros, or all trimmed.
    pub(super) fn all(content: Content<'_>, birth: u64) -> Self {
        assert!(!matches!(content, Content::Data { .. }), "a whole leaf without data");
        Self {
            slots: Slots::Extents(Extents::all(content_code(&content), birth)),
        }
    }

    /// Slots that hold data.
    pub fn data_slots(&self) -> usize {
        match &self.slots {
            Slots::Extents(leaf) => leaf.data_slots(),
            Slots::Dense(leaf) => leaf.data_slots(),
        }
    }

    /// Whether every slot is a hole: such a leaf need not be kept.
    pub fn is_empty(&self) -> bool {
        match &self.slots {
            Slots::Extents(leaf) => leaf.is_empty(),
            Slots::Dense(leaf) => leaf.is_empty(),
        }
    }

    /// Puts `content` into the slots of `range`, born at `birth`.
    ///
    /// # Panics
    /// If the range is empty or leaves the leaf, if there are not as many checksums as slots, or if an address or the
    /// birth needs more than 48 bits.
    pub fn fill(&mut self, range: Range<usize>, content: Content<'_>, birth: u64) {
        assert!(
            range.start < range.end && range.end <= SLOTS,
            "slots {range:?} are not in a leaf"
        );
        assert!(birth <= BIRTH_MAX, "birth {birth} needs more than 48 bits");
        if let Content::Data { block, crcs } = content {
            let blocks = crcs.len() as u64;
            assert!(crcs.len() == range.len(), "{blocks} checksums for slots {range:?}");
            assert!(
                block.0 <= DiskBlock::MAX.0 - blocks,
                "{block:?} + {blocks} is not a place on a disk"
            );
        }
        let changed = range.len();
        match &mut self.slots {
            Slots::Extents(leaf) => {
                leaf.fill(range, content, birth);
                if leaf.count() > EXTENTS_MAX {
                    self.slots = Slots::Dense(Box::new(leaf.to_dense()));
                }
            }
            Slots::Dense(leaf) => {
                leaf.fill(range, content, birth);
                if changed >= RETURN_CHANGE_SLOTS || leaf.data_slots() == 0 {
                    let extents = leaf.to_extents();
                    if extents.count() <= EXTENTS_RETURN {
                        self.slots = Slots::Extents(extents);
                    }
                }
            }
        }
    }

    /// The pieces of `range`, in order, holes included; not joined further than the leaf holds them.
    ///
    /// # Panics
    /// If the range leaves the leaf.
    pub fn pieces(&self, range: Range<usize>) -> impl Iterator<Item = Piece<'_>> {
        assert!(
            range.start <= range.end && range.end <= SLOTS,
            "slots {range:?} are not in a leaf"
        );
        Pieces::new(self, range)
    }

    /// The pieces of the whole leaf that are not holes.
    pub fn filled(&self) -> impl Iterator<Item = Piece<'_>> {
        self.pieces(0..SLOTS).filter(|piece| !piece.is_hole())
    }

    /// One slot.
    pub(super) fn piece(&self, slot: usize) -> Option<Piece<'_>> {
        self.pieces(slot..slot + 1).next().filter(|piece| !piece.is_hole())
    }

    /// Whether nothing in it was born after `birth`.
    pub(super) fn is_born_by(&self, birth: u64) -> bool {
        self.filled().all(|piece| piece.birth <= birth)
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + match &self.slots {
                Slots::Extents(leaf) => leaf.heap_bytes(),
                Slots::Dense(_) => size_of::<Dense>(),
            }
    }
}
