//! The `cairn` command: formats disks, makes clusters, manages volumes, and runs a whole cluster in one directory.
#![forbid(unsafe_code)]

pub mod args;
mod client;
mod commands;
mod dev;
mod disk;
pub mod error;
mod output;
mod progress;
pub mod views;

pub use commands::run;
