//! The batch frame: as it comes, and with its magic number and chain value set right so that the records are reached.
#![no_main]

use bytes::Bytes;
use cairn_format::frame;
use libfuzzer_sys::fuzz_target;

const BLOCK: usize = 4096;
/// Where the chain value before stands.
const PREVIOUS_CHAIN: std::ops::Range<usize> = 72..80;

fuzz_target!(|data: &[u8]| {
    let _ = frame::decode(&Bytes::copy_from_slice(data));
    let _ = frame::claims_of(data);
    let mut header = data.to_vec();
    header.resize(header.len().clamp(1, 16 * BLOCK).next_multiple_of(BLOCK), 0);
    header[..8].copy_from_slice(b"CAIRNFRM");
    let blocks = (header.len() / BLOCK) as u32;
    header[20..24].copy_from_slice(&blocks.to_le_bytes());
    let crc = crc32c::crc32c(&header[16..]);
    let linked = crc32c::crc32c_append(crc32c::crc32c(&header[PREVIOUS_CHAIN]), &crc.to_le_bytes());
    header[8..12].copy_from_slice(&crc.to_le_bytes());
    header[12..16].copy_from_slice(&linked.to_le_bytes());
    let header = Bytes::from(header);
    if let Ok(decoded) = frame::decode(&header) {
        assert_eq!(
            frame::claims_of(&header),
            Some((decoded.info.disk, decoded.info.incarnation))
        );
        // What the fuzzer left behind the records may be whole blocks of zeros; else it is the same again.
        let (encoded, chain) = frame::encode(&decoded.info, &decoded.records);
        assert!(encoded.len() <= header.len());
        assert_eq!(encoded.len() == header.len(), chain == decoded.chain);
    }
});
