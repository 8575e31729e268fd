//! What the command takes.

use std::path::PathBuf;

use clap::Parser;

/// Run whole clusters in simulation, with faults drawn from seeds, and check everything that clients were told.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask sim", bin_name = "cargo xtask sim")]
#[command(after_help = "Examples:\n  \
    cargo xtask sim                          a hundred seeds\n  \
    cargo xtask sim --minutes 120 --start 1  two hours of them\n  \
    cargo xtask sim --seed 7 --trace         one, with everything that happens in it\n  \
    cargo xtask sim --scenario found.json    one that was made smaller")]
pub(crate) struct Arguments {
    /// How many seeds; 100 unless a time is given.
    #[arg(long)]
    pub(crate) seeds: Option<u64>,

    /// The first seed.
    #[arg(long, default_value_t = 1)]
    pub(crate) start: u64,

    /// Begin no seed after so many minutes.
    #[arg(long)]
    pub(crate) minutes: Option<f64>,

    /// Seeds at once.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    pub(crate) jobs: usize,

    /// Stop at so many failures.
    #[arg(long, default_value_t = 10)]
    pub(crate) failures: usize,

    /// Write one JSON object about the whole run to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Run this seed only.
    #[arg(long, conflicts_with_all = ["seeds", "minutes", "scenario"])]
    pub(crate) seed: Option<u64>,

    /// Run the scenario in this file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "minutes"])]
    pub(crate) scenario: Option<PathBuf>,

    /// Print what happens in the seed or scenario.
    #[arg(long)]
    pub(crate) trace: bool,

    /// Do not look for a smaller scenario that fails as well.
    #[arg(long)]
    pub(crate) no_shrink: bool,
}
