//! Turning a request in bytes into pieces in blocks.

use bytes::{Bytes, BytesMut};
use cairn_api::block::{BlockError, BlockOp, REQUEST_BYTES_MAX, ReadPiece, StatusExtent};
use cairn_api::ids::SnapshotId;
use cairn_api::units::{BLOCK_BYTES, BLOCK_SIZE, Lba};
use cairn_format::checksum::block_crcs;
use cairn_format::entry::ENTRY_BLOCKS_MAX;
use cairn_format::peer::BlockPiece;

use super::ranges::Range;

/// A piece of a request: what one message to the leader asks for. Epochs are filled in when it is sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Piece {
    Read {
        lba: Lba,
        blocks: u32,
        snapshot: Option<SnapshotId>,
    },
    Write {
        lba: Lba,
        block_crcs: Vec<u32>,
        payload: Bytes,
    },
    Zero {
        lba: Lba,
        blocks: u64,
        allocate: bool,
    },
    Status {
        lba: Lba,
        blocks: u64,
        extents_max: u32,
        snapshot: Option<SnapshotId>,
    },
}

impl Piece {
    /// Whether it changes the volume, and so needs the attachment.
    pub(crate) fn is_write(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Zero { .. })
    }
}

/// Refuses what no volume of this size can do.
pub(crate) fn check(op: &BlockOp, size_bytes: u64, is_read_only: bool) -> Result<(), BlockError> {
    let (offset, length, is_write) = match op {
        BlockOp::Read { offset, length } => (*offset, u64::from(*length), false),
        BlockOp::Write { offset, data } => (*offset, data.len() as u64, true),
        BlockOp::Flush => return Ok(()),
        BlockOp::Trim { offset, length } | BlockOp::WriteZeroes { offset, length, .. } => (*offset, *length, true),
        BlockOp::Status { offset, length, .. } => (*offset, *length, false),
    };
    let has_payload = matches!(op, BlockOp::Read { .. } | BlockOp::Write { .. });
    if has_payload && length > u64::from(REQUEST_BYTES_MAX) {
        return Err(BlockError::Invalid("a request of more than 32 MiB"));
    }
    if offset.checked_add(length).is_none_or(|end| end > size_bytes) {
        return Err(BlockError::OutOfRange {
            offset,
            length,
            size_bytes,
        });
    }
    if is_write && is_read_only {
        return Err(BlockError::ReadOnly);
    }
    Ok(())
}

/// The blocks that a range of bytes touches.
pub(crate) fn touched(offset: u64, length: u64) -> Range {
    Range {
        first: offset / BLOCK_BYTES,
        end: (offset + length).div_ceil(BLOCK_BYTES),
    }
}

/// The blocks that lie wholly inside a range of bytes.
pub(crate) fn inside(offset: u64, length: u64) -> Range {
    let first = offset.div_ceil(BLOCK_BYTES);
    Range {
        first,
        end: ((offset + length) / BLOCK_BYTES).max(first),
    }
}

/// Reads of at most an entry's blocks that cover a range.
pub(crate) fn reads(range: Range, snapshot: Option<SnapshotId>) -> Vec<Piece> {
    let read = |(lba, blocks)| Piece::Read { lba, blocks, snapshot };
    chunks(range).map(read).collect()
}

/// Writes of at most an entry's blocks, from a payload of whole blocks; slices it, copies nothing. `seal` makes what is stored
/// of each slice.
pub(crate) fn writes(first: u64, payload: &Bytes, seal: impl Fn(Lba, &Bytes) -> Bytes) -> Vec<Piece> {
    let end = first + payload.len() as u64 / BLOCK_BYTES;
    let mut rest = payload.clone();
    chunks(Range { first, end })
        .map(|(lba, blocks)| {
            let payload = seal(lba, &rest.split_to((blocks * BLOCK_SIZE) as usize));
            Piece::Write {
                lba,
                block_crcs: block_crcs(&payload),
                payload,
            }
        })
        .collect()
}

