//! Faults that wait for their moment: for a vote, for an append, for a leader that has handed over. The worst moments are
//! microseconds long, and no random time would hit them.

use cairn_api::ids::GroupId;
use cairn_core::event::{Command, IoId};
use cairn_history::content::SECTOR;

use crate::cluster::{MICROSECOND, MILLISECOND};
use crate::scenario::{Direction, Fault, Kind, Target};

use super::super::agenda::Act;
use super::super::{Run, group_of};

/// Those that are laid, at most one of a kind.
#[derive(Default)]
pub(in super::super) struct Ambushes {
    vote: Option<Vote>,
    append: Option<Append>,
    transfer: Option<Transfer>,
    late: Option<Write>,
    torn: Option<Write>,
    checkpoint: Option<Checkpoint>,
}

/// Waits for so many writes of a checkpoint, or of moved blocks.
struct Checkpoint {
    node: usize,
    writes: u64,
    down: u64,
}

/// Waits for a vote to be granted.
struct Vote {
    until: u64,
    down: u64,
    cut: u64,
}

/// Waits for the leader of a volume to send entries.
struct Append {
    group: GroupId,
    until: u64,
    down: u64,
}

/// Waits for the leader of a volume to tell its successor.
struct Transfer {
    group: GroupId,
    until: u64,
    cut: u64,
}

/// Waits for a node to write something of a kind.
struct Write {
    node: usize,
    until: u64,
    down: u64,
}

