//! How fast the replicas of a disk may receive states: so many bytes a second for all of them together.

use std::collections::BTreeSet;
use std::time::Duration;

use cairn_api::ids::GroupId;

use crate::time::Timestamp;

/// When the next portion may be asked for, and who waits for it.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    ready: Timestamp,
    waiting: BTreeSet<GroupId>,
}

impl Pace {
    /// Whether more may be asked for now.
    pub(crate) fn may_go_on(&self, now: Timestamp) -> bool {
        now >= self.ready
    }

    /// The group wants to ask when more may be asked for.
    pub(crate) fn wait(&mut self, group: GroupId) {
        self.waiting.insert(group);
    }

    /// So many bytes came; `rate` bytes a second may, or as many as will if it is 0.
    pub(crate) fn came(&mut self, now: Timestamp, bytes: u64, rate: u64) {
        if let Some(nanos) = bytes.saturating_mul(1_000_000_000).checked_div(rate) {
            self.ready = self.ready.max(now).after(Duration::from_nanos(nanos));
        }
    }

    /// Who waits no longer.
    pub(crate) fn take_due(&mut self, now: Timestamp) -> BTreeSet<GroupId> {
        if self.may_go_on(now) {
            std::mem::take(&mut self.waiting)
        } else {
            BTreeSet::new()
        }
    }

    /// When somebody waits no longer.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        (!self.waiting.is_empty()).then_some(self.ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn what_comes_is_paid_for_with_time() {
        let mut pace = Pace::default();
        pace.came(at(1000), 1 << 20, 1 << 20);
        assert!(!pace.may_go_on(at(1999)) && pace.may_go_on(at(2000)));
        pace.came(at(1500), 1 << 20, 1 << 20);
        assert!(!pace.may_go_on(at(2999)) && pace.may_go_on(at(3000)));
    }

    #[test]
    fn without_a_rate_nobody_waits() {
        let mut pace = Pace::default();
        pace.came(at(1000), 1 << 30, 0);
        assert!(pace.may_go_on(at(1000)));
    }

    #[test]
    fn who_waits_is_named_once_when_it_is_time() {
        let mut pace = Pace::default();
        assert_eq!(pace.next_deadline(), None);
        pace.came(at(1000), 1 << 20, 1 << 20);
        pace.wait(GroupId(7));
        assert_eq!(pace.next_deadline(), Some(at(2000)));
        assert!(pace.take_due(at(1999)).is_empty());
        assert_eq!(pace.take_due(at(2000)), BTreeSet::from([GroupId(7)]));
        assert!(pace.take_due(at(2000)).is_empty());
    }
}
