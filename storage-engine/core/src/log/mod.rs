//! The segment log of one disk: what is pushed is written in batch frames, durable in the order of pushing, and found
//! again by recovery.
//!
//! The log knows nothing of Raft. It takes records, gives each a [`Ticket`], and says up to which ticket everything of
//! a group is durable. Records wait while a few frames are under way and then share the next frame: the busier the disk, the
//! larger the batch. A frame is one write, its segment's header included where it begins one, so that a completion
//! always means the whole of it.
//!
//! A payload is never copied: the buffers that were pushed are the buffers that are written.

mod parse;
pub mod recovery;
mod space;
#[cfg(test)]
mod tests;
mod writer;

use bytes::Bytes;
use cairn_api::ids::{DiskId, GroupId, LogIndex, ReplicaId, Term};
use cairn_format::anchor::LogBeginning;
use cairn_format::frame::{MovedRun, genesis_chain};
use cairn_format::portion::Portion;
use cairn_format::superblock::Geometry;
use cairn_format::volume_state::VolumeState;

use crate::event::{GroupSpec, IoId};

pub use parse::{FrameEntry, HeaderRead, parse_frame_entries};
pub use space::FreeSegments;
pub use writer::LogWriter;

/// Names a pushed record. Monotonic: when one is durable, all of its group before it are. The first record gets 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Ticket(pub u64);

/// What can be pushed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// A Raft entry.
    Entry {
        /// Its group.
        group: GroupId,
        /// Its term.
        term: Term,
        /// Its index.
        index: LogIndex,
        /// The encoded [`cairn_format::entry::EntryHeader`]; empty for Raft's own no-op.
        header: Bytes,
        /// The payload: whole blocks, as many as the header says. Page-aligned, if it is to be written without a copy.
        payload: Bytes,
    },
    /// What a replica must not forget.
    HardState {
        /// Its group.
        group: GroupId,
        /// The current term.
        term: Term,
        /// Whom it voted for in that term; 0 for nobody.
        vote: ReplicaId,
        /// The highest index it knows to be committed.
        commit: LogIndex,
    },
    /// The disk holds a replica of this group from here on.
    GroupCreated {
        /// What the group was created with.
        spec: GroupSpec,
        /// The replica's number.
        replica: ReplicaId,
        /// The index that its log starts behind.
        index: LogIndex,
        /// The term of that index.
        term: Term,
    },
    /// The disk holds no replica of this group from here on.
    GroupDropped(GroupId),
    /// A replica begins to receive a state (see [`cairn_format::frame::FrameRecord::StageBegin`]).
    StageBegin {
        /// Its group.
        group: GroupId,
        /// The index of the mark whose state it is.
        mark: LogIndex,
        /// The mark's term.
        term: Term,
        /// Entries up to here are committed, and applied to the map that the replica has.
        have: LogIndex,
    },
    /// A portion of that state.
    StageBlocks {
        /// The group.
        group: GroupId,
        /// The portion.
        portion: Portion,
        /// Its data: whole blocks, as many as it says.
        payload: Bytes,
    },
    /// The state is complete, and takes the place of the replica's own.
    StageDone {
        /// The group.
        group: GroupId,
        /// All of it but the blocks.
        state: VolumeState,
    },
    /// Collection has copied blocks to another place, where they are durable.
    Moved {
        /// Their group.
        group: GroupId,
        /// From where to where; at most [`cairn_format::frame::MOVED_RUNS_MAX`].
        runs: Vec<MovedRun>,
    },
}

/// Where an entry was put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    /// The entry's group.
    pub group: GroupId,
    /// Its term.
    pub term: Term,
    /// Its index.
    pub index: LogIndex,
    /// The disk's block (byte offset / 4096) that its payload starts at; 0 if it has none.
    pub payload_block: u64,
    /// Byte offset of the frame whose header holds the entry's.
    pub frame_offset: u64,
}

/// Where a portion of a state was put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlacedPortion {
    /// Its group.
    pub group: GroupId,
    /// The record's name.
    pub ticket: Ticket,
    /// The disk's block that its payload starts at; 0 if it has none.
    pub payload_block: u64,
}

/// A frame to be written: durably, and as one piece.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogWrite {
    /// The frame's sequence.
    pub sequence: u64,
    /// Its name.
    pub io: IoId,
    /// Bytes from the start of the disk.
    pub offset: u64,
    /// What to write, in order; each is whole blocks.
    pub buffers: Vec<Bytes>,
    /// Where the entries it holds were put, in order of pushing.
    pub placed: Vec<Placed>,
    /// Where the portions of states that it holds were put, in order of pushing.
    pub portions: Vec<PlacedPortion>,
    /// Of each group with a record in it, the last one; none for a frame that only vouches for those before it.
    pub records: Vec<(GroupId, Ticket)>,
}

/// Bounds of the writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogSettings {
    /// Frames under way at once. Two keep the disk busy while the next batch forms; more would only make batches
    /// smaller. At most [`cairn_format::frame::WINDOW_FRAMES_MAX`].
    pub frames_in_flight_max: usize,
    /// Payload of one frame in blocks, unless a single record has more. At most
    /// [`cairn_format::frame::PAYLOAD_BLOCKS_MAX`].
    pub frame_payload_blocks_max: u32,
    /// Groups take turns. If not, records go out in the order in which they came: for measuring the difference.
    pub is_fair: bool,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            frames_in_flight_max: FRAMES_IN_FLIGHT_MAX,
            frame_payload_blocks_max: FRAME_PAYLOAD_BLOCKS_MAX,
            is_fair: true,
        }
    }
}

/// Frames under way at once, unless set otherwise.
pub const FRAMES_IN_FLIGHT_MAX: usize = 2;
/// Payload of one frame in blocks, unless set otherwise: 1 MiB, a few hundred microseconds of a fast disk's time.
pub const FRAME_PAYLOAD_BLOCKS_MAX: u32 = 256;
/// Pieces of payload in one frame: with header blocks it stays below the 1,024 buffers of one system call.
pub(crate) const FRAME_PIECES_MAX: usize = 1000;

/// Where the log goes on: what recovery found, and all that a writer must know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogTail {
    /// The sequence of the next frame.
    pub next_sequence: u64,
    /// The chain value of the frame before it.
    pub chain: u64,
    /// This opening of the log; higher than any found on the disk.
    pub incarnation: u64,
    /// The segments that the log is in, from its beginning on; the last is the open one.
    pub window: Vec<LogBeginning>,
    /// The segment to go on in, if there is one.
    pub open: Option<OpenSegment>,
    /// The others that may be written.
    pub free: FreeSegments,
}

/// A segment that frames are being appended to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenSegment {
    /// Which.
    pub segment: u32,
    /// The epoch in its header.
    pub epoch: u64,
    /// Byte offset on the disk where the next frame goes.
    pub cursor: u64,
}

impl LogTail {
    /// The tail of a log that was never written to.
    pub fn empty(disk: DiskId, geometry: &Geometry) -> Self {
        Self {
            next_sequence: 1,
            chain: genesis_chain(disk),
            incarnation: 1,
            window: Vec::new(),
            open: None,
            free: FreeSegments::all(geometry),
        }
    }
}
