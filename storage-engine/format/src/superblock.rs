//! The superblock: what a disk says of itself, so that a reinstalled node finds its replicas by looking.
//!
//! There are two copies, in the first and in the last whole block of the device. A change raises the generation and
//! writes one copy after the other, each durably; the newest valid copy rules.

use bytes::{BufMut, Bytes};
use cairn_api::ids::{ClusterId, DiskId, NodeId};
use cairn_api::units::{BLOCK_BYTES, BLOCK_SIZE};

use crate::error::FormatError;
use crate::sealed_block;
use crate::wire::Reader;

const STRUCTURE: &str = "superblock";
/// The first eight bytes of a Cairn disk: `CAIRNDSK`.
pub const MAGIC: u64 = u64::from_le_bytes(*b"CAIRNDSK");
/// The version of the disk format that this build reads and writes.
pub const FORMAT_VERSION: u16 = 1;
/// Length of an encoded superblock in bytes.
pub const SUPERBLOCK_BYTES: usize = BLOCK_SIZE as usize;
/// The usual segment: long enough that its header and the unused end weigh nothing, short enough to be collected. That of a
/// small disk is shorter, see [`segment_size_for`].
pub const SEGMENT_SIZE_DEFAULT: u64 = 64 << 20;
/// The shortest segment: room for the longest entry (1 MiB), its frame header and the segment header.
pub const SEGMENT_SIZE_MIN: u64 = 2 << 20;
/// The longest segment: beyond this, block numbers within a segment would still fit, but collection would be coarse.
pub const SEGMENT_SIZE_MAX: u64 = 1 << 30;
/// Where segments start unless told otherwise: the first MiB is left to the superblock and to what comes later.
pub const SEGMENTS_START_DEFAULT: u64 = 1 << 20;
/// A disk has at least so many segments: four in reserve, one each for the log, for moved blocks and for checkpoints with what
/// they replace, and as many again that hold data.
pub const SEGMENT_COUNT_MIN: u32 = 16;
/// A disk has so many segments unless they would be shorter than may be: collection works in whole segments.
const SEGMENT_COUNT_WANTED: u64 = 64;

/// The segment for a device of `device_size` bytes: 64 MiB from 4 GiB on, and down to 2 MiB below.
pub const fn segment_size_for(device_size: u64) -> u64 {
    let mut size = SEGMENT_SIZE_DEFAULT;
    while size > SEGMENT_SIZE_MIN && device_size / size < SEGMENT_COUNT_WANTED {
        size /= 2;
    }
    size
}

/// Where the segments of a disk are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Byte offset of the first segment; a multiple of the block.
    pub segments_start: u64,
    /// Length of each segment in bytes; a multiple of the block.
    pub segment_size: u64,
    /// How many there are.
    pub segment_count: u32,
}

impl Geometry {
    /// As many segments as a device of `device_size` bytes holds.
    pub fn for_device(device_size: u64, segment_size: u64) -> Result<Self, FormatError> {
        let space = second_copy_offset(device_size).saturating_sub(SEGMENTS_START_DEFAULT);
        let segment_count = u32::try_from(space / segment_size.max(1)).unwrap_or(u32::MAX);
        let geometry = Self {
            segments_start: SEGMENTS_START_DEFAULT,
            segment_size,
            segment_count,
        };
        geometry.check(device_size)?;
        Ok(geometry)
    }

    /// Byte offset of a segment.
    pub const fn segment_offset(&self, segment: u32) -> u64 {
        assert!(segment < self.segment_count);
        self.segments_start + segment as u64 * self.segment_size
    }

    /// Byte offset just behind a segment.
    pub const fn segment_end(&self, segment: u32) -> u64 {
        self.segment_offset(segment) + self.segment_size
    }

    /// Byte offset just behind the last segment.
    pub const fn end(&self) -> u64 {
        self.segments_start + self.segment_count as u64 * self.segment_size
    }

    /// The segment that holds the byte at `offset`, if one does.
    pub fn segment_of(&self, offset: u64) -> Option<u32> {
        let within = offset.checked_sub(self.segments_start)?;
        u32::try_from(within / self.segment_size)
            .ok()
            .filter(|segment| *segment < self.segment_count)
    }

    /// Blocks in a segment, its header block included.
    pub const fn segment_blocks(&self) -> u64 {
        self.segment_size / BLOCK_BYTES
    }

    fn check(&self, device_size: u64) -> Result<(), FormatError> {
        let refuse = |field, found, expected| {
            Err(FormatError::OutOfRange {
                structure: STRUCTURE,
                field,
                found,
                expected,
            })
        };
        if !self.segment_size.is_multiple_of(BLOCK_BYTES)
            || !(SEGMENT_SIZE_MIN..=SEGMENT_SIZE_MAX).contains(&self.segment_size)
        {
            return refuse(
                "segment size",
                self.segment_size,
                "a multiple of 4 KiB from 2 MiB to 1 GiB",
            );
        }
        if !self.segments_start.is_multiple_of(BLOCK_BYTES) || self.segments_start < BLOCK_BYTES {
            return refuse(
                "start of segments",
                self.segments_start,
                "a multiple of 4 KiB behind the superblock",
            );
        }
        if self.segment_count < SEGMENT_COUNT_MIN {
            return refuse(
                "segment count",
                u64::from(self.segment_count),
                "at least 16: the device is too small",
            );
        }
        let length = u64::from(self.segment_count).checked_mul(self.segment_size);
        let end = length.and_then(|length| self.segments_start.checked_add(length));
        if end.is_none_or(|end| end > second_copy_offset(device_size)) {
            return refuse(
                "segment count",
                u64::from(self.segment_count),
                "no more than the device has room for",
            );
        }
        Ok(())
    }
}

