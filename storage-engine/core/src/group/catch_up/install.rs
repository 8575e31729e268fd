//! Putting a received state in the place of one's own.

use cairn_api::ids::{GroupId, LogIndex, Term};
use raft::eraftpb::{ConfState, Message, MessageType, Snapshot};

use super::super::Group;
use super::staging::membership_of;
use crate::log::{Record, Ticket};
use crate::shared::Shared;

impl Group {
    /// Whether a state is being installed, or was and its record is not durable yet: until then raft-rs must not campaign.
    pub(in crate::group) const fn is_installing(&self) -> bool {
        self.installing.is_some() || self.restoring.is_some()
    }

    /// Shows raft-rs the offer, if everything that belongs to it is durable here.
    pub(in crate::group) fn try_install(&mut self) {
        let Some(receiver) = self.receiver.as_ref().filter(|receiver| receiver.is_complete()) else {
            return;
        };
        // What was handed to the disk before belongs to the log that goes: raft-rs must not hear of it after the new one.
        let is_quiet = self.persists.is_empty() && !self.is_installing() && !self.is_leader();
        // A leader of a later term offers the state anew, and is then the one to be answered.
        if !is_quiet || receiver.offer.term.get() < self.term() {
            return;
        }
        let message = self.snapshot_message();
        if let Some(message) = message {
            self.step_raft(message);
        }
        let received = self.receiver.take();
        if self.node.raft.snap().is_some() {
            self.restoring = received;
        } else {
            tracing::debug!(group = %self.spec.group, "the state that was received is not needed any more");
        }
    }

    fn snapshot_message(&self) -> Option<Message> {
        let offer = &self.receiver.as_ref()?.offer;
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgSnapshot);
        message.from = offer.from.get();
        message.to = offer.to.get();
        message.term = offer.term.get();
        let state = &offer.state;
        message.set_snapshot(snapshot(
            (state.index, state.term),
            &super::super::storage::conf_state(&membership_of(state)),
        ));
        Some(message)
    }

    /// raft-rs has taken the offer: the state is this replica's from here on. Gives the record that says so.
    ///
    /// # Panics
    /// If raft-rs restores what was not staged: it is shown an offer only if everything is.
    #[expect(
        clippy::expect_used,
        reason = "the invariant above; going on would diverge from the other replicas"
    )]
    pub(in crate::group) fn install(&mut self, shared: &mut Shared, index: u64, number: u64) -> Ticket {
        let receiver = self.restoring.take().expect("a state was received");
        let state = receiver.offer.state;
        assert_eq!(state.index, LogIndex(index), "raft-rs restores what was received");
        let map = receiver.staging.finish(&state, &self.map);
        let map = map.expect("what was received is whole");
        // What was kept is in both.
        map.data().for_each(|(block, count)| shared.segments.born(block, count));
        self.account(shared);
        self.map
            .data()
            .for_each(|(block, count)| shared.segments.gone(block, count));
        self.map = map;
        self.staging_since = None;
        shared.is_checkpoint_void = true;
        self.membership = membership_of(&state);
        self.members_changed = true;
        (self.epoch, self.holder) = (state.epoch, state.holder);
        (self.applied, self.applied_term) = (index, state.term.get());
        self.node.mut_store().restore(index, state.term.get());
        self.fetches.clear();
        self.installing = Some(number);
        self.mark = None;
        let group = self.spec.group;
        tracing::info!(%group, index, blocks = self.map.blocks_in_all(), "caught up with a state of the leader's");
        let ticket = shared.log.push(Record::StageDone { group, state });
        if self.membership.revision > self.settled {
            self.settling = Some((ticket, self.membership.revision));
        }
        ticket
    }

    /// The record of the state that was installed is durable.
    pub(in crate::group) fn installed(&mut self, number: u64) {
        if self.installing.take_if(|installing| *installing <= number).is_some() {
            self.node
                .advance_apply_to(self.applied.min(self.node.store().truncated()));
        }
    }

    pub(in crate::group) fn step_raft(&mut self, message: Message) {
        if let Err(error) = self.node.step(message) {
            let group: GroupId = self.spec.group;
            tracing::debug!(%group, %error, "message not taken");
        }
    }
}

/// raft-rs's form of a state: who counts, and where the log goes on.
pub(in crate::group) fn snapshot((index, term): (LogIndex, Term), members: &ConfState) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    metadata.index = index.get();
    metadata.term = term.get();
    metadata.set_conf_state(members.clone());
    snapshot
}
