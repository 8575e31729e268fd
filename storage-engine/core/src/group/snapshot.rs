//! Making and deleting snapshots, through the group's log.
//!
//! A snapshot is a place in the log ([`crate::map`]), so that every replica has it by applying the log: one that was away, one
//! that restarts and replays, and one that joins. Any place is a state that the volume was in, so that a snapshot is always
//! consistent as a crash would leave it: if it shows a write, it shows every write that was acknowledged before that one began.
//!
//! # Which writes are in it
//! - Every write that was acknowledged before the request: it is applied on a leader, so that every later leader has it in its
//!   log in front of whatever it proposes.
//! - None that began after the answer: the entry is applied by then, and what is proposed later comes behind it.
//! - Of those in between each may be in it or not, as if the power had failed then.
//!
//! # Why it is not under an attachment's epoch
//! An epoch keeps out who may not change the volume any more. A snapshot changes nothing that anybody reads or writes: whoever
//! holds the volume, and whoever held it, is as right before as after. Copies of a former holder's writes that come late are
//! refused at their own place in the log, whatever stands around them.
//!
//! # Asked twice
//! The control plane asks again when it does not know what became of a request, of whoever leads then. The first entry with a
//! snapshot's number counts, and later ones have no effect. Numbers are given by the catalogue, rise, and are asked for in
//! order, and a number at or below the highest that was made or deleted is spent: a request that was under way for long (its
//! engine was stopped) cannot bring back what was deleted since.

use cairn_api::block::BlockError;
use cairn_api::ids::{GroupId, LogIndex, SnapshotId};
use cairn_format::entry::EntryHeader;
use cairn_format::peer::GatewayResult;

use super::Group;
use crate::event::{CommandError, CommandId, CommandReply};
use crate::shared::{Origin, Shared};

/// Snapshots of one volume. Each costs a look while what it keeps is read, and some memory; and all of them must fit the
/// state that is given to a replica which is behind the log, those included that were asked for at the same time. Should there
/// ever be more, no state is given until some are deleted.
pub const SNAPSHOTS_MAX: usize = 1000;
const _: () = assert!(SNAPSHOTS_MAX + 20 <= cairn_format::volume_state::STATE_SNAPSHOTS_MAX);

/// The answer to a request for a snapshot whose number is spent.
pub(super) const SPENT: BlockError =
    BlockError::Invalid("the number of the snapshot is spent: it, or a later one, was made and deleted before");

impl Group {
    /// Makes a snapshot; replies with the index that made it.
    pub(crate) fn create_snapshot(&mut self, shared: &mut Shared, id: CommandId, snapshot: SnapshotId) {
        let origin = Origin::Command(id);
        if let Some(problem) = self.refuse_snapshot(snapshot) {
            return shared.end_command(id, Err(CommandError::Refused(problem)));
        }
        if !self.may_propose(shared, origin) {
            return;
        }
        if let Some(at) = self.map.snapshot(snapshot).and_then(|view| view.at()) {
            return reply(shared, self.spec.group, origin, at);
        }
        if self.map.is_spent(snapshot) {
            return shared.reply(self.spec.group, origin, GatewayResult::Failed(SPENT));
        }
        let header = EntryHeader::SnapshotCreate { snapshot };
        self.propose(shared, origin, &header, bytes::Bytes::new());
    }

    pub(super) fn refuse_snapshot(&self, snapshot: SnapshotId) -> Option<String> {
        let group = self.spec.group;
        if self.is_external() || snapshot.get() == 0 {
            return Some(format!("group {group} cannot have a snapshot {snapshot}"));
        }
        let count = self.map.snapshot_count();
        let is_new = self.map.snapshot(snapshot).is_none();
        (is_new && count >= SNAPSHOTS_MAX).then(|| {
            format!("the volume of group {group} has {count} snapshots, the most there can be: delete some first")
        })
    }

    /// Deletes a snapshot; gone already is gone.
    pub(crate) fn delete_snapshot(&mut self, shared: &mut Shared, id: CommandId, snapshot: SnapshotId) {
        let origin = Origin::Command(id);
        if !self.may_propose(shared, origin) {
            return;
        }
        if self.leads_with_all_applied() && self.map.snapshot(snapshot).is_none() && self.map.is_spent(snapshot) {
            return shared.end_command(id, Ok(CommandReply::Done));
        }
        let header = EntryHeader::SnapshotDelete { snapshot };
        self.propose(shared, origin, &header, bytes::Bytes::new());
    }

    /// Whether a deleted snapshot is still to be merged away.
    pub(crate) fn is_merging(&self) -> bool {
        self.map.is_merging()
    }

    /// Merges a little of what was deleted; whether there is more.
    pub(crate) fn merge_step(&mut self, shared: &mut Shared, slots_max: u64) -> bool {
        let has_more = self.map.merge_step(slots_max);
        self.account(shared);
        has_more
    }
}

/// The snapshot is there, made by the entry at `at`.
pub(super) fn reply(shared: &mut Shared, group: GroupId, origin: Origin, at: LogIndex) {
    match origin {
        Origin::Command(id) => shared.end_command(id, Ok(CommandReply::Committed(at))),
        origin => shared.reply(group, origin, GatewayResult::Done),
    }
}
