//! The gateway: serves one volume to the frontends of this core, wherever its leader is, and hides failover.
//!
//! A request in bytes becomes operations on whole blocks, each cut into parts that are sent to the leader one message a
//! part. A part stays here until its reply; an application sees a pause, never an error, when a leader dies.
//!
//! # Sending again, and why it is safe
//! A write whose reply is lost may have been committed, may still be under way to be, or may be gone. Sending it again
//! blindly could let the first copy land after a later write of the same blocks. So whenever a write is in doubt the
//! gateway first takes the attachment anew: a committed entry raises the volume's epoch, copies made under the old epoch
//! that come later are refused when applied, and only then are all unacknowledged writes sent, under the new epoch.
//! - A copy committed *before* the epoch rose does no harm: writes of overlapping blocks go one after the other
//!   ([`ranges`]), so that no other write of its blocks has been acknowledged since.
//! - Every sending has a fresh request number: the reply to an older copy ends nothing.
//! - Taking anew is conditional (`AttachMode::Resume`): it holds only if no other node has attached in between. A node
//!   that was away while another one wrote gets no epoch, and fails what it still held.
//! - The partial blocks of an unaligned write are read only once the volume is attached, so that nobody else can change
//!   them before they are written back.
//! - A `Retry` reply says that the leader never proposed the part: it is sent again under the same epoch.
//!
//! # Limits
//! A volume's limits ([`limit`]) hold requests back before anything is begun with them: what waits has locked nothing.
//!
//! # A volume that grows
//! The catalogue's size is raised first, and the gateway is told; then the group's leader commits an entry that moves the
//! volume's end. Requests are checked here against the size that was told, so that what a leader still refuses as out of
//! range lies in what the volume is about to have, or that leader was deposed without knowing: the part is sent again after
//! a pause, like one that was answered with `Retry`. A client sees a pause, never an error, and the reply to its write comes
//! from a leader that has applied the new size. A snapshot keeps the size that it was made with: a refusal to read beyond
//! that is final.

mod attachment;
mod cipher;
mod complete;
mod limit;
mod plan;
mod ranges;
mod route;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use cairn_api::block::{BlockError, BlockOp, BlockReply, DeviceInfo, StatusExtent, Tag};
use cairn_api::ids::{DiskId, Epoch, LogIndex, ReplicaId, SnapshotId};
use cairn_api::limits::VolumeLimits;
use cairn_api::units::BLOCK_BYTES;
use cairn_crypto::VolumeCipher;
use cairn_format::peer::{BlockPiece, GatewayReply, GatewayResult};

use crate::event::{CommandId, DeviceId, Effect, GroupSpec, Member};
use crate::mutation::mutated;
use crate::shared::Shared;
use crate::time::Timestamp;
use attachment::Attachment;
use cipher::Seal;
use limit::{Held, Limiter};
use plan::Piece;
use ranges::{Range, RangeLocks};

/// A frontend's view of the volume.
struct Device {
    info: DeviceInfo,
    /// The epoch that fenced it, if it was: it may not write any more.
    fenced: Option<Epoch>,
}

/// Who waits for an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Client {
    Device(DeviceId, Tag),
    Command(CommandId),
}

/// An operation under way.
struct Operation {
    client: Client,
    op: BlockOp,
    /// For a command: take the attachment away even from a live holder.
    force: bool,
    /// What is read: a snapshot, or the volume as it is.
    snapshot: Option<SnapshotId>,
    since: Timestamp,
    /// Whether `parts` are the reads of the partial blocks that come before a write.
    reads_edges: bool,
    /// Parts without a reply.
    missing: usize,
    /// Answers by position.
    pieces: BTreeMap<usize, Vec<BlockPiece>>,
    extents: Vec<StatusExtent>,
    edges: Vec<u64>,
    error: Option<BlockError>,
}

/// Where and when a part was sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    request: u64,
    to: ReplicaId,
    disk: DiskId,
    at: Timestamp,
    /// The epoch it was sent under, for a write.
    epoch: Epoch,
}

/// A message to the leader, until its reply.
struct Part {
    operation: u64,
    position: usize,
    piece: PartKind,
    /// The read of a partial block, which only holds while nobody else writes.
    is_edge: bool,
    sent: Option<Sent>,
}

#[derive(Clone, Debug)]
enum PartKind {
    Blocks(Piece),
    /// The control plane takes the attachment away.
    Detach {
        force: bool,
    },
}

