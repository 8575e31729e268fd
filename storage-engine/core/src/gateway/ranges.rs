//! Locks on ranges of blocks: writes that overlap go one after the other, in the order they came.
//!
//! That makes a read-modify-write atomic against other writers, and it is what lets a gateway send a write again after a
//! failover: no other write of the same blocks can have been acknowledged in between.

use std::collections::BTreeMap;

/// A range of blocks, `first..end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Range {
    pub(crate) first: u64,
    pub(crate) end: u64,
}

impl Range {
    fn overlaps(self, other: Self) -> bool {
        self.first < other.end && other.first < self.end
    }
}

/// Ranges that are locked or wait, by the number of their operation; numbers rise in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct RangeLocks {
    held: BTreeMap<u64, Range>,
    waiting: BTreeMap<u64, Range>,
}

impl RangeLocks {
    /// Locks `range` for `op`, or queues it; true if it is locked now.
    pub(crate) fn lock(&mut self, op: u64, range: Range) -> bool {
        let is_free = !self
            .held
            .values()
            .chain(self.waiting.values())
            .any(|other| other.overlaps(range));
        let place = if is_free { &mut self.held } else { &mut self.waiting };
        place.insert(op, range);
        is_free
    }

    /// Releases what `op` holds; returns the operations whose ranges are locked now.
    pub(crate) fn unlock(&mut self, op: u64) -> Vec<u64> {
        let Some(freed) = self.held.remove(&op).or_else(|| self.waiting.remove(&op)) else {
            return Vec::new();
        };
        let mut granted = Vec::new();
        let mut earlier: Vec<Range> = Vec::new();
        for (waiting, range) in &self.waiting {
            let is_candidate = range.overlaps(freed);
            let is_blocked = self.held.values().chain(&earlier).any(|other| other.overlaps(*range));
            if is_candidate && !is_blocked {
                granted.push(*waiting);
            }
            earlier.push(*range);
        }
        for op in &granted {
            if let Some(range) = self.waiting.remove(op) {
                self.held.insert(*op, range);
            }
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn range(first: u64, end: u64) -> Range {
        Range { first, end }
    }

    #[test]
    fn overlapping_ranges_are_granted_in_order_of_arrival() {
        let mut locks = RangeLocks::default();
        assert!(locks.lock(1, range(0, 4)));
        assert!(locks.lock(2, range(4, 8)));
        assert!(!locks.lock(3, range(3, 5)));
        assert!(!locks.lock(4, range(0, 1)), "block 0 is held by 1");
        assert!(!locks.lock(5, range(4, 5)), "behind 2 and 3");
        assert_eq!(locks.unlock(1), vec![4], "3 still waits for 2");
        assert_eq!(locks.unlock(2), vec![3], "5 waits for 3");
        assert_eq!(locks.unlock(3), vec![5]);
        assert_eq!(locks.unlock(4), Vec::<u64>::new());
        assert_eq!(locks.unlock(5), Vec::<u64>::new());
        assert!(locks.lock(6, range(0, 100)));
    }

    #[test]
    fn a_waiting_operation_can_give_up() {
        let mut locks = RangeLocks::default();
        assert!(locks.lock(1, range(0, 4)));
        assert!(!locks.lock(2, range(0, 8)));
        assert!(!locks.lock(3, range(6, 7)), "behind 2, which waits");
        assert_eq!(locks.unlock(2), vec![3]);
        assert_eq!(locks.unlock(1), Vec::<u64>::new());
    }
}
