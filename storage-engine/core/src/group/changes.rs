//! What changed from one snapshot to a later one, told in parts.
//!
//! What a snapshot shows never changes and is the same on every replica, and so is the difference of two: slots carry the Raft
//! index of the entry that filled them ([`crate::map`]). So any replica that has both may answer, without a lease and without
//! asking anybody, whatever it is in its group, and each part may be another replica's. A replica that has not applied the
//! later snapshot yet, or has applied its deletion, says so. Only what a *clone* shows in all is its leader's to tell, as long as
//! it has a base: what changed between two of its snapshots is in its own map.

use std::collections::BTreeMap;

use cairn_api::block::Allocation;
use cairn_api::ids::{GroupId, SnapshotId};
use cairn_api::units::Lba;

use super::Group;
use crate::base::{self, ShownContent};
use crate::event::{CommandError, CommandReply};
use crate::map::{Change, ChangeKind, View};
use crate::shared::Shared;

/// Leaves that one request looks at: those of 256 MiB of a full volume, so that whoever else waits for the core hardly notices.
const LEAVES_MAX: usize = 128;
/// Rows of one answer: 100 KiB.
const ROWS_MAX: usize = 4096;
/// Rows of the maps that one request for a clone looks at.
const LOOKS_MAX: usize = 65_536;

/// A request for what changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChangesRequest {
    /// The volume.
    pub group: GroupId,
    /// The earlier snapshot; none for an empty volume, so that all that `to` holds is told.
    pub from: Option<SnapshotId>,
    /// The later snapshot.
    pub to: SnapshotId,
    /// Where to begin.
    pub lba: Lba,
}

/// A part of what changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangesPart {
    /// Blocks, in order.
    pub rows: Vec<Change>,
    /// The later snapshot's size in blocks.
    pub size_blocks: u64,
    /// Where to go on, if there is more.
    pub next: Option<Lba>,
}

impl Group {
    /// The first part, from a block on, of what changed from one snapshot to a later one.
    pub(crate) fn changes(
        &self,
        shared: &Shared,
        groups: &BTreeMap<GroupId, Self>,
        request: ChangesRequest,
    ) -> Result<CommandReply, CommandError> {
        let find = |snapshot: SnapshotId| {
            let view = self.map.snapshot(snapshot);
            view.ok_or_else(|| CommandError::Refused(format!("this replica has no snapshot {snapshot}")))
        };
        let to = find(request.to)?;
        let from = request.from.map(find).transpose()?;
        if from.is_some_and(|from| !from.is_by(&to)) {
            return Err(CommandError::Refused(format!(
                "snapshot {} is older than the one that it is compared with",
                request.to
            )));
        }
        let size_blocks = to.size_blocks();
        if request.lba.0 > size_blocks {
            return Err(CommandError::Refused(format!(
                "block {} is beyond snapshot {}, which has {size_blocks} blocks",
                request.lba, request.to
            )));
        }
        let (rows, next) = if from.is_none() && self.map.base().is_some() {
            self.allocated(shared, groups, to, request.lba)?
        } else {
            to.changes_from(from, request.lba, LEAVES_MAX, ROWS_MAX)
        };
        Ok(CommandReply::Changes(ChangesPart {
            rows,
            size_blocks,
            next,
        }))
    }

    /// All that a snapshot of a clone shows, its base's blocks included. Only the leader looks at the base ([`crate::base`]): one
    /// that is sure to lead.
    fn allocated(
        &self,
        shared: &Shared,
        groups: &BTreeMap<GroupId, Self>,
        to: View<'_>,
        lba: Lba,
    ) -> Result<(Vec<Change>, Option<Lba>), CommandError> {
        let is_leased = self.lease_end(shared).is_some_and(|end| shared.now < end);
        if !is_leased || !self.leads_with_all_applied() {
            let leader = self.leader_member().filter(|_| !self.is_leader()).cloned();
            return Err(CommandError::NotLeader { leader });
        }
        let (mut rows, mut next, mut looks): (Vec<Change>, _, _) = (Vec::new(), None, 0);
        let range = lba.0..to.size_blocks();
        let end = base::walk(groups, (self.spec.group, to), range, &mut |shown| {
            looks += 1;
            let kind = match shown.content {
                ShownContent::Data { .. } => ChangeKind::Data,
                ShownContent::Zeros(Allocation::Zero) => ChangeKind::Zero,
                ShownContent::Zeros(_) => return true,
            };
            let (lba, blocks) = (shown.lba, shown.blocks);
            let is_full = rows.len() == ROWS_MAX;
            match rows.last_mut() {
                Some(last) if last.lba.0 + last.blocks == lba.0 && last.kind == kind => last.blocks += blocks,
                _ if is_full || looks > LOOKS_MAX => {
                    next = Some(lba);
                    return false;
                }
                _ => rows.push(Change { lba, blocks, kind }),
            }
            true
        });
        match end {
            Ok(_) => Ok((rows, next)),
            Err(_) => Err(CommandError::Refused(
                "this replica of the clone's source is behind: ask again".to_owned(),
            )),
        }
    }
}
