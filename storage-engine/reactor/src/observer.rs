//! What a reactor tells its engine, from its own thread.

use bytes::Bytes;
use cairn_api::ids::{GroupId, LogIndex, ReplicaId};
use cairn_core::event::{CheckpointReport, CollectionReport, Damage, RecoverySummary, SpaceStatus, Stage};

use crate::error::Failure;

/// Called on the reactor's thread, so no method may block: hand over to a queue, or count. Every method does nothing
/// unless it is written.
pub trait Observer: Send + 'static {
    /// Recovery is over; the core serves.
    fn on_recovered(&mut self, _summary: RecoverySummary) {}
    /// A committed command of an external state machine, in log order.
    fn on_apply(&mut self, _group: GroupId, _index: LogIndex, _data: Bytes) {}
    /// A group's leader, as known here, changed.
    fn on_leader_changed(&mut self, _group: GroupId, _leader: Option<ReplicaId>, _is_local: bool) {}
    /// The disk cannot be used any further; the thread is ending.
    fn on_disk_failed(&mut self, _reason: &str) {}
    /// A stage of a request took so many nanoseconds.
    fn on_measured(&mut self, _stage: Stage, _nanos: u64) {}
    /// So many blocks that the disk had lost were noticed or repaired.
    fn on_damage(&mut self, _damage: Damage, _blocks: u64) {}
    /// So many bytes of data of a state were received, for a replica that is behind the log.
    fn on_caught_up(&mut self, _bytes: u64) {}
    /// So many blocks of a base were copied into a clone.
    fn on_filled(&mut self, _blocks: u64) {}
    /// So many blocks were read through for damage; perhaps the last ones of a pass.
    fn on_scrubbed(&mut self, _blocks: u64, _is_over: bool) {}
    /// A request has waited for so many nanoseconds for its volume's limits.
    fn on_throttled(&mut self, _group: GroupId, _nanos: u64) {}

    /// Live blocks were moved out of segments.
    fn on_collected(&mut self, _report: CollectionReport) {}
    /// What the disk's space is used for has changed.
    fn on_space(&mut self, _status: SpaceStatus) {}
    /// A checkpoint is durable.
    fn on_checkpoint(&mut self, _report: CheckpointReport) {}
    /// A frontend's connection is served.
    fn on_stream_opened(&mut self, _group: GroupId, _volume: &str) {}
    /// A frontend's connection is gone.
    fn on_stream_closed(&mut self, _group: GroupId, _volume: &str) {}
    /// The thread has ended; without a failure if it was asked to. The last call.
    fn on_stopped(&mut self, _failure: Option<&Failure>) {}
}

/// An observer that looks away.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {}
