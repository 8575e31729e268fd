//! The header of a replicated entry: what Raft's `Entry.data` holds, a disk frame's record holds, and a peer frame
//! carries. The payload is never in it; it travels beside the header as `Bytes` and is written to the log once.

use bytes::{BufMut, Bytes, BytesMut};
use cairn_api::ids::{Epoch, NodeId, SnapshotId};
use cairn_api::units::{BLOCK_SIZE, Lba};

use crate::checksum::{self, BlockMismatch};
use crate::error::FormatError;
use crate::member::MemberChange;
use crate::wire::Reader;

/// The longest payload of one entry, in blocks (1 MiB). The gateway splits longer requests.
pub const ENTRY_BLOCKS_MAX: u32 = 256;

/// The longest encoded header, in bytes. A full write takes 1,044; the rest is room for later fields.
pub const HEADER_BYTES_MAX: usize = 1280;

/// The longest [`EntryHeader::Command`], in bytes.
pub const COMMAND_BYTES_MAX: u32 = ENTRY_BLOCKS_MAX * BLOCK_SIZE;

/// No block of a volume is at or beyond this: its byte offset would not fit in 63 bits.
pub const LBA_END_MAX: u64 = 1 << 51;

/// The version of the encoding: its first byte.
const VERSION: u8 = 1;
const STRUCTURE: &str = "entry header";
const OP_WRITE: u8 = 1;
const OP_ZERO: u8 = 2;
const OP_ATTACH: u8 = 3;
const OP_COMMAND: u8 = 4;
const OP_MEMBERS: u8 = 5;
const OP_RESIZE: u8 = 6;
const OP_SNAPSHOT_CREATE: u8 = 7;
const OP_SNAPSHOT_DELETE: u8 = 8;
const OP_FILL: u8 = 9;
const OPS_KNOWN: &str = "1 write, 2 zero, 3 attach, 4 command, 5 members, 6 resize, 7 snapshot, \
                         8 deletion of a snapshot, 9 fill";
/// Flag of [`OP_ZERO`]: keep the range allocated.
const FLAG_ALLOCATE: u16 = 1;

/// What an entry does when it is applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryHeader {
    /// Writes whole blocks. Refused when applied if `epoch` is not the group's.
    Write {
        /// The attachment under which the write was made.
        epoch: Epoch,
        /// First block.
        lba: Lba,
        /// CRC32C of each 4 KiB block of the payload, in order; 1 to [`ENTRY_BLOCKS_MAX`] of them.
        block_crcs: Vec<u32>,
    },
    /// Makes a range read as zeros. No payload.
    Zero {
        /// The attachment under which it was asked.
        epoch: Epoch,
        /// First block.
        lba: Lba,
        /// Blocks, at least 1.
        blocks: u64,
        /// Keep the range allocated instead of leaving a hole.
        allocate: bool,
    },
    /// Gives the volume to a node and raises the epoch to `epoch`. Refused if `epoch` is not the group's plus one.
    Attach {
        /// The epoch that rules from here on.
        epoch: Epoch,
        /// Who writes from here on; [`NodeId::NIL`] detaches.
        holder: NodeId,
    },
    /// A command of the meta group's state machine. The payload is `length` bytes, zero-padded to whole blocks.
    Command {
        /// Bytes of the command, without padding; 1 to 1 MiB.
        length: u32,
        /// CRC32C of each 4 KiB block of the padded payload.
        block_crcs: Vec<u32>,
    },
    /// One step from the group's members to the next. No payload.
    Members {
        /// The step.
        change: MemberChange,
    },
    /// Makes the volume larger. Has no effect if it is as large already, so that one that is repeated does no harm. No payload.
    Resize {
        /// Blocks from here on, 1 to [`LBA_END_MAX`].
        size_blocks: u64,
    },
    /// Makes a snapshot of the volume as the entries before this one made it. No payload. Numbers rise: one that is not
    /// above all that were made or deleted before is not made.
    SnapshotCreate {
        /// Its number.
        snapshot: SnapshotId,
    },
    /// Deletes a snapshot, and sees to it that none of this number is made later. No payload.
    SnapshotDelete {
        /// Its number.
        snapshot: SnapshotId,
    },
    /// Copies blocks of a clone's base into the clone, where the base still shows. Has an effect only if the clone is filled up to
    /// `lba` exactly, so that one that is repeated or comes out of turn does no harm.
    Fill {
        /// Up to where the clone was filled before.
        lba: Lba,
        /// So many blocks from there on need nothing.
        skip: u64,
        /// CRC32C of each block of the payload, which belongs behind them; at most [`ENTRY_BLOCKS_MAX`], and at least one if
        /// nothing is skipped.
        block_crcs: Vec<u32>,
    },
}

