//! From the records of a disk's log to its groups: the log is replayed once, in order, and everything else follows.
//!
//! An entry is kept when it comes and applied when a hard state says that it is committed, so that an entry which a later
//! leader replaced never touches the map. What is not known to be committed stays in the window for raft-rs to decide.
//!
//! One thing is known without a hard state: a leader proposes a change of the members only when the change before it is
//! applied, so that a change in the log proves that the one before it is committed. A replica whose hard state lagged would
//! otherwise start with members more than one change behind its log, and could be elected by a majority that has no voter
//! in common with that of the present members (`group::members`).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cairn_api::ids::{GroupId, LogIndex, ReplicaId};
use cairn_api::units::Lba;
use cairn_format::entry::EntryHeader;
use cairn_format::frame::MovedRun;
use cairn_format::volume_state::VolumeState;
use raft::eraftpb::HardState;

use crate::event::GroupSpec;
use crate::group::{BASE, Location, LogEntry, Recovered, Staging, Verdict, apply_header, membership_of};
use crate::log::recovery::{RecoveredRecord, RecoverySink};
use crate::map::DiskBlock;
use crate::mutation::{Seeded, mutated};

/// Headers kept of each group while replaying, beyond those that are not applied.
const HEADERS_KEPT: usize = 4096;

/// The groups found so far.
///
/// # Behind a checkpoint
/// The groups are those of the checkpoint, and the log is read from its beginning, which lies before the moment of the
/// checkpoint: it repeats some of what the checkpoint contains already.
///
/// - *Entries* that are applied already are only put into the Raft log. One that leaves a gap behind the log's beginning was
///   replaced later, by an entry behind the beginning: otherwise the one before it would be there.
/// - *Hard states* may be older than the checkpoint's: terms and commits only rise, and so does the vote of a term from nobody to somebody.
/// - *Records of a group before its creation* are of another replica, which was dropped before the checkpoint: they mean nothing.
///   The checkpoint says by the sequence of its frame where the creation stands.
/// - *States that were received* are received again, unless the checkpoint contains what came of them; then the Raft log begins anew
///   at the place where the state was complete. The log from the beginning of one on that was not complete yet is all there.
/// - *Moved blocks*: a slot that names the old place names the new one. See `space::collect` for why the order is of no matter. What
///   was moved before the checkpoint was begun is contained, and must not be done again: the old place may be in use again since, for
///   the same block of the volume, too.
#[derive(Default)]
pub(crate) struct Replay {
    groups: BTreeMap<GroupId, Recovered>,
    /// Replicas of the checkpoint whose creation is still to come in the log.
    upcoming: BTreeMap<GroupId, Recovered>,
    /// Groups that the checkpoint knows to have been dropped: what the log still says of them means nothing.
    past: BTreeSet<GroupId>,
    is_behind_checkpoint: bool,
    /// The first frame that was composed after the checkpoint was begun.
    next_sequence: u64,
    /// The number under which each group was last dropped.
    dropped: BTreeMap<GroupId, ReplicaId>,
    /// The last change of members in each group's log that is not known to be committed.
    changes: BTreeMap<GroupId, u64>,
    /// The first record that made no sense.
    pub(crate) problem: Option<String>,
    seeded: Seeded,
}

impl Replay {
    pub(crate) fn new(seeded: Seeded) -> Self {
        Self {
            seeded,
            ..Self::default()
        }
    }

    /// Goes on from a checkpoint; the log begins with the frame `begins`, and `next_sequence` was to be the next when
    /// the checkpoint was begun.
    pub(crate) fn behind(
        seeded: Seeded,
        (begins, next_sequence): (u64, u64),
        mut groups: BTreeMap<GroupId, Recovered>,
        dropped: BTreeMap<GroupId, ReplicaId>,
    ) -> Self {
        for found in groups.values_mut() {
            found.map.set_seeded(seeded);
        }
        let (upcoming, groups) = groups
            .into_iter()
            .partition(|(_, found)| found.created_sequence >= begins);
        Self {
            groups,
            upcoming,
            past: dropped.keys().copied().collect(),
            dropped,
            seeded,
            is_behind_checkpoint: true,
            next_sequence,
            ..Self::default()
        }
    }

