//! Reads at the leader: under the lease, else through ReadIndex; then from the places that the map gives.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_api::block::{Allocation, BlockError, StatusExtent};
use cairn_api::ids::{GroupId, SnapshotId};
use cairn_api::units::{BLOCK_BYTES, Lba};
use cairn_format::peer::{BlockPiece, GatewayResult, RepairSource};
use raft::ReadState;

use super::Group;
use super::flatten::FillPlan;
use crate::base::{self, Shown, ShownContent, ThroughBase};
use crate::event::DiskFault;
use crate::map::View;
use crate::mutation::mutated;
use crate::repair::Outcome;
use crate::repair::ask::Loss;
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

/// What the maps show of what is asked for.
pub(crate) enum Answer {
    Blocks(Vec<Shown<'static>>),
    Status(Vec<StatusExtent>),
}

enum Piece {
    Pending {
        /// The volume that the blocks are of: the one that is read, or one that it is a clone of.
        home: GroupId,
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

/// Who gets what was read.
enum Reader {
    Client(Origin),
    /// This replica, to fill the clone.
    Filling(FillPlan),
}

/// A read whose blocks are on their way from the disk.
struct Gathering {
    reader: Reader,
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
            Query::Blocks { .. } | Query::Status { .. } if self.map.base().is_some() => {
                let group = self.spec.group;
                shared.through_bases.push_back(ThroughBase { group, origin, query });
            }
            Query::Blocks { .. } | Query::Status { .. } => {
                let shown = self.shown(&BTreeMap::new(), query);
                self.answer_with(shared, origin, shown);
            }
        }
    }

    /// What the maps show of what is asked for, through the bases of a clone.
    pub(crate) fn shown(&self, groups: &BTreeMap<GroupId, Self>, query: Query) -> Result<Answer, GatewayResult> {
        let home = self.spec.group;
        match query {
            Query::Barrier => Err(GatewayResult::Retry),
            Query::Blocks { lba, blocks, snapshot } => {
                let blocks = u64::from(blocks);
                let view = self.view(snapshot, lba, blocks).map_err(GatewayResult::Failed)?;
                let mut found = Vec::new();
                base::walk(groups, (home, view), lba.0..lba.0 + blocks, &mut |shown| {
                    found.push(shown.into_owned());
                    true
                })?;
                Ok(Answer::Blocks(found))
            }
            Query::Status {
                lba,
                blocks,
                extents_max,
                snapshot,
            } => {
                let view = self.view(snapshot, lba, blocks).map_err(GatewayResult::Failed)?;
                let mut extents = Vec::new();
                base::walk(groups, (home, view), lba.0..lba.0 + blocks, &mut |shown| {
                    note_extent(&mut extents, &shown, extents_max)
                })?;
                Ok(Answer::Status(extents))
            }
        }
    }

    /// Answers with what the maps show.
    pub(crate) fn answer_with(&mut self, shared: &mut Shared, origin: Origin, shown: Result<Answer, GatewayResult>) {
        let result = match shown {
            Ok(Answer::Blocks(found)) => return self.gather(shared, Reader::Client(origin), found),
            Ok(Answer::Status(extents)) => GatewayResult::Status(extents),
            Err(result) => result,
        };
        shared.reply(self.spec.group, origin, result);
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
            if let Reader::Client(origin) = gathering.reader {
                shared.read_ended(origin, gathering.bytes);
            }
        }
    }

    pub(super) fn abandon_reads(&mut self, shared: &mut Shared) {
        for read in std::mem::take(&mut self.reads.confirming) {
            self.refuse_not_leading(shared, read.origin);
        }
    }

    /// What is read: a snapshot that is there, or the volume as it is. Whoever answers has applied all that anybody was told
    /// of, so that a snapshot which is not there was deleted, or was never made.
    pub(super) fn view(&self, snapshot: Option<SnapshotId>, lba: Lba, blocks: u64) -> Result<View<'_>, BlockError> {
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

