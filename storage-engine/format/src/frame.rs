//! The batch frame: the unit of writing, of durability and of recovery. A header of whole blocks, then the payload.
//!
//! The header is laid out as magic, chain value, fixed fields, records, zeros up to the next block. The **chain value**
//! makes the log one piece: its low half is the CRC32C of the header, its high half the CRC32C of the chain value
//! before and that low half. A frame therefore only fits behind the very frame it was composed to follow, and a
//! leftover of an earlier use of the same place cannot be taken for it. The payload is covered by the CRC32C of each
//! block, which stand in the entries' headers.

use bytes::{BufMut, Bytes, BytesMut};
use cairn_api::ids::{DiskId, GroupId, LogIndex, ReplicaId, Term};
use cairn_api::units::BLOCK_SIZE;

use crate::base::{BASE_BYTES, Base, put_base, take_base};
use crate::checksum::{crc32c, crc32c_append};
use crate::entry::{BlockCrcs, HEADER_BYTES_MAX};
use crate::error::FormatError;
use crate::member::{MEMBER_BYTES, MEMBERS_MAX, Member};
use crate::portion::{PORTION_BYTES_MAX, Portion};
use crate::sealed_block::aligned;
use crate::volume_state::VolumeState;
use crate::wire::Reader;

const STRUCTURE: &str = "frame";
const RECORD: &str = "frame record";
const MAGIC: u64 = u64::from_le_bytes(*b"CAIRNFRM");
const VERSION: u16 = 1;
/// The header's fixed fields, in bytes.
pub const FIXED_BYTES: usize = 104;
/// Where the bytes under the checksum begin: behind magic and chain value.
const CHECKED_FROM: usize = 16;
/// The longest header in blocks.
pub const HEADER_BLOCKS_MAX: u32 = 16;
/// The longest header in bytes: reading so much from a frame's offset is enough to decode it.
pub const FRAME_HEADER_BYTES_MAX: usize = (HEADER_BLOCKS_MAX * BLOCK_SIZE) as usize;
/// The longest payload in blocks: 4 MiB, so that a frame's write never keeps the disk from others for long.
pub const PAYLOAD_BLOCKS_MAX: u32 = 1024;
/// A frame is composed at most so many sequences ahead of what is durable: the largest window a writer may use.
pub const WINDOW_FRAMES_MAX: u64 = 64;

const RECORD_ENTRY: u8 = 1;
const RECORD_HARD_STATE: u8 = 2;
const RECORD_GROUP_DROPPED: u8 = 4;
/// Kind 3 was the same without the replica's own number, in builds before the first release.
const RECORD_GROUP_CREATED: u8 = 5;
const RECORD_STAGE_BEGIN: u8 = 15;
const RECORD_STAGE_BLOCKS: u8 = 16;
const RECORD_STAGE_DONE: u8 = 17;
const RECORD_MOVED: u8 = 20;
const RECORDS_KNOWN: &str = "1 entry, 2 hard state, 4 group dropped, 5 group created, 15 stage begin, 16 stage blocks, \
    17 stage done, 20 moved";
/// Kind, flags and length in front of each record.
const RECORD_HEAD_BYTES: usize = 4;
const ENTRY_FIXED_BYTES: usize = 32;
const HARD_STATE_BYTES: usize = 32;
const GROUP_CREATED_FIXED_BYTES: usize = 42 + BASE_BYTES;
const STAGE_BEGIN_BYTES: usize = 32;
const STAGE_BLOCKS_FIXED_BYTES: usize = 12;
const STAGE_DONE_FIXED_BYTES: usize = 8;
const MOVED_RUN_BYTES: usize = 24;
/// Runs that one record of moved blocks names at most.
pub const MOVED_RUNS_MAX: usize = 256;

