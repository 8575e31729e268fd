//! A disk outside the ring: opening and locking it, its superblock, its size, and formatting. All of it is synchronous.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use cairn_api::ids::{ClusterId, DiskId, NodeId};
use cairn_api::units::{BLOCK_BYTES, BLOCK_SIZE, ByteSize};
use cairn_format::anchor::{ANCHOR_OFFSETS, Anchor};
use cairn_format::superblock::{self, SUPERBLOCK_BYTES, Superblock, segment_size_for};

use crate::aligned::AlignedBuffer;
use crate::disk_lock::open_exclusively;
use crate::error::DiskError;
use crate::recognise;

/// Zeros are written in pieces of this size: large enough for full bandwidth, small enough for a smooth progress bar.
const ZERO_BYTES: usize = 4 << 20;

/// An open disk that no other process can open for as long as this lives.
#[derive(Debug)]
pub struct Disk {
    file: File,
    path: PathBuf,
    size_bytes: u64,
    superblock: Superblock,
}

/// To whom a disk may belong for it to be opened; an unclaimed disk may always be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
}

/// Opens a formatted disk for use: `O_DIRECT`, locked, with a valid superblock, of full size, and of `owner` if given.
pub fn open(path: &Path, owner: Option<Owner>) -> Result<Disk, DiskError> {
    let file = open_exclusively(path, false)?;
    check_alignment(path, &file)?;
    let size_bytes = size_of(path, &file)?;
    let superblock = read_superblock(path, &file, size_bytes)?;
    let disk = Disk {
        file,
        path: path.to_owned(),
        size_bytes,
        superblock,
    };
    if let Some(owner) = owner.filter(|_| !superblock.is_unclaimed()) {
        if superblock.cluster != owner.cluster {
            let (found, expected) = (superblock.cluster, owner.cluster);
            return Err(DiskError::OtherCluster {
                path: disk.path,
                found,
                expected,
            });
        }
        if superblock.node != owner.node {
            let (found, expected) = (superblock.node, owner.node);
            return Err(DiskError::OtherNode {
                path: disk.path,
                found,
                expected,
            });
        }
    }
    Ok(disk)
}

/// Reads a disk's superblock without locking it, so also while an engine uses it.
pub fn inspect(path: &Path) -> Result<Superblock, DiskError> {
    let mut file = File::open(path).map_err(|source| DiskError::Open {
        path: path.to_owned(),
        source,
    })?;
    let size_bytes = end_of(path, &mut file)?;
    read_superblock(path, &file, size_bytes)
}

/// What a disk holds: a file system, a partition table, a Cairn disk, or unknown data; `None` if its first MiB is zeros
/// and nothing is known at its end.
pub fn recognise(path: &Path) -> Result<Option<String>, DiskError> {
    let mut file = File::open(path).map_err(|source| DiskError::Open {
        path: path.to_owned(),
        source,
    })?;
    let size_bytes = end_of(path, &mut file)?;
    recognise::recognise(&file, size_bytes).map_err(|source| DiskError::Io {
        path: path.to_owned(),
        action: "reading what it holds",
        source,
    })
}

/// How to format a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FormatOptions {
    /// For a file: create it, or extend it, to this size. A device has the size it has.
    pub size: Option<ByteSize>,
    /// Even if it holds something.
    pub force: bool,
    /// Length of a segment; `None` for what suits the size of the disk.
    pub segment_size: Option<u64>,
}

/// Makes a disk: a file is written with zeros from end to end, so that later writes change no metadata; of a device the
/// first MiB and the last blocks are. The superblock comes last, so an interrupted run leaves no Cairn disk.
///
/// `progress` is called with bytes done and bytes in all.
pub fn format(
    path: &Path,
    options: FormatOptions,
    mut progress: impl FnMut(u64, u64),
) -> Result<Superblock, DiskError> {
    let create = options.size.is_some() && !path.exists();
    if !create
        && !options.force
        && let Some(found) = recognise(path)?
    {
        return Err(DiskError::Occupied {
            path: path.to_owned(),
            found,
        });
    }
    let result = format_locked(path, options, create, &mut progress);
    if create && result.is_err() {
        // What was created here a moment ago and failed is of no use to anybody.
        let _ = std::fs::remove_file(path);
    }
    result
}

fn format_locked(
    path: &Path,
    options: FormatOptions,
    create: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Superblock, DiskError> {
    let file = open_exclusively(path, create)?;
    check_alignment(path, &file)?;
    let is_device = is_block_device(path, &file)?;
    let size_bytes = settle_size(path, &file, options.size, is_device)?;
    let created_unix_s = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let segment_size = options.segment_size.unwrap_or_else(|| segment_size_for(size_bytes));
    let superblock =
        Superblock::unclaimed(DiskId::random(), size_bytes, segment_size, created_unix_s).map_err(|error| {
            DiskError::Size {
                path: path.to_owned(),
                reason: error.to_string(),
            }
        })?;
    let whole = size_bytes & !(BLOCK_BYTES - 1);
    let edge = (1_u64 << 20).min(whole);
    let (first_end, last_start) = if is_device {
        (edge, whole - edge)
    } else {
        (whole, whole)
    };
    let ranges = [0..first_end, last_start..whole];
    write_zeros(path, &file, &ranges, progress)?;
    let mut disk = Disk {
        file,
        path: path.to_owned(),
        size_bytes,
        superblock,
    };
    // The superblock comes last: a disk that has one has all the rest.
    disk.write_anchors()?;
    disk.write_superblock(superblock)?;
    disk.file.sync_all().map_err(|source| disk.io("flushing", source))?;
    if let Some(directory) = path.parent().filter(|_| create) {
        let directory = if directory.as_os_str().is_empty() {
            Path::new(".")
        } else {
            directory
        };
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|source| disk.io("flushing its directory", source))?;
    }
    Ok(superblock)
}

