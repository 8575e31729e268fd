//! The model: what each block held at each time, and where.

use std::collections::{BTreeMap, BTreeSet};

use cairn_api::ids::{GroupId, LogIndex, SnapshotId};
use cairn_format::base::Base;
use proptest::prelude::*;

use super::*;

/// Three leaves and a bit.
pub(super) const BLOCKS: u64 = 1700;
/// So far into the volume that the first leaf is touched in its middle.
const WINDOW: u64 = 256 * 512 - 900;
const VOLUME_BLOCKS: u64 = 4 << 20;
/// For maps over a base: it ends within the window.
const BASE_BLOCKS: u64 = WINDOW + 1100;
const BASE: Base = Base {
    group: GroupId(3),
    snapshot: SnapshotId(9),
    blocks: BASE_BLOCKS,
};

#[derive(Clone, Debug)]
pub(super) enum Step {
    Write { at: u64, blocks: u64, scatter: bool },
    Zero { at: u64, blocks: u64, allocate: bool },
    Snapshot,
    Delete { nth: usize },
    Merge { slots: u64 },
    Relocate { nth: usize },
    Fill { skip: u64, blocks: u64 },
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let at = 0..BLOCKS;
    let blocks = prop_oneof![4 => Just(1_u64), 4 => 2..40_u64, 1 => 40..1500_u64];
    let (from, length) = (at.clone(), blocks.clone());
    prop_oneof![
        8 => (at, blocks, any::<bool>())
            .prop_map(|(at, blocks, scatter)| Step::Write { at, blocks: blocks.min(BLOCKS - at), scatter }),
        4 => (from, length, any::<bool>())
            .prop_map(|(at, blocks, allocate)| Step::Zero { at, blocks: blocks.min(BLOCKS - at), allocate }),
        3 => Just(Step::Snapshot),
        2 => any::<prop::sample::Index>().prop_map(|nth| Step::Delete { nth: nth.index(1 << 20) }),
        2 => (1..1500_u64).prop_map(|slots| Step::Merge { slots }),
        2 => any::<prop::sample::Index>().prop_map(|nth| Step::Relocate { nth: nth.index(1 << 20) }),
        3 => (0..60_u64, 0..257_u64).prop_map(|(skip, blocks)| Step::Fill { skip, blocks }),
    ]
}

/// A slot and its birth; none for a hole.
pub(super) type Cell = (Slot, Option<u64>);

#[derive(Clone)]
pub(super) struct Past {
    pub(super) id: SnapshotId,
    pub(super) at: u64,
    pub(super) cells: Vec<Cell>,
}

pub(super) struct Pair {
    pub(super) map: BlockMap,
    /// The same entries with data at other places, never merged: replicas differ in both.
    pub(super) twin: BlockMap,
    pub(super) cells: Vec<Cell>,
    pub(super) past: Vec<Past>,
    index: u64,
    next_block: u64,
    /// Up to where the base was filled, and whether there is one still.
    filled: u64,
}

fn place(at: u64) -> usize {
    usize::try_from(at).unwrap()
}

impl Pair {
    pub(super) fn new(has_base: bool) -> Self {
        let map = || {
            let mut map = BlockMap::new(VOLUME_BLOCKS);
            if has_base {
                map.set_base(Some(BASE), WINDOW);
            }
            map
        };
        Self {
            map: map(),
            twin: map(),
            cells: vec![(Slot::Hole, None); place(BLOCKS)],
            past: Vec::new(),
            index: 5,
            next_block: 7,
            filled: if has_base { WINDOW } else { BASE_BLOCKS },
        }
    }

