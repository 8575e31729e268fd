//! Takes every group whose replicas are being swapped from one step to the next: the part of the engine whose replica leads.
//!
//! What is to be done follows from what the leader's replica itself knows of its group's members ([`next`]), never from how
//! far the catalogue says it is: whoever leads next, after whatever crash, goes on from there. The core checks each change
//! once more and refuses what would endanger the group; what it refuses is asked again.
//!
//! The order of the last two changes depends on whether the replica that leaves lives. If it does, the newcomer is promoted
//! first: the group never has fewer live voters than before. If it does not, it is removed first, since beside it the
//! newcomer's vote would be needed for every majority, and a newcomer that dies in that moment would stop the group.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cairn_api::control as api;
use cairn_api::ids::{DiskId, GroupId, LogIndex, NodeId, ReplicaId};
use cairn_core::event::{Command as CoreCommand, GroupStatus, MemberChange, Role};
use cairn_core::membership::Membership;
use tonic::Request;

use super::watch::Task;
use crate::control::survey::{self, Survey};
use crate::control::{self};
use crate::disks::ask;
use crate::engine::Engine;
use crate::meta::{Catalogue, Step, Swap};

/// How long a change of members may take: a few round trips, or the leader has lost its majority.
const CHANGE_PATIENCE: Duration = Duration::from_secs(5);
/// How far a learner's log may end behind the leader's for voters to be changed. The core promotes at less.
const BEHIND_MAX: u64 = 256;

/// The background task's memory: what it said of each swap last.
#[derive(Default)]
pub(super) struct Driver {
    problems: BTreeMap<ReplicaId, String>,
}

impl Task for Driver {
    /// The pause between two looks while a group that is led here has something to do.
    const BUSY_PAUSE: Duration = Duration::from_millis(200);
    /// The pause between two looks otherwise: leadership may have moved here.
    const IDLE_PAUSE: Duration = Duration::from_secs(1);

    /// Takes every swap of a group that is led here one step further; whether there is any.
    async fn pass(&mut self, engine: &Arc<Engine>) -> bool {
        let view = engine.meta.view();
        if view.swaps().next().is_none() {
            self.problems.clear();
            return false;
        }
        let mut is_busy = false;
        for (disk, status) in survey::local_groups(engine).await {
            let group = status.spec.group;
            if group == GroupId::META && status.membership.was_removed(status.replica) {
                engine.meta.note_removed(disk);
            }
            if status.role != Role::Leader {
                continue;
            }
            for (_, swap) in view.swaps().filter(|(of, _)| *of == group) {
                is_busy = true;
                let scene = Scene {
                    engine,
                    view: &view,
                    disk,
                    status: &status,
                    swap,
                };
                match scene.step().await {
                    Ok(()) => {
                        self.problems.remove(&swap.joining.replica);
                    }
                    Err(problem) => self.problem(&view, group, swap.joining.replica, problem),
                }
            }
        }
        is_busy
    }
}

impl Driver {
    /// Says what holds a swap up once, not five times a second.
    fn problem(&mut self, view: &Catalogue, group: GroupId, joining: ReplicaId, problem: String) {
        if self.problems.get(&joining) == Some(&problem) {
            return;
        }
        let name = view.group_name(group);
        tracing::info!(group = name, replica = %joining, problem, "a replica's place is not taken yet");
        self.problems.insert(joining, problem);
    }
}

/// What is to be done next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    /// Somebody else has to do something first.
    Wait,
    /// Ask for this.
    Change(MemberChange),
    /// All changes are made.
    Settle,
}

/// What is to be done next for a swap, by the members that the group's leader has applied.
fn next(members: &Membership, swap: &Swap, has_caught_up: bool, lives: impl Fn(ReplicaId) -> bool) -> Action {
    let joining = swap.joining;
    let mut leaving = swap.leaving.iter().map(|member| member.replica);
    if swap.step == Step::Make {
        return Action::Wait;
    }
    if members.member(joining.replica).is_none() {
        return if members.was_removed(joining.replica) {
            Action::Wait
        } else {
            Action::Change(MemberChange::AddLearner(joining))
        };
    }
    if !members.is_voter(joining.replica) {
        if !has_caught_up {
            return Action::Wait;
        }
        let dead = leaving.find(|replica| members.is_voter(*replica) && !lives(*replica));
        return Action::Change(match dead {
            Some(dead) if members.voters.len() > 1 => MemberChange::Remove(dead),
            _ => MemberChange::Promote(joining.replica),
        });
    }
    match leaving.find(|replica| members.member(*replica).is_some()) {
        Some(leaving) => Action::Change(MemberChange::Remove(leaving)),
        None => Action::Settle,
    }
}

