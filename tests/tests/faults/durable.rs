//! An acknowledged write is on the media of a majority: the kernel's own tracepoints are the witness.

use anyhow::{Result, ensure};
use cairn_tests::cluster::with_fresh;
use cairn_tests::nbd::Client;
use cairn_tests::trace::Trace;
use cairn_tests::{Cluster, ClusterOptions, procfs};

/// Writes one after the other: with one in flight, no two can share a durable write.
const WRITES: u64 = 200;

#[test]
fn every_reply_follows_durable_writes_of_a_majority() -> Result<()> {
    with_fresh(&ClusterOptions::default(), |cluster| {
        cluster.create_volume("v", 16 << 20)?;
        let mut client = Client::connect(&cluster.engines[0].nbd_unix(), "v")?;
        client.write(0, &[1; 4096])?;
        let before = written(cluster)?;
        let trace = match Trace::start() {
            Ok(trace) => Some(trace),
            Err(error) => {
                eprintln!("without a trace of the kernel: {error:#}");
                None
            }
        };
        for number in 0..WRITES {
            client.write(number % 4096 * 4096, &[2; 4096])?;
        }
        let seen = trace.map(Trace::finish).transpose()?;
        let after = written(cluster)?;

        let enough = |counts: &[u64], least: u64| counts.iter().filter(|count| **count >= least).count() >= 2;
        let bytes: Vec<u64> = after
            .iter()
            .zip(&before)
            .map(|(after, before)| after - before)
            .collect();
        eprintln!("{WRITES} writes of 4 KiB, one at a time; bytes written by each engine: {bytes:?}");
        ensure!(
            enough(&bytes, WRITES * 4096),
            "a majority must have written each acknowledged byte: {bytes:?}"
        );
        if let Some(seen) = seen {
            let durable: Vec<u64> = cluster
                .engines
                .iter()
                .map(|engine| seen.durable_writes(engine))
                .collect::<Result<_>>()?;
            eprintln!("durable writes of each engine, by the kernel's tracepoints: {durable:?}");
            ensure!(
                enough(&durable, WRITES),
                "a majority must have made each write durable: {durable:?}"
            );
        }
        client.disconnect()
    })
}

fn written(cluster: &Cluster) -> Result<Vec<u64>> {
    cluster
        .engines
        .iter()
        .map(|engine| procfs::written_bytes(engine.pid()?))
        .collect()
}
