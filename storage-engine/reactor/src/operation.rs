//! Operations for the ring. Each owns everything the kernel touches (buffers, iovecs, addresses, the open file), and the
//! ring keeps it until its completion, so nothing can be freed early.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use bytes::Bytes;
use io_uring::{opcode, squeue, types};
use nix::sys::socket::{SockaddrLike, SockaddrStorage};

use crate::buffers::PooledBuf;
use crate::files::RingFile;

/// The most iovecs one operation takes: the kernel's `UIO_MAXIOV`.
pub(crate) const IOVECS_MAX: usize = 1024;

/// `IORING_RECVSEND_POLL_FIRST`: wait for the socket before trying it, because it is known to be empty.
const POLL_FIRST: u16 = 1;

/// Builds an entry for a file that is either registered or not.
macro_rules! on_file {
    ($file:expr, |$fd:ident| $build:expr) => {
        match $file.slot() {
            Some(slot) => {
                let $fd = types::Fixed(slot);
                $build
            }
            None => {
                let $fd = types::Fd($file.as_raw_fd());
                $build
            }
        }
    };
}

/// What the ring is asked to do.
pub(crate) enum Operation {
    /// A durable gathered write.
    Write(Box<GatherWrite>),
    /// A read of one buffer.
    Read(Box<BufferRead>),
    /// A gathered send.
    Send(Box<Sending>),
    /// A scattered receive.
    Receive(Box<Receiving>),
    /// A connection being made.
    Connect(Box<Connecting>),
    /// A read of the waker's eventfd.
    Wake(Box<WakeRead>),
}

impl Operation {
    /// The entry that asks the kernel for it. The pointers in it stay valid while `self` lives, wherever `self` moves:
    /// they point into boxes, vectors and buffers, never into `self` itself.
    pub(crate) fn entry(&mut self) -> squeue::Entry {
        match self {
            Self::Write(write) => write.entry(),
            Self::Read(read) => read.entry(),
            Self::Send(send) => send.entry(),
            Self::Receive(receive) => receive.entry(),
            Self::Connect(connect) => connect.entry(),
            Self::Wake(wake) => wake.entry(),
        }
    }
}

/// Buffers in order, and how far they have been transferred.
pub(crate) struct Gather {
    /// Never looked at: keeps alive what `iovecs` points to.
    _buffers: Vec<Bytes>,
    iovecs: Vec<libc::iovec>,
    /// The first iovec that has bytes left.
    next: usize,
    left: u64,
    total: u64,
}

impl Gather {
    /// Buffers that adjoin in memory, as slices of one received payload do, share an iovec.
    pub(crate) fn new(buffers: Vec<Bytes>) -> Self {
        let mut iovecs: Vec<libc::iovec> = Vec::with_capacity(buffers.len());
        let mut total = 0;
        for buffer in buffers.iter().filter(|buffer| !buffer.is_empty()) {
            total += buffer.len() as u64;
            match iovecs.last_mut() {
                Some(last) if last.iov_base as usize + last.iov_len == buffer.as_ptr() as usize => {
                    last.iov_len += buffer.len();
                }
                _ => iovecs.push(libc::iovec {
                    iov_base: buffer.as_ptr().cast_mut().cast(),
                    iov_len: buffer.len(),
                }),
            }
        }
        Self {
            _buffers: buffers,
            iovecs,
            next: 0,
            left: total,
            total,
        }
    }

    /// Bytes not transferred yet.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Bytes in all.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The iovecs of the next operation.
    #[expect(clippy::cast_possible_truncation, reason = "at most IOVECS_MAX")]
    fn remaining(&mut self) -> (*mut libc::iovec, u32) {
        let count = (self.iovecs.len() - self.next).min(IOVECS_MAX);
        (self.iovecs[self.next..].as_mut_ptr(), count as u32)
    }

    /// `bytes` more have been transferred.
    pub(crate) fn advance(&mut self, bytes: u64) {
        assert!(bytes <= self.left, "no more can be transferred than was asked");
        self.left -= bytes;
        let mut bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        while bytes > 0 {
            let first = &mut self.iovecs[self.next];
            if first.iov_len <= bytes {
                bytes -= first.iov_len;
                self.next += 1;
            } else {
                first.iov_base = first.iov_base.wrapping_byte_add(bytes);
                first.iov_len -= bytes;
                bytes = 0;
            }
        }
    }
}