impl EntryHeader {
    /// Blocks of payload that travel with the entry.
    #[allow(clippy::cast_possible_truncation, reason = "bounded by ENTRY_BLOCKS_MAX")]
    pub fn payload_blocks(&self) -> u32 {
        match self {
            Self::Write { block_crcs, .. } | Self::Command { block_crcs, .. } | Self::Fill { block_crcs, .. } => {
                block_crcs.len() as u32
            }
            Self::Zero { .. }
            | Self::Attach { .. }
            | Self::Members { .. }
            | Self::Resize { .. }
            | Self::SnapshotCreate { .. }
            | Self::SnapshotDelete { .. } => 0,
        }
    }

    /// CRC32C of each payload block.
    pub fn block_crcs(&self) -> &[u32] {
        match self {
            Self::Write { block_crcs, .. } | Self::Command { block_crcs, .. } | Self::Fill { block_crcs, .. } => {
                block_crcs
            }
            Self::Zero { .. }
            | Self::Attach { .. }
            | Self::Members { .. }
            | Self::Resize { .. }
            | Self::SnapshotCreate { .. }
            | Self::SnapshotDelete { .. } => &[],
        }
    }
}

impl EntryHeader {
    /// Length of the encoded header in bytes.
    pub fn encoded_len(&self) -> usize {
        4 + match self {
            Self::Write { block_crcs, .. } | Self::Fill { block_crcs, .. } => 16 + 4 * block_crcs.len(),
            Self::Zero { .. } | Self::Attach { .. } => 24,
            Self::Command { block_crcs, .. } => 4 + 4 * block_crcs.len(),
            Self::Members { change } => change.encoded_len(),
            Self::Resize { .. } | Self::SnapshotCreate { .. } | Self::SnapshotDelete { .. } => 8,
        }
    }

    /// Encodes into a buffer of its own.
    pub fn encode(&self) -> Bytes {
        let mut buffer = BytesMut::with_capacity(self.encoded_len());
        self.encode_into(&mut buffer);
        buffer.freeze()
    }

