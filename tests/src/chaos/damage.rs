//! Damage to the bytes of a disk, under a stopped engine or a running one.
//!
//! What may be damaged follows from what Cairn promises. Payload of frames that a later frame vouches for: it is checked on
//! every read, and peers have it too. A frame header that a later frame vouches for: the disk has lost acknowledged data,
//! and must be refused. Not the last frames: their loss cannot be told from a torn write, as the recovery table says.
//!
//! The disk is read by its outermost structure only: the fixed fields at the beginning of a frame's header. Access is
//! direct, like the engine's own, so that no stale page of the kernel's cache gets in between.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result};
use cairn_history::rng::Rng;
use nix::fcntl::OFlag;

const BLOCK: usize = 4096;
const BLOCK_BYTES: u64 = 4096;
/// The disk is read in pieces of so many blocks.
const PIECE_BLOCKS: u64 = 256;
const FRAME_MAGIC: &[u8] = b"CAIRNFRM";
/// Frames this close to the end of what is vouched for are left alone.
const MARGIN: u64 = 70;

/// A frame in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    block: u64,
    header_blocks: u64,
    payload_blocks: u64,
    sequence: u64,
    durable_upto: u64,
}

/// Memory that direct I/O takes.
struct Buffer {
    bytes: Vec<u8>,
    from: usize,
    length: usize,
}

impl Buffer {
    fn new(length: usize) -> Self {
        let bytes = vec![0; length + BLOCK];
        let from = bytes.as_ptr().align_offset(BLOCK);
        Self { bytes, from, length }
    }

    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.from..self.from + self.length]
    }
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .custom_flags((OFlag::O_DIRECT | OFlag::O_DSYNC).bits());
    options
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

fn field(block: &[u8], at: usize) -> u64 {
    let bytes = block.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

/// The frame that begins with this block, if one does. A frame names its own place, so an image of one in somebody's
/// payload is none.
fn frame_at(block: u64, bytes: &[u8]) -> Option<Frame> {
    if !bytes.starts_with(FRAME_MAGIC) || field(bytes, 40) != block {
        return None;
    }
    Some(Frame {
        block,
        header_blocks: field(bytes, 20) & 0xFFFF_FFFF,
        payload_blocks: field(bytes, 88) & 0xFFFF_FFFF,
        sequence: field(bytes, 64),
        durable_upto: field(bytes, 80),
    })
}

/// All frames, by their sequence.
fn frames(file: &File, size: u64) -> Result<Vec<Frame>> {
    let mut buffer = Buffer::new(BLOCK * usize::try_from(PIECE_BLOCKS)?);
    let mut found = Vec::new();
    let mut next = 0;
    for piece in 0..size / (PIECE_BLOCKS * BLOCK_BYTES) {
        let first = piece * PIECE_BLOCKS;
        if next >= first + PIECE_BLOCKS {
            continue;
        }
        file.read_exact_at(buffer.as_mut(), first * BLOCK_BYTES)?;
        for (block, bytes) in (first..).zip(buffer.as_mut().chunks(BLOCK)) {
            if block < next {
                continue;
            }
            if let Some(frame) = frame_at(block, bytes) {
                next = block + frame.header_blocks + frame.payload_blocks;
                found.push(frame);
            }
        }
    }
    found.sort_by_key(|frame| frame.sequence);
    Ok(found)
}

/// The frames that a much later one vouches for.
fn settled(file: &File, size: u64) -> Result<Vec<Frame>> {
    let all = frames(file, size)?;
    let vouched = all.iter().map(|frame| frame.durable_upto).max().unwrap_or(0);
    Ok(all
        .into_iter()
        .filter(|frame| frame.sequence + MARGIN < vouched)
        .collect())
}

/// Changes bytes in `count` payload blocks: what clients have written, and commands of the meta group. Says how many.
pub(super) fn rot(path: &Path, count: usize, rng: &mut Rng) -> Result<u64> {
    let file = open(path)?;
    let size = file.metadata()?.len();
    let frames: Vec<Frame> = settled(&file, size)?
        .into_iter()
        .filter(|frame| frame.payload_blocks > 0)
        .collect();
    if frames.is_empty() {
        return Ok(0);
    }
    let mut buffer = Buffer::new(BLOCK);
    let mut changed = 0;
    for _ in 0..count {
        let frame = frames[rng.pick(frames.len())];
        let block = frame.block + frame.header_blocks + rng.below(frame.payload_blocks);
        file.read_exact_at(buffer.as_mut(), block * BLOCK_BYTES)?;
        for _ in 0..rng.between(1, 40) {
            let at = rng.pick(BLOCK);
            buffer.as_mut()[at] ^= 1 << rng.below(8);
        }
        file.write_all_at(buffer.as_mut(), block * BLOCK_BYTES)?;
        changed += 1;
    }
    Ok(changed)
}

/// Damages the header of a frame in the middle of a stopped engine's log. Says which, or that there is none yet.
pub(super) fn break_log(path: &Path, rng: &mut Rng) -> Result<Option<u64>> {
    let file = open(path)?;
    let size = file.metadata()?.len();
    let frames = settled(&file, size)?;
    let middle = &frames[frames.len() / 4..];
    if middle.is_empty() {
        return Ok(None);
    }
    let frame = middle[rng.pick(middle.len())];
    let mut buffer = Buffer::new(BLOCK);
    file.read_exact_at(buffer.as_mut(), frame.block * BLOCK_BYTES)?;
    // Behind the magic number, which keeps it looking like a frame.
    let at = usize::try_from(rng.between(8, 103))?;
    buffer.as_mut()[at] ^= 1 << rng.below(8);
    file.write_all_at(buffer.as_mut(), frame.block * BLOCK_BYTES)?;
    Ok(Some(frame.sequence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_known_by_its_magic_and_its_place() {
        let mut block = vec![0; BLOCK];
        block[..8].copy_from_slice(FRAME_MAGIC);
        block[20..24].copy_from_slice(&2u32.to_le_bytes());
        block[40..48].copy_from_slice(&7u64.to_le_bytes());
        block[64..72].copy_from_slice(&9u64.to_le_bytes());
        block[80..88].copy_from_slice(&8u64.to_le_bytes());
        block[88..92].copy_from_slice(&3u32.to_le_bytes());
        let expected = Frame {
            block: 7,
            header_blocks: 2,
            payload_blocks: 3,
            sequence: 9,
            durable_upto: 8,
        };
        assert_eq!(frame_at(7, &block), Some(expected));
        assert_eq!(frame_at(8, &block), None);
    }
}
