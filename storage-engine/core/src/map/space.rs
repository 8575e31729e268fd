//! How much of the disk a volume and its snapshots take: exact at any time, at little cost.
//!
//! Of the head and of each delta the slots with data are counted by the interval between snapshots in which they were born;
//! an interval is named by the snapshot that ends it. A snapshot that is being merged away still ends an interval, until it
//! leaves the order and its interval becomes part of the next. So making a snapshot renames the head's last count, a change
//! of a slot costs a search among the snapshots, and what a snapshot's deletion would free is a sum over its counts.

use std::collections::BTreeMap;

use cairn_api::ids::{LogIndex, SnapshotId};

use super::BlockMap;
use super::chain::{MARK, NOW};

/// Slots with data by the interval of their birth.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    intervals: BTreeMap<u64, u64>,
    total: u64,
}

impl Counts {
    pub(super) fn add(&mut self, interval: u64, slots: u64) {
        if slots > 0 {
            *self.intervals.entry(interval).or_default() += slots;
            self.total += slots;
        }
    }

    /// # Panics
    /// If there are not so many: every slot that goes was counted when it came.
    pub(super) fn sub(&mut self, interval: u64, slots: u64) {
        if slots == 0 {
            return;
        }
        let count = self.intervals.entry(interval).or_default();
        assert!(*count >= slots, "{slots} slots of interval {interval} go, {count} came");
        *count -= slots;
        if *count == 0 {
            self.intervals.remove(&interval);
        }
        self.total -= slots;
    }

    /// The interval `from` is part of the interval `to` from here on.
    pub(super) fn join(&mut self, from: u64, to: u64) {
        if let Some(count) = self.intervals.remove(&from) {
            *self.intervals.entry(to).or_default() += count;
        }
    }

    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// Those born after a snapshot.
    pub(super) fn born_after(&self, at: u64) -> u64 {
        self.intervals.range(at + 1..).map(|(_, count)| count).sum()
    }
}

/// What the volume as it is takes on the disk, in blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HeadSpace {
    /// Blocks with data.
    pub allocated: u64,
    /// Those of them that a snapshot shows, too.
    pub shared: u64,
    /// Blocks with data that the volume has replaced and snapshots keep.
    pub snapshots: u64,
    /// Blocks that deleted snapshots kept: an older snapshot inherits each, or it becomes garbage, step by step. And those that
    /// are kept for a replica which is behind the log: the same becomes of them.
    pub merging: u64,
}

impl HeadSpace {
    /// Blocks on the disk in all.
    pub const fn stored(&self) -> u64 {
        self.allocated + self.snapshots + self.merging
    }

    /// Blocks with data that only the volume as it is shows.
    pub const fn exclusive(&self) -> u64 {
        self.allocated - self.shared
    }
}

/// A snapshot and what it takes on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotSpace {
    /// Its id.
    pub id: SnapshotId,
    /// The entry that made it.
    pub at: LogIndex,
    /// The volume's size when it was made, in blocks.
    pub size_blocks: u64,
    /// Blocks that the volume has replaced since, and no newer snapshot shows: what its deletion frees or hands on.
    pub kept: u64,
    /// Those of them that no older snapshot shows either: what its deletion frees.
    pub exclusive: u64,
}

impl BlockMap {
    /// What the volume as it is, and all its snapshots together, take.
    pub fn space(&self) -> HeadSpace {
        let newest = self.chain.users().next_back();
        let born_since = match newest {
            Some((newest, _)) => self.head.counts.born_after(newest),
            None => self.head.counts.total(),
        };
        let all: u64 = self.deltas.layers.values().map(|layer| layer.counts.total()).sum();
        let living = self.chain.users().filter_map(|(at, _)| self.deltas.layers.get(&at));
        let snapshots = living.map(|layer| layer.counts.total()).sum();
        HeadSpace {
            allocated: self.head.counts.total(),
            shared: self.head.counts.total() - born_since,
            snapshots,
            merging: all - snapshots,
        }
    }

    /// Every snapshot of a user that is not deleted, oldest first.
    pub fn snapshots(&self) -> impl Iterator<Item = SnapshotSpace> {
        let mut older = 0;
        self.chain.users().map(move |(at, link)| {
            let counts = self.deltas.layers.get(&at).map(|layer| &layer.counts);
            let older = std::mem::replace(&mut older, at);
            SnapshotSpace {
                id: link.id,
                at: LogIndex(at),
                size_blocks: link.size_blocks,
                kept: counts.map_or(0, Counts::total),
                exclusive: counts.map_or(0, |counts| counts.born_after(older)),
            }
        })
    }

    /// How many snapshots of users there are that are not deleted.
    pub fn snapshot_count(&self) -> usize {
        self.chain.living_count() - usize::from(self.chain.find(MARK).is_some())
    }

    /// The last interval of the head ends at `at` from here on.
    pub(super) fn close_interval(&mut self, at: u64) {
        self.head.counts.join(NOW, at);
    }
}
