//! A typed wrapper of one io_uring: operations go in with a tag and come out with their tag, themselves and a result.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, opcode, squeue};
use slab::Slab;

use crate::buffers::BufferPool;
use crate::error::StartError;
use crate::files::{FileTable, RingFile};
use crate::operation::Operation;

/// Entries of the submission queue. It is emptied whenever it is full, so this only bounds a batch.
const SUBMISSION_ENTRIES: u32 = 512;
/// Entries of the completion queue: a connection has at most two operations in flight, a disk a few hundred.
const COMPLETION_ENTRIES: u32 = 4096;
/// Slots for registered files; what does not fit is used by its descriptor.
const FILE_SLOTS: u32 = 4096;
/// How long a ring that is being dropped waits for its operations before it leaves their memory to the kernel.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);
/// The `user_data` of cancellations, whose completions nobody waits for. No slab key gets that large.
const NOBODY: u64 = u64::MAX;

/// An operation that has ended.
pub(crate) struct Completion<T> {
    /// What the submitter called it.
    pub(crate) tag: T,
    /// The operation, with its buffers.
    pub(crate) operation: Operation,
    /// Bytes transferred, where that means something.
    pub(crate) result: io::Result<u32>,
}

struct InFlight<T> {
    tag: T,
    operation: Operation,
}

/// One io_uring and the operations in flight on it.
pub(crate) struct Ring<T> {
    ring: IoUring,
    in_flight: Slab<InFlight<T>>,
    /// Entries that the submission queue had no room for.
    backlog: VecDeque<squeue::Entry>,
    files: Rc<FileTable>,
    arena_registered: bool,
    has_writev_fixed: bool,
}

impl<T> Ring<T> {
    /// Sets a ring up on the calling thread, which must be the one that uses it.
    pub(crate) fn new() -> Result<Self, StartError> {
        let ring = build()?;
        let mut probe = Probe::new();
        ring.submitter()
            .register_probe(&mut probe)
            .map_err(StartError::from_ring)?;
        for (code, name) in [
            (opcode::Writev::CODE, "WRITEV"),
            (opcode::ReadFixed::CODE, "READ_FIXED"),
            (opcode::SendMsg::CODE, "SENDMSG"),
            (opcode::RecvMsg::CODE, "RECVMSG"),
            (opcode::Connect::CODE, "CONNECT"),
            (opcode::AsyncCancel2::CODE, "ASYNC_CANCEL"),
        ] {
            if !probe.is_supported(code) {
                return Err(StartError::OperationMissing { name });
            }
        }
        let slots = match ring.submitter().register_files_sparse(FILE_SLOTS) {
            Ok(()) => FILE_SLOTS,
            Err(error) => {
                tracing::debug!(%error, "the file table could not be registered; descriptors are used instead");
                0
            }
        };
        Ok(Self {
            ring,
            in_flight: Slab::new(),
            backlog: VecDeque::new(),
            files: FileTable::new(slots),
            arena_registered: false,
            has_writev_fixed: probe.is_supported(opcode::WritevFixed::CODE),
        })
    }

    /// Registers the arena. Without it everything works, a little slower.
    pub(crate) fn register_arena(&mut self, pool: &BufferPool) {
        // SAFETY: the arena is one valid mapping. The kernel pins its pages at registration, so that even unmapping it
        // before the ring is gone would not free them.
        match unsafe { self.ring.submitter().register_buffers(&[pool.arena()]) } {
            Ok(()) => self.arena_registered = true,
            Err(error) => tracing::warn!(
                %error,
                "the I/O buffers could not be registered with io_uring and are used unregistered; \
                 raise the locked-memory limit (ulimit -l, LimitMEMLOCK) above the disk's `memory` setting"
            ),
        }
    }

    /// The index of the arena for reads, if it is registered.
    pub(crate) fn arena_for_reads(&self) -> Option<u16> {
        self.arena_registered.then_some(0)
    }

    /// The index of the arena for gathered writes, if it is registered and the kernel (6.15 or later) can use it so.
    pub(crate) fn arena_for_writes(&self) -> Option<u16> {
        (self.arena_registered && self.has_writev_fixed).then_some(0)
    }

    /// Takes a descriptor over, and registers it while there are slots.
    pub(crate) fn adopt(&mut self, descriptor: OwnedFd) -> Rc<RingFile> {
        self.tidy_files();
        let slot = self.files.take().and_then(|slot| {
            match self
                .ring
                .submitter()
                .register_files_update(slot, &[descriptor.as_raw_fd()])
            {
                Ok(_) => Some(slot),
                Err(_) => {
                    self.files.put_back(slot);
                    None
                }
            }
        });
        Rc::new(RingFile::new(descriptor, slot, Rc::clone(&self.files)))
    }

