//! A 4 KiB block that carries one structure: magic, checksum, then the fields, then zeros.
//!
//! Magic and checksum stand in the first 512 bytes with every field, so that on a disk whose sectors are written whole
//! an interrupted rewrite leaves either the old or the new structure wherever the rest of the block is zeros in both.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use cairn_api::units::BLOCK_SIZE;

use crate::checksum::crc32c;
use crate::error::FormatError;
use crate::wire::Reader;

/// Where the bytes under the checksum begin.
const CHECKED_FROM: usize = 12;

/// A page-aligned, empty buffer of at least `capacity` bytes: what direct I/O asks of the memory it transfers.
///
/// It must not be grown beyond `capacity`: the bytes would move and lose their alignment.
pub(crate) fn aligned(capacity: usize) -> BytesMut {
    let page = BLOCK_SIZE as usize;
    let mut buffer = BytesMut::with_capacity(capacity + page);
    let skip = buffer.as_ptr().align_offset(page);
    // `align_offset` may decline to answer; then the buffer is merely not aligned.
    if skip < page {
        buffer.put_bytes(0, skip);
        buffer.advance(skip);
    }
    buffer
}

/// Builds the block around the fields that `write` appends.
pub(crate) fn seal(magic: u64, write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut block = aligned(BLOCK_SIZE as usize);
    block.put_u64_le(magic);
    block.put_u32_le(0);
    write(&mut block);
    assert!(block.len() <= 512, "the fields must stand in the first sector");
    block.resize(BLOCK_SIZE as usize, 0);
    let crc = crc32c(&block[CHECKED_FROM..]);
    block[CHECKED_FROM - 4..CHECKED_FROM].copy_from_slice(&crc.to_le_bytes());
    block.freeze()
}

/// Checks magic and checksum of a block and gives a reader of its fields; what it leaves must be zeros.
pub(crate) fn open<'a>(structure: &'static str, magic: u64, bytes: &'a [u8]) -> Result<Reader<'a>, FormatError> {
    let mut whole = Reader::new(structure, bytes);
    let mut reader = Reader::new(structure, whole.take("block", BLOCK_SIZE as usize)?);
    whole.end()?;
    reader.magic(magic)?;
    let found = reader.u32("checksum")?;
    let computed = crc32c(&bytes[CHECKED_FROM..]);
    if found != computed {
        return Err(FormatError::Checksum {
            structure,
            part: "the block",
            found,
            computed,
        });
    }
    Ok(reader)
}
