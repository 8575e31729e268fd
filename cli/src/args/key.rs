//! `cairn key …`, and what `cairn volume rewrap` takes.

use clap::{Args, Subcommand};

/// What can be done with the keys of encrypted volumes.
#[derive(Subcommand, Debug)]
pub enum KeyCommand {
    /// Show the key service that an engine uses, and which versions of master keys volumes depend on
    ///
    /// A version that no volume is left under, and that is not the current one, may be destroyed: then nobody can ever read a
    /// deleted volume that was wrapped under it, whatever copies there are.
    #[command(after_help = "Examples:
  cairn key status
  cairn key status --engine 10.0.0.2     as another engine reaches it
  cairn key status -o json | jq '.keys[] | select(.volumes == 0 and (.current | not))'")]
    Status,
}

/// Arguments of `cairn volume rewrap`.
#[derive(Args, Debug, Clone)]
pub struct RewrapArgs {
    /// The volume
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub name: Option<String>,
    /// Every encrypted volume of the cluster
    #[arg(long)]
    pub all: bool,
    /// Wrap under this master key from now on, instead of the one that the volume has
    #[arg(long, value_name = "NAME")]
    pub key_name: Option<String>,
}