/// One record of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FrameRecord {
    /// A Raft entry.
    Entry {
        /// Its group.
        group: GroupId,
        /// Its term.
        term: Term,
        /// Its index.
        index: LogIndex,
        /// Its payload's first block, counted from the start of the frame's payload; 0 where it has none.
        payload_offset: u32,
        /// The encoded [`crate::entry::EntryHeader`]; empty for Raft's own no-op.
        header: Bytes,
    },
    /// What a replica must not forget.
    HardState {
        /// Its group.
        group: GroupId,
        /// The current term.
        term: Term,
        /// Whom it voted for in that term; 0 for nobody.
        vote: ReplicaId,
        /// The highest index it knows to be committed.
        commit: LogIndex,
    },
    /// The disk holds a replica of this group from here on.
    GroupCreated {
        /// The group.
        group: GroupId,
        /// Size in blocks; 0 for the meta group.
        size_blocks: u64,
        /// What it shows where it has nothing, if it is a clone.
        base: Option<Base>,
        /// The members at the beginning of its log.
        members: Vec<Member>,
        /// The number of this replica. It is no member at the beginning if it came later.
        replica: ReplicaId,
        /// The index that its log starts behind.
        index: LogIndex,
        /// The term of that index.
        term: Term,
    },
    /// The disk holds no replica of this group from here on.
    GroupDropped {
        /// The group.
        group: GroupId,
    },
    /// A replica begins to receive a state, and forgets what it had received before.
    StageBegin {
        /// Its group.
        group: GroupId,
        /// The index of the mark whose state it is.
        mark: LogIndex,
        /// The mark's term.
        term: Term,
        /// Entries up to here are committed, and applied to the map that the replica has.
        have: LogIndex,
    },
    /// A portion of that state.
    StageBlocks {
        /// The group.
        group: GroupId,
        /// Its payload's first block, counted from the start of the frame's payload; 0 where it has none.
        payload_offset: u32,
        /// The portion.
        portion: Portion,
    },
    /// The state is complete, and takes the place of the replica's own; its log goes on behind it.
    StageDone {
        /// The group.
        group: GroupId,
        /// All of it but the blocks.
        state: VolumeState,
    },
    /// Collection has copied blocks of this group to another place. A slot that still names the old place names the new one
    /// from here on.
    Moved {
        /// The group.
        group: GroupId,
        /// The blocks; 1 to [`MOVED_RUNS_MAX`] runs.
        runs: Vec<MovedRun>,
    },
}

/// Blocks that lay together and lie together again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MovedRun {
    /// The first block of the volume.
    pub lba: u64,
    /// The disk's block where it was.
    pub from: u64,
    /// The disk's block where it is.
    pub to: u64,
    /// Blocks, at least 1.
    pub blocks: u32,
}

impl MovedRun {
    fn encode_into(&self, buffer: &mut BytesMut) {
        assert!(self.blocks > 0, "a run of blocks");
        buffer.put_u64_le(self.lba);
        buffer.put_uint_le(self.from, 6);
        buffer.put_uint_le(self.to, 6);
        buffer.put_u32_le(self.blocks);
    }
}

