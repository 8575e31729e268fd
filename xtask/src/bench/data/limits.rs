//! Limits: what passes in ten seconds against what is allowed, a change in the middle, and two volumes without limits.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use cairn_tests::Cluster;
use cairn_tests::fio::Figures;
use serde_json::json;

use super::{Report, Stage, job, round};
use crate::progress;

/// Space is not reclaimed yet, so it holds every byte of the section.
const DISK_BYTES: u64 = 4 << 30;
const VOLUME_BYTES: u64 = 64 << 20;
/// The accuracy is promised over so long.
const SECONDS: u32 = 10;

/// Flags of `cairn volume limit`, the load, and what the figures are to be: requests or MiB a second.
struct Case {
    flags: &'static [&'static str],
    workload: (&'static str, &'static str, u32),
    iops: f64,
    mib_per_s: f64,
}

const CASES: [Case; 5] = [
    Case {
        flags: &["--iops", "100"],
        workload: ("randwrite", "4k", 32),
        iops: 100.0,
        mib_per_s: 0.0,
    },
    Case {
        flags: &["--iops", "1000"],
        workload: ("randwrite", "4k", 32),
        iops: 1000.0,
        mib_per_s: 0.0,
    },
    Case {
        flags: &["--iops", "2000"],
        workload: ("randread", "16k", 32),
        iops: 2000.0,
        mib_per_s: 0.0,
    },
    Case {
        flags: &["--bandwidth", "10MiB"],
        workload: ("randwrite", "64k", 16),
        iops: 0.0,
        mib_per_s: 10.0,
    },
    Case {
        flags: &["--bandwidth", "50MiB"],
        workload: ("randread", "1M", 8),
        iops: 0.0,
        mib_per_s: 50.0,
    },
];

pub(super) fn run(stage: &Stage) -> Result<Vec<Report>> {
    let cluster = stage.cluster("limits", DISK_BYTES)?;
    for name in ["limited", "large", "small"] {
        cluster.create_volume(name, VOLUME_BYTES)?;
    }
    // What is read later has to be there, and the leaders where the volumes are used.
    for name in ["limited", "small"] {
        let fill = job(&cluster, 0, name, ("write", "1M", 8), VOLUME_BYTES, 3);
        progress::during(&format!("limits: filling {name}"), |_| fill.run())?;
    }
    Ok(vec![accuracy(&cluster)?, change(&cluster)?, fairness(stage, &cluster)?])
}

fn limit(cluster: &Cluster, flags: &[&str]) -> Result<()> {
    let lifted = ["--iops", "none", "--bandwidth", "none"];
    for flags in [&lifted[..], flags] {
        cluster.cairn().args(["volume", "limit", "limited"]).args(flags).ok()?;
    }
    Ok(())
}

fn accuracy(cluster: &Cluster) -> Result<Report> {
    let mut report = Report::new(
        "accuracy of limits over 10 s",
        &["limit", "load", "allowed", "measured", "deviation %"],
        "allowed: requests or MiB a second. A burst of 100 ms, which is one in a hundred over ten seconds, is part of measured.",
    );
    for case in CASES {
        let (rw, block_size, depth) = case.workload;
        let words = case.flags.join(" ");
        limit(cluster, case.flags)?;
        let figures = progress::during(&format!("limits: {words}, {rw} {block_size} qd{depth}"), |_| {
            job(cluster, 0, "limited", case.workload, VOLUME_BYTES, SECONDS).run()
        })?;
        let (allowed, measured) = if case.iops > 0.0 {
            (case.iops, figures.iops)
        } else {
            (case.mib_per_s, figures.mib_per_s)
        };
        let deviation = (measured / allowed - 1.0) * 100.0;
        report.add(
            vec![
                words.clone(),
                format!("{rw} {block_size} qd{depth}"),
                format!("{allowed:.0}"),
                format!("{measured:.1}"),
                format!("{deviation:+.1}"),
            ],
            json!({
                "limit": words, "load": format!("{rw}-{block_size}-qd{depth}"), "allowed": allowed,
                "measured": round(measured), "deviation_percent": round(deviation),
            }),
        );
    }
    Ok(report)
}

