//! A state that is being received: the map aside. The same function fills it while it runs and in recovery.

use std::collections::VecDeque;

use cairn_api::ids::{LogIndex, Term};
use cairn_api::units::Lba;
use cairn_format::portion::{Portion, Row, RowContent};
use cairn_format::volume_state::VolumeState;

use crate::map::{BlockMap, Content, DiskBlock, Found, LEAF_SLOTS, Owner, StagedMap};
use crate::membership::Membership;
use crate::mutation::{Seeded, mutated};

/// So many states that were begun before are remembered: leaders change seldom, and each costs the memory of its slots.
const EARLIER_MAX: usize = 4;

/// What was staged of the state at a mark.
pub(crate) struct Staging {
    pub(crate) mark: LogIndex,
    pub(crate) term: Term,
    /// What the replica's own map had applied when it began.
    pub(crate) have: LogIndex,
    map: StagedMap,
    /// What was staged of other states before, since the last one was installed: data that is there need not come twice.
    earlier: VecDeque<StagedMap>,
    /// Why it cannot be installed.
    flaw: Option<String>,
    seeded: Seeded,
}

impl Staging {
    pub(crate) fn new(mark: LogIndex, term: Term, have: LogIndex, seeded: Seeded) -> Self {
        Self {
            mark,
            term,
            have,
            map: StagedMap::default(),
            earlier: VecDeque::new(),
            flaw: None,
            seeded,
        }
    }

    /// The same, after what was staged before: live and in recovery, so that both find the same.
    pub(crate) fn following(mut self, before: Option<Self>) -> Self {
        if let Some(before) = before {
            self.earlier = before.earlier;
            self.earlier.push_back(before.map);
            if self.earlier.len() > EARLIER_MAX {
                self.earlier.pop_front();
            }
        }
        self
    }

    /// Where the data is that an entry wrote to these blocks, in the replica's own map or among what was staged before.
    fn find(&self, own: &BlockMap, row: &Row) -> Option<Vec<Found>> {
        let blocks = u64::from(row.slots);
        let staged = || {
            self.earlier
                .iter()
                .rev()
                .find_map(|map| map.find(row.lba, blocks, row.birth))
        };
        own.find(row.lba, blocks, row.birth).or_else(staged)
    }

    /// Whether what a portion says is kept is in `own`, the replica's map.
    pub(crate) fn is_kept(&self, own: &BlockMap, portion: &Portion) -> bool {
        let kept = |row: &Row| row.content == RowContent::Kept;
        let is_there = |row: &Row| {
            let is_found = self.find(own, row).is_some();
            is_found || mutated!(self.seeded, KeepsWhatItHasNot)
        };
        portion.rows.iter().filter(|row| kept(row)).all(is_there)
    }

    /// Takes a portion whose data lies on the disk from `payload_block` on.
    pub(crate) fn take(&mut self, portion: &Portion, payload_block: u64, own: &BlockMap) {
        let owner = match portion.owner {
            LogIndex(0) => Owner::Head,
            LogIndex(at) => Owner::Delta(at),
        };
        let mut block = DiskBlock(payload_block);
        for row in &portion.rows {
            match &row.content {
                RowContent::Data(crcs) => {
                    self.put_data(owner, row.lba, block, crcs, row.birth);
                    block = block.advance(crcs.len() as u64);
                }
                RowContent::Kept => match self.find(own, row) {
                    Some(found) => self.keep(owner, &found, row.birth),
                    None if mutated!(self.seeded, KeepsWhatItHasNot) => {}
                    None => {
                        let (lba, birth) = (row.lba, row.birth);
                        let flaw = || format!("what entry {birth} wrote to block {lba} is not here");
                        self.flaw.get_or_insert_with(flaw);
                    }
                },
                RowContent::Zero => self.put(owner, row.lba, u64::from(row.slots), Content::Zero, row.birth),
                RowContent::Trimmed => self.put(owner, row.lba, u64::from(row.slots), Content::Trimmed, row.birth),
            }
        }
    }

    /// Takes over data that the replica has, as far as it lies together.
    fn keep(&mut self, owner: Owner, found: &[Found], birth: LogIndex) {
        for together in found.chunk_by(|before, after| before.block.advance(1) == after.block) {
            let crcs: Vec<u32> = together.iter().map(|found| found.crc).collect();
            if let Some(first) = together.first() {
                self.put_data(owner, first.lba, first.block, &crcs, birth);
            }
        }
    }

    fn put_data(&mut self, owner: Owner, lba: Lba, block: DiskBlock, crcs: &[u32], birth: LogIndex) {
        let mut done = 0;
        for (lba, slots) in in_leaves(lba, crcs.len() as u64) {
            #[allow(clippy::cast_possible_truncation, reason = "at most as many as there are checksums")]
            let end = done + slots as usize;
            let content = Content::Data {
                block: block.advance(done as u64),
                crcs: &crcs[done..end],
            };
            self.map.put(owner, lba, slots, content, birth);
            done = end;
        }
    }

    fn put(&mut self, owner: Owner, lba: Lba, slots: u64, content: Content<'_>, birth: LogIndex) {
        for (lba, slots) in in_leaves(lba, slots) {
            self.map.put(owner, lba, slots, content, birth);
        }
    }

    /// Blocks with data so far.
    pub(crate) fn blocks(&self) -> u64 {
        self.map.blocks()
    }

    /// The map of the state; the reason if it is not that of `state`, or has a flaw.
    /// Nothing of `own` is in it that was not received or kept.
    pub(crate) fn finish(mut self, state: &VolumeState, own: &BlockMap) -> Result<BlockMap, String> {
        if (self.mark, self.term) != (state.index, state.term) {
            return Err(format!(
                "the state of entry {} was staged, not of {}",
                self.mark, state.index
            ));
        }
        if let Some(flaw) = self.flaw {
            return Err(flaw);
        }
        if mutated!(self.seeded, StateForgetsTrims) {
            self.map.fill_holes_from(own);
        }
        let snapshots = state.snapshots.iter();
        let snapshots = snapshots.map(|snapshot| (snapshot.id, snapshot.at, snapshot.size_blocks));
        let base = (state.base, state.filled_blocks);
        let mut map = self
            .map
            .into_map(state.size_blocks, base, state.snapshot_last, snapshots)?;
        map.set_seeded(self.seeded);
        Ok(map)
    }
}

/// The members as a state has them.
pub(crate) fn membership_of(state: &VolumeState) -> Membership {
    Membership {
        revision: state.revision,
        voters: state.voters.clone(),
        learners: state.learners.clone(),
        replica_last: state.replica_last,
    }
}

/// Cuts a range at the leaves' borders.
fn in_leaves(lba: Lba, slots: u64) -> impl Iterator<Item = (Lba, u64)> {
    let end = lba.0 + slots;
    let mut next = lba.0;
    std::iter::from_fn(move || {
        let start = next;
        next = ((start / LEAF_SLOTS + 1) * LEAF_SLOTS).min(end);
        (start < end).then(|| (Lba(start), next - start))
    })
}