impl FrameRecord {
    /// Length of the encoded record in bytes.
    pub fn encoded_len(&self) -> usize {
        RECORD_HEAD_BYTES
            + match self {
                Self::Entry { header, .. } => ENTRY_FIXED_BYTES + header.len(),
                Self::HardState { .. } => HARD_STATE_BYTES,
                Self::GroupCreated { members, .. } => GROUP_CREATED_FIXED_BYTES + MEMBER_BYTES * members.len(),
                Self::GroupDropped { .. } => 8,
                Self::StageBegin { .. } => STAGE_BEGIN_BYTES,
                Self::StageBlocks { portion, .. } => STAGE_BLOCKS_FIXED_BYTES + portion.encoded_len(),
                Self::StageDone { state, .. } => STAGE_DONE_FIXED_BYTES + state.encoded_len(),
                Self::Moved { runs, .. } => 8 + MOVED_RUN_BYTES * runs.len(),
            }
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Entry { .. } => RECORD_ENTRY,
            Self::HardState { .. } => RECORD_HARD_STATE,
            Self::GroupCreated { .. } => RECORD_GROUP_CREATED,
            Self::GroupDropped { .. } => RECORD_GROUP_DROPPED,
            Self::StageBegin { .. } => RECORD_STAGE_BEGIN,
            Self::StageBlocks { .. } => RECORD_STAGE_BLOCKS,
            Self::StageDone { .. } => RECORD_STAGE_DONE,
            Self::Moved { .. } => RECORD_MOVED,
        }
    }

    #[allow(
        clippy::cast_possible_truncation,
        reason = "the lengths are asserted before they are written"
    )]
    fn encode_into(&self, buffer: &mut BytesMut) {
        buffer.put_u8(self.kind());
        buffer.put_u8(0); // flags
        buffer.put_u16_le((self.encoded_len() - RECORD_HEAD_BYTES) as u16);
        match self {
            Self::Entry {
                group,
                term,
                index,
                payload_offset,
                header,
            } => {
                assert!(header.len() <= HEADER_BYTES_MAX, "an entry header within its bound");
                buffer.put_u64_le(group.0);
                buffer.put_u64_le(term.0);
                buffer.put_u64_le(index.0);
                buffer.put_u32_le(*payload_offset);
                buffer.put_u32_le(0); // room for the birth epoch's place
                buffer.put_slice(header);
            }
            Self::HardState {
                group,
                term,
                vote,
                commit,
            } => put_fields(buffer, [group.0, term.0, vote.0, commit.0]),
            Self::GroupCreated {
                group,
                size_blocks,
                base,
                members,
                replica,
                index,
                term,
            } => {
                assert!((1..=MEMBERS_MAX).contains(&members.len()), "a group of 1 to 16 members");
                put_fields(buffer, [group.0, *size_blocks, index.0, term.0, replica.0]);
                put_base(buffer, base.as_ref());
                buffer.put_u16_le(members.len() as u16);
                for member in members {
                    member.encode_into(buffer);
                }
            }
            Self::GroupDropped { group } => buffer.put_u64_le(group.0),
            Self::StageBegin {
                group,
                mark,
                term,
                have,
            } => put_fields(buffer, [group.0, mark.0, term.0, have.0]),
            Self::StageBlocks {
                group,
                payload_offset,
                portion,
            } => {
                buffer.put_u64_le(group.0);
                buffer.put_u32_le(*payload_offset);
                portion.encode_into(buffer);
            }
            Self::StageDone { group, state } => {
                buffer.put_u64_le(group.0);
                state.encode_into(buffer);
            }
            Self::Moved { group, runs } => {
                assert!((1..=MOVED_RUNS_MAX).contains(&runs.len()), "1 to 256 runs");
                buffer.put_u64_le(group.0);
                runs.iter().for_each(|run| run.encode_into(buffer));
            }
        }
    }
}

fn put_fields<const N: usize>(buffer: &mut BytesMut, fields: [u64; N]) {
    for field in fields {
        buffer.put_u64_le(field);
    }
}

/// The fixed fields of a frame's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameInfo {
    /// The disk it was written to.
    pub disk: DiskId,
    /// Where it was written: the address of its first block on the disk. A frame that stands elsewhere was misdirected,
    /// or is an image of a frame in somebody's payload.
    pub block: u64,
    /// The epoch of the segment it was written to.
    pub segment_epoch: u64,
    /// The opening of the log, counted from 1, during which it was composed.
    pub incarnation: u64,
    /// Its place in the log: one more than the frame's before. The first is 1.
    pub sequence: u64,
    /// The chain value of the frame before.
    pub previous_chain: u64,
    /// Every frame up to this sequence was durable when this one was composed.
    pub durable_upto: u64,
    /// Blocks of payload.
    pub payload_blocks: u32,
}

/// A decoded frame header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// The fixed fields.
    pub info: FrameInfo,
    /// Its own chain value.
    pub chain: u64,
    /// Blocks of header.
    pub header_blocks: u32,
    /// What it says.
    pub records: Vec<FrameRecord>,
}

/// The chain value that the first frame of a disk's log follows.
pub fn genesis_chain(disk: DiskId) -> u64 {
    u64::from(crc32c(&disk.to_bytes()))
}

/// Blocks of header that records of so many encoded bytes take.
pub fn header_blocks_for(records_bytes: usize) -> u32 {
    u32::try_from((FIXED_BYTES + records_bytes).div_ceil(BLOCK_SIZE as usize)).unwrap_or(u32::MAX)
}

