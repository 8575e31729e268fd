//! Merging away what deleted snapshots kept, a little at a time, so that nobody who reads or writes waits for it.
//!
//! A step changes no answer to any read ([`crate::map`]), so that it needs no entry: each replica does it for itself, when it
//! has time, and a restart begins it anew.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cairn_api::ids::GroupId;

use crate::group::Group;
use crate::map::LEAF_SLOTS;
use crate::shared::Shared;
use crate::time::Timestamp;

/// Slots that a step looks at: 16 MiB of a volume, at most some 200 microseconds.
const STEP_SLOTS: u64 = 8 * LEAF_SLOTS;
/// From one step to the next: at most a fifth of the thread's time.
const PAUSE: Duration = Duration::from_millis(1);

/// The groups of a disk that have something to merge.
pub(crate) struct Merger {
    groups: BTreeSet<GroupId>,
    /// The group of the last step: they take turns.
    last: GroupId,
    next: Timestamp,
}

impl Merger {
    pub(crate) const fn new(now: Timestamp) -> Self {
        Self {
            groups: BTreeSet::new(),
            last: GroupId(0),
            next: now,
        }
    }

    /// The group has changed.
    pub(crate) fn note(&mut self, number: GroupId, group: &Group) {
        if group.is_merging() {
            self.groups.insert(number);
        }
    }

    /// When the next step is due, if there is one.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        (!self.groups.is_empty()).then_some(self.next)
    }

    /// Takes the step that is due.
    pub(crate) fn step(&mut self, shared: &mut Shared, groups: &mut BTreeMap<GroupId, Group>) {
        let now = shared.now;
        if now < self.next {
            return;
        }
        let behind = self.groups.range(self.last.next()..).next();
        let Some(number) = behind.or_else(|| self.groups.first()).copied() else {
            return;
        };
        self.last = number;
        self.next = now.after(PAUSE);
        let has_more = groups
            .get_mut(&number)
            .is_some_and(|group| group.merge_step(shared, STEP_SLOTS));
        if !has_more {
            self.groups.remove(&number);
        }
    }
}
