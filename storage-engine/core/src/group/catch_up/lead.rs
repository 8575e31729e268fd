//! The leader's part: when there is a mark, who is offered its state, and who is given up.

use std::collections::BTreeMap;

use cairn_api::ids::{LogIndex, ReplicaId, Term};
use cairn_format::peer::{CatchUpOffer, PeerMessage};
use cairn_format::volume_state::VolumeState;
use raft::eraftpb::Message;
use raft::{ProgressState, SnapshotStatus};

use super::super::Group;
use crate::shared::Shared;
use crate::time::Timestamp;

/// Election time-outs after which a mark that nobody needs is dropped: long enough for a replica that was restarted to come back.
const MARK_PAUSE: u32 = 4;

/// What a leader knows of those who are behind its log.
#[derive(Default)]
pub(crate) struct Leading {
    /// When each was last offered a state, or asked for a portion.
    heard: BTreeMap<ReplicaId, Timestamp>,
    /// How far each was when it last got further in the log.
    matched: BTreeMap<ReplicaId, (u64, Timestamp)>,
    /// When the mark was last needed.
    needed: Timestamp,
}

impl Leading {
    pub(super) fn heard(&mut self, replica: ReplicaId, now: Timestamp) {
        self.heard.insert(replica, now);
        self.needed = now;
    }

    /// A term of leading begins.
    pub(in crate::group) fn begin(&mut self, now: Timestamp) {
        *self = Self {
            needed: now,
            ..Self::default()
        };
    }
}

impl Group {
    /// Sees to it that those who need a state can be offered one.
    pub(in crate::group) fn serve_lagging(&mut self, shared: &Shared) {
        let wanted = self.node.mut_store().take_snapshots_wanted();
        if wanted.is_empty() || !self.is_leader() {
            return;
        }
        self.leading.needed = shared.now;
        // Made before a learner came it is of no use to it; whoever uses it comes first.
        let is_of_use = |state: &VolumeState| wanted.iter().all(|replica| state.has_member(*replica));
        if !self.marked_state().is_some_and(is_of_use) && !self.is_mark_used(shared) {
            self.drop_mark();
            self.make_mark();
        }
    }

    fn is_mark_used(&self, shared: &Shared) -> bool {
        let timeout = shared.config.timing.election_timeout();
        let is_recent = |heard: &Timestamp| shared.now.since(*heard) < timeout;
        self.mark.is_some() && self.leading.heard.values().any(is_recent)
    }

    /// Time passes for a leader.
    pub(in crate::group) fn tick_leading(&mut self, shared: &Shared) {
        if !self.is_leader() {
            return;
        }
        let timeout = shared.config.timing.election_timeout();
        let now = shared.now;
        let mut silent = Vec::new();
        let mut is_needed = false;
        let mark = self.mark_state().map_or(u64::MAX, |state| state.index.get());
        let held_from = self.applied.saturating_sub(shared.config.limits.log_kept_max);
        for (replica, progress) in self.node.raft.prs().iter() {
            let replica = ReplicaId(*replica);
            if progress.state == ProgressState::Snapshot {
                let heard = self.leading.heard.get(&replica);
                let is_silent = heard.is_none_or(|heard| now.since(*heard) >= timeout);
                if is_silent {
                    silent.push(replica);
                } else {
                    is_needed = true;
                }
            } else if replica != self.replica && progress.matched < held_from {
                // On its way from the mark to where the log would begin without it, if it gets on at all.
                let (matched, since) = self.leading.matched.entry(replica).or_insert((0, now));
                if progress.matched > *matched {
                    (*matched, *since) = (progress.matched, now);
                }
                is_needed |= progress.matched >= mark && now.since(*since) < timeout;
            }
        }
        for replica in silent {
            // Probed again, and if it is still behind, offered the state again.
            self.node.report_snapshot(replica.get(), SnapshotStatus::Failure);
        }
        if is_needed {
            self.leading.needed = now;
        }
        if now.since(self.leading.needed) >= timeout * MARK_PAUSE {
            self.drop_mark();
        }
    }

    /// raft-rs sends its snapshot: only the offer leaves.
    pub(in crate::group) fn send_offer(&mut self, shared: &mut Shared, message: &Message) {
        let to = ReplicaId(message.to);
        let index = LogIndex(message.get_snapshot().get_metadata().index);
        let state = self.marked_state().filter(|state| state.index == index).cloned();
        let (Some(state), Some(disk)) = (state, self.address(to)) else {
            // Dropped since. The state that raft-rs takes it for ends with the next tick.
            return;
        };
        self.leading.heard(to, shared.now);
        let offer = CatchUpOffer {
            group: self.spec.group,
            from: self.replica,
            to,
            term: Term(message.term),
            blocks: self.map.blocks_in_all(),
            state,
        };
        shared.send(disk, PeerMessage::CatchUpOffer(offer));
    }
}
