//! Filling a clone from its base, until it needs the base no more.
//!
//! The leader reads what the base shows and proposes it, from the first block on and in order; an entry is applied only if it
//! begins where the clone is filled up to. So the place up to which it is filled is part of the volume's state at every index,
//! the same on every replica: what is repeated, or proposed by a leader that did not know better, has no effect anywhere. Below
//! that place the base does not show any more, and the map is one like any other: what is trimmed there leaves a hole. When all is
//! filled, the base is dropped by the same entry.
//!
//! # Where a block goes
//! Call a *time* any snapshot that is not deleted, or the volume as it is. Within the range through which the base shows, a slot
//! of the head is only ever replaced by another one, never by nothing. So at each address the times that have nothing, and show the
//! base, are the oldest ones: up to a certain time the base, then versions of the clone's own.
//!
//! The block is put where the **newest time that shows the base** looks first: into the head if that is the volume as it is,
//! else into that snapshot's delta. It is born at 0, before everything.
//!
//! 1. *There is nothing in that place.* What that delta has at an address is visible in its snapshot (the first rule of [`super`]).
//! 2. *All times that showed the base show the block*: looking from an older delta upwards they meet nothing before it, for what
//!    they met would have been visible, or, being younger than they are, would be visible at a time in between, which shows the
//!    base, too. And 0 is not after any of them.
//! 3. *No other time shows it*: newer ones do not look into that delta, and the head has nothing but it if it is there.
//! 4. *At one address slots in newer deltas are still younger*, since 0 is older than everything else; so the second rule of
//!    [`super`] holds on, and with it the merging of deleted snapshots. A delta that is being merged away does not count as a time. What
//!    it still has at the address, if anything, is younger than the block and is found behind it or not at all.
//! 5. *Every replica does the same to all times*, although replicas differ in what of deleted snapshots is merged away, and a
//!    leader may have a mark, which counts as a time there. Which time shows what is the same everywhere; a block that goes into
//!    a mark's delta moves on to the next older snapshot with the mark's end, like all that the mark keeps, and is garbage if
//!    there is none.
//!
//! If no time shows the base at an address, the block of the entry is garbage at once; the leader leaves such blocks out.
//!
//! # What birth 0 means elsewhere
//! Two times that showed the base differ by nothing ([`super::changed`]). For the counts a block is as old as the oldest
//! interval. Replicas that are given a state cannot tell by birth 0 what they have: they say up to which block they had been
//! filled when they began to receive it, which tells the same, since the place only rises.

use std::ops::Range;

use cairn_api::units::Lba;

use super::chain::NOW;
use super::layer::Owner;
use super::leaf::{Content, Piece};
use super::volume::leaf_ranges;
use super::{BlockMap, DiskBlock};
use crate::mutation::mutated;

/// The birth of what was filled.
const BIRTH: u64 = 0;

impl BlockMap {
    /// Fills the clone from `lba` on: `skip` blocks need nothing, those behind them are on the disk from `first` on and have these
    /// checksums. Says whether that is what comes next; if not, nothing was changed.
    pub fn fill_from_base(&mut self, lba: Lba, skip: u64, first: DiskBlock, crcs: &[u32]) -> bool {
        let range = self.base_range();
        let start = lba.0.saturating_add(skip);
        let end = start.saturating_add(crcs.len() as u64);
        if lba.0 != range.start || end > range.end || range.is_empty() {
            return false;
        }
        let mut done = 0;
        for (leaf, slots) in leaf_ranges(start..end) {
            let next = done + slots.len();
            self.fill_leaf(leaf, slots, first.advance(done as u64), &crcs[done..next]);
            done = next;
        }
        let is_over = end == range.end || mutated!(self.seeded, BaseDroppedTooEarly);
        let base = self.base().filter(|_| !is_over);
        self.set_base(base, if is_over { range.end } else { end });
        true
    }

    /// The oldest time at which a user can look: if that does not show the base at an address, none does.
    pub(crate) fn oldest_time(&self) -> super::View<'_> {
        let oldest = self.chain.users().next();
        oldest.map_or_else(|| self.now(), |(at, link)| self.view_at(at, link.size_blocks))
    }

    /// Fills slots of one leaf.
    fn fill_leaf(&mut self, number: u64, slots: Range<usize>, first: DiskBlock, crcs: &[u32]) {
        let origin = slots.start;
        let snapshots: Vec<u64> = self.chain.living().map(|(at, _)| at).collect();
        let times = std::iter::once(NOW).chain(snapshots.into_iter().rev());
        let mut open = vec![slots];
        for time in times {
            let mut own = Vec::new();
            for range in std::mem::take(&mut open) {
                for part in self.parts(time, number, range) {
                    if part.1 {
                        own.push(part.0);
                    } else {
                        open.push(part.0);
                    }
                }
            }
            // Those that show the base at this time, and did not at any newer one.
            for range in open.drain(..) {
                let offset = range.start - origin;
                let content = Content::Data {
                    block: first.advance(offset as u64),
                    crcs: &crcs[offset..offset + range.len()],
                };
                self.put_filled(time, number, range, content);
            }
            open = own;
        }
        for range in open {
            let offset = range.start - origin;
            let content = Content::Data {
                block: first.advance(offset as u64),
                crcs: &crcs[offset..offset + range.len()],
            };
            if mutated!(self.seeded, FlattenOverwritesNewer) {
                self.put_filled(NOW, number, range, content);
            } else {
                self.marks.garbage(&content);
            }
        }
    }

    /// Cuts slots of a leaf into those that have something at a time (`true`) and those that have nothing.
    fn parts(&self, time: u64, number: u64, range: Range<usize>) -> Vec<(Range<usize>, bool)> {
        let mut parts = Vec::new();
        let mut next = range.start;
        for piece in self.resolve(time, number, range.clone()) {
            if piece.start > next {
                parts.push((next..piece.start, false));
            }
            parts.push((piece.range(), true));
            next = piece.range().end;
        }
        if next < range.end {
            parts.push((next..range.end, false));
        }
        parts
    }

    fn put_filled(&mut self, time: u64, number: u64, range: Range<usize>, content: Content<'_>) {
        if time == NOW {
            return self.fill(number, range, content, BIRTH);
        }
        let piece = Piece {
            start: range.start,
            slots: range.len(),
            birth: BIRTH,
            content,
        };
        self.marks
            .touch(Owner::Delta(time), number, self.deltas.leaf(time, number));
        self.deltas.put(time, number, &piece, self.chain.interval(BIRTH));
    }
}
