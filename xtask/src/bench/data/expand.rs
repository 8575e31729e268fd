//! Expansion: how long the command takes, when a connected client can write at the new end, and what a load feels.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use cairn_tests::nbd::Client;
use serde_json::json;

use super::{Report, Stage, job, round};
use crate::progress;

const DISK_BYTES: u64 = 1 << 30;
const STEP_BYTES: u64 = 1 << 30;
/// What the load writes to; all of it is there from the beginning.
const LOAD_BYTES: u64 = 64 << 20;
const STEPS: u64 = 5;

pub(super) fn run(stage: &Stage) -> Result<Vec<Report>> {
    let cluster = stage.cluster("expand", DISK_BYTES)?;
    cluster.create_volume("grows", STEP_BYTES)?;
    let seconds = stage.seconds.max(4);
    let workload = ("randwrite", "4k", 4);
    let measure = || job(&cluster, 0, "grows", workload, LOAD_BYTES, seconds).run();
    let alone = progress::during("expand: the load alone", |_| measure())?;
    let mut report = Report::new(
        "expansion of a volume in use",
        &["step", "command ms", "first request at the new end us"],
        "command: `cairn volume resize` from its start to its end, process included. A read of the new end follows at \
         once, on a connection that was there before.",
    );
    let beside = progress::during("expand: five steps beside the load", |_| {
        thread::scope(|scope| {
            let load = scope.spawn(measure);
            let mut client = Client::connect(&cluster.engines[1].nbd_tcp(), "grows")?;
            client.read(0, 4096)?;
            thread::sleep(Duration::from_millis(500));
            for step in 2..2 + STEPS {
                let size = step * STEP_BYTES;
                let start = Instant::now();
                cluster
                    .cairn()
                    .args(["volume", "resize", "grows", "--size", &size.to_string()])
                    .ok()?;
                let command = start.elapsed();
                let start = Instant::now();
                client.read(size - 4096, 4096)?;
                let first = start.elapsed();
                report.add(
                    vec![
                        format!("{} to {} GiB", step - 1, step),
                        format!("{:.0}", command.as_secs_f64() * 1000.0),
                        format!("{:.0}", first.as_secs_f64() * 1e6),
                    ],
                    json!({
                        "size_bytes": size, "command_ms": round(command.as_secs_f64() * 1000.0),
                        "first_request_us": round(first.as_secs_f64() * 1e6),
                    }),
                );
            }
            client.disconnect()?;
            load.join().map_err(|_| anyhow!("fio's thread panicked"))?
        })
    })?;
    let mut load = Report::new(
        "4 KiB random writes at depth 4, alone and while the volume grows",
        &["while", "IOPS", "p50 us", "p99 us"],
        "",
    );
    for (what, figures) in [("nothing", alone), ("five expansions", beside)] {
        load.add(
            vec![
                what.to_owned(),
                format!("{:.0}", figures.iops),
                format!("{:.0}", figures.p50_us),
                format!("{:.0}", figures.p99_us),
            ],
            json!({
                "while": what, "iops": round(figures.iops), "p50_us": round(figures.p50_us),
                "p99_us": round(figures.p99_us),
            }),
        );
    }
    Ok(vec![report, load])
}
