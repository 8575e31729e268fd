//! A cluster of real cores over simulated disks, links and clocks, in one thread and from one seed.
//!
//! Simulated: delays of disks and links, pauses, crashes that keep any subset of the sectors in flight, restarts,
//! partitions one way and both, connections that break and lose or delay what they carried, clocks that drift.
//! Not simulated here: bit rot beyond single flips, misdirected writes, disks that lie about durability, more members.

mod control;
mod links;

use std::collections::BTreeMap;
use std::time::Duration;

use cairn_api::ids::{ClusterId, DiskId, NodeId};
use cairn_core::Core;
use cairn_core::config::{CoreConfig, Limits, Timing};
use cairn_core::event::{DiskFault, Effect, Event, IoId};
use cairn_format::superblock::Geometry;

use crate::disk::SimDisk;
use crate::network::Link;
use crate::node::{Clock, Node};
use crate::trace::Trace;
use crate::wire;
use cairn_history::rng::Rng;

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
    pub link_latency: (u64, u64),
    pub drift_ppm_max: u64,
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
            link_latency: (20 * MICROSECOND, 300 * MICROSECOND),
            drift_ppm_max: 2_000,
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
        bytes: Vec<u8>,
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

pub struct Cluster {
    pub setup: Setup,
    pub now: u64,
    pub rng: Rng,
    pub nodes: Vec<Node>,
    pub trace: Trace,
    links: BTreeMap<(usize, usize), Link>,
    agenda: BTreeMap<(u64, u64), Happening>,
    agenda_last: u64,
    names_last: u64,
}

impl Cluster {
    /// Fresh disks, every core started.
    pub fn new(setup: Setup) -> Self {
        let mut rng = Rng::new(setup.seed);
        let mut nodes = Vec::new();
        for number in 0..setup.nodes {
            let clock = Clock {
                offset: rng.below(1_000 * SECOND),
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
            nodes.push(Node::new(config, SimDisk::new(setup.disk_bytes), clock));
        }
        let mut cluster = Self {
            setup,
            now: 0,
            rng,
            nodes,
            trace: Trace::default(),
            links: BTreeMap::new(),
            agenda: BTreeMap::new(),
            agenda_last: 0,
            names_last: 0,
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
        self.agenda.insert((at.max(self.now), self.agenda_last), happening);
    }

    /// Starts the process of a node that does not run.
    pub fn start(&mut self, number: usize) {
        let now = self.now;
        let node = &mut self.nodes[number];
        assert!(!node.is_running(), "node {number} runs already");
        // A restarted engine draws a new seed; this one stays a function of the run's.
        let mut config = node.config.clone();
        config.seed = config.seed.wrapping_add(node.life);
        let mut core = Core::new(config);
        let mut effects = Vec::new();
        core.start(node.clock.read(now), &mut effects);
        node.core = Some(core);
        self.carry_out(number, effects);
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
        let mut effects = Vec::new();
        for event in std::mem::take(&mut node.inbox) {
            core.handle(time, event, &mut effects);
        }
        core.poll(time, &mut effects);
        self.carry_out(number, effects);
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

    fn carry_out(&mut self, number: usize, effects: Vec<Effect>) {
        for effect in effects {
            self.trace.add(self.now, number, &effect);
            if std::env::var_os("CAIRN_TRACE").is_some() {
                eprintln!("{:>14} node {number}: {}", self.now, crate::trace::brief(&effect));
            }
            self.carry_out_one(number, effect);
        }
    }

    fn carry_out_one(&mut self, number: usize, effect: Effect) {
        let life = self.nodes[number].life;
        match effect {
            Effect::Send { to, message } => self.send(number, to, &message),
            Effect::Write { io, offset, buffers } => {
                self.nodes[number].disk.submit(io, offset, &buffers);
                let (from, to) = self.nodes[number].write_latency.unwrap_or(self.setup.write_latency);
                let latency = self.rng.between(from, to);
                self.plan(self.now + latency, Happening::Written { node: number, life, io });
            }
            Effect::Read { io, offset, length } => {
                let latency = self.rng.between(self.setup.read_latency.0, self.setup.read_latency.1);
                self.plan(
                    self.now + latency,
                    Happening::Read {
                        node: number,
                        life,
                        io,
                        offset,
                        length,
                    },
                );
            }
            Effect::DeviceReply { device, tag, result } => {
                let previous = self.nodes[number].replies.insert((device, tag), result);
                assert!(previous.is_none(), "two replies to {tag:?} of {device:?}");
            }
            Effect::CommandReply { id, result } => {
                let previous = self.nodes[number].command_replies.insert(id, result);
                assert!(previous.is_none(), "two replies to {id:?}");
            }
            Effect::Apply { group, index, data } => self.nodes[number].applied.push((group, index, data)),
            Effect::Recovered(summary) => {
                assert!(self.nodes[number].recovered.is_none(), "recovered twice");
                self.nodes[number].recovered = Some(summary);
            }
            Effect::DiskFailed(why) => {
                self.nodes[number].failure = Some(why);
                self.nodes[number].forget();
                self.nodes[number].disk.crash(&mut self.rng);
            }
            Effect::LeaderChanged {
                group,
                leader,
                is_local,
            } => {
                self.nodes[number].leaders.insert(group, (leader, is_local));
            }
            Effect::Measured { .. } => {}
        }
    }

    /// Does the next thing. False if nothing is left to do.
    pub fn step(&mut self) -> bool {
        let Some(((at, _), happening)) = self.agenda.pop_first() else {
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
                    let result = self.nodes[node].disk.read(offset, length);
                    self.deliver(node, Event::Read { io, result });
                }
            }
            Happening::Arrival { from, to, generation } => self.arrive(from, to, generation),
            Happening::Late { from, to, life, bytes } => {
                if self.nodes[to].life == life {
                    let messages = wire::decode(&bytes);
                    self.deliver(
                        to,
                        Event::Peer {
                            from: disk_id(from),
                            messages,
                        },
                    );
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
        let result: Option<Result<(), DiskFault>> = self.nodes[number].disk.complete(io);
        if let Some(result) = result {
            self.deliver(number, Event::Written { io, result });
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + u64::try_from(duration.as_nanos()).unwrap();
        while self.agenda.first_key_value().is_some_and(|((at, _), _)| *at <= end) {
            self.step();
        }
        self.now = end;
    }

    /// Lets time pass until something holds; false if it does not within `limit`.
    pub fn run_until(&mut self, limit: Duration, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + u64::try_from(limit.as_nanos()).unwrap();
        while !holds(self) {
            if self.agenda.first_key_value().is_none_or(|((at, _), _)| *at > end) {
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
