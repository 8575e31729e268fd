//! From the records of a disk's log to its groups: the log is replayed once, in order, and everything else follows.
//!
//! An entry is kept when it comes and applied when a hard state says that it is committed, so that an entry which a later
//! leader replaced never touches the map. What is not known to be committed stays in the window for raft-rs to decide.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cairn_api::ids::GroupId;
use cairn_format::entry::EntryHeader;
use raft::eraftpb::HardState;

use crate::event::GroupSpec;
use crate::group::{BASE, Location, LogEntry, Recovered, apply_header};
use crate::log::recovery::{RecoveredRecord, RecoverySink};
use crate::mutation::{Seeded, mutated};

/// Headers kept of each group while replaying, beyond those that are not applied.
const HEADERS_KEPT: usize = 4096;

/// The groups found so far.
#[derive(Default)]
pub(crate) struct Replay {
    groups: BTreeMap<GroupId, Recovered>,
    dropped: BTreeSet<GroupId>,
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

    pub(crate) fn dropped(&self) -> &BTreeSet<GroupId> {
        &self.dropped
    }

    fn created(&mut self, spec: GroupSpec) {
        let group = spec.group;
        self.groups.entry(group).or_insert_with(|| Recovered::empty(spec));
    }

    fn entry(&mut self, group: GroupId, index: u64, entry: LogEntry) {
        let Some(found) = self.groups.get_mut(&group) else {
            return self.complain(format!("entry {index} of group {group}, which was never created"));
        };
        if index > found.log.last() + 1 || index <= found.applied {
            let (last, applied) = (found.log.last(), found.applied);
            return self.complain(format!(
                "entry {index} of group {group} does not follow: the log ends at {last}, applied is {applied}"
            ));
        }
        found.log.append(index, entry);
    }

    fn hard_state(&mut self, group: GroupId, hard_state: HardState) {
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
        found.log.set_hard_state(hard_state);
        let held_back = u64::from(mutated!(self.seeded, RecoveryForgetsLastEntry));
        if let Err(problem) = apply_to(found, commit.saturating_sub(held_back), self.seeded) {
            self.complain(problem);
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
            if let EntryHeader::Write { block_crcs, .. } = &mut header
                && block_crcs.len() > 1
                && mutated!(seeded, LastBlockNotRebuilt)
            {
                block_crcs.pop();
            }
            let payload_block = entry.location.map_or(0, |location| location.payload_block);
            apply_header(
                &header,
                payload_block,
                &mut found.map,
                &mut found.epoch,
                &mut found.holder,
                seeded,
            );
        }
        found.applied_term = entry.term;
        found.applied = index;
    }
    if found.spec.size_blocks != 0 {
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
            RecoveredRecord::GroupCreated { spec, .. } => self.created(spec),
            RecoveredRecord::GroupDropped(group) => {
                self.groups.remove(&group);
                self.dropped.insert(group);
            }
        }
    }
}
