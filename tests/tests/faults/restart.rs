//! SIGTERM: an orderly end hands leadership over first, and a rolling restart goes unnoticed.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cairn_tests::cluster::with_fresh;

use crate::scene::{self, GATEWAY, VOLUME};

/// The longest that an engine may take to end.
const END_MAX: Duration = Duration::from_secs(10);

#[test]
fn engines_restart_in_turn_and_the_client_sees_no_error() -> Result<()> {
    with_fresh(&scene::options(), |cluster| {
        let load = scene::load_through_gateway(cluster)?;
        let first = cluster.leader(VOLUME)?;
        for index in [first, 1 - first] {
            let at = Instant::now();
            let (status, took) = cluster.engines[index].terminate(END_MAX)?;
            ensure!(status.success(), "SIGTERM ended the engine with {status}");
            ensure!(took <= END_MAX, "the engine took {took:?} to end");
            eprintln!("engine {}: ended in {took:?}", cluster.engines[index].config.name);
            scene::progresses(&load)?;
            cluster.engines[index].start()?;
            cluster.engines[index].wait_ready(scene::PATIENCE)?;
            scene::healthy(cluster)?;
            eprintln!("and was back and caught up after {:?}", at.elapsed());
        }
        let outcome = scene::stop_clean(load)?;
        let mut ledger = outcome.ledger;
        (0..3).try_for_each(|engine| scene::read_back(cluster, engine, &mut ledger))
    })
}

#[test]
fn the_clients_own_engine_ends_in_order() -> Result<()> {
    with_fresh(&scene::options(), |cluster| {
        let load = scene::load_through_gateway(cluster)?;
        let (status, took) = cluster.engines[GATEWAY].terminate(END_MAX)?;
        ensure!(status.success(), "SIGTERM ended the engine with {status}");
        eprintln!("with a client at work: ended in {took:?}");
        // The connection ends with the engine; what was acknowledged is there, through any other.
        let outcome = load.join()?;
        ensure!(
            outcome.failure.is_some(),
            "the engine ended and the client did not notice"
        );
        cairn_tests::verify::expect_clean(&outcome.mismatches)?;
        let mut ledger = outcome.ledger;
        scene::read_back(cluster, 0, &mut ledger)?;
        cluster.start_engines()?;
        cluster.wait_ready()?;
        scene::healthy(cluster)?;
        scene::read_back(cluster, GATEWAY, &mut ledger)
    })
}
