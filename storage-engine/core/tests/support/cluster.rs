//! A cluster of real cores over simulated disks, links and clocks, in one thread and from one seed.
//!
//! Simulated: delays of disks and links, pauses, crashes that keep any subset of the sectors in flight, restarts,
//! partitions one way and both, connections that break and lose or delay what they carried, clocks that drift.
//! Not simulated here: bit rot beyond single flips, misdirected writes, disks that lie about durability, more members.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use cairn_api::block::{BlockOp, DeviceInfo, Tag};
use cairn_api::ids::{ClusterId, DiskId, GroupId, NodeId, ReplicaId};
use cairn_api::units::{BLOCK_BYTES, BLOCK_SIZE, Lba};
use cairn_core::Core;
use cairn_core::config::{CoreConfig, Limits, Timing};
use cairn_core::event::{
    Command, CommandError, CommandId, CommandReply, DeviceId, DiskFault, Effect, Event, GroupSpec, GroupStatus, IoId,
    Member,
};
use cairn_core::map::Run;
use cairn_format::peer::PeerMessage;
use cairn_format::superblock::Geometry;

use super::disk::SimDisk;
use super::network::Link;
use super::node::{Clock, DeviceResult, Node};
use super::rng::Rng;
use super::trace::Trace;
use super::wire;

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
                seed: rng.next(),
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

    // ---- Processes ----

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
                eprintln!("{:>14} node {number}: {}", self.now, super::trace::brief(&effect));
            }
            self.carry_out_one(number, effect);
        }
    }

    fn carry_out_one(&mut self, number: usize, effect: Effect) {
        let life = self.nodes[number].life;
        match effect {
            Effect::Send { to, message } => self.send(number, to, message),
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

    // ---- Network ----

    fn send(&mut self, from: usize, to: DiskId, message: PeerMessage) {
        let to = self.number_of(to);
        assert_ne!(from, to, "a message to oneself");
        let accounted = cairn_core::message_bytes(&message);
        let Some(link) = self.links.get_mut(&(from, to)) else {
            return;
        };
        if !link.is_up {
            return;
        }
        link.send(wire::encode(&message), accounted);
        self.pump(from, to);
    }

    fn pump(&mut self, from: usize, to: usize) {
        let now = self.now;
        let latency = self.setup.link_latency;
        let Some(link) = self.links.get_mut(&(from, to)) else {
            return;
        };
        let (drained, arrivals) = link.pump(now, latency, &mut self.rng);
        let generation = link.generation;
        for at in arrivals {
            self.plan(at, Happening::Arrival { from, to, generation });
        }
        self.note_stuck(from, to);
        if drained > 0 {
            self.deliver(
                from,
                Event::PeerDrained {
                    to: disk_id(to),
                    bytes: drained,
                },
            );
        }
    }

    /// A connection that cannot deliver breaks after a while.
    fn note_stuck(&mut self, from: usize, to: usize) {
        let now = self.now;
        let patience = self.rng.between(800 * MILLISECOND, 4 * SECOND);
        let Some(link) = self.links.get_mut(&(from, to)) else {
            return;
        };
        if link.is_up && link.is_blocked && link.has_parcels() && link.stuck_since.is_none() {
            link.stuck_since = Some(now);
            let generation = link.generation;
            self.plan(now + patience, Happening::Break { from, to, generation });
        }
    }

    fn arrive(&mut self, from: usize, to: usize, generation: u64) {
        let now = self.now;
        if self.nodes[to].paused_until > now {
            let resumed = self.nodes[to].paused_until;
            self.plan(resumed, Happening::Arrival { from, to, generation });
            return;
        }
        let Some(link) = self.links.get_mut(&(from, to)) else {
            return;
        };
        if link.generation != generation || link.is_blocked {
            return;
        }
        if let Some(parcel) = link.receive(now) {
            let messages = wire::decode(&parcel.bytes);
            self.deliver(
                to,
                Event::Peer {
                    from: disk_id(from),
                    messages,
                },
            );
            self.pump(from, to);
        }
    }

    fn plan_arrivals(&mut self, from: usize, to: usize) {
        let Some(link) = self.links.get(&(from, to)) else {
            return;
        };
        let generation = link.generation;
        // More than there can be parcels in a socket of this size matters little: an arrival without a parcel is nothing.
        for i in 0..512 {
            self.plan(self.now + i * MICROSECOND, Happening::Arrival { from, to, generation });
        }
    }

    fn plan_dial(&mut self, from: usize, to: usize) {
        let delay = self.rng.between(MILLISECOND, 150 * MILLISECOND);
        self.plan(self.now + delay, Happening::Dial { from, to });
    }

    fn dial(&mut self, from: usize, to: usize) {
        let running = self.nodes[from].is_running() && self.nodes[to].is_running();
        let Some(link) = self.links.get_mut(&(from, to)) else {
            return;
        };
        if link.is_up || !running {
            return;
        }
        if link.is_blocked || self.nodes[from].recovered.is_none() || self.nodes[to].recovered.is_none() {
            self.plan_dial(from, to);
            return;
        }
        link.is_up = true;
        self.deliver(from, Event::PeerUp(disk_id(to)));
    }

    pub fn break_link(&mut self, from: usize, to: usize) {
        let Some(link) = self.links.get_mut(&(from, to)) else {
            return;
        };
        if !link.is_up {
            return;
        }
        let (dropped, late) = link.break_off(&mut self.rng);
        let life = self.nodes[to].life;
        let delay = self.rng.below(800 * MILLISECOND);
        for (i, parcel) in (0..).zip(late) {
            let at = self.now + delay + i * MICROSECOND;
            self.plan(
                at,
                Happening::Late {
                    from,
                    to,
                    life,
                    bytes: parcel.bytes,
                },
            );
        }
        let drained = Event::PeerDrained {
            to: disk_id(to),
            bytes: dropped,
        };
        let down = Event::PeerDown(disk_id(to));
        if self.rng.chance(50) {
            self.deliver(from, drained);
            self.deliver(from, down);
        } else {
            self.deliver(from, down);
            self.deliver(from, drained);
        }
        self.plan_dial(from, to);
    }

    /// Stops what `from` sends to `to`, in this direction only.
    pub fn block(&mut self, from: usize, to: usize) {
        if let Some(link) = self.links.get_mut(&(from, to)) {
            link.is_blocked = true;
        }
        self.note_stuck(from, to);
    }

    pub fn unblock(&mut self, from: usize, to: usize) {
        if let Some(link) = self.links.get_mut(&(from, to)) {
            if !link.is_blocked {
                return;
            }
            link.is_blocked = false;
            link.stuck_since = None;
        }
        self.plan_arrivals(from, to);
        self.plan_dial(from, to);
    }

    /// Cuts a node off from all others, both ways.
    pub fn isolate(&mut self, number: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != number) {
            self.block(number, other);
            self.block(other, number);
        }
    }

    /// Two nodes hear each other again.
    pub fn heal_between(&mut self, one: usize, other: usize) {
        self.unblock(one, other);
        self.unblock(other, one);
    }

    /// Bytes that the driver of `from` holds for `to`.
    pub fn queued_bytes(&self, from: usize, to: usize) -> usize {
        self.links[&(from, to)].queued_bytes()
    }

    /// Every link works again.
    pub fn heal(&mut self) {
        let pairs: Vec<(usize, usize)> = self.links.keys().copied().collect();
        for (from, to) in pairs {
            self.unblock(from, to);
        }
    }

    fn number_of(&self, disk: DiskId) -> usize {
        self.nodes
            .iter()
            .position(|node| node.config.disk == disk)
            .unwrap_or_else(|| panic!("no {disk:?} here"))
    }

    // ---- Time ----

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

    // ---- The control plane and the frontends ----

    fn next_name(&mut self) -> u64 {
        self.names_last += 1;
        self.names_last
    }

    /// A volume (or, of size 0, a meta group) with a replica on each of the first `members` nodes.
    pub fn spec(&self, group: GroupId, size_blocks: u64, members: usize) -> GroupSpec {
        let member = |number| Member {
            replica: ReplicaId(number as u64 + 1),
            node: node_id(number),
            disk: disk_id(number),
        };
        GroupSpec {
            group,
            size_blocks,
            members: (0..members).map(member).collect(),
        }
    }

    pub fn start_command(&mut self, number: usize, command: Command) -> CommandId {
        let id = CommandId(self.next_name());
        self.deliver(number, Event::Command { id, command });
        id
    }

    pub fn command(&mut self, number: usize, command: Command) -> Result<CommandReply, CommandError> {
        let id = self.start_command(number, command);
        let replied = self.run_until(Duration::from_secs(30), |cluster| {
            cluster.nodes[number].command_replies.contains_key(&id)
        });
        assert!(replied, "no reply to a command of node {number} within 30 s");
        self.nodes[number].command_replies.remove(&id).unwrap()
    }

    /// Makes a group on all its members, and waits until it has a leader that all of them know.
    pub fn create(&mut self, spec: &GroupSpec) {
        self.settle_start();
        for member in &spec.members {
            let number = self.number_of(member.disk);
            assert_eq!(
                self.command(number, Command::CreateGroup(spec.clone())),
                Ok(CommandReply::Done)
            );
        }
        self.await_leader(spec.group, Duration::from_secs(10));
    }

    /// Waits until all running cores have recovered.
    pub fn settle_start(&mut self) {
        let settled = self.run_until(Duration::from_secs(30), |cluster| {
            cluster
                .nodes
                .iter()
                .all(|node| !node.is_running() || node.recovered.is_some())
        });
        assert!(settled, "a core does not recover");
    }

    /// The running node that says it leads the group, if it is only one.
    pub fn leader(&self, group: GroupId) -> Option<usize> {
        let leaders: Vec<usize> = (0..self.nodes.len())
            .filter(|number| self.nodes[*number].leads(group))
            .collect();
        if let [leader] = leaders[..] { Some(leader) } else { None }
    }

    pub fn await_leader(&mut self, group: GroupId, limit: Duration) -> usize {
        let found = self.run_until(limit, |cluster| cluster.leader(group).is_some());
        assert!(found, "no leader of group {group} within {limit:?}");
        self.leader(group).unwrap()
    }

    pub fn status(&mut self, number: usize, group: GroupId) -> GroupStatus {
        match self.command(number, Command::Inspect) {
            Ok(CommandReply::Groups(groups)) => groups
                .into_iter()
                .find(|status| status.spec.group == group)
                .unwrap_or_else(|| panic!("node {number} has no group {group}")),
            other => panic!("node {number} cannot be inspected: {other:?}"),
        }
    }

    pub fn open(&mut self, number: usize, spec: &GroupSpec) -> DeviceId {
        let device = DeviceId(self.next_name());
        let info = DeviceInfo {
            name: format!("volume-{}", spec.group),
            description: String::new(),
            size_bytes: spec.size_blocks * 4096,
            read_only: false,
        };
        self.nodes[number].open_devices.insert(device);
        self.deliver(
            number,
            Event::OpenDevice {
                device,
                spec: spec.clone(),
                info,
            },
        );
        device
    }

    pub fn close(&mut self, number: usize, device: DeviceId) {
        self.nodes[number].open_devices.remove(&device);
        self.deliver(number, Event::CloseDevice(device));
    }

    pub fn submit(&mut self, number: usize, device: DeviceId, op: BlockOp) -> Tag {
        let tag = Tag(self.next_name());
        self.deliver(number, Event::Device { device, tag, op });
        tag
    }

    pub fn take_reply(&mut self, number: usize, device: DeviceId, tag: Tag) -> Option<DeviceResult> {
        self.nodes[number].replies.remove(&(device, tag))
    }

    /// A request and its reply, within `limit`.
    pub fn call_within(
        &mut self,
        number: usize,
        device: DeviceId,
        op: BlockOp,
        limit: Duration,
    ) -> Option<DeviceResult> {
        let tag = self.submit(number, device, op);
        self.run_until(limit, |cluster| {
            cluster.nodes[number].replies.contains_key(&(device, tag))
        });
        self.take_reply(number, device, tag)
    }

    pub fn call(&mut self, number: usize, device: DeviceId, op: BlockOp) -> DeviceResult {
        let what = format!("{op:?}").chars().take(80).collect::<String>();
        let limit = Duration::from_secs(60);
        self.call_within(number, device, op, limit)
            .unwrap_or_else(|| panic!("no reply to {what} within {limit:?}"))
    }

    /// Waits until every running member holds the same log, all of it applied; then checks that all hold the same data.
    pub fn quiesce(&mut self, spec: &GroupSpec) {
        let members: Vec<usize> = spec.members.iter().map(|member| self.number_of(member.disk)).collect();
        for _ in 0..600 {
            self.run(Duration::from_millis(100));
            let running: Vec<usize> = members
                .iter()
                .copied()
                .filter(|n| self.nodes[*n].is_running())
                .collect();
            let states: Vec<GroupStatus> = running.iter().map(|number| self.status(*number, spec.group)).collect();
            let first = &states[0];
            let level = states.iter().all(|state| {
                (state.last, state.applied, state.committed) == (first.last, first.last, first.last)
                    && state.leader.is_some()
            });
            if level {
                self.check_equal(spec.group, &running, &states);
                return;
            }
        }
        panic!("the replicas of group {} do not level within 60 s", spec.group);
    }

    fn check_equal(&mut self, group: GroupId, numbers: &[usize], states: &[GroupStatus]) {
        let first = self.command(numbers[0], Command::Digest(group));
        for (number, state) in numbers.iter().zip(states) {
            let digest = self.command(*number, Command::Digest(group));
            assert!(matches!(digest, Ok(CommandReply::Digest(_))), "{digest:?}");
            assert_eq!(digest, first, "node {number}'s replica of {group} differs");
            assert_eq!(state.epoch, states[0].epoch);
            assert_eq!(state.holder, states[0].holder);
            assert_eq!(state.allocated_blocks, states[0].allocated_blocks);
        }
    }

    /// Every block that the map of `number` knows is on its disk already, with the checksum that the map has.
    pub fn check_applied_is_durable(&self, number: usize, group: GroupId) {
        let node = &self.nodes[number];
        let Some(map) = node.core.as_ref().and_then(|core| core.map(group)) else {
            return;
        };
        for run in map.runs(Lba(0), map.size_blocks()) {
            let Run::Data { block, crcs, .. } = run else { continue };
            for (i, crc) in (0..).zip(crcs.iter()) {
                let data = node.disk.read((block.0 + i) * BLOCK_BYTES, BLOCK_SIZE).unwrap();
                assert_eq!(
                    crc32c::crc32c(&data),
                    *crc,
                    "{block:?} + {i} is applied but not on the disk"
                );
            }
        }
    }

    /// How many of the members' disks durably hold a sector with this stamp.
    pub fn durable_copies(&self, spec: &GroupSpec, stamp: u64) -> usize {
        spec.members
            .iter()
            .filter(|member| self.nodes[self.number_of(member.disk)].disk.has_stamp(stamp))
            .count()
    }
}

pub fn node_id(number: usize) -> NodeId {
    NodeId::from_bytes([0xA0 + u8::try_from(number).unwrap(); 16])
}

pub fn disk_id(number: usize) -> DiskId {
    DiskId::from_bytes([0xD0 + u8::try_from(number).unwrap(); 16])
}

/// The payload of a reply to a read.
pub fn read_bytes(reply: DeviceResult) -> Bytes {
    use cairn_api::block::{BlockReply, ReadPiece};
    match reply {
        Ok(BlockReply::Read(pieces)) => {
            let mut bytes = Vec::new();
            for piece in pieces {
                match piece {
                    ReadPiece::Data(data) => bytes.extend_from_slice(&data),
                    ReadPiece::Zeros(count) => bytes.resize(bytes.len() + usize::try_from(count).unwrap(), 0),
                }
            }
            bytes.into()
        }
        other => panic!("not the reply of a read: {other:?}"),
    }
}
