//! The form of a leaf with many rows of slots: 16 bytes a slot, in arrays.

use std::ops::Range;

use super::extents::{Extent, Extents};
use super::pieces::{Content, content_code};
use super::{HOLE, SLOTS, ZERO};

/// Block address and birth, 48 bits each, in 12 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place([u32; 3]);

impl Place {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "cut into its halves; both are at most 48 bits long"
    )]
    const fn new(block: u64, birth: u64) -> Self {
        let high = (block >> 32) as u32 | ((birth >> 32) as u32) << 16;
        Self([block as u32, birth as u32, high])
    }

    const fn block(self) -> u64 {
        self.0[0] as u64 | ((self.0[2] & 0xFFFF) as u64) << 32
    }

    const fn birth(self) -> u64 {
        self.0[1] as u64 | ((self.0[2] >> 16) as u64) << 32
    }
}

#[derive(Clone)]
pub(super) struct Dense {
    places: [Place; SLOTS],
    crcs: [u32; SLOTS],
    data_slots: usize,
}

const _: () = assert!(size_of::<Dense>() <= 16 * SLOTS + 8);

impl Dense {
    pub(super) const fn new() -> Self {
        Self {
            places: [Place::new(HOLE, 0); SLOTS],
            crcs: [0; SLOTS],
            data_slots: 0,
        }
    }

    pub(super) const fn data_slots(&self) -> usize {
        self.data_slots
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.iter().all(|place| place.block() == HOLE)
    }

    /// Puts an extent where there are holes.
    pub(super) fn put(&mut self, extent: &Extent, crcs: &[u32]) {
        self.set(extent.range(), extent.block(), extent.birth(), crcs);
        self.data_slots += crcs.len();
    }

    fn set(&mut self, range: Range<usize>, first: u64, birth: u64, crcs: &[u32]) {
        if first < ZERO {
            self.crcs[range.clone()].copy_from_slice(crcs);
            for (place, block) in self.places[range].iter_mut().zip(first..) {
                *place = Place::new(block, birth);
            }
        } else {
            self.crcs[range.clone()].fill(0);
            self.places[range].fill(Place::new(first, birth));
        }
    }

    pub(super) fn fill(&mut self, range: Range<usize>, content: Content<'_>, birth: u64) {
        let had = self.places[range.clone()].iter().filter(|place| place.block() < ZERO);
        self.data_slots -= had.count();
        let code = content_code(&content);
        let birth = if code == HOLE { 0 } else { birth };
        self.set(range, code, birth, content.crcs());
        self.data_slots += content.crcs().len();
    }

    pub(super) const fn block(&self, slot: usize) -> u64 {
        self.places[slot].block()
    }

    pub(super) const fn birth(&self, slot: usize) -> u64 {
        self.places[slot].birth()
    }

    pub(super) fn crcs(&self, range: Range<usize>) -> &[u32] {
        &self.crcs[range]
    }

    /// The end of the row of like slots of one birth that begins at `slot`, not beyond `end`.
    pub(super) fn row_end(&self, slot: usize, end: usize) -> usize {
        let (first, birth) = (self.block(slot), self.birth(slot));
        let mut next = slot + 1;
        while next < end {
            let step = if first < ZERO { (next - slot) as u64 } else { 0 };
            if self.places[next] != Place::new(first + step, birth) {
                break;
            }
            next += 1;
        }
        next
    }

    pub(super) fn to_extents(&self) -> Extents {
        let mut leaf = Extents::new();
        let mut slot = 0;
        while slot < SLOTS {
            let end = self.row_end(slot, SLOTS);
            let block = self.block(slot);
            if block != HOLE {
                let crcs = if block < ZERO { self.crcs(slot..end) } else { &[] };
                leaf.push(Extent::new(slot..end, block, self.birth(slot)), crcs);
            }
            slot = end;
        }
        leaf
    }
}
