//! The table of a checkpoint: everything that a disk's replicas are, but for the slots of their maps, whose pages it names.
//!
//! It is one run of bytes, cut into chunks ([`crate::chunk`]) of which each names the one before.

use bytes::{BufMut, Bytes, BytesMut};
use cairn_api::ids::{Epoch, GroupId, LogIndex, NodeId, ReplicaId, SnapshotId, Term};

use crate::base::{Base, put_base, take_base};
use crate::entry::HEADER_BYTES_MAX;
use crate::error::FormatError;
use crate::member::{MEMBERS_MAX, Member};
use crate::page::{LeafKey, U48_END};
use crate::wire::Reader;

const STRUCTURE: &str = "checkpoint table";
const VERSION: u16 = 1;
/// Bytes of an encoded [`LeafPlace`].
const LEAF_BYTES: usize = 36;

/// The whole table.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Table {
    /// The replicas on the disk, in the order of their groups.
    pub groups: Vec<TableGroup>,
    /// The number under which each group was last dropped.
    pub dropped: Vec<(GroupId, ReplicaId)>,
    /// Where each leaf of each map is.
    pub leaves: Vec<LeafPlace>,
    /// The segments that may be taken, as ranges: the first, and how many.
    pub free: Vec<(u32, u32)>,
    /// The sequence of the first frame that was composed later: moves that older ones record are contained.
    pub next_sequence: u64,
}

/// A replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableGroup {
    /// Its group.
    pub group: GroupId,
    /// Size in blocks at its creation; 0 for the meta group.
    pub created_blocks: u64,
    /// The base that it was created with, if it is a clone.
    pub created_base: Option<Base>,
    /// The members at the beginning of the group's log.
    pub created_members: Vec<Member>,
    /// The replica's number.
    pub replica: ReplicaId,
    /// Who votes, as far as the log is applied.
    pub voters: Vec<Member>,
    /// Who only learns.
    pub learners: Vec<Member>,
    /// The index of the last change of members.
    pub revision: LogIndex,
    /// The highest number that any replica of the group ever had.
    pub replica_last: ReplicaId,
    /// The attachment's epoch.
    pub epoch: Epoch,
    /// Its holder.
    pub holder: NodeId,
    /// The last index that is applied, and its term.
    pub applied: (LogIndex, Term),
    /// What the replica must not forget: term, vote, commit.
    pub hard_state: (Term, ReplicaId, LogIndex),
    /// The entry that its Raft log begins behind.
    pub begins_behind: (LogIndex, Term),
    /// The map's size in blocks now.
    pub size_blocks: u64,
    /// What it shows where it has nothing, if it is a clone that is not whole yet.
    pub base: Option<Base>,
    /// Up to which block it is filled, or was when it became whole; 0 for a volume that is no clone.
    pub filled_blocks: u64,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<TableSnapshot>,
    /// The highest id that any snapshot of it ever had.
    pub snapshot_last: SnapshotId,
    /// The sequence of the frame that created the replica.
    pub created_sequence: u64,
    /// Entries before the beginning of the disk's log that are kept all the same: those of the meta group.
    pub kept: Vec<KeptEntry>,
}

/// A snapshot of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableSnapshot {
    /// The Raft index of the entry that made it.
    pub at: u64,
    /// Its id.
    pub id: SnapshotId,
    /// The volume's size when it was made, in blocks.
    pub size_blocks: u64,
    /// It is being merged away.
    pub is_deleted: bool,
}

/// An entry that stands before the beginning of the disk's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptEntry {
    /// Its index.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// The disk's block of its payload; 0 if it has none.
    pub payload_block: u64,
    /// Its encoded header.
    pub header: Bytes,
}

/// Where a leaf's page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeafPlace {
    /// Whose.
    pub key: LeafKey,
    /// The page.
    pub page: PagePlace,
}

/// A stretch of bytes in an index segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PagePlace {
    /// The disk's block that it starts in.
    pub block: u64,
    /// Bytes from that block's start: below 4,096.
    pub at: u16,
    /// Its length in bytes.
    pub bytes: u16,
    /// Its checksum.
    pub crc: u32,
}

