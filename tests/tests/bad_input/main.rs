//! Disks, peers and configurations that are wrong: each is named in a message, and nothing is lost.
#![forbid(unsafe_code)]

mod disks;
mod full;
mod peers;
mod settings;