/// Overwrites with zeroes one block of the log at `offset` (bytes) that the device cannot read, durably, so that the
/// device puts another in its place. A block that can be read is left alone.
pub fn clear(path: &Path, offset: u64) -> Result<Superblock, DiskError> {
    let disk = open(path, None)?;
    let geometry = disk.superblock.geometry;
    if !offset.is_multiple_of(BLOCK_BYTES) || geometry.segment_of(offset).is_none() {
        return Err(DiskError::NotInLog {
            path: disk.path,
            offset,
            first: geometry.segments_start,
            end: geometry.end(),
        });
    }
    let mut block = AlignedBuffer::zeroed(BLOCK_SIZE as usize);
    if disk.file.read_exact_at(block.as_mut_slice(), offset).is_ok() {
        return Err(DiskError::Readable {
            path: disk.path,
            offset,
        });
    }
    block.as_mut_slice().fill(0);
    let written = disk.file.write_all_at(block.as_slice(), offset);
    written
        .and_then(|()| disk.file.sync_data())
        .map_err(|source| disk.io("clearing the block", source))?;
    disk.file
        .read_exact_at(block.as_mut_slice(), offset)
        .map_err(|source| disk.io("reading the cleared block", source))?;
    Ok(disk.superblock)
}

impl Disk {
    /// What the disk says of itself.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Claims the disk for a cluster and a node, durably. Claimed already by the same is done.
    pub fn claim(&mut self, owner: Owner) -> Result<(), DiskError> {
        let mut superblock = self.superblock;
        if (superblock.cluster, superblock.node) == (owner.cluster, owner.node) {
            return Ok(());
        }
        if !superblock.is_unclaimed() {
            let (found, expected) = (superblock.cluster, owner.cluster);
            return Err(DiskError::OtherCluster {
                path: self.path.clone(),
                found,
                expected,
            });
        }
        superblock.cluster = owner.cluster;
        superblock.node = owner.node;
        superblock.generation += 1;
        self.write_superblock(superblock)
    }

    /// Writes both anchors of a disk without a checkpoint, durably.
    fn write_anchors(&mut self) -> Result<(), DiskError> {
        let block = AlignedBuffer::copy_of(&Anchor::formatted(self.superblock.disk).encode());
        for offset in ANCHOR_OFFSETS {
            self.file
                .write_all_at(block.as_slice(), offset)
                .and_then(|()| self.file.sync_data())
                .map_err(|source| self.io("writing the anchors", source))?;
        }
        Ok(())
    }

    /// Writes both copies of the superblock, one after the other, each durably, so that one is whole at any time.
    pub fn write_superblock(&mut self, superblock: Superblock) -> Result<(), DiskError> {
        let block = AlignedBuffer::copy_of(&superblock.encode());
        for offset in [0, superblock::second_copy_offset(superblock.device_size)] {
            self.file
                .write_all_at(block.as_slice(), offset)
                .and_then(|()| self.file.sync_data())
                .map_err(|source| self.io("writing the superblock", source))?;
        }
        self.superblock = superblock;
        Ok(())
    }

    /// The open file, with its lock.
    pub(crate) fn into_file(self) -> File {
        self.file
    }

    fn io(&self, action: &'static str, source: io::Error) -> DiskError {
        DiskError::Io {
            path: self.path.clone(),
            action,
            source,
        }
    }
}

/// The alignment that direct I/O needs for memory and offsets; 512 where the kernel (before 6.1) does not tell.
pub(crate) fn direct_io_alignment(file: &File) -> io::Result<u32> {
    // SAFETY: `statx` is plain data made of integers, for which all zeros is a valid value.
    let mut status: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, the path is an empty C string, and the kernel writes one `statx` to `status`.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &raw mut status,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let known = status.stx_mask & libc::STATX_DIOALIGN != 0;
    Ok(if known {
        status.stx_dio_mem_align.max(status.stx_dio_offset_align)
    } else {
        512
    })
}

fn check_alignment(path: &Path, file: &File) -> Result<(), DiskError> {
    let alignment = direct_io_alignment(file).map_err(|source| DiskError::Io {
        path: path.to_owned(),
        action: "asking for its alignment",
        source,
    })?;
    match alignment {
        0 => Err(DiskError::NoDirectIo { path: path.to_owned() }),
        1..=4096 => Ok(()),
        _ => Err(DiskError::Alignment {
            path: path.to_owned(),
            alignment,
        }),
    }
}

