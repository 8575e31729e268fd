//! The command line of `cairn-engine`.

use std::path::PathBuf;

use clap::Parser;

use crate::config::{LogFormat, Overrides};

/// Cairn's storage engine: one per node, replicating block volumes on the node's disks.
#[derive(Parser, Debug)]
#[command(name = "cairn-engine", version, about)]
pub struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE", required_unless_present = "print_config")]
    pub config: Option<PathBuf>,
    /// Check the configuration and exit.
    #[arg(long)]
    pub check: bool,
    /// Print a commented configuration with every key and its default, and exit.
    #[arg(long)]
    pub print_config: bool,
    /// Instead of `name`.
    #[arg(long)]
    pub name: Option<String>,
    /// Instead of `data_dir`.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Instead of `control.listen`.
    #[arg(long, value_name = "ADDR")]
    pub control_listen: Option<String>,
    /// Instead of `data.listen`.
    #[arg(long, value_name = "ADDR")]
    pub data_listen: Option<String>,
    /// Instead of `nbd.listen`.
    #[arg(long, value_name = "ADDR")]
    pub nbd_listen: Option<String>,
    /// Instead of `nbd.socket`.
    #[arg(long, value_name = "PATH")]
    pub nbd_socket: Option<PathBuf>,
    /// Instead of `metrics.listen`.
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen: Option<String>,
    /// Instead of `log.format`.
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Instead of `log.level`.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

impl Args {
    /// The flags that stand in the place of the file's values.
    pub fn overrides(&self) -> Overrides {
        Overrides {
            name: self.name.clone(),
            data_dir: self.data_dir.clone(),
            control_listen: self.control_listen.clone(),
            data_listen: self.data_listen.clone(),
            nbd_listen: self.nbd_listen.clone(),
            nbd_socket: self.nbd_socket.clone(),
            metrics_listen: self.metrics_listen.clone(),
            log_format: self.log_format,
            log_level: self.log_level.clone(),
        }
    }
}
