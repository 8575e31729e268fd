//! The engine's configuration: a TOML file, overridden by a few flags, checked as a whole before anything is started.
//!
//! [`file::FileConfig`] is what may be written in the file; [`Config`] is what the engine runs on, with every default filled in
//! and every range checked. A parameter that cannot be read is refused by name: there is no silent default for it.

mod check;
mod encryption;
mod file;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use cairn_api::units::ByteSize;

use crate::disks::Thresholds;

pub(crate) use check::is_node_name;
pub use check::{DISKS_MAX, MEMORY_BYTES_MAX, MEMORY_BYTES_MIN, NBD_CONNECTIONS_MAX};
pub use encryption::EncryptionConfig;
pub use file::{
    FileConfig, FileControl, FileData, FileDisk, FileEncryption, FileKeys, FileLog, FileMetrics, FileNbd, FileTls,
    FileVault,
};

/// A commented configuration with every key and its default: what `--print-config` prints.
pub const COMMENTED_DEFAULT: &str = include_str!("default.toml");

/// What the engine runs on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The node's name.
    pub name: String,
    /// Where sled and the node's identity live.
    pub data_dir: PathBuf,
    /// The control API.
    pub control: ControlConfig,
    /// The peers' listener.
    pub data: DataConfig,
    /// The NBD listeners.
    pub nbd: NbdConfig,
    /// The metrics and probes listener; none if off.
    pub metrics: Option<SocketAddr>,
    /// The disks, at least one.
    pub disks: Vec<DiskConfig>,
    /// The log.
    pub log: LogConfig,
    /// The key services of encrypted volumes; none if they are not used.
    pub encryption: Option<EncryptionConfig>,
    /// Listening outside the loopback interface is allowed.
    pub allow_insecure_network: bool,
}

/// The control API's listener.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What others are told; the bound address if none.
    pub advertise: Option<SocketAddr>,
    /// Control addresses of other engines to ask for the catalogue when this one has lost its own copy.
    pub seeds: Vec<SocketAddr>,
}

/// The peers' listener.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DataConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What others are told; the bound address if none.
    pub advertise: Option<SocketAddr>,
}

/// The NBD listeners.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NbdConfig {
    /// Where to listen on TCP; none if off.
    pub listen: Option<SocketAddr>,
    /// What others are told; the bound address if none.
    pub advertise: Option<SocketAddr>,
    /// The unix socket; none if off.
    pub socket: Option<PathBuf>,
    /// Connections at a time, on both listeners together.
    pub connections_max: usize,
    /// Whether leadership of a volume moves to this engine when the volume is used here.
    pub move_leadership: bool,
    /// TLS on TCP connections.
    pub tls: Option<TlsConfig>,
}

/// TLS of the NBD server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsConfig {
    /// PEM file of the server's certificate chain.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
    /// PEM file of the authority that clients' certificates must come from.
    pub client_ca: Option<PathBuf>,
    /// Refuse clients that do not start TLS.
    pub required: bool,
}

/// One disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskConfig {
    /// A block device, partition or file that `cairn disk format` has prepared.
    pub path: PathBuf,
    /// Registered I/O buffers of the disk's thread.
    pub memory: ByteSize,
    /// How fast it is read through for damage, a second; 0 for only when that is asked for.
    pub scrub_rate: ByteSize,
    /// How fast clones that are led on it copy what they still read from their sources, a second; 0 for as fast as they can.
    pub flatten_rate: ByteSize,
    /// When to tell that it is filling up.
    pub thresholds: Thresholds,
}

/// The log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// For people or for programs.
    pub format: LogFormat,
    /// A `tracing` filter: a level, or `target=level` pairs separated by commas.
    pub level: String,
}

/// How a line of the log looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// What flags put in the place of the file's values.
#[derive(Clone, Default, Debug)]
pub struct Overrides {
    /// `--name`
    pub name: Option<String>,
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
    /// `--control-listen`
    pub control_listen: Option<String>,
    /// `--data-listen`
    pub data_listen: Option<String>,
    /// `--nbd-listen`
    pub nbd_listen: Option<String>,
    /// `--nbd-socket`
    pub nbd_socket: Option<PathBuf>,
    /// `--metrics-listen`
    pub metrics_listen: Option<String>,
    /// `--log-format`
    pub log_format: Option<LogFormat>,
    /// `--log-level`
    pub log_level: Option<String>,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not valid TOML, or has a key that the engine does not know or a value of the wrong type.
    #[error("{}: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What and where: the message has line, column and, for an unknown key, the list of allowed ones.
        source: Box<toml::de::Error>,
    },
    /// A value is missing.
    #[error("the configuration has no `{key}`: {remedy}")]
    Missing {
        /// The key, with its section.
        key: &'static str,
        /// What to write.
        remedy: &'static str,
    },
    /// A value breaks a rule.
    #[error("`{key}` is '{value}': {rule}")]
    Invalid {
        /// The key, with its section.
        key: String,
        /// What was given.
        value: String,
        /// What it must be.
        rule: String,
    },
    /// A listener would be open to the network without protection.
    #[error(
        "`{key}` is {address}, which other machines can reach, and nothing there is authenticated yet: anyone who \
         connects could read and overwrite volumes. Listen on 127.0.0.1 or [::1], or write \
         `allow_insecure_network = true` if the network itself is closed to strangers"
    )]
    InsecureNetwork {
        /// The key, with its section.
        key: &'static str,
        /// The address.
        address: SocketAddr,
    },
}

impl Config {
    /// Reads, overrides and checks the file at `path`.
    pub fn load(path: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &text, overrides)
    }

    /// As [`Self::load`], of `text` that came from `path`.
    pub fn parse(path: &Path, text: &str, overrides: &Overrides) -> Result<Self, ConfigError> {
        let mut file: FileConfig = toml::from_str(text).map_err(|source| ConfigError::Syntax {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        file.apply(overrides);
        check::check(file)
    }
}
