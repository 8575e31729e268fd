//! `cargo xtask demo`: three engines on loopback, other people's clients, and the worst that can happen to a process.

mod clients;
mod faults;
mod report;
mod speed;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use cairn_tests::{Cluster, ClusterOptions, Engine, procfs};
use clap::Args;

use crate::packages::{self, E2FSPROGS, FIO, GCC, LIBNBD, QEMU};
use crate::{product, progress, target_dir};
use report::Report;

/// Each engine's disk. Space is not reclaimed yet, so it holds every byte that the demo writes.
const DISK_BYTES: u64 = 4 << 30;
/// The engine that serves the client while the leader dies: its gateway leaves leadership where it is.
const GATEWAY: usize = 2;

/// What `cargo xtask demo` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cargo xtask demo\n  cargo xtask demo --keep --dir /var/tmp/cairn\n  \
    cargo xtask demo --json demo.json"
)]
pub(crate) struct Options {
    /// Leaves the cluster up at the end and says how to use it.
    #[arg(long)]
    keep: bool,
    /// Writes the figures to this file, as a JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the engines keep their files (about 13 GiB); must not be memory, and must be empty or absent.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the demo from the build to the table.
pub(crate) fn run(options: &Options) -> Result<()> {
    packages::ensure(&[GCC, FIO, LIBNBD, QEMU, E2FSPROGS])?;
    let binaries = product::build_release()?;
    let dir = prepare_dir(options)?;
    println!("load average before: {:.2}", procfs::load_average()?);
    let cluster_options = ClusterOptions {
        disk_bytes: DISK_BYTES,
        dir: Some(dir.clone()),
        keep_leadership: vec![GATEWAY],
        ..ClusterOptions::default()
    };
    let mut cluster = progress::during("three engines formatted (4 GiB each), started and joined", |_| {
        Cluster::start(&binaries, &cluster_options)
    })?;
    cluster.keep_files();
    let mut report = Report::default();
    let result = drive(&mut cluster, &mut report, options.keep);
    if result.is_err() {
        eprintln!("{}", cluster.log_tails(15));
        eprintln!("the engines' files and logs are in {}", dir.display());
    }
    result?;
    report.print();
    if let Some(path) = &options.json {
        report.write_json(path)?;
    }
    if options.keep {
        how_to_use(&cluster);
    } else {
        drop(cluster);
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    if report.mismatches > 0 {
        bail!(
            "{} blocks do not hold what was written: this must never happen",
            report.mismatches
        );
    }
    Ok(())
}

fn drive(cluster: &mut Cluster, report: &mut Report, keep: bool) -> Result<()> {
    let image = clients::run(cluster, report)?;
    speed::run(cluster, report)?;
    let run = faults::Run::start(cluster)?;
    let written = run.kill_and_stop(cluster, report)?;
    if keep {
        // They are about to be killed and started again; from then on they stay.
        cluster.engines.iter_mut().for_each(Engine::detach);
    }
    written.kill_all(cluster, report)?;
    clients::verify_again(cluster, report, &image)
}

/// The directory, empty. Files of an earlier demo in the default place are removed; a place that the user named is not
/// cleared for them.
fn prepare_dir(options: &Options) -> Result<PathBuf> {
    let dir = match &options.dir {
        Some(dir) => {
            if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
                bail!(
                    "{} is not empty; name a directory that is empty or does not exist yet",
                    dir.display()
                );
            }
            dir.clone()
        }
        None => {
            let dir = target_dir().join("cairn-demo");
            if dir.exists() {
                fs::remove_dir_all(&dir).with_context(|| format!("cannot clear {}", dir.display()))?;
            }
            dir
        }
    };
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    dir.canonicalize()
        .with_context(|| format!("cannot find {}", dir.display()))
}

fn how_to_use(cluster: &Cluster) {
    let cairn = cluster.binaries().cli.display();
    let first = &cluster.engines[0];
    println!("\nThe cluster is up. Try:");
    println!("  export CAIRN_ENGINE={}", first.control_address());
    println!("  {cairn} cluster status");
    println!("  {cairn} volume create mine --size 1GiB");
    println!("  nbdinfo {}", first.uri("mine"));
    println!(
        "  qemu-io -f raw {} -c 'write -P 7 0 1M' -c 'read -P 7 0 1M'",
        first.uri("mine")
    );
    println!(
        "\nIts files are in {}. Each engine runs from its own configuration file:",
        cluster.dir().display()
    );
    for engine in &cluster.engines {
        let pid = engine.pid().map_or_else(|_| "?".to_owned(), |pid| pid.to_string());
        println!(
            "  {}: pid {pid}, {} --config {}",
            engine.config.name,
            cluster.binaries().engine.display(),
            engine.config_path().display()
        );
    }
    let pids: Vec<String> = cluster
        .engines
        .iter()
        .filter_map(|engine| engine.pid().ok())
        .map(|p| p.to_string())
        .collect();
    println!(
        "\nTo end it: kill {} && rm -r {}",
        pids.join(" "),
        cluster.dir().display()
    );
}
