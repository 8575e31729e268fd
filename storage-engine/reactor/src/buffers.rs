//! Page-aligned buffers for disks and sockets: one mapped arena per thread, registered with the ring where allowed.
//!
//! A [`PooledBuf`] is filled by the kernel, becomes `Bytes` and goes back when the last clone is dropped, on whatever
//! thread that happens. When the arena is used up, page-aligned heap memory stands in up to a bound; beyond it the
//! caller has to wait. Frontends are refused first, so that what peers replicate can always drain.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cairn_core::memory::{Heap, Memory};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::buddy::Buddy;
use crate::counters::Counters;
use crate::wake::Waker;

/// The unit of allocation and the alignment of every buffer, in bytes: a memory page, and no disk asks for more.
pub const PAGE_BYTES: usize = 4096;

/// The part of the budget that frontends cannot take, as a divisor: a quarter is left to peers and disk reads.
const RESERVE_DIVISOR: usize = 4;

/// Who asks for memory, and with it how far the budget may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// A frontend's payload: refused while only the reserve is left.
    Frontend,
    /// A peer's payload: refused when the budget is used up.
    Peer,
    /// What the core asked for, which is bounded by the core: never refused.
    Core,
}

/// The memory of one reactor thread.
#[derive(Clone)]
pub(crate) struct BufferPool {
    shared: Arc<Shared>,
}

struct Shared {
    base: NonNull<u8>,
    length: usize,
    buddy: Mutex<Buddy>,
    heap_bytes: AtomicUsize,
    heap_bytes_max: usize,
    /// Somebody waits for memory: the next buffer that comes back wakes the thread.
    starved: AtomicBool,
    waker: Arc<Waker>,
    counters: Arc<Counters>,
}

// SAFETY: `base` points to a private mapping that `Shared` owns until it is dropped; the memory behind it is handed out
// in disjoint runs, each owned by one `PooledBuf`, and the book-keeping is behind a mutex and atomics.
unsafe impl Send for Shared {}
// SAFETY: as above: `&Shared` gives access to the book-keeping only, never to the memory.
unsafe impl Sync for Shared {}

impl BufferPool {
    /// Maps an arena of `length` bytes, rounded down to whole pages, with as much heap memory behind it.
    pub(crate) fn new(length: usize, waker: Arc<Waker>, counters: Arc<Counters>) -> nix::Result<Self> {
        let pages = u32::try_from(length / PAGE_BYTES).map_err(|_| nix::errno::Errno::EINVAL)?;
        let bytes = NonZeroUsize::new(pages as usize * PAGE_BYTES).ok_or(nix::errno::Errno::EINVAL)?;
        // SAFETY: a new private anonymous mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe {
            mmap_anonymous(
                None,
                bytes,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE,
            )?
        };
        // Huge pages make registration and address translation cheaper; without them everything works the same.
        // SAFETY: the range is the mapping that was just made.
        let _ = unsafe { madvise(base, bytes.get(), MmapAdvise::MADV_HUGEPAGE) };
        counters.arena_bytes.store(bytes.get() as u64, Ordering::Relaxed);
        Ok(Self {
            shared: Arc::new(Shared {
                base: base.cast(),
                length: bytes.get(),
                buddy: Mutex::new(Buddy::new(pages)),
                heap_bytes: AtomicUsize::new(0),
                heap_bytes_max: bytes.get(),
                starved: AtomicBool::new(false),
                waker,
                counters,
            }),
        })
    }

    /// A buffer of `length` bytes, which is at least 1, or `None` when `purpose` has to wait. The bytes are whatever
    /// they were; the caller overwrites them.
    pub(crate) fn allocate(&self, length: usize, purpose: Purpose) -> Option<PooledBuf> {
        assert!(length > 0, "a buffer holds at least a byte");
        if !self.allows(length, purpose) {
            self.shared.starved.store(true, Ordering::SeqCst);
            // A buffer may have come back between the check and the mark, and then nobody would wake the thread.
            if !self.allows(length, purpose) {
                return None;
            }
        }
        let pages = length.div_ceil(PAGE_BYTES);
        let first = u32::try_from(pages)
            .ok()
            .and_then(|pages| self.shared.lock().allocate(pages));
        let (memory, place) = match first {
            Some(first) => {
                self.shared
                    .counters
                    .arena_bytes_used
                    .fetch_add((pages * PAGE_BYTES) as u64, Ordering::Relaxed);
                // SAFETY: the run lies in the mapping, so the offset stays inside the allocation.
                (
                    unsafe { self.shared.base.add(first as usize * PAGE_BYTES) },
                    Place::Arena { first },
                )
            }
            None => (self.shared.heap_pages(pages), Place::Heap),
        };
        Some(PooledBuf {
            pool: Arc::clone(&self.shared),
            memory,
            pages,
            length,
            place,
        })
    }

    /// Whether another `length` bytes are within what `purpose` may use.
    fn allows(&self, length: usize, purpose: Purpose) -> bool {
        let budget = self.shared.length + self.shared.heap_bytes_max;
        let limit = match purpose {
            Purpose::Core => return true,
            Purpose::Peer => budget,
            Purpose::Frontend => budget - budget / RESERVE_DIVISOR,
        };
        let used = self.used_bytes();
        // A single payload larger than the limit is let through when nothing else is in use: it would wait for ever.
        used == 0 || used + length <= limit
    }

    /// Bytes handed out and not yet back, in whole pages.
    pub(crate) fn used_bytes(&self) -> usize {
        let free = self.shared.lock().free_pages() as usize * PAGE_BYTES;
        self.shared.length - free + self.shared.heap_bytes.load(Ordering::Relaxed)
    }

    /// The arena, for registration with a ring. Valid as long as any clone of the pool lives.
    pub(crate) fn arena(&self) -> libc::iovec {
        libc::iovec {
            iov_base: self.shared.base.as_ptr().cast(),
            iov_len: self.shared.length,
        }
    }

    /// Whether all of `bytes` lies in the arena.
    pub(crate) fn contains(&self, bytes: &[u8]) -> bool {
        let base = self.shared.base.as_ptr() as usize;
        let start = bytes.as_ptr() as usize;
        start >= base && start + bytes.len() <= base + self.shared.length
    }
}

