//! `cairn disk …`.

use std::path::PathBuf;

use cairn_api::units::ByteSize;
use clap::{Args, Subcommand};

use super::parse_size;

/// What can be done with disks.
#[derive(Subcommand, Debug)]
pub enum DiskCommand {
    /// Prepare a device, a partition or a file for an engine
    ///
    /// Whatever is on it is lost; so a disk that holds anything recognisable (a filesystem, a partition table, LVM, RAID,
    /// a Cairn disk) is refused without --force. A file is written with zeros over its whole length, so that later writes
    /// never have to allocate.
    #[command(after_help = "Examples:
  cairn disk format /dev/sdb
  cairn disk format /var/lib/cairn/disk.img --size 8GiB     makes the file, or grows it
  cairn disk format /dev/sdb --force                        even if something is on it")]
    Format(FormatArgs),
    /// Show the disks of the cluster, or read what is on local ones
    #[command(after_help = "Examples:
  cairn disk list                      the disks of every engine in the cluster
  cairn disk list /dev/sdb /dev/sdc    what the superblocks of these disks say; no engine is asked")]
    List(ListArgs),
    /// Give a disk up for another one: every replica on it is made anew on the other
    ///
    /// For a disk that failed, lost data or went away with its machine, and for one that is to be taken out. New replicas
    /// are made from those that are left, under load; volumes serve all the while. The new disk must be one of the cluster:
    /// name it in an engine's configuration and restart the engine, or add a new engine with `cairn cluster add`.
    ///
    /// Disks are named by their id, by its beginning, or as NODE:PATH. The same command again tells how far it is. A new
    /// disk that fails on the way is replaced in its turn.
    #[command(after_help = "Examples:
  cairn disk list                                                  their ids
  cairn disk replace 5f0c1d7e 91ab33f0                             begin, and let it go on by itself
  cairn disk replace 5f0c1d7e d:/dev/sdb --wait --timeout 60m      and see it through")]
    Replace(ReplaceArgs),
    /// Read disks through for damage, and repair what is found from other replicas
    ///
    /// Engines do this by themselves, slowly and once a day (`scrub_rate` in the configuration). Without a disk this shows how
    /// far each disk is; with one a pass begins at once, or goes on at another pace. Clients are served all the while, and
    /// whatever does not match its checksum is fetched from another replica and written back.
    ///
    /// Disks are named by their id, by its beginning, or as NODE:PATH.
    #[command(after_help = "Examples:
  cairn disk scrub                                     every disk: how far it is, and what was found
  cairn disk scrub a:/dev/sdb --rate 200MiB --wait     one disk now, and the result
  cairn disk scrub 5f0c1d7e --stop                     not now")]
    Scrub(ScrubArgs),
    /// Overwrite a block that a local disk cannot read, so that an engine can start with it again
    ///
    /// For a disk that an engine refuses because it cannot be read at some byte where its log may go on. Some devices leave a
    /// block unreadable when the power fails while they write it; clearing that one loses nothing, since nobody was ever
    /// promised it. But the block may as well hold the last write that this disk's replicas acknowledged, and a cleared one
    /// cannot tell any more. So start the engine again first: what could not be read may be readable now. If the other
    /// replicas are alive, `cairn disk replace` is always safe. Clear the block when too many disks were hit at once for that.
    ///
    /// A block that can be read is left alone. The engine must not run.
    #[command(after_help = "Examples:
  cairn disk clear /dev/sdb --at 1073750016     the byte that the engine's message names")]
    Clear(ClearArgs),
}

/// Arguments of `cairn disk scrub`.
#[derive(Args, Debug, Clone)]
pub struct ScrubArgs {
    /// The disk to read through; without one, all are shown
    pub disk: Option<String>,
    /// Bytes a second for this pass, instead of the pace that is set
    #[arg(long, value_parser = parse_size, requires = "disk", conflicts_with = "stop")]
    pub rate: Option<ByteSize>,
    /// Wait until the pass ends; `--timeout` says for how long
    #[arg(long, requires = "disk", conflicts_with = "stop")]
    pub wait: bool,
    /// End the pass that goes on
    #[arg(long, requires = "disk")]
    pub stop: bool,
}

/// Arguments of `cairn disk clear`.
#[derive(Args, Debug, Clone)]
pub struct ClearArgs {
    /// The device, partition or file
    pub path: PathBuf,
    /// Where the block begins, in bytes from the start of the disk
    #[arg(long, value_name = "BYTE")]
    pub at: u64,
}

/// Arguments of `cairn disk replace`.
#[derive(Args, Debug, Clone)]
pub struct ReplaceArgs {
    /// The disk that is given up
    pub old: String,
    /// The disk that takes its place
    pub new: String,
    /// Wait until nothing is left on the old disk; `--timeout` says for how long
    #[arg(long)]
    pub wait: bool,
}

/// Arguments of `cairn disk format`.
#[derive(Args, Debug, Clone)]
pub struct FormatArgs {
    /// The device, partition or file
    pub path: PathBuf,
    /// Make the file with this size, or grow it to it; not for devices, whose size is given
    #[arg(long, value_parser = parse_size)]
    pub size: Option<ByteSize>,
    /// Format even if the disk holds something recognisable: it is lost
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `cairn disk list`.
#[derive(Args, Debug, Clone)]
pub struct ListArgs {
    /// Local devices or files to read; without any, the cluster is asked
    pub paths: Vec<PathBuf>,
}
