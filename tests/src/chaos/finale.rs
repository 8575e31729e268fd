//! The end of a round: everything is healed, must serve, and must be whole.
//!
//! Every volume is made to be led by each engine in turn and read through it from end to end. A leader reads its own disk
//! and checks every block's checksum, so this compares each replica with the history, and all of them with each other.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use cairn_history::content::{self, SECTOR};

use super::director::{Director, Process};
use super::load::Load;
use super::stage::{Stage, Volume};
use crate::cluster::Cluster;
use crate::metrics::Page;
use crate::nbd::Client;
use crate::wait;

/// How long an engine may take to be ready again once nothing is wrong.
const READY_MAX: Duration = Duration::from_secs(60);
/// How long a volume may take to acknowledge a write once nothing is wrong.
const SERVE_MAX: Duration = Duration::from_secs(30);
/// How long a replica may take to catch up.
const CATCH_UP_MAX: Duration = Duration::from_secs(90);
/// How long leadership may take to follow a writer.
const LEAD_MAX: Duration = Duration::from_secs(40);
/// Blocks to a read.
const READ_BLOCKS: u64 = 64;
const BLOCK_BYTES: u64 = 4096;
const BLOCK_SECTORS: u64 = 8;
/// The clients of the last check, apart from all numbers of the load.
const READER: u64 = 9_000_000;
/// The metric that counts repaired blocks.
const REPAIRED: &str = "cairn_blocks_repaired_total";
/// The volume being filled may go on so long; a disk that is not full by then is nearly.
const FILL_MAX: Duration = Duration::from_secs(20);

/// Heals, ends the load and checks everything.
pub(super) fn finish(director: &mut Director<'_>, load: Load) -> Result<()> {
    director.heal()?;
    let full = director.filler.take().and_then(|filler| {
        let (engine, is_full) = filler.finish(FILL_MAX);
        director.figures.filled += u64::from(is_full);
        engine
    });
    let running: Vec<usize> = (0..director.processes.len())
        .filter(|engine| director.processes[*engine] != Process::Out)
        .collect();
    let whole: Vec<usize> = running.iter().copied().filter(|engine| Some(*engine) != full).collect();
    for engine in &running {
        director.cluster.engines[*engine].wait_ready(READY_MAX)?;
    }
    if let Some(full) = full {
        director.leave(full);
        let name = director.cluster.engines[full].config.name.clone();
        director.tell(&format!("the disk of {name} was filled"));
    }
    serves_again(director.stage)?;
    load.finish()?;
    if let Some(violation) = director.stage.violation() {
        bail!("{violation}");
    }
    for index in 0..director.processes.len() {
        let is_out = director.processes[index] == Process::Out;
        let engine = &mut director.cluster.engines[index];
        ensure!(
            !is_out || !engine.is_running()?,
            "engine {} came back on a damaged disk",
            engine.config.name
        );
    }
    if director.plan.keeps_leadership {
        let_leadership_follow(director, &running)?;
    }
    let compared = compare(director.stage, director.cluster, &running, &whole)?;
    director.figures.replicas += compared;
    for engine in &running {
        let config = &director.cluster.engines[*engine].config;
        let page = Page::fetch(config.at(config.metrics))?;
        let repaired = page.sum(REPAIRED).with_context(|| format!("no metric {REPAIRED}"))?;
        director.figures.repaired += whole_number(repaired);
    }
    Ok(())
}

/// Starts the engines anew with leadership that follows writers, which the comparison needs.
fn let_leadership_follow(director: &mut Director<'_>, engines: &[usize]) -> Result<()> {
    for engine in engines {
        let engine = &mut director.cluster.engines[*engine];
        engine.kill()?;
        engine.config.move_leadership = true;
    }
    for engine in engines {
        director.cluster.engines[*engine].start()?;
    }
    for engine in engines {
        director.cluster.engines[*engine].wait_ready(READY_MAX)?;
    }
    Ok(())
}

/// A counter's value.
fn whole_number(value: f64) -> u64 {
    format!("{value:.0}").parse().unwrap_or(0)
}

