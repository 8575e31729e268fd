//! Making and deleting snapshots, and merging away what was deleted.

use cairn_api::ids::{LogIndex, SnapshotId};

use super::BlockMap;
use super::chain::{MARK, NOW};
use super::layer::Owner;
use super::leaf::LEAF_SLOTS;
use super::volume::retire_leaf;
use crate::mutation::mutated;

impl BlockMap {
    /// Makes a snapshot of the volume as the entries up to and including `at` made it, if there is none of this id yet. Gives
    /// the index that made it; `None` if the id is spent: it, or a higher one, was made or deleted before, so that a
    /// request that comes late does not bring back what was deleted. Costs nothing that grows with the volume or the
    /// number of snapshots.
    pub fn create_snapshot(&mut self, id: SnapshotId, at: LogIndex) -> Option<LogIndex> {
        if let Some((at, _)) = self.chain.find(id) {
            return Some(LogIndex(at));
        }
        if self.is_spent(id) && id != MARK {
            return None;
        }
        self.chain.add(at.get(), id, self.size_blocks());
        self.deltas.add(at.get());
        self.close_interval(at.get());
        Some(at)
    }

    /// Whether no snapshot of this id can be made any more.
    pub const fn is_spent(&self, id: SnapshotId) -> bool {
        id.get() <= self.chain.id_last().get()
    }

    /// Deletes a snapshot, and spends its id; says whether there was one. What it kept goes in the steps of [`Self::merge_step`].
    pub fn delete_snapshot(&mut self, id: SnapshotId) -> bool {
        self.chain.delete(id).is_some()
    }

    /// Whether a deleted snapshot is still to be merged away.
    pub fn is_merging(&self) -> bool {
        self.chain.oldest_deleted().is_some()
    }

    /// Merges up to `slots_max` slots of deleted snapshots into those that inherit them; says whether there is more to do. No
    /// snapshot reads differently for it.
    pub fn merge_step(&mut self, slots_max: u64) -> bool {
        let Some(at) = self.chain.oldest_deleted() else {
            return false;
        };
        let heir = match self.chain.older(at) {
            Some(_) if mutated!(self.seeded, MergeDropsAll) => None,
            heir => heir,
        };
        let heirs_time = match heir {
            Some(_) if mutated!(self.seeded, MergeKeepsAll) => Some(NOW - 1),
            heir => heir,
        };
        let mut counts = match self.deltas.layers.get_mut(&at) {
            Some(layer) => std::mem::take(&mut layer.counts),
            None => Default::default(),
        };
        let mut slots = 0;
        let mut is_done = false;
        while slots < slots_max && !is_done {
            slots += LEAF_SLOTS;
            if let Some((number, leaf)) = self.deltas.first_leaf(at) {
                self.marks.touch(Owner::Delta(at), number, Some(leaf));
            }
            match self.deltas.pop_leaf(at) {
                Some((number, leaf)) => {
                    retire_leaf(
                        &self.chain,
                        (&mut self.deltas, &mut self.marks),
                        &mut counts,
                        (number, leaf),
                        heir.zip(heirs_time),
                    );
                }
                None => is_done = true,
            }
        }
        if let Some(layer) = self.deltas.layers.get_mut(&at) {
            layer.counts = counts;
        }
        if is_done {
            self.forget(at);
        }
        self.is_merging()
    }

    /// Takes a snapshot of whose delta nothing is left out of the order. The interval that it ended becomes part of the next:
    /// for the head, and for every newer delta; the older ones have nothing that was born in it.
    fn forget(&mut self, at: u64) {
        self.chain.remove(at);
        let into = self.chain.interval(at);
        self.head.counts.join(at, into);
        if let Some(layer) = self.deltas.layers.remove(&at) {
            assert!(
                layer.leaves.is_empty() && layer.counts.total() == 0,
                "the delta of {at} is merged away"
            );
        }
        for (_, layer) in self.deltas.layers.range_mut(at..) {
            assert!(into != NOW, "a newer delta's snapshot ends an interval");
            layer.counts.join(at, into);
        }
    }
}
