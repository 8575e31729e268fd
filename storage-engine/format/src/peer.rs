//! The peer wire: what cores say to each other. A frame is a 64-byte header, a body (the messages' fields) and a
//! payload of whole blocks, so that a receiver can place the payload page-aligned and write it to disk from there.

use bytes::Bytes;
use cairn_api::block::{BlockError, StatusExtent};
use cairn_api::ids::{Epoch, GroupId, LogIndex, NodeId, ReplicaId, SnapshotId, Term};
use cairn_api::units::Lba;

use crate::member::Member;

mod catch_up;
mod decode;
mod encode;
mod header;
mod hello;
mod repair;

pub use catch_up::{
    CatchUpOffer, CatchUpOutcome, CatchUpReply, CatchUpRequest, REPLY_PORTIONS_BYTES_MAX, REPLY_PORTIONS_MAX,
};
pub use decode::decode_body;
#[cfg(feature = "mutations")]
pub use decode::decode_body_trusting;
pub use encode::{EncodedFrame, body_bytes_estimate, encode};
pub use header::{FrameHeader, decode_header};
pub use hello::{HELLO_BYTES, HELLO_REPLY_BYTES, Hello, HelloCode, HelloReply};
pub use repair::{FoundBlock, RepairRefusal, RepairReply, RepairRequest, RepairSource, WantedBlock};

/// The version of the peer wire that this build speaks; a peer of another version is refused in the greeting.
pub const WIRE_VERSION: u16 = 4;
/// Length of a frame's header in bytes.
pub const HEADER_BYTES: usize = 64;
/// The longest body in bytes: what a receiver buffers before it can check a frame.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// The longest payload of one frame in bytes: four full entries, so that no frame holds a link for long.
pub const PAYLOAD_BYTES_MAX: usize = 4 << 20;
/// The most messages in one frame: the shortest message takes 17 bytes of body, so a body has room for no more.
pub const MESSAGES_MAX: usize = BODY_BYTES_MAX / 17;
/// The most extents in one [`GatewayResult::Status`].
pub const STATUS_EXTENTS_MAX: usize = 65_536;
/// The longest text (a node's name, an error's words) in bytes; longer ones are cut.
pub const TEXT_BYTES_MAX: usize = 255;

/// One entry of an append message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerEntry {
    /// Raft term.
    pub term: Term,
    /// Raft index.
    pub index: LogIndex,
    /// The encoded [`crate::entry::EntryHeader`]; empty for Raft's own no-op. At most `entry::HEADER_BYTES_MAX`.
    pub header: Bytes,
    /// The payload: whole blocks, as many as the header says.
    pub payload: Bytes,
}

/// Raft's message kinds that cross the wire (names as in raft-rs).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are Raft's")]
pub enum RaftKind {
    Append,
    AppendResponse,
    RequestVote,
    RequestVoteResponse,
    RequestPreVote,
    RequestPreVoteResponse,
    Heartbeat,
    HeartbeatResponse,
    TimeoutNow,
    TransferLeader,
    ReadIndex,
    ReadIndexResponse,
    Unreachable,
}

/// A Raft message of one group, fields as in raft-rs's `Message`.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "fields as in raft-rs")]
pub struct RaftMessage {
    pub group: GroupId,
    pub kind: RaftKind,
    pub from: ReplicaId,
    pub to: ReplicaId,
    pub term: Term,
    pub log_term: Term,
    pub index: LogIndex,
    pub commit: LogIndex,
    pub commit_term: Term,
    pub reject: bool,
    pub reject_hint: LogIndex,
    /// At most [`CONTEXT_BYTES_MAX`] bytes (ReadIndex tokens, the mark of a transfer's campaign).
    pub context: Bytes,
    /// The leader's monotonic clock when it sent this, in nanoseconds; in a response, the stamp of what it answers.
    /// Opaque to the follower. 0 where there is none.
    pub stamp_ns: u64,
    /// In a follower's messages: blocks its disk can still take. 0 in a leader's.
    pub free_blocks: u64,
    /// In a follower's messages: blocks that its disk could take once all garbage is collected. 0 in a leader's.
    pub room_blocks: u64,
    pub entries: Vec<PeerEntry>,
}

/// The longest [`RaftMessage::context`], in bytes.
pub const CONTEXT_BYTES_MAX: usize = 64;

/// When an attachment may be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachMode {
    /// Unless another node holds it and is alive.
    Take,
    /// Only if the requester holds it already: the condition for sending again what was not acknowledged, so that a
    /// node that was away while another one wrote can never overwrite that node's data.
    Resume,
    /// From whoever holds it.
    Force,
}