/// Encodes a header; gives the whole blocks, page-aligned, and the frame's chain value.
///
/// # Panics
/// If the header or the payload is longer than a frame may be: the writer's batches are bounded.
#[allow(
    clippy::cast_possible_truncation,
    reason = "the lengths are asserted before they are written"
)]
pub fn encode(info: &FrameInfo, records: &[FrameRecord]) -> (Bytes, u64) {
    let records_bytes: usize = records.iter().map(FrameRecord::encoded_len).sum();
    let header_blocks = header_blocks_for(records_bytes);
    assert!(
        header_blocks <= HEADER_BLOCKS_MAX,
        "a frame header of at most 16 blocks"
    );
    assert!(
        info.payload_blocks <= PAYLOAD_BLOCKS_MAX,
        "a payload of at most 1,024 blocks"
    );
    assert!(info.durable_upto < info.sequence, "a frame cannot vouch for itself");
    assert!(
        info.sequence - info.durable_upto <= WINDOW_FRAMES_MAX,
        "a frame within the window"
    );
    let header_bytes = (header_blocks * BLOCK_SIZE) as usize;
    let mut buffer = aligned(header_bytes);
    buffer.put_u64_le(MAGIC);
    buffer.put_u64_le(0); // the chain value, below
    buffer.put_u16_le(VERSION);
    buffer.put_u16_le(0); // flags
    buffer.put_u32_le(header_blocks);
    buffer.put_slice(&info.disk.to_bytes());
    for field in [
        info.block,
        info.segment_epoch,
        info.incarnation,
        info.sequence,
        info.previous_chain,
        info.durable_upto,
    ] {
        buffer.put_u64_le(field);
    }
    buffer.put_u32_le(info.payload_blocks);
    buffer.put_u32_le(records.len() as u32);
    buffer.put_u32_le(records_bytes as u32);
    buffer.put_u32_le(0); // reserved
    assert_eq!(
        buffer.len(),
        FIXED_BYTES,
        "the fixed fields are as long as they are declared"
    );
    for record in records {
        record.encode_into(&mut buffer);
    }
    buffer.resize(header_bytes, 0);
    let chain = chain_value(info.previous_chain, crc32c(&buffer[CHECKED_FROM..]));
    buffer[CHECKED_FROM - 8..CHECKED_FROM].copy_from_slice(&chain.to_le_bytes());
    (buffer.freeze(), chain)
}

fn chain_value(previous: u64, header_crc: u32) -> u64 {
    let linked = crc32c_append(crc32c(&previous.to_le_bytes()), &header_crc.to_le_bytes());
    u64::from(linked) << 32 | u64::from(header_crc)
}

/// The half of a chain value that is the header's checksum.
#[allow(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
const fn header_crc_in(chain: u64) -> u32 {
    chain as u32
}

/// How many bytes of header the block at hand announces, if it is the first of a frame header at all. Nothing is
/// checked but the magic number and the bound: it says how much to read before [`decode`].
pub fn header_bytes_of(first_block: &[u8]) -> Result<usize, FormatError> {
    let mut reader = Reader::new(STRUCTURE, first_block);
    reader.magic(MAGIC)?;
    reader.u64("chain value")?;
    reader.u32("version and flags")?;
    take_header_blocks(&mut reader).map(|blocks| (blocks * BLOCK_SIZE) as usize)
}

/// The disk and the opening of the log that a block at hand claims to be a frame header of, whether or not it is whole.
///
/// For the beginnings of frames that were torn: on a disk that writes sectors whole, these fields are intact as soon as
/// the magic number is there.
pub fn claims_of(first_block: &[u8]) -> Option<(DiskId, u64)> {
    let mut reader = Reader::new(STRUCTURE, first_block);
    reader.magic(MAGIC).ok()?;
    reader.take("chain value, version, flags, header length", 16).ok()?;
    let disk = reader.disk("disk").ok()?;
    reader.take("block and segment epoch", 16).ok()?;
    Some((disk, reader.u64("incarnation").ok()?))
}

fn take_header_blocks(reader: &mut Reader<'_>) -> Result<u32, FormatError> {
    let blocks = reader.u32("header length")?;
    if (1..=HEADER_BLOCKS_MAX).contains(&blocks) {
        Ok(blocks)
    } else {
        Err(reader.out_of_range("header length", u64::from(blocks), "1 to 16 blocks"))
    }
}

