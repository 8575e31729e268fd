//! What changed from one snapshot to a later one, told in parts.
//!
//! What a snapshot shows never changes and is the same on every replica, and so is the difference of two: slots carry the Raft
//! index of the entry that filled them ([`crate::map`]). So any replica that has both may answer, without a lease and without
//! asking anybody, whatever it is in its group, and each part may be another replica's. A replica that has not applied the
//! later snapshot yet, or has applied its deletion, says so.

use cairn_api::ids::{GroupId, SnapshotId};
use cairn_api::units::Lba;

use super::Group;
use crate::event::{CommandError, CommandId, CommandReply};
use crate::map::Change;
use crate::shared::Shared;

/// Leaves that one request looks at: those of 256 MiB of a full volume, so that whoever else waits for the core hardly notices.
const LEAVES_MAX: usize = 128;
/// Rows of one answer: 100 KiB.
const ROWS_MAX: usize = 4096;

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
    /// Replies with the first part, from a block on, of what changed from one snapshot to a later one.
    pub(crate) fn tell_changes(&self, shared: &mut Shared, id: CommandId, request: ChangesRequest) {
        shared.end_command(id, self.changes(request));
    }

    fn changes(&self, request: ChangesRequest) -> Result<CommandReply, CommandError> {
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
        let (rows, next) = to.changes_from(from, request.lba, LEAVES_MAX, ROWS_MAX);
        Ok(CommandReply::Changes(ChangesPart {
            rows,
            size_blocks,
            next,
        }))
    }
}