    /// Empties the slots of files that are closed.
    pub(crate) fn tidy_files(&mut self) {
        while let Some(slot) = self.files.next_vacated() {
            // A slot that cannot be emptied is never used again.
            if self.ring.submitter().register_files_update(slot, &[-1]).is_ok() {
                self.files.put_back(slot);
            }
        }
    }

    /// Operations in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Starts an operation. It reaches the kernel with the next [`Self::wait`] at the latest.
    pub(crate) fn submit(&mut self, tag: T, operation: Operation) {
        let key = self.in_flight.insert(InFlight { tag, operation });
        let entry = self.in_flight[key].operation.entry().user_data(key as u64);
        self.push(entry);
    }

    /// Queues an entry behind those that found no room before.
    fn push(&mut self, entry: squeue::Entry) {
        self.backlog.push_back(entry);
        if !self.move_backlog() {
            // The queue is full: let the kernel take what is there. If it wants completions to be reaped first, the
            // rest stays in the backlog until the next wait.
            if let Err(error) = self.ring.submit() {
                tracing::debug!(%error, "io_uring did not take a full queue at once");
            }
            self.move_backlog();
        }
    }

    /// Moves the backlog into the submission queue. False if it does not fit.
    fn move_backlog(&mut self) -> bool {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: all that the entry points to is owned by the operation in `in_flight`, at addresses that do not
            // change when the slab grows (boxes, vectors, buffers), and it stays there until its completion is reaped;
            // `Drop` waits for that too, or leaks. A cancellation points to nothing.
            if unsafe { queue.push(entry) }.is_err() {
                return false;
            }
            self.backlog.pop_front();
        }
        true
    }

    /// Hands everything to the kernel and waits until an operation ends or `timeout` has passed.
    pub(crate) fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let fits = self.move_backlog();
        let limit = Timespec::from(if fits { timeout } else { Duration::ZERO });
        let arguments = SubmitArgs::new().timespec(&limit);
        match self.ring.submitter().submit_with_args(1, &arguments) {
            Ok(_) => Ok(()),
            // Time is up, a signal came, or completions must be reaped before more is taken: all part of the loop.
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Moves all operations that have ended into `completions`.
    pub(crate) fn reap(&mut self, completions: &mut Vec<Completion<T>>) {
        for entry in self.ring.completion() {
            if entry.user_data() == NOBODY {
                continue;
            }
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the value is a slab key that came from a usize"
            )]
            let InFlight { tag, operation } = self.in_flight.remove(entry.user_data() as usize);
            let result = u32::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()));
            completions.push(Completion { tag, operation, result });
        }
    }

    /// Cancels what can be cancelled and waits for the rest.
    fn drain(&mut self) -> bool {
        let until = Instant::now() + DRAIN_TIME_MAX;
        let mut completions = Vec::new();
        while !self.in_flight.is_empty() && Instant::now() < until {
            self.push(
                opcode::AsyncCancel2::new(CancelBuilder::any())
                    .build()
                    .user_data(NOBODY),
            );
            if self.wait(Duration::from_millis(100)).is_err() {
                break;
            }
            self.reap(&mut completions);
            completions.clear();
        }
        self.in_flight.is_empty()
    }
}

impl<T> Drop for Ring<T> {
    /// The kernel may write into the buffers of operations in flight, so they are freed after their completion only.
    fn drop(&mut self) {
        if !self.drain() {
            tracing::error!(
                operations = self.in_flight.len(),
                "I/O did not end in time; its buffers are left to the kernel until the process ends"
            );
            std::mem::forget(std::mem::take(&mut self.in_flight));
        }
        // The kernel takes a ring apart in the background; without this, the disk's lock would outlive the thread by an
        // unknown while. Where nothing was registered, there is nothing to give up.
        let _ = self.ring.submitter().unregister_files();
        let _ = self.ring.submitter().unregister_buffers();
    }
}

/// Builds the ring with the best mode this kernel has: completions deferred to the waiting thread (6.1), else
/// cooperative (5.19), else plain.
fn build() -> Result<IoUring, StartError> {
    let mut refusal = None;
    for mode in 0..3 {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_cqsize(COMPLETION_ENTRIES);
        match mode {
            0 => builder.setup_submit_all().setup_single_issuer().setup_defer_taskrun(),
            1 => builder.setup_submit_all().setup_coop_taskrun(),
            _ => &mut builder,
        };
        match builder.build(SUBMISSION_ENTRIES) {
            Ok(ring) if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() => {
                return Err(StartError::OperationMissing {
                    name: "EXT_ARG (Linux 5.11)",
                });
            }
            Ok(ring) => return Ok(ring),
            // The flags are not known to this kernel: try fewer.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refusal = Some(error),
            Err(error) => return Err(StartError::from_ring(error)),
        }
    }
    Err(StartError::from_ring(
        refusal.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EINVAL)),
    ))
}
