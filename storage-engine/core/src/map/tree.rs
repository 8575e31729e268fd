//! The tree above the leaves: persistent, so that freezing it costs one counter.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use cairn_api::units::Lba;

use super::leaf::{Fill, LEAF_SLOTS, Leaf, Piece};
use super::runs::{Runs, Span};
use super::{DiskBlock, Run, Slot};

/// Leaves of a node: 512 MiB of the volume, and 2 KiB of pointers.
const NODE_PLACES: usize = 256;
/// [`NODE_PLACES`], for arithmetic on leaf numbers.
const NODE_LEAVES: u64 = NODE_PLACES as u64;
const NODE_SLOTS: u64 = NODE_LEAVES * LEAF_SLOTS;

/// Leaves by their place in the node; absent ones are holes.
#[derive(Clone)]
struct Node {
    leaves: [Option<Arc<Leaf>>; NODE_PLACES],
    /// Slots with data in all leaves, so that dropping a node need not visit them.
    data_slots: u64,
}

impl Node {
    fn new() -> Self {
        Self {
            leaves: [const { None }; NODE_PLACES],
            data_slots: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.leaves.iter().all(Option::is_none)
    }
}

/// What live and frozen maps have in common: all that is needed to read.
#[derive(Clone)]
pub(super) struct Tree {
    size_blocks: u64,
    /// Nodes by their place in the volume. A `BTreeMap`, so that an empty volume of any size costs nothing.
    root: Arc<BTreeMap<u64, Arc<Node>>>,
    data_blocks: u64,
}

/// Where the blocks of a volume are. See the module's documentation.
pub struct BlockMap {
    tree: Tree,
    /// The epoch in which slots are born now; [`Self::freeze`] raises it.
    birth: u32,
}

/// A [`BlockMap`] as it was when it was frozen.
#[derive(Clone)]
pub struct FrozenMap {
    tree: Tree,
    birth: u32,
}

impl BlockMap {
    /// The map of an empty volume.
    pub fn new(size_blocks: u64) -> Self {
        Self {
            tree: Tree {
                size_blocks,
                root: Arc::default(),
                data_blocks: 0,
            },
            birth: 0,
        }
    }

    /// The volume's size.
    pub const fn size_blocks(&self) -> u64 {
        self.tree.size_blocks
    }

    /// Notes that the data of the blocks from `lba` on is on the disk from `first` on, with these checksums.
    ///
    /// # Panics
    /// If the range is empty or leaves the volume: whoever proposes an entry checks that before.
    pub fn write(&mut self, lba: Lba, first: DiskBlock, crcs: &[u32]) {
        let blocks = crcs.len() as u64;
        assert!(
            first.0 <= DiskBlock::MAX.0 - blocks,
            "{first:?} is not a place on a disk"
        );
        self.tree.check(lba, blocks);
        let mut done = 0;
        for (leaf, slots) in leaf_ranges(lba.0..lba.0 + blocks) {
            let end = done + slots.len();
            let fill = Fill::Data {
                first: first.advance(done as u64),
                crcs: &crcs[done..end],
            };
            self.tree.fill(leaf, slots, fill, self.birth);
            done = end;
        }
    }

    /// Makes the blocks read as zeros: allocated ones, or holes. Costs what it drops, not what it covers.
    ///
    /// # Panics
    /// As [`Self::write`].
    pub fn zero(&mut self, lba: Lba, blocks: u64, allocate: bool) {
        self.tree.check(lba, blocks);
        let end = lba.0 + blocks;
        let whole = lba.0.div_ceil(LEAF_SLOTS)..end / LEAF_SLOTS;
        if whole.is_empty() {
            self.zero_slots(lba.0..end, allocate);
            return;
        }
        self.zero_slots(lba.0..whole.start * LEAF_SLOTS, allocate);
        self.zero_slots(whole.end * LEAF_SLOTS..end, allocate);
        let leaf = allocate.then(|| Arc::new(Leaf::zeros(self.birth)));
        self.tree.set_leaves(whole, leaf.as_ref());
    }

    fn zero_slots(&mut self, range: Range<u64>, allocate: bool) {
        let fill = if allocate { Fill::Zero } else { Fill::Hole };
        for (leaf, slots) in leaf_ranges(range) {
            if allocate || self.tree.leaf(leaf).is_some() {
                self.tree.fill(leaf, slots, fill, self.birth);
            }
        }
    }

    /// What the map knows of one block.
    pub fn slot(&self, lba: Lba) -> Slot {
        self.tree.slot(lba)
    }

    /// The epoch in which the block was written or zeroed; `None` for a hole.
    pub fn birth(&self, lba: Lba) -> Option<u32> {
        self.tree.check(lba, 1);
        let (leaf, slot) = place(lba.0);
        self.tree.leaf(leaf)?.birth(slot)
    }

    /// The runs that make up a range, in order. See [`Run`].
    ///
    /// # Panics
    /// If the range leaves the volume.
    pub fn runs(&self, lba: Lba, blocks: u64) -> impl Iterator<Item = Run<'_>> {
        self.tree.runs(lba, blocks)
    }

