//! Core on a deterministic cluster: whole volumes over simulated disks, links and clocks. See `cairn_sim::cluster` for what
//! is simulated, and `cairn_history::register` for what is checked.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::print_stderr,
    unreachable_pub,
    missing_docs,
    reason = "a test"
)]

mod catch_up;
mod catch_up_state;
mod checkpoints;
mod clones;
mod determinism;
mod encryption;
mod failover;
mod fairness;
mod fencing;
mod full_disk;
mod grow;
mod guards;
mod io;
mod lease;
mod limits;
mod members;
mod repair;
mod scrub;
mod soak;
mod space;
mod together;
