//! Messages to bytes. This is on the path of every write: one buffer, no copy of any payload.

use bytes::{BufMut, Bytes, BytesMut};
use cairn_api::block::{Allocation, BlockError, StatusExtent};
use cairn_api::units::BLOCK_SIZE;

use super::header::FrameHeader;
use super::{
    AttachMode, BODY_BYTES_MAX, BlockPiece, CONTEXT_BYTES_MAX, CatchUpRequest, GatewayOp, GatewayReply, GatewayRequest,
    GatewayResult, HEADER_BYTES, PAYLOAD_BYTES_MAX, PeerEntry, PeerMessage, RaftKind, RaftMessage, STATUS_EXTENTS_MAX,
    TEXT_BYTES_MAX,
};
use crate::checksum::crc32c;
use crate::entry::{BlockCrcs, ENTRY_BLOCKS_MAX, HEADER_BYTES_MAX};
use crate::member::{MEMBER_BYTES, MEMBERS_MAX};

pub(super) const MESSAGE_RAFT: u8 = 1;
pub(super) const MESSAGE_REQUEST: u8 = 2;
pub(super) const MESSAGE_REPLY: u8 = 3;
pub(super) const MESSAGE_REPAIR_REQUEST: u8 = 4;
pub(super) const MESSAGE_REPAIR_REPLY: u8 = 5;
pub(super) const MESSAGE_CATCH_UP_OFFER: u8 = 15;
pub(super) const MESSAGE_CATCH_UP_REQUEST: u8 = 16;
pub(super) const MESSAGE_CATCH_UP_REPLY: u8 = 17;
/// A Raft message's fields in front of its context and entries, the message's kind byte included.
pub(super) const RAFT_FIXED_BYTES: usize = 102;
/// An entry's fields in front of its header.
pub(super) const ENTRY_FIXED_BYTES: usize = 18;
/// Kind, group, request number, revision and operation of a gateway's request; a reply has no revision.
pub(super) const GATEWAY_FIXED_BYTES: usize = 26;

/// A frame ready to be sent: the head, then the payload, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EncodedFrame {
    /// Header and body.
    pub head: Bytes,
    /// The payload's pieces; the very buffers of the messages.
    pub payload: Vec<Bytes>,
}

impl EncodedFrame {
    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.head.len() + self.payload.iter().map(Bytes::len).sum::<usize>()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.head.is_empty()
    }
}

/// At most so many bytes of body does the message take: what to add up to keep a frame below [`BODY_BYTES_MAX`].
pub fn body_bytes_estimate(message: &PeerMessage) -> usize {
    match message {
        PeerMessage::Raft(raft) => {
            let entries: usize = raft
                .entries
                .iter()
                .map(|entry| ENTRY_FIXED_BYTES + entry.header.len())
                .sum();
            RAFT_FIXED_BYTES + raft.context.len() + entries
        }
        PeerMessage::Request(GatewayRequest {
            op: GatewayOp::Write { block_crcs, .. },
            ..
        }) => GATEWAY_FIXED_BYTES + 18 + 4 * block_crcs.len(),
        PeerMessage::Request(_) => GATEWAY_FIXED_BYTES + 33,
        PeerMessage::RepairRequest(request) => request.body_bytes(),
        PeerMessage::RepairReply(reply) => reply.body_bytes(),
        PeerMessage::CatchUpOffer(offer) => offer.body_bytes(),
        PeerMessage::CatchUpRequest(_) => CatchUpRequest::BODY_BYTES,
        PeerMessage::CatchUpReply(reply) => reply.body_bytes(),
        PeerMessage::Reply(GatewayReply { result, .. }) => {
            GATEWAY_FIXED_BYTES
                + match result {
                    // Five bytes a piece, four a block of data.
                    GatewayResult::Read(pieces) => 2 + 5 * pieces.len() + 4 * ENTRY_BLOCKS_MAX as usize,
                    GatewayResult::Status(extents) => 4 + 9 * extents.len(),
                    GatewayResult::Members { voters, .. } => 10 + MEMBER_BYTES * voters.len(),
                    _ => 32 + TEXT_BYTES_MAX,
                }
        }
    }
}

