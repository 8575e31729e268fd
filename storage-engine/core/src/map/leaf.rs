//! A leaf: 512 slots, as extents while they are few, as arrays when they are many.

use std::ops::Range;

use super::DiskBlock;

/// Slots of a leaf: 2 MiB of the volume.
const SLOTS: usize = 512;
/// [`SLOTS`], for arithmetic on block addresses.
pub(super) const LEAF_SLOTS: u64 = SLOTS as u64;

/// A leaf with more extents than this turns dense. At the limit, isolated blocks cost 20 bytes each as extents (16, and
/// 4 of checksum) and a search touches 3 KiB; a dense leaf costs 8 KiB whatever it holds.
const EXTENTS_MAX: usize = 192;
/// A dense leaf that could do with this many extents turns back. Far enough below [`EXTENTS_MAX`] that a leaf does not
/// swing between the two.
const EXTENTS_RETURN: usize = 64;
/// A dense leaf is looked at for turning back only after a change of this many slots: the look costs a pass over it.
const RETURN_CHANGE_SLOTS: usize = 32;

/// In place of a block address: allocated zeros.
const ZERO: u64 = DiskBlock::MAX.0 + 1;
/// In place of a block address, in dense leaves: nothing.
const HOLE: u64 = DiskBlock::MAX.0 + 2;

/// What a change puts into a range of slots.
#[derive(Clone, Copy)]
pub(super) enum Fill<'a> {
    /// Data, contiguous on the disk from `first` on; as many checksums as slots.
    Data { first: DiskBlock, crcs: &'a [u32] },
    /// Allocated zeros.
    Zero,
    /// Nothing.
    Hole,
}

/// Slots of one kind in a row, within one leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Piece<'a> {
    /// Contiguous data.
    Data { block: DiskBlock, crcs: &'a [u32] },
    /// So many allocated zeros.
    Zero(u64),
    /// So many empty slots.
    Hole(u64),
}

/// A row of slots, none a hole: `block` is where the first one's data is, or [`ZERO`] for all.
#[derive(Clone, Copy)]
struct Extent {
    block: u64,
    birth: u32,
    start: u16,
    slots: u16,
}

impl Extent {
    #[allow(clippy::cast_possible_truncation, reason = "slots number at most 512")]
    fn new(range: Range<usize>, block: u64, birth: u32) -> Self {
        Self {
            block,
            birth,
            start: range.start as u16,
            slots: range.len() as u16,
        }
    }

    fn range(&self) -> Range<usize> {
        let start = usize::from(self.start);
        start..start + usize::from(self.slots)
    }

    fn crc_count(&self) -> usize {
        if self.block == ZERO { 0 } else { usize::from(self.slots) }
    }

    /// The part of the extent within `range`, if there is one.
    fn within(&self, range: Range<usize>) -> Option<Self> {
        let own = self.range();
        let part = own.start.max(range.start)..own.end.min(range.end);
        if part.is_empty() {
            return None;
        }
        let skipped = (part.start - own.start) as u64;
        let block = if self.block == ZERO { ZERO } else { self.block + skipped };
        Some(Self::new(part, block, self.birth))
    }

    /// Whether `next` goes on where this ends, in the leaf, on the disk and in birth.
    fn is_continued_by(&self, next: &Self) -> bool {
        let block = if self.block == ZERO {
            ZERO
        } else {
            self.block + u64::from(self.slots)
        };
        self.range().end == usize::from(next.start) && self.birth == next.birth && block == next.block
    }
}

#[derive(Clone, Default)]
struct Extents {
    /// Sorted by start, without overlap, maximal.
    extents: Vec<Extent>,
    /// The checksums of all data extents, one after the other.
    crcs: Vec<u32>,
}

#[derive(Clone)]
struct Dense {
    blocks: [u64; SLOTS],
    births: [u32; SLOTS],
    crcs: [u32; SLOTS],
    data_slots: usize,
}

#[derive(Clone)]
enum Slots {
    Extents(Extents),
    Dense(Box<Dense>),
}

/// 2 MiB of a volume.
#[derive(Clone)]
pub(super) struct Leaf {
    slots: Slots,
}

impl Leaf {
    /// A leaf of holes.
    pub(super) fn new() -> Self {
        Self {
            slots: Slots::Extents(Extents::default()),
        }
    }

    /// A leaf of allocated zeros.
    pub(super) fn zeros(birth: u32) -> Self {
        let mut leaf = Self::new();
        leaf.fill(0..SLOTS, Fill::Zero, birth);
        leaf
    }

