//! Messages to bytes and back, through the real codecs.

use bytes::Bytes;
use cairn_format::peer::{HEADER_BYTES, PeerMessage, decode_body, decode_header, encode as encode_frame};

pub fn encode(message: &PeerMessage) -> Vec<u8> {
    let frame = encode_frame(std::slice::from_ref(message));
    let mut bytes = frame.head.to_vec();
    frame.payload.iter().for_each(|piece| bytes.extend_from_slice(piece));
    bytes
}

pub fn decode(bytes: &[u8]) -> Vec<PeerMessage> {
    let (head, rest) = bytes.split_first_chunk::<HEADER_BYTES>().expect("a whole header");
    let header = decode_header(head).unwrap();
    let (body, payload) = rest.split_at(header.body_len as usize);
    decode_body(&header, &Bytes::copy_from_slice(body), &Bytes::copy_from_slice(payload)).unwrap()
}
