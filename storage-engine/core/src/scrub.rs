//! Reading all that the local replicas hold, over and over at a set pace, so that damage is found while others have a good copy.
//!
//! A block that nobody reads may have rotted long ago; when the replica that has a good copy dies, it is too late. A pass
//! reads every block that the local maps name, one stretch at a time, and compares it with its checksum; what does not
//! match is repaired as for a reader ([`crate::repair`]), counted, and written back.
//!
//! # What a pass covers
//! Groups in the order of their numbers, blocks in the order of their addresses, then what each snapshot keeps, from a place drawn at random around to the
//! same place: an engine that is restarted more often than a pass takes still reads everything in the long run. What is
//! written while a pass goes on may or may not be part of it. The log's frame headers are not: each start reads them. Nor is
//! payload that the volume has overwritten since: it is read only to bring up a follower, which asks a peer for it.
//!
//! # Why it can do no harm
//! It reads where the map says, and a block of the map stays where it is for as long as its segment is not used again; the
//! checksums are taken with the place, so that a block overwritten meanwhile is compared with what it was. Writing back is
//! the repair's, and argued there.
//!
//! # Its cost
//! One read of at most [`STRETCH_BLOCKS_MAX`] at a time, begun no faster than the pace allows, and none while a repair goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use cairn_api::ids::GroupId;
use cairn_api::units::{BLOCK_BYTES, Lba};
use cairn_format::peer::RepairSource;

use crate::config::ScrubSettings;
use crate::event::{DamageCounts, DiskFault, Effect, ScrubReport, ScrubRequest, ScrubStatus};
use crate::group::Group;
use crate::map::{BlockMap, Owner, Run};
use crate::mutation::mutated;
use crate::repair::ask::Loss;
use crate::repair::{Consumer, Outcome};
use crate::shared::{Purpose, Shared, blocks_match};
use crate::time::Timestamp;

/// The longest read: 256 KiB, short enough not to be felt by who reads beside it.
const STRETCH_BLOCKS_MAX: usize = 64;
/// The pace of a pass that was asked for where none is set, in bytes a second.
const ASKED_BYTES_PER_S: u64 = 32 << 20;
/// After its start a disk has better things to do.
const FIRST_AFTER: Duration = Duration::from_secs(60);
/// The least time from the beginning of one pass to that of the next, so that an empty disk has nothing to do.
const EVERY_MIN: Duration = Duration::from_secs(1);
/// The pause before a stretch is read again that could not be repaired yet.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// A pace is kept over this time: what could not be read in time is made up for no further back.
const CATCH_UP_MAX: Duration = Duration::from_millis(200);

/// A place in the order of a pass: what a snapshot keeps comes behind the volume as it is, so that a block which moves there
/// meanwhile is not missed.
type Place = (GroupId, Owner, Lba);

/// Blocks that lie together on the disk.
struct Stretch {
    group: GroupId,
    owner: Owner,
    lba: Lba,
    block: u64,
    crcs: Vec<u32>,
}

enum Step {
    Ready,
    Reading(Stretch),
    /// A block of this stretch is being repaired.
    Repairing(Stretch),
}

struct Pass {
    began: Timestamp,
    bytes_per_s: u64,
    origin: Place,
    at: Place,
    has_wrapped: bool,
    blocks: u64,
    blocks_expected: u64,
    damage_before: DamageCounts,
    step: Step,
    /// Nothing is read before.
    next: Timestamp,
}

/// The scrubbing of one disk.
pub(crate) struct Scrub {
    settings: ScrubSettings,
    pass: Option<Pass>,
    /// The number of the last read: what was begun for a pass that was stopped is nobody's.
    serial: u64,
    /// When the next pass begins by itself.
    due: Timestamp,
    last: Option<(ScrubReport, Timestamp)>,
}

impl Stretch {
    /// The first blocks that hold data at or behind a place.
    fn find(groups: &BTreeMap<GroupId, Group>, (group, owner, lba): Place) -> Option<Self> {
        groups.range(group..).find_map(|(number, state)| {
            let map = state.map();
            let is_first = *number == group;
            let owners = map.owners().filter(|one| !is_first || *one >= owner);
            owners.into_iter().find_map(|one| {
                let from = if is_first && one == owner { lba } else { Lba(0) };
                Self::find_in(*number, map, one, from)
            })
        })
    }

