//! What goes into a core and what comes out: the whole interface between the state machine and its driver.
//!
//! A driver collects what has happened, reads the clock, hands each event to `Core::handle`, then calls `Core::poll`
//! once, and carries out the effects in order. Group commit lives in that rhythm: everything handed over before one
//! `poll` may share a frame.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_api::block::{BlockError, BlockOp, BlockReply, DeviceInfo, Tag};
use cairn_api::ids::{DiskId, Epoch, GroupId, LogIndex, NodeId, ReplicaId, SnapshotId, Term};
use cairn_api::limits::VolumeLimits;
use cairn_crypto::VolumeCipher;
use cairn_format::peer::PeerMessage;

use crate::log::recovery::Rows;
use crate::map::{HeadSpace, SnapshotSpace};
use crate::membership::Membership;

pub use crate::group::{ChangesPart, ChangesRequest, HOLD_TIME_MAX, HoldRequest, HoldStep};
pub use crate::space::{CheckpointReport, CollectionReport, SpaceStatus};
pub use cairn_format::base::Base;
pub use cairn_format::member::{Member, MemberChange};

/// Names a disk operation until its completion.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IoId(pub u64);

/// Names an open device (a frontend connection's view of a volume) within one core; chosen by the driver.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceId(pub u64);

/// Names a control command until its reply; chosen by the driver.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CommandId(pub u64);

/// Why the disk did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DiskFault {
    /// The operating system refused, with this error.
    #[error("{0}")]
    Os(String),
    /// Fewer bytes than asked: the device is shorter than its superblock says.
    #[error("the disk ended early: {done} of {asked} bytes")]
    Short {
        /// Bytes transferred.
        done: u64,
        /// Bytes asked for.
        asked: u64,
    },
}

/// What a group is made of: the same on every member, fixed when it is created. [`Membership`] says who is a member now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupSpec {
    /// Its number.
    pub group: GroupId,
    /// Size in blocks as it was created ([`Command::Resize`]); 0 for the meta group.
    pub size_blocks: u64,
    /// What it shows where it has nothing, if it was created as a clone: a snapshot that is on the same disks.
    pub base: Option<Base>,
    /// The members at the beginning of its log: 1, 3 or 5.
    pub members: Vec<Member>,
}

impl GroupSpec {
    /// The highest number of a replica that the group was created with: those that join later have higher ones.
    pub fn replica_last(&self) -> ReplicaId {
        let numbers = self.members.iter().map(|member| member.replica);
        numbers.max().unwrap_or_default()
    }
}

