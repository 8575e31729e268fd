//! `cairn volume …`.

use cairn_api::limits::VolumeLimits;
use cairn_api::units::ByteSize;
use clap::{Args, Subcommand};

use super::{RewrapArgs, parse_size};

/// What can be done with volumes.
#[derive(Subcommand, Debug)]
pub enum VolumeCommand {
    /// Create a volume and wait until it is ready
    ///
    /// Asking again for the same volume succeeds; asking for another size, replica count or encryption under a taken
    /// name is a conflict.
    #[command(after_help = "Examples:
  cairn volume create data --size 10GiB
  cairn volume create scratch --size 1TiB --replicas 1
  cairn volume create secret --size 10GiB --encrypted")]
    Create(CreateArgs),
    /// Make a volume that begins as a copy of another one, or of a snapshot of it, at once
    ///
    /// Nothing is copied to make it: it shares the blocks of its source, on the same disks, and both go their own ways from
    /// there. In the background it gets blocks of its own, and then it is whole and needs its source no more. The source may be
    /// written, and deleted, at any time; a clone of an encrypted volume is encrypted with the same data key, wrapped for itself.
    /// Asking again for the same clone succeeds.
    #[command(after_help = "Examples:
  cairn volume clone data data-test                   of the volume as it is now
  cairn volume clone data@nightly restored            of a snapshot
  cairn volume clone data@nightly larger --size 20GiB
  cairn volume clone data copy --wait                 until it is whole")]
    Clone(CloneArgs),
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
    /// Limit what a volume may be asked for, or lift its limits, while it is in use
    ///
    /// Limits hold for the volume, through whichever engine it is used, and from this moment on for requests that wait already.
    /// A request counts once, with the bytes that it reads or writes; trims and zeroing count without bytes, flushes not at all.
    #[command(after_help = "Examples:
  cairn volume limit data --iops 1000 --bandwidth 50MiB
  cairn volume limit data --burst 2s          two seconds' worth at once after a pause
  cairn volume limit data --iops none         lifts that one")]
    Limit(LimitArgs),
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
    /// Wrap the data keys of encrypted volumes under the current version of their master key
    ///
    /// For after a new version of the master key was made: then the old one can be destroyed, once `cairn key status` shows no
    /// volume under it. Volumes are used all the while; their data stays as it is. Done already is done, and what was
    /// interrupted is started again.
    #[command(after_help = "Examples:
  cairn volume rewrap data
  cairn volume rewrap --all
  cairn volume rewrap data --key-name tenant-7     under another master key")]
    Rewrap(RewrapArgs),
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
    /// What it may be asked for.
    #[command(flatten)]
    pub limits: LimitFlags,
    /// Encrypt it: AES-256-XTS, with a key of its own that the key service of the engines' [encryption] wraps
    #[arg(long)]
    pub encrypted: bool,
    /// The master key that wraps its key, instead of the usual one
    #[arg(long, value_name = "NAME", requires = "encrypted")]
    pub key_name: Option<String>,
    /// Return as soon as the cluster has accepted the volume
    #[arg(long)]
    pub no_wait: bool,
}

/// Arguments of `cairn volume clone`.
#[derive(Args, Debug, Clone)]
pub struct CloneArgs {
    /// The volume, or VOLUME@SNAPSHOT
    pub source: String,
    /// What to call the clone: 1 to 253 of a-z, 0-9, '-', '.' and '_'
    pub name: String,
    /// Its capacity, if it is to be larger than its source: a multiple of 4KiB
    #[arg(long, value_parser = parse_size)]
    pub size: Option<ByteSize>,
    /// What it may be asked for.
    #[command(flatten)]
    pub limits: LimitFlags,
    /// The master key that wraps its data key, instead of the one that wraps its source's
    #[arg(long, value_name = "NAME")]
    pub key_name: Option<String>,
    /// Return as soon as the cluster has accepted the clone
    #[arg(long)]
    pub no_wait: bool,
    /// Wait until it is whole, and needs its source no more
    #[arg(long, conflicts_with = "no_wait")]
    pub wait: bool,
}

/// What a volume may be asked for. What is not named stays as it is.
#[derive(Args, Debug, Clone)]
pub struct LimitFlags {
    /// Requests a second, 10 to 10000000, or `none`
    #[arg(long, value_name = "COUNT", value_parser = parse_iops)]
    pub iops: Option<Ceiling>,
    /// Bytes read and written a second, 1MiB to 1TiB, or `none`
    #[arg(long, value_name = "SIZE", value_parser = parse_bandwidth)]
    pub bandwidth: Option<Ceiling>,
    /// How much may be saved up while the volume is idle and spent at once, as a time at the limits: 0s to 60s [default: 100ms]
    #[arg(long, value_name = "TIME", value_parser = parse_burst)]
    pub burst: Option<u32>,
}

/// A limit, or that there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ceiling(pub Option<u64>);

/// Arguments of `cairn volume limit`.
#[derive(Args, Debug, Clone)]
pub struct LimitArgs {
    /// The volume
    pub name: String,
    /// What it may be asked for.
    #[command(flatten)]
    pub limits: LimitFlags,
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
    /// Delete its snapshots, too; without, a volume that has some is kept
    #[arg(long)]
    pub snapshots: bool,
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

fn ceiling(text: &str, read: impl Fn(&str) -> Result<VolumeLimits, String>) -> Result<VolumeLimits, String> {
    if text.trim().eq_ignore_ascii_case("none") {
        return Ok(VolumeLimits::default());
    }
    let limits = read(text)?;
    limits
        .check()
        .map_err(|error| format!("{}; write `none` to lift it", error.rule))?;
    Ok(limits)
}

pub(super) fn parse_iops(text: &str) -> Result<Ceiling, String> {
    let read = |text: &str| {
        let iops = text.trim().parse();
        let iops = iops.map_err(|_| format!("'{text}' is not a number of requests a second"))?;
        Ok(VolumeLimits {
            iops: Some(iops),
            ..VolumeLimits::default()
        })
    };
    ceiling(text, read).map(|limits| Ceiling(limits.iops))
}

pub(super) fn parse_bandwidth(text: &str) -> Result<Ceiling, String> {
    let read = |text: &str| {
        // A rate may be written as one.
        let size: ByteSize = text
            .trim()
            .trim_end_matches("/s")
            .parse()
            .map_err(|error: cairn_api::units::ParseSizeError| error.to_string())?;
        Ok(VolumeLimits {
            bytes_per_s: Some(size.0),
            ..VolumeLimits::default()
        })
    };
    ceiling(text, read).map(|limits| Ceiling(limits.bytes_per_s))
}

pub(super) fn parse_burst(text: &str) -> Result<u32, String> {
    let refuse = || format!("'{text}' is not a time: write a whole number and a unit, such as 100ms or 2s, up to 60s");
    let (digits, milliseconds) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(digits), _) => (digits, 1),
        (None, Some(digits)) => (digits, 1000),
        (None, None) => return Err(refuse()),
    };
    let count: u32 = digits.trim().parse().map_err(|_| refuse())?;
    let burst_ms = count.checked_mul(milliseconds).ok_or_else(refuse)?;
    let limits = VolumeLimits {
        burst_ms,
        ..VolumeLimits::default()
    };
    limits.check().map_err(|error| error.rule)?;
    Ok(burst_ms)
}

pub(super) fn parse_replicas(text: &str) -> Result<u32, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("a volume has 1, 3 or 5 replicas".to_owned()),
    }
}
