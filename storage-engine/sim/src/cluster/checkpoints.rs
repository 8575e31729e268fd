//! What the checkpoints on a disk say, read from the disk alone, and what must hold because of it: a segment is begun anew only if
//! the last durable checkpoint says that nothing is in it. Else that checkpoint, or the log behind it, would name what
//! is being overwritten, and a crash would bring it back.

use std::ops::AddAssign;

use bytes::{Bytes, BytesMut};
use cairn_api::units::{BLOCK_BYTES, BLOCK_SIZE};
use cairn_format::anchor::{ANCHOR_BYTES, ANCHOR_OFFSETS, Anchor};
use cairn_format::chunk;
use cairn_format::table::Table;
use serde::{Deserialize, Serialize};

use super::Cluster;
use crate::disk::SimDisk;

/// What checkpoints and collection have done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SpaceCounts {
    /// Checkpoints that became durable.
    pub checkpoints: u64,
    /// Segments that they freed.
    pub freed: u64,
    /// Segments that collection has emptied.
    pub emptied: u64,
    /// Blocks that it has moved.
    pub moved: u64,
    /// Segments that were begun behind a checkpoint, and held against it.
    pub begun: u64,
}

impl AddAssign for SpaceCounts {
    fn add_assign(&mut self, other: Self) {
        self.checkpoints += other.checkpoints;
        self.freed += other.freed;
        self.emptied += other.emptied;
        self.moved += other.moved;
        self.begun += other.begun;
    }
}

impl Cluster {
    /// A node writes the first bytes of a segment.
    pub(super) fn check_begun(&mut self, number: usize, segment: u32) {
        let node = &self.nodes[number];
        // What was done to the disk may have changed what it says.
        if node.disk.was_harmed {
            return;
        }
        let Some(table) = last_table(&node.disk) else { return };
        let is_free = |(first, count): &(u32, u32)| (*first..first + count).contains(&segment);
        assert!(
            table.free.iter().any(is_free),
            "[checkpoint] node {number} begins segment {segment}, which its last durable checkpoint does not call free"
        );
        self.space.begun += 1;
    }
}

/// The table of the last checkpoint that is durable; none if there is none, or if it cannot be read.
fn last_table(disk: &SimDisk) -> Option<Table> {
    let anchors = ANCHOR_OFFSETS.into_iter().filter_map(|offset| {
        let bytes = disk.read(offset, BLOCK_SIZE).ok()?;
        Anchor::decode(&bytes[..ANCHOR_BYTES]).ok()
    });
    let place = anchors.max_by_key(|anchor| anchor.generation)?.checkpoint?.table;
    let mut pieces: Vec<Bytes> = Vec::new();
    let (mut block, mut blocks) = (place.block, place.blocks);
    while block != 0 {
        let bytes = disk.read(block * BLOCK_BYTES, blocks * BLOCK_SIZE).ok()?;
        let (info, body) = chunk::decode(&bytes).ok()?;
        pieces.push(body);
        (block, blocks) = (info.previous_block, info.previous_blocks);
    }
    let mut all = BytesMut::new();
    pieces.iter().rev().for_each(|piece| all.extend_from_slice(piece));
    Table::decode(&all.freeze()).ok()
}
