//! Which blocks are known to be damaged, so that each is logged and counted once however often it is read.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use cairn_api::ids::GroupId;

use crate::event::{Damage, DamageCounts};
use crate::time::Timestamp;

/// Blocks remembered for one disk; one that has more is beyond counting.
const KNOWN_MAX: usize = 4096;
/// A block that nobody has asked for in so long is forgotten: it may not be part of its volume any more.
const KNOWN_TIME_MAX: Duration = Duration::from_secs(600);

struct Block {
    group: GroupId,
    since: Timestamp,
    last: Timestamp,
    is_lost: bool,
}

#[derive(Default)]
pub(super) struct Known {
    blocks: BTreeMap<u64, Block>,
    counts: BTreeMap<GroupId, DamageCounts>,
}

impl Known {
    /// The disk's block is damaged; true if that is news.
    pub(super) fn damaged(&mut self, group: GroupId, block: u64, now: Timestamp) -> bool {
        if let Some(known) = self.blocks.get_mut(&block) {
            known.last = now;
            return false;
        }
        if self.blocks.len() < KNOWN_MAX {
            let (since, last) = (now, now);
            let is_lost = false;
            self.blocks.insert(
                block,
                Block {
                    group,
                    since,
                    last,
                    is_lost,
                },
            );
        }
        true
    }

    /// Whether the disk's block may still be damaged: what does not fit in here may always be.
    pub(super) fn may_be_damaged(&self, block: u64) -> bool {
        self.blocks.contains_key(&block) || self.blocks.len() >= KNOWN_MAX
    }

    /// These blocks are used for something else from now on.
    pub(super) fn forget_blocks(&mut self, blocks: &Range<u64>) {
        self.blocks.retain(|block, _| !blocks.contains(block));
    }

    /// Since when the disk's block is known to be damaged.
    pub(super) fn since(&self, block: u64) -> Option<Timestamp> {
        self.blocks.get(&block).map(|known| known.since)
    }

    /// Nobody has the block; true if that is news.
    pub(super) fn lost(&mut self, block: u64) -> bool {
        match self.blocks.get_mut(&block) {
            Some(known) => !std::mem::replace(&mut known.is_lost, true),
            None => true,
        }
    }

    /// The block is whole again.
    pub(super) fn healed(&mut self, block: u64) {
        self.blocks.remove(&block);
    }

    pub(super) fn count(&mut self, group: GroupId, damage: Damage, blocks: u64) {
        self.counts.entry(group).or_default().add(damage, blocks);
    }

    pub(super) fn counts(&self, group: GroupId) -> DamageCounts {
        self.counts.get(&group).copied().unwrap_or_default()
    }

    pub(super) fn forget(&mut self, group: GroupId) {
        self.blocks.retain(|_, known| known.group != group);
        self.counts.remove(&group);
    }

    pub(super) fn tick(&mut self, now: Timestamp) {
        self.blocks.retain(|_, known| now.since(known.last) <= KNOWN_TIME_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(7);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::default().after(Duration::from_secs(seconds))
    }

    #[test]
    fn damage_is_news_once_until_it_is_healed_or_forgotten() {
        let mut known = Known::default();
        assert!(known.damaged(GROUP, 5, at(1)));
        assert!(!known.damaged(GROUP, 5, at(2)));
        assert_eq!(known.since(5), Some(at(1)));
        assert!(known.lost(5) && !known.lost(5));
        assert!(known.may_be_damaged(5));
        known.healed(5);
        assert!(!known.may_be_damaged(5));
        assert!(known.damaged(GROUP, 5, at(3)));
        known.tick(at(600));
        assert!(!known.damaged(GROUP, 5, at(602)));
        known.tick(at(1300));
        assert!(
            known.damaged(GROUP, 5, at(1301)),
            "nobody has asked for it in ten minutes"
        );
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut known = Known::default();
        for block in 0..2 * KNOWN_MAX as u64 {
            assert!(known.damaged(GROUP, block, at(0)));
        }
        assert_eq!(known.blocks.len(), KNOWN_MAX);
        assert!(known.may_be_damaged(u64::MAX));
        known.forget(GROUP);
        assert!(known.blocks.is_empty());
    }
}