    pub(super) fn apply(&mut self, step: &Step) {
        match *step {
            Step::Write {
                at,
                blocks,
                scatter: false,
            } => self.write(at, blocks),
            // Every second block by itself: what turns a leaf dense.
            Step::Write { at, blocks, .. } => (0..blocks).step_by(2).for_each(|i| self.write(at + i, 1)),
            Step::Zero { at, blocks, allocate } => self.zero(at, blocks, allocate),
            Step::Snapshot => self.snapshot(),
            Step::Delete { nth } => {
                if !self.past.is_empty() {
                    let gone = self.past.remove(nth % self.past.len());
                    assert!(self.map.delete_snapshot(gone.id));
                    assert!(!self.map.delete_snapshot(gone.id));
                    assert_eq!(
                        self.map.create_snapshot(gone.id, LogIndex(u64::MAX >> 20)),
                        None,
                        "it is spent"
                    );
                    assert!(self.twin.delete_snapshot(gone.id));
                }
            }
            Step::Merge { slots } => {
                self.map.merge_step(slots);
            }
            Step::Relocate { nth } => self.relocate(nth),
            Step::Fill { skip, blocks } => self.fill(skip, blocks),
        }
    }

    fn next_index(&mut self) -> LogIndex {
        self.index += 1;
        LogIndex(self.index)
    }

    fn write(&mut self, at: u64, blocks: u64) {
        let index = self.next_index();
        let first = DiskBlock(self.next_block);
        let crcs: Vec<u32> = (0..blocks)
            .map(|i| u32::try_from(first.0 + i).unwrap().wrapping_mul(0x9E37_79B1))
            .collect();
        self.next_block += blocks + 1;
        self.map.write(Lba(WINDOW + at), first, &crcs, index);
        self.twin.write(Lba(WINDOW + at), first.advance(1 << 40), &crcs, index);
        for (i, crc) in (0..).zip(crcs) {
            let block = first.advance(i);
            self.cells[place(at + i)] = (Slot::Data { block, crc }, Some(index.get()));
        }
    }

    fn zero(&mut self, at: u64, blocks: u64, allocate: bool) {
        let index = self.next_index();
        self.map.zero(Lba(WINDOW + at), blocks, allocate, index);
        self.twin.zero(Lba(WINDOW + at), blocks, allocate, index);
        for i in at..at + blocks {
            self.cells[place(i)] = match allocate {
                true => (Slot::Zero, Some(index.get())),
                false if (self.filled..BASE_BLOCKS).contains(&(WINDOW + i)) => (Slot::Trimmed, Some(index.get())),
                false => (Slot::Hole, None),
            };
        }
    }

    /// Copies from the base: into every time that shows it.
    fn fill(&mut self, skip: u64, blocks: u64) {
        let from = Lba(self.filled);
        let skip = skip.min(BASE_BLOCKS - self.filled);
        let blocks = blocks.min(BASE_BLOCKS - self.filled - skip);
        let first = DiskBlock(self.next_block);
        self.next_block += blocks + 1;
        let crcs: Vec<u32> = (0..blocks).map(|i| u32::try_from(first.0 + i).unwrap()).collect();
        let is_due = self.filled < BASE_BLOCKS;
        for map in [&mut self.map, &mut self.twin] {
            let before = map.digest();
            assert!(!map.fill_from_base(Lba(from.0 + 1), skip, first, &crcs), "out of turn");
            assert!(!map.fill_from_base(from, BASE_BLOCKS, first, &crcs), "beyond the base");
            assert_eq!(map.digest(), before);
        }
        assert_eq!(self.map.fill_from_base(from, skip, first, &crcs), is_due);
        let far = first.advance(1 << 40);
        assert_eq!(self.twin.fill_from_base(from, skip, far, &crcs), is_due);
        let start = self.filled + skip;
        self.filled = start + blocks;
        let past = self.past.iter_mut().map(|past| &mut past.cells);
        for cells in past.chain([&mut self.cells]) {
            for (i, crc) in (0..).zip(&crcs) {
                let cell = &mut cells[place(start + i - WINDOW)];
                if *cell == (Slot::Hole, None) {
                    let block = first.advance(i);
                    *cell = (Slot::Data { block, crc: *crc }, Some(0));
                }
            }
        }
        for map in [&self.map, &self.twin] {
            assert_eq!(map.base(), (self.filled < BASE_BLOCKS).then_some(BASE));
            let shows = map.base_range();
            assert!(shows.is_empty() || shows == (self.filled..BASE_BLOCKS));
            assert_eq!(shows.is_empty(), self.filled == BASE_BLOCKS);
        }
    }