impl Table {
    /// Encodes the table.
    pub fn encode(&self) -> Bytes {
        let mut buffer = BytesMut::with_capacity(64 + LEAF_BYTES * self.leaves.len() + 512 * self.groups.len());
        buffer.put_u16_le(VERSION);
        buffer.put_u16_le(0); // flags
        buffer.put_u64_le(self.next_sequence);
        put_count(&mut buffer, self.groups.len());
        self.groups.iter().for_each(|group| group.encode_into(&mut buffer));
        put_count(&mut buffer, self.dropped.len());
        for (group, replica) in &self.dropped {
            buffer.put_u64_le(group.0);
            buffer.put_u64_le(replica.0);
        }
        put_count(&mut buffer, self.free.len());
        for (first, count) in &self.free {
            buffer.put_u32_le(*first);
            buffer.put_u32_le(*count);
        }
        put_count(&mut buffer, self.leaves.len());
        for LeafPlace { key, page } in &self.leaves {
            assert!(page.block < U48_END && page.at < 4096, "a place on a disk");
            buffer.put_u64_le(key.group.0);
            buffer.put_uint_le(key.owner, 6);
            buffer.put_u64_le(key.leaf);
            buffer.put_uint_le(page.block, 6);
            buffer.put_u16_le(page.at);
            buffer.put_u16_le(page.bytes);
            buffer.put_u32_le(page.crc);
        }
        buffer.freeze()
    }

    /// Decodes a table. Headers of kept entries are slices of `bytes`.
    pub fn decode(bytes: &Bytes) -> Result<Self, FormatError> {
        let mut reader = Reader::new(STRUCTURE, bytes);
        reader.version(VERSION)?;
        reader.no_flags()?;
        let next_sequence = reader.u64("sequence")?;
        let groups = take_list(&mut reader, "group count", 100, |reader| {
            TableGroup::take(reader, bytes)
        })?;
        let dropped = take_list(&mut reader, "count of dropped groups", 16, |reader| {
            Ok((GroupId(reader.u64("group")?), ReplicaId(reader.u64("replica")?)))
        })?;
        let free = take_list(&mut reader, "count of free ranges", 8, |reader| {
            Ok((reader.u32("segment")?, reader.u32("segments")?))
        })?;
        let leaves = take_list(&mut reader, "leaf count", LEAF_BYTES, take_leaf)?;
        reader.end()?;
        Ok(Self {
            groups,
            dropped,
            leaves,
            free,
            next_sequence,
        })
    }
}

#[allow(clippy::cast_possible_truncation, reason = "counts of what is in memory: below 2^32")]
fn put_count(buffer: &mut BytesMut, count: usize) {
    buffer.put_u32_le(count as u32);
}