impl Memory for BufferPool {
    fn filled(&self, length: usize, fill: &mut dyn FnMut(&mut [u8])) -> Bytes {
        let counted = &self.shared.counters.core_bytes_filled;
        counted.fetch_add(length as u64, Ordering::Relaxed);
        match self.allocate(length.max(1), Purpose::Core) {
            Some(mut buffer) => {
                fill(&mut buffer.as_mut_slice()[..length]);
                buffer.into_bytes().slice(..length)
            }
            // The core is never refused; if it were, the disk would copy what is not aligned.
            None => Heap.filled(length, fill),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Buddy> {
        // The book-keeping is consistent between its calls, so a panic elsewhere does not spoil it.
        self.buddy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[expect(
        clippy::expect_used,
        reason = "a run of pages below the address space's size is a valid layout"
    )]
    fn layout(pages: usize) -> Layout {
        Layout::from_size_align(pages * PAGE_BYTES, PAGE_BYTES).expect("a page is a power of two")
    }

    fn heap_pages(&self, pages: usize) -> NonNull<u8> {
        let layout = Self::layout(pages);
        // SAFETY: the layout has a non-zero size, because a buffer has at least one page.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(memory) = NonNull::new(memory) else {
            std::alloc::handle_alloc_error(layout)
        };
        let used = self.heap_bytes.fetch_add(pages * PAGE_BYTES, Ordering::Relaxed) + pages * PAGE_BYTES;
        self.counters.heap_bytes_used.store(used as u64, Ordering::Relaxed);
        memory
    }

    fn give_back(&self, memory: NonNull<u8>, pages: usize, place: Place) {
        match place {
            Place::Arena { first } => {
                #[expect(clippy::cast_possible_truncation, reason = "the run came from a 32-bit page count")]
                self.lock().release(first, pages as u32);
                self.counters
                    .arena_bytes_used
                    .fetch_sub((pages * PAGE_BYTES) as u64, Ordering::Relaxed);
            }
            Place::Heap => {
                // SAFETY: `memory` came from `alloc_zeroed` with this very layout, and its only owner is being dropped.
                unsafe { dealloc(memory.as_ptr(), Self::layout(pages)) };
                let used = self.heap_bytes.fetch_sub(pages * PAGE_BYTES, Ordering::Relaxed) - pages * PAGE_BYTES;
                self.counters.heap_bytes_used.store(used as u64, Ordering::Relaxed);
            }
        }
        if self.starved.swap(false, Ordering::SeqCst) {
            self.waker.wake();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and whole; every buffer cut from it held a reference to `self`, so none is left,
        // and the ring that had it registered holds its own reference to the pages.
        let unmapped = unsafe { munmap(self.base.cast(), self.length) };
        debug_assert!(unmapped.is_ok(), "a mapping of our own can be unmapped");
    }
}

#[derive(Clone, Copy)]
enum Place {
    Arena { first: u32 },
    Heap,
}

/// A page-aligned buffer with one owner.
pub(crate) struct PooledBuf {
    pool: Arc<Shared>,
    memory: NonNull<u8>,
    pages: usize,
    length: usize,
    place: Place,
}

// SAFETY: the buffer owns its run of memory alone; nothing about it is tied to a thread.
unsafe impl Send for PooledBuf {}

impl PooledBuf {
    /// Bytes in the buffer.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// The bytes, to be filled.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the run is at least `length` bytes, initialised (mapped or allocated as zeros), and ours alone for as
        // long as `self` is borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.length) }
    }

    /// Freezes the buffer; its memory goes back when the last clone is dropped.
    pub(crate) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for PooledBuf {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: as in `as_mut_slice`, shared.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.length) }
    }
}

