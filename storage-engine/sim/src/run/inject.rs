//! The faults as they come.
//!
//! Each says first whether it can take effect now: a node that is down cannot crash. What did not take effect is not
//! counted.

use cairn_api::ids::{GroupId, LogIndex};
use cairn_core::event::Command;
use cairn_format::peer::{GatewayOp, GatewayRequest, PeerMessage};

use crate::cluster::{MICROSECOND, MILLISECOND, SECOND};
use crate::scenario::{Fault, Kind};

use super::agenda::Act;
use super::{Run, group_of};

/// Waits for a vote to be granted.
pub(super) struct VoteAmbush {
    until: u64,
    down: u64,
    cut: u64,
}

/// Waits for the leader of a volume to send entries.
pub(super) struct LeaderAmbush {
    group: GroupId,
    until: u64,
    down: u64,
}

impl Run<'_> {
    pub(super) fn inject(&mut self, place: usize) {
        let fault = &self.scenario.faults[place].fault;
        let trace = &self.cluster.trace;
        trace.say(self.cluster.now, format_args!("=== {fault:?}"));
        if self.take_effect(fault) {
            self.count(fault.kind());
        }
    }

    fn is_running(&self, node: usize) -> bool {
        self.cluster.nodes[node].is_running()
    }

    fn take_effect(&mut self, fault: &Fault) -> bool {
        let now = self.cluster.now;
        match *fault {
            Fault::Crash { node, down_us } => return self.crash(node, down_us * MICROSECOND),
            Fault::Kill { node, down_us } => return self.kill(node, down_us * MICROSECOND),
            Fault::PowerCut { down_us, spread_us } => return self.power_cut(down_us, spread_us),
            Fault::Pause { node, for_us } => {
                if !self.is_running(node) || self.cluster.nodes[node].paused_until > now {
                    return false;
                }
                self.cluster.pause(node, for_us * MICROSECOND);
                self.agenda.plan(now + for_us * MICROSECOND, Act::Resume(node));
            }
            Fault::Partition { ref nodes, for_us } => self.partition(nodes, for_us * MICROSECOND),
            Fault::OneWay { from, to, for_us } => self.cut(from, to, for_us * MICROSECOND),
            Fault::Clog {
                from,
                to,
                delay_us,
                for_us,
            } => {
                let delay = delay_us * MICROSECOND;
                self.cluster.clog(from, to, Some((delay / 2, delay)));
                self.agenda.plan(now + for_us * MICROSECOND, Act::Unclog(from, to));
            }
            Fault::BreakLink { from, to } => self.cluster.break_link(from, to),
            Fault::Burst { volume, for_us } => {
                self.users[volume].is_bursting = true;
                self.agenda.plan(now + for_us * MICROSECOND, Act::Calm(volume));
            }
            Fault::TrimStorm { volume, for_us } => {
                self.users[volume].storm();
                self.agenda.plan(now + for_us * MICROSECOND, Act::Calm(volume));
            }
            Fault::Move {
                volume,
                client,
                to,
                how,
            } => self.relocate(volume, client, to, how),
            Fault::VoteAmbush {
                for_us,
                down_us,
                cut_us,
            } => {
                self.vote_ambush = Some(VoteAmbush {
                    until: now + for_us * MICROSECOND,
                    down: down_us * MICROSECOND,
                    cut: cut_us * MICROSECOND,
                });
                // Counted when somebody walks into it.
                return false;
            }
            Fault::LeaderAmbush {
                volume,
                for_us,
                down_us,
            } => {
                self.leader_ambush = Some(LeaderAmbush {
                    group: group_of(volume),
                    until: now + for_us * MICROSECOND,
                    down: down_us * MICROSECOND,
                });
                return false;
            }
            ref other => return self.upset(other),
        }
        true
    }

    /// Faults of disks and clocks, and requests to move leadership.
    fn upset(&mut self, fault: &Fault) -> bool {
        let now = self.cluster.now;
        match *fault {
            Fault::SlowDisk {
                node,
                latency_us,
                for_us,
            } => {
                let longest = (latency_us * MICROSECOND).max(2 * MILLISECOND);
                self.cluster.nodes[node].write_latency = Some((MILLISECOND, longest));
                self.agenda.plan(now + for_us * MICROSECOND, Act::FastDisk(node));
            }
            Fault::Stall { node, for_us } => {
                let until = &mut self.cluster.nodes[node].stalled_until;
                *until = (*until).max(now + for_us * MICROSECOND);
            }
            Fault::WriteError { node, down_us } => {
                if !self.is_running(node) {
                    return false;
                }
                self.cluster.nodes[node].disk.fail_next_write = true;
                self.failing.insert(node, down_us * MICROSECOND);
            }
            Fault::ReadErrors { node, percent, for_us } => {
                self.cluster.nodes[node].disk.read_errors_percent = percent;
                self.agenda.plan(now + for_us * MICROSECOND, Act::Readable(node));
            }
            Fault::ClockJump { node, by_us } => self.cluster.nodes[node].clock.offset += by_us * MICROSECOND,
            Fault::ClockRate { node, ppm, for_us } => {
                self.set_clock_rate(node, ppm);
                let usual = self.scenario.drift_ppm[node];
                self.agenda
                    .plan(now + for_us * MICROSECOND, Act::ClockRate(node, usual));
            }
            Fault::Transfer { volume, to } => return self.transfer(volume, to),
            Fault::HandOver { node, down_us } => {
                if !self.is_running(node) {
                    return false;
                }
                self.cluster.start_command(node, Command::HandOver);
                self.draining.insert(node);
                let life = self.cluster.nodes[node].life;
                let at = now + self.rng.between(MILLISECOND, 2 * SECOND);
                let down = down_us * MICROSECOND;
                self.agenda.plan(at, Act::Crash { node, life, down });
            }
            _ => return false,
        }
        true
    }

    fn crash(&mut self, node: usize, down: u64) -> bool {
        if !self.is_running(node) {
            return false;
        }
        let life = self.cluster.nodes[node].life;
        self.cluster.crash(node);
        self.after_death(node, life, down);
        true
    }

    /// Crashes a node if it still is in the life in which that was planned.
    pub(super) fn crash_life(&mut self, node: usize, life: u64, down: u64) {
        if self.cluster.nodes[node].life == life {
            self.crash(node, down);
        }
    }

    fn kill(&mut self, node: usize, down: u64) -> bool {
        if !self.is_running(node) {
            return false;
        }
        let life = self.cluster.nodes[node].life;
        self.cluster.kill(node);
        self.after_death(node, life, down);
        true
    }

    fn after_death(&mut self, node: usize, life: u64, down: u64) {
        self.bury(node, life);
        self.draining.remove(&node);
        if self.failing.remove(&node).is_some() {
            self.cluster.nodes[node].disk.fail_next_write = false;
        }
        self.agenda.plan(self.cluster.now + down, Act::Start(node));
    }

    fn power_cut(&mut self, down_us: u64, spread_us: u64) -> bool {
        let mut is_any = false;
        for node in 0..self.scenario.nodes {
            let down = (down_us + self.rng.below(spread_us + 1)) * MICROSECOND;
            is_any |= self.crash(node, down);
        }
        is_any
    }

    pub(super) fn start(&mut self, node: usize) {
        if !self.is_running(node) {
            self.cluster
                .trace
                .say(self.cluster.now, format_args!("=== n{node} starts"));
            self.cluster.nodes[node].disk.has_failed_a_read = false;
            self.cluster.start(node);
        }
    }

    pub(super) fn resume(&mut self, node: usize) {
        if self.is_running(node) && self.cluster.nodes[node].paused_until <= self.cluster.now {
            self.cluster.resume(node);
        }
    }

    fn partition(&mut self, nodes: &[usize], length: u64) {
        let others: Vec<usize> = (0..self.scenario.nodes).filter(|node| !nodes.contains(node)).collect();
        for one in nodes {
            for other in &others {
                self.cut(*one, *other, length);
                self.cut(*other, *one, length);
            }
        }
    }

    fn cut(&mut self, from: usize, to: usize, length: u64) {
        let cuts = self.cuts.entry((from, to)).or_default();
        *cuts += 1;
        if *cuts == 1 {
            self.cluster.block(from, to);
        }
        self.agenda.plan(self.cluster.now + length, Act::Join(from, to));
    }

    pub(super) fn join(&mut self, from: usize, to: usize) {
        let Some(cuts) = self.cuts.get_mut(&(from, to)) else {
            return;
        };
        *cuts -= 1;
        if *cuts == 0 {
            self.cuts.remove(&(from, to));
            self.cluster.unblock(from, to);
        }
    }

    pub(super) fn set_clock_rate(&mut self, node: usize, ppm: i64) {
        self.cluster.nodes[node].clock.set_rate(self.cluster.now, ppm);
    }

    /// Asks the leader, as a gateway does, to hand over to a member.
    fn transfer(&mut self, volume: usize, to: usize) -> bool {
        let group = group_of(volume);
        let Some(leader) = self.cluster.leader(group) else {
            return false;
        };
        let spec = &self.users[volume].load.spec;
        let disk = self.cluster.nodes[to].config.disk;
        let Some(member) = spec.members.iter().find(|member| member.disk == disk) else {
            return false;
        };
        let request = GatewayRequest {
            group,
            request: 0,
            revision: LogIndex(0),
            op: GatewayOp::TransferLeader { to: member.replica },
        };
        let from = disk;
        let messages = vec![PeerMessage::Request(request)];
        self.cluster
            .deliver(leader, cairn_core::event::Event::Peer { from, messages });
        leader != to
    }

    pub(super) fn on_disk_failed(&mut self, node: usize, life: u64, why: &str) {
        self.cluster
            .trace
            .say(self.cluster.now, format_args!("=== n{node} gives its disk up: {why}"));
        let down = self.failing.remove(&node);
        let is_injected = down.is_some() && why.contains("simulated write error");
        let is_full = why.contains("no room left");
        // What recovery cannot read may be there: it stops, and is tried again.
        let is_unreadable = self.cluster.nodes[node].disk.has_failed_a_read;
        assert!(
            is_injected || is_full || is_unreadable,
            "[disk] node {node} gives its disk up, though nothing is wrong with it: {why}"
        );
        self.bury(node, life);
        self.draining.remove(&node);
        if !is_full {
            let down = down.unwrap_or_else(|| self.rng.between(100 * MILLISECOND, SECOND));
            self.agenda.plan(self.cluster.now + down, Act::Start(node));
        }
    }

    pub(super) fn on_vote(&mut self, voter: usize, candidate: usize) {
        if voter == candidate {
            return;
        }
        let Some(ambush) = self.vote_ambush.take() else { return };
        if self.cluster.now > ambush.until {
            return;
        }
        self.count(Kind::VoteAmbush);
        let life = self.cluster.nodes[voter].life;
        let at = self.cluster.now + self.rng.below(2 * MILLISECOND);
        let down = ambush.down;
        self.agenda.plan(
            at,
            Act::Crash {
                node: voter,
                life,
                down,
            },
        );
        self.partition(&[candidate], ambush.cut);
    }

    pub(super) fn on_append(&mut self, leader: usize, group: GroupId) {
        if self.leader_ambush.as_ref().is_none_or(|ambush| ambush.group != group) {
            return;
        }
        let Some(ambush) = self.leader_ambush.take() else {
            return;
        };
        if self.cluster.now > ambush.until {
            return;
        }
        self.count(Kind::LeaderAmbush);
        let life = self.cluster.nodes[leader].life;
        let at = self.cluster.now + self.rng.below(MILLISECOND);
        let down = ambush.down;
        self.agenda.plan(
            at,
            Act::Crash {
                node: leader,
                life,
                down,
            },
        );
    }
}
