//! Changing a group's members, one step at a time, through the group's own log.
//!
//! A replica that lost what it had acknowledged can never be trusted again under its number: it may have voted, and it
//! may have been part of the majority that some write stands on. So it is not mended but replaced: a replica under a
//! number that was never used joins as a *learner*, receives the log from its first entry (or the state, if the log begins later), and is promoted to voter once
//! it keeps up; the old number is removed. What follows says why no step of this loses a write or makes two leaders.
//!
//! # The steps
//! - A change adds a learner, promotes a learner, or removes a member. It is an entry ([`EntryHeader::Members`]) and takes
//!   effect, on every replica, when that entry is applied (`Membership::apply`), at the same place in the log.
//! - Two sets of voters that follow each other differ by one voter, so that every majority of one and every majority of
//!   the other have a voter in common. That is all that Raft's arguments need, as long as no two replicas that could be
//!   elected or could count a majority are more than one change apart.
//! - They are not. A leader proposes a change only when it has applied the one before (raft-rs's `pending_conf_index`)
//!   *and* an entry of its own term (`leads_with_all_applied`; without that, two leaders could each build on a change that
//!   the other does not know: Ongaro, raft-dev, 2015). What it proposes travels with its commit index, so that whoever
//!   holds the entry of a change knows that the change before is committed; and nobody campaigns while it knows of a
//!   committed change that it has not applied (raft-rs's `hup`). raft-rs keeps these rules for entries of the type
//!   `EntryConfChangeV2`, which is why a change must reach it as one.
//! - A restart must not undo that knowledge: commit indices are not always durable. Recovery therefore takes a change in
//!   the log as the proof that the one before it is committed (`recover`).
//!
//! # What counts
//! Majorities are counted over the voters of the applied configuration only: commits and ReadIndex by raft-rs; leases,
//! room on disks and measurements here. A learner's answers never count. When it is promoted its earlier answers do: it
//! has kept to the rules of a follower, what it acknowledged is durable on its disk, and after a restart it waits before
//! it votes like everyone (`Group::may_vote`). A lease that was won under one configuration holds under the next: the
//! first rival leader would have to be elected by a majority of a configuration at most one step away, and that majority
//! shares a voter with the one that answered.
//!
//! # A new replica
//! It starts from the configuration of the log's beginning, in which it is no member, and lives through all changes as it
//! applies the log: raft-rs does not let it campaign until it is a voter. It may be asked for its vote before it knows that
//! it was promoted, and gives it, as Raft demands (thesis, section 4.1); its vote is durable like anybody's. The numbers
//! of replicas that it has not heard of yet are higher than any it knows: it takes their messages, and answers to the disk
//! that they came from.
//!
//! # A removed replica
//! Its number is not above the highest known and it is no member: whoever has applied its removal drops all it sends, so
//! that it can neither win nor disturb an election, and pre-vote keeps its term from rising meanwhile. It goes on answering
//! those who have *not* applied its removal: with an even number of voters its vote, or the commit index in its refusal, may
//! be what lets the others get to know of the removal at all. So it is dropped (`DropGroup`) only when a majority of the
//! remaining voters has *settled* the removal: knows it to be committed by what is durable on its own disk. Having applied
//! it is not enough. The commit index in memory is lost in a restart, and a replica that holds the removal in its log
//! without knowing it to be committed needs a majority of the voters before it to find out: of two, one of whom is gone.
//! Therefore a hard state is written whenever a change has been applied. A leader that applies its own removal (proposed by its predecessor; it would
//! not propose it itself) steps down at once.
//!
//! # What travels
//! Only our own header, on the wire and on disk. raft-rs wants to parse a protobuf when a leader proposes, and only then:
//! the leader makes one in memory (`Entry.data`) and gives the header along as `Entry.context`; [`header_of`] finds the
//! header in either form, and [`raft_entry`] makes the type anew from a header that came from a peer or the disk.

use bytes::Bytes;
use cairn_api::ids::{DiskId, LogIndex, ReplicaId};
use cairn_format::entry::EntryHeader;
use cairn_format::member::{Member, MemberChange};
use raft::INVALID_ID;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, Entry, EntryType};

use super::apply::Verdict;
use super::{Group, MESSAGES_IN_FLIGHT_MAX};
use crate::event::{CommandError, CommandId, CommandReply};
use crate::log::Ticket;
use crate::membership::{Effect, Membership};
use crate::shared::{Origin, Shared};

/// Replicas that are not known as members yet and whose addresses are kept.
const STRANGERS_MAX: usize = cairn_format::member::MEMBERS_MAX;

/// An entry in raft-rs's form, from its header.
pub(super) fn raft_entry(index: u64, term: u64, header: &Bytes) -> Entry {
    let mut entry = Entry::default();
    entry.set_entry_type(if EntryHeader::is_members(header) {
        EntryType::EntryConfChangeV2
    } else {
        EntryType::EntryNormal
    });
    entry.set_index(index);
    entry.set_term(term);
    entry.data = header.clone();
    entry
}

