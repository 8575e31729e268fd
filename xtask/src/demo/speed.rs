//! How fast it is, and what a byte accepted costs on disk. `cargo xtask bench` compares with the raw disk.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use cairn_tests::fio::{Figures, Job, Target};
use cairn_tests::{Cluster, procfs};

use super::report::Report;
use crate::progress;

/// The volume.
const VOLUME_BYTES: u64 = 512 << 20;
/// Time for the followers to finish what they have been sent, before the bytes on their disks are counted.
const SETTLE: Duration = Duration::from_secs(1);

/// Measures the four workloads.
pub(super) fn run(cluster: &Cluster, report: &mut Report) -> Result<()> {
    cluster.create_volume("speed", VOLUME_BYTES)?;
    // Over the unix socket of the engine that leads: the place of a consumer on the same node.
    let uri = cluster.engines[cluster.leader("speed")?].unix_uri("speed");
    let job = |rw: &str, block_size: &str, depth: u32| {
        Job::new(Target::Nbd(uri.clone()), rw, block_size, depth)
            .with(&format!("size={VOLUME_BYTES}"))
            .with("norandommap=1")
            .with("runtime=6")
    };
    let mut measure = |name: &'static str, job: Job| -> Result<Figures> {
        let figures = progress::during(&format!("fio {name}"), |_| job.run())?;
        report.speed.push((name, figures));
        Ok(figures)
    };
    // First the whole volume, so that no read finds a hole. The writes are limited by bytes too: space is not reclaimed yet.
    measure("write-1m-qd8", job("write", "1M", 8))?;
    measure("randwrite-4k-qd1", job("randwrite", "4k", 1).with("io_size=128M"))?;
    sleep(SETTLE);
    let before = written(cluster)?;
    let accepted = measure("randwrite-4k-qd32", job("randwrite", "4k", 32).with("io_size=512M"))?.bytes;
    sleep(SETTLE);
    let after = written(cluster)?;
    measure("randread-4k-qd32", job("randread", "4k", 32).with("io_size=64G"))?;
    for (index, engine) in cluster.engines.iter().enumerate() {
        let ratio = float(after[index] - before[index]) / float(accepted.max(1));
        report.write_amplification.push((engine.config.name.clone(), ratio));
    }
    Ok(())
}

/// Bytes that each engine has caused to be written so far, as the kernel counts them: data, headers, catalogue and all.
fn written(cluster: &Cluster) -> Result<Vec<u64>> {
    cluster
        .engines
        .iter()
        .map(|engine| procfs::written_bytes(engine.pid()?))
        .collect()
}

/// Counts of this size are exact as floating point.
#[expect(clippy::cast_precision_loss, reason = "the bytes of a demo stay far below 2^53")]
fn float(value: u64) -> f64 {
    value as f64
}
