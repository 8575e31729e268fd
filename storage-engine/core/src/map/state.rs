//! The whole state of a map at a mark: what a replica that is brought up without the log is sent, and how it puts it together.
//!
//! A *mark* is a snapshot like any other to the map, under an id of its own; only this replica has it. The state at a mark
//! is the volume as the mark shows it, and the deltas of the users' snapshots up to there. It is read leaf by leaf, **all owners
//! of a leaf at once**: deleted snapshots are merged away meanwhile, and a slot that moves from one delta to an older one
//! keeps its address, so that each leaf is read either before or after its move. Slots of a deleted snapshot are shown where
//! they are going to be, and not at all if they are garbage (the fourth rule of [`super`]): who receives them knows of no
//! deleted snapshot.

use std::collections::BTreeMap;
use std::ops::Range;

use cairn_api::ids::{LogIndex, SnapshotId};
use cairn_api::units::Lba;
use cairn_format::base::Base;

use super::chain::MARK;
use super::layer::Owner;
use super::leaf::{Content, LEAF_SLOTS, Leaf, Piece};
use super::volume::{leaves_of, place, slots_of};
use super::{BlockMap, DiskBlock};

/// What keeps the state at an index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Marked {
    /// A snapshot of the mark's own.
    Own,
    /// A user's, which happens to be of that very index.
    Users,
}

/// Data at one address after the other, contiguous on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    /// The place in the volume of the first one.
    pub(crate) lba: Lba,
    pub(crate) block: DiskBlock,
    pub(crate) crc: u32,
}

impl BlockMap {
    /// Keeps the state at `at`, which is the last index in the map; `None` if that cannot be done now.
    pub(crate) fn mark(&mut self, at: LogIndex) -> Option<Marked> {
        match self.chain.is_living(at.get()) {
            Some(true) => Some(Marked::Users),
            // An earlier mark of the same index is still being merged away.
            Some(false) => None,
            None => self.create_snapshot(MARK, at).map(|_| Marked::Own),
        }
    }

    /// Whether the state at a mark is still there: a user may delete the snapshot that keeps it.
    pub(crate) fn is_marked(&self, at: LogIndex) -> bool {
        self.chain.is_living(at.get()) == Some(true)
    }

    /// Ends keeping it.
    pub(crate) fn unmark(&mut self, marked: Marked) {
        if marked == Marked::Own {
            self.delete_snapshot(MARK);
        }
    }

    /// The first leaf from `number` on in which the volume or any snapshot has anything.
    pub(crate) fn next_leaf(&self, number: u64) -> Option<u64> {
        let head = self.head.leaves.range(number..).next().map(|(number, _)| *number);
        let delta = self.deltas.next_leaf(0, number, u64::MAX);
        head.into_iter().chain(delta).min()
    }

    /// What the state at `mark` has in these slots of a leaf, by owner, and for each in the order of the addresses.
    pub(crate) fn state_at(&self, mark: LogIndex, number: u64, slots: Range<usize>) -> Vec<(Owner, Vec<Piece<'_>>)> {
        let mut owned: BTreeMap<Owner, Vec<Piece<'_>>> = BTreeMap::new();
        let head = self.resolve(mark.get(), number, slots.clone());
        if !head.is_empty() {
            owned.insert(Owner::Head, head);
        }
        let older = self.deltas.holding(number, 0).take_while(|(at, _)| *at < mark.get());
        for (at, leaf) in older {
            let heir = self.chain.living_from(at);
            for piece in leaf.pieces(slots.clone()).filter(|piece| !piece.is_hole()) {
                if let Some(heir) = heir.filter(|heir| *heir == at || piece.birth <= *heir) {
                    owned.entry(Owner::Delta(heir)).or_default().push(piece);
                }
            }
        }
        for pieces in owned.values_mut() {
            pieces.sort_unstable_by_key(|piece| piece.start);
        }
        owned.into_iter().collect()
    }

    /// Where the data is, in the volume as it is or in any snapshot, that the entry `birth` wrote to these blocks; `None` if
    /// any of them is not there.
    pub(crate) fn find(&self, lba: Lba, blocks: u64, birth: LogIndex) -> Option<Vec<Found>> {
        find_in(lba, blocks, birth, |number| {
            let head = self.head.leaves.get(&number).into_iter();
            head.chain(self.deltas.holding(number, 0).map(|(_, leaf)| leaf))
        })
    }

    /// The highest id of a snapshot that was ever made or deleted.
    pub(crate) const fn snapshot_last(&self) -> SnapshotId {
        self.chain.id_last()
    }

    /// Blocks with data in the volume as it is and in all snapshots.
    pub(crate) fn blocks_in_all(&self) -> u64 {
        let deltas = self.deltas.layers.values().map(|layer| layer.counts.total());
        self.allocated_blocks() + deltas.sum::<u64>()
    }

    /// The users' snapshots that are not deleted: id, index and size, oldest first.
    pub(crate) fn state_snapshots(&self) -> impl Iterator<Item = (SnapshotId, LogIndex, u64)> {
        self.chain
            .users()
            .map(|(at, link)| (link.id, LogIndex(at), link.size_blocks))
    }
}

