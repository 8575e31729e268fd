//! Cores without real disks, sockets or clocks. Three that are joined ([`Instant`]): all that is left of a request is the
//! processor time of the core itself. And one on a disk in memory ([`Solo`]), to see what it writes and what it takes to start.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark stops at the first thing that is not as it must be"
)]

pub mod disk;
mod instant;
pub mod map;
pub mod pattern;
pub mod snapshots;
mod solo;
pub mod space;

pub use instant::{Instant, VOLUME_BLOCKS};
pub use solo::{DiskModel, Recovery, Solo, Work};
