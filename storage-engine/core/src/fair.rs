//! Groups that wait for one disk take turns, by the bytes that they want to move.
//!
//! # Why
//! Everything that a disk's groups write goes through one queue. In the order in which it came, a volume with a hundred
//! writes of 1 MiB under way puts a hundred mebibytes in front of its neighbour's single block, again and again: the
//! neighbour's latency is the depth of somebody else's queue.
//!
//! # How
//! Each group has a lane of its own, and lanes are served by deficit round robin (Shreedhar and Varghese, 1995): a lane whose
//! turn it is gets [`QUANTUM_BYTES`] more to spend and goes on while its next item costs no more than it has; then it is the
//! next one's turn, and what is left is kept for later. A lane that is empty keeps nothing. So while two lanes are never
//! empty, what they have moved differs by at most a quantum and the longest item, whatever the sizes of their items; and an
//! item that comes to an empty lane waits for at most a quantum, and what was saved up for one item, of each other lane,
//! however much those hold.
//! - **Order.** A lane is first in, first out. Nothing in the log depends on the order of two groups' records: recovery keeps
//!   a replay for each group, and durability is told for each group.
//! - **Items without payload** (hard states, no-ops, attachments) wait for nothing but what is in front of them in their own
//!   lane: a lane whose next item has none, and whose turn it is not, goes ahead of all turns, without paying. They are a
//!   few dozen bytes in the header of a frame, and a vote must not wait for anybody's payload. What is in front of them in
//!   their own lane are their own entries, which they may not overtake.
//! - **Cost.** A turn is found in as many steps as quanta were granted: one for each 32 KiB that are moved, and one for each
//!   lane that has nothing it can pay for yet.

use std::collections::{BTreeMap, VecDeque};

use cairn_api::ids::GroupId;

/// What a lane may spend more in each of its turns. A few blocks' worth: small against the longest item of 1 MiB, so that a
/// group with short items gets ahead while one with long items saves up.
const QUANTUM_BYTES: u64 = 32 << 10;

struct Item<T> {
    item: T,
    bytes: u64,
    has_payload: bool,
}

struct Lane<T> {
    items: VecDeque<Item<T>>,
    bytes: u64,
    /// What it may spend.
    deficit: u64,
}

impl<T> Lane<T> {
    const fn new() -> Self {
        Self {
            items: VecDeque::new(),
            bytes: 0,
            deficit: 0,
        }
    }
}

/// Whose next item goes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The first of those that go ahead.
    Ahead(GroupId),
    /// The one whose turn it is.
    Turn(GroupId),
}

/// See the module.
pub(crate) struct FairQueue<T> {
    lanes: BTreeMap<GroupId, Lane<T>>,
    /// Lanes whose next item has payload, and the one whose turn it is, which is the first.
    turns: VecDeque<GroupId>,
    /// Lanes whose next item has none.
    ahead: VecDeque<GroupId>,
    /// The first of `turns` has got its quantum.
    is_granted: bool,
    length: usize,
    /// All groups share one lane: for measuring what the lanes are good for.
    is_single: bool,
}

impl<T> FairQueue<T> {
    /// What waits, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.lanes
            .values()
            .flat_map(|lane| lane.items.iter().map(|item| &item.item))
    }

    pub(crate) const fn new(is_single: bool) -> Self {
        Self {
            lanes: BTreeMap::new(),
            turns: VecDeque::new(),
            ahead: VecDeque::new(),
            is_granted: false,
            length: 0,
            is_single,
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Items that wait.
    pub(crate) const fn len(&self) -> usize {
        self.length
    }

    /// Drops those items of a group that `is_void` names.
    pub(crate) fn forget(&mut self, group: GroupId, mut is_void: impl FnMut(&T) -> bool) {
        let number = self.lane_of(group);
        let Some(lane) = self.lanes.get_mut(&number) else {
            return;
        };
        let before = lane.items.len();
        lane.items.retain(|item| !is_void(&item.item));
        lane.bytes = lane.items.iter().map(|item| item.bytes).sum();
        self.length -= before - lane.items.len();
        if lane.items.is_empty() {
            self.lanes.remove(&number);
            self.is_granted &= self.turns.front() != Some(&number);
            self.turns.retain(|other| *other != number);
            self.ahead.retain(|other| *other != number);
        }
    }

    /// Bytes that a group has waiting.
    pub(crate) fn bytes_of(&self, group: GroupId) -> u64 {
        self.lanes.get(&self.lane_of(group)).map_or(0, |lane| lane.bytes)
    }

    const fn lane_of(&self, group: GroupId) -> GroupId {
        if self.is_single { GroupId(0) } else { group }
    }

    /// Queues an item of `bytes`, which all count.
    pub(crate) fn push(&mut self, group: GroupId, item: T, bytes: u64, has_payload: bool) {
        let group = self.lane_of(group);
        let has_payload = has_payload || self.is_single;
        let lane = self.lanes.entry(group).or_insert_with(Lane::new);
        if lane.items.is_empty() {
            let waiting = if has_payload { &mut self.turns } else { &mut self.ahead };
            waiting.push_back(group);
        }
        lane.items.push_back(Item {
            item,
            bytes,
            has_payload,
        });
        lane.bytes += bytes;
        self.length += 1;
    }

    /// The item that goes next. It is the same one until it is taken, unless something is pushed.
    pub(crate) fn peek(&mut self) -> Option<&T> {
        let (Next::Ahead(group) | Next::Turn(group)) = self.next()?;
        let lane = self.lanes.get(&group)?;
        lane.items.front().map(|next| &next.item)
    }

    /// Takes the item that [`Self::peek`] shows.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let next = self.next()?;
        let (Next::Ahead(group) | Next::Turn(group)) = next;
        let lane = self.lanes.get_mut(&group)?;
        let taken = lane.items.pop_front()?;
        lane.bytes -= taken.bytes;
        self.length -= 1;
        let has_payload_next = lane.items.front().map(|next| next.has_payload);
        match next {
            Next::Turn(_) => {
                lane.deficit -= taken.bytes;
                if has_payload_next.is_none() {
                    self.turns.pop_front();
                    self.is_granted = false;
                }
            }
            Next::Ahead(_) if has_payload_next != Some(false) => {
                self.ahead.pop_front();
                if has_payload_next.is_some() {
                    self.turns.push_back(group);
                }
            }
            Next::Ahead(_) => {}
        }
        if has_payload_next.is_none() {
            self.lanes.remove(&group);
        }
        Some(taken.item)
    }

    /// Passes the turn on until somebody can pay.
    fn next(&mut self) -> Option<Next> {
        if let Some(group) = self.ahead.front() {
            return Some(Next::Ahead(*group));
        }
        loop {
            let group = *self.turns.front()?;
            let lane = self.lanes.get_mut(&group)?;
            if !self.is_granted {
                lane.deficit += QUANTUM_BYTES;
                self.is_granted = true;
            }
            let next = lane.items.front()?;
            if next.bytes <= lane.deficit {
                return Some(Next::Turn(group));
            }
            self.turns.pop_front();
            self.is_granted = false;
            if next.has_payload {
                self.turns.push_back(group);
            } else {
                self.ahead.push_back(group);
                return Some(Next::Ahead(group));
            }
        }
    }
}

