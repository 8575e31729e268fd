//! Which blocks differ between two times, exactly and by the map alone.
//!
//! A block has changed from one snapshot to a later one if the slot visible at its address is another one: if it was written,
//! zeroed or trimmed in between and something of that is left to see. Slots of one address differ in their birth, so that two
//! births, or one and none, are compared. A block that was written and trimmed again between the two has not changed. That is
//! the same on every replica, however far deleted snapshots are merged away there.
//!
//! In a clone what shows the base at both times has not changed, whether it was filled in between or not: what is filled is filled
//! for all times at once that show the base ([`super::fill`]), so that both have nothing, or both the same slot.

use cairn_api::units::Lba;

use super::chain::NOW;
use super::leaf::{Content, LEAF_SLOTS, Piece, SLOTS};
use super::view::View;
use super::volume::{check, leaves_of, slots_of};

/// What a changed block is at the later time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeKind {
    /// Data, to be read.
    Data,
    /// Zeros, allocated or not.
    Zero,
}

/// Blocks in a row that have changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// First block.
    pub lba: Lba,
    /// Blocks.
    pub blocks: u64,
    /// What they are now.
    pub kind: ChangeKind,
}

/// Birth and kind of a visible slot; no birth for none. One that was filled from a base has birth 0.
type Seen = (Option<u64>, ChangeKind);

impl<'a> View<'a> {
    /// The blocks in a range that changed from `from` (an earlier time of the same map; `None`: an empty volume) to this time,
    /// in order, as long rows as there are.
    ///
    /// # Panics
    /// If the range leaves the volume.
    pub fn changed_since(self, from: Option<View<'a>>, lba: Lba, blocks: u64) -> impl Iterator<Item = Change> + 'a {
        check(lba, blocks.max(1), self.size_blocks());
        let range = lba.0..lba.0 + blocks;
        let earliest = from.map_or(self.at, |from| from.at);
        let numbers = self.map().leaf_numbers(earliest, leaves_of(&range));
        let mut changes = numbers.flat_map(move |number| {
            let slots = slots_of(number, &range);
            let map = self.map();
            let now = seen(&map.resolve(self.at, number, slots.clone()));
            let before = match from {
                Some(from) => seen(&map.resolve(from.at, number, slots.clone())),
                None => [(None, ChangeKind::Zero); SLOTS],
            };
            let changed = slots.filter(|slot| before[*slot].0 != now[*slot].0);
            let single: Vec<Change> = changed
                .map(|slot| Change {
                    lba: Lba(number * LEAF_SLOTS + slot as u64),
                    blocks: 1,
                    kind: now[slot].1,
                })
                .collect();
            single
        });
        let mut pending = None;
        std::iter::from_fn(move || {
            let mut row: Change = pending.take().or_else(|| changes.next())?;
            for next in changes.by_ref() {
                if next.lba.0 == row.lba.0 + row.blocks && next.kind == row.kind {
                    row.blocks += next.blocks;
                } else {
                    pending = Some(next);
                    break;
                }
            }
            Some(row)
        })
    }

    /// As [`Self::changed_since`] from `lba` to the end of the volume, but no more than so many leaves are looked at and rows
    /// given; then where to go on, if there is more. Parts may cut a row.
    ///
    /// # Panics
    /// If `lba` is beyond the volume, or nothing may be looked at.
    pub fn changes_from(
        self,
        from: Option<View<'a>>,
        lba: Lba,
        leaves_max: usize,
        rows_max: usize,
    ) -> (Vec<Change>, Option<Lba>) {
        assert!(leaves_max > 0 && rows_max > 0, "a look at nothing would not get on");
        let size = self.size_blocks();
        assert!(lba.0 <= size, "{lba} is beyond a volume of {size} blocks");
        let earliest = from.map_or(self.at, |from| from.at);
        let mut leaves = self.map().leaf_numbers(earliest, leaves_of(&(lba.0..size)));
        let end = leaves.nth(leaves_max).map_or(size, |number| number * LEAF_SLOTS);
        let mut rows = Vec::new();
        if lba.0 == size {
            return (rows, None);
        }
        for row in self.changed_since(from, lba, end - lba.0) {
            if rows.len() == rows_max {
                return (rows, Some(row.lba));
            }
            rows.push(row);
        }
        (rows, (end < size).then_some(Lba(end)))
    }

    /// Whether this is an earlier time of the same map than `other`, or the same one.
    pub const fn is_by(&self, other: &Self) -> bool {
        self.at <= other.at
    }
}

/// The slots of a leaf by their places.
fn seen(pieces: &[Piece<'_>]) -> [Seen; SLOTS] {
    let mut slots = [(None, ChangeKind::Zero); SLOTS];
    for piece in pieces {
        let kind = match piece.content {
            Content::Data { .. } => ChangeKind::Data,
            Content::Zero | Content::Trimmed | Content::Hole => ChangeKind::Zero,
        };
        assert!(piece.birth < NOW, "a slot has a birth");
        slots[piece.range()].fill((Some(piece.birth), kind));
    }
    slots
}