impl Run<'_> {
    /// Counted when somebody walks into it, not here.
    pub(super) fn lay_ambush(&mut self, fault: &Fault) -> Option<()> {
        let now = self.cluster.now;
        match *fault {
            Fault::VoteAmbush {
                for_us,
                down_us,
                cut_us,
            } => {
                self.ambushes.vote = Some(Vote {
                    until: now + for_us * MICROSECOND,
                    down: down_us * MICROSECOND,
                    cut: cut_us * MICROSECOND,
                });
            }
            Fault::LeaderAmbush {
                volume,
                for_us,
                down_us,
            } => {
                self.ambushes.append = Some(Append {
                    group: group_of(volume),
                    until: now + for_us * MICROSECOND,
                    down: down_us * MICROSECOND,
                });
            }
            Fault::LateAmbush { node, for_us, down_us } => {
                self.ambushes.late = Some(self.write_ambush(node, for_us, down_us)?);
            }
            Fault::TornAmbush { node, for_us, down_us } => {
                self.ambushes.torn = Some(self.write_ambush(node, for_us, down_us)?);
            }
            Fault::CheckpointAmbush { node, writes, down_us } => {
                let node = self.running(node)?;
                if self.cluster.nodes[node].recovered.is_some() {
                    self.cluster.start_command(node, Command::Checkpoint);
                }
                self.ambushes.checkpoint = Some(Checkpoint {
                    node,
                    writes,
                    down: down_us * MICROSECOND,
                });
            }
            Fault::TransferTrap { volume, to, for_us } => {
                self.hand_over(volume, to)?;
                self.ambushes.transfer = Some(Transfer {
                    group: group_of(volume),
                    until: now + 500 * MILLISECOND,
                    cut: for_us * MICROSECOND,
                });
            }
            Fault::RestartTrap {
                volume,
                apart_us,
                for_us,
                down_us,
            } => return self.restart_trap(volume, (apart_us, for_us, down_us)),
            Fault::LeaseTrap { volume, for_us } => return self.lease_trap(volume, for_us),
            Fault::ResendTrap { volume, delay_us } => return self.resend_trap(volume, delay_us),
            _ => {}
        }
        None
    }

    fn write_ambush(&self, node: Target, for_us: u64, down_us: u64) -> Option<Write> {
        Some(Write {
            node: self.running(node)?,
            until: self.cluster.now + for_us * MICROSECOND,
            down: down_us * MICROSECOND,
        })
    }

    /// Cuts the leader off from all but one follower, and a while later from that one too, which is restarted at the same
    /// moment. Those that the leader lost first have long been ready to elect another; only the restarted one holds them
    /// back, as long as the leader may count on it.
    fn restart_trap(&mut self, volume: usize, (apart_us, for_us, down_us): (u64, u64, u64)) -> Option<()> {
        let leader = self.cluster.leader(group_of(volume))?;
        let others = self.members(volume).into_iter().filter(|member| *member != leader);
        let others: Vec<usize> = others.collect();
        let kept = *others.get(self.rng.pick(others.len().max(1)))?;
        let node = Some(kept).filter(|node| self.cluster.nodes[*node].is_running())?;
        let length = (apart_us + for_us) * MICROSECOND;
        for other in (0..self.scenario.nodes).filter(|other| *other != leader && *other != kept) {
            self.cut(leader, other, length);
            self.cut(other, leader, length);
        }
        let life = self.cluster.nodes[node].life;
        let down = down_us * MICROSECOND;
        let cut = for_us * MICROSECOND;
        self.after_us(
            apart_us,
            Act::Isolate {
                node: leader,
                direction: Direction::Both,
                cut,
            },
        );
        self.after_us(apart_us, Act::Crash { node, life, down });
        self.after_us(apart_us, Act::Away { volume, node: leader });
        Some(())
    }

    /// The leader hands over to the node that uses the volume if that has a replica, or to whomever it likes, as before a
    /// restart.
    fn hand_over(&mut self, volume: usize, to: usize) -> Option<()> {
        let leader = self.cluster.leader(group_of(volume))?;
        let user = self.users[volume].slots.first().map_or(to, |slot| slot.node);
        if user != leader && self.members(volume).contains(&user) {
            return self.transfer(volume, user);
        }
        let node = Target::Node(leader);
        let down_us = self.rng.between(1_000, 500_000);
        self.disturb_node(&Fault::HandOver { node, down_us })
    }

    /// Answers to the leader take longer by and by, so that it never misses them for an election time-out; then nothing that
    /// it says is heard any more.
    fn lease_trap(&mut self, volume: usize, for_us: u64) -> Option<()> {
        const STEP_US: u64 = 600_000;
        const STEPS: u64 = 4;
        let node = self.cluster.leader(group_of(volume))?;
        for step in 1..=STEPS {
            let by = step * STEP_US * MICROSECOND;
            self.after_us((step - 1) * (STEP_US + 100_000), Act::Delay { node, by });
        }
        // Long enough for what was on its way with the last delay but one.
        let mute_us = STEPS * (STEP_US + 100_000) + STEP_US;
        let cut = for_us * MICROSECOND;
        self.after_us(
            mute_us,
            Act::Isolate {
                node,
                direction: Direction::Out,
                cut,
            },
        );
        self.after_us(mute_us, Act::Away { volume, node });
        for other in (0..self.scenario.nodes).filter(|other| *other != node) {
            self.after_us(mute_us + for_us, Act::Unclog(other, node));
        }
        Some(())
    }

    /// A user asks for much; what is on its way to the leader piles up, and then the connection breaks.
    fn resend_trap(&mut self, volume: usize, delay_us: u64) -> Option<()> {
        let leader = self.cluster.leader(group_of(volume))?;
        let user = self.users[volume].slots.first()?.node;
        if user == leader {
            return None;
        }
        let delay = delay_us * MICROSECOND;
        self.users[volume].is_bursting = true;
        self.after_us(delay_us + 1_500_000, Act::Calm(volume));
        self.cluster.clog(user, leader, Some((delay, delay)));
        self.after_us(delay_us, Act::BreakLink(user, leader));
        self.after_us(delay_us, Act::Unclog(user, leader));
        Some(())
    }

    /// A vote was granted: the voter loses power, and whom it voted for is cut off.
    pub(in super::super) fn on_vote(&mut self, voter: usize, candidate: usize) {
        let now = self.cluster.now;
        let Some(ambush) = self.ambushes.vote.take_if(|_| voter != candidate) else {
            return;
        };
        if now > ambush.until {
            return;
        }
        self.count(Kind::VoteAmbush);
        let life = self.cluster.nodes[voter].life;
        // About as long as the vote needs to arrive.
        let at = now + self.rng.below(MILLISECOND);
        let crash = Act::Crash {
            node: voter,
            life,
            down: ambush.down,
        };
        self.agenda.plan(at, crash);
        let cut = ambush.cut;
        self.agenda.plan(
            at,
            Act::Isolate {
                node: candidate,
                direction: Direction::Both,
                cut,
            },
        );
    }

    /// A leader has sent entries: it loses power while they are on their way.
    pub(in super::super) fn on_append(&mut self, leader: usize, group: GroupId) {
        let now = self.cluster.now;
        let Some(ambush) = self.ambushes.append.take_if(|ambush| ambush.group == group) else {
            return;
        };
        if now > ambush.until {
            return;
        }
        self.count(Kind::LeaderAmbush);
        let life = self.cluster.nodes[leader].life;
        let at = now + self.rng.below(MILLISECOND);
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

    /// A leader has told its successor to campaign: nothing reaches it any more, so that it does not hear of its successor.
    pub(in super::super) fn on_handed_over(&mut self, leader: usize, group: GroupId) {
        let now = self.cluster.now;
        let Some(ambush) = self.ambushes.transfer.take_if(|ambush| ambush.group == group) else {
            return;
        };
        if now <= ambush.until {
            self.count(Kind::TransferTrap);
            self.partition(&[leader], Direction::In, ambush.cut);
            let volume = usize::try_from(group.get() - GroupId::FIRST_VOLUME.get()).unwrap_or_default();
            self.agenda.plan(now, Act::Away { volume, node: leader });
        }
    }
    /// A node has begun a segment: it loses power, and its disk keeps to itself what was in flight.
    pub(in super::super) fn on_segment_begun(&mut self, node: usize) {
        let now = self.cluster.now;
        if self.must_keep_power(node) {
            return;
        }
        let Some(ambush) = self.ambushes.late.take_if(|ambush| ambush.node == node) else {
            return;
        };
        if now <= ambush.until {
            self.cluster.nodes[node].disk.hold_back();
            self.crash(node, ambush.down);
        }
    }

    /// A node writes a frame with a long header: it loses power, and the header is torn.
    pub(in super::super) fn on_long_header(&mut self, node: usize, io: IoId, header_at: u64) {
        if self.must_keep_power(node) {
            return;
        }
        let Some(ambush) = self.ambushes.torn.take_if(|ambush| ambush.node == node) else {
            return;
        };
        if self.cluster.now <= ambush.until && self.cluster.nodes[node].is_running() {
            self.cluster.nodes[node].disk.cut_short(io, header_at + SECTOR as u64);
            self.count(Kind::TornAmbush);
            self.crash(node, ambush.down);
        }
    }

    /// A node writes something of a checkpoint, or moved blocks: it loses power before that is durable, or a little later.
    pub(in super::super) fn on_space_written(&mut self, node: usize) {
        let Some(ambush) = self.ambushes.checkpoint.as_mut().filter(|ambush| ambush.node == node) else {
            return;
        };
        ambush.writes -= 1;
        if ambush.writes > 0 || self.must_keep_power(node) {
            return;
        }
        let Some(ambush) = self.ambushes.checkpoint.take() else {
            return;
        };
        self.count(Kind::CheckpointAmbush);
        let life = self.cluster.nodes[node].life;
        let at = self.cluster.now + self.rng.below(2 * MILLISECOND);
        let down = ambush.down;
        self.agenda.plan(at, Act::Crash { node, life, down });
    }

    /// A node serves: what its disk has held back since before gets there now, and soon nobody will remember.
    pub(in super::super) fn on_recovered(&mut self, node: usize) {
        let has_landed = self.cluster.nodes[node].disk.land();
        if has_landed && !self.is_healing {
            self.count(Kind::LateAmbush);
            let life = self.cluster.nodes[node].life;
            let at = self.cluster.now + self.rng.below(MILLISECOND);
            let down = self.rng.between(MILLISECOND, 100 * MILLISECOND);
            self.agenda.plan(at, Act::Crash { node, life, down });
        }
    }
}
