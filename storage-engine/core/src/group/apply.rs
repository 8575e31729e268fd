//! Applying committed entries: a change of the map, of the attachment, or a command to hand over.
//!
//! This is where epochs are enforced. Every replica applies the same entries in the same order, so every replica refuses
//! the same ones; what a leader checks before it proposes only spares the log an entry that would be refused here.

use cairn_api::block::BlockError;
use cairn_api::ids::{Epoch, LogIndex, NodeId};
use cairn_format::entry::EntryHeader;
use cairn_format::member::MemberChange;
use cairn_format::peer::GatewayResult;
use raft::eraftpb::Entry;

use super::members::header_of;
use super::{Group, Proposal};
use crate::event::Stage;
use crate::map::{BlockMap, DiskBlock};
use crate::mutation::{Seeded, mutated};
use crate::shared::{Origin, Shared};

/// What applying an entry came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Took effect.
    Done,
    /// The attachment was taken.
    Attached(Epoch),
    /// Refused: made under an epoch that no longer rules.
    Fenced(Epoch),
    /// Refused: another attachment came first.
    AttachLost,
    /// For the external state machine.
    External,
    /// A change of the members, which the caller makes.
    Members(MemberChange),
    /// Has no effect on any replica.
    Void,
    /// The snapshot is there, made by this entry.
    Snapshot(LogIndex),
    /// Refused: the snapshot's number is spent.
    Spent,
}

/// Applies the entry at `index` to a volume's state; `payload_block` is where its payload lies on this disk.
pub(crate) fn apply_header(
    header: &EntryHeader,
    index: LogIndex,
    payload_block: u64,
    map: &mut BlockMap,
    epoch: &mut Epoch,
    holder: &mut NodeId,
    seeded: Seeded,
) -> Verdict {
    match header {
        EntryHeader::Write {
            epoch: written_under, ..
        }
        | EntryHeader::Zero {
            epoch: written_under, ..
        } if written_under != epoch && !mutated!(seeded, EpochUnchecked) => Verdict::Fenced(*epoch),
        EntryHeader::Write { lba, block_crcs, .. } => {
            let left_out = usize::from(block_crcs.len() > 1 && mutated!(seeded, LastBlockUnmapped));
            let mapped = &block_crcs[..block_crcs.len() - left_out];
            map.write(*lba, DiskBlock(payload_block), mapped, index);
            Verdict::Done
        }
        EntryHeader::Zero {
            lba, blocks, allocate, ..
        } => {
            let too_many = u64::from(lba.0 + blocks < map.size_blocks() && mutated!(seeded, TrimsOneBlockMore));
            map.zero(*lba, *blocks + too_many, *allocate, index);
            Verdict::Done
        }
        EntryHeader::Attach {
            epoch: next,
            holder: taker,
        } => {
            if *next != epoch.next() {
                return Verdict::AttachLost;
            }
            *epoch = *next;
            *holder = *taker;
            Verdict::Attached(*next)
        }
        EntryHeader::Command { .. } => Verdict::External,
        EntryHeader::Members { change } => Verdict::Members(*change),
        EntryHeader::Resize { size_blocks } => {
            // Never smaller, and never a volume out of the meta group: one that was repeated, or overtaken by a larger one,
            // has no effect on any replica.
            let is_larger = *size_blocks > map.size_blocks() || mutated!(seeded, ResizesAsToldOnly);
            if is_larger && map.size_blocks() > 0 {
                map.grow(*size_blocks);
            }
            Verdict::Done
        }
        EntryHeader::SnapshotCreate { snapshot } => map
            .create_snapshot(*snapshot, index)
            .map_or(Verdict::Spent, Verdict::Snapshot),
        EntryHeader::SnapshotDelete { snapshot } => {
            map.delete_snapshot(*snapshot);
            Verdict::Done
        }
        EntryHeader::Fill { lba, skip, block_crcs } => {
            if map.fill_from_base(*lba, *skip, DiskBlock(payload_block), block_crcs) {
                Verdict::Done
            } else {
                Verdict::Void
            }
        }
    }
}

impl Group {
    pub(super) fn apply(&mut self, shared: &mut Shared, mut committed: Vec<Entry>) {
        let Some((last, last_term)) = committed.last().map(|entry| (entry.index, entry.term)) else {
            return;
        };
        let is_disordered = mutated!(shared.seeded, AppliedOutOfOrder);
        if is_disordered {
            committed.chunks_exact_mut(2).for_each(<[Entry]>::reverse);
        }
        for entry in committed {
            assert!(
                entry.index == self.applied + 1 || is_disordered,
                "entries are applied in order: {} after {}",
                entry.index,
                self.applied
            );
            self.apply_entry(shared, &entry);
            (self.applied, self.applied_term) = (entry.index, entry.term);
        }
        (self.applied, self.applied_term) = (last, last_term);
        self.account(shared);
        self.node.advance_apply_to(last);
        if !self.is_external() {
            self.node.mut_store().evict(last, shared.config.limits.headers_kept_max);
        }
    }

