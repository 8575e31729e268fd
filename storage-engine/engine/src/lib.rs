//! The daemon: one per node. It reads the configuration, opens the disks and drives a core on each, takes part in the meta
//! group that holds the catalogue, answers the control API, accepts peers and NBD clients, and reports its health.
#![forbid(unsafe_code)]

pub mod args;
pub mod cluster;
pub mod config;
pub mod control;
pub mod daemon;
pub mod disks;
pub mod engine;
pub mod identity;
pub mod keys;
pub mod listen;
pub mod logs;
pub mod meta;
pub mod metrics;

#[cfg(test)]
mod fakes;