    /// Whether the group has no replica at this place of the log that the checkpoint shows.
    fn is_of_the_past(&self, group: GroupId) -> bool {
        !self.groups.contains_key(&group) && (self.upcoming.contains_key(&group) || self.past.contains(&group))
    }

    pub(crate) fn into_groups(mut self) -> BTreeMap<GroupId, Recovered> {
        for found in self.groups.values_mut() {
            if mutated!(self.seeded, RecoveryForgetsLastEntry) {
                found.applied = found.log.hard_state().commit;
                found.applied_term = found.log.term_at(found.applied).unwrap_or(BASE);
            }
            if mutated!(self.seeded, HardStateForgotten) {
                let mut hard_state = HardState::default();
                hard_state.set_term(BASE);
                hard_state.set_commit(found.log.hard_state().commit);
                found.log.set_hard_state(hard_state);
            }
        }
        self.groups
    }

    pub(crate) fn dropped(&self) -> &BTreeMap<GroupId, ReplicaId> {
        &self.dropped
    }

    fn created(&mut self, spec: GroupSpec, replica: ReplicaId, sequence: u64) {
        let group = spec.group;
        let is_awaited = |found: &Recovered| found.created_sequence == sequence;
        if self.upcoming.get(&group).is_some_and(is_awaited) {
            self.groups.extend(self.upcoming.remove_entry(&group));
            return;
        }
        // The checkpoint's number was dropped later than this one was created, or this is that number.
        let is_past = self.upcoming.contains_key(&group)
            || self.past.contains(&group) && self.dropped.get(&group).is_some_and(|dropped| *dropped >= replica);
        if is_past {
            return;
        }
        let found = self.groups.entry(group).or_insert_with(|| Recovered {
            created_sequence: sequence,
            ..Recovered::empty(spec, replica)
        });
        found.map.set_seeded(self.seeded);
    }

    fn entry(&mut self, group: GroupId, index: u64, entry: LogEntry) {
        if self.is_of_the_past(group) {
            return;
        }
        let Some(found) = self.groups.get_mut(&group) else {
            return self.complain(format!("entry {index} of group {group}, which was never created"));
        };
        if let Some((begins, _)) = found.begins
            && (index <= begins || (index > found.log.last() + 1 && found.log.last() == begins))
        {
            return;
        }
        let is_repeated = found.begins.is_some() && found.applied == found.checkpointed;
        if index > found.log.last() + 1 || (index <= found.applied && !is_repeated) {
            let (last, applied) = (found.log.last(), found.applied);
            return self.complain(format!(
                "entry {index} of group {group} does not follow: the log ends at {last}, applied is {applied}"
            ));
        }
        let is_change = EntryHeader::is_members(&entry.header);
        found.log.append(index, entry);
        if self.changes.get(&group).is_some_and(|change| *change >= index) {
            self.changes.remove(&group);
        }
        if is_change && let Some(before) = self.changes.insert(group, index) {
            self.committed(group, before);
        }
    }

    /// The replica began to receive a state; `have` was committed then.
    fn stage_begun(&mut self, group: GroupId, staging: Staging) {
        if self.is_of_the_past(group) {
            return;
        }
        if !mutated!(self.seeded, StageForgetsCommit) {
            self.committed(group, staging.have.get());
        }
        match self.groups.get_mut(&group) {
            Some(found) => found.staging = Some(staging.following(found.staging.take())),
            None => self.complain(format!("a state of group {group}, which was never created")),
        }
    }

