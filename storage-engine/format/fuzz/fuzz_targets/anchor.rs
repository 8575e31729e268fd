//! The anchor: as it comes, and with its magic number and checksum set right so that the fields are reached.
#![no_main]

use cairn_format::anchor::{ANCHOR_BYTES, Anchor};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Anchor::decode(data);
    let mut block = data.to_vec();
    block.resize(ANCHOR_BYTES, 0);
    block[..8].copy_from_slice(b"CAIRNANC");
    let crc = crc32c::crc32c(&block[12..]);
    block[8..12].copy_from_slice(&crc.to_le_bytes());
    if let Ok(anchor) = Anchor::decode(&block) {
        assert_eq!(&anchor.encode()[..], &block[..]);
    }
});
