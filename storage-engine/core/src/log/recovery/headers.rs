//! The first phase: every segment's header, and which segment continues the log at which point.

use std::collections::{BTreeMap, BTreeSet};

use cairn_api::ids::DiskId;
use cairn_api::units::BLOCK_SIZE;
use cairn_format::error::FormatError;
use cairn_format::segment::{HeadKind, SegmentHeader};

use super::{Row, Rows};
use crate::log::FreeSegments;

/// Bytes to read of each segment.
pub(super) const READ_BYTES: u32 = BLOCK_SIZE;
/// Headers read at once: enough for any disk's queue, little enough for its memory.
const IN_FLIGHT_MAX: u32 = 32;

pub(super) struct Headers {
    count: u32,
    /// Those that were free at the last checkpoint; `None` where there was none, and all were.
    free: Option<BTreeSet<u32>>,
    asked: u32,
    answered: u32,
    valid: BTreeMap<u32, SegmentHeader>,
    /// The first segment whose header cannot be read, and the words of the disk's error.
    unreadable: Option<(u32, String)>,
    /// Segments by the point at which they continue the log: first sequence and the chain value before.
    continuing: BTreeMap<(u64, u64), Vec<u32>>,
    /// The rows of the decision table that were met.
    pub(super) rows: Rows,
}

impl Headers {
    pub(super) const fn new(count: u32, free: Option<BTreeSet<u32>>) -> Self {
        Self {
            count,
            free,
            asked: 0,
            answered: 0,
            valid: BTreeMap::new(),
            unreadable: None,
            continuing: BTreeMap::new(),
            rows: Rows::none(),
        }
    }

    /// The next segment whose header to read now.
    pub(super) const fn next_wanted(&mut self) -> Option<u32> {
        if self.asked == self.count || self.asked - self.answered == IN_FLIGHT_MAX {
            return None;
        }
        self.asked += 1;
        Some(self.asked - 1)
    }

    pub(super) const fn is_complete(&self) -> bool {
        self.answered == self.count
    }

    /// Takes what was read of a segment's header. What is no header of this disk's segment is no error: it may be of
    /// before the disk was formatted.
    pub(super) fn take(&mut self, disk: DiskId, segment: u32, read: Result<&[u8], &String>) -> Result<(), FormatError> {
        self.answered += 1;
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(words) => {
                self.unreadable.get_or_insert_with(|| (segment, words.clone()));
                return Ok(());
            }
        };
        match SegmentHeader::decode(bytes) {
            Ok(header) if header.disk == disk && header.segment == segment => {
                if header.head == HeadKind::Hot {
                    self.continuing
                        .entry((header.first_sequence, header.chain_before))
                        .or_default()
                        .push(segment);
                }
                self.valid.insert(segment, header);
                Ok(())
            }
            Ok(_) => {
                self.rows.insert(Row::Stranger);
                Ok(())
            }
            Err(error) if error.is_newer() => Err(error),
            Err(_) => Ok(()),
        }
    }

    /// The segment that continues the log at this point. Of several the one of the latest opening: an earlier one had
    /// not reached the disk when the next went on without it.
    pub(super) fn continuing(&self, sequence: u64, chain: u64, path: &[u32]) -> Option<SegmentHeader> {
        self.continuing
            .get(&(sequence, chain))?
            .iter()
            .filter(|segment| !path.contains(segment))
            .filter_map(|segment| self.valid.get(segment))
            .max_by_key(|header| (header.incarnation, header.epoch))
            .copied()
    }

    /// A header outside `path` that vouches for the frame `sequence`.
    pub(super) fn vouching(&self, sequence: u64, path: &[u32]) -> Option<SegmentHeader> {
        self.valid
            .values()
            .filter(|header| header.durable_upto >= sequence)
            .find(|header| !path.contains(&header.segment))
            .copied()
    }

    /// Whether the header of a segment is there, and of this epoch.
    pub(super) fn has(&self, segment: u32, epoch: u64) -> bool {
        self.valid.get(&segment).is_some_and(|header| header.epoch == epoch)
    }

    /// The latest opening of the log that any header speaks of.
    pub(super) fn incarnation_max(&self) -> u64 {
        self.valid.values().map(|header| header.incarnation).max().unwrap_or(0)
    }

    /// The headers of this disk's segments, where they are whole.
    pub(super) const fn all(&self) -> &BTreeMap<u32, SegmentHeader> {
        &self.valid
    }

    /// A segment whose header cannot be read, and the words of the disk's error.
    pub(super) const fn unreadable(&self) -> Option<&(u32, String)> {
        self.unreadable.as_ref()
    }

    /// Every segment outside `path` that was free, in the order in which the writer would have taken them.
    pub(super) fn beyond(&self, path: &[u32]) -> Vec<u32> {
        self.outside(path).in_order().collect()
    }

    /// The segments outside `path` that may be written. `epochs_seen` are of frames found in segments whose header is
    /// lost.
    pub(super) fn free(&self, path: &[u32], epochs_seen: &BTreeMap<u32, u64>) -> FreeSegments {
        let mut free = self.outside(path);
        free.raise_epochs(epochs_seen);
        free
    }

    fn outside(&self, path: &[u32]) -> FreeSegments {
        let used: BTreeSet<u32> = path.iter().copied().collect();
        let epochs = (0..self.count)
            .filter(|segment| !used.contains(segment))
            .filter(|segment| self.free.as_ref().is_none_or(|free| free.contains(segment)))
            .map(|segment| (segment, self.valid.get(&segment).map_or(1, |header| header.epoch + 1)))
            .collect();
        FreeSegments::new(epochs, path.last().copied())
    }
}
