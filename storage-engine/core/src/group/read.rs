//! Reads at the leader: under the lease, else through ReadIndex; then from the places that the map gives.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_api::block::{Allocation, BlockError, StatusExtent};
use cairn_api::ids::SnapshotId;
use cairn_api::units::{BLOCK_BYTES, Lba};
use cairn_format::peer::{BlockPiece, GatewayResult, RepairSource};
use raft::ReadState;

use super::Group;
use crate::event::DiskFault;
use crate::map::{Run, View};
use crate::mutation::mutated;
use crate::repair::ask::Loss;
use crate::repair::{Consumer, Outcome};
use crate::shared::{Origin, Purpose, Shared, blocks_match};
use crate::time::Timestamp;

/// What is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Query {
    Blocks {
        lba: Lba,
        blocks: u32,
        snapshot: Option<SnapshotId>,
    },
    Status {
        lba: Lba,
        blocks: u64,
        extents_max: u32,
        snapshot: Option<SnapshotId>,
    },
    /// Everything committed so far has been handed to the external state machine.
    Barrier,
}

/// A read that waits for Raft to confirm that this replica still leads.
struct Confirming {
    token: u64,
    origin: Origin,
    query: Query,
    /// Known once confirmed; waits for it to be applied.
    index: Option<u64>,
    since: Timestamp,
}

enum Piece {
    Pending {
        lba: Lba,
        /// The disk's.
        block: u64,
        crcs: Vec<u32>,
    },
    Data(Bytes),
    /// Blocks of which some came from a peer.
    Repaired(Vec<Bytes>),
    Zeros(u32),
}

/// A read whose blocks are on their way from the disk.
struct Gathering {
    origin: Origin,
    /// Of data, not of zeros.
    bytes: usize,
    pieces: Vec<Piece>,
    missing: usize,
    /// The read has failed, or must be asked again.
    failure: Option<GatewayResult>,
}

#[derive(Default)]
pub(super) struct Reads {
    token_last: u64,
    confirming: Vec<Confirming>,
    gathering: BTreeMap<u64, Gathering>,
    read_last: u64,
}

impl Group {
    /// A leader's answer to a read, now or when Raft has confirmed that it leads.
    pub(super) fn query(&mut self, shared: &mut Shared, origin: Origin, query: Query) {
        let may_read_early = self.is_leader() && mutated!(shared.seeded, ReadsBeforeOwnTerm);
        if !self.leads_with_all_applied() && !may_read_early {
            return match self.is_leader() {
                true => shared.reply(self.spec.group, origin, GatewayResult::Retry),
                false => self.refuse_not_leading(shared, origin),
            };
        }
        let is_leased = self.lease_end(shared).is_some_and(|end| shared.now < end);
        if is_leased || mutated!(shared.seeded, ReadsWithoutLease) {
            let committed = self.node.raft.raft_log.committed;
            return self.answer(shared, origin, query, committed);
        }
        self.reads.token_last += 1;
        let token = self.reads.token_last;
        self.reads.confirming.push(Confirming {
            token,
            origin,
            query,
            index: None,
            since: shared.now,
        });
        self.node.read_index(token.to_le_bytes().to_vec());
    }

    /// Until when nobody else can lead, by the clock of this core; `None` for who holds no lease.
    pub(crate) fn lease_end(&self, shared: &Shared) -> Option<Timestamp> {
        let others = self.other_voters();
        let since = self.lease.held_since(self.term(), others, shared.now)?;
        let mut lease = shared.config.timing.lease();
        if mutated!(shared.seeded, LeaseTooLong) {
            lease *= 4;
        }
        self.is_leader().then(|| since.after(lease))
    }

    /// Everything up to `index` must be visible to the answer.
    fn answer(&mut self, shared: &mut Shared, origin: Origin, query: Query, index: u64) {
        match query {
            Query::Barrier => self.external_barrier(shared, index, origin),
            // A gateway that waits in vain asks again: its answers would pile up before a link that is slow.
            Query::Blocks { .. } if matches!(origin, Origin::Peer(disk, _) if shared.is_link_full(disk)) => {
                shared.reply(self.spec.group, origin, GatewayResult::Retry);
            }
            // A write is acknowledged when it is applied here, so that what is applied is all that anyone was told of.
            Query::Blocks { lba, blocks, snapshot } => self.read_blocks(shared, origin, (lba, blocks), snapshot),
            Query::Status {
                lba,
                blocks,
                extents_max,
                snapshot,
            } => {
                let result = match self.view(snapshot, lba, blocks) {
                    Ok(view) => GatewayResult::Status(status_extents(view, lba, blocks, extents_max)),
                    Err(error) => GatewayResult::Failed(error),
                };
                shared.reply(self.spec.group, origin, result);
            }
        }
    }

