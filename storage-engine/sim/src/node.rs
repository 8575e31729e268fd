//! A simulated engine: a core, its disk, its clock, and what its driver holds.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cairn_api::block::{BlockError, BlockReply, Tag};
use cairn_api::ids::{GroupId, LogIndex, ReplicaId};
use cairn_core::Core;
use cairn_core::config::CoreConfig;
use cairn_core::event::{CommandError, CommandId, CommandReply, DeviceId, Event, RecoverySummary};
use cairn_core::time::Timestamp;

use super::disk::SimDisk;

/// A monotonic clock of its own: starts anywhere, runs a little fast or slow, may jump ahead and never goes back.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// What it showed at `since`.
    pub offset: u64,
    /// Since when it has had its present rate.
    pub since: u64,
    /// Parts per million that it gains; negative if it loses.
    pub drift_ppm: i64,
}

impl Clock {
    pub fn read(&self, now: u64) -> Timestamp {
        let passed = now - self.since;
        let gained = i64::try_from(passed / 1000).unwrap() * self.drift_ppm / 1000;
        Timestamp::from_nanos(passed.saturating_add_signed(gained) + self.offset)
    }

    /// It runs at another rate from here on.
    pub fn set_rate(&mut self, now: u64, drift_ppm: i64) {
        (self.offset, self.since, self.drift_ppm) = (self.read(now).as_nanos(), now, drift_ppm);
    }

    /// When the clock will show at least `local`, not before `now`.
    pub fn when(&self, local: Timestamp, now: u64) -> u64 {
        let ahead = local.as_nanos().saturating_sub(self.read(now).as_nanos());
        // One part in a hundred more than needed covers any drift used here.
        now.saturating_add(ahead).saturating_add(ahead / 100)
    }
}

pub type DeviceResult = Result<BlockReply, BlockError>;

pub struct Node {
    pub config: CoreConfig,
    pub core: Option<Core>,
    pub disk: SimDisk,
    pub clock: Clock,
    pub inbox: Vec<Event>,
    /// Counts starts, so that what belongs to an earlier life is told apart.
    pub life: u64,
    pub wake_at: Option<u64>,
    pub timer_at: Option<u64>,
    pub paused_until: u64,
    /// Requests that have waited for their volumes' limits, and for how many nanoseconds in all.
    pub throttled: (u64, u64),
    /// When its disk will have moved all that it was asked for, if moving bytes takes time.
    pub disk_busy_until: u64,
    /// No write of its disk ends before.
    pub stalled_until: u64,
    /// Instead of the cluster's, while its disk is slow.
    pub write_latency: Option<(u64, u64)>,
    pub recovered: Option<RecoverySummary>,
    /// The number of the last opening of its log, and how much had been written to the disk by then.
    opened: (u64, u64),
    pub failure: Option<String>,
    pub open_devices: BTreeSet<DeviceId>,
    pub replies: BTreeMap<(DeviceId, Tag), DeviceResult>,
    pub command_replies: BTreeMap<CommandId, Result<CommandReply, CommandError>>,
    pub applied: Vec<(GroupId, LogIndex, Bytes)>,
    pub leaders: BTreeMap<GroupId, (Option<ReplicaId>, bool)>,
    /// Data that it was given of states, being behind a leader's log, in all its lives.
    pub caught_up_bytes: u64,
}

impl Node {
    pub fn new(config: CoreConfig, disk: SimDisk, clock: Clock) -> Self {
        Self {
            config,
            core: None,
            disk,
            clock,
            inbox: Vec::new(),
            life: 0,
            wake_at: None,
            timer_at: None,
            paused_until: 0,
            throttled: (0, 0),
            disk_busy_until: 0,
            stalled_until: 0,
            write_latency: None,
            recovered: None,
            opened: (0, 0),
            failure: None,
            open_devices: BTreeSet::new(),
            replies: BTreeMap::new(),
            command_replies: BTreeMap::new(),
            applied: Vec::new(),
            leaders: BTreeMap::new(),
            caught_up_bytes: 0,
        }
    }

    pub fn is_running(&self) -> bool {
        self.core.is_some()
    }

    /// Whether its replica says that it leads the group.
    pub fn leads(&self, group: GroupId) -> bool {
        self.is_running() && self.leaders.get(&group).is_some_and(|(_, is_local)| *is_local)
    }

    /// The log has been opened: never twice under one number, or what an earlier opening left behind the end of the log could
    /// be taken for a part of it.
    pub fn open_log(&mut self, summary: &RecoverySummary) {
        let now = (summary.incarnation, self.disk.bytes_written);
        let (before, written) = std::mem::replace(&mut self.opened, now);
        // Of an opening that wrote nothing there is nothing to be taken for anything.
        assert!(
            summary.incarnation > before || self.disk.bytes_written == written,
            "[replay] the log is opened as {}, and was as {before} before",
            summary.incarnation
        );
    }

    /// The process is gone, and all that it held in memory.
    pub fn forget(&mut self) {
        self.core = None;
        self.life += 1;
        self.inbox.clear();
        self.wake_at = None;
        self.timer_at = None;
        self.paused_until = 0;
        self.recovered = None;
        self.open_devices.clear();
        self.leaders.clear();
        self.applied.clear();
    }
}
