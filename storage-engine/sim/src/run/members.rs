//! The control plane's part in a change of members: one replica after the other is replaced, step by step, by whatever
//! leader there is, no matter what else happens.
//!
//! A volume's members as its users know them ([`Run::members`]) change when the new replica is a voter. Until then a
//! majority of any configuration on the way is found among those who stay and, where one voter more counts for a while, the one
//! who leaves ([`Run::needed`]).

use std::collections::BTreeSet;
use std::time::Duration;

use cairn_api::ids::ReplicaId;
use cairn_core::event::{Command, CommandError, CommandId, CommandReply, GroupStatus, Member, MemberChange};
use cairn_core::membership::Membership;

use crate::cluster::{MILLISECOND, SECOND, disk_id, node_id};
use crate::scenario::Kind;

use super::agenda::Act;
use super::{Run, group_of};

/// How long after everything has healed the replacements under way, and those of all lost disks, must be done.
const REPLACED_WITHIN: Duration = Duration::from_secs(60);
/// A command that has no answer for so long is given again.
const ANSWERS_WITHIN: u64 = 5 * SECOND;
/// Entries that a learner may be behind when its predecessor goes.
const BEHIND_MAX: u64 = 32;
/// The smallest disks on which a second copy of every log has room.
pub(super) const ROOMY_DISK_MIB: u64 = 256;

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Create,
    Add,
    CatchUp,
    Remove,
    Promote,
    /// The removed replica is dropped as soon as a majority knows that it is none any more.
    Retire,
}

struct Asked {
    node: usize,
    life: u64,
    id: CommandId,
    since: u64,
}

/// A replica on its way out and its successor.
pub(super) struct Replacement {
    old: Member,
    new: Member,
    old_node: usize,
    new_node: usize,
    /// The new one is promoted before the old one goes: as a control plane does it with one that is alive, and must with the
    /// only one.
    promotes_first: bool,
    step: Step,
    asked: Option<Asked>,
    /// Voters that have settled the removal.
    aware: BTreeSet<usize>,
    /// The members after it.
    present: Option<Membership>,
    /// The last answer that was none.
    refusal: String,
}

