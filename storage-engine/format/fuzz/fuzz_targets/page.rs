//! The leaf page: as it comes, and with its checksum set right so that the runs are reached.
#![no_main]

use bytes::BytesMut;
use cairn_format::page::LeafPage;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = LeafPage::decode(data);
    if data.len() < 4 {
        return;
    }
    let mut bytes = data.to_vec();
    let crc = crc32c::crc32c(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    if let Ok(page) = LeafPage::decode(&bytes) {
        let mut encoded = BytesMut::new();
        page.encode_into(&mut encoded);
        assert_eq!(&encoded[..], &bytes[..]);
    }
});
