//! A cluster of real cores over simulated disks, links and clocks, in one thread and from one seed.
//!
//! Simulated: delays of disks and links, pauses, crashes that keep any subset of the sectors in flight, restarts,
//! partitions one way and both, connections that break and lose or delay what they carried, clocks that drift.
//! Not simulated here: bit rot beyond single flips, misdirected writes, disks that lie about durability, more members.

mod checkpoints;
mod control;
mod links;
mod secrets;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use bytes::Bytes;
use cairn_api::block::Tag;
use cairn_api::ids::{ClusterId, DiskId, GroupId, NodeId, ReplicaId};
use cairn_api::units::BLOCK_BYTES;
use cairn_core::config::{CoreConfig, Limits, Timing};
use cairn_core::event::{Damage, DeviceId, DiskFault, Effect, Event, IoId, RecoverySummary};
use cairn_format::peer::{PeerMessage, RaftKind};
use cairn_format::superblock::Geometry;
use cairn_format::{chunk, frame};

use crate::disk::SimDisk;
use crate::mutant::Mutant;
use crate::network::Link;
use crate::node::{Clock, Node};
use crate::rows::RowCounts;
use crate::trace::Trace;
use crate::wire::Packet;
use cairn_history::content::SECTOR;
use cairn_history::rng::Rng;

pub use checkpoints::SpaceCounts;
pub use control::read_bytes;

pub const MICROSECOND: u64 = 1_000;
pub const MILLISECOND: u64 = 1_000_000;
pub const SECOND: u64 = 1_000_000_000;

/// How a cluster is made.
#[derive(Clone, Debug)]
pub struct Setup {
    pub seed: u64,
    pub nodes: usize,
    pub disk_bytes: u64,
    pub segment_bytes: u64,
    pub timing: Timing,
    pub limits: Limits,
    /// Nanoseconds a disk write takes, from and to.
    pub write_latency: (u64, u64),
    pub read_latency: (u64, u64),
    /// How much a disk moves; `None` for any amount at once.
    pub disk_bytes_per_s: Option<u64>,
    pub link_latency: (u64, u64),
    pub drift_ppm_max: u64,
    pub mutant: Mutant,
}

impl Setup {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            nodes: 3,
            disk_bytes: 1 << 30,
            segment_bytes: 4 << 20,
            timing: Timing::default(),
            limits: Limits::default(),
            write_latency: (60 * MICROSECOND, 900 * MICROSECOND),
            read_latency: (40 * MICROSECOND, 300 * MICROSECOND),
            disk_bytes_per_s: None,
            link_latency: (20 * MICROSECOND, 300 * MICROSECOND),
            drift_ppm_max: 2_000,
            mutant: Mutant::default(),
        }
    }
}

/// Something that will happen.
enum Happening {
    /// A node's driver hands over what it has collected.
    Wake {
        node: usize,
        life: u64,
    },
    /// A node's timer is due.
    Timer {
        node: usize,
        life: u64,
    },
    Written {
        node: usize,
        life: u64,
        io: IoId,
    },
    Read {
        node: usize,
        life: u64,
        io: IoId,
        offset: u64,
        length: u32,
    },
    /// The next parcel of a link may have arrived.
    Arrival {
        from: usize,
        to: usize,
        generation: u64,
    },
    /// A parcel of a connection that is broken already.
    Late {
        from: usize,
        to: usize,
        life: u64,
        packet: Packet,
    },
    /// `from` tries to connect to `to`.
    Dial {
        from: usize,
        to: usize,
    },
    /// A connection that has been stuck for too long breaks.
    Break {
        from: usize,
        to: usize,
        generation: u64,
    },
}

/// Something planned; what was planned first comes first among what is due at one time.
struct Planned {
    at: u64,
    number: u64,
    happening: Happening,
}

impl Planned {
    const fn key(&self) -> Reverse<(u64, u64)> {
        Reverse((self.at, self.number))
    }
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// Something that a run may act upon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// A request has a reply, which nobody has taken yet.
    Replied { node: usize, device: DeviceId, tag: Tag },
    /// A core has given its disk up, and its process has ended.
    DiskFailed { node: usize, life: u64, why: String },
    /// A core serves.
    Recovered { node: usize },
    /// A core writes the first frame of a segment.
    SegmentBegun { node: usize },
    /// A core writes an anchor, or a chunk of a checkpoint or of moved blocks.
    SpaceWritten { node: usize },
    /// A core writes a frame whose header, at this place of the disk, is longer than a sector.
    LongHeader { node: usize, io: IoId, header_at: u64 },
    /// A node has granted its vote.
    Voted { voter: usize, candidate: usize },
    /// A leader has sent entries to a follower.
    Appended { leader: usize, group: GroupId },
    /// A leader has told its successor to campaign.
    HandedOver { leader: usize, group: GroupId },
}