fn is_block_device(path: &Path, file: &File) -> Result<bool, DiskError> {
    let metadata = file.metadata().map_err(|source| DiskError::Open {
        path: path.to_owned(),
        source,
    })?;
    let kind = metadata.file_type();
    if kind.is_block_device() || kind.is_file() {
        Ok(kind.is_block_device())
    } else {
        Err(DiskError::NotADisk { path: path.to_owned() })
    }
}

fn end_of(path: &Path, file: &mut File) -> Result<u64, DiskError> {
    is_block_device(path, file)?;
    file.seek(SeekFrom::End(0)).map_err(|source| DiskError::Io {
        path: path.to_owned(),
        action: "sizing",
        source,
    })
}

fn size_of(path: &Path, file: &File) -> Result<u64, DiskError> {
    let mut cursor = file.try_clone().map_err(|source| DiskError::Open {
        path: path.to_owned(),
        source,
    })?;
    end_of(path, &mut cursor)
}

/// Gives a file the size that was asked for, and finds out that of a device.
fn settle_size(path: &Path, file: &File, wanted: Option<ByteSize>, is_device: bool) -> Result<u64, DiskError> {
    let found = size_of(path, file)?;
    let refuse = |reason: String| {
        Err(DiskError::Size {
            path: path.to_owned(),
            reason,
        })
    };
    let Some(ByteSize(wanted)) = wanted else {
        return Ok(found);
    };
    if is_device {
        return refuse(format!(
            "it is a device of {}: a size can only be given for a file",
            ByteSize(found)
        ));
    }
    if !wanted.is_multiple_of(BLOCK_BYTES) {
        return refuse(format!("the size of {wanted} bytes is not a multiple of 4096"));
    }
    if wanted < found {
        return refuse(format!(
            "it has {} already: a file is not made shorter",
            ByteSize(found)
        ));
    }
    if wanted > found {
        // Space is reserved at once, so that a full file system is an error now and not in the middle of the zeros.
        let length = libc::off_t::try_from(wanted).unwrap_or(libc::off_t::MAX);
        if let Err(errno) = nix::fcntl::posix_fallocate(file, 0, length) {
            let source = io::Error::from(errno);
            return Err(DiskError::Io {
                path: path.to_owned(),
                action: "reserving space for its size",
                source,
            });
        }
    }
    Ok(wanted)
}

fn write_zeros(
    path: &Path,
    file: &File,
    ranges: &[std::ops::Range<u64>],
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), DiskError> {
    let zeros = AlignedBuffer::zeroed(ZERO_BYTES);
    let total = ranges.iter().map(|range| range.end - range.start).sum();
    let mut done = 0;
    progress(0, total);
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let piece = usize::try_from(range.end - at).unwrap_or(ZERO_BYTES).min(ZERO_BYTES);
            file.write_all_at(&zeros.as_slice()[..piece], at)
                .map_err(|source| DiskError::Io {
                    path: path.to_owned(),
                    action: "writing zeros",
                    source,
                })?;
            at += piece as u64;
            done += piece as u64;
            progress(done, total);
        }
    }
    Ok(())
}

/// Reads both copies, wherever a valid one says that they are, and takes the newer.
fn read_superblock(path: &Path, file: &File, size_bytes: u64) -> Result<Superblock, DiskError> {
    let mut copies = AlignedBuffer::zeroed(2 * SUPERBLOCK_BYTES);
    let (first, second) = copies.as_mut_slice().split_at_mut(SUPERBLOCK_BYTES);
    // One copy that cannot be read is no worse than one that is damaged: there are two for that.
    let mut unreadable = None;
    let mut read = |offset: u64, block: &mut [u8]| match file.read_exact_at(block, offset) {
        // What lies behind the end reads as zeros: no superblock.
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => unreadable = Some(error),
        _ => {}
    };
    read(0, first);
    // The first copy knows where the second is, even if the device has grown or shrunk since.
    let claimed_size = Superblock::decode(first).map_or(size_bytes, |superblock| superblock.device_size);
    let second_offset = superblock::second_copy_offset(claimed_size);
    if second_offset > 0 {
        read(second_offset, second);
    }
    let had_magic = [&*first, &*second]
        .iter()
        .any(|copy| copy.starts_with(&superblock::MAGIC.to_le_bytes()));
    let superblock = superblock::choose(first, second).map_err(|source| {
        let path = path.to_owned();
        if let Some(source) = unreadable {
            let action = "reading the superblock";
            return DiskError::Io { path, action, source };
        }
        if had_magic {
            return DiskError::CorruptSuperblock {
                path,
                source: Box::new(source),
            };
        }
        let found = recognise(&path).ok().flatten();
        DiskError::NotFormatted {
            path,
            found: found.unwrap_or_else(|| "only zeros".to_owned()),
        }
    })?;
    if superblock.device_size > size_bytes {
        let expected_bytes = superblock.device_size;
        return Err(DiskError::Truncated {
            path: path.to_owned(),
            found_bytes: size_bytes,
            expected_bytes,
        });
    }
    Ok(superblock)
}
