//! Filling a clone from its base: the leader reads a little of what the base shows and proposes it, again and again.
//!
//! What an entry does, and why it may come at any time, stands in `crate::map::fill`. Here is only the pace: one stretch of at
//! most an entry's length is under way for each clone, all clones of a disk together read so many bytes a second
//! ([`crate::flattener`]), and what writers need goes first: a leader fills only while every voter's disk has twice the room that a
//! write would have to find. A restart or another leader goes on where the clone is filled up to; what was under way comes to
//! nothing, since it does not begin there any more, or is applied once.

use bytes::{Bytes, BytesMut};
use cairn_api::ids::GroupId;
use cairn_api::units::{BLOCK_BYTES, Lba};
use cairn_format::entry::{ENTRY_BLOCKS_MAX, EntryHeader};
use cairn_format::peer::{BlockPiece, GatewayResult};

use std::collections::BTreeMap;
use std::time::Duration;

use super::Group;
use crate::base::{self, Shown, ShownContent};
use crate::config::margin_blocks;
use crate::event::Effect;
use crate::shared::{Room, Shared};
use crate::time::Timestamp;

/// Rows of the maps that are looked at for one entry.
const ROWS_MAX: usize = 1024;
/// After what could not be done, a leader waits for so long.
const PAUSE: Duration = Duration::from_millis(500);

/// What a leader is about to fill next.
pub(crate) struct FillPlan {
    term: u64,
    lba: u64,
    skip: u64,
    /// What the base shows behind that, in a row.
    pub(super) found: Vec<Shown<'static>>,
    crcs: Vec<u32>,
}

impl FillPlan {
    /// Bytes that are read for it.
    pub(crate) const fn bytes(&self) -> u64 {
        self.crcs.len() as u64 * BLOCK_BYTES
    }

    /// Takes what comes next; whether there is room for more.
    fn take(&mut self, own: GroupId, mut shown: Shown<'static>) -> bool {
        let room = u64::from(ENTRY_BLOCKS_MAX) - self.crcs.len() as u64;
        match &mut shown.content {
            ShownContent::Data { home, crcs, .. } if *home != own => {
                shown.blocks = shown.blocks.min(room);
                #[allow(clippy::cast_possible_truncation, reason = "at most 256")]
                crcs.to_mut().truncate(shown.blocks as usize);
                self.crcs.extend_from_slice(crcs);
                self.found.push(shown);
                self.crcs.len() < ENTRY_BLOCKS_MAX as usize
            }
            _ if self.found.is_empty() => {
                self.skip += shown.blocks;
                true
            }
            _ => false,
        }
    }
}

/// What a replica that leads a clone does to make it whole.
#[derive(Default)]
pub(super) struct Flattening {
    /// The term in which the stretch from this block on is under way.
    under_way: Option<(u64, u64)>,
    not_before: Timestamp,
}

impl Group {
    /// Whether it is time to fill more.
    pub(crate) fn is_to_fill(&self, shared: &Shared) -> bool {
        let is_under_way = self.flattening.under_way == Some((self.term(), self.map.filled_blocks()));
        let may = self.leads_with_all_applied() && !self.is_transferring() && !shared.draining;
        self.map.base().is_some() && may && !is_under_way && shared.now >= self.flattening.not_before
    }

    /// What to fill next; `None` if a base is not there.
    pub(crate) fn plan_fill(&self, groups: &BTreeMap<GroupId, Self>) -> Option<FillPlan> {
        let range = self.map.base_range();
        let own = self.spec.group;
        let mut plan = FillPlan {
            term: self.term(),
            lba: range.start,
            skip: 0,
            found: Vec::new(),
            crcs: Vec::new(),
        };
        let mut rows = 0;
        // What the oldest time does not show of the base, none does.
        base::walk(groups, (own, self.map.oldest_time()), range, &mut |shown| {
            rows += 1;
            plan.take(own, shown.into_owned()) && rows < ROWS_MAX
        })
        .ok()?;
        Some(plan)
    }

    /// Does what is planned; without a plan, nothing for a while.
    pub(crate) fn begin_fill(&mut self, shared: &mut Shared, plan: Option<FillPlan>) {
        let Some(plan) = plan.filter(|plan| self.may_fill(shared, plan)) else {
            return self.fill_later(shared);
        };
        self.flattening.under_way = Some((plan.term, plan.lba));
        self.gather_fill(shared, plan);
    }

    /// What was to be filled has been read.
    pub(super) fn fill_read(
        &mut self,
        shared: &mut Shared,
        plan: &FillPlan,
        pieces: &[BlockPiece],
        failure: Option<&GatewayResult>,
    ) {
        if self.flattening.under_way != Some((plan.term, plan.lba)) {
            return;
        }
        if failure.is_some() || !self.may_fill(shared, plan) {
            if let Some(GatewayResult::Failed(error)) = failure {
                tracing::error!(group = %self.spec.group, lba = plan.lba, %error, "a clone cannot be filled from its base");
            }
            return self.fill_later(shared);
        }
        let header = EntryHeader::Fill {
            lba: Lba(plan.lba),
            skip: plan.skip,
            block_crcs: plan.crcs.clone(),
        };
        let payload = joined(pieces);
        assert_eq!(payload.len() as u64, plan.bytes(), "all that was planned was read");
        if let Err(error) = self.node.propose(Vec::new(), header.encode().to_vec()) {
            tracing::debug!(group = %self.spec.group, %error, "proposal dropped");
            return self.fill_later(shared);
        }
        let (index, term) = (self.node.raft.raft_log.last_index(), self.term());
        if !payload.is_empty() {
            let blocks = plan.crcs.len() as u64;
            shared.effects.push(Effect::Filled { blocks });
            self.staged.insert((index, term), payload);
        }
    }

    fn fill_later(&mut self, shared: &Shared) {
        self.flattening.under_way = None;
        self.flattening.not_before = shared.now.after(PAUSE);
    }

    fn may_fill(&self, shared: &Shared, plan: &FillPlan) -> bool {
        let is_due = (plan.term, plan.lba) == (self.term(), self.map.filled_blocks());
        if !is_due || !self.leads_with_all_applied() || self.is_transferring() {
            return false;
        }
        let needed = plan.crcs.len() as u64 + 2 * margin_blocks(&shared.config.geometry);
        let has_room = |room: Room| room.free_blocks >= needed && room.room_blocks >= needed;
        plan.crcs.is_empty() || (self.all_have(shared, has_room) && !shared.is_log_full(self.spec.group))
    }
}

fn joined(pieces: &[BlockPiece]) -> Bytes {
    let data = |piece: &BlockPiece| match piece {
        BlockPiece::Data(data) => data.clone(),
        BlockPiece::Zeros(_) => Bytes::new(),
    };
    match pieces {
        [single] => data(single),
        many => {
            let mut all = BytesMut::new();
            many.iter().for_each(|piece| all.extend_from_slice(&data(piece)));
            all.freeze()
        }
    }
}