    pub(super) fn note_read_states(&mut self, shared: &mut Shared, states: Vec<ReadState>) {
        for state in states {
            let Ok(token) = state.request_ctx.as_slice().try_into().map(u64::from_le_bytes) else {
                continue;
            };
            for waiting in &mut self.reads.confirming {
                if waiting.token == token {
                    waiting.index = Some(state.index);
                }
            }
        }
        self.release_confirmed(shared);
    }

    fn release_confirmed(&mut self, shared: &mut Shared) {
        if self.reads.confirming.is_empty() {
            return;
        }
        let applied = self.applied;
        let is_due = |waiting: &Confirming| waiting.index.is_some_and(|index| index <= applied);
        let (due, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.reads.confirming).into_iter().partition(is_due);
        self.reads.confirming = waiting;
        for read in due {
            self.answer(shared, read.origin, read.query, read.index.unwrap_or(applied));
        }
    }

    /// Reads that Raft has not confirmed in an election time-out are asked again by their gateways.
    pub(super) fn expire_reads(&mut self, shared: &mut Shared) {
        let timeout = shared.config.timing.election_timeout();
        let now = shared.now;
        let is_old = |waiting: &Confirming| now.since(waiting.since) > timeout;
        let (old, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.reads.confirming).into_iter().partition(is_old);
        self.reads.confirming = waiting;
        for read in old {
            shared.reply(self.spec.group, read.origin, GatewayResult::Retry);
        }
    }

    /// The group is dropped: what is being read for its clients will not be answered.
    pub(super) fn forget_gathering(&mut self, shared: &mut Shared) {
        for (_, gathering) in std::mem::take(&mut self.reads.gathering) {
            shared.read_ended(gathering.origin, gathering.bytes);
        }
    }

    pub(super) fn abandon_reads(&mut self, shared: &mut Shared) {
        for read in std::mem::take(&mut self.reads.confirming) {
            self.refuse_not_leading(shared, read.origin);
        }
    }