    fn snapshot(&mut self) {
        let at = self.next_index();
        let id = SnapshotId(1_000_000 + at.get());
        assert_eq!(self.map.create_snapshot(id, at), Some(at));
        assert_eq!(
            self.map.create_snapshot(id, LogIndex(at.get() + 1)),
            Some(at),
            "made twice is made once"
        );
        assert_eq!(self.twin.create_snapshot(id, at), Some(at));
        self.past.push(Past {
            id,
            at: at.get(),
            cells: self.cells.clone(),
        });
    }

    /// Moves one of the blocks that the map names to a new place.
    fn relocate(&mut self, nth: usize) {
        let named = self.named();
        if named.is_empty() {
            return;
        }
        let (block, (lba, _, _)) = named.iter().nth(nth % named.len()).unwrap();
        let (old, new) = (DiskBlock(*block), DiskBlock(self.next_block));
        self.next_block += 1;
        assert!(self.map.relocate(Lba(*lba), old, new));
        assert!(
            !self.map.relocate(Lba(*lba), old, new),
            "no slot names {old:?} any more"
        );
        let past = self.past.iter_mut().flat_map(|past| past.cells.iter_mut());
        for (slot, _) in self.cells.iter_mut().chain(past) {
            if let Slot::Data { block, .. } = slot
                && *block == old
            {
                *block = new;
            }
        }
    }

    /// Every block that any leaf names: its address, birth and owner. No block has two names.
    pub(super) fn named(&self) -> BTreeMap<u64, (u64, u64, Owner)> {
        let mut named = BTreeMap::new();
        for (owner, number, leaf) in self.map.leaves() {
            for piece in leaf.filled() {
                let Content::Data { block, crcs } = piece.content else {
                    continue;
                };
                for i in 0..crcs.len() as u64 {
                    let lba = number * LEAF_SLOTS + piece.start as u64 + i;
                    let before = named.insert(block.0 + i, (lba, piece.birth, owner));
                    assert_eq!(before, None, "{block:?} + {i} is in two places");
                }
            }
        }
        named
    }

    pub(super) fn merge_all(&mut self) {
        while self.map.merge_step(700) {}
        assert!(!self.map.is_merging());
    }

    /// Everything that can be read, the space it takes and what changed, against the model.
    pub(super) fn check(&self) {
        check_view(self.map.now(), &self.cells);
        let slots: Vec<Slot> = (0..BLOCKS).map(|i| self.map.slot(Lba(WINDOW + i))).collect();
        let births: Vec<Option<u64>> = (0..BLOCKS)
            .map(|i| self.map.birth(Lba(WINDOW + i)).map(LogIndex::get))
            .collect();
        let expected: (Vec<Slot>, Vec<Option<u64>>) = self.cells.iter().copied().unzip();
        assert_eq!((slots, births), expected);
        let runs: Vec<Run<'_>> = self.map.runs(Lba(WINDOW), BLOCKS).collect();
        assert_eq!(expand(&runs), expected.0);
        assert_maximal(&runs);
        for past in &self.past {
            check_view(self.map.snapshot(past.id).unwrap(), &past.cells);
        }
        self.check_named();
        self.check_space();
        assert_eq!(self.map.digest(), self.twin.digest(), "replicas differ");
    }

