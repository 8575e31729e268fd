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
