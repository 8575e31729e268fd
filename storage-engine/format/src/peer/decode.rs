//! Bytes to messages: slices of the body and the payload, no copy. Every payload block is checked against its checksum
//! before anyone sees it.

use bytes::Bytes;
use cairn_api::block::{Allocation, BlockError, StatusExtent};
use cairn_api::ids::{Epoch, GroupId, LogIndex, ReplicaId, SnapshotId, Term};
use cairn_api::units::{BLOCK_SIZE, Lba};

use super::encode::{
    ENTRY_FIXED_BYTES, KINDS, MESSAGE_CATCH_UP_OFFER, MESSAGE_CATCH_UP_REPLY, MESSAGE_CATCH_UP_REQUEST, MESSAGE_RAFT,
    MESSAGE_REPAIR_REPLY, MESSAGE_REPAIR_REQUEST, MESSAGE_REPLY, MESSAGE_REQUEST,
};
use super::header::FrameHeader;
use super::{
    AttachMode, BlockPiece, CONTEXT_BYTES_MAX, GatewayOp, GatewayReply, GatewayRequest, GatewayResult, PeerEntry,
    PeerMessage, RaftMessage, STATUS_EXTENTS_MAX,
};
use crate::checksum::{BlockMismatch, crc32c, verify};
use crate::entry::{BlockCrcs, ENTRY_BLOCKS_MAX, HEADER_BYTES_MAX, LBA_END_MAX};
use crate::error::FormatError;
use crate::member::{MEMBERS_MAX, Member};
use crate::wire::Reader;

const STRUCTURE: &str = "peer frame";
/// The words of a [`BlockError::Invalid`] that came over the wire.
const INVALID_REMOTE: &str = "the volume's leader found the request malformed";

/// Decodes a frame's messages.
///
/// `body` and `payload` must be as long as the header says. The messages hold slices of both.
pub fn decode_body(header: &FrameHeader, body: &Bytes, payload: &Bytes) -> Result<Vec<PeerMessage>, FormatError> {
    decode_body_as(header, body, payload, PayloadCheck::Always)
}

/// As [`decode_body`], but what an entry carries is believed: a seeded fault, for testing the tests.
#[cfg(feature = "mutations")]
pub fn decode_body_trusting(
    header: &FrameHeader,
    body: &Bytes,
    payload: &Bytes,
) -> Result<Vec<PeerMessage>, FormatError> {
    decode_body_as(header, body, payload, PayloadCheck::Never)
}

/// Whether an entry's payload is checked against its header.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PayloadCheck {
    Always,
    #[cfg(feature = "mutations")]
    Never,
}

fn decode_body_as(
    header: &FrameHeader,
    body: &Bytes,
    payload: &Bytes,
    payload_check: PayloadCheck,
) -> Result<Vec<PeerMessage>, FormatError> {
    for (field, expected, found) in [
        ("body length", header.body_len, body.len()),
        ("payload length", header.payload_len, payload.len()),
    ] {
        if expected as usize != found {
            let (found, expected) = (found as u64, u64::from(expected));
            return Err(FormatError::Contradiction {
                structure: STRUCTURE,
                field,
                found,
                other: "the header",
                expected,
            });
        }
    }
    let computed = crc32c(body);
    if computed != header.body_crc {
        let found = header.body_crc;
        return Err(FormatError::Checksum {
            structure: STRUCTURE,
            part: "the body",
            found,
            computed,
        });
    }
    let mut decoder = Decoder {
        reader: Reader::new(STRUCTURE, body),
        body,
        payload,
        payload_at: 0,
        payload_check,
    };
    // The count was checked against the longest body, but this one may be shorter: allocate by what is there.
    let mut messages = Vec::with_capacity((header.message_count as usize).min(body.len() / 16));
    for _ in 0..header.message_count {
        messages.push(decoder.message()?);
    }
    decoder.reader.end()?;
    if decoder.payload_at != payload.len() {
        return Err(FormatError::Contradiction {
            structure: STRUCTURE,
            field: "payload length",
            found: payload.len() as u64,
            other: "what the messages claim of it",
            expected: decoder.payload_at as u64,
        });
    }
    Ok(messages)
}

pub(super) struct Decoder<'a> {
    pub(super) reader: Reader<'a>,
    body: &'a Bytes,
    payload: &'a Bytes,
    payload_at: usize,
    payload_check: PayloadCheck,
}

