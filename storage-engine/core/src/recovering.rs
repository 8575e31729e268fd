//! A core that reads its disk: the last checkpoint first, then the log from where that begins.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cairn_api::ids::{DiskId, GroupId, ReplicaId};
use cairn_api::units::BLOCK_BYTES;
use cairn_format::segment::HeadKind;

use crate::config::CoreConfig;
use crate::event::{DiskFault, Event, IoId, RecoverySummary};
use crate::group::Group;
use crate::log::recovery::{LogRead, LogStart, LogSummary, Outcome, Recovery, Rows};
use crate::log::{LogSettings, LogTail, LogWriter};
use crate::merge::Merger;
use crate::mutation::Seeded;
use crate::recover::Replay;
use crate::shared::{IoNumbers, Shared};
use crate::space::checkpoint::Checkpoints;
use crate::space::load::{self, Loaded, Loading};
use crate::space::segments::{Role, Segments};
use crate::time::Timestamp;

/// See the module.
pub(crate) struct Recovering {
    loading: Loading,
    recovery: Option<(Recovery, Box<Loaded>)>,
    replay: Replay,
    io: IoNumbers,
    /// What has come meanwhile.
    pub(crate) early: Vec<Event>,
}

/// What was read, ready to run.
pub(crate) struct Ready {
    pub(crate) shared: Shared,
    pub(crate) groups: BTreeMap<GroupId, Group>,
    pub(crate) dropped: BTreeMap<GroupId, ReplicaId>,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) merger: Merger,
    pub(crate) summary: RecoverySummary,
    pub(crate) early: Vec<Event>,
}

impl Recovering {
    /// Begins to read.
    pub(crate) fn start(config: &CoreConfig, seeded: Seeded, reads: &mut Vec<LogRead>) -> Self {
        let mut loading = Loading::new(config.disk, config.geometry);
        let mut io = IoNumbers::default();
        loading.start(&mut || io.next(), reads);
        Self {
            loading,
            recovery: None,
            replay: Replay::new(seeded),
            io,
            early: Vec::new(),
        }
    }

    /// A read has ended. Gives the outcome when there is nothing more to read: of the log, or why the checkpoint cannot be used.
    pub(crate) fn read(
        &mut self,
        config: &CoreConfig,
        seeded: Seeded,
        io: IoId,
        result: Result<Bytes, DiskFault>,
        reads: &mut Vec<LogRead>,
    ) -> Option<Result<Outcome, String>> {
        let numbers = &mut self.io;
        if let Some((recovery, _)) = &mut self.recovery {
            let outcome = recovery.completed(io, result, &mut || numbers.next(), reads, &mut self.replay);
            return outcome.map(Ok);
        }
        let mut loaded = match self.loading.completed(io, result, &mut || numbers.next(), reads)? {
            load::Outcome::Refused(reason) => return Some(Err(reason)),
            load::Outcome::Loaded(loaded) => loaded,
        };
        let mut start = LogStart::default();
        if let Some(place) = loaded.place {
            let ranges = loaded.table.free.iter();
            let free = ranges.flat_map(|(first, count)| *first..first.saturating_add(*count));
            start.begins = Some(place.begins);
            start.free = Some(
                free.filter(|segment| *segment < config.geometry.segment_count)
                    .collect(),
            );
            let groups = std::mem::take(&mut loaded.groups);
            let dropped = loaded.table.dropped.iter().copied().collect();
            let sequences = (place.begins.sequence, loaded.table.next_sequence);
            self.replay = Replay::behind(seeded, sequences, groups, dropped);
        }
        let mut recovery = Recovery::new(config.disk, config.geometry, start).seeded(seeded);
        recovery.start(&mut || numbers.next(), reads);
        self.recovery = Some((recovery, loaded));
        None
    }

    /// The rows of the decision table that were met.
    pub(crate) fn rows(&self) -> Rows {
        let mut rows = self.loading.rows();
        if let Some((recovery, _)) = &self.recovery {
            rows.extend(recovery.rows());
        }
        rows
    }

