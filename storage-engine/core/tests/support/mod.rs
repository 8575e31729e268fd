//! The deterministic cluster that core's tests run on. See `cluster` for what is simulated and what is not.

pub mod cluster;
pub mod content;
pub mod disk;
pub mod history;
pub mod network;
pub mod node;
pub mod rng;
pub mod trace;
pub mod wire;
pub mod workload;