/// Encodes messages into one frame.
///
/// # Panics
/// If the frame would pass [`BODY_BYTES_MAX`] or [`PAYLOAD_BYTES_MAX`], or a message breaks the bounds that its fields
/// state: the sender splits before it encodes, and a receiver would drop the link.
#[allow(clippy::cast_possible_truncation, reason = "the lengths are asserted first")]
pub fn encode(messages: &[PeerMessage]) -> EncodedFrame {
    let capacity = HEADER_BYTES + messages.iter().map(body_bytes_estimate).sum::<usize>();
    let mut encoder = Encoder {
        body: BytesMut::with_capacity(capacity),
        payload: Vec::new(),
    };
    encoder.body.put_bytes(0, HEADER_BYTES);
    for message in messages {
        match message {
            PeerMessage::Raft(raft) => encoder.raft(raft),
            PeerMessage::Request(request) => encoder.request(request),
            PeerMessage::Reply(reply) => encoder.reply(reply),
            PeerMessage::RepairRequest(request) => encoder.repair_request(request),
            PeerMessage::RepairReply(reply) => encoder.repair_reply(reply),
            PeerMessage::CatchUpOffer(offer) => encoder.catch_up_offer(offer),
            PeerMessage::CatchUpRequest(request) => encoder.catch_up_request(request),
            PeerMessage::CatchUpReply(reply) => encoder.catch_up_reply(reply),
        }
    }
    let Encoder { mut body, payload } = encoder;
    let body_len = body.len() - HEADER_BYTES;
    let payload_len: usize = payload.iter().map(Bytes::len).sum();
    assert!(
        body_len <= BODY_BYTES_MAX,
        "a frame's body of {body_len} bytes passes its bound of 1 MiB"
    );
    assert!(
        payload_len <= PAYLOAD_BYTES_MAX,
        "a frame's payload of {payload_len} bytes passes its bound of 4 MiB"
    );
    let header = FrameHeader {
        body_len: body_len as u32,
        payload_len: payload_len as u32,
        message_count: messages.len() as u32,
        body_crc: crc32c(&body[HEADER_BYTES..]),
    };
    let mut head = BytesMut::with_capacity(HEADER_BYTES);
    header.encode_into(&mut head);
    body[..HEADER_BYTES].copy_from_slice(&head);
    EncodedFrame {
        head: body.freeze(),
        payload,
    }
}

pub(super) struct Encoder {
    pub(super) body: BytesMut,
    payload: Vec<Bytes>,
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "every length is asserted before it is written"
)]
impl Encoder {
    fn raft(&mut self, message: &RaftMessage) {
        assert!(
            message.context.len() <= CONTEXT_BYTES_MAX,
            "a context of at most 64 bytes"
        );
        assert!(
            message.entries.len() <= usize::from(u16::MAX),
            "at most 65,535 entries in a message"
        );
        self.body.put_u8(MESSAGE_RAFT);
        self.body.put_u8(kind_code(message.kind));
        self.body.put_u8(u8::from(message.reject));
        self.body.put_u8(message.context.len() as u8);
        self.body.put_u16_le(message.entries.len() as u16);
        for field in [
            message.group.0,
            message.from.0,
            message.to.0,
            message.term.0,
            message.log_term.0,
            message.index.0,
            message.commit.0,
            message.commit_term.0,
            message.reject_hint.0,
            message.stamp_ns,
            message.free_blocks,
            message.room_blocks,
        ] {
            self.body.put_u64_le(field);
        }
        self.body.put_slice(&message.context);
        for entry in &message.entries {
            self.entry(entry);
        }
    }

    fn entry(&mut self, entry: &PeerEntry) {
        assert!(
            entry.header.len() <= HEADER_BYTES_MAX,
            "an entry header within its bound"
        );
        let blocks = BlockCrcs::of_header(&entry.header).map_or(0, |crcs| crcs.count());
        assert_eq!(
            entry.payload.len(),
            (blocks * BLOCK_SIZE) as usize,
            "the payload is what the header says"
        );
        self.body.put_u64_le(entry.term.0);
        self.body.put_u64_le(entry.index.0);
        self.body.put_u16_le(entry.header.len() as u16);
        self.body.put_slice(&entry.header);
        self.push_payload(&entry.payload);
    }

    fn request(&mut self, request: &GatewayRequest) {
        self.body.put_u8(MESSAGE_REQUEST);
        self.body.put_u64_le(request.group.0);
        self.body.put_u64_le(request.request);
        self.body.put_u64_le(request.revision.0);
        self.operation(&request.op);
    }

