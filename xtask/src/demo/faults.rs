//! The leader killed, a follower stopped, then all engines killed, under verified writes.
//!
//! Two clients write at the same time, through the gateway engine, which stays alive until the last act: fio with its own
//! verification, and a writer whose every block carries a version and which measures how long each request waits.

use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use cairn_tests::fio::{Figures, Job, Target};
use cairn_tests::ledger::{BLOCK_BYTES_U64, Ledger};
use cairn_tests::load::{Failure, Load, Outcome, Plan};
use cairn_tests::{Cluster, verify, wait};

use super::GATEWAY;
use super::report::{Report, Stall};
use crate::progress;

const VOLUME: &str = "faults";
/// The volume: its first half is fio's, the second the verified writer's.
const VOLUME_BYTES: u64 = 512 << 20;
const HALF_BYTES: u64 = VOLUME_BYTES / 2;
/// What fio writes, and how fast, so that it is still writing when the faults come.
const FIO_BYTES: u64 = 128 << 20;
const FIO_IOPS: u32 = 1500;
/// Load before the first fault, so that a stall stands out.
const WARM_UP: Duration = Duration::from_secs(3);
/// How long a fault is watched.
const WATCH: Duration = Duration::from_secs(6);
/// The verified writer: enough in flight to batch, with a pause that keeps the log within the disk.
const PLAN: Plan = Plan {
    depth: 16,
    blocks_max: 2,
    read_percent: 10,
    pause: Duration::from_micros(200),
};

/// The two clients at work.
pub(super) struct Run {
    load: Load,
    fio: JoinHandle<Result<Figures>>,
}

/// What was written, to be verified after the last act.
pub(super) struct Written {
    ledger: Ledger,
}

impl Run {
    /// Makes the volume, sees to it that the gateway does not lead it, and starts both clients.
    pub(super) fn start(cluster: &Cluster) -> Result<Self> {
        cluster.create_volume(VOLUME, VOLUME_BYTES)?;
        cluster.lead_elsewhere(VOLUME, GATEWAY)?;
        let gateway = &cluster.engines[GATEWAY];
        let uri = gateway.uri(VOLUME);
        let dir = cluster.dir().to_path_buf();
        let fio = thread::spawn(move || fio_job(&uri).with(&format!("rate_iops={FIO_IOPS}")).dir(&dir).run());
        let blocks = HALF_BYTES / BLOCK_BYTES_U64;
        let load = Load::start(&gateway.nbd_unix(), VOLUME, Ledger::new(0xca1f, blocks, blocks), PLAN)?;
        Ok(Self { load, fio })
    }

    /// Kills the leader, brings it back, stops a follower, continues it, and reads everything back.
    pub(super) fn kill_and_stop(self, cluster: &mut Cluster, report: &mut Report) -> Result<Written> {
        progress::during("verified writes before any fault", |_| {
            wait::until("the first writes are answered", Duration::from_secs(20), || {
                ensure!(!self.load.has_ended(), "the writer has ended");
                ensure!(self.load.answered() > 0, "none is");
                Ok(())
            })?;
            sleep(WARM_UP);
            Ok(())
        })?;
        let leader = cluster.leader(VOLUME)?;
        let name = cluster.engines[leader].config.name.clone();
        let killed = progress::during(&format!("SIGKILL to the leader, engine {name}"), |_| {
            let at = Instant::now();
            cluster.engines[leader].kill()?;
            sleep(WATCH);
            Ok((at, Instant::now()))
        })?;
        progress::during(&format!("engine {name} started again, caught up"), |_| {
            cluster.start_engines()?;
            cluster.wait_ready()?;
            healthy(cluster)
        })?;
        let leader = cluster.leader(VOLUME)?;
        let follower = (0..cluster.engines.len())
            .find(|index| *index != leader && *index != GATEWAY)
            .context("no follower besides the gateway")?;
        let name = cluster.engines[follower].config.name.clone();
        let stopped = progress::during(&format!("SIGSTOP to a follower, engine {name}"), |_| {
            let at = Instant::now();
            cluster.engines[follower].pause()?;
            sleep(WATCH);
            let until = Instant::now();
            cluster.engines[follower].resume()?;
            Ok((at, until))
        })?;
        let outcome = self.load.stop()?;
        ensure!(
            outcome.failure.is_none(),
            "the client saw an error: {:?}",
            outcome.failure
        );
        report
            .stalls
            .push(stall("leader_kill", "leader killed (SIGKILL)", &outcome, killed));
        report
            .stalls
            .push(stall("follower_stop", "follower stopped (SIGSTOP)", &outcome, stopped));
        let fio = progress::during("fio verifies its writes (crc32c)", |_| {
            self.fio.join().map_err(|_| anyhow!("fio's thread panicked"))?
        })?;
        report.blocks_verified += fio.bytes / BLOCK_BYTES_U64 + outcome.compared;
        report.mismatches += fio.errors + outcome.mismatches.len() as u64;
        healthy(cluster)?;
        let mut ledger = outcome.ledger;
        read_back(
            cluster,
            0,
            &mut ledger,
            report,
            "every block read back through another engine",
        )?;
        Ok(Written { ledger })
    }
}