/// The zeroing of whole blocks.
pub(crate) fn zeros(range: Range, allocate: bool) -> Vec<Piece> {
    let blocks = range.end - range.first;
    if blocks == 0 {
        return Vec::new();
    }
    vec![Piece::Zero {
        lba: Lba(range.first),
        blocks,
        allocate,
    }]
}

/// Writes of the partial blocks of a zeroed range: what they held, with the range's bytes zeroed.
#[allow(clippy::cast_possible_truncation, reason = "offsets within a block")]
pub(crate) fn zeroed_edges(
    offset: u64,
    length: u64,
    edges: &[(u64, Bytes)],
    seal: impl Fn(Lba, &Bytes) -> Bytes,
) -> Vec<Piece> {
    let zeroed = |(block, old): &(u64, Bytes)| {
        let base = block * BLOCK_BYTES;
        let start = offset.saturating_sub(base) as usize;
        let end = (offset + length - base).min(BLOCK_BYTES) as usize;
        let mut new = BytesMut::from(&old[..]);
        new[start..end].fill(0);
        writes(*block, &new.freeze(), &seal)
    };
    edges.iter().flat_map(zeroed).collect()
}

/// The status request for a byte range, cut to what one request may ask.
pub(crate) fn status(offset: u64, length: u64, extents_max: u32, snapshot: Option<SnapshotId>) -> Vec<Piece> {
    let range = touched(offset, length);
    let blocks = (range.end - range.first).min(crate::group::STATUS_BLOCKS_MAX);
    vec![Piece::Status {
        lba: Lba(range.first),
        blocks,
        extents_max,
        snapshot,
    }]
}

/// Cuts extents of whole blocks to a byte range.
pub(crate) fn trim_extents(extents: Vec<StatusExtent>, offset: u64, length: u64) -> Vec<StatusExtent> {
    let mut skip = offset % BLOCK_BYTES;
    let mut left = length;
    let mut out = Vec::with_capacity(extents.len());
    for extent in extents {
        let kept = (extent.length - skip).min(left);
        skip = 0;
        left -= kept;
        if kept > 0 {
            out.push(StatusExtent { length: kept, ..extent });
        }
    }
    out
}

fn chunks(range: Range) -> impl Iterator<Item = (Lba, u32)> {
    let step = ENTRY_BLOCKS_MAX as usize;
    (range.first..range.end).step_by(step).map(move |first| {
        #[allow(clippy::cast_possible_truncation, reason = "at most ENTRY_BLOCKS_MAX")]
        let blocks = (range.end - first).min(u64::from(ENTRY_BLOCKS_MAX)) as u32;
        (Lba(first), blocks)
    })
}

/// The edges of a byte range that share a block with bytes outside of it: blocks to be read before they are written.
pub(crate) fn partial_blocks(offset: u64, length: u64) -> Vec<u64> {
    let end = offset + length;
    let mut blocks = Vec::new();
    if !offset.is_multiple_of(BLOCK_BYTES) {
        blocks.push(offset / BLOCK_BYTES);
    }
    if !end.is_multiple_of(BLOCK_BYTES) && blocks.last() != Some(&(end / BLOCK_BYTES)) {
        blocks.push(end / BLOCK_BYTES);
    }
    blocks
}

/// Whole blocks made of what the edges held and of `data` at `offset`. The one place where a payload is copied: it does
/// not fit the blocks it is written to.
#[allow(clippy::cast_possible_truncation, reason = "requests have at most 32 MiB")]
pub(crate) fn merge(offset: u64, data: &Bytes, edges: &[(u64, Bytes)]) -> (u64, Bytes) {
    let range = touched(offset, data.len() as u64);
    let length = ((range.end - range.first) * BLOCK_BYTES) as usize;
    let mut merged = BytesMut::zeroed(length);
    for (block, old) in edges {
        let at = ((block - range.first) * BLOCK_BYTES) as usize;
        merged[at..at + BLOCK_SIZE as usize].copy_from_slice(old);
    }
    let start = (offset - range.first * BLOCK_BYTES) as usize;
    merged[start..start + data.len()].copy_from_slice(data);
    (range.first, merged.freeze())
}

