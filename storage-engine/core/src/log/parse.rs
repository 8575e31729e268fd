//! Reading back one frame's header, for old entries that are no longer in memory.

use bytes::Bytes;
use cairn_api::ids::{DiskId, GroupId, LogIndex, Term};
use cairn_api::units::BLOCK_SIZE;
use cairn_format::frame::{self, Frame, FrameRecord};

use crate::event::DiskFault;

/// An entry as it stands in a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FrameEntry {
    /// Its term.
    pub term: Term,
    /// Its index.
    pub index: LogIndex,
    /// The encoded header.
    pub header: Bytes,
    /// The disk's block that its payload starts at; 0 if it has none.
    pub payload_block: u64,
}

/// The entries of `group` in the frame that `bytes` starts with; [`HeaderRead`] says how much of it.
///
/// The headers are copied out, so that keeping one does not keep the whole buffer.
pub fn parse_frame_entries(disk: DiskId, bytes: &Bytes, group: GroupId) -> Result<Vec<FrameEntry>, String> {
    let frame = frame::decode(bytes).map_err(|error| error.to_string())?;
    if frame.info.disk != disk {
        return Err(format!(
            "the frame belongs to disk {}, this is disk {disk}",
            frame.info.disk
        ));
    }
    let place = PayloadPlace::of(&frame);
    Ok(frame
        .records
        .into_iter()
        .filter_map(|record| match record {
            FrameRecord::Entry {
                group: of,
                term,
                index,
                payload_offset,
                header,
            } if of == group => Some(FrameEntry {
                term,
                index,
                payload_block: place.block(&header, payload_offset),
                header: Bytes::copy_from_slice(&header),
            }),
            _ => None,
        })
        .collect())
}

/// How much is read of a frame to have its header.
///
/// Most headers fit the guess. But a read that takes in what follows a header may fail for the sake of a bad sector in a
/// payload, and the header alone still be good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderRead {
    /// What is enough for most.
    Guess,
    /// The first block, which says how long the header is.
    FirstBlock,
    /// So many bytes: the header and nothing else.
    Whole(u32),
}

impl HeaderRead {
    /// Bytes to read, of those that are left of the segment.
    pub fn bytes(self, left: u32) -> u32 {
        let wanted = match self {
            Self::Guess => 2 * BLOCK_SIZE,
            Self::FirstBlock => BLOCK_SIZE,
            Self::Whole(bytes) => bytes,
        };
        wanted.min(left)
    }

    /// What to read instead, if this did not give the whole of a header; `None` if there is nothing to be gained.
    pub fn next(self, result: &Result<Bytes, DiskFault>, left: u32) -> Option<Self> {
        match (self, result) {
            (Self::Guess, Err(_)) => Some(Self::FirstBlock),
            (Self::Guess | Self::FirstBlock, Ok(bytes)) => {
                let header_bytes = u32::try_from(frame::header_bytes_of(bytes).ok()?).ok()?;
                let is_longer = header_bytes as usize > bytes.len() && header_bytes <= left;
                is_longer.then_some(Self::Whole(header_bytes))
            }
            (Self::FirstBlock | Self::Whole(_), _) => None,
        }
    }
}

/// Where a frame's payload starts.
#[derive(Clone, Copy)]
pub(super) struct PayloadPlace {
    first_block: u64,
}

impl PayloadPlace {
    pub(super) fn of(frame: &Frame) -> Self {
        Self {
            first_block: frame.info.block + u64::from(frame.header_blocks),
        }
    }

    /// The block of an entry's payload; 0 if it has none.
    pub(super) fn block(self, header: &[u8], payload_offset: u32) -> u64 {
        // The frame was decoded, so its entries' headers are sound.
        let blocks = cairn_format::entry::BlockCrcs::of_header(header).map_or(0, |crcs| crcs.count());
        self.block_of(blocks, payload_offset)
    }

    /// The first of so many blocks; 0 if there are none.
    pub(super) fn block_of(self, blocks: u32, payload_offset: u32) -> u64 {
        if blocks > 0 {
            self.first_block + u64::from(payload_offset)
        } else {
            0
        }
    }
}
