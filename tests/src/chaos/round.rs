//! One round: a new cluster, its load, its faults, and the last check.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Options;
use super::director::Director;
use super::figures::Figures;
use super::finale;
use super::load::Load;
use super::plan;
use super::stage::{Stage, Volume};
use crate::binaries::Binaries;
use crate::cluster::{Cluster, ClusterOptions};
use crate::engine::Engine;
use crate::net::Fabric;

/// Engines of a cluster.
pub(super) const ENGINES: usize = 3;
const VOLUMES: usize = 2;
/// Small, so that blocks are written again and again while faults are at work.
const VOLUME_BLOCKS: u64 = 1024;
/// Room for all that a round writes: space is not reclaimed yet.
const DISK_BYTES: u64 = 768 << 20;
/// How often a line of progress is told.
const TELL_PERIOD: Duration = Duration::from_secs(10);
/// Stalls of at least this are told among the faults.
const STALL_TOLD: Duration = Duration::from_millis(1_500);
/// Lines of each engine's log in the report of a failure.
const LOG_LINES: usize = 40;

/// Runs the round of `seed`.
pub(super) fn run(
    binaries: &Binaries,
    fabric: &Arc<Fabric>,
    seed: u64,
    options: &Options,
    figures: &mut Figures,
    tell: &mut (impl FnMut(&str) + Send),
) -> Result<()> {
    let length = options.round;
    let plan = plan::draw(seed, length, ENGINES, VOLUMES);
    let cluster_options = ClusterOptions {
        engines: ENGINES,
        disk_bytes: DISK_BYTES,
        fabric: Some(Arc::clone(fabric)),
        keep_leadership: (0..ENGINES).filter(|_| plan.keeps_leadership).collect(),
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::start(binaries, &cluster_options)?;
    let stage = Arc::new(set_up(fabric, &cluster)?);
    let load = Load::start(&stage, seed)?;
    let mut director = Director::new(&stage, &mut cluster, &plan, seed);
    let mut told = Instant::now();
    let result = director
        .run(length, |director| {
            anyhow::ensure!(
                !load.has_failed(),
                "a client has ended: {:?}",
                director.stage.violation()
            );
            if told.elapsed() >= TELL_PERIOD {
                told = Instant::now();
                tell(&progress(seed, figures, director));
            }
            Ok(())
        })
        .and_then(|()| finale::finish(&mut director, load));
    figures.rounds += 1;
    figures.rotted += director.figures.rotted;
    figures.repaired += director.figures.repaired;
    figures.filled += director.figures.filled;
    figures.replicas += director.figures.replicas;
    for (kind, of_kind) in std::mem::take(&mut director.figures.kinds) {
        let sum = figures.kinds.entry(kind).or_default();
        sum.injected += of_kind.injected;
        sum.skipped += of_kind.skipped;
    }
    figures.take(&stage, &director.windows);
    let story = tale(std::mem::take(&mut director.story), &stage);
    if result.is_err() {
        cluster.keep_files();
    } else if options.story {
        tell(&format!("seed {seed}:\n{story}"));
    }
    result.with_context(|| {
        format!(
            "what happened:\n{story}\nthe engines' files are in {}\n{}",
            cluster.dir().display(),
            cluster.log_tails(LOG_LINES)
        )
    })
}

fn set_up(fabric: &Arc<Fabric>, cluster: &Cluster) -> Result<Stage> {
    let mut volumes = Vec::new();
    for number in 0..VOLUMES {
        let name = format!("v{number}");
        cluster.create_volume(&name, VOLUME_BLOCKS * 4096)?;
        volumes.push(Volume::new(name, VOLUME_BLOCKS, number % ENGINES));
    }
    let gateways = cluster.engines.iter().map(Engine::nbd_tcp).collect();
    Ok(Stage::new(Arc::clone(fabric), gateways, volumes))
}

/// What happened, with the stalls among the faults, in the order of time.
fn tale(mut lines: Vec<(Duration, String)>, stage: &Stage) -> String {
    for volume in &stage.volumes {
        for (from, to) in volume.recorder.gaps(STALL_TOLD) {
            let took = (to - from).as_secs_f64();
            lines.push((
                from,
                format!("    {}: no write acknowledged for {took:.2} s", volume.name),
            ));
        }
    }
    lines.sort_by_key(|(at, _)| *at);
    let lines: Vec<String> = lines
        .into_iter()
        .map(|(at, line)| format!("{:9.3} s  {line}", at.as_secs_f64()))
        .collect();
    lines.join("\n")
}

fn progress(seed: u64, figures: &Figures, director: &Director<'_>) -> String {
    let volumes = &director.stage.volumes;
    let acknowledged: u64 = volumes
        .iter()
        .map(|volume| volume.recorder.tally.writes.load(std::sync::atomic::Ordering::Relaxed))
        .sum();
    format!(
        "seed {seed}, {:.0} s in: {} faults, {acknowledged} writes acknowledged; before it {} rounds, {} faults, {} requests",
        director.stage.elapsed().as_secs_f64(),
        director.figures.faults(),
        figures.rounds,
        figures.faults(),
        figures.requests()
    )
}
