//! The map itself: writing, zeroing, and reading the volume as it is.

use std::ops::Range;

use cairn_api::ids::LogIndex;
use cairn_api::units::Lba;
use cairn_format::base::Base;

use super::chain::Chain;
use super::layer::{Deltas, Layer, Owner};
use super::leaf::{Content, LEAF_SLOTS, Leaf, Piece};
use super::paging::Marks;
use super::runs::Runs;
use super::space::Counts;
use super::{DiskBlock, Run, Slot};
use crate::mutation::{Seeded, mutated};

/// Where the blocks of a volume are. See the module's documentation.
pub struct BlockMap {
    size_blocks: u64,
    base: Option<Base>,
    filled_blocks: u64,
    pub(super) seeded: Seeded,
    pub(super) head: Layer,
    pub(super) chain: Chain,
    pub(super) deltas: Deltas,
    pub(super) marks: Marks,
}

impl BlockMap {
    /// The map of an empty volume.
    pub fn new(size_blocks: u64) -> Self {
        Self {
            size_blocks,
            base: None,
            filled_blocks: 0,
            seeded: Seeded::default(),
            head: Layer::default(),
            chain: Chain::default(),
            deltas: Deltas::default(),
            marks: Marks::default(),
        }
    }

    /// A fault for testing the tests.
    pub(crate) const fn set_seeded(&mut self, seeded: Seeded) {
        self.seeded = seeded;
    }

    /// The volume's size.
    pub const fn size_blocks(&self) -> u64 {
        self.size_blocks
    }

    /// Makes the volume larger; what is new is holes, without a base below. Snapshots keep their sizes.
    ///
    /// # Panics
    /// If it would become smaller: blocks beyond the end would be reached by nobody and freed by nobody.
    pub fn grow(&mut self, size_blocks: u64) {
        assert!(
            size_blocks >= self.size_blocks,
            "a volume of {} blocks does not shrink to {size_blocks}",
            self.size_blocks
        );
        self.size_blocks = size_blocks;
    }

    /// What shows where there is nothing, if the volume is a clone that is not whole yet.
    pub const fn base(&self) -> Option<Base> {
        self.base
    }

    /// Up to which block it is filled, or was when it became whole; 0 for a volume that is no clone.
    pub const fn filled_blocks(&self) -> u64 {
        self.filled_blocks
    }

    /// Puts the map over a base, of which nothing shows below `filled_blocks`; or over none.
    pub const fn set_base(&mut self, base: Option<Base>, filled_blocks: u64) {
        (self.base, self.filled_blocks) = (base, filled_blocks);
    }

    /// The blocks through which the base shows where there is nothing; an empty range without a base.
    pub fn base_range(&self) -> Range<u64> {
        let end = self.base.map_or(self.filled_blocks, |base| base.blocks);
        self.filled_blocks..end.max(self.filled_blocks)
    }

    /// Notes that the data of the blocks from `lba` on is on the disk from `first` on, with these checksums; the entry
    /// `birth` wrote it.
    ///
    /// # Panics
    /// If the range is empty or leaves the volume: whoever proposes an entry checks that before.
    pub fn write(&mut self, lba: Lba, first: DiskBlock, crcs: &[u32], birth: LogIndex) {
        let blocks = crcs.len() as u64;
        check(lba, blocks, self.size_blocks);
        let mut done = 0;
        for (leaf, slots) in leaf_ranges(lba.0..lba.0 + blocks) {
            let end = done + slots.len();
            let content = Content::Data {
                block: first.advance(done as u64),
                crcs: &crcs[done..end],
            };
            self.fill(leaf, slots, content, birth.get());
            done = end;
        }
    }

    /// Makes the blocks read as zeros: allocated ones, or holes. Without allocation it costs what it drops, not what it
    /// covers.
    ///
    /// # Panics
    /// As [`Self::write`].
    pub fn zero(&mut self, lba: Lba, blocks: u64, allocate: bool, birth: LogIndex) {
        check(lba, blocks, self.size_blocks);
        let end = lba.0 + blocks;
        if allocate {
            return self.zero_range(lba.0..end, Content::Zero, birth.get());
        }
        let shown = match self.base_range() {
            _ if mutated!(self.seeded, TrimShowsBase) => lba.0..lba.0,
            base => base.start.clamp(lba.0, end)..base.end.clamp(lba.0, end),
        };
        self.zero_range(lba.0..shown.start, Content::Hole, birth.get());
        self.zero_range(shown.clone(), Content::Trimmed, birth.get());
        self.zero_range(shown.end..end, Content::Hole, birth.get());
    }

    fn zero_range(&mut self, range: Range<u64>, content: Content<'_>, birth: u64) {
        let whole = range.start.div_ceil(LEAF_SLOTS)..range.end / LEAF_SLOTS;
        if whole.is_empty() {
            return self.zero_slots(range, content, birth);
        }
        self.zero_slots(range.start..whole.start * LEAF_SLOTS, content, birth);
        self.zero_leaves(whole.clone(), content, birth);
        self.zero_slots(whole.end * LEAF_SLOTS..range.end, content, birth);
    }

