//! Messages to bytes and back, through the real codecs: what crosses a simulated link is what would cross a real one.

use bytes::Bytes;
use cairn_format::peer::{HEADER_BYTES, PeerMessage, decode_body, decode_header, encode as encode_frame};

/// An encoded message. The payload is as many slices as the sender named, none copied.
#[derive(Clone, Debug)]
pub struct Packet {
    head: Bytes,
    payload: Vec<Bytes>,
}

impl Packet {
    pub fn len(&self) -> usize {
        self.head.len() + self.payload.iter().map(Bytes::len).sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.head.is_empty()
    }

    /// A checksum of the head, which holds the checksums of the payload.
    pub fn digest(&self) -> u32 {
        crc32c::crc32c(&self.head)
    }
}

pub fn encode(message: &PeerMessage) -> Packet {
    let frame = encode_frame(std::slice::from_ref(message));
    Packet {
        head: frame.head,
        payload: frame.payload,
    }
}

pub fn decode(packet: &Packet) -> Vec<PeerMessage> {
    let head = packet.head.first_chunk::<HEADER_BYTES>().expect("a whole header");
    let header = decode_header(head).unwrap();
    let body = packet.head.slice(HEADER_BYTES..);
    assert_eq!(body.len(), header.body_len as usize, "a whole body");
    let payload = match &packet.payload[..] {
        [] => Bytes::new(),
        [piece] => piece.clone(),
        pieces => pieces.concat().into(),
    };
    decode_body(&header, &body, &payload).unwrap()
}
