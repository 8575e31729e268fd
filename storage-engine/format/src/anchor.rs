//! The anchor: where a disk's log begins and where the table of its last checkpoint is.
//!
//! There are two, written in turn, so that one is always whole; the one of the higher generation rules. Formatting writes
//! both with generation 0: no checkpoint yet, the log begins at its genesis.

use bytes::{BufMut, Bytes};
use cairn_api::ids::DiskId;
use cairn_api::units::BLOCK_SIZE;

use crate::error::FormatError;
use crate::sealed_block;
use crate::wire::Reader;

const STRUCTURE: &str = "anchor";
const MAGIC: u64 = u64::from_le_bytes(*b"CAIRNANC");
const VERSION: u16 = 1;
/// Length of an encoded anchor in bytes.
pub const ANCHOR_BYTES: usize = BLOCK_SIZE as usize;
/// Byte offsets of the two anchors on the disk: in the first MiB, behind the superblock, and far enough apart that one
/// misdirected write of a few blocks does not hit both.
pub const ANCHOR_OFFSETS: [u64; 2] = [64 << 10, 128 << 10];

/// The first frame of the log that is still needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogBeginning {
    /// The segment that starts with it.
    pub segment: u32,
    /// That segment's epoch.
    pub epoch: u64,
    /// The opening of the log in which the segment was begun.
    pub incarnation: u64,
    /// The frame's sequence.
    pub sequence: u64,
    /// The chain value of the frame before.
    pub chain_before: u64,
}

/// Where the table of a checkpoint is: its last chunk, which names the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TablePlace {
    /// The disk's block that the last chunk starts at.
    pub block: u64,
    /// Blocks of that chunk.
    pub blocks: u32,
    /// Chunks in all.
    pub chunks: u32,
}

/// A checkpoint, as an anchor names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckpointPlace {
    /// Where the log begins.
    pub begins: LogBeginning,
    /// Where the table is.
    pub table: TablePlace,
}

/// One of the two anchors of a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Anchor {
    /// The disk: what an older format of the device left behind names another.
    pub disk: DiskId,
    /// One more than that of the checkpoint before; 0 for a disk that was just formatted.
    pub generation: u64,
    /// The checkpoint; `None` with generation 0 only.
    pub checkpoint: Option<CheckpointPlace>,
}

impl Anchor {
    /// Both anchors of a disk that was just formatted.
    pub const fn formatted(disk: DiskId) -> Self {
        Self {
            disk,
            generation: 0,
            checkpoint: None,
        }
    }

    /// Byte offset on the disk at which this generation is written.
    pub const fn offset(&self) -> u64 {
        ANCHOR_OFFSETS[(self.generation % 2) as usize]
    }

    /// The 4 KiB to be written; page-aligned.
    ///
    /// # Panics
    /// If generation 0 names a checkpoint or another generation none.
    pub fn encode(&self) -> Bytes {
        assert_eq!(
            self.generation > 0,
            self.checkpoint.is_some(),
            "only a checkpoint raises the generation"
        );
        sealed_block::seal(MAGIC, |block| {
            block.put_u16_le(VERSION);
            block.put_u16_le(0); // flags
            block.put_slice(&self.disk.to_bytes());
            block.put_u64_le(self.generation);
            let Some(CheckpointPlace { begins, table }) = self.checkpoint else {
                return;
            };
            block.put_u32_le(begins.segment);
            for field in [
                begins.epoch,
                begins.incarnation,
                begins.sequence,
                begins.chain_before,
                table.block,
            ] {
                block.put_u64_le(field);
            }
            block.put_u32_le(table.blocks);
            block.put_u32_le(table.chunks);
        })
    }

    /// Decodes an anchor: exactly 4 KiB.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = sealed_block::open(STRUCTURE, MAGIC, bytes)?;
        reader.version(VERSION)?;
        reader.no_flags()?;
        let disk = reader.disk("disk")?;
        let generation = reader.u64("generation")?;
        let checkpoint = if generation == 0 {
            None
        } else {
            Some(take_checkpoint(&mut reader)?)
        };
        reader.reserved(reader.remaining())?;
        Ok(Self {
            disk,
            generation,
            checkpoint,
        })
    }
}

fn take_checkpoint(reader: &mut Reader<'_>) -> Result<CheckpointPlace, FormatError> {
    let begins = LogBeginning {
        segment: reader.u32("segment")?,
        epoch: reader.u64("epoch")?,
        incarnation: reader.u64("incarnation")?,
        sequence: reader.u64("first sequence")?,
        chain_before: reader.u64("chain value")?,
    };
    let table = TablePlace {
        block: reader.u64("place of the table")?,
        blocks: reader.u32("length of the table's last chunk")?,
        chunks: reader.u32("chunks of the table")?,
    };
    for (field, value) in [
        ("epoch", begins.epoch),
        ("incarnation", begins.incarnation),
        ("first sequence", begins.sequence),
        ("place of the table", table.block),
        ("length of the table's last chunk", u64::from(table.blocks)),
        ("chunks of the table", u64::from(table.chunks)),
    ] {
        if value == 0 {
            return Err(reader.out_of_range(field, value, "at least 1"));
        }
    }
    Ok(CheckpointPlace { begins, table })
}
