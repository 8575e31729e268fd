//! Reading a clone through its base.
//!
//! A clone is a volume of its own, with a group and a log of its own, whose replicas are on the disks of the replicas of the
//! volume that it was made of. Where its map has nothing it shows a *base*: a snapshot of that volume ([`crate::map`]). So
//! making a clone copies nothing. The base's blocks are read from the same disk, from the map of the local replica of its volume.
//!
//! # Why that replica's word is good, whatever it is in its group
//! A snapshot never changes. A replica that has applied the entry which made it shows it as every other does; one that has not,
//! because it is behind or is being brought up, has no snapshot of that number, and then the reader is told to ask again, and does
//! so until the replica has caught up, or another replica of the clone leads. That the *clone* is read at the right time is the
//! business of the clone's own leader: lease or ReadIndex come first, as for every read.
//!
//! # Why the snapshot is there for as long as it is looked at
//! Whoever deletes a snapshot must know that no clone needs it (the catalogue does): that the entry which made the clone whole,
//! and dropped its base, is applied on *every* replica of the clone. Its leader alone would not do. A later leader answers reads
//! only when it has applied that entry, too, but a replica that is behind may have a base in its map still, and be looked through by
//! a clone of the clone. Were the base's snapshot on its way to be deleted by then, a replica that was given the source's state
//! meanwhile might have it incomplete (`group::catch_up`).
//!
//! # Chains
//! The base may be a snapshot of a clone. Each of them is looked up in its own map, down to [`BASES_MAX`]. A base that is not
//! complete on this disk for whatever reason is never taken for zeros.
//!
//! # What a clone shows of allocated zeros
//! Zeros of a base are holes of the clone: to make them its own when it is filled would cost memory, and they cost no space.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use cairn_api::block::{Allocation, BlockError};
use cairn_api::ids::GroupId;
use cairn_api::units::Lba;
use cairn_format::peer::GatewayResult;

use crate::group::{Group, Query};
use crate::map::{DiskBlock, Run, View};
use crate::shared::Origin;

/// How many bases may lie below a clone, one below the other: each costs a read a look into another map.
pub const BASES_MAX: usize = 8;

/// A read of a clone that waits for the maps of its bases.
#[derive(Debug)]
pub(crate) struct ThroughBase {
    pub(crate) group: GroupId,
    pub(crate) origin: Origin,
    pub(crate) query: Query,
}

/// Blocks in a row, as a volume shows them.
#[derive(Debug)]
pub(crate) struct Shown<'a> {
    pub(crate) lba: Lba,
    pub(crate) blocks: u64,
    pub(crate) content: ShownContent<'a>,
}

/// What they are.
#[derive(Debug)]
pub(crate) enum ShownContent<'a> {
    /// Data that is contiguous on the disk, of this volume or of one that it is a clone of.
    Data {
        home: GroupId,
        block: DiskBlock,
        crcs: Cow<'a, [u32]>,
    },
    Zeros(Allocation),
}

impl Shown<'_> {
    pub(crate) fn into_owned(self) -> Shown<'static> {
        Shown {
            lba: self.lba,
            blocks: self.blocks,
            content: match self.content {
                ShownContent::Data { home, block, crcs } => ShownContent::Data {
                    home,
                    block,
                    crcs: Cow::Owned(crcs.into_owned()),
                },
                ShownContent::Zeros(allocation) => ShownContent::Zeros(allocation),
            },
        }
    }
}

type Groups = BTreeMap<GroupId, Group>;
type Take<'t, 'a> = &'t mut dyn FnMut(Shown<'a>) -> bool;

/// Gives what `view`, a view of the volume `home`, shows in a range, in order, until `take` says that it is enough; whether it
/// never did. What to tell the reader if a base is not there.
pub(crate) fn walk<'a>(
    groups: &'a Groups,
    (home, view): (GroupId, View<'a>),
    range: Range<u64>,
    take: Take<'_, 'a>,
) -> Result<bool, GatewayResult> {
    walk_at(groups, (home, view), range, 0, take)
}

fn walk_at<'a>(
    groups: &'a Groups,
    (home, view): (GroupId, View<'a>),
    range: Range<u64>,
    depth: usize,
    take: Take<'_, 'a>,
) -> Result<bool, GatewayResult> {
    let end = range.end.min(view.size_blocks());
    if range.start < end {
        for run in view.runs(Lba(range.start), end - range.start) {
            let (lba, blocks) = (run.lba(), run.blocks());
            let content = match run {
                Run::Data { block, crcs, .. } => ShownContent::Data { home, block, crcs },
                Run::Zeros { .. } if depth == 0 => ShownContent::Zeros(Allocation::Zero),
                Run::Zeros { .. } | Run::Trimmed { .. } => ShownContent::Zeros(Allocation::Hole),
                Run::Hole { .. } => {
                    if !walk_hole(groups, view, lba.0..lba.0 + blocks, depth, take)? {
                        return Ok(false);
                    }
                    continue;
                }
            };
            if !take(Shown { lba, blocks, content }) {
                return Ok(false);
            }
        }
    }
    Ok(take_hole(range.start.max(end)..range.end, take))
}

/// Where the map has nothing: through the base, as far as that shows.
fn walk_hole<'a>(
    groups: &'a Groups,
    view: View<'a>,
    hole: Range<u64>,
    depth: usize,
    take: Take<'_, 'a>,
) -> Result<bool, GatewayResult> {
    let shows = view.map().base_range();
    let through = shows.start.clamp(hole.start, hole.end)..shows.end.clamp(hole.start, hole.end);
    let Some(base) = view.map().base().filter(|_| !through.is_empty()) else {
        return Ok(take_hole(hole, take));
    };
    if depth == BASES_MAX {
        let reason = format!("more than {BASES_MAX} volumes are clones of each other");
        return Err(GatewayResult::Failed(BlockError::Io(reason)));
    }
    let below = groups
        .get(&base.group)
        .and_then(|group| group.map().snapshot(base.snapshot));
    let below = below.ok_or(GatewayResult::Retry)?;
    Ok(take_hole(hole.start..through.start, take)
        && walk_at(groups, (base.group, below), through.clone(), depth + 1, take)?
        && take_hole(through.end..hole.end, take))
}

fn take_hole(hole: Range<u64>, take: Take<'_, '_>) -> bool {
    hole.is_empty()
        || take(Shown {
            lba: Lba(hole.start),
            blocks: hole.end - hole.start,
            content: ShownContent::Zeros(Allocation::Hole),
        })
}
