//! What each segment of the disk is used for, and how many blocks of each are alive.
//!
//! # What must hold
//! - A block that a map names, or a kept entry, is counted in its segment; nothing else is. Whoever changes a map says so here.
//! - A segment without live blocks is *not* free: the last checkpoint, or the log behind it, may still name it. It is free
//!   from the moment on at which a checkpoint is durable that was taken when nothing in it was alive.
//! - Even then it waits for every read and write-back that was begun while it was in use: a read that came back with the
//!   next user's bytes would look like damage, and a write-back would be damage.

use std::ops::Range;

use cairn_api::units::BLOCK_BYTES;
use cairn_format::superblock::Geometry;

use crate::event::IoId;

/// What a segment is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// Nothing: the log's writer may take it.
    Free,
    /// The log is in it.
    Log,
    /// The log was in it; live blocks may be left.
    Data,
    /// Blocks that collection has moved.
    Cold,
    /// Pages and tables of checkpoints.
    Index,
    /// Nothing any more, once all that was begun up to this operation has ended.
    Dead(IoId),
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    role: Role,
    epoch: u64,
    live_blocks: u32,
    /// The log's sequence when it was filled: how old it is.
    filled: u64,
}

impl Segment {
    fn is_without_life(&self) -> bool {
        matches!(self.role, Role::Data | Role::Cold) && self.live_blocks == 0
    }

    fn is_dead(&self) -> bool {
        matches!(self.role, Role::Dead(_))
    }
}

/// All segments of a disk.
#[derive(Debug)]
pub(crate) struct Segments {
    geometry: Geometry,
    segments: Vec<Segment>,
    live_blocks: u64,
    /// How many are filled and hold nothing alive, and how many are dead: asked for in every turn, on disks of any size.
    without_life: usize,
    dead: usize,
}

impl Segments {
    /// Segments of which nothing is used.
    pub(crate) fn new(geometry: Geometry) -> Self {
        let unused = Segment {
            role: Role::Free,
            epoch: 0,
            live_blocks: 0,
            filled: 0,
        };
        Self {
            geometry,
            segments: vec![unused; geometry.segment_count as usize],
            live_blocks: 0,
            without_life: 0,
            dead: 0,
        }
    }

    pub(crate) const fn count(&self) -> u32 {
        self.geometry.segment_count
    }

    pub(crate) fn role(&self, segment: u32) -> Role {
        self.segments[segment as usize].role
    }

    pub(crate) fn epoch(&self, segment: u32) -> u64 {
        self.segments[segment as usize].epoch
    }

    pub(crate) fn live_in(&self, segment: u32) -> u32 {
        self.segments[segment as usize].live_blocks
    }

    pub(crate) fn filled(&self, segment: u32) -> u64 {
        self.segments[segment as usize].filled
    }

    /// Live blocks on the whole disk.
    pub(crate) const fn live_blocks(&self) -> u64 {
        self.live_blocks
    }

    /// A segment is used for this from now on, under this epoch.
    pub(crate) fn use_for(&mut self, segment: u32, role: Role, epoch: u64, sequence: u64) {
        self.change(segment, |known| {
            (known.role, known.epoch, known.filled) = (role, epoch, sequence);
        });
    }

    /// Changes a segment, and the counts with it.
    fn change(&mut self, segment: u32, change: impl FnOnce(&mut Segment)) {
        let known = &mut self.segments[segment as usize];
        self.without_life -= usize::from(known.is_without_life());
        self.dead -= usize::from(known.is_dead());
        change(known);
        self.without_life += usize::from(known.is_without_life());
        self.dead += usize::from(known.is_dead());
    }

    /// The log is no longer in these segments.
    pub(crate) fn cut_off(&mut self, segments: &[(u32, u64)], sequence: u64) {
        for (segment, epoch) in segments {
            self.use_for(*segment, Role::Data, *epoch, sequence);
        }
    }

    /// Segments of a role, in order.
    pub(crate) fn of_role(&self, wanted: impl Fn(Role) -> bool) -> impl Iterator<Item = u32> {
        (0..)
            .zip(&self.segments)
            .filter_map(move |(segment, known)| wanted(known.role).then_some(segment))
    }

    /// Those that hold blocks that may be alive and are not written any more, but hold none that is.
    pub(crate) fn without_life(&self) -> Vec<u32> {
        let segments = (0..).zip(&self.segments);
        let without_life = segments.filter(|(_, known)| known.is_without_life());
        without_life.map(|(segment, _)| segment).collect()
    }

    /// How many those are.
    pub(crate) const fn without_life_count(&self) -> usize {
        self.without_life
    }

    /// Nothing durable names the segment any more.
    pub(crate) fn died(&mut self, segment: u32, last_begun: IoId) {
        self.change(segment, |known| known.role = Role::Dead(last_begun));
    }

    /// Dead segments of which nobody reads or writes any more, with the epochs under which they may be begun anew.
    pub(crate) fn take_buried(
        &mut self,
        oldest_under_way: Option<IoId>,
        is_used: impl Fn(&Range<u64>) -> bool,
    ) -> Vec<(u32, u64)> {
        let is_quiet = |role| matches!(role, Role::Dead(last) if oldest_under_way.is_none_or(|oldest| last < oldest));
        let buried: Vec<u32> = self
            .of_role(is_quiet)
            .filter(|segment| !is_used(&self.blocks_of(*segment)))
            .collect();
        let mut freed = Vec::new();
        for segment in buried {
            self.change(segment, |known| known.role = Role::Free);
            freed.push((segment, self.epoch(segment) + 1));
        }
        freed
    }

    /// How many are dead and not free yet.
    pub(crate) const fn dead_count(&self) -> usize {
        self.dead
    }

    /// The disk's blocks of a segment.
    pub(crate) fn blocks_of(&self, segment: u32) -> Range<u64> {
        self.geometry.segment_offset(segment) / BLOCK_BYTES..self.geometry.segment_end(segment) / BLOCK_BYTES
    }

    /// Blocks that lie together are alive from now on.
    pub(crate) fn born(&mut self, block: u64, count: u64) {
        let segment = self.segment_of(block);
        self.change(segment, |known| {
            known.live_blocks = u32::try_from(u64::from(known.live_blocks) + count).unwrap_or(u32::MAX);
        });
        self.live_blocks += count;
    }

    /// Blocks that lie together are garbage from now on.
    ///
    /// # Panics
    /// If more die than were alive: a block would be used again while something names it.
    pub(crate) fn gone(&mut self, block: u64, count: u64) {
        let segment = self.segment_of(block);
        let live = self.live_in(segment);
        let left = u64::from(live)
            .checked_sub(count)
            .and_then(|left| u32::try_from(left).ok());
        assert!(
            left.is_some(),
            "{count} blocks from {block} on die of {live} that live in their segment"
        );
        self.change(segment, |known| known.live_blocks = left.unwrap_or_default());
        self.live_blocks -= count;
    }

    /// # Panics
    /// If the block lies in no segment.
    #[expect(clippy::expect_used, reason = "every block that a map names was written by this log")]
    fn segment_of(&self, block: u64) -> u32 {
        let segment = self.geometry.segment_of(block * BLOCK_BYTES);
        segment.expect("a block of a segment")
    }
}
