//! The body of a chunk of moved blocks: what lies behind it, in order.
//!
//! It is a list of runs. The blocks themselves follow the chunk at once, as many as the runs name, and are covered by the
//! checksums that the maps hold.

use bytes::{BufMut, BytesMut};
use cairn_api::ids::GroupId;

use crate::error::FormatError;
use crate::wire::Reader;

const STRUCTURE: &str = "names of moved blocks";
/// Bytes of an encoded run.
const RUN_BYTES: usize = 20;
/// Blocks that one chunk of moved blocks names at most: as many as one entry may have.
pub const MOVED_BLOCKS_MAX: usize = 256;

/// Blocks of one volume in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MovedBlocks {
    /// The volume; for the meta group the index of an entry stands for the address.
    pub group: GroupId,
    /// The address of the first block.
    pub lba: u64,
    /// Blocks, at least 1.
    pub blocks: u32,
}

/// Encodes the runs.
pub fn encode(runs: &[MovedBlocks]) -> BytesMut {
    let mut body = BytesMut::with_capacity(RUN_BYTES * runs.len());
    for run in runs {
        body.put_u64_le(run.group.0);
        body.put_u64_le(run.lba);
        body.put_u32_le(run.blocks);
    }
    body
}

/// Decodes the runs.
pub fn decode(body: &[u8]) -> Result<Vec<MovedBlocks>, FormatError> {
    let mut reader = Reader::new(STRUCTURE, body);
    let mut runs = Vec::with_capacity(body.len() / RUN_BYTES);
    let mut blocks = 0_u64;
    while reader.remaining() > 0 {
        let run = MovedBlocks {
            group: GroupId(reader.u64("group")?),
            lba: reader.u64("first block")?,
            blocks: reader.u32("blocks")?,
        };
        blocks += u64::from(run.blocks);
        if run.blocks == 0 || blocks > MOVED_BLOCKS_MAX as u64 {
            return Err(reader.out_of_range("blocks", u64::from(run.blocks), "1 to 256 in all"));
        }
        runs.push(run);
    }
    Ok(runs)
}