    fn apply_entry(&mut self, shared: &mut Shared, entry: &Entry) {
        let verdict = if header_of(entry).is_empty() {
            Verdict::Done
        } else {
            self.apply_data(shared, entry)
        };
        let Some(proposal) = self.proposals.remove(&entry.index) else {
            return;
        };
        self.proposal_bytes = self.proposal_bytes.saturating_sub(proposal.bytes);
        if proposal.term != entry.term {
            // Another leader's entry took the index: the proposal is gone for good.
            shared.reply(
                self.spec.group,
                proposal.origin,
                GatewayResult::NotLeader { leader: self.leader() },
            );
            return;
        }
        shared.measured(Stage::Commit, proposal.since);
        let result = match verdict {
            Verdict::Done => GatewayResult::Done,
            Verdict::Attached(epoch) => GatewayResult::Attached { epoch },
            Verdict::Fenced(epoch) => GatewayResult::Failed(BlockError::Fenced { current: epoch.get() }),
            Verdict::AttachLost | Verdict::Void | Verdict::Members(_) => GatewayResult::Retry,
            Verdict::Snapshot(at) => return super::snapshot::reply(shared, self.spec.group, proposal.origin, at),
            Verdict::Spent => GatewayResult::Failed(super::snapshot::SPENT),
            Verdict::External => return self.external.expect_reply(entry.index, proposal.origin),
        };
        shared.reply(self.spec.group, proposal.origin, result);
    }

    fn apply_data(&mut self, shared: &mut Shared, entry: &Entry) -> Verdict {
        let header = match EntryHeader::decode(header_of(entry)) {
            Ok(header) => header,
            // It was encoded by a leader of this version and its checksum held: there is no way to go on from here.
            Err(error) => unreachable_entry(self, entry.index, &error.to_string()),
        };
        let payload_block = if header.payload_blocks() == 0 {
            0
        } else {
            // raft-rs hands out what is committed *and* durable here; an entry that is durable has its place.
            let placed = self.node.store().get(entry.index).and_then(|kept| kept.location);
            match placed {
                Some(location) => location.payload_block,
                None => unreachable_entry(self, entry.index, "it is applied before its frame was written"),
            }
        };
        let verdict = apply_header(
            &header,
            LogIndex(entry.index),
            payload_block,
            &mut self.map,
            &mut self.epoch,
            &mut self.holder,
            shared.seeded,
        );
        if verdict == Verdict::Done && header.payload_blocks() > 0 {
            shared.segments.born(payload_block, u64::from(header.payload_blocks()));
        }
        match verdict {
            Verdict::Attached(epoch) => {
                self.holder_heard = shared.now;
                tracing::info!(group = %self.spec.group, %epoch, holder = %self.holder, "attached");
                verdict
            }
            Verdict::Members(change) => self.apply_members(entry.index, &change),
            verdict => verdict,
        }
    }

    /// This replica leads no more: whether its proposals are committed is decided elsewhere. Gateways take a new epoch
    /// and send again; what commits all the same is either fenced or was first.
    pub(super) fn abandon_proposals(&mut self, shared: &mut Shared) {
        self.proposal_bytes = 0;
        for (_, proposal) in std::mem::take(&mut self.proposals) {
            match proposal.origin {
                Origin::Command(id) => shared.end_command(id, Err(crate::event::CommandError::Uncertain)),
                origin => {
                    shared.reply(
                        self.spec.group,
                        origin,
                        GatewayResult::NotLeader { leader: self.leader() },
                    );
                }
            }
        }
    }

    /// The fault of [`mutated`]'s `AcksBeforeMajority`.
    pub(super) fn acknowledge_unsafely(&mut self, shared: &mut Shared, first: u64, last: u64) {
        let is_payload = |proposal: &&Proposal| proposal.bytes > 0 && !matches!(proposal.origin, Origin::Command(_));
        for proposal in self
            .proposals
            .range(first..=last)
            .map(|(_, proposal)| proposal)
            .filter(is_payload)
        {
            shared.reply(self.spec.group, proposal.origin, GatewayResult::Done);
        }
    }

    /// Ends what a request waits for when its proposal never reached the log.
    pub(super) fn refuse_not_leading(&self, shared: &mut Shared, origin: Origin) {
        if let Origin::Command(id) = origin {
            let leader = self.leader_member().cloned();
            shared.end_command(id, Err(crate::event::CommandError::NotLeader { leader }));
        } else {
            shared.reply(
                self.spec.group,
                origin,
                GatewayResult::NotLeader { leader: self.leader() },
            );
        }
    }
}

#[expect(
    clippy::panic,
    reason = "an invariant of the log is broken: going on would diverge from the other replicas"
)]
fn unreachable_entry(group: &Group, index: u64, why: &str) -> ! {
    panic!("group {} entry {index} cannot be applied: {why}", group.spec.group)
}
