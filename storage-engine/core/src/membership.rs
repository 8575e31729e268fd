//! A group's members at a point of its log, and what a change makes of them.
//!
//! Every replica derives them in the same way from the same log, so what is refused here is refused by all of them.

use cairn_api::ids::{DiskId, LogIndex, ReplicaId};
use cairn_format::member::{MEMBERS_MAX, Member, MemberChange};

use crate::event::GroupSpec;

/// Who votes and who only learns, from one entry of a group's log to the next that changes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    /// The index of the last change; 0 where there was none since the creation.
    pub revision: LogIndex,
    /// Those whose disks and votes count.
    pub voters: Vec<Member>,
    /// Those who receive the log and count for nothing.
    pub learners: Vec<Member>,
    /// The highest number that any replica of the group ever had. A new one's is higher.
    pub replica_last: ReplicaId,
}

/// What a change would be to the members at hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// They would be as they are.
    Nothing,
    /// They would change.
    Changes,
}

impl Membership {
    /// Those that the group was created with.
    pub fn of(spec: &GroupSpec) -> Self {
        Self {
            revision: LogIndex(0),
            voters: spec.members.clone(),
            learners: Vec::new(),
            replica_last: spec.replica_last(),
        }
    }

    /// Voters and learners.
    pub fn all(&self) -> impl Iterator<Item = &Member> {
        self.voters.iter().chain(&self.learners)
    }

    /// The member of this number.
    pub fn member(&self, replica: ReplicaId) -> Option<&Member> {
        self.all().find(|member| member.replica == replica)
    }

    /// The member on this disk.
    pub fn on_disk(&self, disk: DiskId) -> Option<&Member> {
        self.all().find(|member| member.disk == disk)
    }

    /// Whether the replica's disk and vote count.
    pub fn is_voter(&self, replica: ReplicaId) -> bool {
        self.voters.iter().any(|member| member.replica == replica)
    }

    /// Whether the replica was a member and is none any more. Numbers only rise, so that no list is needed for this.
    pub fn was_removed(&self, replica: ReplicaId) -> bool {
        replica <= self.replica_last && self.member(replica).is_none()
    }

    /// What the change would do; an error if it makes no sense.
    pub(crate) fn check(&self, change: &MemberChange) -> Result<Effect, String> {
        match *change {
            MemberChange::AddLearner(member) => self.check_addition(&member),
            MemberChange::Promote(replica) if self.is_voter(replica) => Ok(Effect::Nothing),
            MemberChange::Promote(replica) if self.member(replica).is_some() => Ok(Effect::Changes),
            MemberChange::Promote(replica) if self.was_removed(replica) => Err(format!(
                "replica {replica} was removed and cannot be promoted: add a new one under a number above {}",
                self.replica_last
            )),
            MemberChange::Promote(replica) => Err(self.unknown(replica)),
            MemberChange::Remove(replica) if self.is_voter(replica) && self.voters.len() == 1 => Err(format!(
                "replica {replica} is the last voter of the group: promote another one first"
            )),
            MemberChange::Remove(replica) if self.member(replica).is_some() => Ok(Effect::Changes),
            MemberChange::Remove(replica) if self.was_removed(replica) => Ok(Effect::Nothing),
            MemberChange::Remove(replica) => Err(self.unknown(replica)),
        }
    }

    fn check_addition(&self, new: &Member) -> Result<Effect, String> {
        if let Some(present) = self.member(new.replica) {
            return if present == new {
                Ok(Effect::Nothing)
            } else {
                Err(format!(
                    "replica {} is on disk {}, not {}",
                    new.replica, present.disk, new.disk
                ))
            };
        }
        if new.replica <= self.replica_last {
            return Err(format!(
                "replica number {} was used before and is never used again: choose one above {}",
                new.replica, self.replica_last
            ));
        }
        if let Some(present) = self.on_disk(new.disk) {
            return Err(format!(
                "disk {} holds replica {} of the group already",
                new.disk, present.replica
            ));
        }
        if self.all().count() >= MEMBERS_MAX {
            return Err(format!("the group has {MEMBERS_MAX} members already: remove one first"));
        }
        Ok(Effect::Changes)
    }

