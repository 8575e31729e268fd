//! A block device in memory: a `Vec` of bytes and an allocation for each of its blocks.

use std::collections::VecDeque;

use bytes::Bytes;
use cairn_api::block::{
    Allocation, BlockDevice, BlockError, BlockOp, BlockReply, DeviceInfo, ReadPiece, StatusExtent, Tag,
};

pub const BLOCK: u64 = 4096;

pub struct MemoryDevice {
    pub info: DeviceInfo,
    pub data: Vec<u8>,
    pub allocation: Vec<Allocation>,
    /// Completions are given out last first if set.
    pub reverse: bool,
    /// Every request fails with this if set.
    pub failure: Option<BlockError>,
    /// Requests as they came, without their payload.
    pub seen: Vec<BlockOp>,
    ready: VecDeque<(Tag, Result<BlockReply, BlockError>)>,
}

impl MemoryDevice {
    pub fn new(name: &str, size_bytes: u64) -> Self {
        let info = DeviceInfo {
            name: name.to_owned(),
            description: format!("{size_bytes} bytes of memory"),
            size_bytes,
            read_only: false,
            snapshot: None,
        };
        let length = usize::try_from(size_bytes).unwrap();
        Self {
            info,
            data: vec![0; length],
            allocation: vec![Allocation::Hole; length.div_ceil(4096)],
            reverse: false,
            failure: None,
            seen: Vec::new(),
            ready: VecDeque::new(),
        }
    }

    fn range(&self, offset: u64, length: u64) -> Result<std::ops::Range<usize>, BlockError> {
        let size_bytes = self.info.size_bytes;
        match offset.checked_add(length) {
            Some(end) if end <= size_bytes => Ok(usize::try_from(offset).unwrap()..usize::try_from(end).unwrap()),
            _ => Err(BlockError::OutOfRange {
                offset,
                length,
                size_bytes,
            }),
        }
    }

    fn mark(&mut self, range: std::ops::Range<usize>, allocation: Allocation) {
        if !range.is_empty() {
            self.allocation[range.start / 4096..range.end.div_ceil(4096)].fill(allocation);
        }
    }

    /// The range cut at block boundaries.
    fn blocks(&self, offset: u64, length: u64) -> impl Iterator<Item = (u64, Allocation)> {
        let end = offset + length;
        let mut at = offset;
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let next = ((at / BLOCK + 1) * BLOCK).min(end);
                let piece = (next - at, at / BLOCK);
                at = next;
                piece
            })
        })
        .map(|(length, block)| (length, self.allocation[usize::try_from(block).unwrap()]))
    }

    fn read(&self, offset: u64, length: u64) -> Vec<ReadPiece> {
        let mut at = usize::try_from(offset).unwrap();
        self.blocks(offset, length)
            .map(|(length, allocation)| {
                let start = at;
                at += usize::try_from(length).unwrap();
                match allocation {
                    Allocation::Data => ReadPiece::Data(Bytes::copy_from_slice(&self.data[start..at])),
                    Allocation::Zero | Allocation::Hole => ReadPiece::Zeros(length),
                }
            })
            .collect()
    }

    pub fn carry_out(&mut self, op: BlockOp) -> Result<BlockReply, BlockError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        Ok(match op {
            BlockOp::Read { offset, length } => {
                self.range(offset, length.into())?;
                BlockReply::Read(self.read(offset, length.into()))
            }
            BlockOp::Write { offset, data } => {
                let range = self.range(offset, data.len() as u64)?;
                self.data[range.clone()].copy_from_slice(&data);
                self.mark(range, Allocation::Data);
                BlockReply::Done
            }
            BlockOp::Flush => BlockReply::Done,
            BlockOp::Trim { offset, length } => {
                let range = self.range(offset, length)?;
                let (first, last) = (range.start.next_multiple_of(4096), range.end / 4096 * 4096);
                if first < last {
                    self.data[first..last].fill(0);
                    self.mark(first..last, Allocation::Hole);
                }
                BlockReply::Done
            }
            BlockOp::WriteZeroes {
                offset,
                length,
                no_hole,
            } => {
                let range = self.range(offset, length)?;
                self.data[range.clone()].fill(0);
                let (first, last) = (range.start.next_multiple_of(4096), range.end / 4096 * 4096);
                if first < last {
                    self.mark(first..last, if no_hole { Allocation::Zero } else { Allocation::Hole });
                }
                BlockReply::Done
            }
            BlockOp::Status {
                offset,
                length,
                extents_max,
            } => {
                self.range(offset, length)?;
                let mut extents: Vec<StatusExtent> = Vec::new();
                for (length, allocation) in self.blocks(offset, length) {
                    let is_full = extents.len() == extents_max as usize;
                    match extents.last_mut() {
                        Some(last) if last.allocation == allocation => last.length += length,
                        _ if is_full => break,
                        _ => extents.push(StatusExtent { length, allocation }),
                    }
                }
                BlockReply::Status(extents)
            }
        })
    }
}

impl BlockDevice for MemoryDevice {
    fn info(&self) -> DeviceInfo {
        self.info.clone()
    }

    fn submit(&mut self, tag: Tag, op: BlockOp) {
        self.seen.push(match &op {
            BlockOp::Write { offset, .. } => BlockOp::Write {
                offset: *offset,
                data: Bytes::new(),
            },
            other => other.clone(),
        });
        let result = self.carry_out(op);
        self.ready.push_back((tag, result));
    }

    fn poll(&mut self) -> Option<(Tag, Result<BlockReply, BlockError>)> {
        if self.reverse {
            self.ready.pop_back()
        } else {
            self.ready.pop_front()
        }
    }
}
