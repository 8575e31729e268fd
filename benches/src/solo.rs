//! One core on a disk in memory, in time that the benchmark makes: what it writes and how long it takes is the same in every run.
//!
//! The disk does one thing after another at its bandwidth, and answers after its latency. Clients submit when they like. Time
//! goes from one event to the next, as in a simulator; the processor's own time does not count in it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use cairn_api::block::{BlockError, BlockOp, BlockReply, DeviceInfo, Tag};
use cairn_api::ids::{ClusterId, DiskId, GroupId, NodeId, ReplicaId};
use cairn_core::Core;
use cairn_core::config::{CoreConfig, Limits, Timing};
use cairn_core::event::{
    CheckpointReport, CollectionReport, Command, CommandError, CommandId, CommandReply, DeviceId, Effect, Event,
    GroupSpec, Member, RecoverySummary, SpaceStatus,
};
use cairn_core::time::Timestamp;
use cairn_format::superblock::Geometry;

use crate::disk::{MemoryDisk, Payload};

const NODE: NodeId = NodeId::from_bytes([0xA0; 16]);
const DISK: DiskId = DiskId::from_bytes([0xD0; 16]);
const BLOCK: u64 = 4096;

/// How a disk keeps time.
#[derive(Debug, Clone, Copy)]
pub struct DiskModel {
    /// From the end of the transfer to the answer.
    pub latency: Duration,
    /// Of reads and writes together.
    pub bytes_per_s: u64,
}

impl DiskModel {
    /// A disk whose time does not count.
    pub const INSTANT: Self = Self {
        latency: Duration::from_nanos(100),
        bytes_per_s: u64::MAX,
    };
    /// About a good NVMe disk.
    pub const FLASH: Self = Self {
        latency: Duration::from_micros(60),
        bytes_per_s: 1 << 30,
    };
}

/// An event that will come.
struct Coming {
    at: u64,
    /// Those of one moment keep the order in which they were made.
    number: u64,
    event: Event,
}

impl PartialEq for Coming {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Coming {}

impl PartialOrd for Coming {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Coming {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// What the core has said of its own work since it was started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Work {
    /// Checkpoints.
    pub checkpoints: u64,
    /// Blocks that were moved.
    pub blocks_moved: u64,
    /// Segments that were emptied.
    pub segments_emptied: u64,
}

/// How a start went.
#[derive(Debug)]
pub struct Recovery {
    /// From the start to the end of recovery, in the processor's time.
    pub took: Duration,
    /// Bytes that were read for it.
    pub read_bytes: u64,
    /// What it found.
    pub summary: RecoverySummary,
}

/// See the module.
pub struct Solo {
    core: Core,
    config: CoreConfig,
    disk: MemoryDisk,
    model: DiskModel,
    now: u64,
    /// The disk has something to do until then.
    busy_until: u64,
    coming: BinaryHeap<Reverse<Coming>>,
    number: u64,
    effects: Vec<Effect>,
    replies: VecDeque<(Tag, Result<BlockReply, BlockError>)>,
    command_replies: VecDeque<(CommandId, Result<CommandReply, CommandError>)>,
    recovered: Option<RecoverySummary>,
    /// The last name that was given to anything.
    name_last: u64,
    work: Work,
}

impl Solo {
    /// A core on a disk that was just formatted.
    pub fn new(geometry: Geometry, limits: Limits, model: DiskModel) -> Self {
        Self::on(MemoryDisk::formatted(geometry, DISK), limits, model).0
    }

