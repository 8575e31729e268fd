//! The disk's space: which segment is used for what, checkpoints of everything that the disk's replicas are, and the
//! collection of what is not used any more. RFC 0001 has the whole argument; the invariants that each part keeps stand with it.

pub(crate) mod checkpoint;
pub(crate) mod collect;
mod head;
pub(crate) mod load;
pub(crate) mod segments;
pub(crate) mod status;

pub use checkpoint::CheckpointReport;
pub use collect::CollectionReport;
pub use status::SpaceStatus;
