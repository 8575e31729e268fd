//! Every structure of the format, both ways: random values come back as they were, any changed byte is noticed, and
//! garbage is refused without a panic.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test may fail"
)]

mod checkpoint;
mod disk;
mod peer;
mod strategies;
