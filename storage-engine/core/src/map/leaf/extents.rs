//! The form of a leaf with few rows of slots: a sorted list of them.

use std::ops::Range;

use super::dense::Dense;
use super::pieces::{Content, content_code};
use super::{BIRTH_MAX, FIELD_BITS, HOLE, SLOTS, ZERO};

/// A row of slots of one birth, none a hole, in 16 bytes.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    /// Where the first slot's data is, or what all are without data; above it the first slot.
    place: u64,
    /// The birth; above it the number of slots.
    life: u64,
}

impl Extent {
    pub(super) const fn new(range: Range<usize>, block: u64, birth: u64) -> Self {
        let (start, slots) = (range.start as u64, (range.end - range.start) as u64);
        Self {
            place: block | start << FIELD_BITS,
            life: birth | slots << FIELD_BITS,
        }
    }

    pub(super) const fn block(&self) -> u64 {
        self.place & BIRTH_MAX
    }

    pub(super) const fn birth(&self) -> u64 {
        self.life & BIRTH_MAX
    }

    #[allow(clippy::cast_possible_truncation, reason = "16 bits")]
    const fn start(&self) -> usize {
        (self.place >> FIELD_BITS) as usize
    }

    #[allow(clippy::cast_possible_truncation, reason = "16 bits")]
    const fn slots(&self) -> usize {
        (self.life >> FIELD_BITS) as usize
    }

    pub(super) const fn range(&self) -> Range<usize> {
        self.start()..self.start() + self.slots()
    }

    pub(super) const fn is_data(&self) -> bool {
        self.block() < ZERO
    }

    pub(super) const fn crc_count(&self) -> usize {
        if self.is_data() { self.slots() } else { 0 }
    }

    /// The block of the slot `skipped` further on.
    const fn block_at(&self, skipped: usize) -> u64 {
        if self.is_data() {
            self.block() + skipped as u64
        } else {
            self.block()
        }
    }

    /// The part of the extent within `range`, if there is one.
    fn within(&self, range: Range<usize>) -> Option<Self> {
        let own = self.range();
        let part = own.start.max(range.start)..own.end.min(range.end);
        if part.is_empty() {
            return None;
        }
        let block = self.block_at(part.start - own.start);
        Some(Self::new(part, block, self.birth()))
    }

    /// Whether `next` goes on where this ends, in the leaf, on the disk and in birth.
    fn is_continued_by(&self, next: &Self) -> bool {
        self.range().end == next.start()
            && self.birth() == next.birth()
            && self.block_at(self.slots()) == next.block()
            && self.is_data() == next.is_data()
    }

    fn joined(&self, next: &Self) -> Self {
        Self::new(self.start()..next.range().end, self.block(), self.birth())
    }
}

#[derive(Clone, Default)]
pub(super) struct Extents {
    /// Sorted by start, without overlap, maximal.
    extents: Vec<Extent>,
    /// The checksums of all data extents, one after the other.
    crcs: Vec<u32>,
}

impl Extents {
    pub(super) const fn new() -> Self {
        Self {
            extents: Vec::new(),
            crcs: Vec::new(),
        }
    }

    /// All slots alike, without data.
    pub(super) fn all(code: u64, birth: u64) -> Self {
        let mut leaf = Self::new();
        leaf.extents.reserve_exact(1);
        leaf.push(Extent::new(0..SLOTS, code, birth), &[]);
        leaf
    }

    /// Appends an extent behind all others, which it does not continue.
    pub(super) fn push(&mut self, extent: Extent, crcs: &[u32]) {
        self.extents.push(extent);
        self.crcs.extend_from_slice(crcs);
    }

    pub(super) fn count(&self) -> usize {
        self.extents.len()
    }

    pub(super) fn data_slots(&self) -> usize {
        self.crcs.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.extents.capacity() * size_of::<Extent>() + self.crcs.capacity() * size_of::<u32>()
    }

    pub(super) fn get(&self, index: usize) -> Option<&Extent> {
        self.extents.get(index)
    }

    pub(super) fn crcs(&self, range: Range<usize>) -> &[u32] {
        &self.crcs[range]
    }

    /// The first extent that ends after `slot`.
    pub(super) fn first_ending_after(&self, slot: usize) -> usize {
        self.extents.partition_point(|extent| extent.range().end <= slot)
    }

    /// Where the checksums of extent `index` begin.
    pub(super) fn crc_offset(&self, index: usize) -> usize {
        self.extents[..index].iter().map(Extent::crc_count).sum()
    }

    pub(super) fn fill(&mut self, range: Range<usize>, content: Content<'_>, birth: u64) {
        let first = self.first_ending_after(range.start);
        let last = self.extents.partition_point(|extent| extent.start() < range.end);
        let left = self.extents.get(first).and_then(|extent| extent.within(0..range.start));
        let right = last
            .checked_sub(1)
            .and_then(|i| self.extents[i].within(range.end..SLOTS));

        let crc_start = self.crc_offset(first) + left.as_ref().map_or(0, Extent::crc_count);
        let crcs_covered: usize = self.extents[first..last.max(first)]
            .iter()
            .filter_map(|extent| extent.within(range.clone()))
            .map(|part| part.crc_count())
            .sum();
        self.crcs
            .splice(crc_start..crc_start + crcs_covered, content.crcs().iter().copied());

        let code = content_code(&content);
        let new = (code != HOLE).then(|| Extent::new(range, code, birth));
        self.replace(first..last.max(first), [left, new, right]);
    }

    /// Replaces the extents at `indices` by `parts`, joining what goes on without a break, neighbours included.
    fn replace(&mut self, indices: Range<usize>, parts: [Option<Extent>; 3]) {
        let before = indices.start.checked_sub(1);
        let after = (indices.end < self.extents.len()).then_some(indices.end);
        let start = before.unwrap_or(indices.start);
        let end = after.map_or(indices.end, |i| i + 1);
        let [left, new, right] = parts;
        let candidates = [
            before.map(|i| self.extents[i]),
            left,
            new,
            right,
            after.map(|i| self.extents[i]),
        ];

        let mut joined: [Option<Extent>; 5] = [None; 5];
        let mut count = 0_usize;
        for extent in candidates.into_iter().flatten() {
            match count.checked_sub(1).and_then(|i| joined[i].as_mut()) {
                Some(previous) if previous.is_continued_by(&extent) => *previous = previous.joined(&extent),
                _ => {
                    joined[count] = Some(extent);
                    count += 1;
                }
            }
        }
        self.extents.splice(start..end, joined.into_iter().flatten());
    }

    pub(super) fn to_dense(&self) -> Dense {
        let mut dense = Dense::new();
        let mut crcs = 0;
        for extent in &self.extents {
            let count = extent.crc_count();
            dense.put(extent, self.crcs(crcs..crcs + count));
            crcs += count;
        }
        dense
    }
}
