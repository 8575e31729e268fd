//! What the tests of this crate share: a device, a client of our own, and servers for clients of others.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test binary uses a part of it"
)]

pub mod certificates;
pub mod chaos;
pub mod client;
pub mod device;
pub mod server;
