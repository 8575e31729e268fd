//! The meta group beside the volumes: commands of any length are proposed to whoever leads it, and whoever applies them asks
//! for all of them again after each restart. They must come in one order everywhere, and none that was acknowledged may be missing.
//!
//! It is there in runs in which no disk is lost, so that its members never have to be replaced.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use cairn_api::ids::{GroupId, LogIndex};
use cairn_core::event::{Command, CommandId, CommandReply, GroupSpec};
use cairn_history::rng::Rng;

use crate::cluster::{MILLISECOND, SECOND};
use crate::scenario::Scenario;

use super::Run;
use super::agenda::Act;

/// The longest command: some come with several blocks of payload, most with one.
const COMMAND_BYTES_MAX: u64 = 9_000;
/// How long after everything has healed a command may take.
const COMMITS_WITHIN: Duration = Duration::from_secs(20);

/// What the run knows of the meta group.
#[derive(Default)]
pub(super) struct Meta {
    /// None where there is no meta group.
    spec: Option<GroupSpec>,
    /// Commands without a reply: by the node that was asked, and the request.
    asked: BTreeMap<(usize, CommandId), Bytes>,
    /// Commands that were said to be committed.
    committed: BTreeMap<LogIndex, Bytes>,
    /// What anybody has applied.
    applied: BTreeMap<LogIndex, Bytes>,
}

/// The nodes with a replica of it; none in a run that may lose disks.
fn members(scenario: &Scenario) -> Option<Vec<usize>> {
    let may_lose = scenario.faults.iter().any(|planned| planned.fault.kind().is_damage());
    if may_lose {
        return None;
    }
    let rng = &mut Rng::new(scenario.seed ^ 0x3E7A_6209);
    let first = rng.pick(scenario.nodes);
    let count = if scenario.nodes == 5 && rng.chance(50) { 5 } else { 3 };
    Some((first..first + count).map(|node| node % scenario.nodes).collect())
}

impl Run<'_> {
    /// Makes the meta group.
    pub(super) fn create_meta(&mut self) {
        let Some(members) = members(self.scenario) else { return };
        let spec = self.cluster.spec_on(GroupId::META, 0, &members);
        self.cluster.create(&spec);
        self.meta.spec = Some(spec);
        members.iter().for_each(|node| self.start_applying(*node));
        self.agenda.plan(self.cluster.now, Act::Propose);
    }

    /// A node serves: it is told all commands from the first on.
    pub(super) fn start_applying(&mut self, node: usize) {
        let disk = self.cluster.nodes[node].config.disk;
        let spec = self.meta.spec.iter();
        if spec.flat_map(|spec| &spec.members).any(|member| member.disk == disk) {
            let command = Command::StartApply {
                group: GroupId::META,
                applied: LogIndex(0),
            };
            self.cluster.start_command(node, command);
        }
    }

    /// Somebody who leads is asked for the next command, and what has come of the others is looked at.
    pub(super) fn propose(&mut self) {
        self.check_commands();
        let leaders: Vec<usize> = (0..self.scenario.nodes)
            .filter(|node| self.cluster.nodes[*node].leads(GroupId::META))
            .collect();
        if let Some(leader) = leaders.get(self.rng.pick(leaders.len().max(1))) {
            self.ask_for_command(*leader);
        }
        let at = self.cluster.now + self.rng.between(20 * MILLISECOND, SECOND);
        self.agenda.plan(at, Act::Propose);
    }

    fn ask_for_command(&mut self, leader: usize) {
        let length = self.rng.between(1, COMMAND_BYTES_MAX);
        let data: Bytes = (0..length).map(|_| self.rng.draw().to_le_bytes()[0]).collect();
        let group = GroupId::META;
        let command = Command::Propose {
            group,
            data: data.clone(),
        };
        let id = self.cluster.start_command(leader, command);
        self.meta.asked.insert((leader, id), data);
    }

    /// What was committed stands where it was said to, and everybody applies the same.
    fn check_commands(&mut self) {
        let nodes = &mut self.cluster.nodes;
        let meta = &mut self.meta;
        meta.asked.retain(|(node, id), data| {
            let Some(reply) = nodes[*node].command_replies.remove(id) else {
                return true;
            };
            if let Ok(CommandReply::Committed(index)) = reply {
                let before = meta.committed.insert(index, data.clone());
                assert!(before.is_none(), "[equal] two commands were committed as {index}");
            }
            false
        });
        for (number, node) in nodes.iter().enumerate() {
            let mut last = LogIndex(0);
            for (_, index, data) in node.applied.iter().filter(|(group, ..)| *group == GroupId::META) {
                assert!(
                    *index > last,
                    "[equal] node {number} applies command {index} after {last}"
                );
                last = *index;
                let known = meta.applied.entry(*index).or_insert_with(|| data.clone());
                assert_eq!(known, data, "[equal] node {number} applies another command {index}");
            }
        }
        for (index, data) in &meta.committed {
            let applied = meta.applied.get(index);
            assert!(
                applied.is_none_or(|applied| applied == data),
                "[history] command {index} was acknowledged, and applied is something else"
            );
        }
    }

    /// Everything has healed: another command is committed, and every member applies all that there were.
    pub(super) fn compare_meta(&mut self) {
        let Some(spec) = self.meta.spec.clone() else { return };
        let before = self.meta.committed.len();
        let is_committed = |run: &mut Self| {
            run.check_commands();
            let leader = run.cluster.leader(GroupId::META);
            if let Some(leader) = leader.filter(|_| run.meta.asked.is_empty()) {
                run.ask_for_command(leader);
            }
            run.meta.committed.len() > before
        };
        // What was asked of nodes that have died since has no reply.
        self.meta.asked.clear();
        assert!(
            self.run_until(COMMITS_WITHIN, is_committed),
            "[liveness] the meta group commits nothing within {COMMITS_WITHIN:?} of the healing of everything"
        );
        let members: Vec<usize> = spec
            .members
            .iter()
            .map(|member| self.cluster.number_of(member.disk))
            .collect();
        let is_level = |run: &mut Self| {
            run.check_commands();
            let all = run.meta.applied.len();
            let applied = |node: &usize| run.cluster.nodes[*node].applied.len();
            members.iter().all(|node| applied(node) == all)
        };
        let levels = self.run_until(COMMITS_WITHIN, is_level);
        assert!(
            levels,
            "[liveness] the members of the meta group have not applied all {} commands within {COMMITS_WITHIN:?} of the \
             healing of everything",
            self.meta.applied.len()
        );
        for index in self.meta.committed.keys() {
            assert!(
                self.meta.applied.contains_key(index),
                "[history] command {index} was acknowledged, and nobody applies it"
            );
        }
    }
}