    fn unknown(&self, replica: ReplicaId) -> String {
        let known: Vec<String> = self.all().map(|member| member.replica.to_string()).collect();
        format!(
            "replica {replica} is no member of the group; members are {}",
            known.join(", ")
        )
    }

    /// Makes the change that stands at `index`; false if it makes no sense or changes nothing, on every replica alike.
    pub(crate) fn apply(&mut self, index: LogIndex, change: &MemberChange) -> bool {
        if self.check(change) != Ok(Effect::Changes) {
            return false;
        }
        match *change {
            MemberChange::AddLearner(member) => {
                self.learners.push(member);
                self.replica_last = member.replica;
            }
            MemberChange::Promote(replica) => {
                if let Some(place) = self.learners.iter().position(|member| member.replica == replica) {
                    let member = self.learners.remove(place);
                    self.voters.push(member);
                }
            }
            MemberChange::Remove(replica) => {
                self.voters.retain(|member| member.replica != replica);
                self.learners.retain(|member| member.replica != replica);
            }
        }
        self.revision = index;
        true
    }
}

#[cfg(test)]
mod tests {
    use cairn_api::ids::{GroupId, NodeId};

    use super::*;

    fn member(number: u8) -> Member {
        Member {
            replica: ReplicaId(u64::from(number)),
            node: NodeId::from_bytes([number; 16]),
            disk: DiskId::from_bytes([number; 16]),
        }
    }

    fn of(numbers: &[u8]) -> Membership {
        Membership::of(&GroupSpec {
            base: None,
            group: GroupId(2),
            size_blocks: 8,
            members: numbers.iter().copied().map(member).collect(),
        })
    }

    fn voters(members: &Membership) -> Vec<u64> {
        members.voters.iter().map(|member| member.replica.get()).collect()
    }

    #[test]
    fn a_member_is_replaced_in_three_steps() {
        let mut members = of(&[1, 2, 3]);
        assert!(members.apply(LogIndex(9), &MemberChange::AddLearner(member(4))));
        assert_eq!(voters(&members), [1, 2, 3], "a learner does not count");
        assert!(members.apply(LogIndex(11), &MemberChange::Remove(ReplicaId(2))));
        assert!(members.apply(LogIndex(12), &MemberChange::Promote(ReplicaId(4))));
        assert_eq!((voters(&members), members.revision), (vec![1, 3, 4], LogIndex(12)));
        assert!(members.was_removed(ReplicaId(2)) && !members.was_removed(ReplicaId(5)));
    }

    #[test]
    fn a_change_that_was_made_changes_nothing() {
        let mut members = of(&[1, 2, 3]);
        for change in [
            MemberChange::AddLearner(member(4)),
            MemberChange::Promote(ReplicaId(4)),
            MemberChange::Remove(ReplicaId(2)),
        ] {
            assert!(members.apply(LogIndex(9), &change));
            let before = members.clone();
            assert_eq!(members.check(&change), Ok(Effect::Nothing));
            assert!(!members.apply(LogIndex(10), &change));
            assert_eq!(members, before);
        }
    }

    #[test]
    fn a_number_is_never_used_again() {
        let mut members = of(&[1, 2, 3]);
        assert!(members.apply(LogIndex(9), &MemberChange::Remove(ReplicaId(3))));
        let again = MemberChange::AddLearner(Member {
            disk: DiskId::from_bytes([9; 16]),
            ..member(3)
        });
        assert!(members.check(&again).is_err_and(|why| why.contains("above 3")));
        assert!(members.check(&MemberChange::Promote(ReplicaId(3))).is_err());
    }

    #[test]
    fn strangers_doubles_and_the_last_voter_are_refused() {
        let members = of(&[1]);
        assert!(
            members
                .check(&MemberChange::Remove(ReplicaId(1)))
                .is_err_and(|why| why.contains("last voter"))
        );
        assert!(
            members
                .check(&MemberChange::Remove(ReplicaId(7)))
                .is_err_and(|why| why.contains("members are 1"))
        );
        assert!(members.check(&MemberChange::Promote(ReplicaId(7))).is_err());
        let same_disk = MemberChange::AddLearner(Member {
            disk: member(1).disk,
            ..member(7)
        });
        assert!(
            members
                .check(&same_disk)
                .is_err_and(|why| why.contains("holds replica 1"))
        );
    }
}