    /// Blocks that hold data.
    pub const fn allocated_blocks(&self) -> u64 {
        self.tree.data_blocks
    }

    /// The map as it is now, in constant time; what either side changes from here on the other does not see.
    #[expect(
        clippy::expect_used,
        reason = "4 billion snapshots of one volume: at one a second, 136 years"
    )]
    pub fn freeze(&mut self) -> FrozenMap {
        let frozen = FrozenMap {
            tree: self.tree.clone(),
            birth: self.birth,
        };
        self.birth = self
            .birth
            .checked_add(1)
            .expect("fewer than 2^32 freezes in a volume's life");
        frozen
    }

    /// CRC32C over the address and checksum of every block with data, in order: equal on equal replicas, wherever their
    /// disks hold the data.
    pub fn digest(&self) -> u32 {
        self.tree.digest()
    }

    /// Bytes of memory that the map takes, counting what it shares with frozen maps.
    pub fn memory_bytes(&self) -> usize {
        self.tree.memory_bytes()
    }
}

impl FrozenMap {
    /// The newest epoch in it: slots of the live map with a greater birth are not in here.
    pub const fn birth(&self) -> u32 {
        self.birth
    }

    /// What the map knows of one block.
    pub fn slot(&self, lba: Lba) -> Slot {
        self.tree.slot(lba)
    }

    /// As [`BlockMap::runs`].
    pub fn runs(&self, lba: Lba, blocks: u64) -> impl Iterator<Item = Run<'_>> {
        self.tree.runs(lba, blocks)
    }

    /// Blocks that hold data.
    pub const fn allocated_blocks(&self) -> u64 {
        self.tree.data_blocks
    }

    /// As [`BlockMap::digest`].
    pub fn digest(&self) -> u32 {
        self.tree.digest()
    }
}

impl Tree {
    fn check(&self, lba: Lba, blocks: u64) {
        let fits = lba.0.checked_add(blocks).is_some_and(|end| end <= self.size_blocks);
        assert!(
            blocks > 0 && fits,
            "{lba} + {blocks} is not in a volume of {} blocks",
            self.size_blocks
        );
    }

    fn leaf(&self, leaf: u64) -> Option<&Leaf> {
        self.root.get(&(leaf / NODE_LEAVES))?.leaves[node_place(leaf)].as_deref()
    }

    /// Changes slots of one leaf, making it if it is not there and dropping it if nothing is left.
    fn fill(&mut self, leaf: u64, slots: Range<usize>, fill: Fill<'_>, birth: u32) {
        let root = Arc::make_mut(&mut self.root);
        let node = Arc::make_mut(root.entry(leaf / NODE_LEAVES).or_insert_with(|| Arc::new(Node::new())));
        let place = &mut node.leaves[node_place(leaf)];
        let target = Arc::make_mut(place.get_or_insert_with(|| Arc::new(Leaf::new())));
        let before = target.data_slots() as u64;
        target.fill(slots, fill, birth);
        let after = target.data_slots() as u64;
        if matches!(fill, Fill::Hole) && target.is_empty() {
            *place = None;
            if node.is_empty() {
                node.data_slots = 0;
                root.remove(&(leaf / NODE_LEAVES));
                self.data_blocks -= before;
                return;
            }
        }
        node.data_slots = node.data_slots - before + after;
        self.data_blocks = self.data_blocks - before + after;
    }

    /// Puts `leaf` (shared: a change copies it) in the place of each of `leaves`; drops them if it is `None`.
    fn set_leaves(&mut self, leaves: Range<u64>, leaf: Option<&Arc<Leaf>>) {
        let nodes = leaves.start / NODE_LEAVES..leaves.end.div_ceil(NODE_LEAVES);
        let whole = leaves.start.div_ceil(NODE_LEAVES)..leaves.end / NODE_LEAVES;
        let root = Arc::make_mut(&mut self.root);

        let full = leaf.map(|leaf| {
            Arc::new(Node {
                leaves: std::array::from_fn(|_| Some(Arc::clone(leaf))),
                data_slots: 0,
            })
        });
        let present: Vec<u64> = match leaf {
            Some(_) => nodes.collect(),
            None => root.range(nodes).map(|(number, _)| *number).collect(),
        };
        for number in present {
            if whole.contains(&number) {
                let old = match &full {
                    Some(full) => root.insert(number, Arc::clone(full)),
                    None => root.remove(&number),
                };
                self.data_blocks -= old.map_or(0, |node| node.data_slots);
                continue;
            }
            let node = Arc::make_mut(root.entry(number).or_insert_with(|| Arc::new(Node::new())));
            let first = leaves.start.max(number * NODE_LEAVES);
            let end = leaves.end.min((number + 1) * NODE_LEAVES);
            for number in first..end {
                let old = std::mem::replace(&mut node.leaves[node_place(number)], leaf.cloned());
                let dropped = old.map_or(0, |leaf| leaf.data_slots() as u64);
                node.data_slots -= dropped;
                self.data_blocks -= dropped;
            }
            if node.is_empty() {
                root.remove(&number);
            }
        }
    }

