//! Which segment comes next.
//!
//! The order is fixed: the free segment with the lowest number above the last one taken, or else the lowest of all.
//! Recovery relies on it to know where the log would have gone on behind a header that it cannot read.

use std::collections::BTreeMap;

use cairn_format::superblock::Geometry;

/// The segments that may be begun, each with the epoch to begin it under.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FreeSegments {
    epochs: BTreeMap<u32, u64>,
    last_taken: Option<u32>,
}

impl FreeSegments {
    /// Every segment of a disk whose log was never written to.
    pub fn all(geometry: &Geometry) -> Self {
        Self {
            epochs: (0..geometry.segment_count).map(|segment| (segment, 1)).collect(),
            last_taken: None,
        }
    }

    /// These segments, `last_taken` having been the last to be begun.
    pub fn new(epochs: BTreeMap<u32, u64>, last_taken: Option<u32>) -> Self {
        Self { epochs, last_taken }
    }

    /// Raises the epochs of segments above those that were seen in their frames.
    pub(in crate::log) fn raise_epochs(&mut self, seen: &BTreeMap<u32, u64>) {
        for (segment, epoch) in &mut self.epochs {
            *epoch = (*epoch).max(seen.get(segment).map_or(0, |seen| seen + 1));
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.epochs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.epochs.is_empty()
    }

    /// The segments in the order in which they will be taken.
    pub fn in_order(&self) -> impl Iterator<Item = u32> + '_ {
        let first = self.last_taken.map_or(0, |last| last + 1);
        self.epochs
            .range(first..)
            .chain(self.epochs.range(..first))
            .map(|(segment, _)| *segment)
    }

    /// Adds segments that may be begun from here on.
    pub(super) fn add(&mut self, segment: u32, epoch: u64) {
        let known = self.epochs.insert(segment, epoch);
        assert_eq!(known, None, "segment {segment} was free already");
    }

    /// Whether the segment is one of them.
    pub(crate) fn has(&self, segment: u32) -> bool {
        self.epochs.contains_key(&segment)
    }

    /// One of them is in use after all.
    pub(crate) fn remove(&mut self, segment: u32) {
        self.epochs.remove(&segment);
    }

    /// The segments, by their numbers.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.epochs.keys().copied()
    }

    /// Takes the segment that would come last, for what is not part of the log: so the order of the others stays.
    pub(super) fn take_last(&mut self) -> Option<(u32, u64)> {
        let segment = self.in_order().last()?;
        let epoch = self.epochs.remove(&segment)?;
        Some((segment, epoch))
    }

    /// Takes the next segment; gives its number and the epoch to begin it under.
    pub(super) fn take(&mut self) -> Option<(u32, u64)> {
        let segment = self.in_order().next()?;
        let epoch = self.epochs.remove(&segment)?;
        self.last_taken = Some(segment);
        Some((segment, epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_taken_upwards_and_around() {
        let epochs = [0, 1, 3, 5].into_iter().map(|segment| (segment, 1)).collect();
        let mut free = FreeSegments::new(epochs, Some(2));
        let order: Vec<u32> = free.in_order().collect();
        let taken: Vec<u32> = std::iter::from_fn(|| free.take()).map(|(segment, _)| segment).collect();
        assert_eq!(taken, [3, 5, 0, 1]);
        assert_eq!(order, taken);
        assert!(free.is_empty());
    }
}
