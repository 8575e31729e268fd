//! What the suites have in common: a cluster whose third engine serves the client and leaves leadership where it is.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cairn_tests::ledger::Ledger;
use cairn_tests::load::{Load, Outcome, Plan};
use cairn_tests::{Cluster, ClusterOptions, verify, wait};

/// The volume of every test.
pub(crate) const VOLUME: &str = "v";
/// Its blocks.
pub(crate) const BLOCKS: u64 = 16 << 10;
/// The engine that the client talks to.
pub(crate) const GATEWAY: usize = 2;
/// How long a replica may take to catch up, or a volume to find a leader: generous, for a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Three engines with room for a load of some 10 seconds.
pub(crate) fn options() -> ClusterOptions {
    ClusterOptions {
        disk_bytes: 1 << 30,
        keep_leadership: vec![GATEWAY],
        ..ClusterOptions::default()
    }
}

/// A load that leaves the disk room: deep enough to batch, slow enough not to fill the log.
pub(crate) fn plan() -> Plan {
    Plan {
        depth: 8,
        blocks_max: 4,
        read_percent: 20,
        pause: Duration::from_micros(500),
    }
}

/// Makes the volume, led by another engine than the gateway, and starts a verified load through the gateway.
pub(crate) fn load_through_gateway(cluster: &Cluster) -> Result<Load> {
    load_with(cluster, plan())
}

/// [`load_through_gateway`] with another plan.
pub(crate) fn load_with(cluster: &Cluster, plan: Plan) -> Result<Load> {
    cluster.create_volume(VOLUME, BLOCKS * 4096)?;
    cluster.lead_elsewhere(VOLUME, GATEWAY)?;
    let load = Load::start(
        &cluster.engines[GATEWAY].nbd_tcp(),
        VOLUME,
        Ledger::new(1, 0, BLOCKS),
        plan,
    )?;
    progresses(&load)?;
    Ok(load)
}

/// Waits until some hundred more requests have been answered.
pub(crate) fn progresses(load: &Load) -> Result<()> {
    load.goes_on(300, PATIENCE)
}

/// Waits until all replicas answer and have caught up.
pub(crate) fn healthy(cluster: &Cluster) -> Result<()> {
    wait::until("the volume is healthy", PATIENCE, || {
        let volume = cluster.volume(VOLUME)?;
        ensure!(volume["health"] == "healthy", "its health is {}", volume["health"]);
        let replicas = volume["replicas"].as_array().context("no replicas")?;
        let behind = replicas
            .iter()
            .filter(|replica| replica["lag"].as_u64().is_none_or(|lag| lag > 1000))
            .count();
        ensure!(behind == 0, "{behind} replicas are behind: {volume}");
        Ok(())
    })
}

/// Ends a load that must have seen no error and no wrong block.
pub(crate) fn stop_clean(load: Load) -> Result<Outcome> {
    let outcome = load.stop()?;
    ensure!(
        outcome.failure.is_none(),
        "the client saw an error: {:?}",
        outcome.failure
    );
    verify::expect_clean(&outcome.mismatches)?;
    Ok(outcome)
}

/// Reads everything back through `engine`.
pub(crate) fn read_back(cluster: &Cluster, engine: usize, ledger: &mut Ledger) -> Result<()> {
    let verified = verify::region(&cluster.engines[engine].nbd_tcp(), VOLUME, ledger)
        .with_context(|| format!("through engine {}", cluster.engines[engine].config.name))?;
    verify::expect_clean(&verified.mismatches)?;
    ensure!(verified.blocks > 0, "nothing was written");
    Ok(())
}

/// Lets the load run.
pub(crate) fn run_for(seconds: u64) {
    sleep(Duration::from_secs(seconds));
}