    /// Appends the encoded header.
    ///
    /// # Panics
    /// If the header breaks the bounds that its fields state: such an entry must never reach a log.
    pub fn encode_into(&self, buffer: &mut BytesMut) {
        buffer.put_u8(VERSION);
        match self {
            Self::Write { epoch, lba, block_crcs } => {
                assert!(
                    (1..=ENTRY_BLOCKS_MAX as usize).contains(&block_crcs.len()),
                    "a write of 1 to 256 blocks"
                );
                assert!(
                    range_fits(*lba, block_crcs.len() as u64),
                    "a write within the largest volume"
                );
                put_op(buffer, OP_WRITE, 0);
                buffer.put_u64_le(epoch.0);
                buffer.put_u64_le(lba.0);
                put_crcs(buffer, block_crcs);
            }
            Self::Zero {
                epoch,
                lba,
                blocks,
                allocate,
            } => {
                assert!(
                    *blocks > 0 && range_fits(*lba, *blocks),
                    "a range within the largest volume"
                );
                put_op(buffer, OP_ZERO, if *allocate { FLAG_ALLOCATE } else { 0 });
                buffer.put_u64_le(epoch.0);
                buffer.put_u64_le(lba.0);
                buffer.put_u64_le(*blocks);
            }
            Self::Attach { epoch, holder } => {
                put_op(buffer, OP_ATTACH, 0);
                buffer.put_u64_le(epoch.0);
                buffer.put_slice(&holder.to_bytes());
            }
            Self::Command { length, block_crcs } => {
                assert!((1..=COMMAND_BYTES_MAX).contains(length), "a command of 1 byte to 1 MiB");
                assert_eq!(
                    length.div_ceil(BLOCK_SIZE) as usize,
                    block_crcs.len(),
                    "a checksum for each block"
                );
                put_op(buffer, OP_COMMAND, 0);
                buffer.put_u32_le(*length);
                put_crcs(buffer, block_crcs);
            }
            Self::Members { change } => {
                put_op(buffer, OP_MEMBERS, 0);
                change.encode_into(buffer);
            }
            Self::Resize { size_blocks } => {
                assert!((1..=LBA_END_MAX).contains(size_blocks), "a size of 1 to 2^51 blocks");
                put_op(buffer, OP_RESIZE, 0);
                buffer.put_u64_le(*size_blocks);
            }
            Self::SnapshotCreate { snapshot } => put_snapshot(buffer, OP_SNAPSHOT_CREATE, *snapshot),
            Self::SnapshotDelete { snapshot } => put_snapshot(buffer, OP_SNAPSHOT_DELETE, *snapshot),
            Self::Fill { lba, skip, block_crcs } => put_fill(buffer, *lba, *skip, block_crcs),
        }
    }

    /// Decodes a header: all of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        Ok(match View::decode(bytes)? {
            View::Write { epoch, lba, crcs } => Self::Write {
                epoch,
                lba,
                block_crcs: crcs.iter().collect(),
            },
            View::Zero {
                epoch,
                lba,
                blocks,
                allocate,
            } => Self::Zero {
                epoch,
                lba,
                blocks,
                allocate,
            },
            View::Attach { epoch, holder } => Self::Attach { epoch, holder },
            View::Command { length, crcs } => Self::Command {
                length,
                block_crcs: crcs.iter().collect(),
            },
            View::Members { change } => Self::Members { change },
            View::Resize { size_blocks } => Self::Resize { size_blocks },
            View::SnapshotCreate { snapshot } => Self::SnapshotCreate { snapshot },
            View::SnapshotDelete { snapshot } => Self::SnapshotDelete { snapshot },
            View::Fill { lba, skip, crcs } => Self::Fill {
                lba,
                skip,
                block_crcs: crcs.iter().collect(),
            },
        })
    }

    /// Whether an encoded header is that of [`Self::Members`], which Raft treats in its own way.
    pub fn is_members(header: &[u8]) -> bool {
        header.get(1) == Some(&OP_MEMBERS)
    }
}

/// A decoded header whose checksums are still in encoded form.
enum View<'a> {
    Write {
        epoch: Epoch,
        lba: Lba,
        crcs: BlockCrcs<'a>,
    },
    Zero {
        epoch: Epoch,
        lba: Lba,
        blocks: u64,
        allocate: bool,
    },
    Attach {
        epoch: Epoch,
        holder: NodeId,
    },
    Command {
        length: u32,
        crcs: BlockCrcs<'a>,
    },
    Members {
        change: MemberChange,
    },
    Resize {
        size_blocks: u64,
    },
    SnapshotCreate {
        snapshot: SnapshotId,
    },
    SnapshotDelete {
        snapshot: SnapshotId,
    },
    Fill {
        lba: Lba,
        skip: u64,
        crcs: BlockCrcs<'a>,
    },
}

