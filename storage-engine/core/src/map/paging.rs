//! What a checkpoint needs to know of a map: which leaves have changed since their last page, and what the marked ones were.
//!
//! A checkpoint marks leaves; one that is marked is kept aside, as it is, before it changes or goes. So the pages show the
//! map at the moment of marking, whenever they are encoded. What becomes garbage is noted, for the counts of segments.

use std::collections::{BTreeMap, BTreeSet};

use bytes::BytesMut;
use cairn_api::ids::SnapshotId;
use cairn_format::base::Base;
use cairn_format::page::{LeafKey, LeafPage, PageRun, PageSlots};
use cairn_format::table::{PagePlace, TableSnapshot};

use super::chain::MARK;
use super::layer::Owner;
use super::leaf::{Content, LEAF_SLOTS, Leaf};
use super::{BlockMap, DiskBlock};

type Key = (Owner, u64);

/// Marks of one map.
#[derive(Default)]
pub(super) struct Marks {
    /// Changed since the last marking.
    dirty: BTreeSet<Key>,
    /// Marked, and not encoded yet.
    pending: BTreeSet<Key>,
    /// Marked leaves that have changed since, as they were.
    kept: BTreeMap<Key, Leaf>,
    /// The last page of each leaf.
    pages: BTreeMap<Key, PagePlace>,
    /// Data that nothing names any more: where it starts, and how many blocks.
    garbage: Vec<(u64, u64)>,
}

impl Marks {
    /// A leaf is about to change, to come or to go.
    pub(super) fn touch(&mut self, owner: Owner, number: u64, leaf: Option<&Leaf>) {
        let key = (owner, number);
        if self.pending.remove(&key)
            && let Some(leaf) = leaf
        {
            self.kept.insert(key, leaf.clone());
        }
        self.dirty.insert(key);
    }

    pub(super) fn garbage(&mut self, content: &Content<'_>) {
        if let Content::Data { block, crcs } = content {
            self.garbage.push((block.0, crcs.len() as u64));
        }
    }
}

impl BlockMap {
    /// The map of a volume of this size, over a base of which so much is filled, with these snapshots and no slots yet: [`Self::put_page`] brings
    /// them.
    pub fn restored(
        size_blocks: u64,
        (base, filled_blocks): (Option<Base>, u64),
        snapshots: &[TableSnapshot],
        snapshot_last: SnapshotId,
    ) -> Self {
        let mut map = Self::new(size_blocks);
        map.set_base(base, filled_blocks);
        for snapshot in snapshots {
            map.chain
                .restore(snapshot.at, snapshot.id, snapshot.size_blocks, snapshot.is_deleted);
            map.deltas.add(snapshot.at);
        }
        map.chain.spend(snapshot_last);
        map
    }

    /// Its snapshots, those included that are being merged away, as [`Self::restored`] takes them.
    pub fn to_snapshots(&self) -> Vec<TableSnapshot> {
        let links = self.chain.all();
        links
            .map(|(at, link)| TableSnapshot {
                at,
                id: link.id,
                size_blocks: link.size_blocks,
                // A mark is kept for as long as this core runs.
                is_deleted: link.is_deleted || link.id == MARK,
            })
            .collect()
    }

    /// Takes the slots of a page, which the map does not have yet; says what is wrong if they cannot be this map's.
    pub fn put_page(&mut self, page: &LeafPage, place: PagePlace) -> Result<(), String> {
        let number = page.key.leaf;
        let is_inside = number
            .checked_mul(LEAF_SLOTS)
            .is_some_and(|first| first < self.size_blocks());
        if !is_inside {
            return Err(format!(
                "leaf {number} is not in a volume of {} blocks",
                self.size_blocks()
            ));
        }
        let owner = match page.key.owner {
            0 => Owner::Head,
            at if self.deltas.layers.contains_key(&at) => Owner::Delta(at),
            at => return Err(format!("the volume has no snapshot of index {at}")),
        };
        for run in &page.runs {
            let start = usize::from(run.first);
            let slots = start..start + run.slots.count();
            let (content, data) = match &run.slots {
                PageSlots::Data { block, crcs } => {
                    let block = DiskBlock(*block);
                    if block.0 > DiskBlock::MAX.0 - crcs.len() as u64 {
                        return Err(format!("{block:?} is not a place on a disk"));
                    }
                    (Content::Data { block, crcs }, crcs.len() as u64)
                }
                PageSlots::Zero(_) => (Content::Zero, 0),
                PageSlots::Trimmed(_) => (Content::Trimmed, 0),
            };
            let interval = self.chain.interval(run.birth);
            self.layer_for(owner, number).fill(slots, content, run.birth);
            self.counts_of(owner).add(interval, data);
        }
        self.marks.pages.insert((owner, number), place);
        Ok(())
    }

    fn layer_for(&mut self, owner: Owner, number: u64) -> &mut Leaf {
        match owner {
            Owner::Head => self.head.leaves.entry(number).or_default(),
            Owner::Delta(at) => self.deltas.leaf_for(at, number),
        }
    }

