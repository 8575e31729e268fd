//! Drives a core over io_uring: its disk and all its data sockets, one thread per disk.
//!
//! The thread waits on one ring for disk completions, peers, frontends and control requests, hands them to the core as
//! events, and carries out the core's effects. All `unsafe` of the data path is here, each block with its reason.

mod aligned;
mod buddy;
mod buffers;
mod context;
mod counters;
pub mod disk;
mod disk_io;
mod disk_lock;
mod error;
mod files;
mod handle;
mod inbound;
mod links;
mod machine;
mod mailbox;
mod observer;
mod opening;
mod operation;
mod reactor;
mod recognise;
mod socket;
mod streams;
mod uring;
mod wake;

pub use buffers::PAGE_BYTES;
pub use counters::{Counters, LinkCounters};
pub use error::{DiskError, Failure, HandleError, StartError};
pub use handle::{Config, MEMORY_DEFAULT, MEMORY_MAX, MEMORY_MIN, Reactor, ReactorHandle};
pub use machine::Machine;
pub use mailbox::Callback;
pub use observer::{NoObserver, Observer};
pub use opening::Opening;
