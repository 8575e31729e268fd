//! Rot in every replica's file at once, each block still whole on two of three: scrubbing finds it before anybody reads it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cairn_tests::cluster::with_fresh;
use cairn_tests::metrics::Page;
use cairn_tests::nbd::Client;
use cairn_tests::{Cluster, wait};

use crate::scene;

const BLOCK: usize = 4096;
/// Blocks that are written once, and not read until the end.
const QUIET: usize = 96;
/// So far from the disk's beginning they are, as they are the first that is written.
const SEARCHED: usize = 96 << 20;

/// Unlike any other block.
fn content(number: usize) -> Vec<u8> {
    let mark = format!("a block that nobody reads, number {number:08}: ");
    mark.bytes().cycle().take(BLOCK).collect()
}

/// Where in a disk's file each quiet block is.
fn places(disk: &Path) -> Result<Vec<u64>> {
    let mut bytes = vec![0; SEARCHED];
    File::open(disk)?.read_exact_at(&mut bytes, 0)?;
    let find = |number: usize| {
        let wanted = content(number);
        let found = bytes.chunks_exact(BLOCK).position(|block| block == wanted);
        found
            .map(|block| (block * BLOCK) as u64)
            .with_context(|| format!("block {number} is not in {}", disk.display()))
    };
    (0..QUIET).map(find).collect()
}

fn disk_of(cluster: &Cluster, engine: usize) -> &Path {
    &cluster.engines[engine].config.disks[0]
}

/// Reads a disk through at once; what was damaged in that time, as the command says.
fn scrub(cluster: &Cluster, engine: usize) -> Result<u64> {
    let disk = format!(
        "{}:{}",
        cluster.engines[engine].config.name,
        disk_of(cluster, engine).display()
    );
    let line = ["disk", "scrub", &disk, "--rate", "1GiB", "--wait", "--timeout", "2m"];
    let seen = cluster.json(&line)?;
    let last = &seen["disks"][0]["last"];
    ensure!(last["unrepairable"] == 0, "{seen}");
    let read = last["bytes"].as_u64().context("nothing was read")?;
    ensure!(read >= (QUIET * BLOCK) as u64, "{seen}");
    last["damaged"].as_u64().context("no count of damage")
}

#[test]
fn rot_that_nobody_reads_is_found_and_repaired_under_load() -> Result<()> {
    with_fresh(&scene::options(), |cluster| {
        cluster.create_volume("quiet", 16 << 20)?;
        let mut client = Client::connect(&cluster.engines[0].nbd_tcp(), "quiet")?;
        for number in 0..QUIET {
            client.write((number * BLOCK) as u64, &content(number))?;
        }
        // On every disk, not only on those of a majority.
        let found: Vec<Vec<u64>> = wait::until("every replica has every block", scene::PATIENCE, || {
            (0..3).map(|engine| places(disk_of(cluster, engine))).collect()
        })?;
        let load = scene::load_through_gateway(cluster)?;
        let rotten = |engine: usize| (0..QUIET).filter(move |number| number % 3 == engine);
        for (engine, places) in found.iter().enumerate() {
            let file = OpenOptions::new().write(true).open(disk_of(cluster, engine))?;
            for number in rotten(engine) {
                file.write_all_at(&[0xa5; 100], places[number] + 1000)?;
            }
            file.sync_all()?;
        }

        for (engine, places) in found.iter().enumerate() {
            let expected = rotten(engine).count() as u64;
            let damaged = scrub(cluster, engine)?;
            ensure!(
                damaged == expected,
                "engine {engine}: {damaged} of {expected} rotten blocks were found"
            );
            wait::until("what was found is back on the disk", scene::PATIENCE, || {
                let file = File::open(disk_of(cluster, engine))?;
                for number in rotten(engine) {
                    let mut block = vec![0; BLOCK];
                    file.read_exact_at(&mut block, places[number])?;
                    ensure!(
                        block == content(number),
                        "block {number} of engine {engine} is not repaired"
                    );
                }
                Ok(())
            })?;
            let again = scrub(cluster, engine)?;
            ensure!(
                again == 0,
                "engine {engine}: {again} blocks are damaged after their repair"
            );
            let config = &cluster.engines[engine].config;
            let page = Page::fetch(config.at(config.metrics))?;
            for (name, least) in [
                ("cairn_blocks_damaged_total", expected),
                ("cairn_blocks_repaired_total", expected),
                ("cairn_scrubs_total", 2),
            ] {
                let counted = page.sum(name).with_context(|| format!("there is no {name}"))?;
                ensure!(
                    counted >= least as f64,
                    "{name} of engine {engine} is {counted}, at least {least}"
                );
            }
        }
        scene::progresses(&load)?;
        let outcome = scene::stop_clean(load)?;
        let mut ledger = outcome.ledger;
        scene::read_back(cluster, 0, &mut ledger)?;
        for number in 0..QUIET {
            let read = client.read((number * BLOCK) as u64, u32::try_from(BLOCK)?)?;
            ensure!(read == content(number), "block {number} is read wrongly");
        }
        client.disconnect()
    })
}
