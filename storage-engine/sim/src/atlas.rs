//! The fault atlas: which disk may be damaged for good, and when a node with a damaged disk may lose power, so that whatever
//! is lost in the end was lost by Cairn.
//!
//! # What must remain
//! Of every acknowledged block a good copy that a repair can reach, and a majority of logs in which no acknowledged entry
//! is missing. An acknowledged entry is in the logs of some majority of the volume's members, no matter of which. So the
//! damage of fewer than half of them leaves one good copy at least:
//! - **Few at a time.** Fewer than half of the members of any volume are damaged at once: one of three, two of five, none of
//!   one. The next one only when an earlier one has been replaced: by then its successor was promoted, by a majority of those
//!   who stay, and what it does not hold yet it can fetch from them.
//! - **None while one is replaced.** Between the removal of one replica and the promotion of the next there is one voter
//!   less, and all those who stay may be needed. Only the one who leaves may be damaged then.
//! - **Nobody counts on the damaged.** The majority that heals is chosen among the sound. A damaged replica may be the only
//!   other one to hold a block; if the sound one is away for good, nobody has it.
//! - **Damage is detectable.** A frame that nothing vouches for yet cannot be told from a torn one (docs/recovery-table.md).
//!   A replica that loses such a frame and restarts votes without knowing what it promised, and with a lagging peer it makes
//!   a majority that never heard of an acknowledged write. So rot hits only what later frames vouch for
//!   ([`WRITES_TO_VOUCH`]), and after a disk has lied its node keeps its power until a frame is on the disk that was
//!   composed after the lie was believed.
//!
//! # What needs no permission
//! Crashes of any number of nodes, with what was in flight torn: that is what the log is for. Reads that fail for a while,
//! and writes that fail and say so.

use std::collections::BTreeSet;

use crate::scenario::Scenario;

/// Completed writes after which one is vouched for by a frame that is durable itself: two frames are in flight at most, so
/// that the third was composed when the first was known to be done; one more for a frame that was lost itself.
pub const WRITES_TO_VOUCH: usize = 4;

/// A volume's replicas.
struct Volume {
    /// The nodes that hold one.
    members: Vec<usize>,
    /// The node whose replica is being replaced, and the one that takes its place.
    replacing: Option<(usize, usize)>,
}

pub struct Atlas {
    volumes: Vec<Volume>,
    damaged: BTreeSet<usize>,
}

impl Volume {
    /// How many members may be damaged at once.
    const fn spare(&self) -> usize {
        self.members.len().saturating_sub(1) / 2
    }
}

impl Atlas {
    pub fn new(scenario: &Scenario) -> Self {
        Self::of(scenario.volumes.iter().map(|volume| volume.members.clone()))
    }

    fn of(volumes: impl Iterator<Item = Vec<usize>>) -> Self {
        let volume = |members| Volume {
            members,
            replacing: None,
        };
        Self {
            volumes: volumes.map(volume).collect(),
            damaged: BTreeSet::new(),
        }
    }

    /// Damages the disk of a node, if all that must remain does; true if it may be.
    pub fn damage(&mut self, node: usize) -> bool {
        let may_be = self.volumes.iter().all(|volume| match volume.replacing {
            Some((old, _)) if node == old => volume.spare() > 0,
            Some((_, new)) => node != new && !volume.members.contains(&node),
            None if volume.members.contains(&node) => self.others_damaged(volume, node) < volume.spare(),
            None => true,
        });
        if may_be {
            self.damaged.insert(node);
        }
        may_be
    }

    fn others_damaged(&self, volume: &Volume, node: usize) -> usize {
        let others = volume
            .members
            .iter()
            .filter(|member| **member != node && self.damaged.contains(member));
        others.count()
    }

    /// A replica begins to be replaced; false if others would have to be counted on that are damaged.
    pub fn begin_replacement(&mut self, volume: usize, old: usize, new: usize) -> bool {
        let others = self.others_damaged(&self.volumes[volume], old);
        let may_begin = others == 0 && !self.damaged.contains(&new) && self.volumes[volume].replacing.is_none();
        if may_begin {
            self.volumes[volume].replacing = Some((old, new));
        }
        may_begin
    }

    /// The new replica counts and holds everything, the old one does not count any more.
    pub fn end_replacement(&mut self, volume: usize) {
        let volume = &mut self.volumes[volume];
        if let Some((old, new)) = volume.replacing.take() {
            volume.members.retain(|node| *node != old);
            volume.members.push(new);
        }
    }

    /// Whether the disk of a node has been damaged.
    pub fn is_damaged(&self, node: usize) -> bool {
        self.damaged.contains(&node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn atlas(volumes: &[&[usize]]) -> Atlas {
        Atlas::of(volumes.iter().map(|members| members.to_vec()))
    }

    #[test]
    fn fewer_than_half_of_every_volume_are_damaged() {
        let mut atlas = atlas(&[&[0, 1, 2], &[2, 3, 4], &[0, 1, 2, 3, 4]]);
        assert!(atlas.damage(0) && atlas.damage(0));
        assert!(
            !atlas.damage(1) && !atlas.damage(2),
            "they share a volume of three with 0"
        );
        assert!(atlas.damage(3));
        assert!(!atlas.damage(4), "a third of five, and a second of three");
    }

    #[test]
    fn a_volume_of_one_is_left_alone() {
        let mut atlas = atlas(&[&[0], &[0, 1, 2]]);
        assert!(!atlas.damage(0));
        assert!(atlas.damage(1));
    }

    #[test]
    fn who_is_counted_on_during_a_replacement_is_left_alone() {
        let mut atlas = atlas(&[&[0, 1, 2]]);
        assert!(atlas.begin_replacement(0, 0, 3));
        assert!(!atlas.damage(1) && !atlas.damage(3), "one who stays, and the newcomer");
        assert!(atlas.damage(0), "the one who leaves");
        atlas.end_replacement(0);
        assert!(atlas.damage(1), "the volume is whole again");
        assert!(!atlas.damage(3));
        assert!(!atlas.begin_replacement(0, 2, 4), "1 would be counted on");
        assert!(!atlas.begin_replacement(0, 1, 0), "0 is damaged");
        assert!(atlas.begin_replacement(0, 1, 4));
    }
}
