//! The read lease of a leader, on its own monotonic clock.
//!
//! The argument. A leader stamps what it sends with its clock. A follower that handles an append or a heartbeat of its
//! leader restarts its election clock, and until `election_ticks` of its own ticks have passed it neither campaigns nor
//! grants a vote (raft-rs's `check_quorum` and `pre_vote`); it answers with the highest stamp it has handled in that
//! term. So once a majority (the leader included) has answered stamps of at least `s`, no other leader can be elected
//! before `s` plus the election time-out, counted by the followers' clocks, because every majority of voters contains
//! one of those that answered. The lease ends earlier than that by two ticks and a tenth (`Timing::lease`).
//!
//! Three things could break the argument, and are shut off:
//! - a follower that restarts forgets that it has heard a leader: it grants no vote and does not campaign for a full
//!   election time-out after it starts (`Group::may_vote`);
//! - a leadership transfer makes its target campaign at once and the others vote for it: from the moment a transfer is
//!   asked for, the lease is void for the rest of the term, even if the transfer is given up, because the message that
//!   starts the campaign may still be under way;
//! - a request that arrived after the clock was read could be checked against a lease that has run out meanwhile: the
//!   driver reads the clock after it has collected its events (`core::time`).

use std::collections::BTreeMap;

use cairn_api::ids::ReplicaId;

use crate::mutation::{Seeded, mutated};
use crate::time::Timestamp;

#[derive(Debug, Default)]
pub(crate) struct Lease {
    term: u64,
    revoked: bool,
    /// The highest stamp each follower has answered in this term.
    answered: BTreeMap<ReplicaId, Timestamp>,
}

impl Lease {
    /// Starts anew for a term that this replica leads.
    pub(crate) fn begin(&mut self, term: u64) {
        *self = Self {
            term,
            ..Self::default()
        };
    }

    /// A follower has answered what was sent at `stamp`.
    pub(crate) fn answered(&mut self, term: u64, from: ReplicaId, stamp: Timestamp) {
        if term == self.term {
            let latest = self.answered.entry(from).or_default();
            *latest = (*latest).max(stamp);
        }
    }

    /// A transfer was asked for: no lease for the rest of the term.
    pub(crate) fn revoke(&mut self, seeded: Seeded) {
        self.revoked = !mutated!(seeded, LeaseKeptOnTransfer);
    }

    /// The highest stamp that a member has answered in this term.
    pub(crate) fn last_answer(&self, term: u64, from: ReplicaId) -> Option<Timestamp> {
        self.answered.get(&from).copied().filter(|_| term == self.term)
    }

    /// Since when a majority of the voters, of whom `others` are all but the leader, is known to follow; `None` while it
    /// is not. A learner's answers do not count: it is in no majority that could elect another leader.
    pub(crate) fn held_since(
        &self,
        term: u64,
        others: impl Iterator<Item = ReplicaId>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        if self.revoked || term != self.term {
            return None;
        }
        let mut stamps: Vec<Option<Timestamp>> = others.map(|other| self.answered.get(&other).copied()).collect();
        let others_needed = stamps.len().div_ceil(2);
        if others_needed == 0 {
            return Some(now);
        }
        stamps.sort_unstable_by(|a, b| b.cmp(a));
        stamps.get(others_needed - 1).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    /// Replica 1 leads `voters` of them.
    fn held(lease: &Lease, term: u64, voters: u64, now: u64) -> Option<Timestamp> {
        lease.held_since(term, (2..=voters).map(ReplicaId), at(now))
    }

    #[test]
    fn a_lease_needs_a_majority_of_answers() {
        let mut lease = Lease::default();
        lease.begin(7);
        assert_eq!(held(&lease, 7, 3, 9), None);
        lease.answered(7, ReplicaId(2), at(5));
        assert_eq!(held(&lease, 7, 3, 9), Some(at(5)));
        assert_eq!(held(&lease, 7, 5, 9), None);
        lease.answered(7, ReplicaId(3), at(3));
        assert_eq!(held(&lease, 7, 5, 9), Some(at(3)));
        assert_eq!(held(&lease, 7, 3, 9), Some(at(5)));
    }

    #[test]
    fn answers_of_another_term_and_older_stamps_do_not_count() {
        let mut lease = Lease::default();
        lease.begin(7);
        lease.answered(6, ReplicaId(2), at(5));
        assert_eq!(held(&lease, 7, 3, 9), None);
        lease.answered(7, ReplicaId(2), at(5));
        lease.answered(7, ReplicaId(2), at(4));
        assert_eq!(held(&lease, 7, 3, 9), Some(at(5)));
        assert_eq!(held(&lease, 8, 3, 9), None);
    }

    #[test]
    fn a_transfer_voids_the_lease_for_the_rest_of_the_term() {
        let mut lease = Lease::default();
        lease.begin(7);
        lease.answered(7, ReplicaId(2), at(5));
        lease.revoke(Seeded::default());
        lease.answered(7, ReplicaId(2), at(8));
        assert_eq!(held(&lease, 7, 3, 9), None);
        lease.begin(8);
        lease.answered(8, ReplicaId(2), at(10));
        assert_eq!(held(&lease, 8, 3, 11), Some(at(10)));
    }

    #[test]
    fn a_single_replica_needs_nobody() {
        let mut lease = Lease::default();
        lease.begin(6);
        assert_eq!(held(&lease, 6, 1, 4), Some(at(4)));
    }

    #[test]
    fn an_even_number_of_voters_needs_more_than_half() {
        let mut lease = Lease::default();
        lease.begin(6);
        lease.answered(6, ReplicaId(2), at(5));
        assert_eq!(held(&lease, 6, 4, 9), None);
        lease.answered(6, ReplicaId(3), at(4));
        assert_eq!(held(&lease, 6, 4, 9), Some(at(4)));
        assert_eq!(held(&lease, 6, 2, 9), Some(at(5)));
    }

    #[test]
    fn a_learner_holds_no_lease() {
        let mut lease = Lease::default();
        lease.begin(6);
        lease.answered(6, ReplicaId(4), at(8));
        assert_eq!(held(&lease, 6, 3, 9), None);
        lease.answered(6, ReplicaId(2), at(5));
        assert_eq!(held(&lease, 6, 3, 9), Some(at(5)));
        assert_eq!(lease.last_answer(6, ReplicaId(4)), Some(at(8)));
        assert_eq!(lease.last_answer(7, ReplicaId(4)), None);
    }
}