/// See the module.
pub(crate) struct Gateway {
    pub(crate) spec: GroupSpec,
    /// The largest size that the volume is known to have, or to be about to have.
    size_bytes: u64,
    /// Who votes, as far as is known here, and by which change.
    voters: Vec<Member>,
    revision: LogIndex,
    local: Option<ReplicaId>,
    devices: BTreeMap<DeviceId, Device>,
    operations: BTreeMap<u64, Operation>,
    operation_last: u64,
    parts: BTreeMap<u64, Part>,
    part_last: u64,
    /// Parts that are to be sent.
    unsent: BTreeSet<u64>,
    /// The part that a request number stands for.
    requests: BTreeMap<u64, u64>,
    request_last: u64,
    locks: RangeLocks,
    limiter: Limiter,
    route: route::Route,
    attachment: Attachment,
    seal: Seal,
}

impl Gateway {
    pub(crate) fn new(spec: GroupSpec, shared: &Shared) -> Self {
        Self {
            local: local_voter(&spec.members, shared),
            voters: spec.members.clone(),
            revision: LogIndex(0),
            size_bytes: spec.size_blocks * BLOCK_BYTES,
            spec,
            devices: BTreeMap::new(),
            operations: BTreeMap::new(),
            operation_last: 0,
            parts: BTreeMap::new(),
            part_last: 0,
            unsent: BTreeSet::new(),
            requests: BTreeMap::new(),
            // A gateway made anew must not take the replies to its predecessor's requests for its own.
            request_last: shared.now.as_nanos(),
            locks: RangeLocks::default(),
            limiter: Limiter::default(),
            route: route::Route::default(),
            attachment: Attachment::default(),
            seal: Seal::new(None, shared),
        }
    }

    /// The volume is that large by now, or is about to be.
    pub(crate) fn update_size(&mut self, size_bytes: u64) {
        self.size_bytes = self.size_bytes.max(size_bytes);
    }

    pub(crate) fn open(
        &mut self,
        shared: &Shared,
        device: DeviceId,
        info: DeviceInfo,
        cipher: Option<Arc<VolumeCipher>>,
    ) {
        if info.snapshot.is_none() {
            self.update_size(info.size_bytes);
        }
        // One that the control plane made, to take the attachment away, has had no key.
        if self.seal.is_plain() {
            self.seal = Seal::new(cipher, shared);
        }
        self.devices.insert(device, Device { info, fenced: None });
    }

    /// The frontend is gone. What it has under way goes on, so that its locks are released in order.
    pub(crate) fn close(&mut self, shared: &mut Shared, device: DeviceId) {
        self.devices.remove(&device);
        self.limiter.forget(device);
        self.settle(shared);
    }

    /// Whether nothing needs the gateway any more.
    pub(crate) fn is_idle(&self) -> bool {
        self.devices.is_empty() && self.operations.is_empty() && self.attachment.is_settled()
    }

    /// Whether a frontend has the volume as it is: who reads a snapshot holds nothing, and keeps nobody from writing.
    fn serves_volume(&self) -> bool {
        self.devices.values().any(|device| device.info.snapshot.is_none())
    }

    /// Operations that have not ended.
    pub(crate) fn operations(&self) -> usize {
        self.operations.len() + self.limiter.waiting()
    }

    /// The volume's limits are these from now on.
    pub(crate) fn set_limits(&mut self, shared: &mut Shared, limits: VolumeLimits) {
        self.limiter.set(shared.now, limits);
        self.release(shared);
    }

    /// When a request that waits for the volume's limits can go.
    pub(crate) fn release_at(&self) -> Option<Timestamp> {
        self.limiter.due()
    }

    /// Lets those go that may.
    fn release(&mut self, shared: &mut Shared) {
        while let Some(held) = self.limiter.release(shared.now) {
            #[allow(clippy::cast_possible_truncation, reason = "584 years of nanoseconds fit in 64 bits")]
            let nanos = shared.now.since(held.since).as_nanos() as u64;
            let group = self.spec.group;
            shared.effects.push(Effect::Throttled { group, nanos });
            if let Some(held) = self.judge(shared, held) {
                self.start(shared, held);
            }
        }
    }

    /// A frontend's request.
    pub(crate) fn submit(&mut self, shared: &mut Shared, device: DeviceId, tag: Tag, op: BlockOp) {
        let since = shared.now;
        let request = self.judge(shared, Held { device, tag, op, since });
        if let Some(request) = request.and_then(|request| self.limiter.admit(request)) {
            self.start(shared, request);
        }
    }