/// Decodes the frame header at the start of `bytes`, which may go on behind it. The records' headers are slices of
/// `bytes`: they keep it alive.
pub fn decode(bytes: &Bytes) -> Result<Frame, FormatError> {
    let header_bytes = header_bytes_of(bytes)?;
    let mut reader = Reader::new(STRUCTURE, bytes);
    let mut reader = Reader::new(STRUCTURE, reader.take("header", header_bytes)?);
    reader.magic(MAGIC)?;
    let chain = reader.u64("chain value")?;
    let computed = crc32c(&bytes[CHECKED_FROM..header_bytes]);
    let found = header_crc_in(chain);
    if found != computed {
        return Err(FormatError::Checksum {
            structure: STRUCTURE,
            part: "the header",
            found,
            computed,
        });
    }
    reader.version(VERSION)?;
    reader.no_flags()?;
    let header_blocks = take_header_blocks(&mut reader)?;
    let info = take_info(&mut reader)?;
    if chain != chain_value(info.previous_chain, computed) {
        let expected = chain_value(info.previous_chain, computed);
        return Err(reader.contradiction("chain value", chain, "the chain value before", expected));
    }
    let records = take_records(&mut reader, bytes, info.payload_blocks)?;
    reader.reserved(reader.remaining())?;
    Ok(Frame {
        info,
        chain,
        header_blocks,
        records,
    })
}

fn take_info(reader: &mut Reader<'_>) -> Result<FrameInfo, FormatError> {
    let info = FrameInfo {
        disk: reader.disk("disk")?,
        block: reader.u64("block")?,
        segment_epoch: reader.u64("segment epoch")?,
        incarnation: reader.u64("incarnation")?,
        sequence: reader.u64("sequence")?,
        previous_chain: reader.u64("chain value before")?,
        durable_upto: reader.u64("durable sequence")?,
        payload_blocks: reader.u32("payload length")?,
    };
    for (field, value) in [
        ("segment epoch", info.segment_epoch),
        ("incarnation", info.incarnation),
        ("sequence", info.sequence),
    ] {
        if value == 0 {
            return Err(reader.out_of_range(field, value, "at least 1"));
        }
    }
    let ahead = info.sequence.checked_sub(info.durable_upto);
    if !ahead.is_some_and(|ahead| (1..=WINDOW_FRAMES_MAX).contains(&ahead)) {
        return Err(reader.out_of_range("durable sequence", info.durable_upto, "1 to 64 before the sequence"));
    }
    if info.payload_blocks > PAYLOAD_BLOCKS_MAX {
        return Err(reader.out_of_range("payload length", u64::from(info.payload_blocks), "at most 1,024 blocks"));
    }
    Ok(info)
}

fn take_records(reader: &mut Reader<'_>, bytes: &Bytes, payload_blocks: u32) -> Result<Vec<FrameRecord>, FormatError> {
    let count = reader.u32("record count")? as usize;
    let records_bytes = reader.u32("length of the records")? as usize;
    reader.reserved(4)?;
    if count > records_bytes / RECORD_HEAD_BYTES {
        return Err(reader.out_of_range(
            "record count",
            count as u64,
            "no more than fit in the length of the records",
        ));
    }
    let start = reader.position();
    let mut inner = Reader::new(RECORD, reader.take("records", records_bytes)?);
    let mut records = Vec::with_capacity(count);
    for _ in 0..count {
        let kind = inner.u8("kind")?;
        let flags = inner.u8("flags")?;
        if flags != 0 {
            return Err(inner.unknown("flags", u64::from(flags), "none"));
        }
        let length = usize::from(inner.u16("length")?);
        let body_at = start + inner.position();
        let mut body = Reader::new(RECORD, inner.take("record", length)?);
        records.push(take_record(
            &mut body,
            kind,
            &bytes.slice(body_at..body_at + length),
            payload_blocks,
        )?);
        body.end()?;
    }
    inner.end()?;
    Ok(records)
}

