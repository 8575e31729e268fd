//! The mark: the state of a leader at one index, kept while the volume goes on.
//!
//! It is this replica's alone, and not an entry: a leader whose only other living voter is behind its log could commit no entry
//! before that one has the state. Any index that is applied will do, since what is applied is committed.

use cairn_api::ids::{LogIndex, Term};
use cairn_format::volume_state::{STATE_SNAPSHOTS_MAX, StateSnapshot, VolumeState};

use super::super::Group;
use super::super::storage::conf_state;
use crate::map::Marked;

/// See the module.
pub(crate) struct Mark {
    pub(super) state: VolumeState,
    marked: Marked,
}

impl Group {
    /// Begins to keep the state as of what is applied, if none is kept.
    pub(super) fn make_mark(&mut self) {
        let index = LogIndex(self.applied);
        if self.mark.is_some() {
            return;
        }
        if self.map.snapshot_count() > STATE_SNAPSHOTS_MAX {
            tracing::error!(group = %self.spec.group, "more snapshots than a state can name: delete some");
            return;
        }
        let Some(marked) = self.map.mark(index) else { return };
        let membership = &self.membership;
        let snapshot = |(id, at, size_blocks)| StateSnapshot { id, at, size_blocks };
        let state = VolumeState {
            index,
            term: Term(self.applied_term),
            epoch: self.epoch,
            holder: self.holder,
            size_blocks: self.map.size_blocks(),
            base: self.map.base(),
            filled_blocks: self.map.filled_blocks(),
            snapshot_last: self.map.snapshot_last(),
            revision: membership.revision,
            replica_last: membership.replica_last,
            voters: membership.voters.clone(),
            learners: membership.learners.clone(),
            snapshots: self.map.state_snapshots().map(snapshot).collect(),
        };
        tracing::info!(group = %self.spec.group, %index, "keeping a state for replicas that are behind the log");
        let offered = (state.index, state.term, conf_state(membership));
        self.node.mut_store().set_mark(Some(offered));
        self.mark = Some(Mark { state, marked });
    }

    /// Ends keeping it.
    pub(in crate::group) fn drop_mark(&mut self) {
        self.node.mut_store().set_mark(None);
        if let Some(mark) = self.mark.take() {
            self.map.unmark(mark.marked);
        }
    }

    /// The state that is kept. It is not any longer if a user's snapshot kept it and was deleted.
    pub(super) fn marked_state(&mut self) -> Option<&VolumeState> {
        if self
            .mark
            .as_ref()
            .is_some_and(|mark| !self.map.is_marked(mark.state.index))
        {
            self.drop_mark();
        }
        self.mark_state()
    }

    /// As far as is known.
    pub(in crate::group) fn mark_state(&self) -> Option<&VolumeState> {
        self.mark.as_ref().map(|mark| &mark.state)
    }
}
