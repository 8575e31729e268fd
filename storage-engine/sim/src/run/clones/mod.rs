//! Clones of the volumes: made of a snapshot, used and snapshotted while they become whole, and cloned again, no matter what
//! else happens.
//!
//! A *family* is a snapshot of a volume and the clones that stand on it: one of the snapshot, and perhaps one of a snapshot of that
//! clone. The control plane keeps the snapshot until all of them are whole; then it is deleted like any other. What a clone
//! shows is held against a model of its own ([`model`]), which begins as the snapshot, or as the snapshot of the first clone.

mod model;
mod user;

use std::collections::BTreeMap;
use std::time::Duration;

use cairn_api::ids::{GroupId, SnapshotId};
use cairn_core::event::{Base, Command, CommandReply, GroupSpec};
use cairn_history::rng::Rng;

use crate::cluster::{MILLISECOND, SECOND};

use self::model::Model;
use self::user::User;
use super::agenda::Act;
use super::snapshots::{Asked, Kept};
use super::{Run, group_of};

/// A command that has no answer for so long is given again.
const ANSWERS_WITHIN: u64 = 5 * SECOND;
/// How long after everything has healed all clones must be whole.
const WHOLE_WITHIN: Duration = Duration::from_secs(150);
/// Clones of one family.
const CLONES_MAX: usize = 2;
/// Groups of a volume's clones are so far from it.
const GROUPS_APART: u64 = 1000;

/// A clone.
struct Clone {
    spec: GroupSpec,
    model: Model,
    /// Nodes that have made their replicas, and those that were asked to.
    made: Vec<usize>,
    asked: BTreeMap<usize, Asked>,
    user: User,
    /// Snapshots of it, with what they show.
    snapshots: Vec<(SnapshotId, Model)>,
    wanted: Option<(SnapshotId, Option<Asked>)>,
}

/// See the module.
struct Family {
    kept: Kept,
    clones: Vec<Clone>,
    is_whole: bool,
}

/// The clones of one volume.
pub(super) struct Clones {
    rng: Rng,
    family: Option<Family>,
    stamp_last: u64,
}

impl Clones {
    pub(super) fn new(seed: u64, volume: usize) -> Self {
        Self {
            rng: Rng::new(seed ^ 0xC10E ^ (volume as u64) << 32),
            family: None,
            stamp_last: super::users::stamps_of(volume).end - (1 << 35),
        }
    }

    /// The snapshot that clones stand on, if there is one that must stay.
    pub(super) fn pinned(&self) -> Option<SnapshotId> {
        let standing = self.family.as_ref().filter(|family| !family.is_whole);
        standing.map(|family| family.kept.id)
    }

    fn is_idle(&self) -> bool {
        self.family.as_ref().is_none_or(|family| family.is_whole)
    }
}

