//! A chunk: a stretch of a cold or index segment that was written as one, and says of itself what it is.
//!
//! Its first block holds magic, checksum, and the fixed fields; the body follows at once and is padded with zeros to whole
//! blocks. The checksum covers everything behind it. A chunk is believed only because a durable anchor or frame names its
//! place; its own claims (disk, place, epoch, kind) catch writes and reads that went astray.

use bytes::{BufMut, Bytes, BytesMut};
use cairn_api::ids::DiskId;
use cairn_api::units::BLOCK_SIZE;

use crate::checksum::crc32c;
use crate::error::FormatError;
use crate::sealed_block::aligned;
use crate::wire::Reader;

const STRUCTURE: &str = "chunk";
const MAGIC: u64 = u64::from_le_bytes(*b"CAIRNCHK");
const VERSION: u16 = 1;
const CHECKED_FROM: usize = 12;
/// The fixed fields, in bytes: where the body begins.
pub const CHUNK_HEAD_BYTES: usize = 80;
/// The longest chunk in blocks: 1 MiB, as the longest read and write elsewhere.
pub const CHUNK_BLOCKS_MAX: u32 = 256;
/// The longest body in bytes.
pub const CHUNK_BODY_BYTES_MAX: usize = CHUNK_BLOCKS_MAX as usize * BLOCK_SIZE as usize - CHUNK_HEAD_BYTES;

/// What a chunk holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChunkKind {
    /// Leaf pages of block maps.
    Pages,
    /// A stretch of a checkpoint's table.
    Table,
    /// The names of the blocks that collection has moved behind it.
    Moved,
}

/// What a chunk says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkInfo {
    /// The disk.
    pub disk: DiskId,
    /// The disk's block that it starts at.
    pub block: u64,
    /// The epoch of its segment.
    pub epoch: u64,
    /// What it holds.
    pub kind: ChunkKind,
    /// The generation of the checkpoint that it was written for; 0 for moved blocks.
    pub generation: u64,
    /// The chunk of the same table before it: its block, 0 for none.
    pub previous_block: u64,
    /// Its length in blocks.
    pub previous_blocks: u32,
}

/// Blocks of a chunk with a body of so many bytes.
#[allow(clippy::cast_possible_truncation, reason = "bodies are at most 1 MiB")]
pub const fn chunk_blocks(body_bytes: usize) -> u32 {
    (CHUNK_HEAD_BYTES + body_bytes).div_ceil(BLOCK_SIZE as usize) as u32
}

/// Encodes a chunk: whole blocks, page-aligned.
///
/// # Panics
/// If the body is longer than [`CHUNK_BODY_BYTES_MAX`].
#[allow(clippy::cast_possible_truncation, reason = "the body is bounded above")]
pub fn encode(info: &ChunkInfo, body: &[u8]) -> Bytes {
    assert!(body.len() <= CHUNK_BODY_BYTES_MAX, "a chunk of at most 1 MiB");
    let length = (chunk_blocks(body.len()) * BLOCK_SIZE) as usize;
    let mut buffer: BytesMut = aligned(length);
    buffer.put_u64_le(MAGIC);
    buffer.put_u32_le(0); // the checksum, below
    buffer.put_u16_le(VERSION);
    buffer.put_u16_le(match info.kind {
        ChunkKind::Pages => 1,
        ChunkKind::Table => 2,
        ChunkKind::Moved => 3,
    });
    buffer.put_slice(&info.disk.to_bytes());
    for field in [info.block, info.epoch, info.generation, info.previous_block] {
        buffer.put_u64_le(field);
    }
    buffer.put_u32_le(info.previous_blocks);
    buffer.put_u32_le(body.len() as u32);
    buffer.put_u64_le(0); // reserved
    assert_eq!(
        buffer.len(),
        CHUNK_HEAD_BYTES,
        "the fields are as long as they are declared"
    );
    buffer.put_slice(body);
    buffer.resize(length, 0);
    let crc = crc32c(&buffer[CHECKED_FROM..]);
    buffer[CHECKED_FROM - 4..CHECKED_FROM].copy_from_slice(&crc.to_le_bytes());
    buffer.freeze()
}

/// Whether something is, or was meant to be, a chunk.
pub fn is_chunk(bytes: &Bytes) -> bool {
    bytes.starts_with(&MAGIC.to_le_bytes())
}

/// Decodes a chunk from exactly its blocks: what it says of itself, and its body, a slice of `bytes`.
pub fn decode(bytes: &Bytes) -> Result<(ChunkInfo, Bytes), FormatError> {
    let mut reader = Reader::new(STRUCTURE, bytes);
    reader.magic(MAGIC)?;
    let found = reader.u32("checksum")?;
    let computed = crc32c(&bytes[CHECKED_FROM..]);
    if found != computed {
        return Err(FormatError::Checksum {
            structure: STRUCTURE,
            part: "the chunk",
            found,
            computed,
        });
    }
    reader.version(VERSION)?;
    let kind = match reader.u16("kind")? {
        1 => ChunkKind::Pages,
        2 => ChunkKind::Table,
        3 => ChunkKind::Moved,
        found => return Err(reader.unknown("kind", u64::from(found), "1 pages, 2 table, 3 moved blocks")),
    };
    let info = ChunkInfo {
        disk: reader.disk("disk")?,
        block: reader.u64("block")?,
        epoch: reader.u64("epoch")?,
        kind,
        generation: reader.u64("generation")?,
        previous_block: reader.u64("block of the chunk before")?,
        previous_blocks: reader.u32("length of the chunk before")?,
    };
    let body_bytes = reader.u32("length of the body")? as usize;
    reader.reserved(8)?;
    if body_bytes > reader.remaining() || chunk_blocks(body_bytes) as usize * BLOCK_SIZE as usize != bytes.len() {
        return Err(reader.out_of_range("length of the body", body_bytes as u64, "what its blocks hold"));
    }
    let body = bytes.slice(CHUNK_HEAD_BYTES..CHUNK_HEAD_BYTES + body_bytes);
    reader.take("body", body_bytes)?;
    reader.reserved(reader.remaining())?;
    Ok((info, body))
}
