//! Writing found blocks back to their places; see the safety argument in [`super`].

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use bytes::Bytes;
use cairn_api::ids::GroupId;
use cairn_api::units::{BLOCK_BYTES, BLOCK_SIZE};

use crate::event::{Damage, Effect, IoId};
use crate::mutation::mutated;
use crate::shared::Shared;

/// Write-backs of one disk under way at once, beside its frames: few, because clients' frames go first.
pub const WRITE_BACKS_MAX: usize = 2;
/// Write-backs that wait, for their frame to be vouched for or for the ones before: 16 MiB. What is beyond is repaired
/// when it is read the next time.
const WAITING_MAX: usize = 4096;

struct Heal {
    group: GroupId,
    block: u64,
    data: Bytes,
}

#[derive(Default)]
pub(super) struct Healing {
    waiting: VecDeque<Heal>,
    under_way: BTreeMap<IoId, Heal>,
}

impl Healing {
    pub(super) fn forget(&mut self, group: GroupId) {
        // What is under way ends by itself, and does no harm: a dropped group's blocks are not used for anything else.
        self.waiting.retain(|heal| heal.group != group);
    }

    pub(super) fn count(&self) -> usize {
        self.waiting.len() + self.under_way.len()
    }

    pub(super) fn oldest(&self) -> Option<IoId> {
        self.under_way.first_key_value().map(|(io, _)| *io)
    }

    pub(super) fn is_about(&self, blocks: &Range<u64>) -> bool {
        let mut heals = self.waiting.iter().chain(self.under_way.values());
        heals.any(|heal| blocks.contains(&heal.block))
    }

    fn has(&self, block: u64) -> bool {
        self.waiting
            .iter()
            .chain(self.under_way.values())
            .any(|heal| heal.block == block)
    }

    /// The next one whose frame is vouched for.
    fn take_due(&mut self, is_vouched: impl Fn(u64) -> bool) -> Option<Heal> {
        if self.under_way.len() >= WRITE_BACKS_MAX {
            return None;
        }
        let due = self.waiting.iter().position(|heal| is_vouched(heal.block))?;
        self.waiting.remove(due)
    }
}

impl Shared {
    /// Plans to write `data` back to a damaged block of the disk; `crc` is what the map says of it.
    pub(super) fn heal(&mut self, group: GroupId, block: u64, crc: u32, data: &Bytes) {
        let is_right = data.len() == BLOCK_SIZE as usize && cairn_format::checksum::crc32c(data) == crc;
        assert!(
            is_right || mutated!(self.seeded, RepairUnchecked),
            "only what matches is written back"
        );
        if !self.repairs.known.may_be_damaged(block) {
            // Another repair of the block was faster.
            return;
        }
        let healing = &mut self.repairs.healing;
        if !healing.has(block) && healing.waiting.len() < WAITING_MAX {
            healing.waiting.push_back(Heal {
                group,
                block,
                data: data.clone(),
            });
        }
    }

    /// Starts the write-backs that may go now.
    pub(crate) fn write_heals(&mut self) {
        while let Some(heal) = self.repairs.healing.take_due(|block| self.log.is_vouched(block)) {
            let io = self.io.next();
            let beside = u64::from(mutated!(self.seeded, HealsNextBlock));
            self.effects.push(Effect::Write {
                io,
                offset: (heal.block + beside) * BLOCK_BYTES,
                buffers: vec![heal.data.clone()],
            });
            self.repairs.healing.under_way.insert(io, heal);
        }
    }

    /// A write has ended well; true if it was a write-back.
    pub(crate) fn healed(&mut self, io: IoId) -> bool {
        let Some(heal) = self.repairs.healing.under_way.remove(&io) else {
            return false;
        };
        tracing::info!(group = %heal.group, disk_block = heal.block, "a damaged block was repaired");
        self.repairs.known.healed(heal.block);
        self.count_damage(heal.group, Damage::Repaired, 1);
        true
    }
}
