//! A small blocking NBD client, written from the protocol's document and sharing nothing with the server under test.
//!
//! It speaks fixed newstyle with `NBD_OPT_GO`, and simple or structured replies: enough to keep several requests in flight,
//! to match replies by cookie, and to break the rules on purpose.

mod client;
mod reply;
mod stream;
pub mod wire;

pub use client::{Client, Command, Dialect};
pub use reply::Reply;
pub use stream::{Address, Stream};
