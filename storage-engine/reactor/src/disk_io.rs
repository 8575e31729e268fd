//! The disk on the ring: carries out the core's reads and writes, and turns their ends into events.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cairn_core::event::{DiskFault, Event, IoId};

use crate::buffers::Purpose;
use crate::context::{Context, Tag};
use crate::disk::{Disk, direct_io_alignment};
use crate::error::Failure;
use crate::files::RingFile;
use crate::operation::{BufferRead, Gather, GatherWrite, Operation};

/// Offsets, lengths and addresses are multiples of this unless the device asks for less; no device we open asks for
/// more than 4096.
const ALIGNMENT_FALLBACK: usize = 512;

/// The longest frame header that is moved into the arena; a usual one is a block or two.
const STAGED_BYTES_MAX: usize = 64 << 10;

/// The disk of a reactor.
pub(crate) struct DiskIo {
    file: Rc<RingFile>,
    /// Writes to be submitted at the end of the turn.
    writes: Vec<(IoId, Box<GatherWrite>)>,
    /// What direct I/O needs of addresses and lengths; a power of two.
    alignment: usize,
}

impl DiskIo {
    pub(crate) fn new(disk: Disk, context: &mut Context) -> Result<Self, Failure> {
        let file = disk.into_file();
        let alignment = direct_io_alignment(&file).map_err(|error| Failure::Disk(error.to_string()))?;
        let alignment = (alignment as usize).max(ALIGNMENT_FALLBACK);
        Ok(Self {
            file: context.ring.adopt(OwnedFd::from(file)),
            writes: Vec::new(),
            alignment,
        })
    }

    /// Prepares a durable write of `buffers`, contiguously at `offset`; [`Self::flush`] starts it.
    pub(crate) fn write(&mut self, context: &mut Context, io: IoId, offset: u64, mut buffers: Vec<Bytes>) {
        for buffer in &mut buffers {
            if !self.is_aligned(buffer) {
                *buffer = bounce(context, buffer);
            }
        }
        let registered = context.ring.arena_for_writes();
        let registered = registered.filter(|_| gather_in_arena(context, &mut buffers));
        let gather = Gather::new(buffers);
        assert!(gather.total() > 0, "a write has bytes");
        let write = GatherWrite {
            file: Rc::clone(&self.file),
            offset,
            gather,
            registered,
        };
        self.writes.push((io, Box::new(write)));
    }

    /// At the end of a turn, after the sends: handing a write to the device takes longer than handing a frame to a
    /// socket, and followers must not wait for the leader's own disk.
    pub(crate) fn flush(&mut self, context: &mut Context) {
        for (io, write) in self.writes.drain(..) {
            context.ring.submit(Tag::DiskWrite(io), Operation::Write(write));
        }
    }

    /// Starts a read into a buffer of its own.
    pub(crate) fn read(&self, context: &mut Context, io: IoId, offset: u64, length: u32) {
        let Some(buffer) = context.pool.allocate(length as usize, Purpose::Core) else {
            let fault = DiskFault::Os("no memory for a read".to_owned());
            context.events.push(Event::Read { io, result: Err(fault) });
            return;
        };
        let registered = context
            .ring
            .arena_for_reads()
            .filter(|_| context.pool.contains(buffer.as_ref()));
        let read = BufferRead {
            file: Rc::clone(&self.file),
            offset,
            buffer,
            done: 0,
            registered,
        };
        context.ring.submit(Tag::DiskRead(io), Operation::Read(Box::new(read)));
    }

    /// A write has ended, or a piece of it.
    pub(crate) fn written(
        &self,
        context: &mut Context,
        io: IoId,
        mut write: Box<GatherWrite>,
        result: io::Result<u32>,
    ) {
        let total = write.gather.total();
        let result = match result {
            Ok(0) => Err(DiskFault::Short {
                done: total - write.gather.left(),
                asked: total,
            }),
            Ok(bytes) => {
                write.offset += u64::from(bytes);
                write.gather.advance(u64::from(bytes));
                context
                    .counters
                    .disk_bytes_written
                    .fetch_add(u64::from(bytes), Ordering::Relaxed);
                Ok(())
            }
            Err(error) if is_transient(&error) => Ok(()),
            Err(error) => Err(DiskFault::Os(error.to_string())),
        };
        if result.is_ok() && write.gather.left() > 0 {
            context.ring.submit(Tag::DiskWrite(io), Operation::Write(write));
            return;
        }
        context.counters.disk_writes.fetch_add(1, Ordering::Relaxed);
        context.events.push(Event::Written { io, result });
    }

    /// A read has ended, or a piece of it.
    pub(crate) fn was_read(&self, context: &mut Context, io: IoId, mut read: Box<BufferRead>, result: io::Result<u32>) {
        let asked = read.buffer.len();
        let result = match result {
            Ok(0) => Err(DiskFault::Short {
                done: read.done as u64,
                asked: asked as u64,
            }),
            Ok(bytes) => {
                read.done += bytes as usize;
                context
                    .counters
                    .disk_bytes_read
                    .fetch_add(u64::from(bytes), Ordering::Relaxed);
                Ok(())
            }
            Err(error) if is_transient(&error) => Ok(()),
            Err(error) => Err(DiskFault::Os(error.to_string())),
        };
        if result.is_ok() && read.done < asked {
            context.ring.submit(Tag::DiskRead(io), Operation::Read(read));
            return;
        }
        context.counters.disk_reads.fetch_add(1, Ordering::Relaxed);
        context.events.push(Event::Read {
            io,
            result: result.map(|()| read.buffer.into_bytes()),
        });
    }

    fn is_aligned(&self, buffer: &Bytes) -> bool {
        let mask = self.alignment - 1;
        (buffer.as_ptr() as usize | buffer.len()) & mask == 0
    }
}

/// Whether the write can use the registered arena: its payload was received there, and the header in front of it, which
/// the core makes on the heap, is moved there. That copy of a few kilobytes saves pinning every page of the payload.
fn gather_in_arena(context: &Context, buffers: &mut [Bytes]) -> bool {
    let Some((head, payload)) = buffers.split_first_mut() else {
        return false;
    };
    if !payload.iter().all(|buffer| context.pool.contains(buffer)) {
        return false;
    }
    if context.pool.contains(head) {
        return true;
    }
    if head.is_empty() || head.len() > STAGED_BYTES_MAX {
        return false;
    }
    let Some(mut staged) = context.pool.allocate(head.len(), Purpose::Core) else {
        return false;
    };
    staged.as_mut_slice().copy_from_slice(head);
    let is_in_arena = context.pool.contains(staged.as_ref());
    *head = staged.into_bytes();
    is_in_arena
}

/// Copies a buffer to an aligned one.
fn bounce(context: &mut Context, buffer: &Bytes) -> Bytes {
    let copy = context.pool.allocate(buffer.len().max(1), Purpose::Core);
    let Some(mut copy) = copy else { return buffer.clone() };
    copy.as_mut_slice()[..buffer.len()].copy_from_slice(buffer);
    context
        .counters
        .disk_bytes_bounced
        .fetch_add(buffer.len() as u64, Ordering::Relaxed);
    copy.into_bytes().slice(..buffer.len())
}

/// The kernel asks to try again; nothing was transferred and nothing is wrong.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
}