    /// What was received takes the place of the replica's own: as in `Group::install`.
    fn stage_done(&mut self, group: GroupId, state: &VolumeState) {
        if self.is_of_the_past(group) {
            return;
        }
        // Whatever stood in the log behind it is gone, and so is what it would prove.
        self.changes.remove(&group);
        if let Some(found) = self.groups.get_mut(&group)
            && let Some((index, term)) = found.begins
            && state.index.get() <= found.checkpointed
        {
            // The checkpoint contains it.
            found.staging = None;
            found.log.restore(index, term);
            return;
        }
        let staged = self
            .groups
            .get_mut(&group)
            .and_then(|found| Some((found.staging.take()?, found)));
        let Some((staging, found)) = staged else {
            return self.complain(format!("the end of a state of group {group}, which receives none"));
        };
        match staging.finish(state, &found.map) {
            Ok(map) => found.map = map,
            Err(problem) => return self.complain(format!("the state of group {group} at {}: {problem}", state.index)),
        }
        let (index, term) = (state.index.get(), state.term.get());
        found.membership = membership_of(state);
        (found.epoch, found.holder) = (state.epoch, state.holder);
        (found.applied, found.applied_term) = (index, term);
        found.log.restore(index, term);
        let mut hard_state = found.log.hard_state().clone();
        if hard_state.term < term {
            // A vote in that term would have been durable before.
            hard_state.set_term(term);
            hard_state.set_vote(0);
        }
        hard_state.commit = index;
        found.log.set_hard_state(hard_state);
    }

    /// Everything up to an index that is in the log is committed.
    fn committed(&mut self, group: GroupId, index: u64) {
        let Some(found) = self.groups.get_mut(&group) else {
            return;
        };
        let mut hard_state = found.log.hard_state().clone();
        if hard_state.commit < index {
            hard_state.commit = index;
            found.log.set_hard_state(hard_state);
        }
        if let Err(problem) = apply_to(found, index, self.seeded) {
            self.complain(problem);
        }
    }

    fn hard_state(&mut self, group: GroupId, mut hard_state: HardState) {
        if self.is_of_the_past(group) {
            return;
        }
        let Some(found) = self.groups.get_mut(&group) else {
            return self.complain(format!("a hard state of group {group}, which was never created"));
        };
        let commit = hard_state.commit;
        if commit > found.log.last() {
            let last = found.log.last();
            return self.complain(format!(
                "group {group} is committed to {commit} but its log ends at {last}"
            ));
        }
        let before = found.log.hard_state();
        let known = before.commit;
        let is_older = (hard_state.term, hard_state.vote != 0) < (before.term, before.vote != 0);
        if is_older && found.begins.is_some() {
            (hard_state.term, hard_state.vote) = (before.term, before.vote);
        }
        found.log.set_hard_state(HardState {
            commit: commit.max(known),
            ..hard_state
        });
        let held_back = u64::from(mutated!(self.seeded, RecoveryForgetsLastEntry));
        self.committed(group, commit.saturating_sub(held_back));
    }

    fn moved(&mut self, group: GroupId, runs: &[MovedRun], sequence: u64) {
        if sequence < self.next_sequence && !mutated!(self.seeded, MovedAgain) {
            return;
        }
        // A group that was dropped since names nothing any more.
        let Some(found) = self.groups.get_mut(&group) else {
            return;
        };
        for run in runs {
            if found.spec.size_blocks == 0 {
                found.log.relocate(run.lba, run.from, run.to);
                continue;
            }
            for at in 0..u64::from(run.blocks) {
                let (old, new) = (DiskBlock(run.from + at), DiskBlock(run.to + at));
                found.map.relocate(Lba(run.lba + at), old, new);
            }
        }
    }

    fn complain(&mut self, problem: String) {
        tracing::error!(%problem, "the log contradicts itself");
        self.problem.get_or_insert(problem);
    }
}