    /// Reads what the maps have found from the disk.
    fn gather(&mut self, shared: &mut Shared, reader: Reader, found: Vec<Shown<'static>>) {
        let mut pieces = Vec::new();
        let mut places = Vec::new();
        for shown in found {
            #[allow(clippy::cast_possible_truncation, reason = "a run of a read of at most 256 blocks")]
            let run_blocks = shown.blocks as u32;
            match shown.content {
                ShownContent::Data { home, block, crcs } => {
                    places.push((pieces.len(), block, run_blocks));
                    pieces.push(Piece::Pending {
                        home,
                        lba: shown.lba,
                        block: block.0,
                        crcs: crcs.into_owned(),
                    });
                }
                ShownContent::Zeros(_) => match pieces.last_mut() {
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
            reader,
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
        if let Reader::Client(origin) = gathering.reader {
            shared.read_begun(origin, gathering.bytes);
        }
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

    /// Reads what is to be filled from the clone's base.
    pub(super) fn gather_fill(&mut self, shared: &mut Shared, mut plan: FillPlan) {
        let found = std::mem::take(&mut plan.found);
        self.gather(shared, Reader::Filling(plan), found);
    }

    /// A piece of a read has come from the disk. What is lost of it is to be asked for, of the replicas of its volume.
    pub(crate) fn block_read(
        &mut self,
        shared: &mut Shared,
        read: u64,
        piece: usize,
        result: Result<Bytes, DiskFault>,
    ) -> Option<Loss> {
        let gathering = self.reads.gathering.get_mut(&read)?;
        let Some(Piece::Pending { home, lba, block, crcs }) = gathering.pieces.get_mut(piece) else {
            return None;
        };
        let data = match result {
            Ok(data) if blocks_match(&data, crcs) || mutated!(shared.seeded, ReadUnchecked) => {
                self.gathered(shared, read, piece, Ok(Piece::Data(data)));
                return None;
            }
            result => result.ok(),
        };
        Some(Loss {
            group: *home,
            source: RepairSource::Volume,
            at: lba.0,
            block: *block,
            crcs: crcs.clone(),
            data,
        })
    }

    /// A volume is gone from this disk: what is being read of it for this one may never come.
    pub(crate) fn base_gone(&mut self, shared: &mut Shared, gone: GroupId) {
        let mut waiting = Vec::new();
        for (read, gathering) in &self.reads.gathering {
            for (piece, pending) in gathering.pieces.iter().enumerate() {
                if matches!(pending, Piece::Pending { home, .. } if *home == gone) {
                    waiting.push((*read, piece));
                }
            }
        }
        for (read, piece) in waiting {
            self.gathered(shared, read, piece, Err(GatewayResult::Retry));
        }
    }

    /// What was lost of a piece is found, or will not be.
    pub(crate) fn piece_repaired(&mut self, shared: &mut Shared, read: u64, piece: usize, outcome: Outcome) {
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
        if !matches!(gathering.pieces.get(piece), Some(Piece::Pending { .. })) {
            return;
        }
        gathering.missing -= 1;
        gathering.pieces[piece] = Piece::Zeros(0);
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
            if let Reader::Client(origin) = done.reader {
                shared.read_ended(origin, done.bytes);
            }
            self.finish_read(shared, done);
        }
    }

    fn finish_read(&mut self, shared: &mut Shared, done: Gathering) {
        let pieces: Vec<BlockPiece> = done.pieces.into_iter().flat_map(Piece::ready).collect();
        match done.reader {
            Reader::Client(origin) => {
                let result = done.failure.unwrap_or(GatewayResult::Read(pieces));
                shared.reply(self.spec.group, origin, result);
            }
            Reader::Filling(plan) => self.fill_read(shared, &plan, &pieces, done.failure.as_ref()),
        }
    }
}

/// Adds a stretch to the extents of a status; whether there is room for more.
fn note_extent(extents: &mut Vec<StatusExtent>, shown: &Shown<'_>, extents_max: u32) -> bool {
    let allocation = match shown.content {
        ShownContent::Data { .. } => Allocation::Data,
        ShownContent::Zeros(allocation) => allocation,
    };
    let length = shown.blocks * BLOCK_BYTES;
    let is_full = extents.len() >= extents_max.max(1) as usize;
    match extents.last_mut() {
        Some(last) if last.allocation == allocation => last.length += length,
        _ if is_full => return false,
        _ => extents.push(StatusExtent { length, allocation }),
    }
    true
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