    /// The leaves name all that is visible somewhere, and when everything is merged nothing else.
    fn check_named(&self) {
        let named: BTreeSet<u64> = self.named().into_keys().collect();
        let views = self.past.iter().map(|past| &past.cells).chain([&self.cells]);
        let visible: BTreeSet<u64> = views.flatten().filter_map(|(slot, _)| block_of(slot)).collect();
        assert!(visible.is_subset(&named), "a visible block has no place");
        if !self.map.is_merging() {
            assert_eq!(named, visible, "garbage is named");
        }
    }

    fn check_space(&self) {
        let space = self.map.space();
        let owners = self.named();
        let owned = |owner: Owner| owners.values().filter(|(_, _, of)| *of == owner).count() as u64;
        let blocks =
            |cells: &[Cell]| -> BTreeSet<u64> { cells.iter().filter_map(|(slot, _)| block_of(slot)).collect() };
        let head = blocks(&self.cells);
        let past: Vec<BTreeSet<u64>> = self.past.iter().map(|past| blocks(&past.cells)).collect();
        let newest = past.last().cloned().unwrap_or_default();
        assert_eq!(space.allocated, head.len() as u64);
        assert_eq!(space.allocated, self.map.allocated_blocks());
        assert_eq!(space.allocated, owned(Owner::Head));
        assert_eq!(space.shared, head.intersection(&newest).count() as u64);
        let shown: Vec<SnapshotSpace> = self.map.snapshots().collect();
        assert_eq!(shown.len(), self.past.len());
        assert_eq!(shown.len(), self.map.snapshot_count());
        let mut kept_in_all = 0;
        for (i, (shown, known)) in shown.iter().zip(&self.past).enumerate() {
            assert_eq!((shown.id, shown.at.get()), (known.id, known.at));
            assert_eq!(shown.kept, owned(Owner::Delta(known.at)));
            kept_in_all += shown.kept;
            let newer = past.get(i + 1).unwrap_or(&head);
            let nothing = BTreeSet::new();
            let older = i.checked_sub(1).map_or(&nothing, |i| &past[i]);
            let alone: Vec<&u64> = past[i].difference(newer).collect();
            let exclusive = alone.iter().filter(|block| !older.contains(block)).count() as u64;
            if self.map.is_merging() {
                assert!(shown.kept <= alone.len() as u64 && shown.exclusive <= exclusive);
            } else {
                assert_eq!((shown.kept, shown.exclusive), (alone.len() as u64, exclusive));
            }
        }
        assert_eq!(space.snapshots, kept_in_all);
        assert_eq!(space.allocated + space.snapshots + space.merging, owners.len() as u64);
    }

    /// What changed between any two times, and what each shows.
    pub(super) fn check_changes(&self) {
        let mut times: Vec<(View<'_>, &[Cell])> = Vec::new();
        for past in &self.past {
            times.push((self.map.snapshot(past.id).unwrap(), &past.cells));
        }
        times.push((self.map.now(), &self.cells));
        for (i, (to, now)) in times.iter().enumerate() {
            let nothing = vec![(Slot::Hole, None); now.len()];
            let expected = difference(&nothing, now);
            let found: Vec<Change> = to.changed_since(None, Lba(0), VOLUME_BLOCKS).collect();
            assert_eq!(found, expected);
            assert_eq!(in_steps(*to, None), cells_of(&expected), "in steps");
            for (from, before) in &times[..=i] {
                let expected = difference(before, now);
                let found: Vec<Change> = to.changed_since(Some(*from), Lba(0), VOLUME_BLOCKS).collect();
                assert_eq!(found, expected);
                assert_eq!(in_steps(*to, Some(*from)), cells_of(&expected), "in steps");
            }
        }
    }
}

/// Rows as single blocks: steps may cut them.
fn cells_of(changes: &[Change]) -> Vec<(u64, ChangeKind)> {
    let cells = changes
        .iter()
        .flat_map(|row| (0..row.blocks).map(|i| (row.lba.0 + i, row.kind)));
    cells.collect()
}

/// What changed, asked for a leaf and seven rows at a time.
fn in_steps(to: View<'_>, from: Option<View<'_>>) -> Vec<(u64, ChangeKind)> {
    let (mut found, mut at) = (Vec::new(), Lba(0));
    loop {
        let (rows, next) = to.changes_from(from, at, 1, 7);
        assert!(to.changes_from(from, Lba(to.size_blocks()), 1, 1).0.is_empty());
        found.extend(cells_of(&rows));
        let Some(next) = next else { return found };
        assert!(next > at && rows.len() <= 7, "it does not get on from {at}");
        at = next;
    }
}

fn block_of(slot: &Slot) -> Option<u64> {
    match slot {
        Slot::Data { block, .. } => Some(block.0),
        _ => None,
    }
}

fn difference(before: &[Cell], now: &[Cell]) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    for (i, (before, now)) in (0..).zip(before.iter().zip(now)) {
        if before.1 == now.1 {
            continue;
        }
        let kind = block_of(&now.0).map_or(ChangeKind::Zero, |_| ChangeKind::Data);
        let lba = Lba(WINDOW + i);
        match changes.last_mut() {
            Some(last) if last.lba.0 + last.blocks == lba.0 && last.kind == kind => last.blocks += 1,
            _ => changes.push(Change { lba, blocks: 1, kind }),
        }
    }
    changes
}

