//! Local disks: what the reactor's disk helpers do, with the checks that can be made before anything is written, a
//! progress bar, and errors for people.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cairn_api::units::{BLOCK_BYTES, ByteSize};
use cairn_format::superblock::{SEGMENT_COUNT_MIN, SEGMENT_SIZE_MIN, SEGMENTS_START_DEFAULT};
use cairn_reactor::DiskError;
use cairn_reactor::disk::{self, FormatOptions};
use nix::sys::statvfs::statvfs;

use crate::error::{CliError, Kind};
use crate::progress::ByteBar;
use crate::views::{ClearedView, FormattedView, LocalDiskView};

/// The smallest disk: both superblocks and the fewest segments a log can live with.
const DISK_BYTES_MIN: u64 = SEGMENTS_START_DEFAULT + SEGMENT_COUNT_MIN as u64 * SEGMENT_SIZE_MIN + BLOCK_BYTES;

/// Formats a device or a file, showing progress.
pub(crate) fn format(path: &Path, size: Option<ByteSize>, force: bool) -> Result<FormattedView, CliError> {
    let found = fs::metadata(path).ok();
    if found.is_none() && size.is_none() {
        return Err(CliError::new(
            Kind::NotFound,
            format!("'{}' does not exist", path.display()),
            "give --size to make a file, or name a device that exists (`lsblk` lists them)",
        ));
    }
    let file_bytes = found.filter(fs::Metadata::is_file).map_or(0, |metadata| metadata.len());
    if let Some(size) = size.filter(|size| size.0 > file_bytes) {
        refuse_if_too_small(path, size)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        refuse_if_too_full(parent.unwrap_or(Path::new(".")), &[path.to_owned()], size)?;
    }
    let mut bar = None;
    let mut shown = 0;
    let options = FormatOptions {
        size,
        force,
        ..FormatOptions::default()
    };
    let superblock = disk::format(path, options, |done, total| {
        bar.get_or_insert_with(|| ByteBar::start(total, format!("writing {}", path.display())))
            .advance(done - shown);
        shown = done;
    });
    drop(bar);
    let superblock = superblock.map_err(of_disk)?;
    // Absolute, because that is what belongs into an engine's configuration.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    Ok(FormattedView {
        path: path.display().to_string(),
        disk_id: superblock.disk.to_string(),
        size_bytes: superblock.device_size,
    })
}

/// Clears one block of a disk's log that cannot be read.
pub(crate) fn clear(path: &Path, at: u64) -> Result<ClearedView, CliError> {
    let superblock = disk::clear(path, at).map_err(of_disk)?;
    Ok(ClearedView {
        path: path.display().to_string(),
        disk_id: superblock.disk.to_string(),
        at,
    })
}

/// Whether nothing is at `path` yet, or a file of zeros: what an interrupted format leaves. Anything else is for the engine
/// to judge.
pub(crate) fn is_blank(path: &Path) -> bool {
    !path.exists() || matches!(disk::recognise(path), Ok(None))
}

/// A disk must be large enough for a log.
pub(crate) fn refuse_if_too_small(path: &Path, size: ByteSize) -> Result<(), CliError> {
    if size.0 >= DISK_BYTES_MIN {
        return Ok(());
    }
    Err(CliError::new(
        Kind::Usage,
        format!(
            "{size} is too small for a disk at '{}': the least is {DISK_BYTES_MIN} bytes",
            path.display()
        ),
        "give at least 130MiB; some GiB make a useful disk",
    ))
}

/// The file system of `directory` must have room to make each of `paths`, which lie there, `size` long.
pub(crate) fn refuse_if_too_full(directory: &Path, paths: &[PathBuf], size: ByteSize) -> Result<(), CliError> {
    let Some(first) = paths.first() else { return Ok(()) };
    let space = statvfs(directory).map_err(|error| {
        let (path, directory) = (first.display(), directory.display());
        CliError::failed(
            format!("'{path}' cannot be made: its directory '{directory}': {}", error.desc()),
            "make the directory first, or name another path",
        )
    })?;
    let free_bytes = space.blocks_available() * space.fragment_size();
    let taken = |path: &PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512);
    let needed_bytes: u64 = paths
        .iter()
        .map(|path| size.0.saturating_sub(taken(path)))
        .fold(0, u64::saturating_add);
    if needed_bytes <= free_bytes {
        return Ok(());
    }
    Err(CliError::failed(
        format!(
            "{} are needed for '{}'{}, but its file system has {} free",
            ByteSize(needed_bytes),
            first.display(),
            if paths.len() > 1 {
                format!(" and {} more like it", paths.len() - 1)
            } else {
                String::new()
            },
            ByteSize(free_bytes)
        ),
        "choose a smaller size or another file system",
    ))
}

/// What is on a local disk; a disk that cannot be read is a line of its own, not the end of the list.
pub(crate) fn look(path: &PathBuf) -> LocalDiskView {
    let mut view = LocalDiskView {
        path: path.display().to_string(),
        content: "unreadable".to_owned(),
        size_bytes: fs::metadata(path)
            .ok()
            .filter(fs::Metadata::is_file)
            .map(|metadata| metadata.len()),
        disk_id: None,
        cluster_id: None,
        node_id: None,
        problem: None,
    };
    match disk::inspect(path) {
        Ok(superblock) => {
            let claimed = !superblock.is_unclaimed();
            view.content = "cairn".to_owned();
            view.size_bytes = Some(superblock.device_size);
            view.disk_id = Some(superblock.disk.to_string());
            view.cluster_id = claimed.then(|| superblock.cluster.to_string());
            view.node_id = claimed.then(|| superblock.node.to_string());
        }
        Err(DiskError::NotFormatted { .. }) => match disk::recognise(path) {
            Ok(found) => view.content = found.unwrap_or_else(|| "empty".to_owned()),
            Err(error) => view.problem = Some(error.to_string()),
        },
        Err(error) => view.problem = Some(error.to_string()),
    }
    view
}

/// The reactor's errors carry their remedy with them, so only the exit code is decided here.
fn of_disk(error: DiskError) -> CliError {
    let kind = match &error {
        DiskError::Occupied { .. } | DiskError::Readable { .. } => Kind::Refused,
        DiskError::InUse { .. } => Kind::Conflict,
        DiskError::Open { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Kind::NotFound,
        DiskError::Size { .. } | DiskError::NotADisk { .. } | DiskError::NotInLog { .. } => Kind::Usage,
        _ => Kind::Failed,
    };
    let remedy = match &error {
        DiskError::Occupied { .. } => {
            "look at what is there; if it is not needed any more, add --force: all of it is lost"
        }
        DiskError::Open { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            "run it as root, or as the owner of the disk"
        }
        DiskError::Readable { .. } => "start the engine again: it reads the whole of its log anew",
        DiskError::NotInLog { .. } => "give the byte that the engine's message names",
        _ => "",
    };
    match error {
        DiskError::Occupied { path, found } => {
            CliError::new(kind, format!("'{}' holds {found}", path.display()), remedy)
        }
        error => CliError::new(kind, error.to_string(), remedy),
    }
}