    /// Replies to what can be told at once, and gives back what is to be done. Asked again of what has waited, for its device
    /// may have been fenced meanwhile.
    fn judge(&self, shared: &mut Shared, request: Held) -> Option<Held> {
        let Held { device, tag, op, .. } = &request;
        let (device, tag) = (*device, *tag);
        let client = Client::Device(device, tag);
        let Some(state) = self.devices.get(&device) else {
            reply_now(shared, client, Err(BlockError::ShuttingDown));
            return None;
        };
        let size_bytes = match state.info.snapshot {
            None => self.size_bytes,
            Some(_) => state.info.size_bytes,
        };
        if let Err(error) = plan::check(op, size_bytes, state.info.read_only) {
            reply_now(shared, client, Err(error));
            return None;
        }
        let is_write = matches!(
            op,
            BlockOp::Write { .. } | BlockOp::Trim { .. } | BlockOp::WriteZeroes { .. }
        );
        if let (Some(current), true) = (state.fenced, is_write) {
            reply_now(shared, client, Err(BlockError::Fenced { current: current.get() }));
            return None;
        }
        if let Some(reply) = trivial_reply(op) {
            reply_now(shared, client, Ok(reply));
            return None;
        }
        Some(request)
    }

    /// Begins what may go.
    fn start(&mut self, shared: &mut Shared, request: Held) {
        let client = Client::Device(request.device, request.tag);
        let device = self.devices.get(&request.device);
        let snapshot = device.and_then(|device| device.info.snapshot);
        let operation = self.begin(request.since, client, request.op, false);
        if let Some(state) = self.operations.get_mut(&operation) {
            state.snapshot = snapshot;
        }
        match self.lock_range(operation) {
            Some(range) if !mutated!(shared.seeded, OverlapsUnlocked) && !self.locks.lock(operation, range) => {}
            _ => self.run(shared, operation),
        }
        self.pump(shared);
    }

    /// The control plane takes the attachment away.
    pub(crate) fn detach(&mut self, shared: &mut Shared, id: CommandId, force: bool) {
        let operation = self.begin(shared.now, Client::Command(id), BlockOp::Flush, force);
        self.run(shared, operation);
        self.pump(shared);
    }

    fn begin(&mut self, since: Timestamp, client: Client, op: BlockOp, force: bool) -> u64 {
        self.operation_last += 1;
        let operation = Operation {
            client,
            op,
            force,
            snapshot: None,
            since,
            reads_edges: false,
            missing: 0,
            pieces: BTreeMap::new(),
            extents: Vec::new(),
            edges: Vec::new(),
            error: None,
        };
        self.operations.insert(self.operation_last, operation);
        self.operation_last
    }

    /// The blocks that an operation changes, if any.
    fn lock_range(&self, operation: u64) -> Option<Range> {
        match &self.operations.get(&operation)?.op {
            BlockOp::Write { offset, data } => Some(plan::touched(*offset, data.len() as u64)),
            BlockOp::WriteZeroes { offset, length, .. } => Some(plan::touched(*offset, *length)),
            BlockOp::Trim { offset, length } => Some(plan::inside(*offset, *length)),
            BlockOp::Read { .. } | BlockOp::Flush | BlockOp::Status { .. } => None,
        }
    }

    /// Starts an operation whose range is locked: first the reads of its partial blocks, if it has any.
    fn run(&mut self, shared: &mut Shared, number: u64) {
        let Some(operation) = self.operations.get_mut(&number) else {
            return;
        };
        let edges = match &operation.op {
            BlockOp::Write { offset, data } => plan::partial_blocks(*offset, data.len() as u64),
            BlockOp::WriteZeroes { offset, length, .. } => plan::partial_blocks(*offset, *length),
            _ => Vec::new(),
        };
        if edges.is_empty() {
            return self.run_body(shared, number);
        }
        operation.reads_edges = true;
        operation.edges.clone_from(&edges);
        let reads = edges
            .into_iter()
            .flat_map(|block| {
                let range = Range {
                    first: block,
                    end: block + 1,
                };
                plan::reads(range, None)
            })
            .map(PartKind::Blocks)
            .collect();
        self.add_parts(number, reads);
    }

    /// Starts the body of an operation; the partial blocks of a write have been read.
    fn run_body(&mut self, shared: &mut Shared, number: u64) {
        let Some(operation) = self.operations.get_mut(&number) else {
            return;
        };
        operation.reads_edges = false;
        let edges = match operation.take_edges(&self.seal) {
            Ok(edges) => edges,
            Err(error) => {
                operation.error = Some(error);
                return self.finish(shared, number);
            }
        };
        let parts: Vec<PartKind> = match (operation.client, &operation.op) {
            (Client::Command(_), _) => vec![PartKind::Detach { force: operation.force }],
            (_, op) => body(op, &edges, operation.snapshot, &self.seal)
                .into_iter()
                .map(PartKind::Blocks)
                .collect(),
        };
        self.seal.forget_plaintext(&mut operation.op);
        if parts.is_empty() {
            return self.finish(shared, number);
        }
        self.add_parts(number, parts);
    }