    fn slot(&self, lba: Lba) -> Slot {
        self.check(lba, 1);
        let (leaf, slot) = place(lba.0);
        match self.leaf(leaf).and_then(|leaf| leaf.pieces(slot..slot + 1).next()) {
            Some(Piece::Data { block, crcs }) => Slot::Data { block, crc: crcs[0] },
            Some(Piece::Zero(_)) => Slot::Zero,
            Some(Piece::Hole(_)) | None => Slot::Hole,
        }
    }

    fn runs(&self, lba: Lba, blocks: u64) -> Runs<'_, impl Iterator<Item = Span<'_>>> {
        self.check(lba, blocks.max(1));
        let range = lba.0..lba.0 + blocks;
        let nodes = range.start / NODE_SLOTS..range.end.div_ceil(NODE_SLOTS);
        // Only the leaves of the range: a read of one block must not walk its whole node.
        let wanted_leaves = range.start / LEAF_SLOTS..range.end.div_ceil(LEAF_SLOTS);
        let leaves = self.root.range(nodes).flat_map(move |(number, node)| {
            let first = number * NODE_LEAVES;
            let place = |leaf: u64| leaf_index(leaf.clamp(first, first + NODE_LEAVES) - first);
            let inside = place(wanted_leaves.start)..place(wanted_leaves.end);
            let numbers = first + inside.start as u64..;
            let leaves = node.leaves[inside].iter().zip(numbers);
            leaves.filter_map(|(leaf, number)| Some((number, leaf.as_deref()?)))
        });
        let wanted = range.clone();
        let spans = leaves.flat_map(move |(number, leaf)| spans_of_leaf(number, leaf, &wanted));
        Runs::new(range, spans)
    }

    fn digest(&self) -> u32 {
        let mut digest = 0;
        if self.size_blocks == 0 {
            return digest;
        }
        for run in self.runs(Lba(0), self.size_blocks) {
            let Run::Data { lba, crcs, .. } = run else { continue };
            for (block, crc) in (lba.0..).zip(crcs.iter()) {
                let mut bytes = [0; 12];
                bytes[..8].copy_from_slice(&block.to_le_bytes());
                bytes[8..].copy_from_slice(&crc.to_le_bytes());
                digest = crc32c::crc32c_append(digest, &bytes);
            }
        }
        digest
    }

    fn memory_bytes(&self) -> usize {
        let nodes = self.root.values().map(|node| {
            let leaves = node.leaves.iter().flatten().map(|leaf| leaf.memory_bytes());
            size_of::<Node>() + leaves.sum::<usize>()
        });
        nodes.sum()
    }
}

/// The spans of `leaf` that lie in `range` of the volume.
fn spans_of_leaf<'a>(number: u64, leaf: &'a Leaf, range: &Range<u64>) -> impl Iterator<Item = Span<'a>> + use<'a> {
    let origin = number * LEAF_SLOTS;
    let slots = slot_index(range.start.clamp(origin, origin + LEAF_SLOTS) - origin)
        ..slot_index(range.end.clamp(origin, origin + LEAF_SLOTS) - origin);
    let mut lba = origin + slots.start as u64;
    leaf.pieces(slots).map(move |piece| {
        let span = Span { lba, piece };
        lba += match piece {
            Piece::Data { crcs, .. } => crcs.len() as u64,
            Piece::Zero(count) | Piece::Hole(count) => count,
        };
        span
    })
}

/// Cuts a range of blocks at the leaves' borders: (leaf, slots in it).
fn leaf_ranges(range: Range<u64>) -> impl Iterator<Item = (u64, Range<usize>)> {
    let mut next = range.start;
    std::iter::from_fn(move || {
        if next >= range.end {
            return None;
        }
        let (leaf, slot) = place(next);
        let end = range.end.min((leaf + 1) * LEAF_SLOTS);
        let slots = slot..slot + slot_index(end - next);
        next = end;
        Some((leaf, slots))
    })
}

/// The leaf of a block, and its slot there.
fn place(block: u64) -> (u64, usize) {
    (block / LEAF_SLOTS, slot_index(block % LEAF_SLOTS))
}

#[allow(clippy::cast_possible_truncation, reason = "at most NODE_LEAVES")]
fn leaf_index(leaf: u64) -> usize {
    assert!(leaf <= NODE_LEAVES, "leaf {leaf} is not in a node");
    leaf as usize
}

#[allow(clippy::cast_possible_truncation, reason = "at most 512")]
fn slot_index(slot: u64) -> usize {
    assert!(slot <= LEAF_SLOTS, "slot {slot} is not in a leaf");
    slot as usize
}

#[allow(clippy::cast_possible_truncation, reason = "less than 256")]
fn node_place(leaf: u64) -> usize {
    (leaf % NODE_LEAVES) as usize
}