impl<T> std::fmt::Debug for FairQueue<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("FairQueue")
            .field("lanes", &self.lanes.len())
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn pushed(items: &[(u64, u64, bool)]) -> FairQueue<usize> {
        let mut queue = FairQueue::new(false);
        for (number, (group, bytes, has_payload)) in items.iter().enumerate() {
            queue.push(GroupId(*group), number, *bytes, *has_payload);
        }
        queue
    }

    fn drained(queue: &mut FairQueue<usize>) -> Vec<usize> {
        std::iter::from_fn(|| {
            let next = queue.peek().copied();
            let taken = queue.pop();
            assert_eq!(next, taken, "what is shown is what is taken");
            taken
        })
        .collect()
    }

    #[test]
    fn one_block_waits_for_a_turn_and_not_for_a_queue() {
        let mut items = vec![(2, MIB, true); 100];
        items.push((3, 4096, true));
        let order = drained(&mut pushed(&items));
        let place = order.iter().position(|number| *number == 100).unwrap();
        assert!(place <= 1, "{place} of 100 long writes went first");
        let mut single = FairQueue::new(true);
        for (number, (group, bytes, has_payload)) in items.iter().enumerate() {
            single.push(GroupId(*group), number, *bytes, *has_payload);
        }
        assert_eq!(
            drained(&mut single),
            (0..=100).collect::<Vec<_>>(),
            "without lanes all of them"
        );
    }

    #[test]
    fn what_has_no_payload_waits_for_its_own_group_only() {
        let mut items = vec![(2, MIB, true); 5];
        items.extend([(3, MIB, true), (3, 60, false), (4, 60, false), (4, 4096, true)]);
        let order = drained(&mut pushed(&items));
        assert_eq!(order[0], 7, "another group's hard state");
        let place = |number| order.iter().position(|other| *other == number).unwrap();
        assert_eq!(place(6), place(5) + 1, "its own entry, then it");
    }

    #[test]
    fn an_empty_lane_saves_nothing_up() {
        let mut queue = pushed(&[(2, 10, true)]);
        assert_eq!(queue.pop(), Some(0));
        assert!(queue.is_empty() && queue.lanes.is_empty() && queue.turns.is_empty());
        assert_eq!(queue.bytes_of(GroupId(2)), 0);
    }

    #[test]
    fn who_is_forgotten_has_no_turn() {
        let mut queue = pushed(&[(2, MIB, true), (3, MIB, true), (2, 10, true), (4, 60, false)]);
        assert_eq!(queue.pop(), Some(3));
        queue.forget(GroupId(2), |_| true);
        assert_eq!((queue.len(), queue.bytes_of(GroupId(2))), (1, 0));
        assert_eq!(drained(&mut queue), [1]);
    }

    proptest! {
        #[test]
        fn every_lane_keeps_its_order_and_nobody_gets_ahead_of_his_share(
            items in prop::collection::vec((2_u64..6, 1_u64..1 << 20, any::<bool>()), 1..200)
        ) {
            let items: Vec<_> = items.into_iter()
                .map(|(group, bytes, has_payload)| (group, if has_payload { bytes } else { 60 }, has_payload))
                .collect();
            let mut queue = pushed(&items);
            let mut order = Vec::new();
            // Of each group that still waits, what it has moved.
            let mut moved: BTreeMap<u64, u64> = BTreeMap::new();
            while let Some(number) = queue.pop() {
                let (group, bytes, has_payload) = items[number];
                *moved.entry(group).or_default() += if has_payload { bytes } else { 0 };
                order.push(number);
                let waiting = |group: &u64| queue.lanes.contains_key(&GroupId(*group));
                let all: Vec<u64> = (2..6).filter(waiting).map(|group| moved.get(&group).copied().unwrap_or(0)).collect();
                let spread = all.iter().max().unwrap_or(&0) - all.iter().min().unwrap_or(&0);
                prop_assert!(spread <= 2 * (MIB + QUANTUM_BYTES), "{all:?}");
            }
            prop_assert_eq!(order.len(), items.len());
            for group in 2..6 {
                let of_group: Vec<usize> = order.iter().copied().filter(|number| items[*number].0 == group).collect();
                prop_assert!(of_group.is_sorted());
            }
        }
    }
}
