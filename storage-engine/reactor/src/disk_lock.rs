//! Taking a disk so that no other process can: an advisory lock, and exclusive opening for devices.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::DiskError;

/// How long a lock is waited for: a killed process lets go of its disk only when the kernel has taken its ring apart.
const LOCK_TIME_MAX: Duration = Duration::from_secs(1);
/// How often the lock is tried.
const LOCK_PERIOD: Duration = Duration::from_millis(10);

/// Opens for direct reading and writing, and takes the lock, with a little patience. A device is opened exclusively too,
/// which keeps out what is mounted or part of an array.
pub(crate) fn open_exclusively(path: &Path, create: bool) -> Result<File, DiskError> {
    let until = Instant::now() + LOCK_TIME_MAX;
    loop {
        match try_open_exclusively(path, create) {
            Err(DiskError::InUse { .. }) if Instant::now() < until => std::thread::sleep(LOCK_PERIOD),
            result => return result,
        }
    }
}

fn try_open_exclusively(path: &Path, create: bool) -> Result<File, DiskError> {
    let exists_as_device = std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device());
    let exclusive = if exists_as_device { libc::O_EXCL } else { 0 };
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(create)
        .mode(0o600)
        .custom_flags(libc::O_DIRECT | libc::O_CLOEXEC | exclusive)
        .open(path);
    let file = opened.map_err(|source| match source.raw_os_error() {
        Some(libc::EBUSY) => DiskError::InUse {
            path: path.to_owned(),
            holder: None,
        },
        Some(libc::EINVAL) => DiskError::NoDirectIo { path: path.to_owned() },
        _ => DiskError::Open {
            path: path.to_owned(),
            source,
        },
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(DiskError::InUse {
            path: path.to_owned(),
            holder: lock_holder(&file),
        }),
        Err(std::fs::TryLockError::Error(source)) => Err(DiskError::Io {
            path: path.to_owned(),
            action: "locking",
            source,
        }),
    }
}

/// Who holds the lock of a file, as `/proc/locks` tells it.
fn lock_holder(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok()?;
    let device = metadata.dev();
    let wanted = format!(
        "{:02x}:{:02x}:{}",
        libc::major(device),
        libc::minor(device),
        metadata.ino()
    );
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (kind, _, _, pid, place) = (
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
        );
        (kind == "FLOCK" && place == wanted).then(|| pid.parse().ok()).flatten()
    })
}