    fn find_in(group: GroupId, map: &BlockMap, owner: Owner, from: Lba) -> Option<Self> {
        let left = map.size_blocks().checked_sub(from.0).filter(|left| *left > 0)?;
        map.runs_of(owner, from, left).find_map(|run| match run {
            Run::Data { lba, block, crcs, .. } => Some(Self {
                group,
                owner,
                lba,
                block: block.0,
                crcs: crcs.iter().take(STRETCH_BLOCKS_MAX).copied().collect(),
            }),
            Run::Zeros { .. } | Run::Trimmed { .. } | Run::Hole { .. } => None,
        })
    }

    fn place(&self) -> Place {
        (self.group, self.owner, self.lba)
    }

    fn end(&self) -> Place {
        (self.group, self.owner, Lba(self.lba.0 + self.crcs.len() as u64))
    }

    #[allow(clippy::cast_possible_truncation, reason = "at most 256 KiB")]
    fn bytes(&self) -> u32 {
        (self.crcs.len() as u64 * BLOCK_BYTES) as u32
    }
}

impl Pass {
    /// The next stretch; `None` when the pass has come around.
    fn next_stretch(&mut self, groups: &BTreeMap<GroupId, Group>) -> Option<Stretch> {
        if !self.has_wrapped {
            if let Some(stretch) = Stretch::find(groups, self.at) {
                return Some(stretch);
            }
            self.has_wrapped = true;
            self.at = (GroupId(0), Owner::Head, Lba(0));
        }
        Stretch::find(groups, self.at).filter(|stretch| stretch.place() < self.origin)
    }

    fn advance(&mut self, stretch: &Stretch) {
        self.at = stretch.end();
        self.blocks += stretch.crcs.len() as u64;
    }

    fn report(&self, now: Timestamp, damage: DamageCounts) -> ScrubReport {
        let before = self.damage_before;
        ScrubReport {
            blocks: self.blocks,
            damage: DamageCounts {
                found: damage.found - before.found,
                repaired: damage.repaired - before.repaired,
                unrepairable: damage.unrepairable - before.unrepairable,
            },
            took: now.since(self.began),
        }
    }
}

impl Scrub {
    pub(crate) fn new(settings: ScrubSettings, now: Timestamp) -> Self {
        Self {
            settings,
            pass: None,
            serial: 0,
            due: now.after(FIRST_AFTER.min(settings.every)),
            last: None,
        }
    }

