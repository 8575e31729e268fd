//! What gateways and the control plane ask of a leader.

use bytes::{Bytes, BytesMut};
use cairn_api::block::BlockError;
use cairn_api::ids::{Epoch, LogIndex, NodeId, ReplicaId};
use cairn_api::units::{BLOCK_BYTES, BLOCK_SIZE};
use cairn_format::checksum::block_crcs;
use cairn_format::entry::{ENTRY_BLOCKS_MAX, EntryHeader, LBA_END_MAX};
use cairn_format::peer::{AttachMode, GatewayOp, GatewayResult};

use super::read::Query;
use super::{Group, Proposal};
use crate::config::margin_blocks;
use crate::event::{CommandError, CommandId, CommandReply};
use crate::mutation::mutated;
use crate::shared::{Origin, Room, Shared};

/// Blocks of one status request, so that its answer and the time it takes are bounded: 32 GiB.
pub(crate) const STATUS_BLOCKS_MAX: u64 = 1 << 23;

impl Group {
    /// Tells a gateway that knows the members of `revision` of newer ones.
    pub(crate) fn tell_members(&self, shared: &mut Shared, origin: Origin, revision: LogIndex) {
        if revision < self.membership.revision {
            let members = GatewayResult::Members {
                revision: self.membership.revision,
                voters: self.membership.voters.clone(),
            };
            shared.reply(self.spec.group, origin.unasked(), members);
        }
    }

    /// Serves a gateway's request.
    pub(crate) fn request(&mut self, shared: &mut Shared, origin: Origin, op: GatewayOp) {
        if let Err(error) = self.check_range(&op) {
            // Only a leader's word counts: the volume may have grown in a part of the log that is not applied here. Even a
            // leader may not have heard of that; its gateway asks again if it knows of a larger size.
            if matches!(error, BlockError::OutOfRange { .. }) && !self.is_leader() {
                return self.refuse_not_leading(shared, origin);
            }
            return shared.reply(self.spec.group, origin, GatewayResult::Failed(error));
        }
        match op {
            GatewayOp::Read { lba, blocks, snapshot } => {
                self.query(shared, origin, Query::Blocks { lba, blocks, snapshot });
            }
            GatewayOp::Status {
                lba,
                blocks,
                extents_max,
                snapshot,
            } => {
                let query = Query::Status {
                    lba,
                    blocks,
                    extents_max,
                    snapshot,
                };
                self.query(shared, origin, query);
            }
            GatewayOp::Write {
                epoch,
                lba,
                block_crcs,
                payload,
            } => {
                self.write(
                    shared,
                    origin,
                    epoch,
                    &EntryHeader::Write { epoch, lba, block_crcs },
                    payload,
                );
            }
            GatewayOp::Zero {
                epoch,
                lba,
                blocks,
                allocate,
            } => {
                let header = EntryHeader::Zero {
                    epoch,
                    lba,
                    blocks,
                    allocate,
                };
                self.write(shared, origin, epoch, &header, Bytes::new());
            }
            GatewayOp::Attach {
                holder,
                mode,
                requester,
            } => self.attach(shared, origin, holder, mode, requester),
            GatewayOp::Detach { epoch } => self.detach(shared, origin, epoch),
            GatewayOp::KeepAlive { epoch } => {
                if self.is_leader() && epoch == self.epoch {
                    self.holder_heard = shared.now;
                }
            }
            GatewayOp::TransferLeader { to } => self.prefer(shared, origin, to),
        }
    }

    /// Moves leadership to the replica of the node that uses the volume.
    fn prefer(&mut self, shared: &mut Shared, origin: Origin, to: ReplicaId) {
        // Leadership follows the writer: a reader elsewhere does not pull it away from a live holder.
        let is_holder = self.member(to).is_some_and(|member| member.node == self.holder);
        if is_holder || self.holder.is_nil() || !self.is_holder_alive(shared) {
            self.transfer(shared, to);
        }
        shared.reply(self.spec.group, origin, GatewayResult::Done);
    }

