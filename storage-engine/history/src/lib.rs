//! What test clients write, and whether what they were told can be true. Links nothing that it judges, so that simulated
//! and real clusters go through the same checks.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a check stops at the first thing that is not as it must be"
)]

pub mod content;
pub mod register;
pub mod rng;
