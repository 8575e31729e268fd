//! Messages to bytes and back, through the real codecs: what crosses a simulated link is what would cross a real one.

use bytes::Bytes;
use cairn_format::error::FormatError;
use cairn_format::peer::{HEADER_BYTES, PeerMessage, decode_header, encode as encode_frame};

use crate::mutant::Mutant;

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

    /// Everything that crosses the link, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.head).chain(&self.payload)
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

impl Packet {
    /// Whether blocks come with it.
    pub fn has_payload(&self) -> bool {
        !self.payload.is_empty()
    }

    /// Flips a bit: of the payload, if there is any.
    pub fn garble(&mut self, place: usize) {
        let piece = match self.payload.first_mut() {
            Some(piece) => piece,
            None => &mut self.head,
        };
        let mut bytes = piece.to_vec();
        let place = place % bytes.len();
        bytes[place] ^= 0x04;
        *piece = Bytes::from(bytes);
    }
}

/// What the receiver makes of it, if its checksums hold.
pub fn decode(packet: &Packet, mutant: Mutant) -> Result<Vec<PeerMessage>, FormatError> {
    let head = packet.head.first_chunk::<HEADER_BYTES>().expect("a whole header");
    let header = decode_header(head)?;
    let body = packet.head.slice(HEADER_BYTES..);
    let payload = match &packet.payload[..] {
        [] => Bytes::new(),
        [piece] => piece.clone(),
        pieces => pieces.concat().into(),
    };
    mutant.decode(&header, &body, &payload)
}