    fn check_range(&self, op: &GatewayOp) -> Result<(), BlockError> {
        let (lba, blocks) = match op {
            GatewayOp::Read { lba, blocks, .. } => {
                if *blocks > ENTRY_BLOCKS_MAX {
                    return Err(BlockError::Invalid("a read of more than 256 blocks"));
                }
                (*lba, u64::from(*blocks))
            }
            GatewayOp::Status { lba, blocks, .. } if *blocks <= STATUS_BLOCKS_MAX => (*lba, *blocks),
            GatewayOp::Status { .. } => return Err(BlockError::Invalid("a status request of more than 32 GiB")),
            GatewayOp::Zero { lba, blocks, .. } => (*lba, *blocks),
            GatewayOp::Write {
                lba,
                block_crcs,
                payload,
                ..
            } => {
                if payload.len() as u64 != block_crcs.len() as u64 * BLOCK_BYTES {
                    return Err(BlockError::Invalid("a write whose checksums do not cover its blocks"));
                }
                (*lba, block_crcs.len() as u64)
            }
            GatewayOp::Attach { .. }
            | GatewayOp::Detach { .. }
            | GatewayOp::KeepAlive { .. }
            | GatewayOp::TransferLeader { .. } => return Ok(()),
        };
        let size_blocks = match op {
            // A snapshot has a size of its own, which whoever reads it checks.
            GatewayOp::Read { snapshot: Some(_), .. } | GatewayOp::Status { snapshot: Some(_), .. } => LBA_END_MAX,
            _ => self.map.size_blocks(),
        };
        let is_inside = lba.0.checked_add(blocks).is_some_and(|end| end <= size_blocks);
        if blocks == 0 || !is_inside {
            return Err(BlockError::OutOfRange {
                offset: lba.0.saturating_mul(BLOCK_BYTES),
                length: blocks.saturating_mul(BLOCK_BYTES),
                size_bytes: size_blocks * BLOCK_BYTES,
            });
        }
        Ok(())
    }

    fn write(&mut self, shared: &mut Shared, origin: Origin, epoch: Epoch, header: &EntryHeader, payload: Bytes) {
        if !self.may_propose(shared, origin) {
            return;
        }
        if epoch < self.epoch && !mutated!(shared.seeded, EpochUnchecked) {
            // Epochs only rise: it would be refused when applied.
            let error = BlockError::Fenced {
                current: self.epoch.get(),
            };
            return shared.reply(self.spec.group, origin, GatewayResult::Failed(error));
        }
        if self.is_held(shared) {
            return shared.reply(self.spec.group, origin, GatewayResult::Retry);
        }
        let blocks = u64::from(header.payload_blocks());
        let needed = blocks + margin_blocks(&shared.config.geometry);
        let has_room = |room: Room| room.free_blocks >= needed && room.room_blocks >= needed;
        if blocks > 0 && !self.all_have(shared, has_room) {
            // While collection can help, writers wait for it.
            let may_wait = self.all_have(shared, |room| room.room_blocks >= needed);
            let refusal = if may_wait || !self.is_full_for_sure(shared) {
                GatewayResult::Retry
            } else {
                GatewayResult::Failed(BlockError::NoSpace)
            };
            return shared.reply(self.spec.group, origin, refusal);
        }
        if blocks > 0 {
            self.full_since = None;
        }
        if shared.is_log_full(self.spec.group) {
            return shared.reply(self.spec.group, origin, GatewayResult::Retry);
        }
        self.holder_heard = shared.now;
        self.propose(shared, origin, header, payload);
    }

    /// Whether this replica can take proposals now; if not, the origin is told.
    pub(super) fn may_propose(&self, shared: &mut Shared, origin: Origin) -> bool {
        if !self.is_leader() {
            self.refuse_not_leading(shared, origin);
            return false;
        }
        if self.is_transferring() {
            shared.reply(self.spec.group, origin, GatewayResult::Retry);
            return false;
        }
        true
    }

    pub(super) fn propose(&mut self, shared: &mut Shared, origin: Origin, header: &EntryHeader, payload: Bytes) {
        let data = header.encode().to_vec();
        if let Err(error) = self.node.propose(Vec::new(), data) {
            tracing::debug!(group = %self.spec.group, %error, "proposal dropped");
            return shared.reply(self.spec.group, origin, GatewayResult::Retry);
        }
        let bytes = payload.len() as u64;
        let (index, term) = self.note_proposal(shared, origin, bytes);
        if !payload.is_empty() {
            self.staged.insert((index, term), payload);
        }
    }

    /// Remembers who waits for the entry that raft-rs has just appended.
    pub(super) fn note_proposal(&mut self, shared: &Shared, origin: Origin, bytes: u64) -> (u64, u64) {
        let index = self.node.raft.raft_log.last_index();
        let term = self.term();
        self.proposal_bytes += bytes;
        self.proposals.insert(
            index,
            Proposal {
                term,
                origin,
                since: shared.now,
                bytes,
            },
        );
        (index, term)
    }