/// A count, and so many things of at least `bytes_min` each.
fn take_list<T>(
    reader: &mut Reader<'_>,
    field: &'static str,
    bytes_min: usize,
    mut take: impl FnMut(&mut Reader<'_>) -> Result<T, FormatError>,
) -> Result<Vec<T>, FormatError> {
    let count = reader.u32(field)? as usize;
    if count > reader.remaining() / bytes_min {
        return Err(reader.out_of_range(field, count as u64, "no more than fit"));
    }
    let mut list = Vec::with_capacity(count);
    for _ in 0..count {
        list.push(take(reader)?);
    }
    Ok(list)
}

fn take_leaf(reader: &mut Reader<'_>) -> Result<LeafPlace, FormatError> {
    let key = LeafKey {
        group: GroupId(reader.u64("group")?),
        owner: reader.u48("owner")?,
        leaf: reader.u64("leaf")?,
    };
    let page = PagePlace {
        block: reader.u48("block of the page")?,
        at: reader.u16("place of the page")?,
        bytes: reader.u16("length of the page")?,
        crc: reader.u32("checksum of the page")?,
    };
    if page.at >= 4096 {
        return Err(reader.out_of_range("place of the page", u64::from(page.at), "below 4,096"));
    }
    Ok(LeafPlace { key, page })
}

fn put_members(buffer: &mut BytesMut, members: &[Member]) {
    assert!(members.len() <= MEMBERS_MAX, "at most 16 members");
    put_count(buffer, members.len());
    members.iter().for_each(|member| member.encode_into(buffer));
}

fn take_members(reader: &mut Reader<'_>) -> Result<Vec<Member>, FormatError> {
    let members = take_list(reader, "member count", 40, Member::take)?;
    if members.len() > MEMBERS_MAX {
        return Err(reader.out_of_range("member count", members.len() as u64, "at most 16"));
    }
    Ok(members)
}

impl TableGroup {
    fn encode_into(&self, buffer: &mut BytesMut) {
        for field in [
            self.group.0,
            self.created_blocks,
            self.replica.0,
            self.revision.0,
            self.replica_last.0,
            self.epoch.0,
            self.applied.0.0,
            self.applied.1.0,
            self.hard_state.0.0,
            self.hard_state.1.0,
            self.hard_state.2.0,
            self.begins_behind.0.0,
            self.begins_behind.1.0,
            self.size_blocks,
            self.filled_blocks,
            self.snapshot_last.0,
            self.created_sequence,
        ] {
            buffer.put_u64_le(field);
        }
        buffer.put_slice(&self.holder.to_bytes());
        put_base(buffer, self.created_base.as_ref());
        put_base(buffer, self.base.as_ref());
        put_members(buffer, &self.created_members);
        put_members(buffer, &self.voters);
        put_members(buffer, &self.learners);
        put_count(buffer, self.snapshots.len());
        for snapshot in &self.snapshots {
            for field in [snapshot.at, snapshot.id.0, snapshot.size_blocks] {
                buffer.put_u64_le(field);
            }
            buffer.put_u8(u8::from(snapshot.is_deleted));
        }
        put_count(buffer, self.kept.len());
        for entry in &self.kept {
            assert!(
                entry.header.len() <= HEADER_BYTES_MAX,
                "an entry header within its bound"
            );
            for field in [entry.index.0, entry.term.0, entry.payload_block] {
                buffer.put_u64_le(field);
            }
            put_count(buffer, entry.header.len());
            buffer.put_slice(&entry.header);
        }
    }

    fn take(reader: &mut Reader<'_>, bytes: &Bytes) -> Result<Self, FormatError> {
        let group = GroupId(reader.u64("group")?);
        let created_blocks = reader.u64("size at creation")?;
        let replica = ReplicaId(reader.u64("replica")?);
        let revision = LogIndex(reader.u64("revision")?);
        let replica_last = ReplicaId(reader.u64("last replica")?);
        let epoch = Epoch(reader.u64("epoch")?);
        let applied = (LogIndex(reader.u64("applied")?), Term(reader.u64("term of applied")?));
        let hard_state = (
            Term(reader.u64("term")?),
            ReplicaId(reader.u64("vote")?),
            LogIndex(reader.u64("commit")?),
        );
        let begins_behind = (
            LogIndex(reader.u64("beginning of the log")?),
            Term(reader.u64("term of the beginning")?),
        );
        Ok(Self {
            group,
            created_blocks,
            replica,
            revision,
            replica_last,
            epoch,
            applied,
            hard_state,
            begins_behind,
            size_blocks: reader.u64("size")?,
            filled_blocks: reader.u64("blocks filled")?,
            snapshot_last: SnapshotId(reader.u64("last snapshot")?),
            created_sequence: reader.u64("sequence of the creation")?,
            holder: reader.node("holder")?,
            created_base: take_base(reader)?,
            base: take_base(reader)?,
            created_members: take_members(reader)?,
            voters: take_members(reader)?,
            learners: take_members(reader)?,
            snapshots: take_list(reader, "count of snapshots", 25, take_snapshot)?,
            kept: take_list(reader, "count of kept entries", 28, |reader| take_kept(reader, bytes))?,
        })
    }
}

fn take_snapshot(reader: &mut Reader<'_>) -> Result<TableSnapshot, FormatError> {
    Ok(TableSnapshot {
        at: reader.u64("index of a snapshot")?,
        id: SnapshotId(reader.u64("snapshot")?),
        size_blocks: reader.u64("size of a snapshot")?,
        is_deleted: reader.bool("whether it is deleted")?,
    })
}

fn take_kept(reader: &mut Reader<'_>, bytes: &Bytes) -> Result<KeptEntry, FormatError> {
    let index = LogIndex(reader.u64("index")?);
    let term = Term(reader.u64("term")?);
    let payload_block = reader.u64("payload block")?;
    let length = reader.u32("length of the entry header")? as usize;
    if length > HEADER_BYTES_MAX {
        return Err(reader.out_of_range("length of the entry header", length as u64, "at most 1,280 bytes"));
    }
    let at = reader.position();
    reader.take("entry header", length)?;
    Ok(KeptEntry {
        index,
        term,
        payload_block,
        header: bytes.slice(at..at + length),
    })
}
