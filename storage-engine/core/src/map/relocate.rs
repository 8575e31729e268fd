//! Moving data on the disk: the one slot that names a block is changed, wherever it is.

use cairn_api::units::Lba;

use super::layer::Owner;
use super::leaf::{Content, Leaf};
use super::volume::place;
use super::{BlockMap, DiskBlock};
use crate::mutation::mutated;

impl BlockMap {
    /// Notes that the data of a block, at `lba` of the volume or of one of its snapshots, is at `new` instead of `old`. Says
    /// whether any slot named `old`: if none did, the block was garbage already.
    pub fn relocate(&mut self, lba: Lba, old: DiskBlock, new: DiskBlock) -> bool {
        let (number, slot) = place(lba.0);
        let is_unchecked = mutated!(self.seeded, MovedUnchecked);
        let names = |leaf: &Leaf| {
            let content = leaf.piece(slot).map(|piece| piece.content);
            matches!(content, Some(Content::Data { block, .. }) if block == old || is_unchecked)
        };
        if let Some(leaf) = self.head.leaves.get_mut(&number)
            && names(leaf)
        {
            self.marks.touch(Owner::Head, number, Some(leaf));
            return relocate_in(leaf, slot, new);
        }
        let holder = self.deltas.holding(number, 0).find(|(_, leaf)| names(leaf));
        let Some(at) = holder.map(|(at, _)| at) else {
            return false;
        };
        self.marks.touch(Owner::Delta(at), number, self.deltas.leaf(at, number));
        let leaf = self.deltas.leaf_mut(at, number);
        leaf.is_some_and(|leaf| relocate_in(leaf, slot, new))
    }
}

fn relocate_in(leaf: &mut Leaf, slot: usize, new: DiskBlock) -> bool {
    let Some(piece) = leaf.piece(slot) else {
        return false;
    };
    let Content::Data { crcs, .. } = piece.content else {
        return false;
    };
    let (crc, birth) = (crcs[0], piece.birth);
    let content = Content::Data {
        block: new,
        crcs: &[crc],
    };
    leaf.fill(slot..slot + 1, content, birth);
    true
}
