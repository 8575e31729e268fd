//! `cargo xtask`: the one entry point for everything that a developer or a newcomer runs.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the output of these commands is their purpose")]

mod bench;
mod demo;
mod faults;
mod fuzz;
mod packages;
mod product;
mod progress;
mod sim;
mod steps;
mod table;
mod test;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Everything that one does with Cairn's source: see it work, measure it, and check a change.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
#[command(after_help = "Examples:\n  \
    cargo xtask demo                 see three engines survive what you would not dare to do\n  \
    cargo xtask demo --keep          and leave the cluster up to play with\n  \
    cargo xtask bench                fio on the raw disk and on Cairn, in turn\n  \
    cargo xtask faults --minutes 20  kill, stop, cut off and corrupt real engines for as long\n  \
    cargo xtask test                 what must pass before a change lands\n\n\
    Debian packages that a command needs are installed by it, and named as they are.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check everything that must pass before a change lands.
    Test(test::Options),
    /// Run three engines, drive them with other people's NBD clients, and kill them.
    Demo(demo::Options),
    /// Measure the raw disk and Cairn with fio, in turn, in one run.
    Bench(bench::Options),
    /// Put clusters of real processes through faults for a while, under a load that is checked.
    Faults(faults::Options),
    /// Run whole clusters in simulation, from seeds, with every fault there is.
    Sim(sim::Options),
    /// Check the rules of style that no compiler checks.
    Tidy,
    /// Fuzz each decoder of the bytes on disk and on the wire.
    Fuzz(fuzz::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Test(options) => test::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Faults(options) => faults::run(&options),
        Command::Sim(options) => sim::run(&options),
        Command::Tidy => tidy::run(root()),
        Command::Fuzz(options) => fuzz::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the source tree.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or_else(|| Path::new("."))
}

/// Where the build and the commands' files go.
fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
