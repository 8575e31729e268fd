//! `cargo xtask bench --suite data`: what the functions of a volume cost, and whether they keep what they promise.
//!
//! A suite is made of sections, a file each ([`SECTIONS`]). A section gets a [`Stage`], on which it sets up what clusters of
//! real processes it needs and loads them through NBD on loopback, and gives back a [`Report`]: a table for people and the
//! same figures for programs. Sections know nothing of each other.

mod core;
mod encryption;
mod expand;
mod limits;
mod map;
mod pressure;
mod scrub;
mod snapshots;
mod space;

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cairn_tests::fio::{Job, Target};
use cairn_tests::{Binaries, Cluster, ClusterOptions, procfs};
use serde_json::{Map, Value, json};

use super::Options;
use crate::packages::{self, FIO, GCC};
use crate::{product, progress, table, target_dir};

/// A part of the suite.
struct Section {
    name: &'static str,
    /// One line, for the help.
    about: &'static str,
    run: fn(&Stage) -> Result<Vec<Report>>,
}

/// In the order of running.
const SECTIONS: [Section; 8] = [
    Section {
        name: "limits",
        about: "accuracy of limits over ten seconds, changes while it runs, two volumes on one disk",
        run: limits::run,
    },
    Section {
        name: "expand",
        about: "how long an expansion takes, and what a running load feels of it",
        run: expand::run,
    },
    Section {
        name: "scrub",
        about: "what the reading of disks for damage costs a load, at several paces",
        run: scrub::run,
    },
    Section {
        name: "space",
        about: "write amplification of collection against fill level, on a core with a disk in memory",
        run: space::run,
    },
    Section {
        name: "pressure",
        about: "what a load feels of collection, on a disk that is nearly full",
        run: pressure::run,
    },
    Section {
        name: "map",
        about: "recovery time and memory of maps up to 50 million blocks, and of 10,000 volumes",
        run: map::run,
    },
    Section {
        name: "snapshots",
        about: "snapshots made and deleted on volumes of 1 GiB and 1 TiB",
        run: snapshots::run,
    },
    Section {
        name: "encryption",
        about: "a load on an encrypted volume beside the same on a plain one",
        run: encryption::run,
    },
];

/// The names of all sections with what they are, for `--help`.
pub(super) fn help() -> String {
    let line = |section: &Section| format!("  {:<10} {}\n", section.name, section.about);
    let lines: String = SECTIONS.iter().map(line).collect();
    format!("Sections of the suite `data`:\n{lines}")
}

/// What was measured, once.
struct Report {
    title: &'static str,
    head: &'static [&'static str],
    rows: Vec<Vec<String>>,
    /// What the table cannot say.
    note: &'static str,
    /// The same figures, an object a row.
    json: Vec<Value>,
}

impl Report {
    const fn new(title: &'static str, head: &'static [&'static str], note: &'static str) -> Self {
        Self {
            title,
            head,
            rows: Vec::new(),
            note,
            json: Vec::new(),
        }
    }

    fn add(&mut self, row: Vec<String>, json: Value) {
        self.rows.push(row);
        self.json.push(json);
    }

    fn print(&self) {
        println!("\n{}", self.title);
        table::print(self.head, &self.rows);
        println!("{}", self.note);
    }
}

/// Where a section sets up what it needs. What it is built of is built when the first section asks for it.
struct Stage {
    binaries: OnceCell<Binaries>,
    core_bench: OnceCell<PathBuf>,
    dir: PathBuf,
    /// Pages below `docs/` are written.
    docs: bool,
    /// The time of one measurement.
    seconds: u32,
    /// The size of each engine's disk, if it is not to be what the section needs.
    disk_bytes: Option<u64>,
}

impl Stage {
    /// The engine and the command, with fio beside them.
    fn binaries(&self) -> Result<&Binaries> {
        built(&self.binaries, || {
            packages::ensure(&[GCC, FIO])?;
            product::build_release()
        })
    }

    /// The program that measures a core by itself.
    fn core_bench(&self) -> Result<&Path> {
        let path = built(&self.core_bench, || {
            packages::ensure(&[GCC])?;
            product::build_core_bench()
        });
        path.map(PathBuf::as_path)
    }

    /// Three engines with disks of this size, unless another was asked for, in a directory that is gone with the run.
    fn cluster(&self, name: &str, disk_bytes: u64) -> Result<Cluster> {
        let options = ClusterOptions {
            disk_bytes: self.disk_bytes.unwrap_or(disk_bytes),
            dir: Some(self.dir.join(name)),
            ..ClusterOptions::default()
        };
        let binaries = self.binaries()?;
        progress::during(&format!("{name}: starting three engines"), |_| {
            Cluster::start(binaries, &options)
        })
    }
}

/// What is in the cell, built if it is not there yet.
fn built<T>(cell: &OnceCell<T>, build: impl FnOnce() -> Result<T>) -> Result<&T> {
    match cell.get() {
        Some(there) => Ok(there),
        None => {
            let fresh = build()?;
            Ok(cell.get_or_init(|| fresh))
        }
    }
}

/// A job on a volume, through the unix socket of one engine, over its first `bytes`, for so many seconds.
fn job(cluster: &Cluster, engine: usize, volume: &str, workload: (&str, &str, u32), bytes: u64, seconds: u32) -> Job {
    let (rw, block_size, depth) = workload;
    let target = Target::Nbd(cluster.engines[engine].unix_uri(volume));
    Job::new(target, rw, block_size, depth)
        .with(&format!("size={bytes}"))
        .with("time_based=1")
        .with(&format!("runtime={seconds}"))
        .with("norandommap=1")
}

/// Measures the sections that were named, or all of them.
pub(super) fn run(options: &Options) -> Result<()> {
    let names = &options.section;
    if let Some(name) = names
        .iter()
        .find(|name| !SECTIONS.iter().any(|section| section.name == **name))
    {
        let known: Vec<&str> = SECTIONS.iter().map(|section| section.name).collect();
        bail!("there is no section '{name}': there are {}", known.join(", "));
    }
    let stage = Stage {
        binaries: OnceCell::new(),
        core_bench: OnceCell::new(),
        docs: options.docs,
        dir: options
            .dir
            .clone()
            .unwrap_or_else(|| target_dir().join("cairn-bench-data")),
        seconds: options.seconds,
        disk_bytes: options.disk_mib.map(|mib| mib << 20),
    };
    println!("load average before: {:.2}", procfs::load_average()?);
    let mut object = Map::new();
    object.insert("load_average_before".to_owned(), json!(procfs::load_average()?));
    for section in SECTIONS
        .iter()
        .filter(|section| names.is_empty() || names.iter().any(|name| name == section.name))
    {
        if stage.dir.exists() {
            fs::remove_dir_all(&stage.dir).with_context(|| format!("cannot clear {}", stage.dir.display()))?;
        }
        fs::create_dir_all(&stage.dir)?;
        let reports = (section.run)(&stage).with_context(|| format!("section {}", section.name))?;
        reports.iter().for_each(Report::print);
        println!("load average: {:.2}", procfs::load_average()?);
        let of_section = reports
            .into_iter()
            .map(|report| (report.title.to_owned(), Value::Array(report.json)));
        let mut figures: Map<String, Value> = of_section.collect();
        figures.insert("load_average".to_owned(), json!(procfs::load_average()?));
        object.insert(section.name.to_owned(), Value::Object(figures));
    }
    fs::remove_dir_all(&stage.dir).with_context(|| format!("cannot remove {}", stage.dir.display()))?;
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&Value::Object(object))?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A figure with one decimal, as it stands in the tables and the JSON.
fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
