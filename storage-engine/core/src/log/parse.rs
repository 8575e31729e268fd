//! Reading back one frame's header, for old entries that are no longer in memory.

use bytes::Bytes;
use cairn_api::ids::{DiskId, GroupId, LogIndex, Term};
use cairn_format::frame::{self, Frame, FrameRecord};

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

/// The entries of `group` in the frame that `bytes` starts with; [`super::FRAME_HEADER_READ_BYTES`] of it are enough.
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
        let has_payload = cairn_format::entry::BlockCrcs::of_header(header).is_ok_and(|crcs| crcs.count() > 0);
        if has_payload {
            self.first_block + u64::from(payload_offset)
        } else {
            0
        }
    }
}