    fn attach(&mut self, shared: &mut Shared, origin: Origin, holder: NodeId, mode: AttachMode, requester: NodeId) {
        if !self.may_propose(shared, origin) {
            return;
        }
        if !self.leads_with_all_applied() {
            // Only then is the holder that is known here the one that rules.
            return shared.reply(self.spec.group, origin, GatewayResult::Retry);
        }
        let is_held_by_other = !self.holder.is_nil() && self.holder != requester;
        let is_holder_alive = self.is_holder_alive(shared);
        let refusal = match mode {
            AttachMode::Take if is_held_by_other && is_holder_alive => Some(BlockError::Busy {
                holder: self.holder.to_string(),
            }),
            AttachMode::Resume if self.holder != requester && !mutated!(shared.seeded, ResumesAfterTheft) => {
                Some(BlockError::Fenced {
                    current: self.epoch.get(),
                })
            }
            AttachMode::Take | AttachMode::Resume | AttachMode::Force => None,
        };
        match refusal {
            Some(error) => shared.reply(self.spec.group, origin, GatewayResult::Failed(error)),
            None => {
                let header = EntryHeader::Attach {
                    epoch: self.epoch.next(),
                    holder,
                };
                self.propose(shared, origin, &header, Bytes::new());
            }
        }
    }

    fn is_holder_alive(&self, shared: &Shared) -> bool {
        shared.now.since(self.holder_heard) < shared.config.timing.holder_timeout
    }

    fn detach(&mut self, shared: &mut Shared, origin: Origin, epoch: Epoch) {
        if !self.may_propose(shared, origin) {
            return;
        }
        if epoch != self.epoch {
            // Another attachment rules by now: there is nothing to give back.
            return shared.reply(self.spec.group, origin, GatewayResult::Done);
        }
        let header = EntryHeader::Attach {
            epoch: epoch.next(),
            holder: NodeId::NIL,
        };
        self.propose(shared, origin, &header, Bytes::new());
    }

    /// Makes the volume larger. Requests are held to what is *applied*: an entry for a block beyond the old end follows the
    /// entry that moved the end in every log that holds it, so that no replica can meet it first.
    pub(crate) fn resize(&mut self, shared: &mut Shared, id: CommandId, size_blocks: u64) {
        let origin = Origin::Command(id);
        if !self.may_propose(shared, origin) {
            return;
        }
        let present = self.map.size_blocks();
        if self.is_external() || size_blocks > LBA_END_MAX {
            let reason = format!("a volume has 1 to 2^51 blocks, and the meta group none: {size_blocks} is no size");
            return shared.end_command(id, Err(CommandError::Refused(reason)));
        }
        if size_blocks <= present {
            return shared.end_command(id, Ok(CommandReply::Done));
        }
        self.propose(shared, origin, &EntryHeader::Resize { size_blocks }, Bytes::new());
    }

    /// Commits a command of the external state machine.
    pub(crate) fn propose_command(&mut self, shared: &mut Shared, origin: Origin, data: &Bytes) {
        if !self.may_propose(shared, origin) {
            return;
        }
        let length_max = (ENTRY_BLOCKS_MAX * BLOCK_SIZE) as usize;
        if data.is_empty() || data.len() > length_max {
            let error = BlockError::Invalid("a command has from 1 byte to 1 MiB");
            return shared.reply(self.spec.group, origin, GatewayResult::Failed(error));
        }
        let padded_length = data.len().next_multiple_of(BLOCK_SIZE as usize);
        let mut padded = BytesMut::with_capacity(padded_length);
        padded.extend_from_slice(data);
        padded.resize(padded_length, 0);
        let needed = padded_length as u64 / BLOCK_BYTES + margin_blocks(&shared.config.geometry);
        if !self.all_have(shared, |room| room.free_blocks >= needed) {
            return shared.reply(self.spec.group, origin, GatewayResult::Failed(BlockError::NoSpace));
        }
        #[allow(clippy::cast_possible_truncation, reason = "at most 1 MiB, checked above")]
        let header = EntryHeader::Command {
            length: data.len() as u32,
            block_crcs: block_crcs(&padded),
        };
        self.propose(shared, origin, &header, padded.freeze());
    }

    /// Replies when everything committed before has been handed to the external state machine.
    pub(crate) fn barrier(&mut self, shared: &mut Shared, origin: Origin) {
        self.query(shared, origin, Query::Barrier);
    }
}
