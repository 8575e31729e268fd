//! The control plane's part in the growth of a volume and in what else of it changes: every gateway is told of the new size
//! at once, as from the catalogue, and whoever leads is asked for it, again and again, until it is applied somewhere.
//!
//! Clients ask for what is new from that moment on. What they write and read there is checked like everything else, and
//! that they are refused anything is a violation.

use std::time::Duration;

use cairn_api::limits::VolumeLimits;
use cairn_api::units::BLOCK_BYTES;
use cairn_core::event::Command;

use crate::cluster::MILLISECOND;
use crate::scenario::Kind;

use super::agenda::Act;
use super::{Run, group_of};

/// How long after everything has healed every volume must have its size.
const GROWN_WITHIN: Duration = Duration::from_secs(20);

impl Run<'_> {
    /// A volume is to have so many blocks more.
    pub(super) fn grow(&mut self, volume: usize, blocks: u64) -> Option<()> {
        let users = &mut self.users[volume];
        let size_blocks = users.load.window_blocks + blocks;
        users.load.window_blocks = size_blocks;
        self.cluster.trace.say(
            self.cluster.now,
            format_args!("=== volume {volume} is to have {size_blocks} blocks"),
        );
        // Limits come and go with it; who waits for them waits beside every fault.
        let limits = VolumeLimits {
            iops: self.rng.chance(30).then_some(50),
            bytes_per_s: self.rng.chance(30).then_some(1 << 20),
            ..VolumeLimits::default()
        };
        let update = Command::UpdateVolume {
            group: group_of(volume),
            size_bytes: size_blocks * BLOCK_BYTES,
            limits,
        };
        for node in 0..self.scenario.nodes {
            if self.cluster.nodes[node].is_running() {
                self.cluster.start_command(node, update.clone());
            }
        }
        let is_driven = std::mem::replace(&mut self.users[volume].is_growing, true);
        if !is_driven {
            self.drive_growth(volume);
        }
        Some(())
    }

    /// Asks whoever leads, until the size is applied somewhere.
    pub(super) fn drive_growth(&mut self, volume: usize) {
        let group = group_of(volume);
        let size_blocks = self.users[volume].load.window_blocks;
        let nodes = 0..self.scenario.nodes;
        if self.applied_blocks(volume) >= size_blocks {
            self.users[volume].is_growing = false;
            return self.count(Kind::Grow);
        }
        // A control plane that is behind may ask for less, in the middle of it.
        let behind = size_blocks - self.rng.below(size_blocks - self.users[volume].created.size_blocks);
        for node in nodes {
            if self.cluster.nodes[node].leads(group) {
                for size_blocks in [size_blocks, behind] {
                    self.cluster.start_command(node, Command::Resize { group, size_blocks });
                }
            }
        }
        let at = self.cluster.now + self.rng.between(5 * MILLISECOND, 200 * MILLISECOND);
        self.agenda.plan(at, Act::Grow(volume));
    }

    /// The size that a volume has for sure: what is applied somewhere is committed.
    pub(super) fn applied_blocks(&self, volume: usize) -> u64 {
        let group = group_of(volume);
        let cores = self.cluster.nodes.iter().filter_map(|node| node.core.as_ref());
        let sizes = cores.filter_map(|core| Some(core.map(group)?.size_blocks()));
        sizes.fold(self.users[volume].created.size_blocks, u64::max)
    }

    /// Everything has healed: every volume gets the size that was asked for.
    pub(super) fn finish_growth(&mut self) {
        let done = self.run_until(GROWN_WITHIN, |run| run.users.iter().all(|users| !users.is_growing));
        assert!(
            done,
            "[liveness] a volume has not grown within {GROWN_WITHIN:?} of the healing of everything"
        );
    }
}