/// The header of an entry that raft-rs holds: beside the data if this replica has just proposed a change.
pub(super) fn header_of(entry: &Entry) -> &Bytes {
    let is_proposed_change = entry.get_entry_type() == EntryType::EntryConfChangeV2 && !entry.context.is_empty();
    if is_proposed_change {
        &entry.context
    } else {
        &entry.data
    }
}

fn conf_change(change: &MemberChange) -> ConfChangeV2 {
    let mut single = ConfChangeSingle::default();
    single.set_change_type(match change {
        MemberChange::AddLearner(_) => ConfChangeType::AddLearnerNode,
        MemberChange::Promote(_) => ConfChangeType::AddNode,
        MemberChange::Remove(_) => ConfChangeType::RemoveNode,
    });
    single.node_id = change.replica().get();
    let mut conf_change = ConfChangeV2::default();
    conf_change.set_changes(vec![single].into());
    conf_change
}

impl Group {
    pub(crate) fn membership(&self) -> &Membership {
        &self.membership
    }

    pub(super) fn member(&self, replica: ReplicaId) -> Option<&Member> {
        self.membership.member(replica)
    }

    /// Where messages to a replica go.
    pub(super) fn address(&self, replica: ReplicaId) -> Option<DiskId> {
        self.member(replica)
            .map(|member| member.disk)
            .or_else(|| self.strangers.get(&replica).copied())
    }

    /// The replica of this group on a disk, if one is known.
    pub(crate) fn replica_on(&self, disk: DiskId) -> Option<ReplicaId> {
        self.membership.on_disk(disk).map(|member| member.replica).or_else(|| {
            let stranger = self.strangers.iter().find(|(_, address)| **address == disk);
            stranger.map(|(replica, _)| *replica)
        })
    }

    /// Whether a message of `replica`, from `disk`, is to be taken: a member's from its own disk, or one of a replica
    /// that became a member in a part of the log that is not applied here.
    pub(super) fn hears(&mut self, replica: ReplicaId, disk: DiskId) -> bool {
        if let Some(member) = self.member(replica) {
            return member.disk == disk;
        }
        if replica <= self.membership.replica_last {
            return false;
        }
        if self.strangers.len() >= STRANGERS_MAX && !self.strangers.contains_key(&replica) {
            self.strangers.pop_first();
        }
        self.strangers.insert(replica, disk);
        true
    }

    /// Makes what was just applied of changes known to the next restart.
    pub(super) fn settle_members(&mut self, shared: &mut Shared) {
        let revision = self.membership.revision;
        let (settled, under_way) = (self.settled, self.settling.map(|(_, revision)| revision));
        if revision > settled && under_way.is_none_or(|under_way| revision > under_way) {
            let ticket = self.push_hard_state(shared);
            self.settling = Some((ticket, revision));
        }
    }

    /// Records up to `durable` are on the disk.
    pub(super) fn members_settled(&mut self, durable: Ticket) {
        if let Some((_, revision)) = self.settling.take_if(|(ticket, _)| *ticket <= durable) {
            self.settled = revision;
        }
    }

    /// The other voters.
    pub(super) fn other_voters(&self) -> impl Iterator<Item = ReplicaId> {
        let own = self.replica;
        let voters = self.membership.voters.iter().map(|member| member.replica);
        voters.filter(move |replica| *replica != own)
    }

    /// Whether members have changed since this was last asked.
    pub(crate) fn take_members_changed(&mut self) -> bool {
        std::mem::take(&mut self.members_changed)
    }

    /// Makes a change of the members, if this leader may.
    pub(crate) fn change_members(&mut self, shared: &mut Shared, id: CommandId, change: &MemberChange) {
        let origin = Origin::Command(id);
        if !self.may_propose(shared, origin) {
            return;
        }
        let refused = |reason| Err(CommandError::Refused(reason));
        if !self.leads_with_all_applied() {
            let reason = "the leader is new and has not committed an entry of its own yet: ask again".to_owned();
            return shared.end_command(id, refused(reason));
        }
        if self.node.raft.has_pending_conf() {
            let reason = "another change of the members is under way: ask again".to_owned();
            return shared.end_command(id, refused(reason));
        }
        match self.membership.check(change) {
            Ok(Effect::Nothing) => return shared.end_command(id, Ok(CommandReply::Done)),
            Ok(Effect::Changes) => {}
            Err(reason) => return shared.end_command(id, refused(reason)),
        }
        if let Err(reason) = self.check_live(shared, change) {
            return shared.end_command(id, refused(reason));
        }
        let header = EntryHeader::Members { change: *change }.encode().to_vec();
        if let Err(error) = self.node.propose_conf_change(header, conf_change(change)) {
            tracing::debug!(group = %self.spec.group, %error, "change of members dropped");
            return shared.end_command(id, refused("the leader is busy: ask again".to_owned()));
        }
        self.note_proposal(shared, origin, 0);
    }