/// The data that an entry wrote to these blocks, wherever it is in the leaves of each number.
fn find_in<'a, L: Iterator<Item = &'a Leaf>>(
    lba: Lba,
    blocks: u64,
    birth: LogIndex,
    leaves: impl Fn(u64) -> L,
) -> Option<Vec<Found>> {
    let mut found: BTreeMap<Lba, Found> = BTreeMap::new();
    let range = lba.0..lba.0 + blocks;
    for number in leaves_of(&range) {
        let slots = slots_of(number, &range);
        let first = number * LEAF_SLOTS;
        for piece in leaves(number).flat_map(|leaf| leaf.pieces(slots.clone())) {
            if let Content::Data { block, crcs } = piece.content
                && piece.birth == birth.get()
            {
                found.extend((0..).zip(crcs).map(|(place, crc)| {
                    let lba = Lba(first + piece.start as u64 + place);
                    let block = block.advance(place);
                    (lba, Found { lba, block, crc: *crc })
                }));
            }
        }
    }
    (found.len() as u64 == blocks).then(|| found.into_values().collect())
}

/// A state that is being put together, leaf by leaf.
#[derive(Default)]
pub(crate) struct StagedMap {
    leaves: BTreeMap<(u64, Owner), Leaf>,
}

impl StagedMap {
    /// Puts what an owner has at some address. What comes twice is there once.
    ///
    /// # Panics
    /// If the slots do not lie in one leaf.
    pub(crate) fn put(&mut self, owner: Owner, lba: Lba, slots: u64, content: Content<'_>, birth: LogIndex) {
        let (number, start) = place(lba.0);
        let end = slots_of(number, &(lba.0..lba.0 + slots)).end;
        assert_eq!((end - start) as u64, slots, "slots from {lba} on lie in one leaf");
        let leaf = self.leaves.entry((number, owner)).or_default();
        leaf.fill(start..end, content, birth.get());
    }

    /// What the volume has where nothing was put stays: a seeded fault.
    pub(crate) fn fill_holes_from(&mut self, own: &BlockMap) {
        for (number, leaf) in &own.head.leaves {
            let before = self.leaves.insert((*number, Owner::Head), leaf.clone());
            for piece in before.iter().flat_map(Leaf::filled) {
                if let Some(leaf) = self.leaves.get_mut(&(*number, Owner::Head)) {
                    leaf.fill(piece.range(), piece.content, piece.birth);
                }
            }
        }
    }

    /// As [`BlockMap::find`], among what was put.
    pub(crate) fn find(&self, lba: Lba, blocks: u64, birth: LogIndex) -> Option<Vec<Found>> {
        find_in(lba, blocks, birth, |number| {
            let owners = (number, Owner::Head)..=(number, Owner::Delta(u64::MAX));
            self.leaves.range(owners).map(|(_, leaf)| leaf)
        })
    }

    /// Slots with data.
    pub(crate) fn blocks(&self) -> u64 {
        self.leaves.values().map(|leaf| leaf.data_slots() as u64).sum()
    }

    /// The map of a volume with these snapshots, the ids up to `spent` being spent; the reason if something was staged that it has no place for.
    pub(crate) fn into_map(
        self,
        size_blocks: u64,
        (base, filled_blocks): (Option<Base>, u64),
        spent: SnapshotId,
        snapshots: impl Iterator<Item = (SnapshotId, LogIndex, u64)>,
    ) -> Result<BlockMap, String> {
        let mut map = BlockMap::new(size_blocks);
        map.set_base(base, filled_blocks);
        map.chain.spend(spent);
        for (id, at, size_blocks) in snapshots {
            map.chain.add(at.get(), id, size_blocks);
            map.deltas.add(at.get());
        }
        for ((number, owner), leaf) in self.leaves {
            map.adopt(owner, number, leaf)?;
        }
        Ok(map)
    }
}

impl BlockMap {
    fn adopt(&mut self, owner: Owner, number: u64, leaf: Leaf) -> Result<(), String> {
        let counted: Vec<(u64, u64)> = leaf
            .filled()
            .map(|piece| (self.chain.interval(piece.birth), piece.data_slots()))
            .collect();
        let end = leaf
            .filled()
            .last()
            .map_or(0, |piece| number * LEAF_SLOTS + piece.range().end as u64);
        let (size_blocks, counts) = match owner {
            Owner::Head => {
                self.head.leaves.insert(number, leaf);
                (self.size_blocks(), &mut self.head.counts)
            }
            Owner::Delta(at) => {
                let Some((_, link)) = self.chain.living().find(|(known, _)| *known == at) else {
                    return Err(format!("there is no snapshot of index {at}"));
                };
                (link.size_blocks, self.deltas.put_leaf(at, number, leaf))
            }
        };
        for (interval, slots) in counted {
            counts.add(interval, slots);
        }
        if end > size_blocks {
            return Err(format!("block {end} is not in a volume of {size_blocks} blocks"));
        }
        Ok(())
    }
}