/// The step that the members themselves show.
fn shown_step(members: &Membership, swap: &Swap) -> Step {
    let joining = swap.joining.replica;
    let is_gone = |replica: ReplicaId| members.was_removed(replica);
    if members.is_voter(joining) {
        Step::Switch
    } else if members.member(joining).is_none() {
        swap.step
    } else if swap.leaving.iter().any(|member| is_gone(member.replica)) {
        Step::Switch
    } else {
        Step::CatchUp
    }
}

/// A swap in a group that is led here.
struct Scene<'a> {
    engine: &'a Arc<Engine>,
    view: &'a Catalogue,
    disk: DiskId,
    status: &'a GroupStatus,
    swap: &'a Swap,
}

impl Scene<'_> {
    async fn step(&self) -> Result<(), String> {
        let members = &self.status.membership;
        let shown = shown_step(members, self.swap);
        if shown > self.swap.step {
            report(self.engine, self.status.spec.group, self.swap, shown, LogIndex(0)).await?;
        }
        let is_voter = members.is_voter(self.swap.joining.replica);
        let has_caught_up = self.has_caught_up();
        // Whether anybody lives is asked only where it matters.
        let survey = if is_voter || has_caught_up {
            self.survey().await
        } else {
            Survey::default()
        };
        match next(members, self.swap, has_caught_up, |replica| survey.is_alive(replica)) {
            Action::Wait => Ok(()),
            Action::Change(change) => self.change(change).await,
            Action::Settle => self.settle(&survey).await,
        }
    }

    fn has_caught_up(&self) -> bool {
        let joining = self.swap.joining.replica;
        let matched = self.status.matched.iter().find(|(replica, _)| *replica == joining);
        matched.is_some_and(|(_, matched)| matched.get() + BEHIND_MAX >= self.status.last.get())
    }

    async fn survey(&self) -> Survey {
        let members = self.status.membership.all().chain(&self.swap.leaving);
        let nodes: BTreeSet<NodeId> = members.map(|member| member.node).collect();
        survey::survey_group(self.engine, self.view, self.status.spec.group, &nodes).await
    }

    async fn change(&self, change: MemberChange) -> Result<(), String> {
        let group = self.status.spec.group;
        let thread = self
            .engine
            .disks
            .thread_of(self.disk)
            .ok_or("its disk does not serve")?;
        ask(&thread, CoreCommand::ChangeMembers { group, change }, CHANGE_PATIENCE)
            .await
            .map_err(|error| error.to_string())?;
        tracing::info!(group = self.view.group_name(group), ?change, "changed members");
        Ok(())
    }

    /// Those who left may be dropped when a majority knows that they are no members: until then their answers may be needed.
    async fn settle(&self, survey: &Survey) -> Result<(), String> {
        let members = &self.status.membership;
        let knows = |replica: ReplicaId| {
            let status = survey.replicas.get(&replica);
            status.is_some_and(|status| status.members_revision >= members.revision.get())
        };
        let knowing = members.voters.iter().filter(|member| knows(member.replica)).count();
        if knowing * 2 <= members.voters.len() {
            return Err(format!(
                "{knowing} of {} voters have heard of the change so far",
                members.voters.len()
            ));
        }
        let group = self.status.spec.group;
        report(self.engine, group, self.swap, Step::Settled, members.revision).await?;
        tracing::info!(
            group = self.view.group_name(group), replica = %self.swap.joining.replica, leaving = ?self.swap.leaving,
            "a replica has taken another's place"
        );
        Ok(())
    }
}

/// Tells the meta leader how far a swap is.
pub(super) async fn report(
    engine: &Arc<Engine>,
    group: GroupId,
    swap: &Swap,
    step: Step,
    revision: LogIndex,
) -> Result<(), String> {
    let request = api::AdvanceSwapRequest {
        volume_id: group.get(),
        replica_id: swap.joining.replica.get(),
        step: step.name().to_owned(),
        revision: revision.get(),
    };
    match control::advance_swap(engine, Request::new(request)).await {
        Ok(_) => Ok(()),
        Err(status) => Err(format!("not reported: {}", status.message())),
    }
}

#[cfg(test)]
mod tests {
    use cairn_core::event::Member;