pub struct Cluster {
    pub setup: Setup,
    pub now: u64,
    pub rng: Rng,
    pub nodes: Vec<Node>,
    pub trace: Trace,
    /// The rows of the recovery table that the nodes' recoveries have met.
    pub rows: RowCounts,
    /// What checkpoints and collection have done on all disks.
    pub space: SpaceCounts,
    links: BTreeMap<(usize, usize), Link>,
    agenda: BinaryHeap<Planned>,
    agenda_last: u64,
    names_last: u64,
    /// What a run wants to know at once; filled only if [`Self::takes_notice`].
    pub notices: Vec<Notice>,
    pub takes_notice: bool,
    effects: Vec<Effect>,
    secrets: secrets::Secrets,
}

impl Cluster {
    /// Fresh disks, every core started.
    pub fn new(setup: Setup) -> Self {
        let mut rng = Rng::new(setup.seed);
        let mut nodes = Vec::new();
        for number in 0..setup.nodes {
            let clock = Clock {
                offset: rng.below(1_000 * SECOND),
                since: 0,
                drift_ppm: i64::try_from(rng.between(0, 2 * setup.drift_ppm_max)).unwrap()
                    - i64::try_from(setup.drift_ppm_max).unwrap(),
            };
            let config = CoreConfig {
                cluster: ClusterId::from_bytes([0xC1; 16]),
                node: node_id(number),
                disk: disk_id(number),
                geometry: Geometry::for_device(setup.disk_bytes, setup.segment_bytes).unwrap(),
                seed: rng.draw(),
                timing: setup.timing,
                limits: setup.limits,
            };
            nodes.push(Node::new(
                config,
                SimDisk::formatted(setup.disk_bytes, disk_id(number)),
                clock,
            ));
        }
        let mut cluster = Self {
            setup,
            now: 0,
            rng,
            nodes,
            trace: Trace::default(),
            links: BTreeMap::new(),
            agenda: BinaryHeap::new(),
            agenda_last: 0,
            names_last: 0,
            notices: Vec::new(),
            takes_notice: false,
            effects: Vec::new(),
            secrets: secrets::Secrets::default(),
            rows: RowCounts::default(),
            space: SpaceCounts::default(),
        };
        for from in 0..cluster.nodes.len() {
            for to in 0..cluster.nodes.len() {
                if from != to {
                    cluster.links.insert((from, to), Link::default());
                }
            }
        }
        for number in 0..cluster.nodes.len() {
            cluster.start(number);
        }
        cluster
    }

    fn plan(&mut self, at: u64, happening: Happening) {
        self.agenda_last += 1;
        self.agenda.push(Planned {
            at: at.max(self.now),
            number: self.agenda_last,
            happening,
        });
    }

    /// Starts the process of a node that does not run.
    pub fn start(&mut self, number: usize) {
        let now = self.now;
        let node = &mut self.nodes[number];
        assert!(!node.is_running(), "node {number} runs already");
        // A restarted engine draws a new seed; this one stays a function of the run's.
        let mut config = node.config.clone();
        config.seed = config.seed.wrapping_add(node.life);
        let mut core = self.setup.mutant.core(config);
        let mut effects = Vec::new();
        core.start(node.clock.read(now), &mut effects);
        node.core = Some(core);
        self.carry_out(number, &mut effects);
        self.arm_timer(number);
        for other in (0..self.nodes.len()).filter(|other| *other != number) {
            self.plan_dial(number, other);
            self.plan_dial(other, number);
        }
    }

    /// The power of a node fails.
    pub fn crash(&mut self, number: usize) {
        assert!(self.nodes[number].is_running(), "node {number} does not run");
        let node = &mut self.nodes[number];
        node.forget();
        node.disk.crash(&mut self.rng);
        self.break_links(number);
    }

    /// The process of a node is killed; what it had given to the disk gets there.
    pub fn kill(&mut self, number: usize) {
        assert!(self.nodes[number].is_running(), "node {number} does not run");
        let node = &mut self.nodes[number];
        node.forget();
        node.disk.complete_all(&mut self.rng);
        self.break_links(number);
    }