    /// Slots that hold data.
    pub(super) fn data_slots(&self) -> usize {
        match &self.slots {
            Slots::Extents(leaf) => leaf.crcs.len(),
            Slots::Dense(leaf) => leaf.data_slots,
        }
    }

    /// Whether every slot is a hole: such a leaf need not be kept.
    pub(super) fn is_empty(&self) -> bool {
        match &self.slots {
            Slots::Extents(leaf) => leaf.extents.is_empty(),
            Slots::Dense(leaf) => leaf.blocks.iter().all(|block| *block == HOLE),
        }
    }

    /// Puts `fill` into the slots of `range`.
    pub(super) fn fill(&mut self, range: Range<usize>, fill: Fill<'_>, birth: u32) {
        assert!(
            range.start < range.end && range.end <= SLOTS,
            "slots {range:?} are not in a leaf"
        );
        let changed = range.len();
        match &mut self.slots {
            Slots::Extents(leaf) => {
                leaf.fill(range, fill, birth);
                if leaf.extents.len() > EXTENTS_MAX {
                    self.slots = Slots::Dense(Box::new(leaf.to_dense()));
                }
            }
            Slots::Dense(leaf) => {
                leaf.fill(range, fill, birth);
                if changed >= RETURN_CHANGE_SLOTS || leaf.data_slots == 0 {
                    let extents = leaf.to_extents();
                    if extents.extents.len() <= EXTENTS_RETURN {
                        self.slots = Slots::Extents(extents);
                    }
                }
            }
        }
    }

    /// The pieces of `range`, in order; not merged further than the leaf holds them.
    pub(super) fn pieces(&self, range: Range<usize>) -> Pieces<'_> {
        assert!(
            range.start <= range.end && range.end <= SLOTS,
            "slots {range:?} are not in a leaf"
        );
        let (extent, crc) = match &self.slots {
            Slots::Extents(leaf) => {
                let first = leaf.first_ending_after(range.start);
                (first, leaf.crc_offset(first))
            }
            Slots::Dense(_) => (0, 0),
        };
        Pieces {
            leaf: self,
            range,
            extent,
            crc,
        }
    }

    /// The epoch in which the slot was filled; `None` for a hole.
    pub(super) fn birth(&self, slot: usize) -> Option<u32> {
        match &self.slots {
            Slots::Extents(leaf) => {
                let extent = leaf.extents.get(leaf.first_ending_after(slot))?;
                extent.range().contains(&slot).then_some(extent.birth)
            }
            Slots::Dense(leaf) => (leaf.blocks[slot] != HOLE).then(|| leaf.births[slot]),
        }
    }

    /// Bytes of memory, without the `Arc`'s counters.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + match &self.slots {
                Slots::Extents(leaf) => {
                    leaf.extents.capacity() * size_of::<Extent>() + leaf.crcs.capacity() * size_of::<u32>()
                }
                Slots::Dense(_) => size_of::<Dense>(),
            }
    }
}

impl Extents {
    /// The first extent that ends after `slot`.
    fn first_ending_after(&self, slot: usize) -> usize {
        self.extents.partition_point(|extent| extent.range().end <= slot)
    }

    /// Where the checksums of extent `index` begin.
    fn crc_offset(&self, index: usize) -> usize {
        self.extents[..index].iter().map(Extent::crc_count).sum()
    }

    fn fill(&mut self, range: Range<usize>, fill: Fill<'_>, birth: u32) {
        let first = self.first_ending_after(range.start);
        let last = self
            .extents
            .partition_point(|extent| usize::from(extent.start) < range.end);
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
        let crcs: &[u32] = if let Fill::Data { crcs, .. } = fill { crcs } else { &[] };
        self.crcs
            .splice(crc_start..crc_start + crcs_covered, crcs.iter().copied());

        let new = match fill {
            Fill::Data { first, .. } => Some(Extent::new(range, first.0, birth)),
            Fill::Zero => Some(Extent::new(range, ZERO, birth)),
            Fill::Hole => None,
        };
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
                Some(previous) if previous.is_continued_by(&extent) => previous.slots += extent.slots,
                _ => {
                    joined[count] = Some(extent);
                    count += 1;
                }
            }
        }
        self.extents.splice(start..end, joined.into_iter().flatten());
    }

    fn to_dense(&self) -> Dense {
        let mut dense = Dense {
            blocks: [HOLE; SLOTS],
            births: [0; SLOTS],
            crcs: [0; SLOTS],
            data_slots: self.crcs.len(),
        };
        let mut crcs = self.crcs.iter();
        for extent in &self.extents {
            for (skipped, slot) in extent.range().enumerate() {
                dense.births[slot] = extent.birth;
                if extent.block == ZERO {
                    dense.blocks[slot] = ZERO;
                } else {
                    dense.blocks[slot] = extent.block + skipped as u64;
                    dense.crcs[slot] = crcs.next().copied().unwrap_or_default();
                }
            }
        }
        dense
    }
}

