//! Real clusters of real processes, and the clients that put them to the test.
//!
//! The suites in `tests/` and the commands in `xtask` share this crate. Of Cairn's own crates it links only the one that
//! judges histories: it sees an engine as a user does, through its binary, its configuration file, its sockets and `/proc`.
#![forbid(unsafe_code)]

pub mod binaries;
pub mod chaos;
pub mod cluster;
pub mod command;
pub mod config;
pub mod engine;
pub mod fio;
pub mod image;
pub mod keys;
pub mod ledger;
pub mod load;
pub mod metrics;
pub mod nbd;
pub mod net;
pub mod ports;
pub mod procfs;
pub mod samples;
pub mod trace;
pub mod verify;
pub mod wait;

pub use binaries::Binaries;
pub use cluster::{Cluster, ClusterOptions};
pub use command::Tool;
pub use engine::Engine;
