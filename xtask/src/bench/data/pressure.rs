//! Collection beside a load: a volume that fills most of a small disk is overwritten, and the same volume on a disk so large
//! that nothing has to be collected.

use anyhow::{Context, Result};
use cairn_tests::fio::Figures;
use cairn_tests::{Cluster, ClusterOptions, procfs};
use serde_json::json;

use super::{Report, Stage, job, round};
use crate::progress;

/// The volume takes some 70 % of the capacity of the small disk.
const VOLUME_BYTES: u64 = 1280 << 20;
const SMALL_BYTES: u64 = 2 << 30;
const LARGE_BYTES: u64 = 8 << 30;
const ROUNDS: u32 = 3;
const LOADS: [(&str, u32); 3] = [("randwrite", 1), ("randwrite", 8), ("randread", 8)];

/// One engine, and what it is called here.
struct Subject {
    name: &'static str,
    cluster: Cluster,
}

/// A measurement, and what the engine wrote to its disk for each byte that it was given.
struct Measured {
    figures: Figures,
    written: f64,
}

pub(super) fn run(stage: &Stage) -> Result<Vec<Report>> {
    let subjects = [
        subject(stage, "without", LARGE_BYTES)?,
        subject(stage, "with", SMALL_BYTES)?,
    ];
    let mut report = Report::new(
        "a load with collection and without",
        &[
            "load",
            "collection",
            "IOPS",
            "p50 us",
            "p99 us",
            "p99 ratio",
            "disk bytes / client byte",
        ],
        "A volume of 1.25 GiB and one replica, overwritten at random, on a disk of 2 GiB and on one of 8 GiB that is never full; \
         in turn, the round with the median p99 of three. Reads are measured while a writer at depth 8 keeps collection going.",
    );
    for (rw, depth) in LOADS {
        let mut rounds = [Vec::new(), Vec::new()];
        for round in 1..=ROUNDS {
            for (subject, measured) in subjects.iter().zip(&mut rounds) {
                let title = format!("pressure: {rw} 4k qd{depth} {} collection, round {round}", subject.name);
                measured.push(progress::during(&title, |_| subject.measure(rw, depth, stage.seconds))?);
            }
        }
        let mut without = None;
        for (subject, measured) in subjects.iter().zip(rounds) {
            let Measured { figures, written } = median(measured).context("three rounds")?;
            let base = *without.get_or_insert(figures.p99_us);
            let ratio = figures.p99_us / base;
            report.add(
                vec![
                    format!("{rw} 4k qd{depth}"),
                    subject.name.to_owned(),
                    format!("{:.0}", figures.iops),
                    format!("{:.0}", figures.p50_us),
                    format!("{:.0}", figures.p99_us),
                    format!("{ratio:.2}"),
                    if written > 0.0 {
                        format!("{written:.2}")
                    } else {
                        String::new()
                    },
                ],
                json!({
                    "load": format!("{rw}-4k-qd{depth}"), "collection": subject.name, "iops": round(figures.iops),
                    "p50_us": round(figures.p50_us), "p99_us": round(figures.p99_us), "p99_ratio": ratio,
                    "written_per_byte": written,
                }),
            );
        }
    }
    Ok(vec![report])
}

/// An engine whose volume is written once in order and then overwritten here and there.
fn subject(stage: &Stage, name: &'static str, disk_bytes: u64) -> Result<Subject> {
    let options = ClusterOptions {
        engines: 1,
        disk_bytes,
        dir: Some(stage.dir.join(name)),
        ..ClusterOptions::default()
    };
    let binaries = stage.binaries()?;
    let cluster = progress::during(
        &format!("pressure: an engine with a disk of {} GiB", disk_bytes >> 30),
        |_| {
            let cluster = Cluster::start(binaries, &options)?;
            cluster.create_volume("pressed", VOLUME_BYTES)?;
            Ok(cluster)
        },
    )?;
    let subject = Subject { name, cluster };
    progress::during(&format!("pressure: filling the volume {name} collection"), |_| {
        let fill = job(&subject.cluster, 0, "pressed", ("write", "1M", 8), VOLUME_BYTES, 0);
        fill.with("time_based=0").with("runtime=0").run()?;
        subject.measure("randwrite", 32, 8)
    })?;
    Ok(subject)
}

impl Subject {
    fn measure(&self, rw: &str, depth: u32, seconds: u32) -> Result<Measured> {
        let engine = &self.cluster.engines[0];
        let load = |rw, depth| job(&self.cluster, 0, "pressed", (rw, "4k", depth), VOLUME_BYTES, seconds);
        if rw == "randread" {
            let figures = std::thread::scope(|scope| {
                let writer = scope.spawn(|| load("randwrite", 8).run());
                let figures = load(rw, depth).run();
                writer.join().map_err(|_| anyhow::anyhow!("fio's thread panicked"))??;
                figures
            })?;
            return Ok(Measured { figures, written: 0.0 });
        }
        let before = procfs::written_bytes(engine.pid()?)?;
        let figures = load(rw, depth).run()?;
        let written = procfs::written_bytes(engine.pid()?)? - before;
        Ok(Measured {
            figures,
            written: written as f64 / figures.bytes.max(1) as f64,
        })
    }
}

/// The round with the median 99th percentile.
fn median(mut rounds: Vec<Measured>) -> Option<Measured> {
    rounds.sort_by(|a, b| a.figures.p99_us.total_cmp(&b.figures.p99_us));
    let middle = rounds.len() / 2;
    rounds.into_iter().nth(middle)
}
