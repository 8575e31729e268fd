//! What each block of a clone may hold: as its snapshot shows it, or what its only user has written since.
//!
//! The user has one request under way at a time, of whole blocks. What it was told is done is what the block holds. What became of a
//! request that it was told nothing of is not known: until the next one that is done, the block may hold either.

use std::ops::Range;

use cairn_history::content::{self, SECTOR};
use cairn_history::register::{Cut, History};

/// Sectors of a block.
const SECTORS: usize = 8;

/// What a block may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Value {
    /// What the snapshot shows.
    Snapshots,
    /// What was written with this stamp; 0 for zeros.
    Own(u64),
}

/// See the module.
#[derive(Clone)]
pub(super) struct Model {
    blocks: Vec<Vec<Value>>,
}

impl Model {
    /// A clone that is as its snapshot.
    pub(super) fn of_cut(blocks: u64) -> Self {
        let blocks = (0..blocks).map(|_| vec![Value::Snapshots]).collect();
        Self { blocks }
    }

    pub(super) const fn blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// What is new is zeros.
    pub(super) fn grow(&mut self, blocks: u64) {
        let blocks = usize::try_from(blocks).unwrap();
        self.blocks.resize(blocks.max(self.blocks.len()), vec![Value::Own(0)]);
    }

    fn of(&mut self, range: Range<u64>) -> &mut [Vec<Value>] {
        &mut self.blocks[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
    }

    /// These blocks hold this now.
    pub(super) fn done(&mut self, range: Range<u64>, stamp: u64) {
        self.of(range).fill(vec![Value::Own(stamp)]);
    }

    /// These blocks may hold this from now on.
    pub(super) fn doubtful(&mut self, range: Range<u64>, stamp: u64) {
        for values in self.of(range) {
            if !values.contains(&Value::Own(stamp)) {
                values.push(Value::Own(stamp));
            }
        }
    }

    /// Checks what was read from `first` on.
    pub(super) fn check(&self, what: &str, first: u64, bytes: &[u8], history: &mut History, cut: &mut Cut) {
        for (block, data) in (first..).zip(bytes.chunks(SECTORS * SECTOR)) {
            let sectors = (block * SECTORS as u64..).zip(data.chunks(SECTOR));
            let stamps: Vec<u64> = sectors.map(|(place, sector)| content::check(sector, place)).collect();
            let values = &self.blocks[usize::try_from(block).unwrap()];
            let is_own = |value: &Value| matches!(value, Value::Own(own) if stamps.iter().all(|stamp| stamp == own));
            if values.iter().any(is_own) {
                history.checked += stamps.len() as u64;
                continue;
            }
            assert!(
                values.contains(&Value::Snapshots),
                "[history] block {block} of {what} holds {stamps:?}, and may hold {values:?}"
            );
            history.check_cut(cut, block * SECTORS as u64, &stamps);
        }
    }
}
