//! Why a reactor could not start, why it stopped, and why a disk cannot be used.

use std::io;
use std::path::PathBuf;

use cairn_api::ids::{ClusterId, NodeId};
use cairn_api::units::ByteSize;
use cairn_format::superblock::ChooseError;

/// Why a reactor could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel has no io_uring.
    #[error("this kernel has no io_uring: Cairn needs Linux 5.15 or later, built with CONFIG_IO_URING")]
    NotSupported,
    /// io_uring is there, but this process may not use it.
    #[error(
        "io_uring is not permitted (EPERM): sysctl kernel.io_uring_disabled is {sysctl} (0 permits it to everybody, 1 to \
         CAP_SYS_ADMIN and the group in kernel.io_uring_group, 2 to nobody); if it permits this process, a seccomp \
         profile forbids io_uring_setup: run the container with a profile that allows io_uring_setup, io_uring_enter \
         and io_uring_register, or Unconfined"
    )]
    NotPermitted {
        /// What the sysctl says.
        sysctl: String,
    },
    /// The memory for the ring may not be locked.
    #[error(
        "no memory for io_uring (ENOMEM): the locked-memory limit of {limit} is used up; raise it (ulimit -l, or \
         LimitMEMLOCK= of the service) or give the process CAP_IPC_LOCK"
    )]
    Memory {
        /// The limit in force.
        limit: String,
    },
    /// io_uring lacks something that is needed.
    #[error("io_uring of this kernel lacks {name}: Cairn needs Linux 5.15 or later")]
    OperationMissing {
        /// What.
        name: &'static str,
    },
    /// Any other refusal of io_uring.
    #[error("io_uring could not be set up: {0}")]
    Ring(#[source] io::Error),
    /// The arena could not be mapped.
    #[error("no memory for the I/O buffers of {size} of a disk: {source}; lower `memory` of the disk")]
    Buffers {
        /// What was asked for.
        size: ByteSize,
        /// Why not.
        source: io::Error,
    },
    /// The setting is out of bounds.
    #[error("`memory` of a disk is {found}, which is not from {min} to {max}")]
    MemorySetting {
        /// The setting.
        found: ByteSize,
        /// The least that works.
        min: ByteSize,
        /// The most that can be registered.
        max: ByteSize,
    },
    /// The thread could not be started.
    #[error("the disk's thread could not be started: {0}")]
    Thread(#[source] io::Error),
}

impl StartError {
    /// Tells what a refusal by the kernel means.
    pub(crate) fn from_ring(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSYS) => Self::NotSupported,
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted {
                sysctl: io_uring_disabled(),
            },
            Some(libc::ENOMEM) => Self::Memory { limit: memlock_limit() },
            _ => Self::Ring(error),
        }
    }
}

fn io_uring_disabled() -> String {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").map_or_else(
        |_| "not present on this kernel".to_owned(),
        |text| text.trim().to_owned(),
    )
}

fn memlock_limit() -> String {
    match nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_MEMLOCK) {
        Ok((soft, _)) if soft == libc::RLIM_INFINITY => "unlimited".to_owned(),
        Ok((soft, _)) => ByteSize(soft).to_string(),
        Err(_) => "unknown size".to_owned(),
    }
}

/// Why a reactor's thread ended without having been asked to.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// The core gave the disk up.
    #[error("the disk failed: {0}")]
    Disk(String),
    /// The ring failed.
    #[error("io_uring failed: {0}")]
    Ring(String),
    /// The thread panicked: a defect.
    #[error("the disk's thread panicked: {0}")]
    Panic(String),
}

/// Why a request to a reactor was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HandleError {
    /// The thread has ended or is ending.
    #[error("the disk's thread has stopped")]
    Stopped,
    /// Too many requests wait.
    #[error("the disk's thread has too many control requests waiting; try again")]
    Busy,
}

