//! The cluster of the benchmarks.

use std::collections::VecDeque;

use bytes::Bytes;
use cairn_api::block::{BlockError, BlockOp, BlockReply, DeviceInfo, Tag};
use cairn_api::ids::{ClusterId, DiskId, GroupId, NodeId, ReplicaId};
use cairn_core::Core;
use cairn_core::config::{CoreConfig, Limits, Timing};
use cairn_core::event::{Command, CommandId, DeviceId, Effect, Event, GroupSpec, Member};
use cairn_core::time::Timestamp;
use cairn_format::superblock::Geometry;

/// Blocks of the volume.
pub const VOLUME_BLOCKS: u64 = 1 << 18;
const CORES: u8 = 3;
const VOLUME: GroupId = GroupId(2);
const DEVICE: DeviceId = DeviceId(1);
/// Large enough for any run: nothing is stored.
const DISK_BYTES: u64 = 1 << 40;
const SEGMENT_BYTES: u64 = 64 << 20;

type Reply = (Tag, Result<BlockReply, BlockError>);

/// Three cores whose writes are durable and whose messages arrive at once. The first leads, and its gateway is used.
pub struct Instant {
    cores: Vec<Core>,
    inboxes: Vec<Vec<Event>>,
    effects: Vec<Effect>,
    replies: VecDeque<Reply>,
    now: u64,
    tag_last: u64,
    turns: u64,
}

impl Instant {
    /// A volume of three replicas, ready to be used.
    ///
    /// # Panics
    /// If it does not become ready.
    pub fn new() -> Self {
        let core = |number: u8| {
            Core::new(CoreConfig {
                cluster: ClusterId::from_bytes([0xC1; 16]),
                node: node_id(number),
                disk: disk_id(number),
                geometry: Geometry::for_device(DISK_BYTES, SEGMENT_BYTES).expect("a valid layout"),
                seed: u64::from(number),
                timing: Timing::default(),
                limits: Limits::default(),
            })
        };
        let mut cluster = Self {
            cores: (0..CORES).map(core).collect(),
            inboxes: vec![Vec::new(), Vec::new(), Vec::new()],
            effects: Vec::new(),
            replies: VecDeque::new(),
            now: 1_000_000_000,
            tag_last: 0,
            turns: 0,
        };
        for number in 0..CORES {
            let place = usize::from(number);
            let mut effects = Vec::new();
            cluster.cores[place].start(Timestamp::from_nanos(cluster.now), &mut effects);
            cluster.carry_out(number, effects);
            for peer in (0..CORES).filter(|peer| *peer != number) {
                cluster.inboxes[place].push(Event::PeerUp(disk_id(peer)));
            }
        }
        cluster.settle();
        cluster.open();
        cluster
    }

    fn open(&mut self) {
        let member = |number: u8| Member {
            replica: ReplicaId(u64::from(number) + 1),
            node: node_id(number),
            disk: disk_id(number),
        };
        let spec = GroupSpec {
            base: None,
            group: VOLUME,
            size_blocks: VOLUME_BLOCKS,
            members: (0..CORES).map(member).collect(),
        };
        for (member, inbox) in spec.members.iter().zip(&mut self.inboxes) {
            let command = Command::CreateGroup {
                spec: spec.clone(),
                replica: member.replica,
            };
            let id = CommandId(member.replica.get());
            inbox.push(Event::Command { id, command });
        }
        let info = DeviceInfo {
            name: "bench".to_owned(),
            description: String::new(),
            size_bytes: VOLUME_BLOCKS * 4096,
            read_only: false,
            snapshot: None,
        };
        self.inboxes[0].push(Event::OpenDevice {
            device: DEVICE,
            spec,
            info,
            cipher: None,
        });
        let first = self.submit(BlockOp::Flush);
        for _ in 0..200 {
            self.tick();
            if self.take(first).is_some() {
                return;
            }
        }
        panic!("the volume does not become ready");
    }

    /// Lets a tick pass.
    pub fn tick(&mut self) {
        self.now += 50_000_000;
        self.inboxes.iter_mut().for_each(|inbox| inbox.push(Event::Tick));
        self.settle();
    }

    /// Turns of all cores so far.
    pub fn turns(&self) -> u64 {
        self.turns
    }

    /// Hands a request over without working on it.
    pub fn submit(&mut self, op: BlockOp) -> Tag {
        self.tag_last += 1;
        let tag = Tag(self.tag_last);
        self.inboxes[0].push(Event::Device {
            device: DEVICE,
            tag,
            op,
        });
        tag
    }

    /// Works until nothing is left to do but to let time pass.
    pub fn settle(&mut self) {
        loop {
            let Some(number) = (0..CORES).find(|number| !self.inboxes[usize::from(*number)].is_empty()) else {
                return;
            };
            let place = usize::from(number);
            // A tenth of a microsecond a turn, so that time never stands still.
            self.now += 100;
            let now = Timestamp::from_nanos(self.now);
            let mut effects = std::mem::take(&mut self.effects);
            for event in std::mem::take(&mut self.inboxes[place]) {
                self.cores[place].handle(now, event, &mut effects);
            }
            self.cores[place].poll(now, &mut effects);
            self.turns += 1;
            self.carry_out(number, effects);
        }
    }

    fn carry_out(&mut self, number: u8, mut effects: Vec<Effect>) {
        let place = usize::from(number);
        for effect in effects.drain(..) {
            match effect {
                Effect::Send { to, message } => {
                    let target = (0..CORES).find(|peer| disk_id(*peer) == to).expect("one of three");
                    let from = disk_id(number);
                    self.inboxes[usize::from(target)].push(Event::Peer {
                        from,
                        messages: vec![message.clone()],
                    });
                    let bytes = cairn_core::message_bytes(&message);
                    self.inboxes[place].push(Event::PeerDrained { to, bytes });
                }
                Effect::Write { io, .. } => self.inboxes[place].push(Event::Written { io, result: Ok(()) }),
                Effect::Read { io, length, .. } => self.inboxes[place].push(Event::Read {
                    io,
                    result: Ok(Bytes::from(vec![0; length as usize])),
                }),
                Effect::DeviceReply { tag, result, .. } => self.replies.push_back((tag, result)),
                Effect::DiskFailed(reason) => panic!("core {number}: {reason}"),
                _ => {}
            }
        }
        self.effects = effects;
    }

    /// Whether a request has ended, and well.
    ///
    /// # Panics
    /// If it has failed.
    pub fn take(&mut self, tag: Tag) -> Option<BlockReply> {
        let place = self.replies.iter().position(|(ended, _)| *ended == tag)?;
        let (_, result) = self.replies.remove(place)?;
        Some(result.expect("a request that succeeds"))
    }

    /// Takes all replies; how many there were.
    pub fn take_all(&mut self) -> usize {
        let taken = self.replies.len();
        self.replies.clear();
        taken
    }
}

impl Default for Instant {
    fn default() -> Self {
        Self::new()
    }
}

fn node_id(number: u8) -> NodeId {
    NodeId::from_bytes([0xA0 + number; 16])
}

fn disk_id(number: u8) -> DiskId {
    DiskId::from_bytes([0xD0 + number; 16])
}
