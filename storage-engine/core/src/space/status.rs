//! What a disk's space is used for, for those who watch it.

use std::time::Duration;

use cairn_api::units::BLOCK_BYTES;

use super::segments::Role;
use crate::config::{capacity_blocks, reserve_segments};
use crate::event::Effect;
use crate::shared::Shared;
use crate::time::Timestamp;

/// How often it is told at most.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// What the segments of a disk are used for, and how much of what they hold is alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SpaceStatus {
    /// Bytes of one segment.
    pub segment_bytes: u64,
    /// Segments of the disk: the sum of those that follow.
    pub segments: u32,
    /// Segments that may be begun anew.
    pub free: u32,
    /// Segments that the log is in, as a start would read it.
    pub log: u32,
    /// Segments that the log was in, which hold live blocks or are not free yet.
    pub data: u32,
    /// Segments of blocks that collection has moved.
    pub cold: u32,
    /// Segments of checkpoints.
    pub index: u32,
    /// Segments that are free when what is under way there has ended.
    pub dead: u32,
    /// Of the free ones, those that are kept for what gives space back.
    pub reserve: u32,
    /// Blocks of 4 KiB that a map names.
    pub live_blocks: u64,
    /// Blocks of payload that the disk takes at most.
    pub capacity_blocks: u64,
    /// Blocks of payload that can be written before collection must give some back.
    pub free_blocks: u64,
}

impl SpaceStatus {
    /// The part of the disk's capacity that is in use, in thousandths.
    pub fn used_permille(&self) -> u16 {
        let used = self.live_blocks.min(self.capacity_blocks) * 1000;
        u16::try_from(used.checked_div(self.capacity_blocks).unwrap_or(1000)).unwrap_or(1000)
    }

    /// Bytes in use.
    pub const fn used_bytes(&self) -> u64 {
        self.live_blocks * BLOCK_BYTES
    }

    /// Bytes that the disk takes at most.
    pub const fn capacity_bytes(&self) -> u64 {
        self.capacity_blocks * BLOCK_BYTES
    }
}

/// Tells what the space is used for, now and then.
#[derive(Debug, Default)]
pub(crate) struct Teller {
    next: Timestamp,
    last: SpaceStatus,
}

impl Teller {
    pub(crate) fn tick(&mut self, shared: &mut Shared) {
        if shared.now < self.next {
            return;
        }
        self.next = shared.now.after(TOLD_EVERY);
        let status = shared.space_status();
        if status != self.last {
            self.last = status;
            shared.effects.push(Effect::Space(status));
        }
    }
}

impl Shared {
    /// What the disk's space is used for.
    pub(crate) fn space_status(&self) -> SpaceStatus {
        let geometry = &self.config.geometry;
        let mut status = SpaceStatus {
            segment_bytes: geometry.segment_size,
            segments: geometry.segment_count,
            reserve: u32::try_from(reserve_segments(geometry)).unwrap_or(u32::MAX),
            live_blocks: self.segments.live_blocks(),
            capacity_blocks: capacity_blocks(geometry),
            free_blocks: self.log.free_blocks(),
            free: u32::try_from(self.log.free_segments_count()).unwrap_or(u32::MAX),
            log: u32::try_from(self.log.window_len()).unwrap_or(u32::MAX),
            ..SpaceStatus::default()
        };
        for segment in 0..self.segments.count() {
            let count = match self.segments.role(segment) {
                // The log knows these.
                Role::Free | Role::Log => continue,
                Role::Data => &mut status.data,
                Role::Cold => &mut status.cold,
                Role::Index => &mut status.index,
                Role::Dead(_) => &mut status.dead,
            };
            *count += 1;
        }
        status
    }
}
