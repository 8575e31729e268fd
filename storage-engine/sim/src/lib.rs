//! A whole cluster in one thread from a seed: real cores over simulated disks, network and clocks, and the checks of what
//! clients were told. See [`cluster`] for what is simulated and [`cairn_history`] for what is checked.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    reason = "a simulator stops at the first thing that is not as it must be"
)]

pub mod atlas;
pub mod campaign;
pub mod check;
pub mod cluster;
pub mod disk;
pub mod mutant;
pub mod network;
pub mod node;
pub mod rows;
pub mod run;
pub mod scenario;
pub mod shrink;
pub mod trace;
pub mod wire;
pub mod workload;