fn take_record(
    body: &mut Reader<'_>,
    kind: u8,
    bytes: &Bytes,
    payload_blocks: u32,
) -> Result<FrameRecord, FormatError> {
    match kind {
        RECORD_ENTRY => {
            let group = GroupId(body.u64("group")?);
            let term = Term(body.u64("term")?);
            let index = LogIndex(body.u64("index")?);
            let payload_offset = body.u32("payload offset")?;
            body.reserved(4)?;
            let length = body.remaining();
            if length > HEADER_BYTES_MAX {
                return Err(body.out_of_range("length of the entry header", length as u64, "at most 1,280 bytes"));
            }
            let header = bytes.slice(body.position()..);
            let blocks = BlockCrcs::of_header(body.take("entry header", length)?)?.count();
            check_payload(body, payload_offset, blocks, payload_blocks)?;
            Ok(FrameRecord::Entry {
                group,
                term,
                index,
                payload_offset,
                header,
            })
        }
        RECORD_HARD_STATE => Ok(FrameRecord::HardState {
            group: GroupId(body.u64("group")?),
            term: Term(body.u64("term")?),
            vote: ReplicaId(body.u64("vote")?),
            commit: LogIndex(body.u64("commit")?),
        }),
        RECORD_GROUP_CREATED => take_group_created(body),
        RECORD_GROUP_DROPPED => Ok(FrameRecord::GroupDropped {
            group: GroupId(body.u64("group")?),
        }),
        RECORD_STAGE_BEGIN => Ok(FrameRecord::StageBegin {
            group: GroupId(body.u64("group")?),
            mark: LogIndex(body.u64("mark")?),
            term: Term(body.u64("term of the mark")?),
            have: LogIndex(body.u64("index at hand")?),
        }),
        RECORD_STAGE_BLOCKS => {
            let group = GroupId(body.u64("group")?);
            let payload_offset = body.u32("payload offset")?;
            let portion = Portion::take(body)?;
            check_payload(body, payload_offset, portion.data_blocks(), payload_blocks)?;
            Ok(FrameRecord::StageBlocks {
                group,
                payload_offset,
                portion,
            })
        }
        RECORD_STAGE_DONE => Ok(FrameRecord::StageDone {
            group: GroupId(body.u64("group")?),
            state: VolumeState::take(body)?,
        }),
        RECORD_MOVED => take_moved(body),
        found => Err(body.unknown("kind", u64::from(found), RECORDS_KNOWN)),
    }
}

/// Whether a record's payload is within its frame's.
fn check_payload(body: &Reader<'_>, offset: u32, blocks: u32, payload_blocks: u32) -> Result<(), FormatError> {
    if offset.checked_add(blocks).is_none_or(|end| end > payload_blocks) {
        return Err(body.out_of_range("payload offset", u64::from(offset), "within the frame's payload"));
    }
    Ok(())
}

const _: () = assert!(
    FIXED_BYTES + RECORD_HEAD_BYTES + STAGE_BLOCKS_FIXED_BYTES + PORTION_BYTES_MAX <= BLOCK_SIZE as usize,
    "a portion with its payload takes no more of a segment than an entry"
);

fn take_moved(body: &mut Reader<'_>) -> Result<FrameRecord, FormatError> {
    let group = GroupId(body.u64("group")?);
    let count = body.remaining() / MOVED_RUN_BYTES;
    if !(1..=MOVED_RUNS_MAX).contains(&count) {
        return Err(body.out_of_range("runs of moved blocks", count as u64, "1 to 256"));
    }
    let mut runs = Vec::with_capacity(count);
    for _ in 0..count {
        let run = MovedRun {
            lba: body.u64("first block")?,
            from: body.u48("old place")?,
            to: body.u48("new place")?,
            blocks: body.u32("blocks")?,
        };
        if run.blocks == 0 {
            return Err(body.out_of_range("blocks", 0, "at least 1"));
        }
        runs.push(run);
    }
    Ok(FrameRecord::Moved { group, runs })
}

fn take_group_created(body: &mut Reader<'_>) -> Result<FrameRecord, FormatError> {
    let group = GroupId(body.u64("group")?);
    let size_blocks = body.u64("size")?;
    let index = LogIndex(body.u64("index")?);
    let term = Term(body.u64("term")?);
    let replica = ReplicaId(body.u64("replica")?);
    let base = take_base(body)?;
    let count = usize::from(body.u16("member count")?);
    if !(1..=MEMBERS_MAX).contains(&count) {
        return Err(body.out_of_range("member count", count as u64, "1 to 16"));
    }
    let mut members = Vec::with_capacity(count);
    for _ in 0..count {
        members.push(Member::take(body)?);
    }
    Ok(FrameRecord::GroupCreated {
        group,
        size_blocks,
        base,
        members,
        replica,
        index,
        term,
    })
}
