//! `cargo xtask bench`: the suite `data` measures the functions of a volume ([`data`]).
//!
//! The usual one is fio on the raw disk and on Cairn in turn, in one run, on one filesystem.
//!
//! Raw is a file that was written before, with `O_DIRECT` and io_uring, and with `O_DSYNC` for writes, because a reply of
//! Cairn means durable too. Cairn is a volume of three replicas, read and written through fio's `nbd` engine on the unix
//! socket of the engine that leads it. All three engines and fio share the machine.
//!
//! A machine that others use too is slow for seconds at a time. Each workload is therefore measured in several rounds, raw
//! and Cairn in turn, and the round with the median of the median latencies is what counts; all rounds are in the JSON.

mod data;
mod halt_poll;
mod plot;
mod report;
mod workload;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cairn_tests::fio::{Figures, Target};
use cairn_tests::{Cluster, ClusterOptions, Tool, procfs};
use clap::{Args, ValueEnum};

use crate::packages::{self, FIO, GCC};
use crate::{product, progress, target_dir};
use halt_poll::{HaltPoll, Wanted};
use report::{Row, System};
use workload::{WORKLOADS, Workload};

/// The volume, and the raw file: what random requests spread over.
const REGION_BYTES: u64 = 1 << 30;
/// Each engine's disk. Space is not reclaimed yet, so it holds every byte of the run; the jobs are limited accordingly.
const DISK_BYTES: u64 = 7 << 30;
/// A pause before each measurement, so that the one before has come to rest.
const REST: Duration = Duration::from_secs(1);

/// What `cargo xtask bench` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cargo xtask bench\n  cargo xtask bench --seconds 20 --json bench.json\n  cargo xtask bench \
                    --halt-poll-us 200\n  cargo xtask bench --suite data --section limits --json data.json",
    after_long_help = data::help()
)]
pub(crate) struct Options {
    /// What is measured: `raw` compares Cairn with the raw disk, `data` measures what the functions of a volume cost.
    #[arg(long, value_enum, default_value_t = Suite::Raw)]
    suite: Suite,
    /// Of the suite `data`, only this section; may be given more than once.
    #[arg(long, value_name = "NAME")]
    section: Vec<String>,
    /// Of the suite `data`, the size of each of the three engines' disks in MiB, instead of what a section takes (up to 4 GiB).
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(256..=1 << 20))]
    disk_mib: Option<u64>,
    /// Of the suite `data`, writes the pages below `docs/` that are made of figures: those of the sections that are measured.
    #[arg(long)]
    docs: bool,
    /// Writes the figures to this file as JSON: an array of rows, or for the suite `data` an object of its sections.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The longest that one measurement takes.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// How often each workload is measured on each system, in turn; the round with the median latency is reported.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=9))]
    rounds: u32,
    /// How long an idle virtual processor polls before it halts, while this measures, in microseconds (the kernel's default
    /// unless given; put back afterwards), or `keep` for the machine as it is.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = Wanted::default())]
    halt_poll_us: Wanted,
    /// Where the files are put (about 22 GiB); must not be memory.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Cairn beside the raw disk.
    Raw,
    /// The functions of a volume.
    Data,
}

/// Measures everything and prints the table.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.suite == Suite::Data {
        return data::run(options);
    }
    let is_plain = options.section.is_empty() && options.disk_mib.is_none() && !options.docs;
    ensure!(
        is_plain,
        "--section, --disk-mib and --docs are for --suite data: the suite raw has none of them"
    );
    packages::ensure(&[GCC, FIO])?;
    let binaries = product::build_release()?;
    let dir = options.dir.clone().unwrap_or_else(|| target_dir().join("cairn-bench"));
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot clear {}", dir.display()))?;
    }
    fs::create_dir_all(&dir)?;
    let halt_poll = HaltPoll::set(options.halt_poll_us)?;
    println!("{}", halt_poll.line()?);
    println!("load average before: {:.2}", procfs::load_average()?);
    let raw = progress::during("writing the raw file (1 GiB)", |_| raw_file(&dir))?;
    let cluster = progress::during("starting three engines with disks of 7 GiB", |_| {
        let options = ClusterOptions {
            disk_bytes: DISK_BYTES,
            dir: Some(dir.join("cluster")),
            ..ClusterOptions::default()
        };
        let cluster = Cluster::start(&binaries, &options)?;
        cluster.create_volume("bench", REGION_BYTES)?;
        Ok(cluster)
    })?;
    let uri = cluster.engines[cluster.leader("bench")?].unix_uri("bench");
    let mut rows = Vec::new();
    for workload in &WORKLOADS {
        let mut rounds = [Vec::new(), Vec::new()];
        for round in 1..=options.rounds {
            for (system, measured) in [System::Raw, System::Cairn].into_iter().zip(&mut rounds) {
                let target = match system {
                    System::Raw => Target::File(raw.display().to_string()),
                    System::Cairn => Target::Nbd(uri.clone()),
                };
                let title = format!("{} on {}, round {round}", workload.name, system.name());
                measured.push(progress::during(&title, |_| {
                    measure(workload, system, target, &cluster, options)
                })?);
            }
        }
        rows.extend(rounds.into_iter().filter_map(Row::median));
    }
    report::print(&rows, options.rounds);
    if let Some(path) = &options.json {
        report::write_json(&rows, path)?;
    }
    drop(cluster);
    drop(halt_poll);
    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))
}

/// A file of random bytes, written before the measurement so that no block of it is still to be allocated.
fn raw_file(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("raw");
    let size = format!("--size={REGION_BYTES}");
    let args = [
        "--name=fill",
        "--rw=write",
        "--bs=1M",
        "--direct=1",
        "--end_fsync=1",
        "--ioengine=psync",
        &size,
    ];
    Tool::new("fio")
        .args(args)
        .arg(format!("--filename={}", path.display()))
        .ok()?;
    Ok(path)
}

fn measure(workload: &Workload, system: System, target: Target, cluster: &Cluster, options: &Options) -> Result<Row> {
    sleep(REST);
    let before = cpu_of_engines(cluster)?;
    let figures: Figures = workload.job(target, options.seconds, options.rounds).run()?;
    let cpu_us = cpu_of_engines(cluster)? - before;
    Ok(Row::new(
        workload.name,
        system,
        &figures,
        cpu_us,
        procfs::load_average()?,
    ))
}

fn cpu_of_engines(cluster: &Cluster) -> Result<u64> {
    cluster.engines.iter().map(|engine| procfs::cpu_us(engine.pid()?)).sum()
}
