//! `cairn snapshot …`.

use clap::{Args, Subcommand};

/// What can be done with snapshots.
#[derive(Subcommand, Debug)]
pub enum SnapshotCommand {
    /// Make a snapshot of a volume, or of several at one instant, and wait until it can be read
    ///
    /// Everything that was acknowledged before the command is in it; nothing that is written after it ends. It is as a crash
    /// at that moment would have left the volume: freeze the filesystem on it first if that is not enough. Asking again for the
    /// same snapshot succeeds.
    ///
    /// Of several volumes there is a snapshot of the same name each, of one instant: if something was written to one of them
    /// after a write to another was acknowledged, it is in none of them without that. There are all, or none. Writes wait for
    /// some ten milliseconds meanwhile.
    #[command(after_help = "Examples:
  cairn snapshot create data --name monday
  cairn snapshot create database journal --name monday
  nbdinfo nbd://127.0.0.1:10809/data@monday     a snapshot is an export of its own, read-only")]
    Create(SnapshotCreateArgs),
    /// List the snapshots of a volume, or of all volumes
    #[command(after_help = "Examples:
  cairn snapshot list
  cairn snapshot list data -o json | jq -r '.snapshots[].name'")]
    List(SnapshotListArgs),
    /// Show one snapshot and what it takes
    #[command(after_help = "Examples:
  cairn snapshot show data monday
  cairn snapshot show data monday -o json | jq .exclusive_bytes")]
    Show(SnapshotArgs),
    /// List the blocks that changed from one snapshot to a later one, or all that one snapshot holds
    ///
    /// Exact at 4 KiB, from the volume's map: no data is read. Reading these blocks of the later snapshot and putting them
    /// over a copy of the earlier one gives a copy of the later one.
    #[command(after_help = "Examples:
  cairn snapshot diff data monday                   all that it holds: a full backup
  cairn snapshot diff data monday tuesday           what changed: an incremental one
  cairn snapshot diff data monday tuesday -o json | jq '.extents[] | select(.kind == \"data\")'")]
    Diff(SnapshotDiffArgs),
    /// Delete a snapshot; what only it shows is freed
    #[command(after_help = "Examples:
  cairn snapshot delete data monday")]
    Delete(SnapshotDeleteArgs),
}

/// A snapshot of a volume.
#[derive(Args, Debug, Clone)]
pub struct SnapshotArgs {
    /// The volume
    pub volume: String,
    /// The snapshot
    pub name: String,
}

/// Arguments of `cairn snapshot create`.
#[derive(Args, Debug, Clone)]
pub struct SnapshotCreateArgs {
    /// The volume, or up to 64 of them
    #[arg(value_name = "VOLUME", required = true)]
    pub volumes: Vec<String>,
    /// What to call the snapshot: 1 to 253 of a-z, 0-9, '-', '.' and '_', unique among the volume's
    #[arg(long)]
    pub name: String,
    /// Return as soon as the cluster has accepted it; snapshots of several volumes are always waited for
    #[arg(long)]
    pub no_wait: bool,
}

/// Arguments of `cairn snapshot list`.
#[derive(Args, Debug, Clone)]
pub struct SnapshotListArgs {
    /// Only those of this volume
    pub volume: Option<String>,
}

/// Arguments of `cairn snapshot diff`.
#[derive(Args, Debug, Clone)]
pub struct SnapshotDiffArgs {
    /// The volume
    pub volume: String,
    /// The earlier snapshot; or the only one
    pub first: String,
    /// The later snapshot
    pub second: Option<String>,
}

impl SnapshotDiffArgs {
    /// The earlier snapshot, if one was given, and the later one.
    pub fn from_and_to(&self) -> (Option<&str>, &str) {
        match &self.second {
            Some(second) => (Some(&self.first), second),
            None => (None, &self.first),
        }
    }
}

/// Arguments of `cairn snapshot delete`.
#[derive(Args, Debug, Clone)]
pub struct SnapshotDeleteArgs {
    /// The volume
    pub volume: String,
    /// The snapshot
    pub name: String,
    /// Return as soon as the cluster has accepted the deletion
    #[arg(long)]
    pub no_wait: bool,
}