/// Applies what is known to be committed.
fn apply_to(found: &mut Recovered, commit: u64, seeded: Seeded) -> Result<(), String> {
    while found.applied < commit {
        let index = found.applied + 1;
        let group = found.spec.group;
        let Some(entry) = found.log.get(index) else {
            return Err(format!("group {group} has no entry {index}, though it is committed"));
        };
        if !entry.header.is_empty() {
            let mut header = EntryHeader::decode(&entry.header)
                .map_err(|error| format!("entry {index} of group {group}: {error}"))?;
            if let EntryHeader::Resize { size_blocks } = &mut header
                && mutated!(seeded, ResizeNotReplayed)
            {
                *size_blocks = 1;
            }
            if let EntryHeader::Write { block_crcs, .. } = &mut header
                && block_crcs.len() > 1
                && mutated!(seeded, LastBlockNotRebuilt)
            {
                block_crcs.pop();
            }
            let is_snapshot = matches!(header, EntryHeader::SnapshotCreate { .. });
            let late = u64::from(is_snapshot && mutated!(seeded, SnapshotAtAnotherIndex));
            let payload_block = entry.location.map_or(0, |location| location.payload_block);
            let verdict = apply_header(
                &header,
                LogIndex(index + late),
                payload_block,
                &mut found.map,
                &mut found.epoch,
                &mut found.holder,
                seeded,
            );
            if let Verdict::Members(change) = verdict
                && !mutated!(seeded, MembersForgotten)
            {
                found.membership.apply(LogIndex(index), &change);
            }
        }
        found.applied_term = entry.term;
        found.applied = index;
    }
    // What a checkpoint shows as applied may be replaced by its later self until the log has passed the checkpoint.
    if found.spec.size_blocks != 0 && (found.applied > found.checkpointed || found.begins.is_none()) {
        found.log.evict(found.applied, HEADERS_KEPT);
    }
    Ok(())
}