    /// Everything is read: what there is to run, or why the disk cannot be used.
    pub(crate) fn finish(
        self,
        config: &CoreConfig,
        seeded: Seeded,
        now: Timestamp,
        outcome: Outcome,
    ) -> Result<Ready, String> {
        let rows = self.rows();
        let (mut tail, found, torn_tail) = usable(config, outcome)?;
        let Some((recovery, loaded)) = self.recovery else {
            return Err(format!("the log of disk {} was not read", config.disk));
        };
        if let Some(problem) = self.replay.problem {
            return Err(format!("the log of disk {} contradicts itself: {problem}", config.disk));
        }
        let incarnation = tail.incarnation;
        let dropped = self.replay.dropped().clone();
        let mut recovered = self.replay.into_groups();
        let mut segments = Segments::new(config.geometry);
        for found in recovered.values_mut() {
            found.map.take_garbage();
            found.data().for_each(|(block, count)| segments.born(block, count));
        }
        let segment_of = |block: u64| config.geometry.segment_of(block * BLOCK_BYTES);
        let pages: BTreeSet<u32> = loaded
            .table
            .leaves
            .iter()
            .filter_map(|leaf| segment_of(leaf.page.block))
            .collect();
        let index: BTreeSet<u32> = pages
            .iter()
            .copied()
            .chain(loaded.chunks.iter().filter_map(|(block, _)| segment_of(*block)))
            .collect();
        assign_roles(&mut segments, &mut tail, &recovery, &index);
        let mut checkpoints = Checkpoints::new(loaded.generation, loaded.chunks.clone());
        if let Some((block, blocks)) = loaded.chunks.first()
            && let Some(segment) = segment_of(*block)
        {
            checkpoints.go_on_in(segment, segments.epoch(segment), block + u64::from(*blocks));
        }
        let settings = LogSettings {
            is_fair: config.limits.is_fair,
            ..LogSettings::default()
        };
        let log = LogWriter::with_settings(config.disk, config.geometry, tail, settings).seeded(seeded);
        let shared = Shared::new(config.clone(), seeded, (log, segments), now, self.io);
        let mut summary = RecoverySummary {
            frames: found.frames,
            entries: found.entries,
            segments: found.segments,
            incarnation,
            torn_tail,
            rows,
            groups: Vec::new(),
        };
        let mut groups = BTreeMap::new();
        let mut merger = Merger::new(now);
        for (number, found) in recovered {
            summary.groups.push(number);
            let group = Group::start(found, false, &shared).map_err(|error| error.to_string())?;
            merger.note(number, &group);
            groups.insert(number, group);
        }
        Ok(Ready {
            shared,
            groups,
            dropped,
            checkpoints,
            merger,
            summary,
            early: self.early,
        })
    }
}

/// What each segment is used for. A segment that was free at the checkpoint is in use if the log has come there since, if it
/// holds the checkpoint itself, or blocks that were moved there since.
fn assign_roles(segments: &mut Segments, tail: &mut LogTail, recovery: &Recovery, index: &BTreeSet<u32>) {
    let headers = recovery.headers();
    let of_log: BTreeSet<u32> = tail.window.iter().map(|begins| begins.segment).collect();
    for segment in 0..segments.count() {
        let header = headers.get(&segment);
        let (epoch, sequence) = header.map_or((0, 0), |header| (header.epoch, header.first_sequence));
        let is_alive = segments.live_in(segment) > 0;
        let head = header.map_or(HeadKind::Hot, |header| header.head);
        let role = if of_log.contains(&segment) {
            Role::Log
        } else if index.contains(&segment) {
            Role::Index
        } else if tail.free.has(segment) && !is_alive {
            continue;
        } else {
            match head {
                HeadKind::Hot => Role::Data,
                HeadKind::Cold => Role::Cold,
                HeadKind::Index => Role::Index,
            }
        };
        tail.free.remove(segment);
        segments.use_for(segment, role, epoch, sequence);
    }
}

/// What recovery found, if the disk may be used: where to go on, what was read, whether a torn tail was cut off.
fn usable(config: &CoreConfig, outcome: Outcome) -> Result<(LogTail, LogSummary, bool), String> {
    match outcome {
        Outcome::Clean { tail, summary } => Ok((tail, summary, false)),
        Outcome::TornTail {
            tail,
            summary,
            sequence,
            reason,
        } => {
            tracing::warn!(disk = %config.disk, sequence, reason, "a torn tail was cut off: it was never acknowledged");
            Ok((tail, summary, true))
        }
        Outcome::LostAcknowledged {
            segment,
            sequence,
            evidence,
        } => Err(format!(
            "disk {0} has lost data that it had acknowledged: frame {sequence} in segment {segment}: {evidence}. Its \
                 replicas never vote again; let their peers rebuild them on another disk: `cairn disk replace {0} NEW`. \
                 The same device will do, formatted anew",
            config.disk
        )),
        Outcome::Unreadable {
            offset,
            words,
            sequence,
            evidence,
        } => Err(unreadable(config.disk, offset, &words, sequence, evidence.as_deref())),
        Outcome::Unsupported { offset, error } => Err(format!(
            "disk {} at byte {offset}: {error}; use the version that wrote it",
            config.disk
        )),
        Outcome::DiskTooShort { offset, asked, done } => Err(format!(
            "disk {} is shorter than its superblock says: a read of {asked} bytes at {offset} gave {done}",
            config.disk
        )),
    }
}

/// What to do about a place of the log that cannot be read.
fn unreadable(disk: DiskId, offset: u64, words: &str, sequence: u64, evidence: Option<&str>) -> String {
    let what =
        format!("disk {disk} cannot be read at byte {offset}, where its log may go on with frame {sequence}: {words}.");
    let replace = format!("let its peers rebuild its replicas on another disk: `cairn disk replace {disk} NEW`");
    match evidence {
        Some(evidence) => format!(
            "{what} {evidence}, so that acknowledged data is lost unless it can be read. Start the engine again to try \
             once more; if it stays so, {replace}"
        ),
        None => format!(
            "{what} Nothing is decided, for it may hold acknowledged data. Start the engine again to try once more; if \
             it stays so, {replace}, or see `cairn disk clear --help` if the power failed while it was written"
        ),
    }
}