impl Written {
    /// Kills all three engines at once under load, starts them again and reads everything back.
    pub(super) fn kill_all(self, cluster: &mut Cluster, report: &mut Report) -> Result<()> {
        let load = Load::start(&cluster.engines[GATEWAY].nbd_unix(), VOLUME, self.ledger, PLAN)?;
        let outcome = progress::during("SIGKILL to all three engines at once, under load", |_| {
            sleep(WARM_UP);
            ensure!(!load.has_ended(), "the load ended before its time");
            for engine in &cluster.engines {
                engine.signal(nix::sys::signal::Signal::SIGKILL)?;
            }
            for engine in &mut cluster.engines {
                engine.wait_exit(Duration::from_secs(10))?;
            }
            load.join()
        })?;
        ensure!(
            matches!(outcome.failure, Some(Failure::Connection(_))),
            "unexpected: {:?}",
            outcome.failure
        );
        report.blocks_verified += outcome.compared;
        report.mismatches += outcome.mismatches.len() as u64;
        let start = Instant::now();
        progress::during("all three started again, recovered from their logs", |_| {
            cluster.start_engines()?;
            cluster.wait_ready()?;
            healthy(cluster)
        })?;
        report.recovery = start.elapsed();
        let mut ledger = outcome.ledger;
        read_back(
            cluster,
            GATEWAY,
            &mut ledger,
            report,
            "every acknowledged block read back",
        )?;
        let uri = cluster.engines[0].uri(VOLUME);
        let dir = cluster.dir().to_path_buf();
        let fio = progress::during("fio verifies its writes again (crc32c)", |_| {
            fio_job(&uri).with("verify_only=1").dir(&dir).run()
        })?;
        report.blocks_verified += FIO_BYTES / BLOCK_BYTES_U64;
        report.mismatches += fio.errors;
        Ok(())
    }
}

/// fio's part: every block of its region once, in random order, each with a checksum that it verifies afterwards.
fn fio_job(uri: &str) -> Job {
    Job::new(Target::Nbd(uri.to_owned()), "randwrite", "4k", 8)
        .with(&format!("size={FIO_BYTES}"))
        .with("verify=crc32c")
        .with("verify_fatal=1")
        .with("verify_state_save=0")
}

fn healthy(cluster: &Cluster) -> Result<()> {
    wait::until("the volume is healthy", Duration::from_secs(60), || {
        let volume = cluster.volume(VOLUME)?;
        ensure!(volume["health"] == "healthy", "its health is {}", volume["health"]);
        Ok(())
    })
}

fn stall(key: &'static str, event: &str, outcome: &Outcome, window: (Instant, Instant)) -> Stall {
    Stall {
        key,
        event: event.to_owned(),
        wait: outcome.samples.longest_wait(window.0, window.1),
        silence: outcome.samples.longest_silence(window.0, window.1),
    }
}

fn read_back(cluster: &Cluster, engine: usize, ledger: &mut Ledger, report: &mut Report, title: &str) -> Result<()> {
    let verified = progress::during(title, |_| {
        verify::region(&cluster.engines[engine].nbd_tcp(), VOLUME, ledger)
    })?;
    for mismatch in verified.mismatches.iter().take(5) {
        println!("      {mismatch}");
    }
    report.blocks_verified += verified.blocks;
    report.mismatches += verified.mismatches.len() as u64;
    Ok(())
}
