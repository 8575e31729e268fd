//! What a reactor counts, for the engine's metrics. Every counter is written by one thread and read by any.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use cairn_api::ids::DiskId;

/// Counters and gauges of one reactor.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes written to the disk, headers and payload.
    pub disk_bytes_written: AtomicU64,
    /// Writes finished: log frames and superblocks.
    pub disk_writes: AtomicU64,
    /// Bytes read from the disk.
    pub disk_bytes_read: AtomicU64,
    /// Reads finished.
    pub disk_reads: AtomicU64,
    /// Bytes copied because a buffer was not aligned as the disk needs; 0 when all is well.
    pub disk_bytes_bounced: AtomicU64,
    /// Bytes of buffers that the core filled itself: what went through the ciphers of volumes, either way.
    pub core_bytes_filled: AtomicU64,
    /// Size of the arena, in bytes.
    pub arena_bytes: AtomicU64,
    /// Bytes of the arena in use, in whole pages.
    pub arena_bytes_used: AtomicU64,
    /// Bytes of heap memory in use because the arena was full.
    pub heap_bytes_used: AtomicU64,
    /// Frontend connections that are open.
    pub streams_open: AtomicU64,
    /// Bytes received from frontends.
    pub stream_bytes_received: AtomicU64,
    /// Bytes sent to frontends.
    pub stream_bytes_sent: AtomicU64,
    /// Turns of the loop.
    pub turns: AtomicU64,
    links: Mutex<BTreeMap<DiskId, Arc<LinkCounters>>>,
}

/// Counters of the connections with one peer.
#[derive(Debug, Default)]
pub struct LinkCounters {
    /// Bytes received.
    pub bytes_received: AtomicU64,
    /// Frames received.
    pub frames_received: AtomicU64,
    /// Bytes sent.
    pub bytes_sent: AtomicU64,
    /// Frames sent.
    pub frames_sent: AtomicU64,
    /// Bytes that wait to be sent.
    pub bytes_queued: AtomicU64,
    /// 1 while the outgoing link stands.
    pub up: AtomicU64,
    /// Times the outgoing link broke after it stood.
    pub breaks: AtomicU64,
}

impl Counters {
    /// The counters of a peer, made when first asked for.
    pub(crate) fn link(&self, peer: DiskId) -> Arc<LinkCounters> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(links.entry(peer).or_default())
    }

    /// The counters of every peer that was ever known.
    pub fn links(&self) -> Vec<(DiskId, Arc<LinkCounters>)> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links
            .iter()
            .map(|(disk, counters)| (*disk, Arc::clone(counters)))
            .collect()
    }
}
