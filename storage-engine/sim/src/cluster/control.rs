//! What a control plane and frontends do with the cluster, and what is compared when it is quiet.

use std::time::Duration;

use bytes::Bytes;
use cairn_api::block::{BlockOp, BlockReply, DeviceInfo, ReadPiece, Tag};
use cairn_api::ids::{GroupId, ReplicaId, SnapshotId};
use cairn_api::units::{BLOCK_BYTES, BLOCK_SIZE, Lba};
use cairn_core::event::{
    Command, CommandError, CommandId, CommandReply, DeviceId, Event, GroupSpec, GroupStatus, Member,
};
use cairn_core::map::Run;

use super::{Cluster, disk_id, node_id};
use crate::node::DeviceResult;

/// After so many tenths of a second a replica that is behind is behind for want of room, if it has none.
const FIT_AFTER: usize = 300;
/// What a replica must have free to ask for the next portion of a state.
const REPLY_BLOCKS: u64 = 320;

impl Cluster {
    fn next_name(&mut self) -> u64 {
        self.names_last += 1;
        self.names_last
    }

    /// A volume (or, of size 0, a meta group) with a replica on each of the first `members` nodes.
    pub fn spec(&self, group: GroupId, size_blocks: u64, members: usize) -> GroupSpec {
        self.spec_on(group, size_blocks, &(0..members).collect::<Vec<_>>())
    }

