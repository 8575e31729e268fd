//! The header of a segment: its first block. It says which stretch of the log the segment holds, and so also where the
//! segment before it ended.

use bytes::{BufMut, Bytes};
use cairn_api::ids::DiskId;
use cairn_api::units::BLOCK_SIZE;

use crate::error::FormatError;
use crate::sealed_block;

const STRUCTURE: &str = "segment header";
const MAGIC: u64 = u64::from_le_bytes(*b"CAIRNSEG");
const VERSION: u16 = 1;
/// Length of an encoded segment header in bytes.
pub const SEGMENT_HEADER_BYTES: usize = BLOCK_SIZE as usize;

/// Which of a disk's append heads fills the segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeadKind {
    /// Raft entries as they come.
    Hot,
    /// Live blocks that collection has moved.
    Cold,
    /// Runs of the block map.
    Index,
}

/// The header of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// The disk: what an older format of the device left behind names another.
    pub disk: DiskId,
    /// The segment's own number.
    pub segment: u32,
    /// What fills it.
    pub head: HeadKind,
    /// Raised whenever the segment is begun anew; its frames carry it too.
    pub epoch: u64,
    /// The opening of the log, counted from 1, during which the segment was begun.
    pub incarnation: u64,
    /// The sequence of its first frame.
    pub first_sequence: u64,
    /// The chain value of the frame before that.
    pub chain_before: u64,
    /// Every frame up to this sequence was durable when the segment was begun.
    pub durable_upto: u64,
}

impl SegmentHeader {
    /// The 4 KiB to be written at the segment's offset; page-aligned.
    pub fn encode(&self) -> Bytes {
        sealed_block::seal(MAGIC, |block| {
            block.put_u16_le(VERSION);
            block.put_u16_le(0); // flags
            block.put_slice(&self.disk.to_bytes());
            block.put_u32_le(self.segment);
            block.put_u32_le(match self.head {
                HeadKind::Hot => 1,
                HeadKind::Cold => 2,
                HeadKind::Index => 3,
            });
            block.put_u64_le(self.epoch);
            block.put_u64_le(self.incarnation);
            block.put_u64_le(self.first_sequence);
            block.put_u64_le(self.chain_before);
            block.put_u64_le(self.durable_upto);
        })
    }

    /// Decodes a segment's first block: exactly 4 KiB.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = sealed_block::open(STRUCTURE, MAGIC, bytes)?;
        reader.version(VERSION)?;
        reader.no_flags()?;
        let header = Self {
            disk: reader.disk("disk")?,
            segment: reader.u32("segment")?,
            head: match reader.u32("head kind")? {
                1 => HeadKind::Hot,
                2 => HeadKind::Cold,
                3 => HeadKind::Index,
                found => return Err(reader.unknown("head kind", u64::from(found), "1 hot, 2 cold, 3 index")),
            },
            epoch: reader.u64("epoch")?,
            incarnation: reader.u64("incarnation")?,
            first_sequence: reader.u64("first sequence")?,
            chain_before: reader.u64("chain value")?,
            durable_upto: reader.u64("durable sequence")?,
        };
        reader.reserved(reader.remaining())?;
        for (field, value) in [
            ("epoch", header.epoch),
            ("incarnation", header.incarnation),
            ("first sequence", header.first_sequence),
        ] {
            if value == 0 {
                return Err(reader.out_of_range(field, value, "at least 1"));
            }
        }
        if header.durable_upto >= header.first_sequence {
            return Err(reader.out_of_range("durable sequence", header.durable_upto, "less than the first sequence"));
        }
        Ok(header)
    }
}
