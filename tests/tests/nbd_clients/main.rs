//! NBD clients that nobody here wrote, on a real cluster of three engines; and a few that break the rules.
#![forbid(unsafe_code)]

mod copy;
mod fio;
mod grow;
mod handover;
mod info;
mod libnbd;
mod protocol;
mod qemu;
mod tls;
