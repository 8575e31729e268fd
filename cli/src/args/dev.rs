//! `cairn dev`.

use std::path::PathBuf;

use cairn_api::units::ByteSize;
use clap::Args;

use super::parse_size;

/// Engines of a new directory.
pub const ENGINES_DEFAULT: u8 = 3;
/// The first engine's control port in a new directory.
pub const BASE_PORT_DEFAULT: u16 = 7400;
/// Each engine's disk in a new directory.
pub const DISK_SIZE_DEFAULT: ByteSize = ByteSize(2 << 30);

/// Arguments of `cairn dev`.
#[derive(Args, Debug, Clone)]
pub struct DevArgs {
    /// Where the cluster lives; made if it does not exist
    #[arg(long)]
    pub dir: PathBuf,
    /// Engines, when the directory is new [default: 3]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub engines: Option<u8>,
    /// Size of each engine's disk file, when the directory is new; all of it is written [default: 2GiB]
    #[arg(long, value_parser = parse_size)]
    pub disk_size: Option<ByteSize>,
    /// First port, when the directory is new: engine i uses PORT+10*i for control, then one each for peers, metrics and
    /// NBD [default: 7400]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1024..=65_400))]
    pub base_port: Option<u16>,
    /// The cairn-engine program [default: beside this program, else in PATH]
    #[arg(long, value_name = "PATH", env = "CAIRN_ENGINE_BINARY")]
    pub engine_binary: Option<PathBuf>,
    /// Start an engine again when it dies
    #[arg(long)]
    pub restart: bool,
    /// Make sure that this volume exists
    #[arg(long, value_name = "NAME")]
    pub volume: Option<String>,
    /// Size of that volume [default: 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, requires = "volume")]
    pub volume_size: Option<ByteSize>,
    /// Replicas of that volume [default: 3, or 1 with fewer than three engines]
    #[arg(long, value_name = "COUNT", requires = "volume", value_parser = super::volume::parse_replicas)]
    pub replicas: Option<u32>,
}