    /// A core on a disk that another has used, and what its start took.
    ///
    /// # Panics
    /// If the disk is refused.
    pub fn on(disk: MemoryDisk, limits: Limits, model: DiskModel) -> (Self, Recovery) {
        let config = CoreConfig {
            cluster: ClusterId::from_bytes([0xC1; 16]),
            node: NODE,
            disk: DISK,
            geometry: disk.geometry(),
            seed: 1,
            timing: Timing::default(),
            limits,
        };
        let mut solo = Self {
            core: Core::new(config.clone()),
            config,
            disk,
            model,
            now: 1_000_000_000,
            busy_until: 0,
            coming: BinaryHeap::new(),
            number: 0,
            effects: Vec::new(),
            replies: VecDeque::new(),
            command_replies: VecDeque::new(),
            recovered: None,
            name_last: 0,
            work: Work::default(),
        };
        let read_before = solo.disk.read_bytes();
        let since = Instant::now();
        let mut effects = Vec::new();
        solo.core.start(Timestamp::from_nanos(solo.now), &mut effects);
        solo.carry_out(&mut effects);
        while solo.recovered.is_none() {
            solo.step();
        }
        let recovery = Recovery {
            took: since.elapsed(),
            read_bytes: solo.disk.read_bytes() - read_before,
            summary: solo.recovered.clone().unwrap_or_default(),
        };
        (solo, recovery)
    }

    /// The same disk under a new core, as after a crash.
    pub fn restarted(self) -> (Self, Recovery) {
        let (limits, model) = (self.config.limits, self.model);
        let disk = self.into_disk();
        Self::on(disk, limits, model)
    }

    /// What the disk holds.
    pub fn into_disk(self) -> MemoryDisk {
        self.disk
    }

    /// The disk.
    pub const fn disk(&self) -> &MemoryDisk {
        &self.disk
    }

    /// The core.
    pub const fn core(&self) -> &Core {
        &self.core
    }

    /// What clients are to write.
    pub fn payload(&self) -> Payload {
        self.disk.payload().clone()
    }

    /// What the core has done by itself.
    pub const fn work(&self) -> Work {
        self.work
    }

    /// Nanoseconds on the benchmark's clock.
    pub const fn now(&self) -> u64 {
        self.now
    }

    /// Makes a volume of one replica, and waits until it can be used.
    pub fn create_volume(&mut self, group: GroupId, size_blocks: u64) {
        let spec = spec_of(group, size_blocks);
        self.ask(Command::CreateGroup {
            spec,
            replica: ReplicaId(1),
        });
    }

    /// Opens a volume, and waits until it answers.
    pub fn open(&mut self, group: GroupId, size_blocks: u64) -> DeviceId {
        let device = DeviceId(self.name());
        let info = DeviceInfo {
            name: "bench".to_owned(),
            description: String::new(),
            size_bytes: size_blocks * BLOCK,
            read_only: false,
            snapshot: None,
        };
        let spec = spec_of(group, size_blocks);
        let event = Event::OpenDevice {
            device,
            spec,
            info,
            cipher: None,
        };
        self.push(self.now, event);
        let tag = self.submit(device, BlockOp::Flush);
        self.wait(tag);
        device
    }

    /// Closes a volume again.
    pub fn close(&mut self, device: DeviceId) {
        self.push(self.now, Event::CloseDevice(device));
        self.step();
    }

    /// Hands a request over; its answer comes with [`Self::take`].
    pub fn submit(&mut self, device: DeviceId, op: BlockOp) -> Tag {
        let tag = Tag(self.name());
        self.push(self.now, Event::Device { device, tag, op });
        tag
    }

    /// Takes an answer, letting time pass until there is one.
    ///
    /// # Panics
    /// If a request fails.
    pub fn take(&mut self) -> Tag {
        loop {
            if let Some(tag) = self.take_if_any() {
                return tag;
            }
            self.step();
        }
    }

    fn wait(&mut self, tag: Tag) {
        while self.take() != tag {}
    }

    /// Carries out a command; how long that took in the processor's time, from the request to the answer.
    ///
    /// # Panics
    /// If it fails.
    pub fn ask_timed(&mut self, command: Command) -> (CommandReply, Duration) {
        let since = Instant::now();
        let reply = self.ask(command);
        (reply, since.elapsed())
    }

    /// Carries out a command.
    ///
    /// # Panics
    /// If it fails.
    pub fn ask(&mut self, command: Command) -> CommandReply {
        let id = CommandId(self.name());
        self.push(self.now, Event::Command { id, command });
        loop {
            if let Some((ended, result)) = self.command_replies.pop_front() {
                assert_eq!(ended, id, "one command at a time");
                return result.expect("a command that succeeds");
            }
            self.step();
        }
    }