impl<'a> View<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(STRUCTURE, bytes);
        let (op, flags) = take_op(&mut reader)?;
        let view = match op {
            OP_WRITE => {
                let epoch = Epoch(reader.u64("epoch")?);
                let lba = Lba(reader.u64("first block")?);
                let crcs = BlockCrcs::take(&mut reader)?;
                check_range(&reader, lba, u64::from(crcs.count()))?;
                Self::Write { epoch, lba, crcs }
            }
            OP_ZERO => {
                let epoch = Epoch(reader.u64("epoch")?);
                let lba = Lba(reader.u64("first block")?);
                let blocks = reader.u64("block count")?;
                check_range(&reader, lba, blocks)?;
                Self::Zero {
                    epoch,
                    lba,
                    blocks,
                    allocate: flags & FLAG_ALLOCATE != 0,
                }
            }
            OP_ATTACH => Self::Attach {
                epoch: Epoch(reader.u64("epoch")?),
                holder: reader.node("holder")?,
            },
            OP_MEMBERS => Self::Members {
                change: MemberChange::take(&mut reader)?,
            },
            OP_RESIZE => Self::Resize {
                size_blocks: take_size(&mut reader)?,
            },
            OP_SNAPSHOT_CREATE => Self::SnapshotCreate {
                snapshot: take_snapshot(&mut reader)?,
            },
            OP_SNAPSHOT_DELETE => Self::SnapshotDelete {
                snapshot: take_snapshot(&mut reader)?,
            },
            OP_FILL => {
                let lba = Lba(reader.u64("first block")?);
                let skip = reader.u64("blocks skipped")?;
                let crcs = match reader.remaining() {
                    0 => BlockCrcs { encoded: &[] },
                    _ => BlockCrcs::take(&mut reader)?,
                };
                check_range(&reader, lba, skip.saturating_add(u64::from(crcs.count())))?;
                Self::Fill { lba, skip, crcs }
            }
            _ => {
                let (length, crcs) = take_command(&mut reader)?;
                Self::Command { length, crcs }
            }
        };
        reader.end()?;
        Ok(view)
    }
}

/// The checksums of an entry's payload, still in encoded form: what a receiver needs to check the payload, without an
/// allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockCrcs<'a> {
    encoded: &'a [u8],
}

impl<'a> BlockCrcs<'a> {
    /// Those in an encoded header, all of which is checked; none for Raft's own no-op, whose header is empty.
    pub fn of_header(header: &'a [u8]) -> Result<Self, FormatError> {
        if header.is_empty() {
            return Ok(Self { encoded: &[] });
        }
        Ok(match View::decode(header)? {
            View::Write { crcs, .. } | View::Command { crcs, .. } | View::Fill { crcs, .. } => crcs,
            _ => Self { encoded: &[] },
        })
    }

    /// The rest of a header: checksums, at least one.
    fn take(reader: &mut Reader<'a>) -> Result<Self, FormatError> {
        let bytes = reader.remaining();
        if !bytes.is_multiple_of(4) || bytes == 0 || bytes > 4 * ENTRY_BLOCKS_MAX as usize {
            return Err(reader.out_of_range("length of the checksums", bytes as u64, "4 to 1,024 bytes, 4 a block"));
        }
        Ok(Self {
            encoded: reader.take("checksums", bytes)?,
        })
    }

    /// Blocks of payload.
    #[allow(clippy::cast_possible_truncation, reason = "bounded by ENTRY_BLOCKS_MAX")]
    pub const fn count(&self) -> u32 {
        (self.encoded.len() / 4) as u32
    }

    /// Each checksum in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        self.encoded
            .chunks_exact(4)
            .map(|crc| u32::from_le_bytes([crc[0], crc[1], crc[2], crc[3]]))
    }

    /// Checks a payload against them.
    pub fn verify(&self, payload: &[u8]) -> Result<(), BlockMismatch> {
        checksum::verify_with(payload, self.iter())
    }
}

fn put_op(buffer: &mut BytesMut, op: u8, flags: u16) {
    buffer.put_u8(op);
    buffer.put_u16_le(flags);
}