impl Drop for PooledBuf {
    fn drop(&mut self) {
        self.pool.give_back(self.memory, self.pages, self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(bytes: usize) -> (BufferPool, Arc<Counters>, Arc<Waker>) {
        let counters = Arc::new(Counters::default());
        let waker = Arc::new(Waker::new().unwrap());
        (
            BufferPool::new(bytes, Arc::clone(&waker), Arc::clone(&counters)).unwrap(),
            counters,
            waker,
        )
    }

    #[test]
    fn buffers_are_page_aligned_and_come_back_from_any_thread() {
        let (pool, counters, _) = pool(1 << 20);
        let mut held = Vec::new();
        for length in [1, 4096, 4097, 300_000] {
            let mut buffer = pool.allocate(length, Purpose::Peer).unwrap();
            assert_eq!(buffer.as_mut_slice().as_ptr() as usize % PAGE_BYTES, 0);
            buffer.as_mut_slice().fill(7);
            held.push(buffer.into_bytes());
        }
        assert!(
            held.iter()
                .all(|bytes| pool.contains(bytes) && bytes.iter().all(|byte| *byte == 7))
        );
        let slices: Vec<Bytes> = held.iter().map(|bytes| bytes.slice(..1)).collect();
        drop(held);
        assert!(pool.used_bytes() > 300_000, "a slice keeps its buffer");
        std::thread::spawn(move || drop(slices)).join().unwrap();
        assert_eq!(pool.used_bytes(), 0);
        assert_eq!(counters.arena_bytes_used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn frontends_wait_before_peers_and_the_core_never_does() {
        let (pool, counters, waker) = pool(1 << 20);
        let mut frontends = Vec::new();
        while let Some(buffer) = pool.allocate(65_536, Purpose::Frontend) {
            frontends.push(buffer);
        }
        assert_eq!(frontends.len(), 24, "three quarters of arena and heap together");
        assert!(counters.heap_bytes_used.load(Ordering::Relaxed) > 0);
        let mut peers = Vec::new();
        while let Some(buffer) = pool.allocate(65_536, Purpose::Peer) {
            peers.push(buffer);
        }
        assert_eq!(peers.len(), 8);
        assert!(pool.allocate(65_536, Purpose::Core).is_some());
        assert!(waker.is_signalled(), "a buffer that came back wakes those who wait");
        drop((frontends, peers));
        assert_eq!(pool.used_bytes(), 0);
        assert_eq!(counters.heap_bytes_used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_payload_larger_than_the_budget_passes_alone() {
        let (pool, ..) = pool(1 << 20);
        let large = pool.allocate(32 << 20, Purpose::Frontend);
        assert!(large.is_some());
        assert!(pool.allocate(1, Purpose::Frontend).is_none());
    }
}