/// Why a disk cannot be used. Each says which disk and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It could not be opened.
    #[error("disk {path} could not be opened: {source}")]
    Open {
        /// The disk.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It could not be read or written.
    #[error("disk {path}: {action} failed: {source}")]
    Io {
        /// The disk.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The file system cannot bypass its cache.
    #[error("disk {path}: its file system does not support O_DIRECT; put the file on ext4 or xfs, or use a device")]
    NoDirectIo {
        /// The disk.
        path: PathBuf,
    },
    /// Direct I/O needs more than 4 KiB alignment.
    #[error("disk {path}: direct I/O there needs an alignment of {alignment} bytes, Cairn writes in units of 4096")]
    Alignment {
        /// The disk.
        path: PathBuf,
        /// What it needs.
        alignment: u32,
    },
    /// Another process has it.
    #[error(
        "disk {path} is in use by another process{}: stop that process, or use another disk",
        holder.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The disk.
        path: PathBuf,
        /// Who has it, where known.
        holder: Option<u32>,
    },
    /// The path is neither a block device nor a file.
    #[error("{path} is neither a block device nor a regular file")]
    NotADisk {
        /// The path.
        path: PathBuf,
    },
    /// Never formatted.
    #[error("disk {path} holds no Cairn superblock; it holds {found}. Format it with `cairn disk format`")]
    NotFormatted {
        /// The disk.
        path: PathBuf,
        /// What it seems to hold.
        found: String,
    },
    /// It was a Cairn disk once.
    #[error("disk {path} has a corrupt superblock: {source}. Nothing has been changed on it")]
    CorruptSuperblock {
        /// The disk.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<ChooseError>,
    },
    /// The device is shorter than it was.
    #[error(
        "disk {path} is truncated: it has {found_bytes} bytes, its superblock says {expected_bytes}. \
         Restore the file or device to its full size; nothing has been changed on it"
    )]
    Truncated {
        /// The disk.
        path: PathBuf,
        /// Its size now, in bytes.
        found_bytes: u64,
        /// Its size when it was formatted, in bytes.
        expected_bytes: u64,
    },
    /// It belongs to another cluster.
    #[error(
        "disk {path} belongs to cluster {found}, not to {expected}: remove it from the configuration, or format it with \
         --force if what it holds is not needed"
    )]
    OtherCluster {
        /// The disk.
        path: PathBuf,
        /// Its cluster.
        found: ClusterId,
        /// This cluster.
        expected: ClusterId,
    },
    /// It belongs to another node of this cluster.
    #[error(
        "disk {path} belongs to node {found}, this is node {expected}: put it back there, or format it with --force"
    )]
    OtherNode {
        /// The disk.
        path: PathBuf,
        /// Its node.
        found: NodeId,
        /// This node.
        expected: NodeId,
    },
    /// Formatting would destroy something.
    #[error("disk {path} holds {found}: it is not formatted unless forced (--force)")]
    Occupied {
        /// The disk.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
    /// A place where no block of the log is.
    #[error(
        "byte {offset} of disk {path} is no block of its log: those are the multiples of 4096 from {first} to below {end}"
    )]
    NotInLog {
        /// The disk.
        path: PathBuf,
        /// The place, in bytes.
        offset: u64,
        /// The first block's.
        first: u64,
        /// Where the log's space ends.
        end: u64,
    },
    /// The block may be needed: it can be read.
    #[error("the block at byte {offset} of disk {path} can be read: it is left as it is")]
    Readable {
        /// The disk.
        path: PathBuf,
        /// The place, in bytes.
        offset: u64,
    },
    /// The requested size does not fit.
    #[error("disk {path}: {reason}")]
    Size {
        /// The disk.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_ring_says_what_to_check() {
        let text = |errno| StartError::from_ring(io::Error::from_raw_os_error(errno)).to_string();
        assert!(text(libc::ENOSYS).contains("CONFIG_IO_URING"));
        for errno in [libc::EPERM, libc::EACCES] {
            let text = text(errno);
            assert!(
                text.contains("kernel.io_uring_disabled is ") && text.contains("seccomp"),
                "{text}"
            );
        }
        assert!(text(libc::ENOMEM).contains("locked-memory limit"));
        assert!(text(libc::EMFILE).contains("could not be set up"));
    }
}