    fn add_parts(&mut self, operation: u64, pieces: Vec<PartKind>) {
        let Some(state) = self.operations.get_mut(&operation) else {
            return;
        };
        state.missing = pieces.len();
        let is_edge = state.reads_edges;
        for (position, piece) in pieces.into_iter().enumerate() {
            self.part_last += 1;
            self.parts.insert(
                self.part_last,
                Part {
                    operation,
                    position,
                    piece,
                    is_edge,
                    sent: None,
                },
            );
            self.unsent.insert(self.part_last);
        }
    }

    /// A leader's reply.
    pub(crate) fn on_reply(&mut self, shared: &mut Shared, reply: GatewayReply) {
        if let GatewayResult::Members { revision, voters } = &reply.result {
            self.update_members(shared, *revision, voters);
        } else if self.attachment.is_reply(reply.request) {
            self.attachment_reply(shared, reply.request, reply.result);
        } else if let Some(part) = self.requests.remove(&reply.request) {
            self.part_reply(shared, part, reply.result);
        }
        self.pump(shared);
        self.settle(shared);
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, shared: &mut Shared) {
        self.release(shared);
        self.check_timeouts(shared);
        self.keep_alive(shared);
        self.prefer_local_leader(shared);
        self.pump(shared);
        self.settle(shared);
    }
}

impl Operation {
    /// The partial blocks that were read before the body, by block.
    fn take_edges(&mut self, seal: &Seal) -> Result<Vec<(u64, Bytes)>, BlockError> {
        let pieces = std::mem::take(&mut self.pieces);
        let edges = std::mem::take(&mut self.edges);
        edges
            .into_iter()
            .zip(pieces.into_values())
            .map(|(block, read)| Ok((block, plan::one_block(&seal.open_edge(block, read)?))))
            .collect()
    }
}

/// The voter on this core's own disk, if there is one.
fn local_voter(voters: &[Member], shared: &Shared) -> Option<ReplicaId> {
    let local = voters.iter().find(|member| member.disk == shared.config.disk);
    local.map(|member| member.replica)
}

/// The parts of an operation's body.
fn body(op: &BlockOp, edges: &[(u64, Bytes)], snapshot: Option<SnapshotId>, seal: &Seal) -> Vec<Piece> {
    match op {
        BlockOp::Read { offset, length } => plan::reads(plan::touched(*offset, u64::from(*length)), snapshot),
        BlockOp::Write { offset, data } if edges.is_empty() => {
            plan::writes(*offset / BLOCK_BYTES, data, |lba, plain| seal.seal(lba, plain))
        }
        BlockOp::Write { offset, data } => {
            let (first, merged) = plan::merge(*offset, data, edges);
            plan::writes(first, &merged, |lba, plain| seal.seal_merged(lba, plain))
        }
        BlockOp::Trim { offset, length } => plan::zeros(plan::inside(*offset, *length), false),
        BlockOp::WriteZeroes {
            offset,
            length,
            no_hole,
        } => {
            let mut pieces = plan::zeros(plan::inside(*offset, *length), *no_hole);
            pieces.extend(plan::zeroed_edges(*offset, *length, edges, |lba, plain| {
                seal.seal_merged(lba, plain)
            }));
            pieces
        }
        BlockOp::Status {
            offset,
            length,
            extents_max,
        } => plan::status(*offset, *length, *extents_max, snapshot),
        BlockOp::Flush => Vec::new(),
    }
}

/// The answer to what needs no leader.
fn trivial_reply(op: &BlockOp) -> Option<BlockReply> {
    match op {
        // A reply to a write means durable on a majority's media: there is nothing left to flush.
        BlockOp::Flush => Some(BlockReply::Done),
        BlockOp::Read { length: 0, .. } => Some(BlockReply::Read(Vec::new())),
        BlockOp::Write { data, .. } if data.is_empty() => Some(BlockReply::Done),
        BlockOp::WriteZeroes { length: 0, .. } => Some(BlockReply::Done),
        BlockOp::Trim { offset, length } => {
            let range = plan::inside(*offset, *length);
            (range.first >= range.end).then_some(BlockReply::Done)
        }
        BlockOp::Status { length: 0, .. } => Some(BlockReply::Status(Vec::new())),
        _ => None,
    }
}

fn reply_now(shared: &mut Shared, client: Client, result: Result<BlockReply, BlockError>) {
    if let Client::Device(device, tag) = client {
        shared.effects.push(Effect::DeviceReply { device, tag, result });
    }
}
