//! A replica as a checkpoint shows it, and back again.

use bytes::Bytes;
use cairn_api::ids::{LogIndex, ReplicaId, Term};
use cairn_format::entry::BlockCrcs;
use cairn_format::table::{KeptEntry, TableGroup};
use raft::eraftpb::HardState;

use super::storage::{GroupLog, Location, LogEntry};
use super::{BASE, Group, Recovered};
use crate::event::GroupSpec;
use crate::map::BlockMap;
use crate::membership::Membership;
use crate::mutation::mutated;
use crate::shared::Shared;

impl Group {
    /// The replica as it is now. Its Raft log will begin behind the last entry that is in a frame for which `is_before` holds;
    /// the meta group's log is kept whole.
    pub(crate) fn to_table(&self, is_before: impl Fn(u64) -> bool) -> TableGroup {
        let log = self.node.store();
        let begins = log.last_in(is_before).max(log.truncated());
        assert!(
            begins <= self.applied || self.is_external(),
            "group {}: entry {begins} is not applied ({}) and would be cut off",
            self.spec.group,
            self.applied
        );
        let term = log.term_at(begins).unwrap_or(BASE);
        let hard_state = log.hard_state();
        TableGroup {
            group: self.spec.group,
            created_blocks: self.spec.size_blocks,
            created_base: self.spec.base,
            created_members: self.spec.members.clone(),
            replica: self.replica,
            voters: self.membership.voters.clone(),
            learners: self.membership.learners.clone(),
            revision: self.membership.revision,
            replica_last: self.membership.replica_last,
            epoch: self.epoch,
            holder: self.holder,
            applied: (LogIndex(self.applied), Term(self.applied_term)),
            hard_state: (
                Term(hard_state.term),
                ReplicaId(hard_state.vote),
                // Of what is committed beyond that, not everything may be durable here yet.
                LogIndex(self.applied),
            ),
            begins_behind: (LogIndex(begins), Term(term)),
            size_blocks: self.map.size_blocks(),
            base: self.map.base(),
            filled_blocks: self.map.filled_blocks(),
            snapshots: self.map.to_snapshots(),
            snapshot_last: self.map.snapshot_last(),
            created_sequence: self.created_sequence,
            kept: if self.is_external() {
                self.kept_to(begins)
            } else {
                Vec::new()
            },
        }
    }

    fn kept_to(&self, last: u64) -> Vec<KeptEntry> {
        let log = self.node.store();
        let entries = (BASE + 1..=last).filter_map(|index| Some((index, log.get(index)?)));
        entries
            .map(|(index, entry)| KeptEntry {
                index: LogIndex(index),
                term: Term(entry.term),
                payload_block: entry.location.map_or(0, |location| location.payload_block),
                header: entry.header.clone(),
            })
            .collect()
    }

    /// The frame that must be read again to have every entry that is not applied; `None` if all of those are still to be
    /// written. `holds_marks` asks for those behind a mark, too, which whoever is given the state at the mark will need.
    pub(crate) fn oldest_frame_needed(&self, holds_marks: bool) -> Option<u64> {
        let mark = self.mark_state().filter(|_| holds_marks);
        let applied = mark.map_or(self.applied, |state| state.index.get().min(self.applied));
        let behind = applied.max(self.node.store().truncated());
        self.node.store().frame_behind(behind)
    }

    /// Since which frame the replica has been receiving a state: recovery needs all of it.
    pub(crate) fn staging_since(&self) -> Option<u64> {
        self.staging_since.filter(|_| self.is_staging())
    }

    /// Whether a state is being received.
    pub(crate) fn is_staging(&self) -> bool {
        self.receiver.is_some() || self.restoring.is_some()
    }

    /// The disk has no room for the rest of a state: what was received of it may go. The leader offers it again.
    pub(crate) fn give_up_staging(&mut self) {
        if self.receiver.take().is_some() {
            tracing::warn!(group = %self.spec.group, "no room for the leader's state: it is received later");
        }
    }

    /// A checkpoint contains everything up to `index`, and the frames that held it may be used again.
    pub(crate) fn cut_log(&mut self, index: u64) {
        if self.is_external() {
            return;
        }
        if self.mark_state().is_some_and(|state| state.index.get() < index) {
            self.drop_mark();
        }
        self.node.mut_store().truncate_front(index);
        for outbox in self.outboxes.values_mut() {
            outbox.void_to(index);
        }
    }

