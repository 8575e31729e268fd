//! The snapshots of a volume in the order in which they were made, with those that are still being merged away.

use std::collections::{BTreeMap, BTreeSet};

use cairn_api::ids::SnapshotId;

/// The id of a mark ([`super::state`]). There is one at a time, and no user can make it.
pub(super) const MARK: SnapshotId = SnapshotId(u64::MAX);

/// What stands for the time after the last snapshot where a snapshot's index is meant.
pub(super) const NOW: u64 = u64::MAX;

/// One snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Link {
    pub(super) id: SnapshotId,
    /// The volume's size when it was made.
    pub(super) size_blocks: u64,
    pub(super) is_deleted: bool,
}

/// Snapshots by the index of the entry that made each.
#[derive(Default)]
pub(super) struct Chain {
    links: BTreeMap<u64, Link>,
    /// Those that are not deleted.
    living: BTreeSet<u64>,
    by_id: BTreeMap<SnapshotId, u64>,
    /// The highest id that was ever made or deleted.
    id_last: SnapshotId,
}

impl Chain {
    pub(super) fn add(&mut self, at: u64, id: SnapshotId, size_blocks: u64) {
        let link = Link {
            id,
            size_blocks,
            is_deleted: false,
        };
        self.links.insert(at, link);
        self.living.insert(at);
        self.by_id.insert(id, at);
        self.spend(id);
    }

    /// Whether the snapshot of this index is not deleted; `None` if there is none.
    pub(super) fn is_living(&self, at: u64) -> Option<bool> {
        self.links.get(&at).map(|link| !link.is_deleted)
    }

    /// Hides a snapshot; gives its index.
    pub(super) fn delete(&mut self, id: SnapshotId) -> Option<u64> {
        self.spend(id);
        let at = self.by_id.remove(&id)?;
        self.living.remove(&at);
        if let Some(link) = self.links.get_mut(&at) {
            link.is_deleted = true;
        }
        Some(at)
    }

    /// Takes a deleted snapshot, of whose delta nothing is left, out of the order.
    pub(super) fn remove(&mut self, at: u64) {
        self.links.remove(&at);
    }

    pub(super) fn find(&self, id: SnapshotId) -> Option<(u64, Link)> {
        let at = *self.by_id.get(&id)?;
        Some((at, *self.links.get(&at)?))
    }

    /// No snapshot of this id, or a lower one, is made any more. A mark's is made again and again.
    pub(super) fn spend(&mut self, id: SnapshotId) {
        if id != MARK {
            self.id_last = self.id_last.max(id);
        }
    }

    pub(super) const fn id_last(&self) -> SnapshotId {
        self.id_last
    }

    pub(super) fn newest(&self) -> Option<u64> {
        self.living.last().copied()
    }

    /// This one if it is not deleted, or else the next older one that is not.
    pub(super) fn living_from(&self, at: u64) -> Option<u64> {
        self.living.range(..=at).next_back().copied()
    }

    /// The next older one that is not deleted.
    pub(super) fn older(&self, at: u64) -> Option<u64> {
        self.living.range(..at).next_back().copied()
    }

    /// Those of users that are not deleted, oldest first: a mark is nobody's.
    pub(super) fn users(&self) -> impl DoubleEndedIterator<Item = (u64, Link)> {
        let living = self.living.iter().filter_map(|at| Some((*at, *self.links.get(at)?)));
        living.filter(|(_, link)| link.id != MARK)
    }

    /// The end of the interval between snapshots, deleted ones included, in which `birth` is: a snapshot's index, or [`NOW`].
    pub(super) fn interval(&self, birth: u64) -> u64 {
        self.links.range(birth..).next().map_or(NOW, |(at, _)| *at)
    }

    /// The oldest deleted one that is not merged away yet.
    pub(super) fn oldest_deleted(&self) -> Option<u64> {
        if self.links.len() == self.living.len() {
            return None;
        }
        self.links.iter().find(|(_, link)| link.is_deleted).map(|(at, _)| *at)
    }

    /// Those that are not deleted, oldest first.
    pub(super) fn living(&self) -> impl Iterator<Item = (u64, Link)> {
        self.living.iter().filter_map(|at| Some((*at, *self.links.get(at)?)))
    }

    /// All, those that are being merged away included, oldest first.
    pub(super) fn all(&self) -> impl Iterator<Item = (u64, Link)> {
        self.links.iter().map(|(at, link)| (*at, *link))
    }

    pub(super) fn living_count(&self) -> usize {
        self.living.len()
    }
}