/// Every volume acknowledges writes.
fn serves_again(stage: &Stage) -> Result<()> {
    let healed = stage.now();
    for volume in &stage.volumes {
        wait::until(&format!("volume {} serves again", volume.name), SERVE_MAX, || {
            ensure!(stage.violation().is_none(), "{}", stage.violation().unwrap_or_default());
            let last = volume.recorder.last_acknowledged();
            ensure!(
                last > healed,
                "its last acknowledged write came {:.1} s before everything was healed",
                Duration::from_nanos(healed - last.min(healed)).as_secs_f64()
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// Checks every volume on a thread of its own. Says how many replicas were read as leaders.
fn compare(stage: &Arc<Stage>, cluster: &Cluster, running: &[usize], whole: &[usize]) -> Result<u64> {
    thread::scope(|scope| {
        let checks: Vec<_> = stage
            .volumes
            .iter()
            .map(|volume| {
                scope.spawn(move || {
                    stage.fabric.enter()?;
                    compare_one(stage, volume, cluster, running, whole)
                        .with_context(|| format!("volume {}", volume.name))
                })
            })
            .collect();
        let results = checks.into_iter().map(|check| {
            check
                .join()
                .map_err(|_| anyhow!("a check's thread panicked"))
                .and_then(|result| result)
        });
        results.sum()
    })
}

fn compare_one(stage: &Stage, volume: &Volume, cluster: &Cluster, running: &[usize], whole: &[usize]) -> Result<u64> {
    caught_up(volume, cluster, whole)?;
    let mut first: Option<(usize, Vec<u8>)> = None;
    for engine in running {
        let name = &cluster.engines[*engine].config.name;
        let mut client = Client::connect(&stage.gateways[*engine], &volume.name)?;
        if whole.contains(engine) {
            lead(stage, volume, cluster, *engine, &mut client)?;
        }
        let bytes = read_all(stage, volume, *engine, &mut client).with_context(|| format!("through engine {name}"))?;
        client.disconnect()?;
        match &first {
            None => first = Some((*engine, bytes)),
            Some((other, expected)) => {
                // All but the first block, which each check writes.
                let skip = usize::try_from(BLOCK_BYTES)?;
                ensure!(
                    bytes[skip..] == expected[skip..],
                    "engines {name} and {} do not hold the same",
                    cluster.engines[*other].config.name
                );
            }
        }
    }
    Ok(whole.len() as u64)
}

/// The replicas on these engines answer, and have applied all that there is.
fn caught_up(volume: &Volume, cluster: &Cluster, engines: &[usize]) -> Result<()> {
    wait::until("its replicas have caught up", CATCH_UP_MAX, || {
        let shown = cluster.volume(&volume.name)?;
        let replicas = shown["replicas"].as_array().context("no replicas")?;
        for engine in engines {
            let name = &cluster.engines[*engine].config.name;
            let replica = replicas.iter().find(|replica| replica["node"] == **name);
            let lag = replica.and_then(|replica| replica["lag"].as_u64());
            ensure!(lag == Some(0), "the replica on {name} lags by {lag:?}");
        }
        Ok(())
    })
}

/// Writes through the engine until it leads the volume.
fn lead(stage: &Stage, volume: &Volume, cluster: &Cluster, engine: usize, client: &mut Client) -> Result<()> {
    let start = Instant::now();
    let name = &cluster.engines[engine].config.name;
    loop {
        write_first_block(stage, volume, engine, client).with_context(|| format!("through engine {name}"))?;
        let leader = cluster.volume(&volume.name)?["leader"].clone();
        if leader == **name {
            return Ok(());
        }
        ensure!(
            start.elapsed() < LEAD_MAX,
            "engine {name} is written through, but {leader} leads after {LEAD_MAX:?}"
        );
        thread::sleep(Duration::from_millis(200));
    }
}

fn write_first_block(stage: &Stage, volume: &Volume, engine: usize, client: &mut Client) -> Result<()> {
    let number = READER + engine as u64;
    let violated = |_| anyhow!("{}", volume.recorder.violation().unwrap_or_default());
    let (op, stamp) = volume
        .recorder
        .with(|history| {
            let stamp = history.stamps(BLOCK_SECTORS);
            (history.begin_write(stage.now(), number, 0..BLOCK_SECTORS, stamp), stamp)
        })
        .map_err(violated)?;
    let data: Vec<u8> = (stamp..)
        .zip(0..BLOCK_SECTORS)
        .flat_map(|(stamp, place)| content::sector(stamp, place))
        .collect();
    client.write(0, &data)?;
    volume
        .recorder
        .with(|history| history.acknowledge(stage.now(), op))
        .map_err(violated)
}

/// Reads the whole volume and checks it.
fn read_all(stage: &Stage, volume: &Volume, engine: usize, client: &mut Client) -> Result<Vec<u8>> {
    let number = READER + engine as u64;
    let violated = |_| anyhow!("{}", volume.recorder.violation().unwrap_or_default());
    let mut all = Vec::new();
    let mut first = 0;
    while first < volume.blocks {
        let end = (first + READ_BLOCKS).min(volume.blocks);
        let sectors = first * BLOCK_SECTORS..end * BLOCK_SECTORS;
        let began = volume
            .recorder
            .with(|history| history.begin_read(stage.now(), sectors.clone()));
        let op = began.map_err(violated)?;
        let data = client.read(first * BLOCK_BYTES, u32::try_from((end - first) * BLOCK_BYTES)?)?;
        let checked = volume.recorder.with(|history| {
            let places = sectors.clone().zip(data.chunks(SECTOR));
            let values: Vec<u64> = places.map(|(place, sector)| content::check(sector, place)).collect();
            history.end_read(stage.now(), op, number, &values);
        });
        checked.map_err(violated)?;
        all.extend(data);
        first = end;
    }
    Ok(all)
}
