//! Nodes that lose power, are killed, stand still, hand over, or whose clocks are wrong.

use cairn_api::ids::LogIndex;
use cairn_core::event::{Command, Event};
use cairn_format::peer::{GatewayOp, GatewayRequest, PeerMessage};

use crate::cluster::{MICROSECOND, MILLISECOND, SECOND};
use crate::scenario::Fault;

use super::super::agenda::Act;
use super::super::{Run, group_of};

impl Run<'_> {
    pub(super) fn disturb_node(&mut self, fault: &Fault) -> Option<()> {
        match *fault {
            Fault::Crash { node, down_us } => {
                let node = self.running(node)?;
                return self.crash(node, down_us * MICROSECOND);
            }
            Fault::Kill { node, down_us } => {
                let node = self.running(node)?;
                return self.kill(node, down_us * MICROSECOND);
            }
            Fault::PowerCut { down_us, spread_us } => return self.power_cut(down_us, spread_us),
            Fault::Pause { node, for_us } => {
                let now = self.cluster.now;
                let node = self
                    .running(node)
                    .filter(|node| self.cluster.nodes[*node].paused_until <= now)?;
                self.cluster.pause(node, for_us * MICROSECOND);
                self.after_us(for_us, Act::Resume(node));
            }
            Fault::HandOver { node, down_us } => {
                let node = self.running(node)?;
                self.cluster.start_command(node, Command::HandOver);
                self.draining.insert(node);
                let life = self.cluster.nodes[node].life;
                let at = self.cluster.now + self.rng.between(MILLISECOND, 2 * SECOND);
                let down = down_us * MICROSECOND;
                self.agenda.plan(at, Act::Crash { node, life, down });
            }
            Fault::ClockJump { node, by_us } => {
                let node = self.resolve(node)?;
                self.cluster.nodes[node].clock.offset += by_us * MICROSECOND;
            }
            Fault::ClockRate { node, ppm, for_us } => {
                let node = self.resolve(node)?;
                self.set_clock_rate(node, ppm);
                self.after_us(for_us, Act::ClockRate(node, self.scenario.drift_ppm[node]));
            }
            _ => return None,
        }
        Some(())
    }

    pub(super) fn crash(&mut self, node: usize, down: u64) -> Option<()> {
        if !self.cluster.nodes[node].is_running() || self.must_keep_power(node) {
            return None;
        }
        let life = self.cluster.nodes[node].life;
        self.cluster.crash(node);
        self.after_death(node, life, down);
        Some(())
    }

    /// Crashes a node if it still is in the life in which that was planned.
    pub(in super::super) fn crash_life(&mut self, node: usize, life: u64, down: u64) {
        if self.cluster.nodes[node].life == life {
            self.crash(node, down);
        }
    }

    fn kill(&mut self, node: usize, down: u64) -> Option<()> {
        if self.must_keep_power(node) {
            return None;
        }
        let life = self.cluster.nodes[node].life;
        self.cluster.kill(node);
        self.after_death(node, life, down);
        Some(())
    }

    pub(super) fn after_death(&mut self, node: usize, life: u64, down: u64) {
        self.bury(node, life);
        self.draining.remove(&node);
        if self.failing.remove(&node).is_some() {
            self.cluster.nodes[node].disk.fail_next_write = false;
        }
        self.agenda.plan(self.cluster.now + down, Act::Start(node));
    }

    fn power_cut(&mut self, down_us: u64, spread_us: u64) -> Option<()> {
        let mut cut = None;
        for node in 0..self.scenario.nodes {
            let down = (down_us + self.rng.below(spread_us + 1)) * MICROSECOND;
            cut = self.crash(node, down).or(cut);
        }
        cut
    }

    /// Starts a node that is down, unless its disk is gone.
    pub(in super::super) fn start(&mut self, node: usize) {
        if !self.cluster.nodes[node].is_running() && !self.lost.contains(&node) {
            self.cluster
                .trace
                .say(self.cluster.now, format_args!("=== n{node} starts"));
            self.cluster.nodes[node].disk.has_failed_a_read = false;
            self.cluster.nodes[node].disk.misreads_percent = 0;
            self.cluster.start(node);
        }
    }

    pub(in super::super) fn resume(&mut self, node: usize) {
        if self.cluster.nodes[node].is_running() && self.cluster.nodes[node].paused_until <= self.cluster.now {
            self.cluster.resume(node);
        }
    }

    pub(in super::super) fn set_clock_rate(&mut self, node: usize, ppm: i64) {
        self.cluster.nodes[node].clock.set_rate(self.cluster.now, ppm);
    }

    /// Asks the leader, as a gateway does, to hand over to a member.
    pub(super) fn transfer(&mut self, volume: usize, to: usize) -> Option<()> {
        let group = group_of(volume);
        let leader = self.cluster.leader(group).filter(|leader| *leader != to)?;
        let from = self.cluster.nodes[to].config.disk;
        let spec = &self.users[volume].load.spec;
        let member = spec.members.iter().find(|member| member.disk == from)?;
        let request = GatewayRequest {
            group,
            request: 0,
            revision: LogIndex(0),
            op: GatewayOp::TransferLeader { to: member.replica },
        };
        let messages = vec![PeerMessage::Request(request)];
        self.cluster.deliver(leader, Event::Peer { from, messages });
        Some(())
    }
}
