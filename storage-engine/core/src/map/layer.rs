//! Leaves of one owner, and the deltas of all snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::leaf::{Leaf, Piece};
use super::runs::Span;
use super::space::Counts;
use super::volume::{leaves_of, slots_of};

/// Where a slot is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Owner {
    /// The volume as it is.
    Head,
    /// What the snapshot made by the entry of this index keeps of what was replaced since.
    Delta(u64),
}

/// The leaves of one owner by their number (their place in the volume), and how many slots with data they hold.
#[derive(Default)]
pub(super) struct Layer {
    pub(super) leaves: BTreeMap<u64, Leaf>,
    pub(super) counts: Counts,
}

impl Layer {
    /// The pieces in a range, holes included, of the leaves that are there.
    pub(super) fn spans(&self, range: Range<u64>) -> impl Iterator<Item = Span<'_>> {
        // Only the leaves of the range: a read of one block must not walk more.
        let leaves = self.leaves.range(leaves_of(&range));
        leaves.flat_map(move |(number, leaf)| {
            let number = *number;
            let pieces = leaf.pieces(slots_of(number, &range));
            pieces.map(move |piece| Span::new(number, piece))
        })
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let leaves = self.leaves.values().map(|leaf| size_of::<u64>() + leaf.memory_bytes());
        leaves.sum()
    }
}

/// The deltas by their snapshots' indices.
#[derive(Default)]
pub(super) struct Deltas {
    pub(super) layers: BTreeMap<u64, Layer>,
    /// Which have a leaf: (leaf number, index). Finds those of one leaf without a look at all others.
    holders: BTreeSet<(u64, u64)>,
}

impl Deltas {
    pub(super) fn add(&mut self, at: u64) {
        self.layers.insert(at, Layer::default());
    }

    /// The leaves of this number in the delta of the snapshot `at` and in newer ones, in order.
    pub(super) fn holding(&self, number: u64, at: u64) -> impl DoubleEndedIterator<Item = (u64, &Leaf)> {
        let holders = self.holders.range((number, at)..=(number, u64::MAX));
        holders.filter_map(move |(_, at)| Some((*at, self.layers.get(at)?.leaves.get(&number)?)))
    }

    /// The first leaf number in `from..end` that the delta of `at` or a newer one has.
    pub(super) fn next_leaf(&self, at: u64, from: u64, end: u64) -> Option<u64> {
        let mut next = (from, at);
        loop {
            let (number, found) = *self.holders.range(next..(end.max(from), 0)).next()?;
            if found >= at {
                return Some(number);
            }
            next = (number, at);
        }
    }

    /// Puts slots, of which the delta has none at their places, into it; `interval` is that of their birth.
    pub(super) fn put(&mut self, at: u64, number: u64, piece: &Piece<'_>, interval: u64) {
        self.leaf_for(at, number)
            .fill(piece.range(), piece.content, piece.birth);
        self.counts_of(at).add(interval, piece.data_slots());
    }

    pub(super) fn has_leaf(&self, at: u64, number: u64) -> bool {
        self.holders.contains(&(number, at))
    }

    /// Puts a whole leaf, which the delta does not have, into it; its slots are counted by the caller.
    pub(super) fn put_leaf(&mut self, at: u64, number: u64, leaf: Leaf) -> &mut Counts {
        let layer = self.layers.entry(at).or_default();
        layer.leaves.insert(number, leaf);
        self.holders.insert((number, at));
        &mut layer.counts
    }

    /// Takes the first leaf out of a delta; its slots are counted by the caller.
    pub(super) fn pop_leaf(&mut self, at: u64) -> Option<(u64, Leaf)> {
        let (number, leaf) = self.layers.get_mut(&at)?.leaves.pop_first()?;
        self.holders.remove(&(number, at));
        Some((number, leaf))
    }

    pub(super) fn leaf(&self, at: u64, number: u64) -> Option<&Leaf> {
        self.layers.get(&at)?.leaves.get(&number)
    }

    /// A leaf of a delta, made if it is not there.
    pub(super) fn leaf_for(&mut self, at: u64, number: u64) -> &mut Leaf {
        let layer = self.layers.entry(at).or_default();
        layer.leaves.entry(number).or_insert_with(|| {
            self.holders.insert((number, at));
            Leaf::new()
        })
    }

    pub(super) fn counts_of(&mut self, at: u64) -> &mut Counts {
        &mut self.layers.entry(at).or_default().counts
    }

    /// The first leaf of a delta.
    pub(super) fn first_leaf(&self, at: u64) -> Option<(u64, &Leaf)> {
        let (number, leaf) = self.layers.get(&at)?.leaves.first_key_value()?;
        Some((*number, leaf))
    }

    pub(super) fn leaf_mut(&mut self, at: u64, number: u64) -> Option<&mut Leaf> {
        self.layers.get_mut(&at)?.leaves.get_mut(&number)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let layers = self.layers.values().map(Layer::memory_bytes);
        layers.sum::<usize>() + self.holders.len() * size_of::<(u64, u64)>()
    }
}
