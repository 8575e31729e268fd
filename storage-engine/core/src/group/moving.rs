//! A replica's blocks on the move: which of a segment's are alive, and that they are elsewhere from now on.

use std::ops::Range;

use cairn_api::ids::{LogIndex, Term};
use cairn_api::units::Lba;
use cairn_format::entry::BlockCrcs;
use cairn_format::peer::RepairSource;

use super::storage::LogEntry;
use super::{BASE, Group};
use crate::map::{Content, DiskBlock, LEAF_SLOTS, Slot};
use crate::space::collect::Moving;

impl Group {
    /// Which of the disk's blocks from `first` on, written for the blocks from `lba` on (for the meta group: as the payload of
    /// the entry of that index), are alive.
    pub(crate) fn live_among(&self, lba: u64, first: u64, count: u64, found: &mut impl FnMut(Moving)) {
        if self.is_external() {
            return self.kept_at(lba, first, found);
        }
        for at in 0..count {
            let (lba, from) = (lba + at, first + at);
            if lba >= self.map.size_blocks() {
                return;
            }
            let named = self.map.slots_at(Lba(lba)).find_map(|slot| match slot {
                Slot::Data { block, crc } if block.0 == from => Some(crc),
                _ => None,
            });
            if let Some(crc) = named {
                found(Moving {
                    group: self.spec.group,
                    lba,
                    from,
                    crcs: vec![crc],
                });
            }
        }
    }

    /// All live blocks in a range of the disk.
    pub(crate) fn live_in(&self, range: &Range<u64>, found: &mut impl FnMut(Moving)) {
        for index in BASE + 1..=self.counted_to {
            let place = self.node.store().get(index).and_then(|entry| entry.location);
            if let Some(location) = place.filter(|location| range.contains(&location.payload_block)) {
                self.kept_at(index, location.payload_block, found);
            }
        }
        for (_, number, leaf) in self.map.leaves() {
            for piece in leaf.filled() {
                let Content::Data { block, crcs } = piece.content else {
                    continue;
                };
                let lba = number * LEAF_SLOTS + piece.start as u64;
                for ((from, lba), crc) in (block.0..).zip(lba..).zip(crcs) {
                    if range.contains(&from) {
                        found(Moving {
                            group: self.spec.group,
                            lba,
                            from,
                            crcs: vec![*crc],
                        });
                    }
                }
            }
        }
    }

    fn kept_at(&self, index: u64, first: u64, found: &mut impl FnMut(Moving)) {
        let entry = self.node.store().get(index);
        let is_there = |entry: &&LogEntry| entry.location.is_some_and(|location| location.payload_block == first);
        let Some(entry) = entry.filter(is_there).filter(|_| index <= self.counted_to) else {
            return;
        };
        if let Ok(crcs) = BlockCrcs::of_header(&entry.header)
            && crcs.count() > 0
        {
            found(Moving {
                group: self.spec.group,
                lba: index,
                from: first,
                crcs: crcs.iter().collect(),
            });
        }
    }

    /// The block, or the entry's payload, was copied from `old` to `new`. Says whether anything named the old place.
    ///
    /// While a state is being received nothing is: what was received may name the old place, too.
    pub(crate) fn relocate(&mut self, lba: u64, old: u64, new: u64) -> bool {
        if self.is_staging() {
            return false;
        }
        if self.is_external() {
            return self.node.mut_store().relocate(lba, old, new);
        }
        lba < self.map.size_blocks() && self.map.relocate(Lba(lba), DiskBlock(old), DiskBlock(new))
    }

    /// Where peers find the block, or the payload of the entry.
    pub(crate) fn source_of(&self, lba: u64) -> Option<RepairSource> {
        if !self.is_external() {
            return Some(RepairSource::Volume);
        }
        let entry = self.node.store().get(lba)?;
        Some(RepairSource::Entry {
            index: LogIndex(lba),
            term: Term(entry.term),
        })
    }
}
