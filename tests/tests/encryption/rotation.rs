//! Keys are rewrapped while the volume is written, with engines killed; the key service goes away and comes back.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use cairn_tests::ledger::Ledger;
use cairn_tests::load::{Load, Plan};
use cairn_tests::nbd::Client;
use cairn_tests::{Cluster, ClusterOptions, keys, verify, wait};
use serde_json::Value;

const VOLUME: &str = "v";
const BLOCKS: u64 = 8 << 10;
/// The engine that the load goes through, which is never killed.
const GATEWAY: usize = 2;
const PATIENCE: Duration = Duration::from_secs(60);

fn plan() -> Plan {
    Plan {
        depth: 4,
        blocks_max: 4,
        read_percent: 30,
        pause: Duration::from_millis(1),
    }
}

fn progresses(load: &Load) -> Result<()> {
    load.goes_on(200, PATIENCE)
}

/// The master key's versions that volumes are under, with how many.
fn versions(cluster: &Cluster) -> Result<Vec<(u64, u64)>> {
    let status = cluster.json(&["key", "status"])?;
    let keys = status["keys"].as_array().cloned().unwrap_or_default();
    let number = |key: &Value, field: &str| key[field].as_u64().unwrap_or_default();
    Ok(keys
        .iter()
        .map(|key| (number(key, "version"), number(key, "volumes")))
        .collect())
}

/// Rewraps until it is done: whoever asks while an engine is away asks again.
fn rewrap_all(cluster: &Cluster) -> Result<()> {
    wait::until("all keys are rewrapped", PATIENCE, || {
        cluster
            .cairn()
            .args(["volume", "rewrap", "--all", "--timeout", "5s"])
            .ok()
            .map(drop)
    })
}

#[test]
fn keys_are_rewrapped_under_load_and_while_engines_die() -> Result<()> {
    let options = ClusterOptions {
        disk_bytes: 1 << 30,
        keep_leadership: vec![GATEWAY],
        ..ClusterOptions::default()
    };
    let mut cluster = keys::cluster(&options, |_| Ok(()))?;
    for name in [VOLUME, "w"] {
        keys::create_encrypted(&cluster, name, BLOCKS * 4096)?;
    }
    ensure!(versions(&cluster)? == [(1, 2)], "{:?}", versions(&cluster)?);
    let nbd = cluster.engines[GATEWAY].nbd_tcp();
    let load = Load::start(&nbd, VOLUME, Ledger::new(1, 0, BLOCKS), plan())?;
    progresses(&load)?;
    keys::write(cluster.dir(), 2)?;
    rewrap_all(&cluster)?;
    ensure!(versions(&cluster)? == [(2, 2)], "{:?}", versions(&cluster)?);
    progresses(&load)?;

    // The next version, with each of the other engines killed in the middle of it.
    for (killed, version) in [(0, 3), (1, 4)] {
        keys::write(cluster.dir(), version)?;
        cluster.engines[killed].kill()?;
        rewrap_all(&cluster)?;
        cluster.engines[killed].start()?;
        cluster.engines[killed].wait_ready(PATIENCE)?;
        let expected = [(u64::from(version), 2)];
        ensure!(versions(&cluster)? == expected, "{:?}", versions(&cluster)?);
        progresses(&load)?;
    }

    // Without the key service what is open goes on, and nothing else is opened.
    let file = keys::path(cluster.dir());
    fs::rename(&file, file.with_extension("away"))?;
    progresses(&load)?;
    let refused = Client::connect(&cluster.engines[0].nbd_tcp(), "w").err();
    let refused = refused.map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(
        refused.contains("key service (file") && refused.contains("master-keys"),
        "'{refused}'"
    );
    let ran = cluster.run(&["volume", "create", "x", "--size", "1MiB", "--encrypted"])?;
    ensure!(
        ran.code != Some(0) && ran.stderr.contains("key service (file"),
        "{ran:?}"
    );
    fs::rename(file.with_extension("away"), &file)?;

    let outcome = load.stop()?;
    ensure!(
        outcome.failure.is_none(),
        "the client saw an error: {:?}",
        outcome.failure
    );
    verify::expect_clean(&outcome.mismatches)?;
    let mut ledger = outcome.ledger;
    // Only the last version is left: every key was rewrapped, and every engine reads what was written.
    fs::write(&file, format!("main 4 {}\n", keys::digits(4)))?;
    for engine in [0, 1, GATEWAY] {
        let read = wait::until("the volume is given over", PATIENCE, || {
            verify::region(&cluster.engines[engine].nbd_tcp(), VOLUME, &mut ledger)
        })?;
        verify::expect_clean(&read.mismatches)?;
        ensure!(read.blocks > 0, "nothing was read");
    }
    cluster.cairn().args(["volume", "delete", "w"]).ok()?;
    ensure!(versions(&cluster)? == [(4, 1)], "{:?}", versions(&cluster)?);
    Ok(())
}
