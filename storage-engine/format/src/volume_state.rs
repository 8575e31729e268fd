//! All of a volume's replicated state at one index of its log but its blocks: what a replica that is brought up without the
//! log starts from.

use bytes::{BufMut, BytesMut};
use cairn_api::ids::{Epoch, LogIndex, NodeId, ReplicaId, SnapshotId, Term};

use crate::base::{BASE_BYTES, Base, put_base, take_base};
use crate::entry::LBA_END_MAX;
use crate::error::FormatError;
use crate::member::{MEMBER_BYTES, MEMBERS_MAX, Member};
use crate::wire::Reader;

/// The most snapshots that a volume's state can name: with one block of each under one address a reply still fits a frame of
/// the peer wire, and all of them together a record of the log.
pub const STATE_SNAPSHOTS_MAX: usize = 1023;

/// The fields in front of the members, in bytes.
const FIXED_BYTES: usize = 84 + BASE_BYTES;
const SNAPSHOT_BYTES: usize = 24;

/// A snapshot that is part of the state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StateSnapshot {
    /// Its id.
    pub id: SnapshotId,
    /// The index of the entry that made it.
    pub at: LogIndex,
    /// The volume's size then, in blocks.
    pub size_blocks: u64,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeState {
    /// The index of the last entry whose effect is in it.
    pub index: LogIndex,
    /// That entry's term.
    pub term: Term,
    /// The attachment's epoch.
    pub epoch: Epoch,
    /// Who writes; [`NodeId::NIL`] for nobody.
    pub holder: NodeId,
    /// The size in blocks.
    pub size_blocks: u64,
    /// What it shows where it has nothing, if it is a clone that is not whole yet.
    pub base: Option<Base>,
    /// Up to which block it is filled, or was when it became whole; 0 for a volume that is no clone.
    pub filled_blocks: u64,
    /// The highest id of a snapshot that was ever made or deleted: those up to there are spent.
    pub snapshot_last: SnapshotId,
    /// The index of the last change of the members; 0 where there was none.
    pub revision: LogIndex,
    /// The highest number that any replica ever had.
    pub replica_last: ReplicaId,
    /// Those whose disks and votes count; 1 to [`MEMBERS_MAX`].
    pub voters: Vec<Member>,
    /// Those who only learn; at most [`MEMBERS_MAX`].
    pub learners: Vec<Member>,
    /// The snapshots that are not deleted, oldest first, all made by this index; at most [`STATE_SNAPSHOTS_MAX`].
    pub snapshots: Vec<StateSnapshot>,
}

impl VolumeState {
    /// Whether the replica is a member, voter or learner.
    pub fn has_member(&self, replica: ReplicaId) -> bool {
        let mut members = self.voters.iter().chain(&self.learners);
        members.any(|member| member.replica == replica)
    }

    pub(crate) const fn encoded_len(&self) -> usize {
        let members = MEMBER_BYTES * (self.voters.len() + self.learners.len());
        FIXED_BYTES + members + SNAPSHOT_BYTES * self.snapshots.len()
    }

    /// # Panics
    /// If the members break the bounds that their fields state.
    pub(crate) fn encode_into(&self, buffer: &mut BytesMut) {
        assert!((1..=MEMBERS_MAX).contains(&self.voters.len()), "1 to 16 voters");
        assert!(self.learners.len() <= MEMBERS_MAX, "at most 16 learners");
        for field in [self.index.0, self.term.0, self.epoch.0] {
            buffer.put_u64_le(field);
        }
        buffer.put_slice(&self.holder.to_bytes());
        assert!(
            self.are_snapshots_sound(),
            "at most 1,023 snapshots, in the order of their indices"
        );
        for field in [
            self.size_blocks,
            self.filled_blocks,
            self.snapshot_last.0,
            self.revision.0,
            self.replica_last.0,
        ] {
            buffer.put_u64_le(field);
        }
        put_base(buffer, self.base.as_ref());
        for members in [&self.voters, &self.learners] {
            #[allow(clippy::cast_possible_truncation, reason = "asserted above")]
            buffer.put_u8(members.len() as u8);
        }
        #[allow(clippy::cast_possible_truncation, reason = "asserted above")]
        buffer.put_u16_le(self.snapshots.len() as u16);
        for member in self.voters.iter().chain(&self.learners) {
            member.encode_into(buffer);
        }
        for snapshot in &self.snapshots {
            for field in [snapshot.id.0, snapshot.at.0, snapshot.size_blocks] {
                buffer.put_u64_le(field);
            }
        }
    }

    fn are_snapshots_sound(&self) -> bool {
        let is_rising = self.snapshots.windows(2).all(|pair| pair[0].at < pair[1].at);
        let are_older = self.snapshots.last().is_none_or(|last| last.at <= self.index);
        is_rising && are_older && self.snapshots.len() <= STATE_SNAPSHOTS_MAX
    }

    pub(crate) fn take(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let index = LogIndex(reader.u64("index of the state")?);
        let term = Term(reader.u64("term of the state")?);
        let epoch = Epoch(reader.u64("epoch")?);
        let holder = reader.node("holder")?;
        let size_blocks = reader.u64("size")?;
        if size_blocks == 0 || size_blocks > LBA_END_MAX {
            return Err(reader.out_of_range("size", size_blocks, "1 to 2^51 blocks"));
        }
        let filled_blocks = reader.u64("blocks filled")?;
        let snapshot_last = SnapshotId(reader.u64("highest snapshot")?);
        let revision = LogIndex(reader.u64("revision of the members")?);
        let replica_last = ReplicaId(reader.u64("highest replica number")?);
        let base = take_base(reader)?;
        let voters = usize::from(reader.u8("voter count")?);
        let learners = usize::from(reader.u8("learner count")?);
        if !(1..=MEMBERS_MAX).contains(&voters) {
            return Err(reader.out_of_range("voter count", voters as u64, "1 to 16"));
        }
        if learners > MEMBERS_MAX {
            return Err(reader.out_of_range("learner count", learners as u64, "at most 16"));
        }
        let snapshots = usize::from(reader.u16("snapshot count")?);
        if snapshots > STATE_SNAPSHOTS_MAX {
            return Err(reader.out_of_range("snapshot count", snapshots as u64, "at most 1,023"));
        }
        let mut take = |count: usize| (0..count).map(|_| Member::take(reader)).collect::<Result<Vec<_>, _>>();
        let (voters, learners) = (take(voters)?, take(learners)?);
        let take = |_| take_snapshot(reader);
        let state = Self {
            index,
            term,
            epoch,
            holder,
            size_blocks,
            base,
            filled_blocks,
            snapshot_last,
            revision,
            replica_last,
            voters,
            learners,
            snapshots: (0..snapshots).map(take).collect::<Result<_, _>>()?,
        };
        if !state.are_snapshots_sound() {
            let expected = "rising indices, none above that of the state";
            return Err(reader.out_of_range("snapshots", snapshots as u64, expected));
        }
        Ok(state)
    }
}

fn take_snapshot(reader: &mut Reader<'_>) -> Result<StateSnapshot, FormatError> {
    Ok(StateSnapshot {
        id: SnapshotId(reader.u64("snapshot")?),
        at: LogIndex(reader.u64("index of the snapshot")?),
        size_blocks: reader.u64("size of the snapshot")?,
    })
}
