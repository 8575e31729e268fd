//! `cairn cluster …`.

use clap::{Args, Subcommand};

use super::parse_engine;

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
    /// Add engines to a cluster that runs
    ///
    /// Each must run, own at least one formatted disk and belong to no cluster yet. It starts empty: volumes that are
    /// created later use it, and `cairn disk replace` moves replicas to it.
    #[command(after_help = "Examples:
  cairn cluster add 10.0.0.4 --engine 10.0.0.1,10.0.0.2        --engine names engines of the cluster")]
    Add(AddArgs),
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

/// Arguments of `cairn cluster add`.
#[derive(Args, Debug, Clone)]
pub struct AddArgs {
    /// Control addresses of the engines to add (port 7400 if left out)
    #[arg(required = true, value_name = "HOST[:PORT]", value_parser = parse_engine)]
    pub newcomers: Vec<String>,
}
