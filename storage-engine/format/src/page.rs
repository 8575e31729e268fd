//! A leaf page: the slots of one leaf of a block map, as a checkpoint writes them.
//!
//! A page is a list of runs in the order of their slots. It has a checksum of its own, so that it can be read without the
//! chunk around it.

use bytes::{BufMut, BytesMut};
use cairn_api::ids::GroupId;

use crate::checksum::crc32c;
use crate::error::FormatError;
use crate::wire::Reader;

const STRUCTURE: &str = "leaf page";
/// Slots of a leaf: 2 MiB of a volume.
pub const LEAF_SLOTS: u16 = 512;
/// No block of a disk and no birth is at or above this: they share a slot's 16 bytes with the checksum.
pub const U48_END: u64 = 1 << 48;
const RUN_HEAD_BYTES: usize = 16;
const KIND_DATA: u8 = 1;
const KIND_ZERO: u8 = 2;
const KIND_TRIMMED: u8 = 3;

/// Whose leaf it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LeafKey {
    /// The group.
    pub group: GroupId,
    /// 0 for the volume's head, else the Raft index of the snapshot whose delta it is of.
    pub owner: u64,
    /// Its number: the first block of the volume that it covers / 512.
    pub leaf: u64,
}

/// Slots of one kind in a row, written by one entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageRun {
    /// The first slot, counted from the leaf's first.
    pub first: u16,
    /// The Raft index of the entry that wrote them.
    pub birth: u64,
    /// What they are.
    pub slots: PageSlots,
}

/// What the slots of a run are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PageSlots {
    /// Data that is contiguous on the disk.
    Data {
        /// The disk's block of the first.
        block: u64,
        /// CRC32C of each, 1 to 512 of them.
        crcs: Vec<u32>,
    },
    /// So many allocated zeros.
    Zero(u16),
    /// So many that read as zeros and hide what is below them.
    Trimmed(u16),
}

impl PageSlots {
    /// Slots.
    pub fn count(&self) -> usize {
        match self {
            Self::Data { crcs, .. } => crcs.len(),
            Self::Zero(count) | Self::Trimmed(count) => usize::from(*count),
        }
    }
}

/// A leaf page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeafPage {
    /// Whose.
    pub key: LeafKey,
    /// Its slots, those without anything left out.
    pub runs: Vec<PageRun>,
}

impl LeafPage {
    /// Appends the encoded page; gives its length in bytes, and its checksum.
    ///
    /// # Panics
    /// If the runs are not in order, or leave the leaf.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "runs and slots are asserted to be at most 512"
    )]
    pub fn encode_into(&self, buffer: &mut BytesMut) -> (usize, u32) {
        let start = buffer.len();
        buffer.put_u32_le(0); // the checksum, below
        buffer.put_u16_le(self.runs.len() as u16);
        buffer.put_u16_le(0); // flags
        for field in [self.key.group.0, self.key.owner, self.key.leaf] {
            buffer.put_u64_le(field);
        }
        let mut end = 0;
        for run in &self.runs {
            let count = run.slots.count();
            assert!(usize::from(run.first) >= end && count > 0, "runs in order, none empty");
            end = usize::from(run.first) + count;
            assert!(end <= usize::from(LEAF_SLOTS), "runs within their leaf");
            let (kind, block) = match &run.slots {
                PageSlots::Data { block, .. } => (KIND_DATA, *block),
                PageSlots::Zero(_) => (KIND_ZERO, 0),
                PageSlots::Trimmed(_) => (KIND_TRIMMED, 0),
            };
            assert!(block < U48_END && run.birth < U48_END, "blocks and births of 48 bits");
            // 9 bits of slot, 10 of count, 2 of kind: with two numbers of 48 bits they make 16 bytes.
            let head = u32::from(run.first) | (count as u32) << 10 | u32::from(kind) << 20;
            buffer.put_u32_le(head);
            buffer.put_uint_le(block, 6);
            buffer.put_uint_le(run.birth, 6);
            if let PageSlots::Data { crcs, .. } = &run.slots {
                crcs.iter().for_each(|crc| buffer.put_u32_le(*crc));
            }
        }
        let crc = crc32c(&buffer[start + 4..]);
        buffer[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        (buffer.len() - start, crc)
    }

    /// The checksum that a page has, right or wrong: it tells pages apart that were written at one place for two checkpoints.
    pub fn checksum_in(bytes: &[u8]) -> Option<u32> {
        bytes.first_chunk().copied().map(u32::from_le_bytes)
    }

    /// Decodes exactly one page.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(STRUCTURE, bytes);
        let found = reader.u32("checksum")?;
        let computed = crc32c(&bytes[4..]);
        if found != computed {
            return Err(FormatError::Checksum {
                structure: STRUCTURE,
                part: "the page",
                found,
                computed,
            });
        }
        let count = usize::from(reader.u16("run count")?);
        reader.no_flags()?;
        let key = LeafKey {
            group: GroupId(reader.u64("group")?),
            owner: reader.u64("owner")?,
            leaf: reader.u64("leaf")?,
        };
        if count > reader.remaining() / RUN_HEAD_BYTES {
            return Err(reader.out_of_range("run count", count as u64, "no more than fit"));
        }
        let mut runs: Vec<PageRun> = Vec::with_capacity(count);
        let mut end = 0;
        for _ in 0..count {
            let run = take_run(&mut reader)?;
            if usize::from(run.first) < end {
                return Err(reader.out_of_range("first slot", u64::from(run.first), "behind the run before"));
            }
            end = usize::from(run.first) + run.slots.count();
            if end > usize::from(LEAF_SLOTS) {
                return Err(reader.out_of_range("slots", end as u64, "at most 512"));
            }
            runs.push(run);
        }
        reader.end()?;
        Ok(Self { key, runs })
    }
}

#[allow(clippy::cast_possible_truncation, reason = "masked to their bits")]
fn take_run(reader: &mut Reader<'_>) -> Result<PageRun, FormatError> {
    let head = reader.u32("run")?;
    let (first, count, kind) = ((head & 0x3ff) as u16, (head >> 10 & 0x3ff) as u16, (head >> 20) as u16);
    let block = reader.u48("block")?;
    let birth = reader.u48("birth")?;
    if count == 0 {
        return Err(reader.out_of_range("slot count", 0, "at least 1"));
    }
    let slots = match kind {
        k if k == u16::from(KIND_DATA) => {
            let crcs = (0..count).map(|_| reader.u32("block checksum"));
            PageSlots::Data {
                block,
                crcs: crcs.collect::<Result<_, _>>()?,
            }
        }
        k if k == u16::from(KIND_ZERO) && block == 0 => PageSlots::Zero(count),
        k if k == u16::from(KIND_TRIMMED) && block == 0 => PageSlots::Trimmed(count),
        found => return Err(reader.unknown("kind of run", u64::from(found), "1 data, 2 zeros, 3 trimmed")),
    };
    Ok(PageRun { first, birth, slots })
}
