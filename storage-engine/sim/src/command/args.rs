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

    /// Test the checks: give every core one seeded fault after the other, and ask that each is caught within so many seeds.
    #[cfg(feature = "mutations")]
    #[arg(long, value_name = "SEEDS", num_args = 0..=1, default_missing_value = "300")]
    pub(crate) mutants: Option<u64>,

    /// With --mutants: begin with the seed that caught each fault before, so that most of the hunting is spared.
    #[cfg(feature = "mutations")]
    #[arg(long, requires = "mutants")]
    pub(crate) known: bool,

    /// Only this seeded fault; with --seed, in that run.
    #[cfg(feature = "mutations")]
    #[arg(long, value_name = "NAME")]
    pub(crate) mutant: Option<String>,

    /// Print what happens in the seed or scenario.
    #[arg(long)]
    pub(crate) trace: bool,

    /// Do not look for a smaller scenario that fails as well.
    #[arg(long)]
    pub(crate) no_shrink: bool,
}
