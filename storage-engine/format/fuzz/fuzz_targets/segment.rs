//! The segment header: as it comes, and with its magic number and checksum set right so that the fields are reached.
#![no_main]

use cairn_format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = SegmentHeader::decode(data);
    let mut block = data.to_vec();
    block.resize(SEGMENT_HEADER_BYTES, 0);
    block[..8].copy_from_slice(b"CAIRNSEG");
    let crc = crc32c::crc32c(&block[12..]);
    block[8..12].copy_from_slice(&crc.to_le_bytes());
    if let Ok(header) = SegmentHeader::decode(&block) {
        assert_eq!(&header.encode()[..], &block[..]);
    }
});