    /// What is read: a snapshot that is there, or the volume as it is. Whoever answers has applied all that anybody was told
    /// of, so that a snapshot which is not there was deleted, or was never made.
    fn view(&self, snapshot: Option<SnapshotId>, lba: Lba, blocks: u64) -> Result<View<'_>, BlockError> {
        let Some(snapshot) = snapshot else {
            return Ok(self.map.now());
        };
        let view = self.map.snapshot(snapshot);
        let view = view.ok_or_else(|| BlockError::Io(format!("there is no snapshot {snapshot} of the volume")))?;
        if lba.0 + blocks > view.size_blocks() {
            return Err(BlockError::OutOfRange {
                offset: lba.0 * BLOCK_BYTES,
                length: blocks * BLOCK_BYTES,
                size_bytes: view.size_blocks() * BLOCK_BYTES,
            });
        }
        Ok(view)
    }

    fn read_blocks(
        &mut self,
        shared: &mut Shared,
        origin: Origin,
        (lba, blocks): (Lba, u32),
        snapshot: Option<SnapshotId>,
    ) {
        let view = match self.view(snapshot, lba, u64::from(blocks)) {
            Ok(view) => view,
            Err(error) => return shared.reply(self.spec.group, origin, GatewayResult::Failed(error)),
        };
        let mut pieces = Vec::new();
        let mut places = Vec::new();
        for run in view.runs(lba, u64::from(blocks)) {
            #[allow(clippy::cast_possible_truncation, reason = "a run of a read of at most 256 blocks")]
            let run_blocks = run.blocks() as u32;
            match run {
                Run::Data { lba, block, crcs, .. } => {
                    places.push((pieces.len(), block, run_blocks));
                    pieces.push(Piece::Pending {
                        lba,
                        block: block.0,
                        crcs: crcs.into_owned(),
                    });
                }
                Run::Zeros { .. } | Run::Trimmed { .. } | Run::Hole { .. } => match pieces.last_mut() {
                    Some(Piece::Zeros(count)) => *count += run_blocks,
                    _ => pieces.push(Piece::Zeros(run_blocks)),
                },
            }
        }
        let bytes: u64 = places
            .iter()
            .map(|(_, _, blocks)| u64::from(*blocks) * BLOCK_BYTES)
            .sum();
        let gathering = Gathering {
            origin,
            bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
            pieces,
            missing: places.len(),
            failure: None,
        };
        if places.is_empty() {
            return self.finish_read(shared, gathering);
        }
        self.reads.read_last += 1;
        let read = self.reads.read_last;
        shared.read_begun(origin, gathering.bytes);
        self.reads.gathering.insert(read, gathering);
        for (piece, block, run_blocks) in places {
            let purpose = Purpose::BlockRead {
                group: self.spec.group,
                read,
                piece,
            };
            #[allow(clippy::cast_possible_truncation, reason = "at most 1 MiB")]
            shared.read_for_client(
                block.0 * BLOCK_BYTES,
                (u64::from(run_blocks) * BLOCK_BYTES) as u32,
                purpose,
            );
        }
    }

    /// A piece of a read has come from the disk.
    pub(crate) fn block_read(
        &mut self,
        shared: &mut Shared,
        read: u64,
        piece: usize,
        result: Result<Bytes, DiskFault>,
    ) {
        let Some(gathering) = self.reads.gathering.get_mut(&read) else {
            return;
        };
        let Some(Piece::Pending { lba, block, crcs }) = gathering.pieces.get_mut(piece) else {
            return;
        };
        let data = match result {
            Ok(data) if blocks_match(&data, crcs) || mutated!(shared.seeded, ReadUnchecked) => {
                return self.gathered(shared, read, piece, Ok(Piece::Data(data)));
            }
            result => result.ok(),
        };
        let loss = Loss {
            group: self.spec.group,
            source: RepairSource::Volume,
            at: lba.0,
            block: *block,
            crcs: std::mem::take(crcs),
            data,
        };
        self.find_lost(shared, &loss, Consumer::Read { read, piece });
    }

    /// What was lost of a piece is found, or will not be.
    pub(super) fn piece_repaired(&mut self, shared: &mut Shared, read: u64, piece: usize, outcome: Outcome) {
        let result = match outcome {
            Outcome::Found(blocks) => Ok(Piece::Repaired(blocks)),
            Outcome::Unanswered => Err(GatewayResult::Retry),
            Outcome::Lost { at } => {
                let reason = format!("block {at} of the volume is damaged on every replica that answers");
                Err(GatewayResult::Failed(BlockError::Io(reason)))
            }
        };
        self.gathered(shared, read, piece, result);
    }

    fn gathered(&mut self, shared: &mut Shared, read: u64, piece: usize, result: Result<Piece, GatewayResult>) {
        let Some(gathering) = self.reads.gathering.get_mut(&read) else {
            return;
        };
        gathering.missing -= 1;
        match result {
            Ok(ready) => gathering.pieces[piece] = ready,
            // A block that is lost for good is said to be, even if others are still being looked for.
            Err(failure) if !matches!(gathering.failure, Some(GatewayResult::Failed(_))) => {
                gathering.failure = Some(failure);
            }
            Err(_) => {}
        }
        if gathering.missing == 0
            && let Some(done) = self.reads.gathering.remove(&read)
        {
            shared.read_ended(done.origin, done.bytes);
            self.finish_read(shared, done);
        }
    }

    fn finish_read(&self, shared: &mut Shared, done: Gathering) {
        let pieces = || done.pieces.into_iter().flat_map(Piece::ready).collect();
        let result = done.failure.unwrap_or_else(|| GatewayResult::Read(pieces()));
        shared.reply(self.spec.group, done.origin, result);
    }
}

fn status_extents(view: View<'_>, lba: Lba, blocks: u64, extents_max: u32) -> Vec<StatusExtent> {
    let mut extents: Vec<StatusExtent> = Vec::new();
    for run in view.runs(lba, blocks) {
        let allocation = match run {
            Run::Data { .. } => Allocation::Data,
            Run::Zeros { .. } => Allocation::Zero,
            Run::Hole { .. } | Run::Trimmed { .. } => Allocation::Hole,
        };
        let length = run.blocks() * BLOCK_BYTES;
        let is_full = extents.len() >= extents_max.max(1) as usize;
        match extents.last_mut() {
            Some(last) if last.allocation == allocation => last.length += length,
            _ if is_full => break,
            _ => extents.push(StatusExtent { length, allocation }),
        }
    }
    extents
}

impl Piece {
    fn ready(self) -> Vec<BlockPiece> {
        match self {
            Self::Data(data) => vec![BlockPiece::Data(data)],
            Self::Repaired(blocks) => blocks.into_iter().map(BlockPiece::Data).collect(),
            Self::Zeros(blocks) => vec![BlockPiece::Zeros(blocks)],
            Self::Pending { .. } => Vec::new(),
        }
    }
}
