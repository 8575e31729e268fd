//! The built `cairn` against engines that are faked: what it prints, what it asks of them, and with which code it exits.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not take for tests themselves, fail by panicking"
)]

mod cluster;
mod dev;
mod disk;
mod engines;
mod fake;
mod key;
mod run;
mod snapshot;
mod volume;