    /// Whether the group would still be able to commit with those of its members who answer now.
    fn check_live(&mut self, shared: &mut Shared, change: &MemberChange) -> Result<(), String> {
        match *change {
            MemberChange::AddLearner(_) => Ok(()),
            MemberChange::Promote(replica) => self.check_caught_up(shared, replica),
            MemberChange::Remove(replica) if replica == self.replica => Err(self.hand_over(shared)),
            MemberChange::Remove(replica) => {
                let left = self.membership.voters.iter().map(|member| member.replica);
                let left: Vec<ReplicaId> = left.filter(|voter| *voter != replica).collect();
                let silent = left.iter().filter(|voter| !self.is_live(shared, **voter));
                let silent: Vec<String> = silent.map(ToString::to_string).collect();
                let live = left.len() - silent.len();
                if live > left.len() / 2 {
                    return Ok(());
                }
                Err(format!(
                    "without replica {replica} only {live} of {} voters would answer (silent: {}): bring those back first",
                    left.len(),
                    silent.join(", ")
                ))
            }
        }
    }

    fn check_caught_up(&self, shared: &Shared, replica: ReplicaId) -> Result<(), String> {
        if !self.is_live(shared, replica) {
            return Err(format!("replica {replica} does not answer: it cannot be promoted"));
        }
        let matched = self.matched(replica);
        let last = self.node.raft.raft_log.last_index();
        if matched + (MESSAGES_IN_FLIGHT_MAX as u64) < last {
            return Err(format!(
                "replica {replica} has not caught up: it holds entries up to {matched} of {last}; ask again"
            ));
        }
        Ok(())
    }

    pub(super) fn matched(&self, replica: ReplicaId) -> u64 {
        let progress = self.node.raft.prs().get(replica.get());
        progress.map_or(0, |progress| progress.matched)
    }

    /// Whether a member has answered within an election time-out.
    fn is_live(&self, shared: &Shared, replica: ReplicaId) -> bool {
        let timeout = shared.config.timing.election_timeout();
        replica == self.replica
            || self
                .lease
                .last_answer(self.term(), replica)
                .is_some_and(|stamp| shared.now.since(stamp) < timeout)
    }

    /// A leader does not remove itself: its followers could not tell that from its death, and would wait for as long.
    fn hand_over(&mut self, shared: &mut Shared) -> String {
        let own = self.replica;
        match self.successor(shared) {
            Some(successor) if self.transfer(shared, successor) => {
                format!("replica {own} leads the group: it hands leadership to replica {successor} now; ask again")
            }
            _ => format!("replica {own} leads the group and no other voter can take over now: ask again"),
        }
    }

    /// Applies a change, here and in raft-rs.
    pub(super) fn apply_members(&mut self, index: u64, change: &MemberChange) -> Verdict {
        if !self.membership.apply(LogIndex(index), change) {
            tracing::warn!(group = %self.spec.group, index, ?change, "a change of members has no effect");
            return Verdict::Void;
        }
        let counted = self.node.apply_conf_change(&conf_change(change));
        let mut counted = counted.map_or_else(|_| Vec::new(), |conf_state| conf_state.voters);
        let mut voters: Vec<u64> = self
            .membership
            .voters
            .iter()
            .map(|member| member.replica.get())
            .collect();
        counted.sort_unstable();
        voters.sort_unstable();
        assert_eq!(counted, voters, "raft-rs counts the voters that the log names");
        let replica = change.replica();
        self.strangers.remove(&replica);
        if self.member(replica).is_none() {
            self.outboxes.remove(&replica);
            self.rooms.forget(replica);
        }
        if self.is_leader() && !self.membership.is_voter(self.replica) {
            let term = self.term();
            self.node.raft.become_follower(term, INVALID_ID);
        }
        self.members_changed = true;
        tracing::info!(group = %self.spec.group, index, ?change, voters = ?self.membership.voters, "members changed");
        Verdict::Done
    }
}

#[cfg(test)]
mod tests {
    use cairn_api::ids::NodeId;
    use raft::eraftpb::EntryType;

    use super::*;

    #[test]
    fn a_change_is_one_to_raft_wherever_its_entry_comes_from() {
        let change = MemberChange::AddLearner(Member {
            replica: ReplicaId(4),
            node: NodeId::from_bytes([4; 16]),
            disk: DiskId::from_bytes([4; 16]),
        });
        let header = EntryHeader::Members { change }.encode();
        let stored = raft_entry(9, 6, &header);
        assert_eq!(stored.get_entry_type(), EntryType::EntryConfChangeV2);
        assert_eq!(header_of(&stored), &header);
        let mut proposed = raft_entry(9, 6, &header);
        proposed.data = Bytes::from_static(b"raft-rs's own form");
        proposed.context = header.clone();
        assert_eq!(header_of(&proposed), &header);
        let write = EntryHeader::Attach {
            epoch: cairn_api::ids::Epoch(1),
            holder: NodeId::NIL,
        };
        assert_eq!(
            raft_entry(9, 6, &write.encode()).get_entry_type(),
            EntryType::EntryNormal
        );
        assert_eq!(raft_entry(9, 6, &Bytes::new()).get_entry_type(), EntryType::EntryNormal);
    }
}