    fn zero_slots(&mut self, range: Range<u64>, content: Content<'_>, birth: u64) {
        for (leaf, slots) in leaf_ranges(range) {
            if !matches!(content, Content::Hole) || self.head.leaves.contains_key(&leaf) {
                self.fill(leaf, slots, content, birth);
            }
        }
    }

    fn zero_leaves(&mut self, numbers: Range<u64>, content: Content<'_>, birth: u64) {
        if matches!(content, Content::Hole) {
            while let Some((&number, leaf)) = self.head.leaves.range(numbers.clone()).next() {
                self.marks.touch(Owner::Head, number, Some(leaf));
                if let Some(leaf) = self.head.leaves.remove(&number) {
                    self.retire_leaf(number, leaf);
                }
            }
            return;
        }
        for number in numbers {
            self.marks.touch(Owner::Head, number, self.head.leaves.get(&number));
            if let Some(leaf) = self.head.leaves.insert(number, Leaf::all(content, birth)) {
                self.retire_leaf(number, leaf);
            }
        }
    }

    /// Changes slots of one leaf of the head, making it if it is not there and dropping it if nothing is left.
    pub(super) fn fill(&mut self, number: u64, slots: Range<usize>, content: Content<'_>, birth: u64) {
        self.marks.touch(Owner::Head, number, self.head.leaves.get(&number));
        if let Some(leaf) = self.head.leaves.get(&number) {
            let heir = self.heir();
            for piece in leaf.pieces(slots.clone()) {
                let counts = &mut self.head.counts;
                retire(
                    &self.chain,
                    (&mut self.deltas, &mut self.marks),
                    counts,
                    number,
                    &piece,
                    heir,
                );
            }
        }
        let leaf = self.head.leaves.entry(number).or_default();
        let born = matches!(content, Content::Data { .. }).then_some(slots.len() as u64);
        leaf.fill(slots, content, birth);
        if matches!(content, Content::Hole) && leaf.is_empty() {
            self.head.leaves.remove(&number);
        }
        self.head.counts.add(self.chain.interval(birth), born.unwrap_or(0));
    }

    /// A whole leaf is no longer the head's.
    fn retire_leaf(&mut self, number: u64, leaf: Leaf) {
        let heir = self.heir();
        let counts = &mut self.head.counts;
        retire_leaf(
            &self.chain,
            (&mut self.deltas, &mut self.marks),
            counts,
            (number, leaf),
            heir,
        );
    }

    /// Whose delta gets what the head replaces, and up to which birth.
    fn heir(&self) -> Option<(u64, u64)> {
        let newest = self.chain.newest().filter(|_| !mutated!(self.seeded, OldSlotDropped))?;
        Some((newest, newest))
    }

    /// What the map knows of one block.
    pub fn slot(&self, lba: Lba) -> Slot {
        check(lba, 1, self.size_blocks);
        let (leaf, slot) = place(lba.0);
        let piece = self.head.leaves.get(&leaf).and_then(|leaf| leaf.piece(slot));
        piece.map_or(Slot::Hole, |piece| slot_of(&piece))
    }

    /// The entry that filled the block's slot; `None` for a hole.
    pub fn birth(&self, lba: Lba) -> Option<LogIndex> {
        check(lba, 1, self.size_blocks);
        let (leaf, slot) = place(lba.0);
        let piece = self.head.leaves.get(&leaf)?.piece(slot)?;
        Some(LogIndex(piece.birth))
    }

    /// What there is at an address, in the head and in every delta: where a block of these data may be.
    pub fn slots_at(&self, lba: Lba) -> impl Iterator<Item = Slot> {
        let (leaf, slot) = place(lba.0);
        let head = self.head.leaves.get(&leaf).into_iter();
        let deltas = self.deltas.holding(leaf, 0).map(|(_, leaf)| leaf);
        head.chain(deltas)
            .filter_map(move |leaf| Some(slot_of(&leaf.piece(slot)?)))
    }