/// From 500 requests a second to 2000 after five seconds, and back to no limit afterwards.
fn change(cluster: &Cluster) -> Result<Report> {
    let mut report = Report::new(
        "a limit changed while it is waited for",
        &["change", "command ms", "allowed", "measured", "deviation %"],
        "allowed: requests in 10 s, by the moment at which the command returned.",
    );
    limit(cluster, &["--iops", "500"])?;
    let (figures, at, took) = progress::during("limits: 500 IOPS, then 2000", |_| {
        thread::scope(|scope| {
            let start = Instant::now();
            let workload = ("randwrite", "4k", 32);
            let running = scope.spawn(move || job(cluster, 0, "limited", workload, VOLUME_BYTES, SECONDS).run());
            thread::sleep(Duration::from_secs(5));
            let command = Instant::now();
            cluster
                .cairn()
                .args(["volume", "limit", "limited", "--iops", "2000"])
                .ok()?;
            let (at, took) = (start.elapsed(), command.elapsed());
            let figures = running.join().map_err(|_| anyhow!("fio's thread panicked"))??;
            anyhow::Ok((figures, at, took))
        })
    })?;
    let before = at.as_secs_f64();
    let allowed = 500.0 * before + 2000.0 * (f64::from(SECONDS) - before);
    let measured = figures.iops * f64::from(SECONDS);
    let deviation = (measured / allowed - 1.0) * 100.0;
    report.add(
        vec![
            "500 to 2000 IOPS".to_owned(),
            format!("{:.0}", took.as_secs_f64() * 1000.0),
            format!("{allowed:.0}"),
            format!("{measured:.0}"),
            format!("{deviation:+.1}"),
        ],
        json!({
            "command_ms": round(took.as_secs_f64() * 1000.0), "allowed": round(allowed), "measured": round(measured),
            "deviation_percent": round(deviation),
        }),
    );
    limit(cluster, &["--iops", "none"])?;
    Ok(report)
}

/// A volume with one request at a time beside one with as many as its connection takes, on the same disks.
fn fairness(stage: &Stage, cluster: &Cluster) -> Result<Report> {
    let mut report = Report::new(
        "two volumes on one disk, without limits",
        &["small (qd1)", "beside", "IOPS", "p50 us", "p99 us", "large MiB/s"],
        "large: 1 MiB requests, 128 of them under way. All engines and both loads share the machine.",
    );
    let seconds = stage.seconds;
    for (small, large) in [("randwrite", "write"), ("randread", "read")] {
        let measure = || job(cluster, 0, "small", (small, "4k", 1), VOLUME_BYTES, seconds).run();
        let alone = progress::during(&format!("limits: small {small} alone"), |_| measure())?;
        let (beside, other) = progress::during(&format!("limits: small {small} beside large {large}"), |_| {
            thread::scope(|scope| {
                let workload = (large, "1M", 128);
                let other = scope.spawn(move || job(cluster, 0, "large", workload, VOLUME_BYTES, seconds + 2).run());
                thread::sleep(Duration::from_secs(1));
                let beside = measure()?;
                let other = other.join().map_err(|_| anyhow!("fio's thread panicked"))??;
                anyhow::Ok((beside, other))
            })
        })?;
        ensure!(beside.requests > 0, "the small volume got nothing beside the large one");
        for (what, figures, large_mib_per_s) in [("nothing", alone, None), (large, beside, Some(other.mib_per_s))] {
            add(&mut report, small, what, &figures, large_mib_per_s);
        }
    }
    Ok(report)
}

fn add(report: &mut Report, small: &str, beside: &str, figures: &Figures, large_mib_per_s: Option<f64>) {
    report.add(
        vec![
            small.to_owned(),
            beside.to_owned(),
            format!("{:.0}", figures.iops),
            format!("{:.0}", figures.p50_us),
            format!("{:.0}", figures.p99_us),
            large_mib_per_s.map_or_else(String::new, |rate| format!("{rate:.1}")),
        ],
        json!({
            "small": small, "beside": beside, "iops": round(figures.iops), "p50_us": round(figures.p50_us),
            "p99_us": round(figures.p99_us), "large_mib_per_s": large_mib_per_s.map(round),
        }),
    );
}