/// Writes buffers contiguously at an offset with `RWF_DSYNC`: the data is on the media when it completes.
pub(crate) struct GatherWrite {
    pub(crate) file: Rc<RingFile>,
    /// Where the first of the bytes that are left goes.
    pub(crate) offset: u64,
    pub(crate) gather: Gather,
    /// The registered buffer that all of it lies in, if it does.
    pub(crate) registered: Option<u16>,
}

impl GatherWrite {
    fn entry(&mut self) -> squeue::Entry {
        let (iovecs, count) = self.gather.remaining();
        let offset = self.offset;
        on_file!(self.file, |fd| match self.registered {
            Some(index) => opcode::WritevFixed::new(fd, iovecs, count, index)
                .offset(offset)
                .rw_flags(libc::RWF_DSYNC)
                .build(),
            None => opcode::Writev::new(fd, iovecs, count)
                .offset(offset)
                .rw_flags(libc::RWF_DSYNC)
                .build(),
        })
    }
}

/// Reads one buffer.
pub(crate) struct BufferRead {
    pub(crate) file: Rc<RingFile>,
    /// Where the buffer's first byte comes from.
    pub(crate) offset: u64,
    pub(crate) buffer: PooledBuf,
    /// Bytes read so far.
    pub(crate) done: usize,
    /// The registered buffer that it lies in, if it does.
    pub(crate) registered: Option<u16>,
}

impl BufferRead {
    #[expect(clippy::cast_possible_truncation, reason = "a read's length is 32 bits wide")]
    fn entry(&mut self) -> squeue::Entry {
        let offset = self.offset + self.done as u64;
        let rest = &mut self.buffer.as_mut_slice()[self.done..];
        let (pointer, length) = (rest.as_mut_ptr(), rest.len() as u32);
        on_file!(self.file, |fd| match self.registered {
            Some(index) => opcode::ReadFixed::new(fd, pointer, length, index)
                .offset(offset)
                .build(),
            None => opcode::Read::new(fd, pointer, length).offset(offset).build(),
        })
    }
}

/// An empty message header; an all-zero `msghdr` is one.
fn empty_message() -> libc::msghdr {
    // SAFETY: `msghdr` is plain data made of integers and pointers, for which all zeros is a valid value.
    unsafe { std::mem::zeroed() }
}

/// Sends buffers on a socket.
pub(crate) struct Sending {
    pub(crate) file: Rc<RingFile>,
    pub(crate) gather: Gather,
    message: libc::msghdr,
}

impl Sending {
    pub(crate) fn new(file: Rc<RingFile>, buffers: Vec<Bytes>) -> Self {
        Self {
            file,
            gather: Gather::new(buffers),
            message: empty_message(),
        }
    }

    /// `MSG_WAITALL` lets the kernel go on after a short send without a completion for each piece.
    fn entry(&mut self) -> squeue::Entry {
        let (iovecs, count) = self.gather.remaining();
        self.message.msg_iov = iovecs;
        self.message.msg_iovlen = count as _;
        let message: *const libc::msghdr = &raw const self.message;
        let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32;
        on_file!(self.file, |fd| opcode::SendMsg::new(fd, message).flags(flags).build())
    }
}

/// Where a part of a receive goes.
pub(crate) enum Landing {
    /// Protocol bytes.
    Heap(Vec<u8>),
    /// A payload.
    Pooled(PooledBuf),
}

impl Landing {
    fn as_mut_slice(&mut self) -> &mut [u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Pooled(buffer) => buffer.as_mut_slice(),
        }
    }

    /// Bytes it takes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Heap(bytes) => bytes.len(),
            Self::Pooled(buffer) => buffer.len(),
        }
    }

    /// As `Bytes`, without a copy.
    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            Self::Heap(bytes) => bytes.into(),
            Self::Pooled(buffer) => buffer.into_bytes(),
        }
    }
}

/// The most places one receive fills: a body, a payload and the header that follows.
pub(crate) const LANDINGS_MAX: usize = 3;