impl RecoverySink for Replay {
    fn record(&mut self, record: RecoveredRecord) {
        match record {
            RecoveredRecord::Entry { placed, header } => {
                let location = Some(Location {
                    frame_offset: placed.frame_offset,
                    payload_block: placed.payload_block,
                });
                // A copy, so that a header that is kept does not keep its whole frame's.
                let header = Bytes::copy_from_slice(&header);
                let entry = LogEntry {
                    term: placed.term.get(),
                    header,
                    payload: Bytes::new(),
                    location,
                };
                self.entry(placed.group, placed.index.get(), entry);
            }
            RecoveredRecord::HardState {
                group,
                term,
                vote,
                commit,
            } => {
                let mut hard_state = HardState::default();
                hard_state.set_term(term.get());
                hard_state.set_vote(vote.get());
                hard_state.set_commit(commit.get());
                self.hard_state(group, hard_state);
            }
            RecoveredRecord::GroupCreated { spec, index, .. } if index.get() != BASE => {
                self.complain(format!("group {} starts behind index {index}, not {BASE}", spec.group));
            }
            RecoveredRecord::StageBegin {
                group,
                mark,
                term,
                have,
            } => self.stage_begun(group, Staging::new(mark, term, have, self.seeded)),
            RecoveredRecord::StageBlocks {
                group,
                portion,
                payload_block,
            } => match self
                .groups
                .get_mut(&group)
                .map(|found| (&mut found.staging, &found.map))
            {
                Some((Some(staging), map)) => staging.take(&portion, payload_block, map),
                // It was begun before the beginning of the log, and given up before the checkpoint.
                _ if self.is_behind_checkpoint => {}
                _ => self.complain(format!("a portion of a state of group {group}, which receives none")),
            },
            RecoveredRecord::StageDone { group, state } => self.stage_done(group, &state),
            RecoveredRecord::GroupCreated {
                spec,
                replica,
                sequence,
                ..
            } => self.created(spec, replica, sequence),
            RecoveredRecord::Moved { group, runs, sequence } => self.moved(group, &runs, sequence),
            RecoveredRecord::GroupDropped(group) => {
                self.changes.remove(&group);
                if let Some(found) = self.groups.remove(&group) {
                    self.dropped.insert(group, found.replica);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_api::ids::{DiskId, NodeId, Term};
    use cairn_format::member::{Member, MemberChange};

    use super::*;
    use crate::log::Placed;

    const GROUP: GroupId = GroupId(7);

    fn member(number: u8) -> Member {
        Member {
            replica: ReplicaId(u64::from(number)),
            node: NodeId::from_bytes([number; 16]),
            disk: DiskId::from_bytes([number; 16]),
        }
    }

    fn created(replica: u64) -> Replay {
        let mut replay = Replay::default();
        replay.record(RecoveredRecord::GroupCreated {
            spec: GroupSpec {
                base: None,
                group: GROUP,
                size_blocks: 100,
                members: vec![member(1), member(2), member(3)],
            },
            replica: ReplicaId(replica),
            index: LogIndex(BASE),
            term: Term(BASE),
            sequence: 1,
        });
        replay
    }

    fn entry(replay: &mut Replay, index: u64, term: u64, change: Option<MemberChange>) {
        let header = change.map_or_else(Bytes::new, |change| EntryHeader::Members { change }.encode());
        let placed = Placed {
            group: GROUP,
            term: Term(term),
            index: LogIndex(index),
            payload_block: 0,
            frame_offset: 4096 * index,
        };
        replay.record(RecoveredRecord::Entry { placed, header });
    }

    fn voters(replay: Replay) -> (Vec<u64>, u64, u64) {
        assert_eq!(replay.problem, None);
        let found = &replay.into_groups()[&GROUP];
        let voters = found.membership.voters.iter().map(|voter| voter.replica.get());
        (voters.collect(), found.applied, found.log.hard_state().commit)
    }

    /// Otherwise a replica could start with members two changes behind its log.
    #[test]
    fn a_change_proves_that_the_one_before_it_is_committed() {
        let mut replay = created(1);
        entry(&mut replay, BASE + 1, 6, Some(MemberChange::Remove(ReplicaId(3))));
        entry(&mut replay, BASE + 2, 6, None);
        entry(&mut replay, BASE + 3, 6, Some(MemberChange::Remove(ReplicaId(2))));
        assert_eq!(voters(replay), (vec![1, 2], BASE + 1, BASE + 1));
    }

    #[test]
    fn a_change_that_was_replaced_proves_nothing() {
        let mut replay = created(1);
        entry(&mut replay, BASE + 1, 6, None);
        entry(&mut replay, BASE + 2, 6, Some(MemberChange::Remove(ReplicaId(3))));
        entry(&mut replay, BASE + 2, 7, None);
        entry(&mut replay, BASE + 3, 7, Some(MemberChange::Remove(ReplicaId(2))));
        assert_eq!(voters(replay), (vec![1, 2, 3], BASE, BASE));
    }

    #[test]
    fn members_are_those_of_what_is_applied() {
        let mut replay = created(4);
        entry(&mut replay, BASE + 1, 6, Some(MemberChange::AddLearner(member(4))));
        replay.record(RecoveredRecord::HardState {
            group: GROUP,
            term: Term(6),
            vote: ReplicaId(0),
            commit: LogIndex(BASE + 1),
        });
        let found = replay.into_groups().remove(&GROUP).unwrap();
        assert_eq!(found.replica, ReplicaId(4));
        assert_eq!(found.membership.learners, [member(4)]);
        assert_eq!(found.membership.revision, LogIndex(BASE + 1));
    }

    #[test]
    fn a_group_that_was_dropped_starts_anew_under_another_number() {
        let mut replay = created(1);
        entry(&mut replay, BASE + 1, 6, Some(MemberChange::Remove(ReplicaId(3))));
        replay.record(RecoveredRecord::GroupDropped(GROUP));
        assert_eq!(replay.dropped()[&GROUP], ReplicaId(1));
        let spec = GroupSpec {
            base: None,
            group: GROUP,
            size_blocks: 100,
            members: vec![member(1), member(2), member(3)],
        };
        replay.record(RecoveredRecord::GroupCreated {
            spec,
            replica: ReplicaId(4),
            index: LogIndex(BASE),
            term: Term(BASE),
            sequence: 1,
        });
        entry(&mut replay, BASE + 1, 6, Some(MemberChange::Remove(ReplicaId(3))));
        assert_eq!(voters(replay), (vec![1, 2, 3], BASE, BASE));
    }
}
