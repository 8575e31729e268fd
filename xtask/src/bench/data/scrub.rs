//! Scrubbing: what it costs a load, at several paces.

use anyhow::Result;
use cairn_tests::Cluster;
use serde_json::json;

use super::{Report, Stage, job, round};
use crate::progress;

const DISK_BYTES: u64 = 4 << 30;
const VOLUME_BYTES: u64 = 512 << 20;
/// Paces as the command takes them; the last one is more than any disk here gives.
const PACES: [Option<&str>; 4] = [None, Some("8MiB"), Some("64MiB"), Some("8GiB")];

pub(super) fn run(stage: &Stage) -> Result<Vec<Report>> {
    let cluster = stage.cluster("scrub", DISK_BYTES)?;
    cluster.create_volume("scrubbed", VOLUME_BYTES)?;
    let fill = job(&cluster, 0, "scrubbed", ("write", "1M", 8), VOLUME_BYTES, 5);
    progress::during("scrub: filling the volume", |_| fill.run())?;
    let disks = (0..cluster.engines.len()).map(|engine| cluster.disk_id(engine));
    let disks: Vec<String> = disks.collect::<Result<_>>()?;
    let mut report = Report::new(
        "a load beside the scrubbing of all three disks",
        &["load", "pace", "IOPS", "p50 us", "p99 us"],
        "A pass that ends during the measurement is begun again before the next one only.",
    );
    for (rw, depth) in [("randwrite", 8), ("randread", 8)] {
        for pace in PACES {
            begin(&cluster, &disks, pace)?;
            let shown = pace.map_or_else(|| "none".to_owned(), |pace| format!("{pace}/s"));
            let figures = progress::during(&format!("scrub: {rw} 4k qd{depth}, pace {shown}"), |_| {
                job(&cluster, 0, "scrubbed", (rw, "4k", depth), VOLUME_BYTES, stage.seconds).run()
            })?;
            report.add(
                vec![
                    format!("{rw} 4k qd{depth}"),
                    shown.clone(),
                    format!("{:.0}", figures.iops),
                    format!("{:.0}", figures.p50_us),
                    format!("{:.0}", figures.p99_us),
                ],
                json!({
                    "load": format!("{rw}-4k-qd{depth}"), "pace": shown, "iops": round(figures.iops),
                    "p50_us": round(figures.p50_us), "p99_us": round(figures.p99_us),
                }),
            );
        }
    }
    Ok(vec![report])
}

/// Ends what goes on, and begins a pass on each disk if there is to be one.
fn begin(cluster: &Cluster, disks: &[String], pace: Option<&str>) -> Result<()> {
    for disk in disks {
        cluster.cairn().args(["disk", "scrub", disk, "--stop"]).ok()?;
        if let Some(pace) = pace {
            cluster.cairn().args(["disk", "scrub", disk, "--rate", pace]).ok()?;
        }
    }
    Ok(())
}