impl Dense {
    fn fill(&mut self, range: Range<usize>, fill: Fill<'_>, birth: u32) {
        let had = self.blocks[range.clone()].iter().filter(|block| **block < ZERO).count();
        self.data_slots -= had;
        self.births[range.clone()].fill(birth);
        match fill {
            Fill::Data { first, crcs } => {
                self.data_slots += range.len();
                self.crcs[range.clone()].copy_from_slice(crcs);
                for (slot, block) in self.blocks[range].iter_mut().zip(first.0..) {
                    *slot = block;
                }
            }
            Fill::Zero | Fill::Hole => {
                self.crcs[range.clone()].fill(0);
                self.blocks[range].fill(if matches!(fill, Fill::Zero) { ZERO } else { HOLE });
            }
        }
    }

    /// The end of the row of like slots that begins at `slot`, not beyond `end`.
    fn row_end(&self, slot: usize, end: usize) -> usize {
        let first = self.blocks[slot];
        let mut next = slot + 1;
        while next < end {
            let expected = if first < ZERO {
                first + (next - slot) as u64
            } else {
                first
            };
            if self.blocks[next] != expected {
                break;
            }
            next += 1;
        }
        next
    }

    fn to_extents(&self) -> Extents {
        let mut leaf = Extents::default();
        let mut slot = 0;
        while slot < SLOTS {
            let birth = self.births[slot];
            let row = self.row_end(slot, SLOTS);
            let end = (slot..row).find(|i| self.births[*i] != birth).unwrap_or(row);
            if self.blocks[slot] != HOLE {
                leaf.extents.push(Extent::new(slot..end, self.blocks[slot], birth));
            }
            if self.blocks[slot] < ZERO {
                leaf.crcs.extend_from_slice(&self.crcs[slot..end]);
            }
            slot = end;
        }
        leaf
    }
}

/// Iterates over a leaf's [`Piece`]s.
pub(super) struct Pieces<'a> {
    leaf: &'a Leaf,
    /// What is still to come.
    range: Range<usize>,
    /// The first extent that ends after `range.start`, and where its checksums begin.
    extent: usize,
    crc: usize,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        if self.range.is_empty() {
            return None;
        }
        let (piece, end) = match &self.leaf.slots {
            Slots::Extents(leaf) => self.next_extent(leaf),
            Slots::Dense(leaf) => {
                let Range { start, end } = self.range;
                let end = leaf.row_end(start, end);
                let piece = match leaf.blocks[start] {
                    ZERO => Piece::Zero((end - start) as u64),
                    HOLE => Piece::Hole((end - start) as u64),
                    block => Piece::Data {
                        block: DiskBlock(block),
                        crcs: &leaf.crcs[start..end],
                    },
                };
                (piece, end)
            }
        };
        self.range.start = end;
        Some(piece)
    }
}

impl<'a> Pieces<'a> {
    fn next_extent(&mut self, leaf: &'a Extents) -> (Piece<'a>, usize) {
        let Range { start, end } = self.range;
        let Some(extent) = leaf.extents.get(self.extent) else {
            return (Piece::Hole((end - start) as u64), end);
        };
        let own = extent.range();
        if own.start > start {
            let hole_end = own.start.min(end);
            return (Piece::Hole((hole_end - start) as u64), hole_end);
        }
        let piece_end = own.end.min(end);
        let piece = if extent.block == ZERO {
            Piece::Zero((piece_end - start) as u64)
        } else {
            let skipped = start - own.start;
            let crc_start = self.crc + skipped;
            let crcs = &leaf.crcs[crc_start..crc_start + (piece_end - start)];
            Piece::Data {
                block: DiskBlock(extent.block + skipped as u64),
                crcs,
            }
        };
        if piece_end == own.end {
            self.crc += extent.crc_count();
            self.extent += 1;
        }
        (piece, piece_end)
    }
}