impl Run<'_> {
    pub(super) fn begin_clones(&mut self, volume: usize) {
        if self.scenario.volumes[volume].clones {
            self.agenda.plan(self.cluster.now + 2 * SECOND, Act::Clones(volume));
        }
    }

    /// Takes whatever goes on with a volume's clones a step further.
    pub(super) fn clones(&mut self, volume: usize) {
        let Some(mut state) = self.clones[volume].take() else {
            return;
        };
        let is_over = self.users[volume].is_over;
        if state.family.is_none() && !is_over && state.rng.chance(20) {
            state.family = self.found(volume, &mut state.rng);
        }
        if let Some(family) = &mut state.family {
            self.extend(volume, family, &mut state.rng);
            for number in 0..family.clones.len() {
                self.make_clone(&mut family.clones[number]);
                let stamp = (!is_over).then_some(&mut state.stamp_last);
                self.use_clone(
                    volume,
                    (&mut family.kept, &mut family.clones[number]),
                    &mut state.rng,
                    stamp,
                );
            }
            self.release(volume, family);
        }
        let goes_on = !(is_over && state.is_idle());
        // Much is to happen while a clone is filled, and little has to afterwards.
        let pause = if state.is_idle() { 200 } else { 12 };
        let at = self.cluster.now + state.rng.between(MILLISECOND, pause * MILLISECOND);
        self.clones[volume] = Some(state);
        if goes_on {
            self.agenda.plan(at, Act::Clones(volume));
        }
    }

    /// Makes a clone of one of the snapshots that there are.
    fn found(&mut self, volume: usize, rng: &mut Rng) -> Option<Family> {
        let kept = self.snapshots[volume].pin(rng)?;
        let blocks = kept.cut.len() / 8;
        let spec = self.clone_spec(volume, 0, group_of(volume), (kept.id, blocks), rng);
        let clone = Clone::new(spec, Model::of_cut(blocks), rng.pick(self.scenario.nodes));
        Some(Family {
            kept,
            clones: vec![clone],
            is_whole: false,
        })
    }

    /// Makes a clone of a snapshot of the last clone, while that is not whole, too.
    fn extend(&self, volume: usize, family: &mut Family, rng: &mut Rng) {
        let number = family.clones.len();
        let is_over = self.users[volume].is_over;
        if is_over || family.is_whole || number == CLONES_MAX || !rng.chance(5) {
            return;
        }
        let Some(last) = family
            .clones
            .last()
            .filter(|last| last.is_made() && !last.snapshots.is_empty())
        else {
            return;
        };
        let (id, model) = &last.snapshots[rng.pick(last.snapshots.len())];
        let (group, model) = (last.spec.group, model.clone());
        let spec = self.clone_spec(volume, number, group, (*id, model.blocks()), rng);
        family
            .clones
            .push(Clone::new(spec, model, rng.pick(self.scenario.nodes)));
    }

    /// A clone on the disks of the volume, sometimes larger.
    fn clone_spec(
        &self,
        volume: usize,
        number: usize,
        of: GroupId,
        (snapshot, blocks): (SnapshotId, u64),
        rng: &mut Rng,
    ) -> GroupSpec {
        let mut spec = self.users[volume].created.clone();
        spec.group = GroupId(group_of(volume).get() + GROUPS_APART * (number as u64 + 1));
        spec.size_blocks = blocks + if rng.chance(30) { 1 + rng.below(700) } else { 0 };
        spec.base = Some(Base {
            group: of,
            snapshot,
            blocks,
        });
        spec
    }

    /// Makes the replicas that are not made yet.
    fn make_clone(&mut self, clone: &mut Clone) {
        self.cluster.share_key(group_of_source(&clone.spec), clone.spec.group);
        for member in clone.spec.members.clone() {
            let node = self.cluster.number_of(member.disk);
            if clone.made.contains(&node) {
                continue;
            }
            let Some(asked) = clone.asked.get(&node) else {
                if self.cluster.nodes[node].is_running() {
                    let spec = clone.spec.clone();
                    let replica = member.replica;
                    clone
                        .asked
                        .insert(node, self.ask_node(node, Command::CreateGroup { spec, replica }));
                }
                continue;
            };
            match self.answer_to(asked) {
                Some(Ok(reply)) => {
                    assert_eq!(reply, CommandReply::Done, "[error] a replica of a clone");
                    clone.made.push(node);
                }
                Some(Err(error)) => panic!("[error] node {node} does not make a replica of a clone: {error}"),
                None if self.is_stale(asked) => drop(clone.asked.remove(&node)),
                None => {}
            }
        }
    }

    /// When all clones are whole, nothing keeps the snapshot any more.
    fn release(&mut self, volume: usize, family: &mut Family) {
        let is_whole = |clone: &Clone| {
            let nodes = self.cluster.nodes.iter();
            let mut maps = nodes.filter_map(|node| node.core.as_ref()?.map(clone.spec.group));
            maps.any(|map| map.base().is_none())
        };
        if !family.is_whole && family.clones.iter().all(is_whole) {
            family.is_whole = true;
            let kept = family.kept.copy();
            self.snapshots[volume].unpin(kept);
        }
    }

    fn ask_node(&mut self, node: usize, command: Command) -> Asked {
        let life = self.cluster.nodes[node].life;
        let id = self.cluster.start_command(node, command);
        let since = self.cluster.now;
        Asked { node, life, id, since }
    }

    fn answer_to(&mut self, asked: &Asked) -> Option<Result<CommandReply, cairn_core::event::CommandError>> {
        self.cluster.nodes[asked.node].command_replies.remove(&asked.id)
    }

    fn is_stale(&self, asked: &Asked) -> bool {
        self.cluster.nodes[asked.node].life != asked.life || self.cluster.now >= asked.since + ANSWERS_WITHIN
    }

    /// Nobody uses clones any more; they go on becoming whole.
    pub(super) fn end_clone_users(&mut self) {
        for volume in 0..self.clones.len() {
            let Some(mut state) = self.clones[volume].take() else {
                continue;
            };
            for clone in state.family.iter_mut().flat_map(|family| &mut family.clones) {
                self.close_user(&mut clone.user, &mut clone.model);
                clone.wanted = None;
            }
            self.clones[volume] = Some(state);
        }
    }

    /// Everything has healed: clones become whole.
    pub(super) fn finish_clones(&mut self) {
        let is_idle = |run: &mut Self| run.clones.iter().flatten().all(Clones::is_idle);
        if !self.run_until(WHOLE_WITHIN, is_idle) {
            let families = self.clones.iter().flatten().filter_map(|state| state.family.as_ref());
            let groups: Vec<GroupId> = families
                .flat_map(|family| family.clones.iter().map(|clone| clone.spec.group))
                .collect();
            let space = self.cluster.describe_space();
            panic!(
                "[liveness] a clone among {groups:?} is not whole within {WHOLE_WITHIN:?} of the healing of everything; {space}"
            );
        }
    }

    /// Reads every clone, and every snapshot of one, through some node, and compares the replicas.
    pub(super) fn check_clones(&mut self, volume: usize) {
        let Some(mut state) = self.clones[volume].take() else {
            return;
        };
        if let Some(family) = &mut state.family {
            for clone in &mut family.clones {
                let level = self.cluster.quiesce(&clone.spec);
                self.heed();
                for node in level {
                    let status = self.cluster.status(node, clone.spec.group);
                    assert_eq!(status.base, None, "[equal] the base of a clone at node {node}");
                }
                let node = state.rng.pick(self.scenario.nodes);
                self.read_clone(volume, node, &mut family.kept, clone);
            }
        }
        self.clones[volume] = Some(state);
    }
}

fn group_of_source(spec: &GroupSpec) -> GroupId {
    spec.base.map_or(spec.group, |base| base.group)
}

impl Clone {
    fn new(spec: GroupSpec, mut model: Model, node: usize) -> Self {
        model.grow(spec.size_blocks);
        Self {
            spec,
            model,
            made: Vec::new(),
            asked: BTreeMap::new(),
            user: User::at(node),
            snapshots: Vec::new(),
            wanted: None,
        }
    }

    fn is_made(&self) -> bool {
        2 * self.made.len() > self.spec.members.len()
    }
}
