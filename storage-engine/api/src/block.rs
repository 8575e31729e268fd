//! What a block device does: the vocabulary between the frontends (NBD, later iSCSI, ublk, FUSE) and the gateway.
//!
//! Offsets and lengths here are **bytes** and need not be aligned: the gateway turns an unaligned write into a
//! read-modify-write of whole blocks that is atomic against concurrent writers. Completions may come in any order.

use bytes::Bytes;

use crate::ids::SnapshotId;

/// Names one request of one connection until its completion; chosen by the frontend, echoed by the device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tag(pub u64);

/// What a frontend tells its client of a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceInfo {
    /// The volume's name: the NBD export name.
    pub name: String,
    /// A sentence for people, such as `3 replicas, 8 GiB`.
    pub description: String,
    /// Capacity in bytes; a multiple of the block size.
    pub size_bytes: u64,
    /// Writes are refused when set.
    pub read_only: bool,
    /// Which snapshot of the volume it is; none for the volume as it is.
    pub snapshot: Option<SnapshotId>,
}

/// The longest payload of one request in bytes: NBD's customary 32 MiB.
pub const REQUEST_BYTES_MAX: u32 = 32 << 20;

/// A request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BlockOp {
    /// Read `length` bytes.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes to read, at most [`REQUEST_BYTES_MAX`].
        length: u32,
    },
    /// Write `data`. Every acknowledged write is durable, so FUA asks for nothing more.
    Write {
        /// First byte.
        offset: u64,
        /// The payload, at most [`REQUEST_BYTES_MAX`] bytes. Page-aligned in memory wherever the driver could.
        data: Bytes,
    },
    /// Everything acknowledged is durable already; completes at once.
    Flush,
    /// Deallocate: the whole blocks inside the range read as zeros afterwards; partial blocks at its edges are left.
    Trim {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// The range reads as zeros afterwards, exactly.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// Keep the range allocated (NBD's `NO_HOLE`).
        no_hole: bool,
    },
    /// Allocation of a range, for NBD's `base:allocation`.
    Status {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// At most this many extents are wanted.
        extents_max: u32,
    },
}

/// A piece of a read's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadPiece {
    /// These bytes.
    Data(Bytes),
    /// So many zero bytes that no media was read for.
    Zeros(u64),
}

impl ReadPiece {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Zeros(length) => *length,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How a run of bytes is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allocation {
    /// Holds data.
    Data,
    /// Allocated, reads as zeros.
    Zero,
    /// Not allocated, reads as zeros.
    Hole,
}

/// A run of bytes of one allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusExtent {
    /// Bytes.
    pub length: u64,
    /// How they are stored.
    pub allocation: Allocation,
}

/// The answer to a [`BlockOp`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BlockReply {
    /// Done, and durable where it changed anything.
    Done,
    /// The pieces of a read, in order; their lengths add up to what was asked.
    Read(Vec<ReadPiece>),
    /// Extents from the asked offset on, at least one, covering at most what was asked.
    Status(Vec<StatusExtent>),
}

/// Why a request failed. Failover is not among the reasons: it is a pause.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BlockError {
    /// The range leaves the volume.
    #[error("the range {offset}+{length} leaves the volume of {size_bytes} bytes")]
    OutOfRange {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
        /// The volume's size.
        size_bytes: u64,
    },
    /// The request is malformed or too long.
    #[error("invalid request: {0}")]
    Invalid(&'static str),
    /// The pool has no room for new data.
    #[error("no space left on a majority of the volume's disks")]
    NoSpace,
    /// The volume was attached elsewhere: this device may not write any more.
    #[error("the volume was attached elsewhere (epoch {current}); this attachment may not write any more")]
    Fenced {
        /// The epoch that rules now.
        current: u64,
    },
    /// Another node holds the volume and is alive.
    #[error("the volume is being written from another node, {holder}")]
    Busy {
        /// The node that holds the attachment.
        holder: String,
    },
    /// The device is read-only.
    #[error("the volume is read-only")]
    ReadOnly,
    /// The data could not be read or written.
    #[error("I/O error: {0}")]
    Io(String),
    /// The volume is going away.
    #[error("the volume is shutting down")]
    ShuttingDown,
}

/// A device that a frontend's session can serve. Completions come back to the session's driver, by [`Tag`].
pub trait BlockDevice {
    /// What the device is.
    fn info(&self) -> DeviceInfo;

    /// Starts a request. Its completion is delivered exactly once, under `tag`.
    fn submit(&mut self, tag: Tag, op: BlockOp);

    /// A completion that is ready now, if there is one.
    fn poll(&mut self) -> Option<(Tag, Result<BlockReply, BlockError>)>;
}

/// What a session wants to receive next from its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// Protocol bytes: at most this many; fewer are welcome.
    Bytes(usize),
    /// Exactly `length` bytes of payload, as one `Bytes` that the driver allocates page-aligned; the driver may in the
    /// same receive go on with up to `then` protocol bytes.
    Payload {
        /// Bytes of payload.
        length: usize,
        /// Protocol bytes that may follow: the next request's header.
        then: usize,
    },
    /// Nothing for now: the session has as much in flight as it is allowed.
    Nothing,
}

/// A frontend's protocol for one connection as a state machine over bytes; a driver moves the bytes.
///
/// The driver's turn: receive what [`Self::want`] says and hand it over; take the requests and submit them to the
/// device; hand completions back; take the output and send it in order; close the connection when
/// [`Self::is_finished`] and the output is sent.
pub trait FrontendSession: Send {
    /// What to receive next.
    fn want(&self) -> Want;
    /// Protocol bytes have arrived (at most as many as wanted, at least 1).
    fn received(&mut self, bytes: &[u8]);
    /// The whole payload that was wanted has arrived.
    fn received_payload(&mut self, payload: Bytes);
    /// The peer closed its side.
    fn received_end(&mut self);
    /// Moves requests for the device into `requests`.
    fn take_requests(&mut self, requests: &mut Vec<(Tag, BlockOp)>);
    /// The device is larger than the client was told: requests up to its new end are good from here on. A smaller size than
    /// is known is ignored.
    fn resized(&mut self, size_bytes: u64);
    /// A request has ended.
    fn complete(&mut self, tag: Tag, result: Result<BlockReply, BlockError>);
    /// Moves bytes to send, in order, into `output`.
    fn take_output(&mut self, output: &mut Vec<Bytes>);
    /// No request will come any more and no reply is owed; close once the output is sent.
    fn is_finished(&self) -> bool;
}
