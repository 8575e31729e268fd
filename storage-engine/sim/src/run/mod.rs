//! Carries out a scenario: a cluster, its users, the faults as they come, and the checks.
//!
//! # The course of a run
//! 1. The volumes are made, and lead.
//! 2. Clients read and write; faults come and go. Every reply is checked against what it can be.
//! 3. A majority heals, and every other fault stays for good: the volumes must serve again within
//!    [`finish::SERVES_WITHIN`].
//! 4. Everything heals: whatever was asked for ends, the replicas become equal, block for block, and hold what the
//!    history says; then all lose power, and what fresh cores make of the disks is the same again.

mod agenda;
mod bounds;
mod clones;
mod finish;
mod growth;
mod inject;
mod members;
mod meta;
mod snapshots;
mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cairn_api::ids::GroupId;
use cairn_core::config::{ScrubSettings, SpaceSettings};
use cairn_core::event::DeviceId;
use cairn_history::rng::Rng;
use serde::{Deserialize, Serialize};

use crate::atlas::Atlas;
use crate::check::{Violation, catching};
use crate::cluster::{Cluster, MICROSECOND, MILLISECOND, Notice, Setup, SpaceCounts};
use crate::mutant::Mutant;
use crate::rows::RowCounts;
use crate::scenario::{Kind, Scenario};

use self::agenda::{Act, Agenda};
use self::clones::Clones;
use self::inject::Ambushes;
use self::members::Replacement;
use self::meta::Meta;
use self::snapshots::Snapshots;
use self::users::Users;

/// From one pass of scrubbing to the next: some in each run.
const SCRUBBED_EVERY: Duration = Duration::from_secs(10);
/// Between two checks of the bounds.
const BOUNDS_EVERY: u64 = 250 * MILLISECOND;

/// What came of a run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub seed: u64,
    pub simulated_ns: u64,
    /// Faults that took effect, by kind.
    pub injected: BTreeMap<Kind, u64>,
    /// Recoveries that met a row of the recovery table, by row.
    pub rows: RowCounts,
    /// What checkpoints and collection did.
    pub space: SpaceCounts,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Sectors that were read and checked.
    pub checked: u64,
    /// Requests that ended with an error that the faults explain.
    pub refused: u64,
    /// How long after a majority healed every volume had served.
    pub served_after_ns: u64,
    /// A digest of everything the cores did, and how many effects it is of.
    pub trace: (u64, u64),
    pub violation: Option<Violation>,
}

/// How a run is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Watch {
    /// Print what happens.
    pub is_printing: bool,
    /// What is wrong with the cores, to test the checks.
    pub mutant: Mutant,
}

/// Carries out a scenario.
pub fn run(scenario: &Scenario, watch: Watch) -> Outcome {
    let mut run = None;
    let result = catching(|| {
        let run = run.insert(Run::new(scenario, watch));
        run.go();
    });
    let mut outcome = run.map_or_else(Outcome::default, |run| run.outcome());
    outcome.seed = scenario.seed;
    outcome.violation = result.err();
    outcome
}

pub(crate) struct Run<'a> {
    scenario: &'a Scenario,
    cluster: Cluster,
    rng: Rng,
    users: Vec<Users>,
    /// Of each volume, the replica that is being replaced.
    replacements: Vec<Option<Replacement>>,
    snapshots: Vec<Snapshots>,
    meta: Meta,
    /// Of the volumes that have any.
    clones: Vec<Option<Clones>>,
    /// The volume that each open device is of.
    devices: BTreeMap<DeviceId, usize>,
    agenda: Agenda,
    /// How many faults cut each direction of each link.
    cuts: BTreeMap<(usize, usize), u32>,
    atlas: Atlas,
    /// Nodes whose disks are gone, or were given up for what had happened to them.
    lost: BTreeSet<usize>,
    /// Nodes whose disks have acknowledged what they did not write.
    liars: BTreeSet<usize>,
    ambushes: Ambushes,
    /// Nodes whose next write was made to fail, and how long they stay down after it.
    failing: BTreeMap<usize, u64>,
    /// Nodes that hand over what they lead, and are to be restarted.
    draining: BTreeSet<usize>,
    /// Faults are over: what is down comes up only if it is to.
    is_healing: bool,
    injected: BTreeMap<Kind, u64>,
    served_after_ns: u64,
    /// A volume is not served because a disk that its majority needs is full.
    is_short_of_room: bool,
}

