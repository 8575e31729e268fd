//! The members of a group, and the changes of them that stand in its log.

use bytes::{BufMut, BytesMut};
use cairn_api::ids::{DiskId, NodeId, ReplicaId};

use crate::error::FormatError;
use crate::wire::Reader;

/// A group has at most so many members (5 voters, and room for replacements on their way).
pub const MEMBERS_MAX: usize = 16;
/// Length of an encoded member.
pub(crate) const MEMBER_BYTES: usize = 40;

const CHANGE_ADD_LEARNER: u8 = 1;
const CHANGE_PROMOTE: u8 = 2;
const CHANGE_REMOVE: u8 = 3;
const CHANGES_KNOWN: &str = "1 add learner, 2 promote, 3 remove";

/// A member of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its number in the group.
    pub replica: ReplicaId,
    /// The node it is on.
    pub node: NodeId,
    /// The disk, and with it the core, that it is on.
    pub disk: DiskId,
}

impl Member {
    pub(crate) fn encode_into(&self, buffer: &mut BytesMut) {
        buffer.put_u64_le(self.replica.0);
        buffer.put_slice(&self.node.to_bytes());
        buffer.put_slice(&self.disk.to_bytes());
    }

    pub(crate) fn take(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            replica: ReplicaId(reader.u64("replica")?),
            node: reader.node("node")?,
            disk: reader.disk("disk")?,
        })
    }
}

/// One step from a group's members to the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberChange {
    /// A new replica, under a number that was never used in the group, learns the log. It does not count yet.
    AddLearner(Member),
    /// A learner that has caught up becomes a voter.
    Promote(ReplicaId),
    /// A voter or learner is no member any more. Its number is never used again.
    Remove(ReplicaId),
}

impl MemberChange {
    /// The replica it is about.
    pub const fn replica(&self) -> ReplicaId {
        match self {
            Self::AddLearner(member) => member.replica,
            Self::Promote(replica) | Self::Remove(replica) => *replica,
        }
    }

    pub(crate) const fn encoded_len(&self) -> usize {
        1 + match self {
            Self::AddLearner(_) => MEMBER_BYTES,
            Self::Promote(_) | Self::Remove(_) => 8,
        }
    }

    /// # Panics
    /// If the replica's number is 0, which names nobody.
    pub(crate) fn encode_into(&self, buffer: &mut BytesMut) {
        assert!(self.replica().0 != 0, "a change of a replica that has a number");
        match self {
            Self::AddLearner(member) => {
                buffer.put_u8(CHANGE_ADD_LEARNER);
                member.encode_into(buffer);
            }
            Self::Promote(replica) => {
                buffer.put_u8(CHANGE_PROMOTE);
                buffer.put_u64_le(replica.0);
            }
            Self::Remove(replica) => {
                buffer.put_u8(CHANGE_REMOVE);
                buffer.put_u64_le(replica.0);
            }
        }
    }

    pub(crate) fn take(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let change = match reader.u8("change of members")? {
            CHANGE_ADD_LEARNER => Self::AddLearner(Member::take(reader)?),
            CHANGE_PROMOTE => Self::Promote(ReplicaId(reader.u64("replica")?)),
            CHANGE_REMOVE => Self::Remove(ReplicaId(reader.u64("replica")?)),
            found => return Err(reader.unknown("change of members", u64::from(found), CHANGES_KNOWN)),
        };
        if change.replica().0 == 0 {
            return Err(reader.out_of_range("replica", 0, "at least 1"));
        }
        Ok(change)
    }
}
