//! `cargo xtask sim`: builds the simulator with optimisation and runs it.

use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::root;

/// What `cargo xtask sim` takes: whatever the simulator does.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// Passed on; `cargo xtask sim --help` lists what there is.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Builds and runs the simulator.
pub(crate) fn run(options: &Options) -> Result<()> {
    let wants_mutants = options.rest.iter().any(|argument| argument.starts_with("--mutant"));
    let status = Command::new("cargo")
        .args(if wants_mutants { MUTANTS } else { SOUND })
        .args(&options.rest)
        .current_dir(root())
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("the simulator found something, or did not run: {status}");
    }
    Ok(())
}

/// What to tell cargo before the simulator's own arguments.
pub(crate) const SOUND: [&str; 8] = build_and_run("cli");

/// The same, with the seeded faults of the core built in.
pub(crate) const MUTANTS: [&str; 8] = build_and_run("cli,mutations");

const fn build_and_run(features: &str) -> [&str; 8] {
    [
        "run",
        "--quiet",
        "--release",
        "--package",
        "cairn-sim",
        "--features",
        features,
        "--",
    ]
}