/// What a gateway asks of a group's leader.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GatewayOp {
    /// Commit a write of whole blocks: 1 to `ENTRY_BLOCKS_MAX`.
    Write {
        /// The attachment's epoch.
        epoch: Epoch,
        /// First block.
        lba: Lba,
        /// CRC32C of each block.
        block_crcs: Vec<u32>,
        /// The blocks.
        payload: Bytes,
    },
    /// Commit a zeroing of a range.
    Zero {
        /// The attachment's epoch.
        epoch: Epoch,
        /// First block.
        lba: Lba,
        /// Blocks.
        blocks: u64,
        /// Keep it allocated.
        allocate: bool,
    },
    /// Read blocks: 1 to `ENTRY_BLOCKS_MAX`.
    Read {
        /// First block.
        lba: Lba,
        /// Blocks.
        blocks: u32,
        /// As this snapshot shows them; else as they are.
        snapshot: Option<SnapshotId>,
    },
    /// Allocation of a range.
    Status {
        /// First block.
        lba: Lba,
        /// Blocks.
        blocks: u64,
        /// At most so many extents.
        extents_max: u32,
        /// As this snapshot shows it; else as it is.
        snapshot: Option<SnapshotId>,
    },
    /// Take the attachment for `holder`, raising the epoch.
    Attach {
        /// Who will write; NIL to detach.
        holder: NodeId,
        /// Under which condition.
        mode: AttachMode,
        /// Who asks; differs from `holder` only when it detaches.
        requester: NodeId,
    },
    /// Give the attachment of `epoch` back; without effect if another one rules by now.
    Detach {
        /// The attachment's epoch.
        epoch: Epoch,
    },
    /// Attachment heartbeat: the holder of `epoch` is alive.
    KeepAlive {
        /// The attachment's epoch.
        epoch: Epoch,
    },
    /// Please hand leadership to this replica.
    TransferLeader {
        /// The replica to lead.
        to: ReplicaId,
    },
}

/// A request of a gateway.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GatewayRequest {
    /// The volume.
    pub group: GroupId,
    /// Names the request to its sender; echoed.
    pub request: u64,
    /// The log index of the members that the gateway knows; 0 for those of the creation. Who knows newer ones says so.
    pub revision: LogIndex,
    /// What to do.
    pub op: GatewayOp,
}

/// A piece of a gateway read: at most `ENTRY_BLOCKS_MAX` blocks in all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BlockPiece {
    /// Whole blocks of data.
    Data(Bytes),
    /// So many blocks of zeros.
    Zeros(u32),
}

/// How a gateway's request ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GatewayResult {
    /// Committed (writes), or noted.
    Done,
    /// A read's pieces, in order.
    Read(Vec<BlockPiece>),
    /// Allocation, lengths in bytes.
    Status(Vec<StatusExtent>),
    /// Attached under this epoch.
    Attached {
        /// The new epoch.
        epoch: Epoch,
    },
    /// This replica does not lead: ask there. The request has had no effect that an epoch would not fence.
    NotLeader {
        /// Who leads, where known.
        leader: Option<ReplicaId>,
    },
    /// Not now (leadership is moving, or a bound is reached): ask again.
    Retry,
    /// Failed for good.
    Failed(BlockError),
    /// Answers nothing (its request number is 0): the volume has other members than the gateway knows.
    Members {
        /// The index of the entry that made them.
        revision: LogIndex,
        /// The voters; at most [`crate::member::MEMBERS_MAX`].
        voters: Vec<Member>,
    },
}

/// A reply to a gateway.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GatewayReply {
    /// The volume.
    pub group: GroupId,
    /// As in the request.
    pub request: u64,
    /// How it ended.
    pub result: GatewayResult,
}

/// A message between cores.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerMessage {
    /// Raft.
    Raft(RaftMessage),
    /// A gateway's request to a leader.
    Request(GatewayRequest),
    /// A leader's answer.
    Reply(GatewayReply),
    /// A replica asks for blocks that its disk has lost.
    RepairRequest(RepairRequest),
    /// What was found of them.
    RepairReply(RepairReply),
    /// A leader offers a state to a replica that is behind its log.
    CatchUpOffer(CatchUpOffer),
    /// The replica asks for a portion of it.
    CatchUpRequest(CatchUpRequest),
    /// A portion of it.
    CatchUpReply(CatchUpReply),
}

impl PeerMessage {
    /// Bytes of payload that travel with the message.
    pub fn payload_bytes(&self) -> usize {
        match self {
            Self::Raft(message) => message.entries.iter().map(|entry| entry.payload.len()).sum(),
            Self::Request(GatewayRequest {
                op: GatewayOp::Write { payload, .. },
                ..
            }) => payload.len(),
            Self::Reply(GatewayReply {
                result: GatewayResult::Read(pieces),
                ..
            }) => pieces
                .iter()
                .map(|piece| match piece {
                    BlockPiece::Data(data) => data.len(),
                    BlockPiece::Zeros(_) => 0,
                })
                .sum(),
            Self::RepairReply(reply) => reply.blocks.iter().map(|block| block.data.len()).sum(),
            Self::CatchUpReply(reply) => reply.payload_bytes(),
            Self::Request(_)
            | Self::Reply(_)
            | Self::RepairRequest(_)
            | Self::CatchUpOffer(_)
            | Self::CatchUpRequest(_) => 0,
        }
    }
}
