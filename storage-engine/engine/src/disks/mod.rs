//! The engine's disks: one thread each, with a core and an io_uring of its own.
//!
//! [`DiskBackend`] and [`DiskThread`] are what the engine asks of them; [`real`] answers with reactor threads, tests with fakes.
//! [`DiskSet`] knows the state of each configured disk.

mod observer;
pub mod real;
mod set;
mod space;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cairn_api::block::FrontendSession;
use cairn_api::ids::{ClusterId, DiskId, GroupId, LogIndex, NodeId, ReplicaId};
use cairn_core::event::{
    CheckpointReport, CollectionReport, Command, CommandError, CommandReply, Damage, RecoverySummary, Stage,
};
use cairn_reactor::Opening;

pub use observer::{DiskEvent, DiskReporter};
pub use set::{DiskSet, DiskState, DiskView};
pub use space::{Fullness, Thresholds};

use crate::config::DiskConfig;

/// What a disk's superblock says of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskLabel {
    /// Its id.
    pub disk: DiskId,
    /// The cluster it belongs to; NIL while unclaimed.
    pub cluster: ClusterId,
    /// The node it belongs to; NIL while unclaimed.
    pub node: NodeId,
    /// Bytes, from the superblock's geometry.
    pub size_bytes: u64,
}

/// Why a disk cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct DiskError(pub String);

/// What becomes of a command.
pub type CommandResult = Result<CommandReply, CommandError>;
/// Called once, on the disk's thread, so it must not block.
pub type CommandCallback = Box<dyn FnOnce(CommandResult) + Send>;

/// What a disk's thread counts.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DiskStats {
    /// Bytes written to the disk, headers included.
    pub written_bytes: u64,
    /// Bytes read from the disk.
    pub read_bytes: u64,
    /// Bytes received from frontends.
    pub accepted_bytes: u64,
    /// Bytes sent to frontends.
    pub returned_bytes: u64,
    /// Bytes sent to peers.
    pub link_sent_bytes: u64,
    /// Bytes received from peers.
    pub link_received_bytes: u64,
    /// Bytes of registered buffers in use.
    pub arena_used_bytes: u64,
    /// Bytes of registered buffers.
    pub arena_bytes: u64,
    /// Bytes of data that the disk can still take.
    pub free_bytes: u64,
    /// Bytes of data that are in use.
    pub used_bytes: u64,
    /// Bytes of data that the disk takes at most.
    pub capacity_bytes: u64,
    /// Segments that may be written to at once.
    pub segments_free: u64,
    /// How full the disk is.
    pub fullness: Fullness,
    /// Frontends' connections.
    pub streams: u64,
}

/// Opens disks.
pub trait DiskBackend: Send + Sync {
    /// Reads a disk's superblock.
    fn inspect(&self, path: &Path) -> Result<DiskLabel, DiskError>;
    /// Writes cluster and node into an unclaimed disk's superblock. Claimed by them already is done.
    fn claim(&self, path: &Path, cluster: ClusterId, node: NodeId) -> Result<DiskLabel, DiskError>;
    /// Starts the disk's thread, which recovers and then serves.
    fn start(
        &self,
        config: &DiskConfig,
        label: &DiskLabel,
        observer: Arc<dyn DiskObserver>,
    ) -> Result<Arc<dyn DiskThread>, DiskError>;
}

/// A disk's thread.
pub trait DiskThread: Send + Sync {
    /// Where the core of `disk` listens. Whether it was taken; if not, it is to be said again.
    fn set_peer(&self, disk: DiskId, address: SocketAddr) -> bool;
    /// A connection that the core of `from` dialled, after the hello.
    fn adopt_peer(&self, socket: OwnedFd, from: DiskId);
    /// A frontend's connection, after its negotiation.
    fn adopt_stream(&self, socket: OwnedFd, session: Box<dyn FrontendSession>, opening: Opening);
    /// Closes the frontends' connections to a volume.
    fn close_streams_of(&self, group: GroupId);
    /// A control command; the callback is dropped uncalled if the thread ends first.
    fn command(&self, command: Command, callback: CommandCallback);
    /// What it counts.
    fn stats(&self) -> DiskStats;
    /// Asks the thread to end.
    fn stop(&self);
    /// Waits for its end.
    fn join(&self);
}

/// Hears what happens on a disk's thread. Called on that thread: nothing here may block.
pub trait DiskObserver: Send + Sync {
    /// Recovery is over.
    fn on_recovered(&self, summary: &RecoverySummary);
    /// A committed command of the meta group.
    fn on_apply(&self, group: GroupId, index: LogIndex, data: Bytes);
    /// A group's leader changed.
    fn on_leader_changed(&self, group: GroupId, leader: Option<ReplicaId>, is_local: bool);
    /// The disk's thread has ended, or is about to, and will not serve again.
    fn on_disk_failed(&self, reason: String);
    /// A stage took so long.
    fn on_measured(&self, stage: Stage, nanos: u64);
    /// A request has waited so long for its volume's limits.
    fn on_throttled(&self, group: GroupId, nanos: u64);
    /// Blocks that the disk had lost were noticed or repaired.
    fn on_damage(&self, damage: Damage, blocks: u64);
    /// So many bytes of data of a state were received, for a replica that is behind the log.
    fn on_caught_up(&self, bytes: u64);
    /// So many blocks of a base were copied into a clone.
    fn on_filled(&self, blocks: u64);
    /// Live blocks were moved, or a segment was emptied.
    fn on_collected(&self, report: CollectionReport);
    /// A checkpoint is durable.
    fn on_checkpoint(&self, report: CheckpointReport);
    /// Blocks were read through for damage; perhaps the last ones of a pass.
    fn on_scrubbed(&self, blocks: u64, is_over: bool);
}

/// Why a command got no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AskError {
    /// The core's own answer.
    #[error(transparent)]
    Core(#[from] CommandError),
    /// The disk's thread ended first.
    #[error("the disk's thread has ended")]
    Gone,
    /// It took too long.
    #[error("the disk's thread did not answer in time")]
    TimedOut,
}

/// Asks a disk's thread and waits for the answer.
pub async fn ask(
    thread: &Arc<dyn DiskThread>,
    command: Command,
    patience: std::time::Duration,
) -> Result<CommandReply, AskError> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    thread.command(
        command,
        Box::new(move |result| {
            // Whoever asked may have given up: then nobody misses the answer.
            let _ = sender.send(result);
        }),
    );
    match tokio::time::timeout(patience, receiver).await {
        Ok(Ok(result)) => Ok(result?),
        Ok(Err(_)) => Err(AskError::Gone),
        Err(_) => Err(AskError::TimedOut),
    }
}