    use super::*;
    use crate::meta::tests::{disk, node};

    fn member(number: u8) -> Member {
        Member {
            replica: ReplicaId(u64::from(number)),
            node: node(number),
            disk: disk(number),
        }
    }

    fn members(voters: &[u8], learners: &[u8], last: u8) -> Membership {
        Membership {
            revision: LogIndex(9),
            voters: voters.iter().copied().map(member).collect(),
            learners: learners.iter().copied().map(member).collect(),
            replica_last: ReplicaId(u64::from(last)),
        }
    }

    fn swap(leaving: &[u8], joining: u8) -> Swap {
        Swap {
            leaving: leaving.iter().copied().map(member).collect(),
            joining: member(joining),
            step: Step::Join,
        }
    }

    /// The actions from `members` until the swap is settled, with everything that is asked for done at once.
    fn course(mut members: Membership, swap: &Swap, lives: impl Fn(ReplicaId) -> bool) -> Vec<String> {
        let mut course = Vec::new();
        loop {
            match next(&members, swap, true, &lives) {
                Action::Wait => panic!("waits for ever at {members:?}"),
                Action::Settle => return course,
                Action::Change(MemberChange::AddLearner(new)) => {
                    course.push(format!("add {}", new.replica));
                    members.learners.push(new);
                    members.replica_last = new.replica;
                }
                Action::Change(MemberChange::Promote(replica)) => {
                    course.push(format!("promote {replica}"));
                    members.learners.retain(|member| member.replica != replica);
                    members.voters.push(swap.joining);
                }
                Action::Change(MemberChange::Remove(replica)) => {
                    course.push(format!("remove {replica}"));
                    assert!(members.voters.len() > 1, "the last voter is never removed");
                    members.voters.retain(|member| member.replica != replica);
                    members.learners.retain(|member| member.replica != replica);
                }
            }
            assert!(course.len() < 10, "{course:?}");
        }
    }

    #[test]
    fn one_that_lives_goes_last_and_one_that_does_not_goes_first() {
        let alive = course(members(&[1, 2, 3], &[], 3), &swap(&[3], 4), |_| true);
        assert_eq!(alive, ["add 4", "promote 4", "remove 3"]);
        let dead = course(members(&[1, 2, 3], &[], 3), &swap(&[3], 4), |replica| {
            replica != ReplicaId(3)
        });
        assert_eq!(dead, ["add 4", "remove 3", "promote 4"]);
        let only = course(members(&[1], &[], 1), &swap(&[1], 4), |_| true);
        assert_eq!(only, ["add 4", "promote 4", "remove 1"]);
    }

    #[test]
    fn a_newcomer_that_failed_half_way_goes_with_the_one_it_was_to_succeed() {
        let dead = |replica: ReplicaId| replica.get() < 3;
        let learner = course(members(&[1, 2, 3], &[4], 4), &swap(&[3, 4], 5), dead);
        assert_eq!(learner, ["add 5", "remove 3", "promote 5", "remove 4"]);
        let voter = course(members(&[1, 2, 4], &[], 4), &swap(&[3, 4], 5), dead);
        assert_eq!(voter, ["add 5", "remove 4", "promote 5"]);
    }

    #[test]
    fn nothing_is_asked_for_too_early_or_too_late() {
        let early = Swap {
            step: Step::Make,
            ..swap(&[3], 4)
        };
        assert_eq!(next(&members(&[1, 2, 3], &[], 3), &early, true, |_| true), Action::Wait);
        let behind = next(&members(&[1, 2, 3], &[4], 4), &swap(&[3], 4), false, |_| false);
        assert_eq!(behind, Action::Wait);
        // An old view of the catalogue: the newcomer was replaced itself meanwhile.
        let late = next(&members(&[1, 2, 5], &[], 5), &swap(&[3], 4), true, |_| true);
        assert_eq!(late, Action::Wait);
    }

    #[test]
    fn the_step_follows_from_the_members() {
        let swap = swap(&[3], 4);
        for (members, step) in [
            (members(&[1, 2, 3], &[], 3), Step::Join),
            (members(&[1, 2, 3], &[4], 4), Step::CatchUp),
            (members(&[1, 2], &[4], 4), Step::Switch),
            (members(&[1, 2, 3, 4], &[], 4), Step::Switch),
            (members(&[1, 2, 4], &[], 4), Step::Switch),
        ] {
            assert_eq!(shown_step(&members, &swap), step, "{members:?}");
        }
    }
}