fn check_view(view: View<'_>, cells: &[Cell]) {
    let runs: Vec<Run<'_>> = view.runs(Lba(WINDOW), BLOCKS).collect();
    let expected: Vec<Slot> = cells.iter().map(|(slot, _)| *slot).collect();
    assert_eq!(expand(&runs), expected);
    assert_maximal(&runs);
    for i in (0..BLOCKS).step_by(61) {
        assert_eq!(view.slot(Lba(WINDOW + i)), expected[place(i)]);
    }
    let (at, length) = (BLOCKS / 3, BLOCKS / 2);
    let part: Vec<Run<'_>> = view.runs(Lba(WINDOW + at), length).collect();
    assert_eq!(expand(&part), expected[place(at)..place(at + length)]);
}

/// Runs as single slots, checking that they follow each other.
pub(super) fn expand(runs: &[Run<'_>]) -> Vec<Slot> {
    let mut slots = Vec::new();
    let start = runs[0].lba().0;
    for run in runs {
        assert_eq!(run.lba().0, start + slots.len() as u64);
        assert!(run.blocks() > 0);
        match run {
            Run::Data {
                block, crcs, blocks, ..
            } => {
                assert_eq!(crcs.len() as u64, *blocks);
                let places = (block.0..).map(DiskBlock);
                slots.extend(
                    places
                        .zip(crcs.iter())
                        .map(|(block, crc)| Slot::Data { block, crc: *crc }),
                );
            }
            Run::Zeros { blocks, .. } => slots.extend((0..*blocks).map(|_| Slot::Zero)),
            Run::Trimmed { blocks, .. } => slots.extend((0..*blocks).map(|_| Slot::Trimmed)),
            Run::Hole { blocks, .. } => slots.extend((0..*blocks).map(|_| Slot::Hole)),
        }
    }
    slots
}

/// No two neighbours could be one run: always for what is no data, up to a gateway's longest read for data.
pub(super) fn assert_maximal(runs: &[Run<'_>]) {
    for pair in runs.windows(2) {
        match (&pair[0], &pair[1]) {
            (Run::Zeros { .. }, Run::Zeros { .. })
            | (Run::Trimmed { .. }, Run::Trimmed { .. })
            | (Run::Hole { .. }, Run::Hole { .. }) => panic!("{pair:?} could be one run"),
            (
                Run::Data { block, blocks, .. },
                Run::Data {
                    block: next,
                    blocks: more,
                    ..
                },
            ) if block.advance(*blocks) == *next && blocks + more <= 256 => {
                panic!("{pair:?} could be one run");
            }
            _ => {}
        }
    }
}
