//! Damage to disks, as far as the fault atlas permits it.

use crate::atlas::WRITES_TO_VOUCH;
use crate::cluster::MICROSECOND;
use crate::disk::Lie;
use crate::scenario::Fault;

use super::super::Run;

impl Run<'_> {
    /// Damages a disk, if it may be and anything comes of it.
    pub(super) fn damage(&mut self, fault: &Fault) -> Option<()> {
        match *fault {
            Fault::Rot {
                node,
                headers,
                ref places,
            } => self.spoil(self.resolve(node)?, headers, places, false),
            Fault::BadSectors {
                node,
                headers,
                ref places,
            } => self.spoil(self.resolve(node)?, headers, places, true),
            Fault::Phantom { node } => self.lie(self.running(node)?, Lie::Phantom),
            Fault::Misdirected { node, by } => self.lie(self.running(node)?, Lie::Misdirected(by)),
            Fault::Wipe { node } => self.wipe(self.resolve(node)?),
            Fault::Shrink { node, down_us } => self.shrink(self.resolve(node)?, down_us * MICROSECOND),
            _ => None,
        }
    }

    fn spoil(&mut self, node: usize, headers: bool, places: &[u64], unreadable: bool) -> Option<()> {
        let disk = &self.cluster.nodes[node].disk;
        let pages: Vec<u64> = places
            .iter()
            .filter_map(|place| disk.old_page(*place, headers, WRITES_TO_VOUCH))
            .collect();
        if pages.is_empty() || self.lost.contains(&node) || !self.atlas.damage(node) {
            return None;
        }
        let disk = &mut self.cluster.nodes[node].disk;
        for page in pages {
            if unreadable {
                disk.spoil(page);
            } else {
                disk.rot(page);
            }
        }
        Some(())
    }

    fn lie(&mut self, node: usize, lie: Lie) -> Option<()> {
        if self.lost.contains(&node) || !self.atlas.damage(node) {
            return None;
        }
        self.cluster.nodes[node].disk.lie_next = Some(lie);
        self.liars.insert(node);
        self.count_liars();
        Some(())
    }

    fn wipe(&mut self, node: usize) -> Option<()> {
        if self.lost.contains(&node) || !self.atlas.damage(node) {
            return None;
        }
        self.lose(node);
        if self.cluster.nodes[node].is_running() {
            let life = self.cluster.nodes[node].life;
            self.cluster.crash(node);
            self.bury(node, life);
        }
        Some(())
    }

    /// Recovery refuses a disk that is too short, so that it may lose power even if it has lied.
    fn shrink(&mut self, node: usize, down: u64) -> Option<()> {
        if self.lost.contains(&node) || !self.atlas.damage(node) {
            return None;
        }
        if self.cluster.nodes[node].is_running() {
            let life = self.cluster.nodes[node].life;
            self.cluster.crash(node);
            self.after_death(node, life, down);
        }
        self.cluster.nodes[node].disk.shrink();
        Some(())
    }

    /// Whether a node must not lose power now: its disk has lied, and nothing vouches for what it lied about.
    pub(in super::super) fn must_keep_power(&self, node: usize) -> bool {
        self.cluster.nodes[node].disk.has_an_undetectable_lie()
    }
}