/// What a control plane asks of a core.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Make the local replica of a group. Done already is done.
    ///
    /// A replica that joins later gets the specification of the group's creation and a number of its own. It is a member
    /// once [`MemberChange::AddLearner`] has been committed.
    CreateGroup {
        /// What the group was created with.
        spec: GroupSpec,
        /// The number of the replica on this disk.
        replica: ReplicaId,
    },
    /// Drop the local replica of a group for good. Gone already is done. A removed replica is dropped only when a majority
    /// of the remaining voters has applied its removal (`GroupStatus::membership`).
    DropGroup(GroupId),
    /// Change the members of a group by one step, on its leader. Replies when the change is applied there; made already
    /// is done. Refused with the reason and the remedy while it would endanger the group.
    ChangeMembers {
        /// The group.
        group: GroupId,
        /// The step.
        change: MemberChange,
    },
    /// Make a volume at least this large, on its group's leader. Replies when that is applied there; done already is done.
    Resize {
        /// The volume.
        group: GroupId,
        /// Its size in blocks from then on.
        size_blocks: u64,
    },
    /// Tell the local gateway of a volume, if there is one, how large the volume is by now, or is about to be: requests up to
    /// there wait for the group to be that large, and a smaller size than is known is ignored. And what it may be asked for:
    /// requests that wait are held to the new limits at once.
    UpdateVolume {
        /// The volume.
        group: GroupId,
        /// Its size.
        size_bytes: u64,
        /// Its limits.
        limits: VolumeLimits,
    },
    /// Tell the local gateway of a volume, if there is one, who its members are by now. Gateways hear of changes from
    /// the members themselves; one that was idle while all of them were replaced knows nobody any more.
    UpdateMembers {
        /// The volume.
        group: GroupId,
        /// The index of the change that made them (`Membership::revision`): what is known already is ignored.
        revision: LogIndex,
        /// Those who vote now.
        voters: Vec<Member>,
    },
    /// Make a snapshot of a volume, on its leader. Replies when it is made there, with the index of the entry that made it;
    /// made already is done. Numbers of one volume rise.
    CreateSnapshot {
        /// The volume.
        group: GroupId,
        /// Its number, above those of all that were made or deleted before.
        snapshot: SnapshotId,
    },
    /// Delete a snapshot of a volume, on its leader. Gone already is gone.
    DeleteSnapshot {
        /// The volume.
        group: GroupId,
        /// Its number.
        snapshot: SnapshotId,
    },
    /// What changed from one snapshot to a later one, on any replica that has both: the first part from a block on.
    Changes(ChangesRequest),
    /// Hold a volume's writes back, or make a snapshot while they are, on its leader: for a snapshot of several volumes.
    Hold(HoldRequest),
    /// The snapshots of a local replica, and what they take.
    Snapshots(GroupId),
    /// Commit a command of an external state machine (the meta group). Replies when it is committed and has been
    /// handed over in [`Effect::Apply`], or with [`CommandError::NotLeader`].
    Propose {
        /// The group.
        group: GroupId,
        /// The command: 1 byte to 1 MiB.
        data: Bytes,
    },
    /// A linearizable point in the group's log: replies when this leader has applied all that was committed before.
    ReadBarrier(GroupId),
    /// Commands of `group` up to `index` are applied in the external state machine; re-deliver what follows. Sent once,
    /// before the first `Apply` of the group is delivered.
    StartApply {
        /// The group.
        group: GroupId,
        /// The last index the state machine holds.
        applied: LogIndex,
    },
    /// Take the attachment away from whoever holds it.
    Detach {
        /// The volume, with its members.
        spec: GroupSpec,
        /// Even if the holder is alive.
        force: bool,
    },
    /// Hand every leadership to another member, and refuse new ones; replies when none is left.
    HandOver,
    /// The state of every local group.
    Inspect,
    /// Read all that the disk holds for damage.
    Scrub(ScrubRequest),
    /// How far the scrubbing of the disk is.
    ScrubStatus,
    /// Make a checkpoint soon, whether or not one is due.
    Checkpoint,
    /// What the disk's space is used for.
    Space,
    /// A digest of a volume's contents, equal on replicas that hold the same; takes time in proportion to the volume.
    Digest(GroupId),
}

/// Why a command failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommandError {
    /// Another member leads.
    #[error("this replica does not lead the group")]
    NotLeader {
        /// Who does, where known.
        leader: Option<Member>,
    },
    /// No such group here.
    #[error("group {0} is not on this disk")]
    UnknownGroup(GroupId),
    /// Leadership moved before the command was committed: it may or may not be.
    #[error("leadership moved before the command was committed")]
    Uncertain,
    /// The disk is full.
    #[error("no space left on the disk")]
    NoSpace,
    /// Refused, with the reason.
    #[error("{0}")]
    Refused(String),
}

/// A command's success.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CommandReply {
    /// Done.
    Done,
    /// Committed at this index.
    Committed(LogIndex),
    /// The local groups.
    Groups(Vec<GroupStatus>),
    /// A volume's digest.
    Digest(u32),
    /// What changed.
    Changes(ChangesPart),
    /// The snapshots of a replica, oldest first.
    Snapshots(Vec<SnapshotSpace>),
    /// The scrubbing of the disk.
    Scrub(ScrubStatus),
    /// What the disk's space is used for.
    Space(SpaceStatus),
}

/// What may be asked of the scrubbing of a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScrubRequest {
    /// Begin a pass now. One that goes on goes on, at this pace.
    Begin {
        /// Bytes a second; `None` for the pace that is set.
        bytes_per_s: Option<u64>,
    },
    /// End the pass that goes on. The next one begins when it would have.
    Stop,
}

/// What a pass of scrubbing has read and found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrubReport {
    /// Blocks read.
    pub blocks: u64,
    /// What was noticed on the disk meanwhile, by the pass or by readers.
    pub damage: DamageCounts,
    /// How long it took, or has taken so far.
    pub took: Duration,
}

/// The scrubbing of a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubStatus {
    /// The pass that goes on.
    pub running: Option<ScrubReport>,
    /// Its pace, or that of the next, in bytes a second; 0 for none that begins by itself.
    pub bytes_per_s: u64,
    /// About how many blocks the pass that goes on will have read.
    pub blocks_expected: u64,
    /// The last whole pass since the core started, and how long ago it ended.
    pub last: Option<(ScrubReport, Duration)>,
    /// When the next pass begins.
    pub next_in: Option<Duration>,
}

/// What a replica is in its group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are Raft's")]
pub enum Role {
    Leader,
    Follower,
    Candidate,
}

