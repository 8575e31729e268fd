//! `cairn cluster …`.

use clap::{Args, Subcommand};

/// What can be done with a cluster.
#[derive(Subcommand, Debug)]
pub enum ClusterCommand {
    /// Make one cluster of the engines named with --engine
    ///
    /// Every engine must run, own at least one formatted disk and belong to no cluster yet. If an earlier attempt stopped
    /// half-way, the same command finishes it.
    #[command(after_help = "Examples:
  cairn cluster init --engine 10.0.0.1,10.0.0.2,10.0.0.3
  cairn cluster init --engine 127.0.0.1:7400 --engine 127.0.0.1:7410 --engine 127.0.0.1:7420 --name lab")]
    Init(InitArgs),
    /// Show nodes, volumes and who leads
    #[command(after_help = "Examples:
  cairn cluster status
  cairn --engine 10.0.0.1,10.0.0.2 cluster status -o json")]
    Status,
}

/// Arguments of `cairn cluster init`.
#[derive(Args, Debug, Clone)]
pub struct InitArgs {
    /// What to call the cluster [default: cairn]
    #[arg(long)]
    pub name: Option<String>,
}
