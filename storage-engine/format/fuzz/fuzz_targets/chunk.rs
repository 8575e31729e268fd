//! The chunk, and what its body may be: as it comes, and with its magic number and checksum set right so that the fields
//! are reached.
#![no_main]

use bytes::Bytes;
use cairn_format::{chunk, moved};
use libfuzzer_sys::fuzz_target;

const BLOCK: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let _ = chunk::decode(&Bytes::copy_from_slice(data));
    if let Ok(runs) = moved::decode(data) {
        assert_eq!(&moved::encode(&runs)[..], data);
    }
    let mut blocks = data.to_vec();
    blocks.resize(blocks.len().clamp(1, 4 * BLOCK).next_multiple_of(BLOCK), 0);
    blocks[..8].copy_from_slice(b"CAIRNCHK");
    let crc = crc32c::crc32c(&blocks[12..]);
    blocks[8..12].copy_from_slice(&crc.to_le_bytes());
    let blocks = Bytes::from(blocks);
    if let Ok((info, body)) = chunk::decode(&blocks) {
        assert_eq!(chunk::encode(&info, &body), blocks);
    }
});