/// The state of one local replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupStatus {
    /// The group, as it was created.
    pub spec: GroupSpec,
    /// Its members, as far as the log is applied here.
    pub membership: Membership,
    /// The last change of them that is sure to be known after a restart; a removed replica is dropped only when a majority
    /// of those who stay has settled its removal.
    pub settled: LogIndex,
    /// The local replica.
    pub replica: ReplicaId,
    /// What it is.
    pub role: Role,
    /// Who leads, where known.
    pub leader: Option<ReplicaId>,
    /// Its term.
    pub term: Term,
    /// The last committed index it knows.
    pub committed: LogIndex,
    /// The last index in its map.
    pub applied: LogIndex,
    /// The last index in its log.
    pub last: LogIndex,
    /// The attachment's epoch.
    pub epoch: Epoch,
    /// Who holds it; NIL for nobody.
    pub holder: NodeId,
    /// Its size, as far as the log is applied here.
    pub size_blocks: u64,
    /// What it shows where it has nothing, if it is a clone that is not whole yet.
    pub base: Option<Base>,
    /// Up to which block it is filled from its base, or was when it became whole.
    pub filled_blocks: u64,
    /// What it takes on the disk.
    pub space: HeadSpace,
    /// How many snapshots it has.
    pub snapshots: usize,
    /// On the leader, each other member's matched index.
    pub matched: Vec<(ReplicaId, LogIndex)>,
    /// Damaged blocks that were noticed on this disk since the core started.
    pub damage: DamageCounts,
    /// The first index in its log: what is before was truncated.
    pub first: LogIndex,
    /// The entry whose state is kept for replicas that are behind the log.
    pub mark: Option<LogIndex>,
    /// The state that the replica receives, if it is behind the leader's log.
    pub catch_up: Option<CatchUpStatus>,
}

/// How far a replica is that receives a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CatchUpStatus {
    /// The entry whose state it is.
    pub mark: LogIndex,
    /// Bytes of data that came.
    pub bytes: u64,
    /// Blocks with data that are in place, those included that the replica had.
    pub staged_blocks: u64,
    /// Blocks with data in the leader's map when it offered the state: about as many as there will be.
    pub blocks: u64,
    /// How much of the volume's addresses is behind, in thousandths.
    pub permille: u16,
}

/// What became of a block that the disk did not return as it was written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Damage {
    /// It was noticed.
    Found,
    /// It was fetched from a peer and written back.
    Repaired,
    /// No other replica has it either, or none that answers.
    Unrepairable,
}

/// Damaged blocks, each counted once until it is repaired.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DamageCounts {
    /// Noticed.
    pub found: u64,
    /// Fetched from a peer and written back.
    pub repaired: u64,
    /// Not to be had from any peer.
    pub unrepairable: u64,
}

impl DamageCounts {
    /// Counts more.
    pub fn add(&mut self, damage: Damage, blocks: u64) {
        match damage {
            Damage::Found => self.found += blocks,
            Damage::Repaired => self.repaired += blocks,
            Damage::Unrepairable => self.unrepairable += blocks,
        }
    }
}

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// Time has passed. At least every `Timing::tick`.
    Tick,
    /// A frame of a peer core has arrived whole and its checksums hold.
    Peer {
        /// The sender's disk.
        from: DiskId,
        /// What it carried.
        messages: Vec<PeerMessage>,
    },
    /// The link to a peer stands: what is sent from here on may arrive.
    PeerUp(DiskId),
    /// The link broke: what was sent and not yet received is gone.
    PeerDown(DiskId),
    /// The driver's queue to a peer shrank by so many payload and body bytes (sent, or dropped with the link).
    PeerDrained {
        /// The peer.
        to: DiskId,
        /// Bytes.
        bytes: usize,
    },
    /// An [`Effect::Write`] ended; durable if `Ok`.
    Written {
        /// Which.
        io: IoId,
        /// How.
        result: Result<(), DiskFault>,
    },
    /// An [`Effect::Read`] ended.
    Read {
        /// Which.
        io: IoId,
        /// Exactly the bytes asked for, or why not.
        result: Result<Bytes, DiskFault>,
    },
    /// A frontend opened a volume.
    OpenDevice {
        /// A fresh id.
        device: DeviceId,
        /// The volume.
        spec: GroupSpec,
        /// What the frontend was told of it.
        info: DeviceInfo,
        /// What it is encrypted with; `None` for a volume that is not. The same for every device of a volume.
        cipher: Option<Arc<VolumeCipher>>,
    },
    /// The frontend is gone; replies to its outstanding requests are dropped.
    CloseDevice(DeviceId),
    /// A frontend's request.
    Device {
        /// On which device.
        device: DeviceId,
        /// Its name.
        tag: Tag,
        /// What to do.
        op: BlockOp,
    },
    /// A control command.
    Command {
        /// Its name.
        id: CommandId,
        /// What to do.
        command: Command,
    },
}