impl Run<'_> {
    /// The nodes that hold a volume's replicas.
    pub(super) fn members(&self, volume: usize) -> Vec<usize> {
        let members = self.users[volume].load.spec.members.iter();
        members.map(|member| self.cluster.number_of(member.disk)).collect()
    }

    /// Of which nodes how many are a majority of a volume, whatever step a change of its members is at.
    pub(super) fn needed(&self, volume: usize) -> (Vec<usize>, usize) {
        let mut of = self.members(volume);
        let majority = of.len() / 2 + 1;
        match &self.replacements[volume] {
            Some(change) if change.step != Step::Retire && of.len() == 1 => (vec![change.old_node, change.new_node], 2),
            // There may be one voter more.
            Some(change) if change.step != Step::Retire && change.promotes_first => (of, majority + 1),
            Some(change) if change.step != Step::Retire => {
                of.retain(|node| *node != change.old_node);
                (of, majority)
            }
            _ => (of, majority),
        }
    }

    /// Copies on disks that have lied are not expected to be there.
    pub(super) fn count_liars(&mut self) {
        for volume in 0..self.users.len() {
            let liars = self
                .members(volume)
                .into_iter()
                .filter(|node| self.liars.contains(node));
            self.users[volume].load.liars = liars.count();
        }
    }

    /// A disk is gone for good: what was on it is replaced sooner or later.
    pub(super) fn lose(&mut self, node: usize) {
        self.lost.insert(node);
        for volume in 0..self.users.len() {
            if self.members(volume).contains(&node) {
                let at = self.cluster.now + self.rng.between(100 * MILLISECOND, 8 * SECOND);
                self.agenda.plan(at, Act::Replace { volume, node });
            }
        }
    }

    /// Begins to replace a volume's replica on a node, or one that is damaged, by one on `to` or the next node that has
    /// none.
    pub(super) fn replace(&mut self, volume: usize, node: usize, to: usize) -> Option<()> {
        let members = self.members(volume);
        let damaged = members.iter().copied().find(|member| self.atlas.is_damaged(*member));
        let old_node = damaged.or_else(|| members.contains(&node).then_some(node))?;
        if self.replacements[volume].is_some() || self.scenario.disk_mib < ROOMY_DISK_MIB {
            return None;
        }
        let nodes = self.scenario.nodes;
        let new_node = (0..nodes)
            .map(|step| (to + step) % nodes)
            .find(|node| !members.contains(node) && !self.lost.contains(node) && !self.atlas.is_damaged(*node))?;
        if !self.atlas.begin_replacement(volume, old_node, new_node) {
            return None;
        }
        let promotes_first = members.len() == 1 || (!self.lost.contains(&old_node) && self.rng.chance(50));
        let users = &mut self.users[volume];
        users.replica_last += 1;
        let new = Member {
            replica: ReplicaId(users.replica_last),
            node: node_id(new_node),
            disk: disk_id(new_node),
        };
        let old = *users
            .load
            .spec
            .members
            .iter()
            .find(|member| member.disk == disk_id(old_node))?;
        self.cluster.trace.say(
            self.cluster.now,
            format_args!(
                "=== replica {} of volume {volume} on n{new_node} is to replace {} on n{old_node}",
                new.replica, old.replica
            ),
        );
        self.replacements[volume] = Some(Replacement {
            old,
            new,
            old_node,
            new_node,
            promotes_first,
            step: Step::Create,
            asked: None,
            aware: BTreeSet::new(),
            present: None,
            refusal: String::new(),
        });
        self.agenda.plan(self.cluster.now, Act::Administer(volume));
        Some(())
    }

    /// Takes the replacement of a replica a step further, if that is possible now.
    pub(super) fn administer(&mut self, volume: usize) {
        let Some(mut change) = self.replacements[volume].take() else {
            return;
        };
        let is_waiting = self.take_answer(volume, &mut change);
        let is_over = change.step == Step::Retire && self.lost.contains(&change.old_node);
        if is_over || change.step == Step::Retire && change.asked.is_none() && self.is_dropped(volume, &change) {
            self.count(Kind::Replace);
            self.tell_members(volume, change.present);
            return;
        }
        if !is_waiting && let Some((node, command)) = self.next_command(volume, &change) {
            let life = self.cluster.nodes[node].life;
            let id = self.cluster.start_command(node, command);
            let since = self.cluster.now;
            change.asked = Some(Asked { node, life, id, since });
        }
        self.replacements[volume] = Some(change);
        let at = self.cluster.now + self.rng.between(5 * MILLISECOND, 150 * MILLISECOND);
        self.agenda.plan(at, Act::Administer(volume));
    }

    /// Gateways that asked none of those who stay meanwhile know only replicas that are gone: the control plane tells them.
    fn tell_members(&mut self, volume: usize, present: Option<Membership>) {
        let Some(present) = present else { return };
        for node in 0..self.scenario.nodes {
            if self.cluster.nodes[node].recovered.is_some() {
                let command = Command::UpdateMembers {
                    group: group_of(volume),
                    revision: present.revision,
                    voters: present.voters.clone(),
                };
                self.cluster.start_command(node, command);
            }
        }
    }

    fn is_dropped(&self, volume: usize, change: &Replacement) -> bool {
        let node = &self.cluster.nodes[change.old_node];
        let core = node.core.as_ref().filter(|_| node.recovered.is_some());
        core.is_some_and(|core| core.map(group_of(volume)).is_none())
    }

    /// Takes the answer that has come; true while one is waited for.
    fn take_answer(&mut self, volume: usize, change: &mut Replacement) -> bool {
        let Some(asked) = &change.asked else { return false };
        let node = &mut self.cluster.nodes[asked.node];
        let Some(answer) = node.command_replies.remove(&asked.id) else {
            let is_waiting = node.life == asked.life && self.cluster.now < asked.since + ANSWERS_WITHIN;
            if !is_waiting {
                change.asked = None;
            }
            return is_waiting;
        };
        let node = asked.node;
        change.asked = None;
        match answer {
            Ok(reply) => self.on_answer(volume, change, node, reply),
            Err(CommandError::UnknownGroup(_)) if change.step == Step::Retire => {}
            Err(error) => change.refusal = format!("{:?}: {error}", change.step),
        }
        false
    }

    fn on_answer(&mut self, volume: usize, change: &mut Replacement, node: usize, reply: CommandReply) {
        let promotes_first = change.promotes_first;
        let status = |reply: CommandReply| -> Option<GroupStatus> {
            let CommandReply::Groups(groups) = reply else {
                return None;
            };
            groups.into_iter().find(|status| status.spec.group == group_of(volume))
        };
        change.step = match change.step {
            Step::Create => Step::Add,
            Step::Add => Step::CatchUp,
            Step::CatchUp => {
                let has_caught_up = status(reply).is_some_and(|status| {
                    let new = status
                        .matched
                        .iter()
                        .find(|(replica, _)| *replica == change.new.replica);
                    new.is_some_and(|(_, matched)| matched.get() + BEHIND_MAX >= status.last.get())
                });
                match has_caught_up {
                    false => Step::CatchUp,
                    true if promotes_first => Step::Promote,
                    true => Step::Remove,
                }
            }
            Step::Promote if promotes_first => Step::Remove,
            Step::Remove if !promotes_first => Step::Promote,
            Step::Promote | Step::Remove => {
                self.replaced(volume, change);
                Step::Retire
            }
            Step::Retire => {
                let is_aware = |status: &GroupStatus| {
                    let members = &status.membership;
                    members.was_removed(change.old.replica) && status.settled >= members.revision
                };
                if let Some(status) = status(reply).filter(is_aware) {
                    change.aware.insert(node);
                    change.present = Some(status.membership);
                }
                Step::Retire
            }
        };
    }

    /// The new replica is a voter and the old one is none.
    fn replaced(&mut self, volume: usize, change: &Replacement) {
        let members = &mut self.users[volume].load.spec.members;
        members.retain(|member| *member != change.old);
        members.push(change.new);
        self.atlas.end_replacement(volume);
        self.count_liars();
        self.cluster.trace.say(
            self.cluster.now,
            format_args!(
                "=== volume {volume}: replica {} has replaced {}",
                change.new.replica, change.old.replica
            ),
        );
    }

    /// What is to be asked next, of whom; `None` if nobody can be asked now.
    fn next_command(&mut self, volume: usize, change: &Replacement) -> Option<(usize, Command)> {
        let group = group_of(volume);
        let recovered = |run: &Self, node: usize| run.cluster.nodes[node].recovered.is_some();
        let creation = || Command::CreateGroup {
            spec: self.users[volume].created.clone(),
            replica: change.new.replica,
        };
        let has_replica = |core: &cairn_core::Core| core.map(group).is_some();
        if !self.cluster.nodes[change.new_node]
            .core
            .as_ref()
            .is_some_and(has_replica)
            && change.step != Step::Retire
        {
            // What was asked for may have been lost with the power.
            return recovered(self, change.new_node).then(|| (change.new_node, creation()));
        }
        let to_leader = |run: &mut Self, command| {
            let claimants = (0..run.scenario.nodes).filter(|node| run.cluster.nodes[*node].leads(group));
            let claimants: Vec<usize> = claimants.collect();
            let at = run.rng.pick(claimants.len().max(1));
            Some((*claimants.get(at)?, command))
        };
        let change_by = |change| Command::ChangeMembers { group, change };
        match change.step {
            Step::Create => Some((change.new_node, creation())),
            Step::Add => to_leader(self, change_by(MemberChange::AddLearner(change.new))),
            Step::CatchUp => to_leader(self, Command::Inspect),
            Step::Remove => to_leader(self, change_by(MemberChange::Remove(change.old.replica))),
            Step::Promote => to_leader(self, change_by(MemberChange::Promote(change.new.replica))),
            Step::Retire => {
                let members = self.members(volume);
                let unaware: Vec<usize> = members
                    .iter()
                    .copied()
                    .filter(|node| !change.aware.contains(node) && recovered(self, *node))
                    .collect();
                if change.aware.len() > members.len() / 2 {
                    let old = change.old_node;
                    return recovered(self, old).then_some((old, Command::DropGroup(group)));
                }
                let at = self.rng.pick(unaware.len().max(1));
                Some((*unaware.get(at)?, Command::Inspect))
            }
        }
    }

    /// Everything has healed: every replacement comes to an end, and every lost disk gets a successor where there is one.
    pub(super) fn finish_replacements(&mut self) {
        for volume in 0..self.users.len() {
            let lost = self.members(volume).into_iter().find(|node| self.lost.contains(node));
            if let Some(node) = lost {
                self.replace(volume, node, node);
            }
        }
        let done = self.run_until(REPLACED_WITHIN, |run| run.replacements.iter().all(Option::is_none));
        let under_way: Vec<String> = self
            .replacements
            .iter()
            .flatten()
            .map(|change| {
                format!(
                    "{} by {} at {:?}, last refusal: {}",
                    change.old.replica, change.new.replica, change.step, change.refusal
                )
            })
            .collect();
        assert!(
            done,
            "[liveness] replicas are not replaced within {REPLACED_WITHIN:?} of the healing of everything: {under_way:?}"
        );
    }
}
