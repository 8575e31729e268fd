//! The superblock: as it comes, and with its magic number and checksum set right so that the fields are reached.
#![no_main]

use cairn_format::superblock::{SUPERBLOCK_BYTES, Superblock, choose};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Superblock::decode(data);
    let mut block = data.to_vec();
    block.resize(SUPERBLOCK_BYTES, 0);
    block[..8].copy_from_slice(b"CAIRNDSK");
    let crc = crc32c::crc32c(&block[12..]);
    block[8..12].copy_from_slice(&crc.to_le_bytes());
    if let Ok(superblock) = Superblock::decode(&block) {
        assert_eq!(&superblock.encode()[..], &block[..]);
        let last = superblock.geometry.segment_count - 1;
        assert!(superblock.geometry.segment_end(last) <= superblock.device_size);
        assert_eq!(
            superblock.geometry.segment_of(superblock.geometry.segment_offset(last)),
            Some(last)
        );
    }
    let _ = choose(&block, data);
});
