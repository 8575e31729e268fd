//! Snapshots of several volumes at one instant, under a client that writes to one after the other, and with engines killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cairn_tests::nbd::{Address, Client};
use cairn_tests::{Cluster, ClusterOptions, keys, wait};
use serde_json::Value;

use crate::with_keys;

const BYTES: u64 = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes rising numbers to one volume after the other, each when the write before it is acknowledged.
struct Writer {
    stop: Arc<AtomicBool>,
    /// Rounds that are done.
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<Duration>,
}

impl Writer {
    fn start(volumes: Vec<(Address, String)>) -> Self {
        let (stop, rounds) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (is_over, done) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = thread::spawn(move || {
            let mut clients: Vec<Option<Client>> = volumes.iter().map(|_| None).collect();
            let mut longest = Duration::ZERO;
            for number in 1_u64.. {
                for ((address, volume), client) in volumes.iter().zip(&mut clients) {
                    let began = Instant::now();
                    while !is_over.load(Ordering::Relaxed) && !write(client, address, volume, number) {
                        // Its engine is dead: the write may or may not be done, and is done again.
                        *client = None;
                        thread::sleep(Duration::from_millis(50));
                    }
                    longest = longest.max(began.elapsed());
                }
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                done.store(number, Ordering::Relaxed);
            }
            longest
        });
        Self { stop, rounds, thread }
    }

    fn wait_for_rounds(&self, more: u64) -> Result<()> {
        let target = self.rounds.load(Ordering::Relaxed) + more;
        wait::until("the writer gets on", PATIENCE, || {
            ensure!(self.rounds.load(Ordering::Relaxed) >= target);
            Ok(())
        })
    }

    /// The longest write.
    fn finish(self) -> Result<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the writer panicked")
    }
}

fn write(client: &mut Option<Client>, address: &Address, volume: &str, number: u64) -> bool {
    if client.is_none() {
        *client = Client::connect(address, volume).ok();
    }
    let data = number.to_le_bytes().repeat(512);
    client.as_mut().is_some_and(|client| client.write(0, &data).is_ok())
}

/// The number that each volume's snapshot shows.
fn numbers(cluster: &Cluster, volumes: &[&str], name: &str) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for volume in volumes {
        let mut reader = Client::connect(&cluster.engines[1].nbd_tcp(), &format!("{volume}@{name}"))?;
        let bytes = reader.read(0, 8)?;
        numbers.push(u64::from_le_bytes(bytes.as_slice().try_into()?));
        reader.disconnect()?;
    }
    Ok(numbers)
}

fn check(cluster: &Cluster, volumes: &[&str], name: &str) -> Result<u64> {
    let numbers = numbers(cluster, volumes, name)?;
    let in_order = numbers.windows(2).all(|pair| pair[0] >= pair[1]);
    let (first, last) = (numbers[0], numbers[numbers.len() - 1]);
    ensure!(
        in_order && first <= last + 1,
        "{name} is not of one instant: {numbers:?}"
    );
    Ok(first)
}

fn create(volumes: &[&str], name: &str) -> Vec<String> {
    let words = [&["snapshot", "create"], volumes, &["--name", name]].concat();
    words.into_iter().map(str::to_owned).collect()
}

#[test]
fn a_write_is_never_shown_without_one_that_was_acknowledged_before_it() -> Result<()> {
    with_keys(|cluster| {
        let volumes = ["chain-a", "chain-b", "chain-c"];
        cluster.create_volume(volumes[0], BYTES)?;
        keys::create_encrypted(cluster, volumes[1], BYTES)?;
        cluster.create_volume(volumes[2], BYTES)?;
        let at = |(engine, volume): (usize, &&str)| (cluster.engines[engine].nbd_tcp(), (*volume).to_owned());
        let writer = Writer::start(volumes.iter().enumerate().map(at).collect());
        writer.wait_for_rounds(20)?;
        let mut last = 0;
        for number in 0..15 {
            let name = format!("s{number}");
            let began = Instant::now();
            let args = create(&volumes, &name);
            let made = cluster.cairn().args(&args).args(["-o", "json"]).ok()?.json()?;
            let parts = made["snapshots"].as_array().context("no snapshots")?;
            let first = &parts[0]["together_id"];
            let is_part = |part: &Value| part["state"] == "ready" && part["together_id"] == *first && !first.is_null();
            ensure!(parts.len() == 3 && parts.iter().all(is_part), "{made}");
            eprintln!("{name}: {:?}", began.elapsed());
            let shown = check(cluster, &volumes, &name)?;
            ensure!(shown > last, "{shown} after {last}: the writer did not get on");
            last = shown;
            writer.wait_for_rounds(3)?;
        }
        let again = cluster
            .cairn()
            .args(create(&volumes, "s3"))
            .args(["-o", "json"])
            .ok()?
            .json()?;
        ensure!(
            again["snapshots"].as_array().is_some_and(|parts| parts.len() == 3),
            "{again}"
        );
        eprintln!("the longest write took {:?}", writer.finish()?);
        refusals(cluster, &volumes)
    })
}

