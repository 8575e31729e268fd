//! Reading the volume as a snapshot shows it.

use std::ops::Range;

use cairn_api::ids::{LogIndex, SnapshotId};
use cairn_api::units::Lba;

use super::chain::NOW;
use super::leaf::Piece;
use super::runs::{Runs, Span};
use super::volume::{check, leaves_of, place, slot_of, slots_of};
use super::{BlockMap, Run, Slot};

/// The volume at one time: as a snapshot shows it, or as it is.
#[derive(Clone, Copy)]
pub struct View<'a> {
    map: &'a BlockMap,
    /// The snapshot's index, or [`NOW`].
    pub(super) at: u64,
    size_blocks: u64,
}

impl BlockMap {
    /// The volume as a snapshot shows it; `None` if there is no such snapshot, or it was deleted.
    pub fn snapshot(&self, id: SnapshotId) -> Option<View<'_>> {
        let (at, link) = self.chain.find(id)?;
        Some(View {
            map: self,
            at,
            size_blocks: link.size_blocks,
        })
    }

    /// The volume as the snapshot of this index shows it.
    pub(super) const fn view_at(&self, at: u64, size_blocks: u64) -> View<'_> {
        View {
            map: self,
            at,
            size_blocks,
        }
    }

    /// The volume as it is.
    pub const fn now(&self) -> View<'_> {
        View {
            map: self,
            at: NOW,
            size_blocks: self.size_blocks(),
        }
    }

    /// The slots of one leaf that hold something at a time, in order, as the module's third rule has it: of each address the
    /// first slot found in the snapshot's delta, in the newer ones and in the head, if it was born by then.
    pub(super) fn resolve(&self, at: u64, number: u64, slots: Range<usize>) -> Vec<Piece<'_>> {
        let mut found = Vec::new();
        let mut open = vec![slots];
        let deltas = self.deltas.holding(number, at).map(|(_, leaf)| leaf);
        for leaf in deltas.chain(self.head.leaves.get(&number)) {
            let mut still_open: Vec<Range<usize>> = Vec::new();
            for piece in open.into_iter().flat_map(|range| leaf.pieces(range)) {
                if !piece.is_hole() {
                    if piece.birth <= at {
                        found.push(piece);
                    }
                    continue;
                }
                match still_open.last_mut() {
                    Some(last) if last.end == piece.start => last.end = piece.range().end,
                    _ => still_open.push(piece.range()),
                }
            }
            open = still_open;
            if open.is_empty() {
                break;
            }
        }
        found.sort_unstable_by_key(|piece| piece.start);
        found
    }

    /// The numbers in a range of the leaves that the delta of `at`, a newer one or the head has.
    pub(super) fn leaf_numbers(&self, at: u64, range: Range<u64>) -> impl Iterator<Item = u64> {
        let Range { start, end } = range;
        let mut next = start;
        std::iter::from_fn(move || {
            if next >= end {
                return None;
            }
            let head = self.head.leaves.range(next..end).next().map(|(number, _)| *number);
            let delta = self.deltas.next_leaf(at, next, end);
            let number = head.into_iter().chain(delta).min()?;
            next = number + 1;
            Some(number)
        })
    }
}

/// Either way to the pieces: the head is read most, and needs no resolving.
enum Spans<H, P> {
    Head(H),
    Past(P),
}

impl<'a, H: Iterator<Item = Span<'a>>, P: Iterator<Item = Span<'a>>> Iterator for Spans<H, P> {
    type Item = Span<'a>;

    fn next(&mut self) -> Option<Span<'a>> {
        match self {
            Self::Head(head) => head.next(),
            Self::Past(past) => past.next(),
        }
    }
}

impl<'a> View<'a> {
    /// The volume's size at that time.
    pub const fn size_blocks(&self) -> u64 {
        self.size_blocks
    }

    /// The entry that made the snapshot; `None` for the volume as it is.
    pub fn at(&self) -> Option<LogIndex> {
        (self.at != NOW).then_some(LogIndex(self.at))
    }

    /// The pieces that hold something in a range, in order, with their places in the volume; of the volume as it is,
    /// holes, too.
    pub(super) fn spans(self, range: Range<u64>) -> impl Iterator<Item = Span<'a>> {
        if self.at == NOW {
            Spans::Head(self.map.head.spans(range))
        } else {
            Spans::Past(self.resolved(range))
        }
    }

    fn resolved(self, range: Range<u64>) -> impl Iterator<Item = Span<'a>> {
        let numbers = self.map.leaf_numbers(self.at, leaves_of(&range));
        numbers.flat_map(move |number| {
            let found = self.map.resolve(self.at, number, slots_of(number, &range));
            found.into_iter().map(move |piece| Span::new(number, piece))
        })
    }

    /// As [`BlockMap::runs`].
    ///
    /// # Panics
    /// If the range leaves the volume as it was.
    pub fn runs(self, lba: Lba, blocks: u64) -> impl Iterator<Item = Run<'a>> {
        check(lba, blocks.max(1), self.size_blocks);
        let range = lba.0..lba.0 + blocks;
        Runs::new(range.clone(), self.spans(range))
    }

    /// What the map knows of one block at that time.
    pub fn slot(self, lba: Lba) -> Slot {
        check(lba, 1, self.size_blocks);
        let (number, slot) = place(lba.0);
        let found = self.map.resolve(self.at, number, slot..slot + 1);
        found.first().map_or(Slot::Hole, slot_of)
    }

    /// The map that this is a view of.
    pub(crate) const fn map(&self) -> &'a BlockMap {
        self.map
    }
}