impl Decoder<'_> {
    fn message(&mut self) -> Result<PeerMessage, FormatError> {
        match self.reader.u8("message kind")? {
            MESSAGE_RAFT => self.raft().map(PeerMessage::Raft),
            MESSAGE_REQUEST => self.request().map(PeerMessage::Request),
            MESSAGE_REPLY => self.reply().map(PeerMessage::Reply),
            MESSAGE_REPAIR_REQUEST => self.repair_request().map(PeerMessage::RepairRequest),
            MESSAGE_REPAIR_REPLY => self.repair_reply().map(PeerMessage::RepairReply),
            MESSAGE_CATCH_UP_OFFER => self.catch_up_offer().map(PeerMessage::CatchUpOffer),
            MESSAGE_CATCH_UP_REQUEST => self.catch_up_request().map(PeerMessage::CatchUpRequest),
            MESSAGE_CATCH_UP_REPLY => self.catch_up_reply().map(PeerMessage::CatchUpReply),
            found => Err(self.reader.unknown(
                "message kind",
                u64::from(found),
                "1 Raft, 2 gateway request, 3 gateway reply, 4 repair request, 5 repair reply, 15 catch-up offer, \
                 16 catch-up request, 17 catch-up reply",
            )),
        }
    }

    /// The next `count` bytes of the body, as a slice that shares its memory.
    fn slice(&mut self, field: &'static str, count: usize) -> Result<Bytes, FormatError> {
        let at = self.reader.position();
        self.reader.take(field, count)?;
        Ok(if count == 0 {
            Bytes::new()
        } else {
            self.body.slice(at..at + count)
        })
    }

    /// The next `blocks` blocks of the payload.
    pub(super) fn blocks(&mut self, blocks: u32) -> Result<Bytes, FormatError> {
        if blocks == 0 {
            return Ok(Bytes::new());
        }
        let needed = blocks as usize * BLOCK_SIZE as usize;
        let available = self.payload.len() - self.payload_at;
        if needed > available {
            return Err(FormatError::Truncated {
                structure: STRUCTURE,
                field: "payload",
                needed,
                available,
            });
        }
        let slice = self.payload.slice(self.payload_at..self.payload_at + needed);
        self.payload_at += needed;
        Ok(slice)
    }

    fn raft(&mut self) -> Result<RaftMessage, FormatError> {
        let code = self.reader.u8("Raft kind")?;
        let kind = usize::from(code)
            .checked_sub(1)
            .and_then(|place| KINDS.get(place))
            .ok_or_else(|| self.reader.unknown("Raft kind", u64::from(code), "1 to 13"))?;
        let reject = self.reader.bool("rejection")?;
        let context_len = usize::from(self.reader.u8("context length")?);
        if context_len > CONTEXT_BYTES_MAX {
            return Err(self
                .reader
                .out_of_range("context length", context_len as u64, "at most 64 bytes"));
        }
        let count = usize::from(self.reader.u16("entry count")?);
        let mut message = RaftMessage {
            group: GroupId(self.reader.u64("group")?),
            kind: *kind,
            from: ReplicaId(self.reader.u64("sender")?),
            to: ReplicaId(self.reader.u64("receiver")?),
            term: Term(self.reader.u64("term")?),
            log_term: Term(self.reader.u64("log term")?),
            index: LogIndex(self.reader.u64("index")?),
            commit: LogIndex(self.reader.u64("commit index")?),
            commit_term: Term(self.reader.u64("commit term")?),
            reject,
            reject_hint: LogIndex(self.reader.u64("rejection hint")?),
            context: Bytes::new(),
            stamp_ns: self.reader.u64("stamp")?,
            free_blocks: self.reader.u64("free blocks")?,
            room_blocks: self.reader.u64("room")?,
            entries: Vec::new(),
        };
        message.context = self.slice("context", context_len)?;
        if count > self.reader.remaining() / ENTRY_FIXED_BYTES {
            return Err(self
                .reader
                .out_of_range("entry count", count as u64, "no more than fit in the body"));
        }
        message.entries.reserve_exact(count);
        for _ in 0..count {
            message.entries.push(self.entry()?);
        }
        Ok(message)
    }

    fn entry(&mut self) -> Result<PeerEntry, FormatError> {
        let term = Term(self.reader.u64("entry's term")?);
        let index = LogIndex(self.reader.u64("entry's index")?);
        let length = usize::from(self.reader.u16("length of the entry header")?);
        if length > HEADER_BYTES_MAX {
            let expected = "at most 1,280 bytes";
            return Err(self
                .reader
                .out_of_range("length of the entry header", length as u64, expected));
        }
        let header = self.slice("entry header", length)?;
        let crcs = BlockCrcs::of_header(&header)?;
        let payload = self.blocks(crcs.count())?;
        if self.payload_check == PayloadCheck::Always {
            crcs.verify(&payload).map_err(damaged)?;
        }
        Ok(PeerEntry {
            term,
            index,
            header,
            payload,
        })
    }

    fn request(&mut self) -> Result<GatewayRequest, FormatError> {
        let group = GroupId(self.reader.u64("group")?);
        let request = self.reader.u64("request number")?;
        let revision = LogIndex(self.reader.u64("revision of the members")?);
        let op = match self.reader.u8("gateway operation")? {
            1 => self.write()?,
            2 => {
                let epoch = Epoch(self.reader.u64("epoch")?);
                let (lba, blocks) = self.range(LBA_END_MAX)?;
                GatewayOp::Zero {
                    epoch,
                    lba,
                    blocks,
                    allocate: self.reader.bool("allocation flag")?,
                }
            }
            3 => {
                let lba = Lba(self.reader.u64("first block")?);
                let blocks = self.reader.u32("block count")?;
                self.check_range(lba, u64::from(blocks), u64::from(ENTRY_BLOCKS_MAX))?;
                GatewayOp::Read {
                    lba,
                    blocks,
                    snapshot: self.snapshot()?,
                }
            }
            4 => {
                let (lba, blocks) = self.range(LBA_END_MAX)?;
                GatewayOp::Status {
                    lba,
                    blocks,
                    extents_max: self.reader.u32("extent limit")?,
                    snapshot: self.snapshot()?,
                }
            }
            5 => GatewayOp::Attach {
                holder: self.reader.node("holder")?,
                requester: self.reader.node("requester")?,
                mode: match self.reader.u8("attach mode")? {
                    1 => AttachMode::Take,
                    2 => AttachMode::Resume,
                    3 => AttachMode::Force,
                    found => {
                        let known = "1 take, 2 resume, 3 force";
                        return Err(self.reader.unknown("attach mode", u64::from(found), known));
                    }
                },
            },
            6 => GatewayOp::KeepAlive {
                epoch: Epoch(self.reader.u64("epoch")?),
            },
            7 => GatewayOp::TransferLeader {
                to: ReplicaId(self.reader.u64("replica to lead")?),
            },
            8 => GatewayOp::Detach {
                epoch: Epoch(self.reader.u64("epoch")?),
            },
            found => return Err(self.reader.unknown("gateway operation", u64::from(found), "1 to 8")),
        };
        Ok(GatewayRequest {
            group,
            request,
            revision,
            op,
        })
    }

    /// The number of a snapshot; 0 for the volume as it is.
    fn snapshot(&mut self) -> Result<Option<SnapshotId>, FormatError> {
        let number = self.reader.u64("number of the snapshot")?;
        Ok((number != 0).then_some(SnapshotId(number)))
    }

    fn write(&mut self) -> Result<GatewayOp, FormatError> {
        let epoch = Epoch(self.reader.u64("epoch")?);
        let lba = Lba(self.reader.u64("first block")?);
        let count = self.reader.u16("block count")?;
        self.check_range(lba, u64::from(count), u64::from(ENTRY_BLOCKS_MAX))?;
        let block_crcs = self.crcs(u32::from(count))?;
        let payload = self.blocks(u32::from(count))?;
        verify(&payload, &block_crcs).map_err(damaged)?;
        Ok(GatewayOp::Write {
            epoch,
            lba,
            block_crcs,
            payload,
        })
    }

    fn crcs(&mut self, count: u32) -> Result<Vec<u32>, FormatError> {
        let encoded = self.reader.take("checksums", 4 * count as usize)?;
        Ok(encoded
            .chunks_exact(4)
            .map(|crc| u32::from_le_bytes([crc[0], crc[1], crc[2], crc[3]]))
            .collect())
    }

    fn range(&mut self, blocks_max: u64) -> Result<(Lba, u64), FormatError> {
        let lba = Lba(self.reader.u64("first block")?);
        let blocks = self.reader.u64("block count")?;
        self.check_range(lba, blocks, blocks_max)?;
        Ok((lba, blocks))
    }

    fn check_range(&self, lba: Lba, blocks: u64, blocks_max: u64) -> Result<(), FormatError> {
        if !(1..=blocks_max).contains(&blocks) {
            return Err(self
                .reader
                .out_of_range("block count", blocks, "1 to what one request may cover"));
        }
        if lba.0.checked_add(blocks).is_none_or(|end| end > LBA_END_MAX) {
            return Err(self
                .reader
                .out_of_range("first block", lba.0, "a range that ends within 2^51 blocks"));
        }
        Ok(())
    }

    fn reply(&mut self) -> Result<GatewayReply, FormatError> {
        let group = GroupId(self.reader.u64("group")?);
        let request = self.reader.u64("request number")?;
        let result = match self.reader.u8("gateway result")? {
            1 => GatewayResult::Done,
            2 => GatewayResult::Read(self.pieces()?),
            3 => GatewayResult::Status(self.extents()?),
            4 => GatewayResult::Attached {
                epoch: Epoch(self.reader.u64("epoch")?),
            },
            5 => {
                let leader = self.reader.u64("leader")?;
                GatewayResult::NotLeader {
                    leader: (leader != 0).then_some(ReplicaId(leader)),
                }
            }
            6 => GatewayResult::Retry,
            7 => GatewayResult::Failed(self.error()?),
            8 => GatewayResult::Members {
                revision: LogIndex(self.reader.u64("revision of the members")?),
                voters: self.members()?,
            },
            found => return Err(self.reader.unknown("gateway result", u64::from(found), "1 to 8")),
        };
        Ok(GatewayReply { group, request, result })
    }

    fn members(&mut self) -> Result<Vec<Member>, FormatError> {
        let count = usize::from(self.reader.u16("member count")?);
        if !(1..=MEMBERS_MAX).contains(&count) {
            return Err(self.reader.out_of_range("member count", count as u64, "1 to 16"));
        }
        (0..count).map(|_| Member::take(&mut self.reader)).collect()
    }

    fn pieces(&mut self) -> Result<Vec<BlockPiece>, FormatError> {
        let count = self.reader.u16("piece count")?;
        if u32::from(count) > ENTRY_BLOCKS_MAX {
            return Err(self.reader.out_of_range("piece count", u64::from(count), "at most 256"));
        }
        let mut left = ENTRY_BLOCKS_MAX;
        let mut pieces = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let kind = self.reader.u8("piece kind")?;
            let blocks = self.reader.u32("blocks of a piece")?;
            if blocks == 0 || blocks > left {
                let expected = "at least 1, and 256 in all pieces of a reply";
                return Err(self
                    .reader
                    .out_of_range("blocks of a piece", u64::from(blocks), expected));
            }
            left -= blocks;
            pieces.push(match kind {
                1 => {
                    let crcs = self.crcs(blocks)?;
                    let data = self.blocks(blocks)?;
                    verify(&data, &crcs).map_err(damaged)?;
                    BlockPiece::Data(data)
                }
                2 => BlockPiece::Zeros(blocks),
                found => return Err(self.reader.unknown("piece kind", u64::from(found), "1 data, 2 zeros")),
            });
        }
        Ok(pieces)
    }

    fn extents(&mut self) -> Result<Vec<StatusExtent>, FormatError> {
        let count = self.reader.u32("extent count")? as usize;
        if count > STATUS_EXTENTS_MAX || count > self.reader.remaining() / 9 {
            return Err(self
                .reader
                .out_of_range("extent count", count as u64, "at most 65,536, all in the body"));
        }
        let mut extents = Vec::with_capacity(count);
        for _ in 0..count {
            let length = self.reader.u64("length of an extent")?;
            let allocation = match self.reader.u8("allocation")? {
                1 => Allocation::Data,
                2 => Allocation::Zero,
                3 => Allocation::Hole,
                found => {
                    return Err(self
                        .reader
                        .unknown("allocation", u64::from(found), "1 data, 2 zero, 3 hole"));
                }
            };
            extents.push(StatusExtent { length, allocation });
        }
        Ok(extents)
    }

    fn error(&mut self) -> Result<BlockError, FormatError> {
        Ok(match self.reader.u8("error")? {
            1 => BlockError::OutOfRange {
                offset: self.reader.u64("offset")?,
                length: self.reader.u64("length")?,
                size_bytes: self.reader.u64("size")?,
            },
            2 => BlockError::Invalid(INVALID_REMOTE),
            3 => BlockError::NoSpace,
            4 => BlockError::Fenced {
                current: self.reader.u64("epoch")?,
            },
            5 => BlockError::Busy {
                holder: self.text("holder")?,
            },
            6 => BlockError::ReadOnly,
            7 => BlockError::Io(self.text("words of the error")?),
            8 => BlockError::ShuttingDown,
            found => return Err(self.reader.unknown("error", u64::from(found), "1 to 8")),
        })
    }

    fn text(&mut self, field: &'static str) -> Result<String, FormatError> {
        let length = usize::from(self.reader.u8("length of a text")?);
        let bytes = self.reader.take(field, length)?;
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| FormatError::Text {
                structure: STRUCTURE,
                field,
            })
    }
}

pub(super) const fn damaged(mismatch: BlockMismatch) -> FormatError {
    FormatError::Payload {
        structure: STRUCTURE,
        mismatch,
    }
}