    fn counts_of(&mut self, owner: Owner) -> &mut super::space::Counts {
        match owner {
            Owner::Head => &mut self.head.counts,
            Owner::Delta(at) => self.deltas.counts_of(at),
        }
    }

    /// Marks all leaves that have changed since their last page, and those whose page `is_to_move`. Gives every leaf that there
    /// is, with its last page; without one if it is marked.
    pub fn begin_checkpoint(&mut self, is_to_move: impl Fn(PagePlace) -> bool) -> Vec<(Owner, u64, Option<PagePlace>)> {
        let marks = &mut self.marks;
        assert!(
            marks.pending.is_empty() && marks.kept.is_empty(),
            "one checkpoint at a time"
        );
        let head = self.head.leaves.keys().map(|number| (Owner::Head, *number));
        let deltas = self.deltas.layers.iter();
        let deltas = deltas.flat_map(|(at, layer)| layer.leaves.keys().map(|number| (Owner::Delta(*at), *number)));
        let mut pages = BTreeMap::new();
        let mut leaves = Vec::new();
        for key in head.chain(deltas) {
            let page = marks.pages.get(&key).copied();
            let page = page.filter(|page| !marks.dirty.contains(&key) && !is_to_move(*page));
            match page {
                Some(page) => drop(pages.insert(key, page)),
                None => drop(marks.pending.insert(key)),
            }
            leaves.push((key.0, key.1, page));
        }
        marks.pages = pages;
        marks.dirty.clear();
        leaves
    }

    /// Where the pages of leaves are that have not changed since.
    pub fn pages(&self) -> impl Iterator<Item = PagePlace> {
        let clean = self
            .marks
            .pages
            .iter()
            .filter(|(key, _)| !self.marks.dirty.contains(key));
        clean.map(|(_, page)| *page)
    }

    /// The checkpoint is given up.
    pub fn abandon_checkpoint(&mut self) {
        let pending = std::mem::take(&mut self.marks.pending);
        self.marks.dirty.extend(pending);
        self.marks.kept.clear();
    }

    /// Appends the page of a marked leaf as it was when it was marked.
    ///
    /// # Panics
    /// If it is not marked: a checkpoint encodes each of its leaves once.
    #[expect(clippy::expect_used, reason = "a marked leaf is in the map or kept aside")]
    pub fn encode_page(&self, key: LeafKey, buffer: &mut BytesMut) -> u32 {
        let at = (owner_of(key.owner), key.leaf);
        let kept = self.marks.kept.get(&at);
        let leaf = kept.or_else(|| self.leaf_of(at)).expect("a marked leaf");
        #[allow(clippy::cast_possible_truncation, reason = "places and counts of 512 slots")]
        let run_of = |piece: super::Piece<'_>| PageRun {
            first: piece.start as u16,
            birth: piece.birth,
            slots: match piece.content {
                Content::Data { block, crcs } => PageSlots::Data {
                    block: block.0,
                    crcs: crcs.to_vec(),
                },
                Content::Zero => PageSlots::Zero(piece.slots as u16),
                Content::Trimmed | Content::Hole => PageSlots::Trimmed(piece.slots as u16),
            },
        };
        let page = LeafPage {
            key,
            runs: leaf.filled().map(run_of).collect(),
        };
        page.encode_into(buffer).1
    }

    /// The page of a marked leaf is on its way.
    pub fn page_encoded(&mut self, key: LeafKey) {
        let at = (owner_of(key.owner), key.leaf);
        self.marks.pending.remove(&at);
        self.marks.kept.remove(&at);
    }

    /// The checkpoint is durable, and the leaf's page is there.
    pub fn set_page(&mut self, key: LeafKey, page: PagePlace) {
        self.marks.pages.insert((owner_of(key.owner), key.leaf), page);
    }

    /// What became garbage since this was last asked: where it starts on the disk, and how many blocks.
    pub fn take_garbage(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.marks.garbage)
    }

    /// All data that the map names: where it starts on the disk, and how many blocks.
    pub fn data(&self) -> impl Iterator<Item = (u64, u64)> {
        let pieces = self.leaves().flat_map(|(_, _, leaf)| leaf.filled());
        pieces.filter_map(|piece| match piece.content {
            Content::Data { block, crcs } => Some((block.0, crcs.len() as u64)),
            Content::Zero | Content::Trimmed | Content::Hole => None,
        })
    }

    fn leaf_of(&self, (owner, number): Key) -> Option<&Leaf> {
        match owner {
            Owner::Head => self.head.leaves.get(&number),
            Owner::Delta(at) => self.deltas.leaf(at, number),
        }
    }
}

/// The owner that a page's key names.
pub(super) const fn owner_of(number: u64) -> Owner {
    match number {
        0 => Owner::Head,
        at => Owner::Delta(at),
    }
}

impl super::chain::Chain {
    /// A snapshot as a checkpoint shows it.
    fn restore(&mut self, at: u64, id: SnapshotId, size_blocks: u64, is_deleted: bool) {
        self.add(at, id, size_blocks);
        if is_deleted {
            self.delete(id);
        }
    }
}