/// Cuts the answer of whole blocks to the bytes that were asked for.
pub(crate) fn trim_read(pieces: Vec<BlockPiece>, offset: u64, length: u64) -> Vec<ReadPiece> {
    let mut skip = offset % BLOCK_BYTES;
    let mut left = length;
    let mut out: Vec<ReadPiece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let size = match &piece {
            BlockPiece::Data(data) => data.len() as u64,
            BlockPiece::Zeros(blocks) => u64::from(*blocks) * BLOCK_BYTES,
        };
        let start = skip.min(size);
        let end = size.min(start + left);
        skip -= start;
        left -= end - start;
        if start == end {
            continue;
        }
        #[allow(clippy::cast_possible_truncation, reason = "inside a buffer")]
        match piece {
            BlockPiece::Data(data) => out.push(ReadPiece::Data(data.slice(start as usize..end as usize))),
            BlockPiece::Zeros(_) => match out.last_mut() {
                Some(ReadPiece::Zeros(count)) => *count += end - start,
                _ => out.push(ReadPiece::Zeros(end - start)),
            },
        }
    }
    out
}

/// One block's bytes from the answer to a read of that block.
pub(crate) fn one_block(pieces: &[BlockPiece]) -> Bytes {
    match pieces.first() {
        Some(BlockPiece::Data(data)) => data.clone(),
        _ => Bytes::from_static(&[0; BLOCK_SIZE as usize]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_the_blocks_shared_with_others() {
        assert_eq!(partial_blocks(0, 4096), Vec::<u64>::new());
        assert_eq!(partial_blocks(1, 10), vec![0]);
        assert_eq!(partial_blocks(1, 4095), vec![0]);
        assert_eq!(partial_blocks(1, 4096), vec![0, 1]);
        assert_eq!(partial_blocks(4096, 1), vec![1]);
    }

    #[test]
    fn inside_never_leaves_the_range() {
        assert_eq!(inside(1, 4096), Range { first: 1, end: 1 });
        assert_eq!(inside(0, 8191), Range { first: 0, end: 1 });
        assert_eq!(inside(4096, 8192), Range { first: 1, end: 3 });
    }

    #[test]
    fn merging_keeps_what_was_around() {
        let old = Bytes::from(vec![7; 4096]);
        let (first, merged) = merge(4100, &Bytes::from_static(b"abc"), &[(1, old)]);
        assert_eq!((first, merged.len()), (1, 4096));
        assert_eq!(&merged[..8], &[7, 7, 7, 7, b'a', b'b', b'c', 7]);
    }

    #[test]
    fn a_read_is_cut_to_what_was_asked() {
        let pieces = vec![
            BlockPiece::Zeros(1),
            BlockPiece::Data(Bytes::from(vec![1; 4096])),
            BlockPiece::Zeros(1),
        ];
        let cut = trim_read(pieces, 4000, 8192);
        let lengths: Vec<u64> = cut.iter().map(ReadPiece::len).collect();
        assert_eq!(lengths, vec![96, 4096, 4000]);
    }

    #[test]
    fn long_writes_are_split_without_copying() {
        let payload = Bytes::from(vec![3; 300 * 4096]);
        let pieces = writes(10, &payload, |_, plain| plain.clone());
        assert_eq!(pieces.len(), 2);
        let Piece::Write {
            lba,
            payload: second,
            block_crcs,
        } = &pieces[1]
        else {
            unreachable!()
        };
        assert_eq!((lba.0, second.len(), block_crcs.len()), (266, 44 * 4096, 44));
        assert_eq!(second.as_ptr(), payload[256 * 4096..].as_ptr());
    }

    #[test]
    fn requests_outside_the_volume_are_refused() {
        let read = BlockOp::Read {
            offset: 4096,
            length: 4097,
        };
        assert!(matches!(check(&read, 8192, false), Err(BlockError::OutOfRange { .. })));
        let trim = BlockOp::Trim {
            offset: u64::MAX,
            length: 2,
        };
        assert!(matches!(check(&trim, 8192, false), Err(BlockError::OutOfRange { .. })));
        assert_eq!(
            check(&BlockOp::Trim { offset: 0, length: 8 }, 8192, true),
            Err(BlockError::ReadOnly)
        );
    }
}
