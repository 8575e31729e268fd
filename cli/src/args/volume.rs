//! `cairn volume …`.

use cairn_api::units::ByteSize;
use clap::{Args, Subcommand};

use super::parse_size;

/// What can be done with volumes.
#[derive(Subcommand, Debug)]
pub enum VolumeCommand {
    /// Create a volume and wait until it is ready
    ///
    /// Asking again for the same volume succeeds; asking for another size or replica count under a taken name is a conflict.
    #[command(after_help = "Examples:
  cairn volume create data --size 10GiB
  cairn volume create scratch --size 1TiB --replicas 1")]
    Create(CreateArgs),
    /// List all volumes
    #[command(after_help = "Examples:
  cairn volume list
  cairn volume list -o json | jq -r '.volumes[] | select(.health != \"healthy\") | .name'")]
    List,
    /// Show one volume and its replicas
    #[command(after_help = "Examples:
  cairn volume show data
  cairn volume show data -o json | jq .replicas")]
    Show(NameArgs),
    /// Make a volume larger while it is in use, and wait until it is
    ///
    /// Connected NBD clients may use what is new at once. The protocol has no way to tell them: a kernel's device shows its old
    /// size until the client reconnects (`nbd-client -d`, then again) or is reconfigured; then grow the filesystem in it.
    #[command(after_help = "Examples:
  cairn volume resize data --size 20GiB
  cairn volume resize data --size 20GiB --no-wait -o json")]
    Resize(ResizeArgs),
    /// Delete a volume and its data
    #[command(after_help = "Examples:
  cairn volume delete data
  cairn volume delete data --force     even while it is attached")]
    Delete(DeleteArgs),
    /// Print how to attach a volume: its NBD addresses and commands to try
    #[command(after_help = "Examples:
  cairn volume export data
  nbdinfo $(cairn volume export data -o json | jq -r '.exports[0].uri')")]
    Export(NameArgs),
    /// End a volume's attachment, so that whoever writes now is fenced
    #[command(after_help = "Examples:
  cairn volume detach data
  cairn volume detach data --force     even if the node that holds it is alive")]
    Detach(DetachArgs),
}

/// A volume's name.
#[derive(Args, Debug, Clone)]
pub struct NameArgs {
    /// The volume
    pub name: String,
}

/// Arguments of `cairn volume create`.
#[derive(Args, Debug, Clone)]
pub struct CreateArgs {
    /// What to call the volume: 1 to 253 of a-z, 0-9, '-', '.' and '_'
    pub name: String,
    /// Its capacity, a multiple of 4KiB; space is only taken by what is written
    #[arg(long, value_parser = parse_size)]
    pub size: ByteSize,
    /// Copies of the data, each on another node: a volume works while a majority of them does
    #[arg(long, default_value = "3", value_parser = parse_replicas)]
    pub replicas: u32,
    /// Return as soon as the cluster has accepted the volume
    #[arg(long)]
    pub no_wait: bool,
}

/// Arguments of `cairn volume resize`.
#[derive(Args, Debug, Clone)]
pub struct ResizeArgs {
    /// The volume
    pub name: String,
    /// Its capacity from then on, a multiple of 4KiB and not less than it has
    #[arg(long, value_parser = parse_size)]
    pub size: ByteSize,
    /// Return as soon as the cluster has accepted the size
    #[arg(long)]
    pub no_wait: bool,
}

/// Arguments of `cairn volume delete`.
#[derive(Args, Debug, Clone)]
pub struct DeleteArgs {
    /// The volume
    pub name: String,
    /// Delete even while it is attached: whoever uses it gets I/O errors
    #[arg(long)]
    pub force: bool,
    /// Return as soon as the cluster has accepted the deletion
    #[arg(long)]
    pub no_wait: bool,
}

/// Arguments of `cairn volume detach`.
#[derive(Args, Debug, Clone)]
pub struct DetachArgs {
    /// The volume
    pub name: String,
    /// Detach even if the node that holds it is alive: its writes fail from then on
    #[arg(long)]
    pub force: bool,
}

pub(super) fn parse_replicas(text: &str) -> Result<u32, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("a volume has 1, 3 or 5 replicas".to_owned()),
    }
}
