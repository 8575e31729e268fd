//! The replicated volume as a state machine: Raft groups over one disk's segment log, their block maps, and the
//! gateways that serve volumes to frontends. No thread, clock, socket or file.
#![forbid(unsafe_code)]

mod base;
pub mod config;
pub mod event;
mod fair;
mod flattener;
mod gateway;
mod group;
mod load;
pub mod log;
mod machine;
pub mod map;
pub mod membership;
pub mod memory;
mod merge;
#[cfg(not(feature = "mutations"))]
mod mutation;
#[cfg(feature = "mutations")]
pub mod mutation;
mod pace;
mod reading;
mod recover;
mod recovering;
mod repair;
mod scrub;
mod shared;
mod space;
pub mod time;

pub use base::BASES_MAX;
pub use group::SNAPSHOTS_MAX;
pub use load::Load;
pub use machine::Core;
pub use repair::WRITE_BACKS_MAX;
pub use shared::message_bytes;