    /// A volume with a replica on each of these nodes.
    pub fn spec_on(&self, group: GroupId, size_blocks: u64, members: &[usize]) -> GroupSpec {
        let member = |number: usize| Member {
            replica: ReplicaId(number as u64 + 1),
            node: node_id(number),
            disk: disk_id(number),
        };
        GroupSpec {
            base: None,
            group,
            size_blocks,
            members: members.iter().copied().map(member).collect(),
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
        assert!(replied, "[stuck] no reply to a command of node {number} within 30 s");
        self.nodes[number].command_replies.remove(&id).unwrap()
    }

    /// Makes a group on all its members, and waits until it has a leader that all of them know.
    pub fn create(&mut self, spec: &GroupSpec) {
        self.settle_start();
        for member in &spec.members {
            let number = self.number_of(member.disk);
            assert_eq!(self.make_replica(number, spec, member.replica), Ok(CommandReply::Done));
        }
        self.await_leader(spec.group, Duration::from_secs(10));
    }

    /// Makes a replica of a group on a node's disk.
    pub fn make_replica(
        &mut self,
        number: usize,
        spec: &GroupSpec,
        replica: ReplicaId,
    ) -> Result<CommandReply, CommandError> {
        let spec = spec.clone();
        self.command(number, Command::CreateGroup { spec, replica })
    }

    /// Waits until all running cores have recovered.
    pub fn settle_start(&mut self) {
        let settled = self.run_until(Duration::from_secs(30), |cluster| {
            cluster
                .nodes
                .iter()
                .all(|node| !node.is_running() || node.recovered.is_some())
        });
        assert!(settled, "[stuck] a core does not recover");
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
        assert!(found, "[liveness] no leader of group {group} within {limit:?}");
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
        self.open_sized(number, spec, spec.size_blocks)
    }

    /// Opens a volume that has grown since it was created.
    pub fn open_sized(&mut self, number: usize, spec: &GroupSpec, size_blocks: u64) -> DeviceId {
        self.open_as(number, spec, size_blocks.max(spec.size_blocks), None)
    }

    /// Opens a snapshot of a volume, or the volume as it is, of so many blocks.
    pub fn open_as(
        &mut self,
        number: usize,
        spec: &GroupSpec,
        size_blocks: u64,
        snapshot: Option<SnapshotId>,
    ) -> DeviceId {
        let device = DeviceId(self.next_name());
        let info = DeviceInfo {
            name: format!("volume-{}", spec.group),
            description: String::new(),
            size_bytes: size_blocks * BLOCK_BYTES,
            read_only: snapshot.is_some(),
            snapshot,
        };
        let cipher = self.cipher_of(spec.group);
        self.nodes[number].open_devices.insert(device);
        self.deliver(
            number,
            Event::OpenDevice {
                device,
                spec: spec.clone(),
                info,
                cipher,
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

    /// Waits until every running member holds the same log, all of it applied; then checks that all hold the same data. Gives
    /// those that do: a minority is left out that has fallen behind, and whose disks have no room for the leader's state beside
    /// what they hold. Such a replica waits until there is room, or it is replaced.
    pub fn quiesce(&mut self, spec: &GroupSpec) -> Vec<usize> {
        let members: Vec<usize> = spec.members.iter().map(|member| self.number_of(member.disk)).collect();
        let mut found = Vec::new();
        for round in 0..600 {
            self.run(Duration::from_millis(100));
            let running: Vec<usize> = members
                .iter()
                .copied()
                .filter(|n| self.nodes[*n].is_running())
                .collect();
            let fitting: Vec<usize> = running
                .iter()
                .copied()
                .filter(|number| round < FIT_AFTER || self.has_room_for_state(*number, spec.group))
                .collect();
            let running = if 2 * fitting.len() > members.len() {
                fitting
            } else {
                running
            };
            let states: Vec<GroupStatus> = running.iter().map(|number| self.status(*number, spec.group)).collect();
            let first = &states[0];
            let level = states.iter().all(|state| {
                (state.last, state.applied, state.committed) == (first.last, first.last, first.last)
                    && state.leader.is_some()
            });
            if level {
                self.check_equal(spec.group, &running, &states);
                return running;
            }
            found = states;
        }
        let states: Vec<String> = found
            .iter()
            .map(|state| {
                format!(
                    "{} {:?} term {} applied {} committed {} last {} catch-up {:?}",
                    state.replica, state.role, state.term, state.applied, state.committed, state.last, state.catch_up
                )
            })
            .collect();
        let space = self.describe_space();
        panic!(
            "[liveness] the replicas of group {} do not level within 60 s: {states:#?}, {space}",
            spec.group
        );
    }

    /// Whether a state that is being received, or would be, fits beside what the disk holds.
    pub fn has_room_for_state(&mut self, number: usize, group: GroupId) -> bool {
        let receiving = self.status(number, group).catch_up;
        let Ok(CommandReply::Space(space)) = self.command(number, Command::Space) else {
            return true;
        };
        let missing = receiving.map_or(0, |receiving| receiving.blocks.saturating_sub(receiving.staged_blocks));
        space.live_blocks + missing <= space.capacity_blocks && space.free_blocks >= REPLY_BLOCKS
    }

    /// What the disks' space is used for.
    pub fn describe_space(&mut self) -> String {
        let mut words = Vec::new();
        for node in 0..self.nodes.len() {
            if self.nodes[node].is_running() && self.nodes[node].recovered.is_some() {
                words.push(format!("node {node}: {:?}", self.command(node, Command::Space)));
            }
        }
        words.join("; ")
    }

    fn check_equal(&mut self, group: GroupId, numbers: &[usize], states: &[GroupStatus]) {
        let first = self.command(numbers[0], Command::Digest(group));
        for (number, state) in numbers.iter().zip(states) {
            let digest = self.command(*number, Command::Digest(group));
            assert!(matches!(digest, Ok(CommandReply::Digest(_))), "{digest:?}");
            assert_eq!(digest, first, "[equal] node {number}'s replica of {group} differs");
            assert_eq!(state.epoch, states[0].epoch, "[equal] the epoch at node {number}");
            assert_eq!(state.holder, states[0].holder, "[equal] the holder at node {number}");
            let merged = |status: &GroupStatus| (status.space.allocated, status.space.shared, status.snapshots);
            let (own, first) = (merged(state), merged(&states[0]));
            assert_eq!(own, first, "[equal] the blocks allocated at node {number}");
            let (own, first) = (state.size_blocks, states[0].size_blocks);
            assert_eq!(own, first, "[equal] the size at node {number}");
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

    /// How many disks durably hold a sector with this stamp.
    pub fn durable_copies(&self, stamp: u64) -> usize {
        self.nodes.iter().filter(|node| node.disk.has_stamp(stamp)).count()
    }
}

/// The payload of a reply to a read.
pub fn read_bytes(reply: DeviceResult) -> Bytes {
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