    /// When there is something to do next.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        match &self.pass {
            Some(pass) => matches!(pass.step, Step::Ready).then_some(pass.next),
            None => (self.settings.bytes_per_s > 0).then_some(self.due),
        }
    }

    /// Somebody asks for a pass, for another pace, or for the end of it.
    pub(crate) fn ask(&mut self, shared: &mut Shared, groups: &BTreeMap<GroupId, Group>, request: ScrubRequest) {
        match (request, &mut self.pass) {
            (ScrubRequest::Begin { bytes_per_s }, Some(pass)) => {
                pass.bytes_per_s = bytes_per_s.unwrap_or(pass.bytes_per_s);
                pass.next = shared.now;
            }
            (ScrubRequest::Begin { bytes_per_s }, None) => {
                let set = Some(self.settings.bytes_per_s).filter(|set| *set > 0);
                self.begin(shared, groups, bytes_per_s.or(set).unwrap_or(ASKED_BYTES_PER_S));
            }
            (ScrubRequest::Stop, pass) => *pass = None,
        }
    }

    fn begin(&mut self, shared: &mut Shared, groups: &BTreeMap<GroupId, Group>, bytes_per_s: u64) {
        let now = shared.now;
        let chosen = shared.random_below(groups.len() as u64);
        let (group, size) = usize::try_from(chosen)
            .ok()
            .and_then(|chosen| groups.iter().nth(chosen))
            .map_or((GroupId(0), 0), |(number, group)| (*number, group.map().size_blocks()));
        let origin = (group, Owner::Head, Lba(shared.random_below(size)));
        self.due = now.after(self.settings.every.max(EVERY_MIN));
        self.pass = Some(Pass {
            began: now,
            bytes_per_s,
            origin,
            at: origin,
            has_wrapped: false,
            blocks: 0,
            blocks_expected: groups.values().map(|group| group.map().space().stored()).sum(),
            damage_before: shared.repairs.totals(),
            step: Step::Ready,
            next: now,
        });
    }

    /// Begins what is due: a pass, or its next read.
    pub(crate) fn step(&mut self, shared: &mut Shared, groups: &BTreeMap<GroupId, Group>) {
        let now = shared.now;
        if self.pass.is_none() && self.settings.bytes_per_s > 0 && now >= self.due {
            self.begin(shared, groups, self.settings.bytes_per_s);
        }
        let Some(pass) = self.pass.as_mut().filter(|pass| matches!(pass.step, Step::Ready)) else {
            return;
        };
        if now < pass.next {
            return;
        }
        let Some(stretch) = pass.next_stretch(groups) else {
            return self.end(shared);
        };
        let takes = Duration::from_secs_f64(f64::from(stretch.bytes()) / pass.bytes_per_s.max(1) as f64);
        let is_late = now.since(pass.next) > CATCH_UP_MAX;
        pass.next = if is_late { now } else { pass.next }.after(takes);
        self.serial += 1;
        let (group, serial) = (stretch.group, self.serial);
        let purpose = Purpose::Scrub { group, serial };
        shared.read(stretch.block * BLOCK_BYTES, stretch.bytes(), purpose);
        pass.step = Step::Reading(stretch);
    }

    fn end(&mut self, shared: &mut Shared) {
        let Some(pass) = self.pass.take() else { return };
        let report = pass.report(shared.now, shared.repairs.totals());
        let disk = shared.config.disk;
        tracing::info!(
            %disk, blocks = report.blocks, found = report.damage.found, repaired = report.damage.repaired,
            unrepairable = report.damage.unrepairable, took = ?report.took, "scrubbed"
        );
        self.last = Some((report, shared.now));
        shared.effects.push(Effect::Scrubbed {
            blocks: 0,
            is_over: true,
        });
    }

    /// A stretch has come from the disk.
    pub(crate) fn read(
        &mut self,
        shared: &mut Shared,
        groups: &BTreeMap<GroupId, Group>,
        serial: u64,
        result: Result<Bytes, DiskFault>,
    ) {
        let Some(pass) = self.pass.as_mut().filter(|_| serial == self.serial) else {
            return;
        };
        let Step::Reading(stretch) = std::mem::replace(&mut pass.step, Step::Ready) else {
            return;
        };
        let data = match result {
            Ok(data) if blocks_match(&data, &stretch.crcs) || mutated!(shared.seeded, ScrubUnchecked) => {
                pass.advance(&stretch);
                let blocks = stretch.crcs.len() as u64;
                return shared.effects.push(Effect::Scrubbed { blocks, is_over: false });
            }
            result => result.ok(),
        };
        let Some(group) = groups.get(&stretch.group) else {
            return;
        };
        let loss = Loss {
            group: stretch.group,
            source: RepairSource::Volume,
            at: stretch.lba.0,
            block: stretch.block,
            crcs: stretch.crcs.clone(),
            data,
        };
        pass.step = Step::Repairing(stretch);
        group.find_lost(shared, &loss, Consumer::Scrub { serial });
    }

    /// A repair has ended. What is lost is counted and passed over; what could not be found yet is read again.
    pub(crate) fn repaired(&mut self, shared: &mut Shared, serial: u64, outcome: &Outcome) {
        let Some(pass) = self.pass.as_mut().filter(|_| serial == self.serial) else {
            return;
        };
        let Step::Repairing(stretch) = std::mem::replace(&mut pass.step, Step::Ready) else {
            return;
        };
        if *outcome == Outcome::Unanswered {
            pass.next = shared.now.after(AGAIN_AFTER);
            return;
        }
        pass.advance(&stretch);
        let blocks = stretch.crcs.len() as u64;
        shared.effects.push(Effect::Scrubbed { blocks, is_over: false });
    }

    /// The group is gone from this disk.
    pub(crate) fn forget(&mut self, group: GroupId) {
        if let Some(pass) = &mut self.pass
            && let Step::Reading(stretch) | Step::Repairing(stretch) = &pass.step
            && stretch.group == group
        {
            pass.step = Step::Ready;
        }
    }

    pub(crate) fn status(&self, shared: &Shared) -> ScrubStatus {
        let now = shared.now;
        ScrubStatus {
            running: self.pass.as_ref().map(|pass| pass.report(now, shared.repairs.totals())),
            bytes_per_s: self
                .pass
                .as_ref()
                .map_or(self.settings.bytes_per_s, |pass| pass.bytes_per_s),
            blocks_expected: self
                .pass
                .as_ref()
                .map_or(0, |pass| pass.blocks_expected.max(pass.blocks)),
            last: self.last.map(|(report, ended)| (report, now.since(ended))),
            next_in: (self.pass.is_none() && self.settings.bytes_per_s > 0).then(|| self.due.since(now)),
        }
    }
}
