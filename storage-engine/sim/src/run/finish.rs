//! The end of a run: a majority heals and must serve, then everything heals and must be as the history says.

use std::collections::BTreeMap;
use std::time::Duration;

use cairn_api::block::BlockError;
use cairn_api::ids::GroupId;
use cairn_core::Core;
use cairn_core::event::{Command, CommandReply, GroupSpec, ScrubRequest, ScrubStatus};

use crate::cluster::SECOND;
use crate::node::Node;

use super::inject::Ambushes;
use super::{Run, group_of};

/// How long after a majority has healed every volume must have served a write and a read.
///
/// The parts of it, each at its worst: a restarted replica grants no vote for an election time-out (1 s); an election may
/// fail by a split vote a few times (1.5 s each); a holder that is gone is waited for (5 s) and its successor may be
/// refused once (1 s); requests to a member that is gone are given up after 2 s.
pub(super) const SERVES_WITHIN: Duration = Duration::from_secs(20);
/// How long after everything has healed whatever was asked for must have ended.
const ENDS_WITHIN: Duration = Duration::from_secs(40);

impl Run<'_> {
    /// The nodes that heal: in the scenario's order, until every volume has a majority among them.
    fn majority(&self) -> Vec<usize> {
        let mut chosen = Vec::new();
        for node in self
            .scenario
            .heal_order
            .iter()
            .filter(|node| !self.atlas.is_damaged(**node))
        {
            let is_enough = (0..self.users.len()).all(|volume| {
                let (of, needed) = self.needed(volume);
                of.iter().filter(|node| chosen.contains(*node)).count() >= needed
            });
            if is_enough {
                break;
            }
            chosen.push(*node);
        }
        chosen
    }

    pub(super) fn heal_majority(&mut self) {
        let healed = self.majority();
        self.cluster.trace.say(
            self.cluster.now,
            format_args!("=== {healed:?} heal, everything else stays as it is"),
        );
        self.is_healing = true;
        self.agenda.drop_faults();
        self.ambushes = Ambushes::default();
        for volume in 0..self.users.len() {
            self.end_users(volume);
        }
        self.end_snapshot_reads();
        self.end_clone_users();
        for node in 0..self.scenario.nodes {
            if healed.contains(&node) {
                self.heal_node(node);
            } else if self.cluster.nodes[node].paused_until > self.cluster.now {
                self.cluster.pause(node, 3600 * SECOND);
            }
        }
        for from in &healed {
            for to in healed.iter().filter(|to| *to != from) {
                self.heal_link(*from, *to);
            }
        }
        self.settle_others(&healed);
        let began = self.cluster.now;
        self.serve(&healed);
        self.served_after_ns = self.cluster.now - began;
    }

    /// A node that stays outside, and hears or reaches only some of those that healed, is cut off from all of them. Two that
    /// stay outside, one of which does not hear the other, are cut off from each other.
    ///
    /// With such a node in the lead, one of the majority could be served by nobody: it neither hears the leader nor is
    /// elected, because the others do hear it. And one that is heard by a leader outside, and hears nothing, would keep its
    /// volumes attached: it is alive, and asks for them again and again.
    fn settle_others(&mut self, healed: &[usize]) {
        let nodes = 0..self.scenario.nodes;
        for node in nodes.clone().filter(|node| !healed.contains(node)) {
            let is_hampered = |other: usize| {
                let links = [(node, other), (other, node)];
                links.iter().any(|link| self.cuts.contains_key(link)) || self.cluster.is_clogged(node, other)
            };
            let is_outside = healed.iter().any(|other| is_hampered(*other));
            let apart: Vec<usize> = nodes
                .clone()
                .filter(|other| *other != node && (is_hampered(*other) || (is_outside && healed.contains(other))))
                .collect();
            for other in apart {
                self.cluster.block(node, other);
                self.cluster.block(other, node);
            }
        }
    }

    fn end_users(&mut self, volume: usize) {
        let users = &mut self.users[volume];
        users.is_over = true;
        users.load.tolerates_io_errors = false;
        users.calm();
        for client in (0..users.load.clients.len()).rev() {
            users.load.close(&mut self.cluster, client);
        }
        users.slots.iter_mut().for_each(|slot| slot.device = None);
    }

    fn heal_node(&mut self, node: usize) {
        let now = self.cluster.now;
        let state = &mut self.cluster.nodes[node];
        state.write_latency = None;
        state.stalled_until = now;
        state.disk.read_errors_percent = 0;
        state.disk.misreads_percent = 0;
        state.disk.show_hidden();
        state.disk.fail_next_write = false;
        state.disk.lie_next = None;
        self.failing.remove(&node);
        if self.draining.remove(&node) && self.cluster.nodes[node].is_running() {
            // What hands over is about to be restarted; it never leads again before.
            let life = self.cluster.nodes[node].life;
            self.cluster.kill(node);
            self.bury(node, life);
        }
        if self.cluster.nodes[node].is_running() {
            self.cluster.resume(node);
        } else {
            self.start(node);
        }
    }

    fn heal_link(&mut self, from: usize, to: usize) {
        self.cuts.remove(&(from, to));
        self.cluster.clog(from, to, None);
        self.cluster.unblock(from, to);
    }

    /// Every volume must serve a write and a read through a node that has healed.
    fn serve(&mut self, healed: &[usize]) {
        let end = self.cluster.now + u64::try_from(SERVES_WITHIN.as_nanos()).unwrap();
        for volume in 0..self.users.len() {
            let node = healed[self.rng.pick(healed.len())];
            let mut attempts = 0;
            loop {
                let left = Duration::from_nanos(end.saturating_sub(self.cluster.now));
                assert!(
                    !left.is_zero(),
                    "[liveness] volume {volume} does not serve through node {node} within {SERVES_WITHIN:?} of the \
                     healing of {healed:?}, after {attempts} refusals"
                );
                attempts += 1;
                if self.serves(volume, node, left) {
                    break;
                }
            }
            if self.is_short_of_room {
                return;
            }
        }
    }

    /// Opens the volume, writes and reads a little, and closes it; false if it was refused.
    fn serves(&mut self, volume: usize, node: usize, limit: Duration) -> bool {
        let ready = self.run_until(limit, |run| run.cluster.nodes[node].recovered.is_some());
        assert!(ready, "[liveness] node {node} does not recover within {limit:?}");
        let users = &mut self.users[volume];
        users.load.open(&mut self.cluster, node);
        let Some(client) = users.load.clients.last() else {
            return false;
        };
        let device = client.device;
        self.devices.insert(device, volume);
        users.load.submit_probe(&mut self.cluster);
        let done = self.run_until(limit, |run| {
            run.users[volume]
                .load
                .clients
                .iter()
                .all(|client| client.under_way() == 0)
        });
        let users = &mut self.users[volume];
        let stuck: Vec<String> = users.load.clients.iter().flat_map(|client| client.describe()).collect();
        if !done && self.has_full_member(volume) {
            // Who is needed for a majority has fallen behind, and its disk cannot hold the leader's state beside its own.
            self.is_short_of_room = true;
            return true;
        }
        if !done {
            let space = self.cluster.describe_space();
            panic!(
                "[liveness] volume {volume} does not serve through node {node} within {SERVES_WITHIN:?} of the healing of \
                 a majority: {stuck:?}; {space}"
            );
        }
        let users = &mut self.users[volume];
        let is_refused = users.load.clients.last().is_some_and(|client| {
            matches!(
                client.refused,
                Some(BlockError::Busy { .. } | BlockError::Fenced { .. })
            )
        });
        let last = users.load.clients.len() - 1;
        users.load.close(&mut self.cluster, last);
        !is_refused
    }

    /// Whether a running member of the volume has no room for the state that it needs.
    fn has_full_member(&mut self, volume: usize) -> bool {
        let members = self.members(volume);
        let running: Vec<usize> = members
            .into_iter()
            .filter(|node| self.cluster.nodes[*node].recovered.is_some())
            .collect();
        running
            .into_iter()
            .any(|node| !self.cluster.has_room_for_state(node, group_of(volume)))
    }

    pub(super) fn heal_all(&mut self) {
        self.cluster
            .trace
            .say(self.cluster.now, format_args!("=== everything heals"));
        self.cuts.clear();
        for from in 0..self.scenario.nodes {
            self.heal_node(from);
            for to in (0..self.scenario.nodes).filter(|to| *to != from) {
                self.heal_link(from, to);
            }
        }
        self.await_all();
        self.finish_replacements();
        self.finish_growth();
        self.finish_snapshots();
        self.finish_clones();
        // What closed clients had asked for goes on in the gateways, and comes to an end.
        let operations = |run: &Self| -> Vec<usize> {
            let load = |node: &Node| node.core.as_ref().and_then(Core::load).unwrap_or_default();
            run.cluster.nodes.iter().map(|node| load(node).operations).collect()
        };
        let ended = self.run_until(ENDS_WITHIN, |run| operations(run).iter().all(|count| *count == 0));
        if !ended {
            let space = self.cluster.describe_space();
            panic!(
                "[stuck] gateways have operations under way {ENDS_WITHIN:?} after everything has healed: {:?}; {space}",
                operations(self)
            );
        }
    }

    /// Waits until every node whose disk is not lost serves.
    fn await_all(&mut self) {
        let recovered = self.run_until(ENDS_WITHIN, |run| {
            run.present()
                .iter()
                .all(|node| run.cluster.nodes[*node].recovered.is_some())
        });
        assert!(recovered, "[stuck] a node does not recover within {ENDS_WITHIN:?}");
    }

    /// The nodes whose disks are not lost.
    fn present(&self) -> Vec<usize> {
        (0..self.scenario.nodes)
            .filter(|node| !self.lost.contains(node))
            .collect()
    }

    /// Clients read the whole of every volume: of each block somebody has a good copy, wherever a disk has lost its own.
    fn read_all(&mut self) {
        for volume in 0..self.users.len() {
            let present = self.present();
            let node = present[self.rng.pick(present.len())];
            let users = &mut self.users[volume];
            users.load.open(&mut self.cluster, node);
            let last = users.load.clients.len() - 1;
            users.load.verify_all(&mut self.cluster, last);
            users.load.close(&mut self.cluster, last);
            self.read_snapshots(volume, node);
            self.check_clones(volume);
        }
        self.heed();
    }

    /// Every disk is read through: whatever it has lost of a volume is back where it belongs.
    fn scrub_all(&mut self) {
        let request = ScrubRequest::Begin {
            bytes_per_s: Some(1 << 30),
        };
        let present = self.present();
        for node in &present {
            let begun = self.cluster.command(*node, Command::Scrub(request));
            assert_eq!(
                begun,
                Ok(CommandReply::Done),
                "[stuck] node {node} does not scrub its disk"
            );
        }
        let is_over = |run: &mut Self, node: usize| {
            let status = run.cluster.command(node, Command::ScrubStatus);
            let load = run.cluster.nodes[node]
                .core
                .as_ref()
                .and_then(Core::load)
                .unwrap_or_default();
            matches!(status, Ok(CommandReply::Scrub(ScrubStatus { running: None, .. }))) && load.write_backs == 0
        };
        let end = self.cluster.now + u64::try_from(ENDS_WITHIN.as_nanos()).unwrap();
        while !present.iter().all(|node| is_over(self, *node)) {
            assert!(
                self.cluster.now < end,
                "[stuck] the scrubbing of a disk has not ended {ENDS_WITHIN:?} after it was asked for"
            );
            self.run_until(Duration::from_millis(100), |_| false);
        }
    }

    /// Everything is as the history says, on every replica, now and after a restart.
    pub(super) fn verify(&mut self) {
        self.read_all();
        self.scrub_all();
        let before = self.compare();
        self.compare_meta();
        let restarted: Vec<usize> = self
            .present()
            .into_iter()
            .filter(|node| !self.must_keep_power(*node))
            .collect();
        for node in &restarted {
            let life = self.cluster.nodes[*node].life;
            self.cluster.crash(*node);
            self.bury(*node, life);
        }
        for node in restarted {
            self.start(node);
        }
        // A place that was being written when the power failed may have to be cleared first.
        self.await_all();
        let after = self.compare();
        self.compare_meta();
        for volume in 0..self.users.len() {
            self.check_clones(volume);
        }
        assert_eq!(
            before, after,
            "[replay] what fresh cores made of the disks differs from what was there"
        );
    }

    /// Waits until the replicas of every volume are level, and compares them; gives their digests.
    fn compare(&mut self) -> BTreeMap<GroupId, u32> {
        let mut digests = BTreeMap::new();
        for volume in 0..self.users.len() {
            let spec = self.users[volume].load.spec.clone();
            let level = self.cluster.quiesce(&spec);
            self.heed();
            for node in level {
                if self.lost.contains(&node) {
                    continue;
                }
                self.check_size(volume, node);
                self.check_blocks(volume, node, &spec);
                self.check_snapshots(volume, node);
                let digest = self.cluster.command(node, Command::Digest(spec.group));
                if let Ok(CommandReply::Digest(digest)) = digest {
                    digests.insert(spec.group, digest);
                }
            }
        }
        digests
    }

    /// A replica has the size that was asked for last.
    fn check_size(&mut self, volume: usize, node: usize) {
        let wanted = self.users[volume].load.window_blocks;
        let found = self.cluster.status(node, group_of(volume)).size_blocks;
        assert!(
            found == wanted,
            "[equal] node {node}'s replica of volume {volume} has {found} blocks, not {wanted}"
        );
    }

    /// Every block of a replica, read from the disk where the map says, has its checksum and holds what it may hold.
    fn check_blocks(&self, volume: usize, node: usize, spec: &GroupSpec) {
        let history = &self.users[volume].load.history;
        let Some(map) = self.cluster.nodes[node]
            .core
            .as_ref()
            .and_then(|core| core.map(spec.group))
        else {
            panic!("[equal] node {node} has no map of group {}", spec.group);
        };
        self.stamps_on_disk((node, spec.group), map.now(), |sector, stamp| {
            check_sector(history, node, sector, stamp);
        });
    }
}

fn check_sector(history: &cairn_history::register::History, node: usize, sector: u64, stamp: u64) {
    assert!(
        history.may_hold(sector, stamp),
        "[history] at rest, sector {sector} of node {node} holds {stamp}, which it cannot:\n{}",
        history.story_of(sector)
    );
}