    fn operation(&mut self, op: &GatewayOp) {
        match op {
            GatewayOp::Write {
                epoch,
                lba,
                block_crcs,
                payload,
            } => {
                self.body.put_u8(1);
                self.body.put_u64_le(epoch.0);
                self.body.put_u64_le(lba.0);
                self.blocks(block_crcs, payload);
            }
            GatewayOp::Zero {
                epoch,
                lba,
                blocks,
                allocate,
            } => {
                self.body.put_u8(2);
                self.body.put_u64_le(epoch.0);
                self.body.put_u64_le(lba.0);
                self.body.put_u64_le(*blocks);
                self.body.put_u8(u8::from(*allocate));
            }
            GatewayOp::Read { lba, blocks, snapshot } => {
                self.body.put_u8(3);
                self.body.put_u64_le(lba.0);
                self.body.put_u32_le(*blocks);
                self.body.put_u64_le(snapshot.unwrap_or_default().0);
            }
            GatewayOp::Status {
                lba,
                blocks,
                extents_max,
                snapshot,
            } => {
                self.body.put_u8(4);
                self.body.put_u64_le(lba.0);
                self.body.put_u64_le(*blocks);
                self.body.put_u32_le(*extents_max);
                self.body.put_u64_le(snapshot.unwrap_or_default().0);
            }
            GatewayOp::Attach {
                holder,
                mode,
                requester,
            } => {
                self.body.put_u8(5);
                self.body.put_slice(&holder.to_bytes());
                self.body.put_slice(&requester.to_bytes());
                self.body.put_u8(attach_mode(*mode));
            }
            GatewayOp::KeepAlive { epoch } => {
                self.body.put_u8(6);
                self.body.put_u64_le(epoch.0);
            }
            GatewayOp::Detach { epoch } => {
                self.body.put_u8(8);
                self.body.put_u64_le(epoch.0);
            }
            GatewayOp::TransferLeader { to } => {
                self.body.put_u8(7);
                self.body.put_u64_le(to.0);
            }
        }
    }

    /// A write's payload and the checksums of its blocks.
    fn blocks(&mut self, crcs: &[u32], payload: &Bytes) {
        assert!(
            (1..=ENTRY_BLOCKS_MAX as usize).contains(&crcs.len()),
            "a write of 1 to 256 blocks"
        );
        assert_eq!(
            payload.len(),
            crcs.len() * BLOCK_SIZE as usize,
            "a checksum for each block"
        );
        self.body.put_u16_le(crcs.len() as u16);
        crcs.iter().for_each(|crc| self.body.put_u32_le(*crc));
        self.push_payload(payload);
    }

    fn reply(&mut self, reply: &GatewayReply) {
        self.body.put_u8(MESSAGE_REPLY);
        self.body.put_u64_le(reply.group.0);
        self.body.put_u64_le(reply.request);
        match &reply.result {
            GatewayResult::Done => self.body.put_u8(1),
            GatewayResult::Read(pieces) => self.pieces(pieces),
            GatewayResult::Status(extents) => self.extents(extents),
            GatewayResult::Attached { epoch } => {
                self.body.put_u8(4);
                self.body.put_u64_le(epoch.0);
            }
            GatewayResult::NotLeader { leader } => {
                self.body.put_u8(5);
                self.body.put_u64_le(leader.map_or(0, |leader| leader.0));
            }
            GatewayResult::Retry => self.body.put_u8(6),
            GatewayResult::Failed(error) => {
                self.body.put_u8(7);
                self.error(error);
            }
            GatewayResult::Members { revision, voters } => {
                assert!((1..=MEMBERS_MAX).contains(&voters.len()), "1 to 16 voters");
                self.body.put_u8(8);
                self.body.put_u64_le(revision.0);
                self.body.put_u16_le(voters.len() as u16);
                for voter in voters {
                    voter.encode_into(&mut self.body);
                }
            }
        }
    }