    pub(crate) fn map_mut(&mut self) -> &mut BlockMap {
        &mut self.map
    }

    /// The payload of entries that are kept for good is no longer the log's, up to here: it is counted like that of a map.
    pub(crate) fn count_kept(&mut self, shared: &mut Shared, last: u64) {
        if !self.is_external() {
            return;
        }
        for (block, count) in payloads(self.node.store(), self.counted_to, last) {
            shared.segments.born(block, count);
        }
        self.counted_to = self.counted_to.max(last);
        self.node.mut_store().leave_frames(last);
    }

    /// What became garbage is no longer counted.
    pub(super) fn account(&mut self, shared: &mut Shared) {
        for (block, count) in self.map.take_garbage() {
            self.full_since = None;
            shared.segments.gone(block, count);
            if mutated!(shared.seeded, ReplacedUncounted) {
                shared.segments.gone(block, count);
            }
        }
    }

    /// All blocks of the disk that the replica names, apart from the log behind its beginning: where they start, and how many.
    pub(crate) fn data(&self) -> impl Iterator<Item = (u64, u64)> {
        let kept = payloads(self.node.store(), BASE, self.counted_to);
        self.map.data().chain(kept)
    }
}

/// The payloads of the entries behind `after` up to `last`: where each starts on the disk, and its blocks.
fn payloads(log: &GroupLog, after: u64, last: u64) -> Vec<(u64, u64)> {
    let entries = (after + 1..=last).filter_map(|index| log.get(index));
    entries
        .filter_map(|entry| {
            let blocks = BlockCrcs::of_header(&entry.header).ok()?.count();
            let location = entry.location.filter(|_| blocks > 0)?;
            Some((location.payload_block, u64::from(blocks)))
        })
        .collect()
}

impl Recovered {
    /// As [`Group::data`].
    pub(crate) fn data(&self) -> impl Iterator<Item = (u64, u64)> {
        let kept = payloads(&self.log, BASE, self.kept_to());
        self.map.data().chain(kept)
    }

    /// The last entry of those that are kept for good and stand before the beginning of the disk's log.
    pub(super) fn kept_to(&self) -> u64 {
        let is_external = self.spec.size_blocks == 0;
        self.begins.filter(|_| is_external).map_or(BASE, |(index, _)| index)
    }

    /// A replica as a checkpoint shows it, without the slots of its map.
    pub(crate) fn from_table(table: &TableGroup) -> Self {
        let mut hard_state = HardState::default();
        hard_state.set_term(table.hard_state.0.get());
        hard_state.set_vote(table.hard_state.1.get());
        hard_state.set_commit(table.hard_state.2.get());
        let begins = if table.created_blocks == 0 {
            (BASE, BASE)
        } else {
            (table.begins_behind.0.get(), table.begins_behind.1.get())
        };
        let mut log = GroupLog::beginning_behind(begins, hard_state);
        for entry in &table.kept {
            let location = Some(Location {
                frame_offset: 0,
                payload_block: entry.payload_block,
            });
            let kept = LogEntry {
                term: entry.term.get(),
                header: Bytes::copy_from_slice(&entry.header),
                payload: Bytes::new(),
                location,
            };
            log.append(entry.index.get(), kept);
        }
        Self {
            spec: GroupSpec {
                group: table.group,
                size_blocks: table.created_blocks,
                base: table.created_base,
                members: table.created_members.clone(),
            },
            replica: table.replica,
            membership: Membership {
                revision: table.revision,
                voters: table.voters.clone(),
                learners: table.learners.clone(),
                replica_last: table.replica_last,
            },
            log,
            map: BlockMap::restored(
                table.size_blocks,
                (table.base, table.filled_blocks),
                &table.snapshots,
                table.snapshot_last,
            ),
            epoch: table.epoch,
            holder: table.holder,
            applied: table.applied.0.get(),
            applied_term: table.applied.1.get(),
            checkpointed: table.applied.0.get(),
            begins: Some((table.begins_behind.0.get(), table.begins_behind.1.get())),
            created_sequence: table.created_sequence,
            staging: None,
        }
    }
}
