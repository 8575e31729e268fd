//! Moving data on the disk: the one slot that names a block is changed, wherever it is.

use cairn_api::units::Lba;

use super::leaf::{Content, Leaf};
use super::volume::place;
use super::{BlockMap, DiskBlock};

impl BlockMap {
    /// Notes that the data of a block, at `lba` of the volume or of one of its snapshots, is at `new` instead of `old`. Says
    /// whether any slot named `old`: if none did, the block was garbage already.
    pub fn relocate(&mut self, lba: Lba, old: DiskBlock, new: DiskBlock) -> bool {
        let (number, slot) = place(lba.0);
        if let Some(leaf) = self.head.leaves.get_mut(&number)
            && relocate_in(leaf, slot, old, new)
        {
            return true;
        }
        let names = |leaf: &Leaf| {
            let content = leaf.piece(slot).map(|piece| piece.content);
            matches!(content, Some(Content::Data { block, .. }) if block == old)
        };
        let holder = self.deltas.holding(number, 0).find(|(_, leaf)| names(leaf));
        let Some(at) = holder.map(|(at, _)| at) else {
            return false;
        };
        let leaf = self.deltas.leaf_mut(at, number);
        leaf.is_some_and(|leaf| relocate_in(leaf, slot, old, new))
    }
}

fn relocate_in(leaf: &mut Leaf, slot: usize, old: DiskBlock, new: DiskBlock) -> bool {
    let Some(piece) = leaf.piece(slot) else {
        return false;
    };
    let Content::Data { block, crcs } = piece.content else {
        return false;
    };
    if block != old {
        return false;
    }
    let (crc, birth) = (crcs[0], piece.birth);
    let content = Content::Data {
        block: new,
        crcs: &[crc],
    };
    leaf.fill(slot..slot + 1, content, birth);
    true
}