/// Something to be done.
#[derive(Debug)]
pub enum Effect {
    /// Send to a peer core, in order after what was sent before; dropped if the link is down.
    Send {
        /// The peer's disk.
        to: DiskId,
        /// The message.
        message: PeerMessage,
    },
    /// Write these buffers, in order, contiguously at `offset`, durably (`RWF_DSYNC`). Each buffer is whole blocks.
    Write {
        /// Its name.
        io: IoId,
        /// Bytes from the start of the disk.
        offset: u64,
        /// What to write.
        buffers: Vec<Bytes>,
    },
    /// Read.
    Read {
        /// Its name.
        io: IoId,
        /// Bytes from the start of the disk; a multiple of the block.
        offset: u64,
        /// Bytes; a multiple of the block.
        length: u32,
    },
    /// A frontend's request has ended.
    DeviceReply {
        /// On which device.
        device: DeviceId,
        /// Its name.
        tag: Tag,
        /// How.
        result: Result<BlockReply, BlockError>,
    },
    /// A control command has ended.
    CommandReply {
        /// Its name.
        id: CommandId,
        /// How.
        result: Result<CommandReply, CommandError>,
    },
    /// A committed command for an external state machine, in log order.
    Apply {
        /// The group.
        group: GroupId,
        /// Its index.
        index: LogIndex,
        /// The command, exactly as proposed.
        data: Bytes,
    },
    /// Recovery is over; the core serves. Comes once, before any other effect but `Read` and `Write`.
    Recovered(RecoverySummary),
    /// Recovery refuses the disk, by these rows of its decision table; [`Effect::DiskFailed`] with the reason follows.
    RecoveryRefused(Rows),
    /// The disk cannot be used any further: its state in memory is void. The driver stops the core.
    DiskFailed(String),
    /// A group's leader, as known here, changed.
    LeaderChanged {
        /// The group.
        group: GroupId,
        /// Who leads.
        leader: Option<ReplicaId>,
        /// Whether it is the local replica.
        is_local: bool,
    },
    /// Damaged blocks were noticed or repaired: for the counters.
    Damage {
        /// The group.
        group: GroupId,
        /// What happened to them.
        damage: Damage,
        /// How many.
        blocks: u64,
    },
    /// Data of a state was received: for the counters.
    CaughtUp {
        /// Bytes.
        bytes: u64,
    },
    /// Blocks of a base were copied into a clone: for the counters.
    Filled {
        /// How many.
        blocks: u64,
    },
    /// Blocks were read through for damage: for the counters.
    Scrubbed {
        /// How many.
        blocks: u64,
        /// A pass has come to its end.
        is_over: bool,
    },
    /// A request has waited for its volume's limits: for the counters.
    Throttled {
        /// The volume.
        group: GroupId,
        /// Nanoseconds.
        nanos: u64,
    },
    /// A checkpoint is durable: for the counters.
    Checkpointed(CheckpointReport),
    /// Live blocks were moved, or a segment is empty: for the counters.
    Collected(CollectionReport),
    /// What the disk's space is used for: at the start, and at most once a second, when it has changed.
    Space(SpaceStatus),
    /// A stage of a write took so long: for the histograms.
    Measured {
        /// Which stage.
        stage: Stage,
        /// Nanoseconds.
        nanos: u64,
    },
}

/// A stage of a request's path, for measurement.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Stage {
    /// From a record's arrival at the log to the submission of its frame.
    Queue,
    /// From a frame's submission to its completion.
    Disk,
    /// From proposal to the majority's acknowledgement.
    Replication,
    /// From proposal to apply.
    Commit,
    /// From a frontend's write to its reply.
    Write,
    /// From a frontend's read to its reply.
    Read,
}

/// What recovery found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecoverySummary {
    /// Frames read.
    pub frames: u64,
    /// Entries found.
    pub entries: u64,
    /// Segments in use.
    pub segments: u32,
    /// Which opening of the log this is: higher than any before.
    pub incarnation: u64,
    /// Whether a torn tail was cut off.
    pub torn_tail: bool,
    /// The rows of the decision table that were met.
    pub rows: Rows,
    /// Groups found.
    pub groups: Vec<GroupId>,
}