fn put_snapshot(buffer: &mut BytesMut, op: u8, snapshot: SnapshotId) {
    put_op(buffer, op, 0);
    buffer.put_u64_le(snapshot.0);
}

fn put_fill(buffer: &mut BytesMut, lba: Lba, skip: u64, block_crcs: &[u32]) {
    let blocks = block_crcs.len() as u64;
    assert!(blocks <= u64::from(ENTRY_BLOCKS_MAX), "a fill of at most 256 blocks");
    let is_somewhere = skip
        .checked_add(blocks)
        .is_some_and(|all| all > 0 && range_fits(lba, all));
    assert!(is_somewhere, "a fill within the largest volume that gets on");
    put_op(buffer, OP_FILL, 0);
    buffer.put_u64_le(lba.0);
    buffer.put_u64_le(skip);
    put_crcs(buffer, block_crcs);
}

fn put_crcs(buffer: &mut BytesMut, crcs: &[u32]) {
    for crc in crcs {
        buffer.put_u32_le(*crc);
    }
}

/// Version, operation and flags, each known.
fn take_op(reader: &mut Reader<'_>) -> Result<(u8, u16), FormatError> {
    let version = reader.u8("version")?;
    if version != VERSION {
        let (found, supported) = (u16::from(version), u16::from(VERSION));
        return Err(FormatError::Version {
            structure: STRUCTURE,
            found,
            supported,
        });
    }
    let op = reader.u8("operation")?;
    if !(OP_WRITE..=OP_FILL).contains(&op) {
        return Err(reader.unknown("operation", u64::from(op), OPS_KNOWN));
    }
    let flags = reader.u16("flags")?;
    let (flags_known, names) = if op == OP_ZERO {
        (FLAG_ALLOCATE, "1 allocate")
    } else {
        (0, "none")
    };
    if flags & !flags_known != 0 {
        return Err(reader.unknown("flags", u64::from(flags), names));
    }
    Ok((op, flags))
}

fn take_snapshot(reader: &mut Reader<'_>) -> Result<SnapshotId, FormatError> {
    let number = reader.u64("number of the snapshot")?;
    if number == 0 {
        return Err(reader.out_of_range("number of the snapshot", number, "at least 1"));
    }
    Ok(SnapshotId(number))
}

/// Length and checksums of a command: one checksum for each begun block.
fn take_command<'a>(reader: &mut Reader<'a>) -> Result<(u32, BlockCrcs<'a>), FormatError> {
    let length = reader.u32("length of the command")?;
    if !(1..=COMMAND_BYTES_MAX).contains(&length) {
        return Err(reader.out_of_range("length of the command", u64::from(length), "1 to 1,048,576 bytes"));
    }
    let crcs = BlockCrcs::take(reader)?;
    let (found, expected) = (u64::from(crcs.count()), u64::from(length.div_ceil(BLOCK_SIZE)));
    if found == expected {
        Ok((length, crcs))
    } else {
        Err(reader.contradiction("checksum count", found, "the length", expected))
    }
}

fn take_size(reader: &mut Reader<'_>) -> Result<u64, FormatError> {
    let size_blocks = reader.u64("size")?;
    if (1..=LBA_END_MAX).contains(&size_blocks) {
        Ok(size_blocks)
    } else {
        Err(reader.out_of_range("size", size_blocks, "1 to 2^51 blocks"))
    }
}

fn range_fits(lba: Lba, blocks: u64) -> bool {
    lba.0.checked_add(blocks).is_some_and(|end| end <= LBA_END_MAX)
}

fn check_range(reader: &Reader<'_>, lba: Lba, blocks: u64) -> Result<(), FormatError> {
    if blocks == 0 {
        return Err(reader.out_of_range("block count", blocks, "at least 1"));
    }
    if !range_fits(lba, blocks) {
        return Err(reader.out_of_range("first block", lba.0, "a range that ends within 2^51 blocks"));
    }
    Ok(())
}
