//! What may be written in the configuration file. Unknown keys are refused, with the list of those that exist.

use std::path::PathBuf;

use serde::Deserialize;

use super::{LogFormat, Overrides};

/// The whole file.
#[derive(Clone, Default, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// The node's name: `[a-z0-9-]{1,63}`, unique in the cluster.
    pub name: Option<String>,
    /// Directory of the catalogue and the node's identity.
    pub data_dir: Option<PathBuf>,
    /// The control API.
    #[serde(default)]
    pub control: FileControl,
    /// The peers' listener.
    #[serde(default)]
    pub data: FileData,
    /// The NBD listeners.
    #[serde(default)]
    pub nbd: FileNbd,
    /// Metrics and probes.
    #[serde(default)]
    pub metrics: FileMetrics,
    /// The disks.
    #[serde(default)]
    pub disk: Vec<FileDisk>,
    /// The log.
    #[serde(default)]
    pub log: FileLog,
    /// The keys of encrypted volumes; encrypted volumes cannot be used if absent.
    pub encryption: Option<FileEncryption>,
    /// Allow listeners outside the loopback interface.
    #[serde(default)]
    pub allow_insecure_network: bool,
}

/// `[control]`
#[derive(Clone, Default, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileControl {
    /// Where the control API listens; `127.0.0.1:7400` if absent.
    pub listen: Option<String>,
    /// The address that other engines and clients are told; `listen` if absent.
    pub advertise: Option<String>,
    /// Control addresses of other engines to ask for the catalogue when the local copy is lost.
    #[serde(default)]
    pub seeds: Vec<String>,
}

/// `[data]`
#[derive(Clone, Default, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileData {
    /// Where peers' links are accepted; `127.0.0.1:7401` if absent.
    pub listen: Option<String>,
    /// The address that other engines are told; `listen` if absent.
    pub advertise: Option<String>,
}

/// `[nbd]`
#[derive(Clone, Default, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileNbd {
    /// Where NBD is served on TCP; off if absent.
    pub listen: Option<String>,
    /// The address that clients are told; `listen` if absent.
    pub advertise: Option<String>,
    /// The unix socket that NBD is served on; off if absent.
    pub socket: Option<PathBuf>,
    /// Connections at a time; 1024 if absent.
    pub connections_max: Option<usize>,
    /// Whether leadership of a volume moves here when it is used here; true if absent.
    pub move_leadership: Option<bool>,
    /// TLS on TCP connections; off if absent.
    pub tls: Option<FileTls>,
}

/// `[nbd.tls]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileTls {
    /// PEM file of the server's certificate chain.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
    /// PEM file of the authority of clients' certificates; clients need none if absent.
    pub client_ca: Option<PathBuf>,
    /// Refuse clients on TCP that do not start TLS.
    #[serde(default)]
    pub required: bool,
}

/// `[metrics]`
#[derive(Clone, Default, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileMetrics {
    /// Where `/metrics`, `/healthz` and `/readyz` are served over HTTP; off if absent.
    pub listen: Option<String>,
}

/// `[[disk]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDisk {
    /// A block device, partition or file that `cairn disk format` has prepared.
    pub path: PathBuf,
    /// Registered I/O buffers of the disk's thread; `64MiB` if absent.
    pub memory: Option<String>,
    /// How fast the disk is read through for damage, a second; `8MiB` if absent, `0` for only when that is asked for.
    pub scrub_rate: Option<String>,
    /// How fast clones copy what they still read from their sources, a second; `32MiB` if absent, `0` for as fast as they can.
    pub flatten_rate: Option<String>,
    /// From which part of its capacity on it is said to be filling up, in percent; 80 if absent.
    pub warning_percent: Option<u8>,
    /// From which part of its capacity on it is said to be nearly full, in percent; 90 if absent.
    pub alarm_percent: Option<u8>,
}

/// `[log]`
#[derive(Clone, Default, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileLog {
    /// `human` or `json`.
    #[serde(default)]
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or `target=level` pairs separated by commas; `info` if absent.
    pub level: Option<String>,
}

/// `[encryption]`
#[derive(Clone, Default, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEncryption {
    /// The master key of volumes that name none; `main` if absent.
    pub key_name: Option<String>,
    /// Which service wraps: `file` or `vault`; the one that is configured if absent.
    pub service: Option<String>,
    /// Master keys in a file.
    pub file: Option<FileKeys>,
    /// The Transit engine of Vault.
    pub vault: Option<FileVault>,
}

/// `[encryption.file]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileKeys {
    /// The file: a line `NAME VERSION KEY` for each version of each master key; only its owner may read it.
    pub path: PathBuf,
}

/// `[encryption.vault]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileVault {
    /// `https://HOST:PORT`; `http` only on this machine.
    pub address: String,
    /// Where the Transit engine is mounted; `transit` if absent.
    pub mount: Option<String>,
    /// The namespace, if any.
    pub namespace: Option<String>,
    /// The file with the token, read at each use.
    pub token_file: PathBuf,
    /// PEM file of the authority of Vault's certificate; required with `https`.
    pub ca: Option<PathBuf>,
    /// How long one request may take, in milliseconds; 3000 if absent.
    pub timeout_ms: Option<u64>,
}

impl FileConfig {
    /// Puts the flags' values in the place of the file's.
    pub fn apply(&mut self, overrides: &Overrides) {
        fn put<T: Clone>(target: &mut Option<T>, value: &Option<T>) {
            if value.is_some() {
                target.clone_from(value);
            }
        }
        put(&mut self.name, &overrides.name);
        put(&mut self.data_dir, &overrides.data_dir);
        put(&mut self.control.listen, &overrides.control_listen);
        put(&mut self.data.listen, &overrides.data_listen);
        put(&mut self.nbd.listen, &overrides.nbd_listen);
        put(&mut self.nbd.socket, &overrides.nbd_socket);
        put(&mut self.metrics.listen, &overrides.metrics_listen);
        put(&mut self.log.level, &overrides.log_level);
        if let Some(format) = overrides.log_format {
            self.log.format = format;
        }
    }
}