fn refusals(cluster: &Cluster, volumes: &[&str]) -> Result<()> {
    for (of, name, code, words) in [
        (&volumes[..2], "s3", 4, "choose another name, or delete it"),
        (&["chain-a", "nothing"], "x", 3, "there is no volume 'nothing'"),
        (&["chain-a", "chain-a"], "x", 2, "name 1 to 64 volumes, each once"),
        (&volumes[..1], "s3", 4, "was made together with those of other volumes"),
    ] {
        let ran = cluster.cairn().args(create(of, name)).run()?;
        ensure!(ran.code == Some(code) && ran.stderr.contains(words), "{ran:?}");
    }
    // A part is a snapshot like any other.
    cluster.json(&["snapshot", "delete", "chain-b", "s3"])?;
    let left = numbers(cluster, &["chain-a", "chain-c"], "s3")?;
    ensure!(left[0] >= left[1], "{left:?}");
    Ok(())
}

/// Waits until all parts are there or none is, and nothing is on its way; whether they are there.
fn settle(cluster: &Cluster, volumes: &[&str], name: &str) -> Result<bool> {
    wait::until(&format!("{name} is there or gone"), PATIENCE, || {
        let list = cluster.json(&["snapshot", "list"])?;
        let all = list["snapshots"].as_array().context("no list")?;
        let parts: Vec<&Value> = all.iter().filter(|part| part["name"] == name).collect();
        ensure!(parts.iter().all(|part| part["state"] == "ready"), "{parts:?}");
        ensure!(
            parts.is_empty() || parts.len() == volumes.len(),
            "half of it: {parts:?}"
        );
        Ok(!parts.is_empty())
    })
}

#[test]
fn engines_are_killed_in_the_middle_of_it_and_there_is_all_or_nothing() -> Result<()> {
    let options = ClusterOptions::default();
    let mut cluster = keys::cluster(&options, |_| Ok(()))?;
    let result = kill_in_the_middle(&mut cluster);
    if result.is_err() {
        cluster.keep_files();
    }
    result.with_context(|| cluster.story())
}

fn kill_in_the_middle(cluster: &mut Cluster) -> Result<()> {
    let volumes = ["chain-a", "chain-b", "chain-c"];
    for volume in volumes {
        cluster.create_volume(volume, BYTES)?;
    }
    let at = |(engine, volume): (usize, &&str)| (cluster.engines[engine].nbd_tcp(), (*volume).to_owned());
    let writer = Writer::start(volumes.iter().enumerate().map(at).collect());
    writer.wait_for_rounds(20)?;
    let (mut made, mut none) = (0, 0);
    for round in 0..12_u64 {
        let name = format!("k{round}");
        // Asked of one that stays, which may have to ask the one that is killed.
        let killed = usize::try_from(round % 3)?;
        let asked = (killed + 1) % 3;
        let tool = cluster.cairn_to(&[asked]).args(create(&volumes, &name));
        let asking = thread::spawn(move || tool.run());
        thread::sleep(Duration::from_millis(10 + round * 9));
        cluster.engines[killed].kill()?;
        thread::sleep(Duration::from_millis(300));
        cluster.engines[killed].start()?;
        cluster.engines[killed].wait_ready(PATIENCE)?;
        let ran = asking.join().ok().context("the command panicked")??;
        let is_there = settle(cluster, &volumes, &name)?;
        ensure!(is_there || ran.code != Some(0), "it was made, and is gone: {ran:?}");
        if is_there {
            check(cluster, &volumes, &name)?;
            made += 1;
        } else {
            none += 1;
        }
        writer.wait_for_rounds(3)?;
    }
    eprintln!(
        "{made} were made, {none} were not; the longest write took {:?}",
        writer.finish()?
    );
    ensure!(made > 0, "none was made");
    Ok(())
}