    fn break_links(&mut self, number: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != number) {
            // What the dead node had sent may still arrive; what was on its way to it is gone.
            self.break_link(number, other);
            self.break_link(other, number);
        }
    }

    /// A node does nothing for so long (SIGSTOP); its disk and the network go on.
    pub fn pause(&mut self, number: usize, nanos: u64) {
        self.nodes[number].paused_until = self.now + nanos;
    }

    /// Lets a paused node go on.
    pub fn resume(&mut self, number: usize) {
        self.nodes[number].paused_until = self.now;
        self.wake(number);
        for other in (0..self.nodes.len()).filter(|other| *other != number) {
            self.plan_arrivals(other, number);
        }
    }

    fn wake(&mut self, number: usize) {
        let delay = self.rng.between(2 * MICROSECOND, 15 * MICROSECOND);
        let (now, node) = (self.now, &mut self.nodes[number]);
        let at = (now + delay).max(node.paused_until);
        if node.core.is_some() && node.wake_at.is_none_or(|planned| planned > at) {
            node.wake_at = Some(at);
            let life = node.life;
            self.plan(at, Happening::Wake { node: number, life });
        }
    }

    pub fn deliver(&mut self, number: usize, event: Event) {
        if self.nodes[number].is_running() {
            self.nodes[number].inbox.push(event);
            self.wake(number);
        }
    }

    fn turn(&mut self, number: usize) {
        let now = self.now;
        let node = &mut self.nodes[number];
        let Some(core) = node.core.as_mut() else { return };
        let time = node.clock.read(now);
        let mut effects = std::mem::take(&mut self.effects);
        for event in node.inbox.drain(..) {
            core.handle(time, event, &mut effects);
        }
        core.poll(time, &mut effects);
        self.carry_out(number, &mut effects);
        self.effects = effects;
        self.arm_timer(number);
    }

    fn arm_timer(&mut self, number: usize) {
        let (now, tick) = (self.now, self.setup.timing.tick);
        let node = &mut self.nodes[number];
        let Some(core) = node.core.as_ref() else { return };
        let tick_ns = u64::try_from(tick.as_nanos()).unwrap();
        let due = node
            .clock
            .when(core.next_deadline(), now)
            .clamp(now + 10 * MICROSECOND, now + tick_ns);
        if node.timer_at.is_none_or(|planned| planned <= now || planned > due) {
            node.timer_at = Some(due);
            let life = node.life;
            self.plan(due, Happening::Timer { node: number, life });
        }
    }

    fn carry_out(&mut self, number: usize, effects: &mut Vec<Effect>) {
        for effect in effects.drain(..) {
            self.trace.add(self.now, number, &effect);
            self.carry_out_one(number, effect);
        }
    }

    /// How long it takes until the disk has moved so many bytes more, behind all that it is asked for already.
    fn transfer(&mut self, number: usize, bytes: u64) -> u64 {
        let Some(bytes_per_s) = self.setup.disk_bytes_per_s else {
            return 0;
        };
        let busy_until = &mut self.nodes[number].disk_busy_until;
        *busy_until = (*busy_until).max(self.now) + bytes * SECOND / bytes_per_s;
        *busy_until - self.now
    }

    fn carry_out_one(&mut self, number: usize, effect: Effect) {
        let life = self.nodes[number].life;
        match effect {
            Effect::Send { to, message } => {
                self.watch(number, to, &message);
                self.send(number, to, &message);
            }
            Effect::Write { io, offset, buffers } => {
                self.watch_write(number, io, offset, &buffers);
                self.check_written(number, &buffers);
                let (from, to) = self.nodes[number].write_latency.unwrap_or(self.setup.write_latency);
                let bytes = buffers.iter().map(|buffer| buffer.len() as u64).sum();
                self.nodes[number].disk.submit(io, offset, buffers);
                let latency = self.rng.between(from, to) + self.transfer(number, bytes);
                self.plan(self.now + latency, Happening::Written { node: number, life, io });
            }
            Effect::Read { io, offset, length } => {
                let latency = self.rng.between(self.setup.read_latency.0, self.setup.read_latency.1);
                let at = self.now + latency + self.transfer(number, u64::from(length));
                let node = number;
                let read = Happening::Read {
                    node,
                    life,
                    io,
                    offset,
                    length,
                };
                self.plan(at, read);
            }
            Effect::DeviceReply { device, tag, result } => {
                let previous = self.nodes[number].replies.insert((device, tag), result);
                assert!(previous.is_none(), "two replies to {tag:?} of {device:?}");
                let node = number;
                self.notice(Notice::Replied { node, device, tag });
            }
            Effect::CommandReply { id, result } => {
                let previous = self.nodes[number].command_replies.insert(id, result);
                assert!(previous.is_none(), "two replies to {id:?}");
            }
            Effect::Apply { group, index, data } => self.nodes[number].applied.push((group, index, data)),
            Effect::Recovered(summary) => self.on_recovered(number, summary),
            Effect::RecoveryRefused(rows) => self.rows.count(rows),
            Effect::DiskFailed(why) => self.on_disk_failed(number, why),
            Effect::LeaderChanged {
                group,
                leader,
                is_local,
            } => self.on_leader_changed(number, group, (leader, is_local)),
            Effect::Damage {
                damage: Damage::Found, ..
            } => assert!(
                self.nodes[number].disk.was_harmed,
                "[disk] node {number} finds damage on a disk that nothing was done to"
            ),
            counted => self.count(number, &counted),
        }
    }

    /// What cores tell those who count.
    fn count(&mut self, number: usize, effect: &Effect) {
        match effect {
            Effect::CaughtUp { bytes } => self.nodes[number].caught_up_bytes += bytes,
            Effect::Throttled { nanos, .. } => {
                let throttled = &mut self.nodes[number].throttled;
                *throttled = (throttled.0 + 1, throttled.1 + nanos);
            }
            Effect::Checkpointed(report) => {
                self.space.checkpoints += 1;
                self.space.freed += report.segments_freed;
            }
            Effect::Collected(report) => {
                self.space.emptied += report.segments;
                self.space.moved += report.blocks;
            }
            _ => {}
        }
    }

    fn on_leader_changed(&mut self, number: usize, group: GroupId, (leader, is_local): (Option<ReplicaId>, bool)) {
        self.nodes[number].leaders.insert(group, (leader, is_local));
        if is_local {
            self.check_leases(number, group);
        }
    }

    fn on_recovered(&mut self, number: usize, summary: RecoverySummary) {
        self.nodes[number].open_log(&summary);
        assert!(self.nodes[number].recovered.is_none(), "recovered twice");
        self.rows.count(self.nodes[number].disk.rows_of(&summary));
        self.nodes[number].recovered = Some(summary);
        self.notice(Notice::Recovered { node: number });
    }

    /// A node begins to lead: nobody may answer reads under the lease of an earlier term any more. A node that is elected late,
    /// by votes of a term that is past, wins nothing with it.
    fn check_leases(&self, leader: usize, group: GroupId) {
        let lease = |number: usize| self.nodes[number].core.as_ref()?.lease(group);
        let Some((led, _)) = lease(leader) else { return };
        for number in (0..self.nodes.len()).filter(|number| *number != leader) {
            let now = self.nodes[number].clock.read(self.now);
            if let Some((term, Some(end))) = lease(number)
                && term < led
            {
                assert!(
                    end <= now,
                    "[lease] node {leader} leads {group} in term {led}, and node {number} may read under its lease of term \
                     {term} until {end:?}: it is {now:?}"
                );
            }
        }
    }

    /// The core gives its disk up: its process ends, and what was in flight may be torn.
    fn on_disk_failed(&mut self, number: usize, why: String) {
        let node = &mut self.nodes[number];
        let life = node.life;
        node.failure = Some(why.clone());
        node.forget();
        node.disk.crash(&mut self.rng);
        self.break_links(number);
        self.notice(Notice::DiskFailed {
            node: number,
            life,
            why,
        });
    }

    fn notice(&mut self, notice: Notice) {
        if self.takes_notice {
            self.notices.push(notice);
        }
    }

    /// Takes notice of writes that faults may wait for.
    fn watch_write(&mut self, node: usize, io: IoId, offset: u64, buffers: &[Bytes]) {
        let geometry = &self.nodes[node].config.geometry;
        let segment = geometry.segment_of(offset);
        let is_first = segment.is_some_and(|segment| geometry.segment_offset(segment) == offset);
        if let Some(segment) = segment.filter(|_| is_first) {
            self.check_begun(node, segment);
            self.notice(Notice::SegmentBegun { node });
        }
        let chunk = buffers.get(usize::from(is_first));
        if segment.is_none() || chunk.is_some_and(chunk::is_chunk) {
            self.notice(Notice::SpaceWritten { node });
        }
        let is_long = |header: &Bytes| {
            frame::header_bytes_of(header).is_ok() && header.iter().skip(SECTOR).any(|byte| *byte != 0)
        };
        if buffers.get(usize::from(is_first)).is_some_and(is_long) {
            let header_at = offset + if is_first { BLOCK_BYTES } else { 0 };
            self.notice(Notice::LongHeader { node, io, header_at });
        }
    }

    /// Takes notice of what faults may wait for.
    fn watch(&mut self, number: usize, to: DiskId, message: &PeerMessage) {
        let PeerMessage::Raft(raft) = message else { return };
        match raft.kind {
            RaftKind::RequestVoteResponse if !raft.reject => {
                let candidate = self.number_of(to);
                self.notice(Notice::Voted {
                    voter: number,
                    candidate,
                });
            }
            RaftKind::TimeoutNow => self.notice(Notice::HandedOver {
                leader: number,
                group: raft.group,
            }),
            RaftKind::Append if !raft.entries.is_empty() => self.notice(Notice::Appended {
                leader: number,
                group: raft.group,
            }),
            _ => {}
        }
    }

    /// Does the next thing. False if nothing is left to do.
    pub fn step(&mut self) -> bool {
        let Some(Planned { at, happening, .. }) = self.agenda.pop() else {
            return false;
        };
        assert!(at >= self.now);
        self.now = at;
        match happening {
            Happening::Wake { node, life } => self.on_wake(node, life),
            Happening::Timer { node, life } => self.on_timer(node, life),
            Happening::Written { node, life, io } => self.on_written(node, life, io),
            Happening::Read {
                node,
                life,
                io,
                offset,
                length,
            } => {
                if self.nodes[node].life == life {
                    let result = self.nodes[node].disk.try_read(offset, length, &mut self.rng);
                    self.deliver(node, Event::Read { io, result });
                }
            }
            Happening::Arrival { from, to, generation } => self.arrive(from, to, generation),
            Happening::Late { from, to, life, packet } => {
                if self.nodes[to].life == life {
                    self.receive(from, to, &packet);
                }
            }
            Happening::Dial { from, to } => self.dial(from, to),
            Happening::Break { from, to, generation } => {
                let link = &self.links[&(from, to)];
                if link.generation == generation && link.is_blocked && link.stuck_since.is_some() {
                    self.break_link(from, to);
                }
            }
        }
        true
    }

    fn on_wake(&mut self, number: usize, life: u64) {
        let node = &mut self.nodes[number];
        if node.life != life || node.wake_at != Some(self.now) {
            return;
        }
        node.wake_at = None;
        if node.paused_until > self.now {
            self.wake(number);
            return;
        }
        self.turn(number);
    }

    fn on_timer(&mut self, number: usize, life: u64) {
        let node = &mut self.nodes[number];
        if node.life != life || node.timer_at != Some(self.now) {
            return;
        }
        node.timer_at = None;
        if node.paused_until > self.now {
            let at = node.paused_until;
            node.timer_at = Some(at);
            self.plan(at, Happening::Timer { node: number, life });
            return;
        }
        node.inbox.push(Event::Tick);
        self.turn(number);
    }

    fn on_written(&mut self, number: usize, life: u64, io: IoId) {
        if self.nodes[number].life != life {
            return;
        }
        if self.nodes[number].stalled_until > self.now {
            let at = self.nodes[number].stalled_until;
            self.plan(at, Happening::Written { node: number, life, io });
            return;
        }
        let result: Option<Result<(), DiskFault>> = self.nodes[number].disk.complete(io, &mut self.rng);
        if let Some(result) = result {
            self.deliver(number, Event::Written { io, result });
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + u64::try_from(duration.as_nanos()).unwrap();
        while self.next_at().is_some_and(|at| at <= end) {
            self.step();
        }
        self.now = end;
    }

    /// Time passes without anything happening.
    pub fn advance_to(&mut self, at: u64) {
        assert!(self.next_at().is_none_or(|next| next >= at), "something happens before");
        self.now = self.now.max(at);
    }

    /// When the next thing happens.
    pub fn next_at(&self) -> Option<u64> {
        self.agenda.peek().map(|planned| planned.at)
    }

    /// How many things are planned.
    pub fn agenda_length(&self) -> usize {
        self.agenda.len()
    }

    /// Lets time pass until something holds; false if it does not within `limit`.
    pub fn run_until(&mut self, limit: Duration, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + u64::try_from(limit.as_nanos()).unwrap();
        while !holds(self) {
            if self.next_at().is_none_or(|at| at > end) {
                return false;
            }
            self.step();
        }
        true
    }
}

pub fn node_id(number: usize) -> NodeId {
    NodeId::from_bytes([0xA0 + u8::try_from(number).unwrap(); 16])
}

pub fn disk_id(number: usize) -> DiskId {
    DiskId::from_bytes([0xD0 + u8::try_from(number).unwrap(); 16])
}