fn setup_of(scenario: &Scenario, mutant: Mutant) -> Setup {
    let span = |(from, to): (u64, u64)| (from * MICROSECOND, to * MICROSECOND);
    let mut setup = Setup {
        nodes: scenario.nodes,
        disk_bytes: scenario.disk_mib << 20,
        segment_bytes: scenario.segment_mib << 20,
        write_latency: span(scenario.write_latency_us),
        read_latency: span(scenario.read_latency_us),
        link_latency: span(scenario.link_latency_us),
        drift_ppm_max: 0,
        mutant,
        ..Setup::new(scenario.seed)
    };
    setup.limits.link_bytes_max = scenario.link_bytes_max;
    setup.limits.headers_kept_max = scenario.headers_kept_max;
    setup.limits.log_kept_max = scenario.log_kept_max;
    setup.limits.catch_up_rate = scenario.catch_up_mib_per_s << 20;
    setup.limits.flatten_rate = scenario.flatten_kib_per_s << 10;
    let segments = scenario.disk_mib / scenario.segment_mib;
    setup.limits.space = SpaceSettings {
        window_segments_max: Some(scenario.window_segments_max).filter(|max| *max > 0),
        free_segments_low: scenario
            .collects_always
            .then_some((segments - 8).try_into().unwrap_or(u32::MAX)),
    };
    setup.limits.move_leadership = scenario.move_leadership;
    setup.limits.scrub = ScrubSettings {
        bytes_per_s: scenario.scrub_mib_per_s << 20,
        every: SCRUBBED_EVERY,
    };
    setup
}

