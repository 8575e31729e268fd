//! Three cores that are joined without disks, sockets or clocks: all that is left of a request is the processor time of
//! the core itself.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark stops at the first thing that is not as it must be"
)]

mod instant;

pub use instant::{Instant, VOLUME_BLOCKS};
