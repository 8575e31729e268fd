//! Which clone of a disk is filled next, and when: they take turns, and read so many bytes a second together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cairn_api::ids::GroupId;

use crate::group::Group;
use crate::shared::Shared;
use crate::time::Timestamp;

/// The clones of a disk that are led here and not whole yet.
pub(crate) struct Flattener {
    due: BTreeSet<GroupId>,
    /// The clone of the last turn.
    last: GroupId,
    next: Timestamp,
}

impl Flattener {
    pub(crate) const fn new(now: Timestamp) -> Self {
        Self {
            due: BTreeSet::new(),
            last: GroupId(0),
            next: now,
        }
    }

    /// The group has changed.
    pub(crate) fn note(&mut self, shared: &Shared, number: GroupId, group: &Group) {
        if group.is_to_fill(shared) {
            self.due.insert(number);
        }
    }

    /// When the next turn is.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        (!self.due.is_empty()).then_some(self.next)
    }

    /// Takes the turns that are due; gives the groups that have something new to do.
    pub(crate) fn step(&mut self, shared: &mut Shared, groups: &mut BTreeMap<GroupId, Group>) -> BTreeSet<GroupId> {
        let mut begun = BTreeSet::new();
        while shared.now >= self.next {
            let behind = self.due.range(self.last.next()..).next();
            let Some(number) = behind.or_else(|| self.due.first()).copied() else {
                break;
            };
            self.due.remove(&number);
            self.last = number;
            let Some(group) = groups.get(&number).filter(|group| group.is_to_fill(shared)) else {
                continue;
            };
            let plan = group.plan_fill(groups);
            let bytes = plan.as_ref().map_or(0, |plan| plan.bytes());
            if let Some(group) = groups.get_mut(&number) {
                group.begin_fill(shared, plan);
                begun.insert(number);
            }
            let rate = shared.config.limits.flatten_rate;
            if let Some(nanos) = bytes.saturating_mul(1_000_000_000).checked_div(rate) {
                self.next = self.next.max(shared.now).after(Duration::from_nanos(nanos));
            }
        }
        begun
    }
}