fn group_of(volume: usize) -> GroupId {
    GroupId(GroupId::FIRST_VOLUME.get() + volume as u64)
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Scenario, watch: Watch) -> Self {
        let mut cluster = Cluster::new(setup_of(scenario, watch.mutant));
        cluster.trace.is_printing |= watch.is_printing;
        cluster.takes_notice = true;
        for (node, ppm) in cluster.nodes.iter_mut().zip(&scenario.drift_ppm) {
            node.clock.set_rate(0, *ppm);
            node.disk.spoils_torn = true;
        }
        Self {
            scenario,
            cluster,
            rng: Rng::new(scenario.seed ^ 0x4E75_4E21),
            users: Vec::new(),
            replacements: Vec::new(),
            snapshots: Vec::new(),
            meta: Meta::default(),
            clones: Vec::new(),
            devices: BTreeMap::new(),
            agenda: Agenda::default(),
            cuts: BTreeMap::new(),
            atlas: Atlas::new(scenario),
            lost: BTreeSet::new(),
            liars: BTreeSet::new(),
            ambushes: Ambushes::default(),
            failing: BTreeMap::new(),
            draining: BTreeSet::new(),
            is_healing: false,
            injected: BTreeMap::new(),
            served_after_ns: 0,
            is_short_of_room: false,
        }
    }

    fn outcome(self) -> Outcome {
        let sum = |what: fn(&Users) -> u64| self.users.iter().map(what).sum();
        Outcome {
            seed: self.scenario.seed,
            simulated_ns: self.cluster.now,
            acknowledged: sum(|users| users.load.history.acknowledged),
            checked: sum(|users| users.load.history.checked),
            refused: sum(|users| users.load.refusals),
            served_after_ns: self.served_after_ns,
            trace: self.cluster.trace.digest(),
            injected: self.injected,
            rows: self.cluster.rows,
            space: self.cluster.space,
            violation: None,
        }
    }

    fn go(&mut self) {
        for volume in 0..self.scenario.volumes.len() {
            self.create(volume);
        }
        self.create_meta();
        let start = self.cluster.now;
        self.cluster.notices.clear();
        for (place, planned) in self.scenario.faults.iter().enumerate() {
            self.agenda.plan(start + planned.at_us * MICROSECOND, Act::Fault(place));
        }
        for volume in 0..self.users.len() {
            self.begin_users(volume);
            self.begin_snapshots(volume);
            self.begin_clones(volume);
        }
        self.agenda.plan(start, Act::CheckBounds);
        self.run_to(start + self.scenario.heal_at_us * MICROSECOND);
        self.heal_majority();
        if self.is_short_of_room {
            // What cannot be served cannot come to an end either. Whatever was read until then was right.
            return;
        }
        self.heal_all();
        self.verify();
    }

    fn create(&mut self, volume: usize) {
        let plan = &self.scenario.volumes[volume];
        let spec = self.cluster.spec_on(group_of(volume), plan.blocks, &plan.members);
        self.cluster.create(&spec);
        if plan.encrypted {
            self.cluster.encrypt(spec.group, users::stamps_of(volume));
        }
        self.users.push(Users::new(self.scenario, volume, spec));
        self.replacements.push(None);
        self.snapshots.push(Snapshots::default());
        let clones = self.scenario.volumes[volume].clones;
        self.clones
            .push(clones.then(|| Clones::new(self.scenario.seed, volume)));
    }

    /// Lets everything happen up to `end`.
    fn run_to(&mut self, end: u64) {
        loop {
            let cluster_at = self.cluster.next_at().unwrap_or(u64::MAX);
            let act_at = self.agenda.next_at().unwrap_or(u64::MAX);
            if cluster_at.min(act_at) > end {
                break;
            }
            if cluster_at <= act_at {
                self.cluster.step();
            } else if let Some(act) = self.agenda.pop() {
                self.cluster.advance_to(act_at);
                self.act(act);
            }
            self.heed();
        }
        self.cluster.advance_to(end);
    }

    /// Lets everything happen until something holds; false if it does not within `limit`.
    fn run_until(&mut self, limit: Duration, mut holds: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.cluster.now + u64::try_from(limit.as_nanos()).unwrap();
        while !holds(self) {
            if self.cluster.now >= end {
                return false;
            }
            self.run_to((self.cluster.now + 2 * MILLISECOND).min(end));
        }
        true
    }

    /// Acts upon what the cluster has given notice of.
    fn heed(&mut self) {
        if self.cluster.notices.is_empty() {
            return;
        }
        let mut notices = std::mem::take(&mut self.cluster.notices);
        for notice in notices.drain(..) {
            match notice {
                Notice::Replied { node, device, tag } => self.on_reply(node, device, tag),
                Notice::DiskFailed { node, life, why } => self.on_disk_failed(node, life, &why),
                Notice::Recovered { node } => {
                    self.start_applying(node);
                    self.on_recovered(node);
                }
                Notice::SegmentBegun { node } => self.on_segment_begun(node),
                Notice::SpaceWritten { node } => self.on_space_written(node),
                Notice::LongHeader { node, io, header_at } => self.on_long_header(node, io, header_at),
                Notice::Voted { voter, candidate } => self.on_vote(voter, candidate),
                Notice::Appended { leader, group } => self.on_append(leader, group),
                Notice::HandedOver { leader, group } => self.on_handed_over(leader, group),
            }
        }
        if self.cluster.notices.is_empty() {
            self.cluster.notices = notices;
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Fault(place) => self.inject(place),
            Act::Submit { volume, slot, opening } => self.submit(volume, slot, opening),
            Act::Reopen { volume, slot } => self.reopen(volume, slot),
            Act::Stray { volume, device } => self.stray(volume, device),
            Act::CloseStray { volume, device } => self.close_stray(volume, device),
            Act::CheckBounds => {
                self.check_bounds();
                self.agenda.plan(self.cluster.now + BOUNDS_EVERY, Act::CheckBounds);
            }
            Act::Start(node) => self.start(node),
            Act::Crash { node, life, down } => self.crash_life(node, life, down),
            Act::Isolate { node, direction, cut } => self.partition(&[node], direction, cut),
            Act::Delay { node, by } => self.delay_to(node, by),
            Act::Away { volume, node } => self.move_away(volume, node),
            Act::BreakLink(from, to) => self.cluster.break_link(from, to),
            Act::Resume(node) => self.resume(node),
            Act::Join(from, to) => self.join(from, to),
            Act::Unclog(from, to) => self.cluster.clog(from, to, None),
            Act::FastDisk(node) => self.cluster.nodes[node].write_latency = None,
            Act::Readable(node) => {
                self.cluster.nodes[node].disk.read_errors_percent = 0;
                self.cluster.nodes[node].disk.misreads_percent = 0;
            }
            Act::ClockRate(node, ppm) => self.set_clock_rate(node, ppm),
            Act::Replace { volume, node } => {
                self.replace(volume, node, node);
            }
            Act::Snapshots(volume) => self.snapshots(volume),
            Act::Clones(volume) => self.clones(volume),
            Act::Administer(volume) => self.administer(volume),
            Act::Grow(volume) => self.drive_growth(volume),
            Act::Calm(volume) => self.users[volume].calm(),
            Act::Propose => self.propose(),
        }
    }

    fn count(&mut self, kind: Kind) {
        *self.injected.entry(kind).or_default() += 1;
    }
}
