//! The meta group: the catalogue of the cluster, replicated by the same Raft as every volume.
//!
//! [`catalogue`] is the state, [`decide`] what a command does to it (pure), [`store`] its durable form in sled, [`codec`] its bytes,
//! [`settings`] the commands that change a volume that is there, [`snapshot`] those for snapshots, [`placement`] the choice of
//! disks, [`clone`] clones and what they stand on, [`succession`] how replicas are succeeded by others, [`replace`] the commands for that, [`encryption`] the keys of
//! volumes,
//! [`group`] the way a command takes from a proposer through the log to its verdict.

pub mod catalogue;
pub mod clone;
pub mod codec;
pub mod decide;
pub mod encryption;
pub mod group;
pub mod placement;
mod replace;
mod settings;
pub mod snapshot;
mod snapshot_codec;
pub mod store;
pub mod succession;
pub mod together;

/// The messages of `proto/meta.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    reason = "generated from proto/meta.proto"
)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/cairn.meta.v1.rs"));
}

pub use catalogue::{Catalogue, Cluster, DiskRecord, NodeRecord, ReplicaRecord, VolumePhase, VolumeRecord};
pub use clone::{Origin, Source};
pub use decide::{Command, LimitChange, Outcome, Refusal};
pub use encryption::{PlannedEncryption, ServiceKind, WrappedKey};
pub use snapshot::{SnapshotCommand, SnapshotPhase, SnapshotRecord};
pub use succession::{Replacement, Step, Succession, Swap};
pub use together::{Made, Together};

#[cfg(test)]
mod clone_tests;
#[cfg(test)]
mod encryption_tests;
#[cfg(test)]
mod replace_tests;
#[cfg(test)]
mod snapshot_tests;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod together_tests;