/// What a disk says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// The cluster it belongs to; NIL while no cluster has claimed it.
    pub cluster: ClusterId,
    /// The node it belongs to; NIL while unclaimed.
    pub node: NodeId,
    /// The disk's own name, made when it was formatted.
    pub disk: DiskId,
    /// Size of the device in bytes when it was formatted.
    pub device_size: u64,
    /// Where its segments are.
    pub geometry: Geometry,
    /// Raised by each change.
    pub generation: u64,
    /// When it was formatted, in seconds since 1970.
    pub created_unix_s: u64,
}

/// Byte offset of the second copy on a device of `device_size` bytes: its last whole block.
pub const fn second_copy_offset(device_size: u64) -> u64 {
    (device_size & !(BLOCK_BYTES - 1)).saturating_sub(BLOCK_BYTES)
}

impl Superblock {
    /// The superblock of a disk that no cluster has claimed yet.
    pub fn unclaimed(
        disk: DiskId,
        device_size: u64,
        segment_size: u64,
        created_unix_s: u64,
    ) -> Result<Self, FormatError> {
        Ok(Self {
            cluster: ClusterId::NIL,
            node: NodeId::NIL,
            disk,
            device_size,
            geometry: Geometry::for_device(device_size, segment_size)?,
            generation: 1,
            created_unix_s,
        })
    }

    /// Whether no cluster has claimed the disk.
    pub const fn is_unclaimed(&self) -> bool {
        self.cluster.is_nil()
    }

    /// The 4 KiB to be written at offset 0 and at [`second_copy_offset`]; page-aligned.
    pub fn encode(&self) -> Bytes {
        sealed_block::seal(MAGIC, |block| {
            block.put_u16_le(FORMAT_VERSION);
            block.put_u16_le(0); // flags
            block.put_slice(&self.cluster.to_bytes());
            block.put_slice(&self.node.to_bytes());
            block.put_slice(&self.disk.to_bytes());
            block.put_u64_le(self.device_size);
            block.put_u64_le(self.geometry.segment_size);
            block.put_u64_le(self.geometry.segments_start);
            block.put_u32_le(self.geometry.segment_count);
            block.put_u64_le(self.generation);
            block.put_u64_le(self.created_unix_s);
        })
    }

    /// Decodes one copy: exactly 4 KiB.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = sealed_block::open(STRUCTURE, MAGIC, bytes)?;
        reader.version(FORMAT_VERSION)?;
        reader.no_flags()?;
        let superblock = Self {
            cluster: reader.cluster("cluster")?,
            node: reader.node("node")?,
            disk: reader.disk("disk")?,
            device_size: reader.u64("device size")?,
            geometry: decode_geometry(&mut reader)?,
            generation: reader.u64("generation")?,
            created_unix_s: reader.u64("time of formatting")?,
        };
        reader.reserved(reader.remaining())?;
        if superblock.disk.is_nil() {
            return Err(reader.out_of_range("disk", 0, "an id that is not nil"));
        }
        superblock.geometry.check(superblock.device_size)?;
        Ok(superblock)
    }
}

fn decode_geometry(reader: &mut Reader<'_>) -> Result<Geometry, FormatError> {
    Ok(Geometry {
        segment_size: reader.u64("segment size")?,
        segments_start: reader.u64("start of segments")?,
        segment_count: reader.u32("segment count")?,
    })
}

/// Why a disk has no superblock to go by.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChooseError {
    /// Neither copy can be used.
    #[error("neither copy of the superblock can be used; the first: {first}; the second: {second}")]
    Neither {
        /// What is wrong with the first.
        first: Box<FormatError>,
        /// What is wrong with the second.
        second: Box<FormatError>,
    },
    /// One copy was written by a newer build: an upgrade has begun that this build must not undo.
    #[error("one copy of the superblock is of a newer format ({0}): use the newer build")]
    Newer(FormatError),
    /// Both copies are valid, but of different disks: the device was cut from, or joined with, another.
    #[error("the two copies of the superblock name different disks, {first} and {second}: format the disk anew")]
    Different {
        /// The disk that the first copy names.
        first: DiskId,
        /// The disk that the second copy names.
        second: DiskId,
    },
}

/// The valid copy of the highest generation.
pub fn choose(first: &[u8], second: &[u8]) -> Result<Superblock, ChooseError> {
    match (Superblock::decode(first), Superblock::decode(second)) {
        (Ok(first), Ok(second)) if first.disk != second.disk => Err(ChooseError::Different {
            first: first.disk,
            second: second.disk,
        }),
        (Ok(first), Ok(second)) => Ok(if second.generation > first.generation {
            second
        } else {
            first
        }),
        (Ok(_), Err(newer)) | (Err(newer), Ok(_)) if newer.is_newer() => Err(ChooseError::Newer(newer)),
        (Ok(valid), Err(_)) | (Err(_), Ok(valid)) => Ok(valid),
        (Err(first), Err(second)) => Err(ChooseError::Neither {
            first: Box::new(first),
            second: Box::new(second),
        }),
    }
}