    /// The runs that make up a range, in order. See [`Run`].
    ///
    /// # Panics
    /// If the range leaves the volume.
    pub fn runs(&self, lba: Lba, blocks: u64) -> impl Iterator<Item = Run<'_>> {
        self.now().runs(lba, blocks)
    }

    /// The runs of all that one owner has in a range, whoever shows it.
    pub fn runs_of(&self, owner: Owner, lba: Lba, blocks: u64) -> impl Iterator<Item = Run<'_>> {
        let layer = match owner {
            Owner::Head => Some(&self.head),
            Owner::Delta(at) => self.deltas.layers.get(&at),
        };
        let range = lba.0..lba.0 + blocks;
        Runs::new(
            range.clone(),
            layer.into_iter().flat_map(move |layer| layer.spans(range.clone())),
        )
    }

    /// Whoever has slots: the head, and each delta.
    pub fn owners(&self) -> impl Iterator<Item = Owner> {
        let deltas = self.deltas.layers.keys().map(|at| Owner::Delta(*at));
        std::iter::once(Owner::Head).chain(deltas)
    }

    /// Blocks of the volume as it is that hold data.
    pub const fn allocated_blocks(&self) -> u64 {
        self.head.counts.total()
    }

    /// Every leaf there is, with its number and whose it is.
    pub fn leaves(&self) -> impl Iterator<Item = (Owner, u64, &Leaf)> {
        let head = self.head.leaves.iter();
        let deltas = self.deltas.layers.iter().flat_map(|(at, layer)| {
            let leaves = layer.leaves.iter();
            leaves.map(|(number, leaf)| (Owner::Delta(*at), *number, leaf))
        });
        head.map(|(number, leaf)| (Owner::Head, *number, leaf)).chain(deltas)
    }

    /// Bytes of memory that the map takes.
    pub fn memory_bytes(&self) -> usize {
        self.head.memory_bytes() + self.deltas.memory_bytes()
    }
}

/// Slots leave the place where they were counted: into the delta of the heir, the snapshot `heir.0`, if they were born by
/// `heir.1`, which is the same time. Else nobody can see them any more: this is the one place where a block becomes garbage.
pub(super) fn retire(
    chain: &Chain,
    (deltas, marks): (&mut Deltas, &mut Marks),
    from: &mut Counts,
    number: u64,
    piece: &Piece<'_>,
    heir: Option<(u64, u64)>,
) {
    if piece.is_hole() {
        return;
    }
    let interval = chain.interval(piece.birth);
    from.sub(interval, piece.data_slots());
    match heir.filter(|(_, born_by)| piece.birth <= *born_by) {
        Some((at, _)) => {
            marks.touch(Owner::Delta(at), number, deltas.leaf(at, number));
            deltas.put(at, number, piece, interval);
        }
        None => marks.garbage(&piece.content),
    }
}

/// As [`retire`], for all slots of a leaf: moved as it is if it can be.
pub(super) fn retire_leaf(
    chain: &Chain,
    (deltas, marks): (&mut Deltas, &mut Marks),
    from: &mut Counts,
    (number, leaf): (u64, Leaf),
    heir: Option<(u64, u64)>,
) {
    let whole = heir.filter(|(at, born_by)| !deltas.has_leaf(*at, number) && leaf.is_born_by(*born_by));
    let Some((at, _)) = whole else {
        for piece in leaf.filled() {
            retire(chain, (deltas, marks), from, number, &piece, heir);
        }
        return;
    };
    let moved: Vec<(u64, u64)> = leaf
        .filled()
        .map(|piece| (chain.interval(piece.birth), piece.data_slots()))
        .collect();
    marks.touch(Owner::Delta(at), number, None);
    let to = deltas.put_leaf(at, number, leaf);
    for (interval, slots) in moved {
        from.sub(interval, slots);
        to.add(interval, slots);
    }
}

pub(super) fn slot_of(piece: &Piece<'_>) -> Slot {
    match piece.content {
        Content::Data { block, crcs } => Slot::Data { block, crc: crcs[0] },
        Content::Zero => Slot::Zero,
        Content::Trimmed => Slot::Trimmed,
        Content::Hole => Slot::Hole,
    }
}

/// # Panics
/// If a range is empty or leaves the volume.
pub(super) fn check(lba: Lba, blocks: u64, size_blocks: u64) {
    let fits = lba.0.checked_add(blocks).is_some_and(|end| end <= size_blocks);
    assert!(
        blocks > 0 && fits,
        "{lba} + {blocks} is not in a volume of {size_blocks} blocks"
    );
}

/// The numbers of the leaves that a range touches.
pub(super) const fn leaves_of(range: &Range<u64>) -> Range<u64> {
    range.start / LEAF_SLOTS..range.end.div_ceil(LEAF_SLOTS)
}

/// The slots of a leaf that lie in a range of the volume.
pub(super) fn slots_of(number: u64, range: &Range<u64>) -> Range<usize> {
    let origin = number * LEAF_SLOTS;
    let slot = |block: u64| slot_index(block.clamp(origin, origin + LEAF_SLOTS) - origin);
    slot(range.start)..slot(range.end)
}

/// Cuts a range of blocks at the leaves' borders: (leaf, slots in it).
pub(super) fn leaf_ranges(range: Range<u64>) -> impl Iterator<Item = (u64, Range<usize>)> {
    let numbers = if range.is_empty() { 0..0 } else { leaves_of(&range) };
    numbers.map(move |number| (number, slots_of(number, &range)))
}

/// The leaf of a block, and its slot there.
pub(super) fn place(block: u64) -> (u64, usize) {
    (block / LEAF_SLOTS, slot_index(block % LEAF_SLOTS))
}

#[allow(clippy::cast_possible_truncation, reason = "at most 512")]
fn slot_index(slot: u64) -> usize {
    assert!(slot <= LEAF_SLOTS, "slot {slot} is not in a leaf");
    slot as usize
}