/// Receives from a socket into several places in order.
pub(crate) struct Receiving {
    pub(crate) file: Rc<RingFile>,
    pub(crate) landings: Vec<Landing>,
    /// Bytes received so far, over all landings.
    pub(crate) filled: usize,
    /// The socket was empty when last looked at.
    pub(crate) poll_first: bool,
    iovecs: [libc::iovec; LANDINGS_MAX],
    message: libc::msghdr,
}

impl Receiving {
    pub(crate) fn new(file: Rc<RingFile>) -> Self {
        let nothing = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        Self {
            file,
            landings: Vec::with_capacity(LANDINGS_MAX),
            filled: 0,
            poll_first: false,
            iovecs: [nothing; LANDINGS_MAX],
            message: empty_message(),
        }
    }

    /// Bytes it takes in all.
    fn capacity(&self) -> usize {
        self.landings.iter().map(Landing::len).sum()
    }

    /// Whether `bytes` more leave no room.
    pub(crate) fn is_filled_by(&self, bytes: u32) -> bool {
        self.filled + bytes as usize == self.capacity()
    }

    /// Points the message header at what is still empty.
    fn aim(&mut self) {
        let mut skip = self.filled;
        let mut count = 0;
        for landing in &mut self.landings {
            let length = landing.len();
            if skip >= length {
                skip -= length;
                continue;
            }
            let rest = &mut landing.as_mut_slice()[skip..];
            self.iovecs[count] = libc::iovec {
                iov_base: rest.as_mut_ptr().cast(),
                iov_len: rest.len(),
            };
            count += 1;
            skip = 0;
        }
        assert!(count > 0, "a receive has room");
        self.message.msg_iov = self.iovecs.as_mut_ptr();
        self.message.msg_iovlen = count as _;
    }

    fn entry(&mut self) -> squeue::Entry {
        self.aim();
        let message: *mut libc::msghdr = &raw mut self.message;
        let priority = if self.poll_first { POLL_FIRST } else { 0 };
        on_file!(self.file, |fd| opcode::RecvMsg::new(fd, message)
            .ioprio(priority)
            .build())
    }

    /// Receives what is there without waiting; `None` when nothing is.
    pub(crate) fn receive_now(&mut self) -> std::io::Result<Option<usize>> {
        self.aim();
        // SAFETY: the header points at `self.iovecs`, and those at landings that `self` owns; all stay put during the
        // call, and the descriptor is open because `self.file` owns it.
        let received = unsafe { libc::recvmsg(self.file.as_raw_fd(), &raw mut self.message, libc::MSG_DONTWAIT) };
        if let Ok(bytes) = usize::try_from(received) {
            return Ok(Some(bytes));
        }
        let error = std::io::Error::last_os_error();
        match error.kind() {
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        }
    }
}

/// Connects a socket.
pub(crate) struct Connecting {
    pub(crate) file: Rc<RingFile>,
    pub(crate) address: SockaddrStorage,
}

impl Connecting {
    fn entry(&mut self) -> squeue::Entry {
        let (pointer, length) = (self.address.as_ptr(), self.address.len());
        on_file!(self.file, |fd| opcode::Connect::new(fd, pointer, length).build())
    }
}

/// Reads an eventfd.
pub(crate) struct WakeRead {
    /// Blocking; not registered, because it is read once a wake-up.
    pub(crate) event: Rc<OwnedFd>,
    pub(crate) count: [u8; 8],
}

impl WakeRead {
    fn entry(&mut self) -> squeue::Entry {
        let raw: RawFd = self.event.as_raw_fd();
        opcode::Read::new(types::Fd(raw), self.count.as_mut_ptr(), 8).build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjoining_buffers_share_an_iovec_and_short_transfers_go_on_where_they_stopped() {
        let whole = Bytes::from((0_u8..100).collect::<Vec<_>>());
        let other = Bytes::from_static(b"other");
        let mut gather = Gather::new(vec![whole.slice(..40), whole.slice(40..100), Bytes::new(), other]);
        assert_eq!((gather.total(), gather.iovecs.len()), (105, 2));
        gather.advance(99);
        assert_eq!((gather.left(), gather.next, gather.iovecs[0].iov_len), (6, 0, 1));
        gather.advance(3);
        assert_eq!((gather.left(), gather.next, gather.iovecs[1].iov_len), (3, 1, 3));
        gather.advance(3);
        assert_eq!(gather.left(), 0);
    }
}
