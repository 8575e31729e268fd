//! What is sent to a peer arrives as it was; any changed byte is noticed; garbage is refused without a fuss.

use super::strategies;
use bytes::{Bytes, BytesMut};
use cairn_api::ids::{Epoch, GroupId, LogIndex};
use cairn_api::units::Lba;
use cairn_format::error::FormatError;
use cairn_format::peer::{
    self, EncodedFrame, GatewayOp, GatewayRequest, HEADER_BYTES, Hello, HelloReply, PeerMessage, body_bytes_estimate,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// As a receiver does it: header, body, payload.
fn decode(stream: &Bytes) -> Result<Vec<PeerMessage>, FormatError> {
    let header = peer::decode_header(stream[..HEADER_BYTES].try_into().unwrap())?;
    let (body_end, end) = (HEADER_BYTES + header.body_len as usize, stream.len());
    peer::decode_body(
        &header,
        &stream.slice(HEADER_BYTES..body_end.min(end)),
        &stream.slice(body_end.min(end)..),
    )
}

fn stream(frame: &EncodedFrame) -> Bytes {
    let mut stream = BytesMut::from(&frame.head[..]);
    frame.payload.iter().for_each(|piece| stream.extend_from_slice(piece));
    stream.freeze()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn messages_come_back(messages in vec(strategies::peer_message(), 0..6)) {
        let frame = peer::encode(&messages);
        let estimate: usize = messages.iter().map(body_bytes_estimate).sum();
        prop_assert!(frame.head.len() - HEADER_BYTES <= estimate);
        prop_assert_eq!(
            frame.payload.iter().map(Bytes::len).sum::<usize>(),
            messages.iter().map(PeerMessage::payload_bytes).sum::<usize>()
        );
        prop_assert_eq!(decode(&stream(&frame)), Ok(messages));
    }

    #[test]
    fn a_changed_byte_is_noticed(
        messages in vec(strategies::peer_message(), 1..4),
        place in any::<usize>(),
        mask in 1_u8..,
    ) {
        let mut bytes = stream(&peer::encode(&messages)).to_vec();
        let place = place % bytes.len();
        bytes[place] ^= mask;
        prop_assert!(decode(&bytes.into()).is_err());
    }

    #[test]
    fn a_changed_byte_of_the_head_is_noticed(
        messages in vec(strategies::peer_message(), 1..4),
        place in 0..HEADER_BYTES,
        mask in 1_u8..,
    ) {
        let mut bytes = stream(&peer::encode(&messages)).to_vec();
        bytes[place] ^= mask;
        prop_assert!(decode(&bytes.into()).is_err());
    }

    /// The checksums hold, the fields do not: what a faulty or hostile peer would send.
    #[test]
    fn garbage_under_a_right_checksum_does_no_harm(
        messages in vec(strategies::peer_message(), 0..3),
        garbage in vec(any::<u8>(), 1..200),
        place in any::<usize>(),
    ) {
        let frame = peer::encode(&messages);
        let mut header = peer::decode_header(frame.head[..HEADER_BYTES].try_into().unwrap()).unwrap();
        let mut body = frame.head[HEADER_BYTES..].to_vec();
        let at = place % (body.len() + 1);
        let until = (at + garbage.len()).min(body.len());
        body.splice(at..until, garbage);
        header.body_len = u32::try_from(body.len()).unwrap();
        header.body_crc = cairn_format::checksum::crc32c(&body);
        let payload = stream(&frame).slice(frame.head.len()..);
        if let Ok(decoded) = peer::decode_body(&header, &body.into(), &payload) {
            prop_assert!(decoded.len() <= header.message_count as usize);
        }
    }

    #[test]
    fn greetings_come_back(hello in strategies::hello(), code in strategies::hello_code()) {
        prop_assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
        let reply = HelloReply::new(code);
        prop_assert_eq!(HelloReply::decode(&reply.encode()), Ok(reply));
    }

    #[test]
    fn a_changed_byte_of_a_greeting_is_noticed(
        hello in strategies::hello(),
        code in strategies::hello_code(),
        place in any::<usize>(),
        mask in 1_u8..,
    ) {
        let mut bytes = hello.encode().to_vec();
        let at = place % bytes.len();
        bytes[at] ^= mask;
        prop_assert!(Hello::decode(&bytes).is_err());
        let mut bytes = HelloReply::new(code).encode().to_vec();
        let at = place % bytes.len();
        bytes[at] ^= mask;
        prop_assert!(HelloReply::decode(&bytes).is_err());
    }

    #[test]
    fn garbage_is_refused(garbage in vec(any::<u8>(), HEADER_BYTES..300)) {
        prop_assert!(decode(&garbage.clone().into()).is_err());
        prop_assert!(Hello::decode(&garbage).is_err());
        prop_assert!(HelloReply::decode(&garbage).is_err());
    }
}

#[test]
fn the_payload_is_never_copied() {
    let payload = strategies::payload(2, 9);
    let block_crcs = cairn_format::checksum::block_crcs(&payload);
    let op = GatewayOp::Write {
        epoch: Epoch(1),
        lba: Lba(2),
        block_crcs,
        payload: payload.clone(),
    };
    let frame = peer::encode(&[PeerMessage::Request(GatewayRequest {
        group: GroupId(2),
        request: 1,
        revision: LogIndex(0),
        op,
    })]);
    assert_eq!(frame.payload[0].as_ptr(), payload.as_ptr());
    let header = peer::decode_header(frame.head[..HEADER_BYTES].try_into().unwrap()).unwrap();
    let messages = peer::decode_body(&header, &frame.head.slice(HEADER_BYTES..), &payload).unwrap();
    let PeerMessage::Request(GatewayRequest {
        op: GatewayOp::Write { payload: received, .. },
        ..
    }) = &messages[0]
    else {
        panic!("another message came back");
    };
    assert_eq!(received.as_ptr(), payload.as_ptr());
}
