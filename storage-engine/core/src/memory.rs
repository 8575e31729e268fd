//! Where the core's own payloads live: those that it makes itself, because a volume's cipher turns one buffer into another.
//!
//! A driver lends the core buffers that its disks and sockets can use as they are. Everything else that the core passes on
//! it has been given.

use bytes::{Bytes, BytesMut};

/// Lends buffers.
pub trait Memory: Send + Sync {
    /// A buffer of `length` bytes, all of which `fill` writes; page-aligned where the driver can.
    fn filled(&self, length: usize, fill: &mut dyn FnMut(&mut [u8])) -> Bytes;
}

/// Plain memory, for drivers that have no other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heap;

impl Memory for Heap {
    fn filled(&self, length: usize, fill: &mut dyn FnMut(&mut [u8])) -> Bytes {
        let mut buffer = BytesMut::zeroed(length);
        fill(&mut buffer);
        buffer.freeze()
    }
}
