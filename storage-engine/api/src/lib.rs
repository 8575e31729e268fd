//! The vocabulary every other crate shares: identifiers, units, what a block device does, and the control API.
#![forbid(unsafe_code)]

pub mod block;
#[cfg(feature = "grpc")]
pub mod control;
pub mod ids;
pub mod limits;
pub mod units;
