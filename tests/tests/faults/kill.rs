//! SIGKILL: to the leader, to a majority, to all.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cairn_tests::cluster::with_fresh;
use cairn_tests::load::{Failure, Load};
use nix::sys::signal::Signal;

use crate::scene::{self, GATEWAY, VOLUME};

/// The longest that a request may wait when the leader dies.
const LEADER_DEATH_MAX: Duration = Duration::from_secs(3);

#[test]
fn the_leader_dies_and_the_client_only_waits() -> Result<()> {
    with_fresh(&scene::options(), |cluster| {
        let load = scene::load_through_gateway(cluster)?;
        scene::run_for(1);
        let leader = cluster.leader(VOLUME)?;
        let at = Instant::now();
        cluster.engines[leader].kill()?;
        scene::progresses(&load)?;
        scene::run_for(3);
        let until = Instant::now();
        cluster.engines[leader].start()?;
        scene::healthy(cluster)?;
        let outcome = scene::stop_clean(load)?;
        let stall = outcome.samples.longest_wait(at, until);
        eprintln!(
            "leader killed: the longest request waited {stall:?} of {} requests",
            outcome.samples.len()
        );
        let mut ledger = outcome.ledger;
        for engine in [leader, GATEWAY] {
            scene::read_back(cluster, engine, &mut ledger)?;
        }
        ensure!(
            stall <= LEADER_DEATH_MAX,
            "a request waited {stall:?}, at most {LEADER_DEATH_MAX:?} are allowed"
        );
        Ok(())
    })
}

#[test]
fn all_die_at_once_and_every_acknowledged_block_is_there() -> Result<()> {
    with_fresh(&scene::options(), |cluster| {
        let mut load = scene::load_through_gateway(cluster)?;
        for round in 0..3 {
            scene::run_for(1);
            for engine in &cluster.engines {
                engine.signal(Signal::SIGKILL)?;
            }
            for engine in &mut cluster.engines {
                engine.wait_exit(Duration::from_secs(10))?;
            }
            let outcome = load.join()?;
            ensure!(
                matches!(outcome.failure, Some(Failure::Connection(_))),
                "{:?}",
                outcome.failure
            );
            cairn_tests::verify::expect_clean(&outcome.mismatches)?;
            cluster.start_engines()?;
            cluster.wait_ready()?;
            scene::healthy(cluster)?;
            let mut ledger = outcome.ledger;
            // Through each engine in turn: all replicas must tell the same.
            scene::read_back(cluster, round, &mut ledger)?;
            load = Load::start(&cluster.engines[GATEWAY].nbd_unix(), VOLUME, ledger, scene::plan())?;
            scene::progresses(&load)?;
        }
        scene::stop_clean(load).map(|_| ())
    })
}

#[test]
fn without_a_majority_nothing_is_acknowledged_and_then_it_goes_on() -> Result<()> {
    with_fresh(&scene::options(), |cluster| {
        let load = scene::load_through_gateway(cluster)?;
        for index in [0, 1] {
            cluster.engines[index].kill()?;
        }
        // Reads that were being answered and writes whose second copy was on its way come to an end.
        scene::run_for(2);
        let before = load.answered();
        scene::run_for(3);
        ensure!(
            load.answered() == before,
            "{} requests answered by a minority",
            load.answered() - before
        );
        ensure!(!load.has_ended(), "the client saw an error instead of a pause");
        cluster.start_engines()?;
        scene::progresses(&load)?;
        let mut ledger = scene::stop_clean(load)?.ledger;
        scene::healthy(cluster)?;
        scene::read_back(cluster, 0, &mut ledger)?;
        scene::read_back(cluster, 1, &mut ledger)
    })
}