    fn pieces(&mut self, pieces: &[BlockPiece]) {
        assert!(
            pieces.len() <= ENTRY_BLOCKS_MAX as usize,
            "a read of at most 256 pieces"
        );
        self.body.put_u8(2);
        self.body.put_u16_le(pieces.len() as u16);
        let mut blocks_total = 0;
        for piece in pieces {
            match piece {
                BlockPiece::Data(data) => {
                    let blocks = data.len() / BLOCK_SIZE as usize;
                    assert!(
                        data.len().is_multiple_of(BLOCK_SIZE as usize) && blocks > 0,
                        "a piece of whole blocks"
                    );
                    self.body.put_u8(1);
                    self.body.put_u32_le(blocks as u32);
                    for block in data.chunks_exact(BLOCK_SIZE as usize) {
                        self.body.put_u32_le(crc32c(block));
                    }
                    self.push_payload(data);
                    blocks_total += blocks as u64;
                }
                BlockPiece::Zeros(blocks) => {
                    assert!(*blocks > 0, "a piece of at least one block");
                    self.body.put_u8(2);
                    self.body.put_u32_le(*blocks);
                    blocks_total += u64::from(*blocks);
                }
            }
        }
        assert!(
            blocks_total <= u64::from(ENTRY_BLOCKS_MAX),
            "a read of at most 256 blocks"
        );
    }

    fn extents(&mut self, extents: &[StatusExtent]) {
        assert!(extents.len() <= STATUS_EXTENTS_MAX, "at most 65,536 extents in a reply");
        self.body.put_u8(3);
        self.body.put_u32_le(extents.len() as u32);
        for extent in extents {
            self.body.put_u64_le(extent.length);
            self.body.put_u8(match extent.allocation {
                Allocation::Data => 1,
                Allocation::Zero => 2,
                Allocation::Hole => 3,
            });
        }
    }

    fn error(&mut self, error: &BlockError) {
        match error {
            BlockError::OutOfRange {
                offset,
                length,
                size_bytes,
            } => {
                self.body.put_u8(1);
                for field in [*offset, *length, *size_bytes] {
                    self.body.put_u64_le(field);
                }
            }
            // The words stay here: the gateway that hears of it sent the request and knows what it was.
            BlockError::Invalid(_) => self.body.put_u8(2),
            BlockError::NoSpace => self.body.put_u8(3),
            BlockError::Fenced { current } => {
                self.body.put_u8(4);
                self.body.put_u64_le(*current);
            }
            BlockError::Busy { holder } => {
                self.body.put_u8(5);
                self.text(holder);
            }
            BlockError::ReadOnly => self.body.put_u8(6),
            BlockError::Io(words) => {
                self.body.put_u8(7);
                self.text(words);
            }
            BlockError::ShuttingDown => self.body.put_u8(8),
        }
    }

    fn text(&mut self, text: &str) {
        let end = (0..=TEXT_BYTES_MAX.min(text.len()))
            .rev()
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or(0);
        let cut = &text[..end];
        self.body.put_u8(cut.len() as u8);
        self.body.put_slice(cut.as_bytes());
    }

    pub(super) fn push_payload(&mut self, payload: &Bytes) {
        if !payload.is_empty() {
            self.payload.push(payload.clone());
        }
    }
}

/// The codes of Raft's kinds on the wire.
pub(super) const KINDS: [RaftKind; 13] = [
    RaftKind::Append,
    RaftKind::AppendResponse,
    RaftKind::RequestVote,
    RaftKind::RequestVoteResponse,
    RaftKind::RequestPreVote,
    RaftKind::RequestPreVoteResponse,
    RaftKind::Heartbeat,
    RaftKind::HeartbeatResponse,
    RaftKind::TimeoutNow,
    RaftKind::TransferLeader,
    RaftKind::ReadIndex,
    RaftKind::ReadIndexResponse,
    RaftKind::Unreachable,
];

const fn kind_code(kind: RaftKind) -> u8 {
    match kind {
        RaftKind::Append => 1,
        RaftKind::AppendResponse => 2,
        RaftKind::RequestVote => 3,
        RaftKind::RequestVoteResponse => 4,
        RaftKind::RequestPreVote => 5,
        RaftKind::RequestPreVoteResponse => 6,
        RaftKind::Heartbeat => 7,
        RaftKind::HeartbeatResponse => 8,
        RaftKind::TimeoutNow => 9,
        RaftKind::TransferLeader => 10,
        RaftKind::ReadIndex => 11,
        RaftKind::ReadIndexResponse => 12,
        RaftKind::Unreachable => 13,
    }
}

const fn attach_mode(mode: AttachMode) -> u8 {
    match mode {
        AttachMode::Take => 1,
        AttachMode::Resume => 2,
        AttachMode::Force => 3,
    }
}