    /// What the disk's space is used for.
    ///
    /// # Panics
    /// If the core says something else.
    pub fn space(&mut self) -> SpaceStatus {
        match self.ask(Command::Space) {
            CommandReply::Space(status) => status,
            other => panic!("{other:?} is no answer"),
        }
    }

    /// Asks for a checkpoint, and waits until it is durable.
    pub fn checkpoint(&mut self) {
        let before = self.work.checkpoints;
        self.ask(Command::Checkpoint);
        while self.work.checkpoints == before {
            self.step();
        }
    }

    /// Lets time pass until then, if it is not past.
    pub fn rest_until(&mut self, nanos: u64) {
        if self.now < nanos {
            self.push(nanos, Event::Tick);
        }
        while self.now < nanos {
            self.step();
        }
    }

    /// Takes an answer if there is one.
    ///
    /// # Panics
    /// If a request fails.
    pub fn take_if_any(&mut self) -> Option<Tag> {
        let (tag, result) = self.replies.pop_front()?;
        result.expect("a request that succeeds");
        Some(tag)
    }

    /// Goes on to the next moment at which something happens.
    pub fn step(&mut self) {
        let deadline = self.core.next_deadline();
        let tick_at = self.now.max(deadline.as_nanos());
        let next = self.coming.peek().map_or(u64::MAX, |Reverse(coming)| coming.at);
        assert!(next.min(tick_at) < u64::MAX, "nothing will ever happen");
        self.now = self.now.max(next.min(tick_at));
        let now = Timestamp::from_nanos(self.now);
        let mut effects = std::mem::take(&mut self.effects);
        while let Some(Reverse(coming)) = self.coming.peek()
            && coming.at <= self.now
            && let Some(Reverse(coming)) = self.coming.pop()
        {
            self.core.handle(now, coming.event, &mut effects);
        }
        if tick_at <= self.now {
            self.core.handle(now, Event::Tick, &mut effects);
        }
        self.core.poll(now, &mut effects);
        self.carry_out(&mut effects);
        self.effects = effects;
    }

    fn carry_out(&mut self, effects: &mut Vec<Effect>) {
        for effect in effects.drain(..) {
            match effect {
                Effect::Write { io, offset, buffers } => {
                    self.disk.write(offset, &buffers);
                    let bytes = buffers.iter().map(|buffer| buffer.len() as u64).sum();
                    let at = self.transfer(bytes);
                    self.push(at, Event::Written { io, result: Ok(()) });
                }
                Effect::Read { io, offset, length } => {
                    let bytes = self.disk.read(offset, length);
                    let at = self.transfer(u64::from(length));
                    self.push(at, Event::Read { io, result: Ok(bytes) });
                }
                Effect::DeviceReply { tag, result, .. } => self.replies.push_back((tag, result)),
                Effect::CommandReply { id, result } => self.command_replies.push_back((id, result)),
                Effect::Recovered(summary) => self.recovered = Some(summary),
                Effect::Checkpointed(CheckpointReport { .. }) => self.work.checkpoints += 1,
                Effect::Collected(CollectionReport { segments, blocks }) => {
                    self.work.segments_emptied += segments;
                    self.work.blocks_moved += blocks;
                }
                Effect::DiskFailed(reason) => panic!("{reason}"),
                _ => {}
            }
        }
    }

    /// When the disk will have read or written so many bytes.
    fn transfer(&mut self, bytes: u64) -> u64 {
        let took = u128::from(bytes) * 1_000_000_000 / u128::from(self.model.bytes_per_s);
        self.busy_until = self.busy_until.max(self.now) + u64::try_from(took).unwrap_or(u64::MAX);
        self.busy_until + nanos(self.model.latency)
    }

    fn push(&mut self, at: u64, event: Event) {
        self.number += 1;
        let number = self.number;
        self.coming.push(Reverse(Coming { at, number, event }));
    }

    fn name(&mut self) -> u64 {
        self.name_last += 1;
        self.name_last
    }
}

fn spec_of(group: GroupId, size_blocks: u64) -> GroupSpec {
    let member = Member {
        replica: ReplicaId(1),
        node: NODE,
        disk: DISK,
    };
    GroupSpec {
        base: None,
        group,
        size_blocks,
        members: vec![member],
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
