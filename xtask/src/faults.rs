//! `cargo xtask faults`: clusters of real processes under random faults and a checked load, for as long as one likes.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cairn_tests::chaos::{self, Figures};
use clap::Args;

use crate::packages::{self, GCC, IPROUTE, NFTABLES, UTIL_LINUX};
use crate::{product, table};

/// What `cargo xtask faults` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cargo xtask faults --minutes 20\n  cargo xtask faults --seed 41 --minutes 1\n  \
    cargo xtask faults --minutes 60 --json faults.json\n\n\
    Needs to run as root: every engine gets a network of its own, which is cut and slowed down."
)]
pub(crate) struct Options {
    /// How long to go on; the round that is under way then is finished.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// The first round's seed; each further round has the next.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Tells what happened in every round, and every stall, not only where something was wrong.
    #[arg(long)]
    story: bool,
    /// Writes the figures to this file, as a JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs the rounds and prints the table.
pub(crate) fn run(options: &Options) -> Result<()> {
    packages::ensure(&[GCC, IPROUTE, NFTABLES, UTIL_LINUX])?;
    let binaries = product::build_release()?;
    let start = Instant::now();
    let wanted = chaos::Options {
        seed: options.seed,
        time: Duration::from_secs(options.minutes * 60),
        story: options.story,
        ..chaos::Options::default()
    };
    let figures = chaos::run(&binaries, &wanted, |line| {
        let minutes = start.elapsed().as_secs_f64() / 60.0;
        println!("[{minutes:5.1} min] {line}");
    })?;
    print(&figures);
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&figures.to_json())?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn print(figures: &Figures) {
    let rows: Vec<Vec<String>> = figures
        .by_kind()
        .into_iter()
        .map(|(kind, of_kind)| {
            vec![
                kind.name().to_owned(),
                of_kind.injected.to_string(),
                of_kind.skipped.to_string(),
                format!("{:.2}", of_kind.longest_stall.as_secs_f64()),
                format!("{:.2}", of_kind.longest_recovery.as_secs_f64()),
            ]
        })
        .collect();
    println!();
    let head = [
        "fault",
        "injected",
        "not possible then",
        "longest stall s",
        "longest recovery s",
    ];
    table::print(&head, &rows);
    println!();
    figures.lines().iter().for_each(|line| println!("{line}"));
}
