//! The header of a replicated entry: what Raft's `Entry.data` holds, a disk frame's record holds, and a peer frame
//! carries. The payload is never in it; it travels beside the header as `Bytes` and is written to the log once.

use cairn_api::ids::{Epoch, NodeId};
use cairn_api::units::Lba;

/// The longest payload of one entry, in blocks (1 MiB). The gateway splits longer requests.
pub const ENTRY_BLOCKS_MAX: u32 = 256;

/// What an entry does when it is applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryHeader {
    /// Writes whole blocks. Refused when applied if `epoch` is not the group's.
    Write {
        /// The attachment under which the write was made.
        epoch: Epoch,
        /// First block.
        lba: Lba,
        /// CRC32C of each 4 KiB block of the payload, in order; 1 to [`ENTRY_BLOCKS_MAX`] of them.
        block_crcs: Vec<u32>,
    },
    /// Makes a range read as zeros. No payload.
    Zero {
        /// The attachment under which it was asked.
        epoch: Epoch,
        /// First block.
        lba: Lba,
        /// Blocks, at least 1.
        blocks: u64,
        /// Keep the range allocated instead of leaving a hole.
        allocate: bool,
    },
    /// Gives the volume to a node and raises the epoch to `epoch`. Refused if `epoch` is not the group's plus one.
    Attach {
        /// The epoch that rules from here on.
        epoch: Epoch,
        /// Who writes from here on; [`NodeId::NIL`] detaches.
        holder: NodeId,
    },
    /// A command of the meta group's state machine. The payload is `length` bytes, zero-padded to whole blocks.
    Command {
        /// Bytes of the command, without padding; 1 to 1 MiB.
        length: u32,
        /// CRC32C of each 4 KiB block of the padded payload.
        block_crcs: Vec<u32>,
    },
}

impl EntryHeader {
    /// Blocks of payload that travel with the entry.
    #[allow(clippy::cast_possible_truncation, reason = "bounded by ENTRY_BLOCKS_MAX")]
    pub fn payload_blocks(&self) -> u32 {
        match self {
            Self::Write { block_crcs, .. } | Self::Command { block_crcs, .. } => block_crcs.len() as u32,
            Self::Zero { .. } | Self::Attach { .. } => 0,
        }
    }

    /// CRC32C of each payload block.
    pub fn block_crcs(&self) -> &[u32] {
        match self {
            Self::Write { block_crcs, .. } | Self::Command { block_crcs, .. } => block_crcs,
            Self::Zero { .. } | Self::Attach { .. } => &[],
        }
    }
}
