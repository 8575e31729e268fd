//! The peer wire: greeting, frame header, and a body under a right checksum so that the messages are reached.
#![no_main]

use bytes::Bytes;
use cairn_format::peer::{
    BODY_BYTES_MAX, FrameHeader, HEADER_BYTES, Hello, HelloReply, decode_body, decode_header, encode,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Hello::decode(data);
    let _ = HelloReply::decode(data);
    if let Some(header) = data.first_chunk::<HEADER_BYTES>() {
        let _ = decode_header(header);
        let mut header = *header;
        header[..8].copy_from_slice(b"CAIRNPFR");
        let crc = crc32c::crc32c(&header[..HEADER_BYTES - 4]);
        header[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        let _ = decode_header(&header);
    }
    let [messages, blocks, rest @ ..] = data else { return };
    let body = Bytes::copy_from_slice(&rest[..rest.len().min(BODY_BYTES_MAX)]);
    let payload = Bytes::from(vec![0; usize::from(blocks % 8) * 4096]);
    let header = FrameHeader {
        body_len: body.len() as u32,
        payload_len: payload.len() as u32,
        message_count: u32::from(messages % 4),
        body_crc: crc32c::crc32c(&body),
    };
    if let Ok(decoded) = decode_body(&header, &body, &payload) {
        let encoded = encode(&decoded);
        assert_eq!(&encoded.head[HEADER_BYTES..], &body[..]);
    }
});
