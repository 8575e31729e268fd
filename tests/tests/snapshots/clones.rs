//! Clones on real engines: there at once, each on its own from then on, whole after a while, whatever becomes of the source.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use cairn_tests::metrics::Page;
use cairn_tests::nbd::Client;
use cairn_tests::{Cluster, ClusterOptions, keys, wait};

const MIB: u64 = 1 << 20;
/// What is written to each mebibyte of a source, from its beginning on.
const PIECE: usize = 256 << 10;
const PIECES: u64 = 24;
/// Slow enough that a clone of that is not whole for some ten seconds.
const SLOWLY: &str = "512KiB";

fn piece(seed: u64) -> Vec<u8> {
    let words = (0..PIECE as u64 / 8).map(|word| (seed << 32 | word).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    words.flat_map(u64::to_le_bytes).collect()
}

fn with_slow_clones(work: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    let options = ClusterOptions {
        disk_bytes: 1 << 30,
        ..ClusterOptions::default()
    };
    let mut cluster = keys::cluster(&options, |cluster| {
        for engine in &mut cluster.engines {
            engine.config.flatten_rate = Some(SLOWLY);
        }
        Ok(())
    })?;
    let result = work(&mut cluster);
    result.map_err(|error| error.context(cluster.story()))
}

fn write_pieces(cluster: &Cluster, volume: &str, seed: u64) -> Result<()> {
    let mut client = Client::connect(&cluster.engines[0].nbd_tcp(), volume)?;
    for number in 0..PIECES {
        client.write(number * MIB, &piece(seed + number))?;
    }
    client.disconnect()
}

/// Through each of these engines a volume shows these pieces, and zeros between them.
fn check_pieces(cluster: &Cluster, engines: &[usize], volume: &str, seed: u64) -> Result<()> {
    for engine in engines {
        let mut client = Client::connect(&cluster.engines[*engine].nbd_tcp(), volume)?;
        for number in 0..PIECES {
            let found = client.read(number * MIB, 1 << 20)?;
            let (data, rest) = found.split_at(PIECE);
            ensure!(
                data == piece(seed + number),
                "piece {number} of '{volume}' through engine {engine}"
            );
            ensure!(
                rest.iter().all(|byte| *byte == 0),
                "behind piece {number} of '{volume}' through engine {engine}"
            );
        }
        client.disconnect()?;
    }
    Ok(())
}

fn is_whole(cluster: &Cluster, volume: &str) -> Result<bool> {
    Ok(cluster.volume(volume)?["origin"]["whole"] == true)
}

fn await_whole(cluster: &Cluster, volume: &str) -> Result<()> {
    wait::until(
        &format!("clone {volume} is whole"),
        Duration::from_secs(120),
        || match is_whole(cluster, volume)? {
            true => Ok(()),
            false => bail!("{}", cluster.volume(volume)?["origin"]),
        },
    )
}

fn restart_all(cluster: &mut Cluster) -> Result<()> {
    for engine in &mut cluster.engines {
        engine.kill()?;
    }
    cluster.start_engines()?;
    cluster.wait_ready()
}

/// Volumes and snapshots that the catalogue knows, those included that nobody is shown.
fn known(cluster: &Cluster) -> Result<(f64, f64)> {
    let config = &cluster.engines[0].config;
    let metrics = Page::fetch(config.at(config.metrics))?;
    let sum = |name: &str| metrics.sum(name).unwrap_or_default();
    Ok((sum("cairn_volumes"), sum("cairn_snapshots")))
}

fn is_refused(cluster: &Cluster, args: &[&str], words: &str) -> Result<()> {
    let ran = cluster.run(args)?;
    ensure!(ran.code != Some(0) && ran.stderr.contains(words), "{args:?}: {ran:?}");
    Ok(())
}

#[test]
fn a_clone_is_there_at_once_and_outlives_its_source_and_power_cuts_on_its_way_to_be_whole() -> Result<()> {
    with_slow_clones(|cluster| {
        cluster.create_volume("data", 64 * MIB)?;
        write_pieces(cluster, "data", 100)?;
        cluster.json(&["snapshot", "create", "data", "--name", "kept"])?;
        let began = Instant::now();
        let made = cluster.json(&["volume", "clone", "data", "copy"])?;
        println!("a clone was made in {:?}", began.elapsed());
        ensure!(
            made["origin"]["name"] == "data" && made["size_bytes"] == 64 * MIB,
            "{made}"
        );
        write_pieces(cluster, "data", 500)?;
        let larger = ["volume", "clone", "data@kept", "larger", "--size", "96MiB"];
        let made = cluster.json(&larger)?;
        ensure!(
            made["size_bytes"] == 96 * MIB && made["replicas"][2]["created"] == true,
            "{made}"
        );
        cluster.json(&larger)?;
        refusals(cluster)?;
        for (volume, seed) in [("copy", 100), ("larger", 100), ("data", 500)] {
            check_pieces(cluster, &[0, 1, 2], volume, seed)?;
        }
        ensure!(!is_whole(cluster, "copy")?, "nothing would be tested");
        let source = cluster.volume("data")?;
        ensure!(source["snapshots"] == 1, "a snapshot of a clone is shown: {source}");
        write_pieces(cluster, "larger", 900)?;
        // What clones need stays, without a name.
        cluster.json(&["snapshot", "delete", "data", "kept"])?;
        cluster.json(&["volume", "delete", "data", "--force"])?;
        is_refused(cluster, &["volume", "show", "data"], "there is no volume 'data'")?;
        is_refused(
            cluster,
            &["volume", "clone", "data", "late"],
            "there is no volume 'data'",
        )?;
        cluster.create_volume("data", 4 * MIB)?;
        ensure!(known(cluster)?.0 == 4.0, "the source is dropped while a clone needs it");
        restart_all(cluster)?;
        ensure!(!is_whole(cluster, "copy")?, "nothing would be tested");
        check_pieces(cluster, &[1], "copy", 100)?;
        check_pieces(cluster, &[2], "larger", 900)?;
        await_whole(cluster, "copy")?;
        await_whole(cluster, "larger")?;
        wait::until("nothing is kept for clones", Duration::from_secs(20), || {
            match known(cluster)? {
                (3.0, 0.0) => Ok(()),
                known => bail!("the catalogue knows {known:?} volumes and snapshots"),
            }
        })?;
        restart_all(cluster)?;
        check_pieces(cluster, &[0, 1, 2], "copy", 100)?;
        check_pieces(cluster, &[0, 1, 2], "larger", 900)
    })
}

fn refusals(cluster: &Cluster) -> Result<()> {
    let clone = |rest: &[&'static str], words: &str| {
        let args: Vec<&str> = ["volume", "clone"].iter().chain(rest).copied().collect();
        is_refused(cluster, &args, words)
    };
    clone(
        &["data@nothing", "x"],
        "there is no snapshot 'nothing' of volume 'data'",
    )?;
    clone(
        &["data@kept", "x", "--size", "32MiB"],
        "a clone of 'data@kept' has at least its size, 64 MiB",
    )?;
    clone(&["data", "larger"], "exists and differs")?;
    clone(&["data@kept", "copy"], "it is a clone of 'data'")?;
    clone(
        &["data", "x", "--key-name", "main"],
        "key_name is for a clone of an encrypted volume",
    )?;
    is_refused(
        cluster,
        &["volume", "create", "copy", "--size", "64MiB"],
        "it is a clone of 'data'",
    )
}

#[test]
fn a_clone_of_an_encrypted_volume_keeps_its_key_when_that_of_its_source_is_erased() -> Result<()> {
    with_slow_clones(|cluster| {
        keys::create_encrypted(cluster, "secret", 32 * MIB)?;
        write_pieces(cluster, "secret", 3000)?;
        let made = cluster.json(&["volume", "clone", "secret", "copy"])?;
        ensure!(made["encryption"]["cipher"] == "aes-256-xts", "{made}");
        cluster.json(&["volume", "clone", "copy", "again"])?;
        // Each has a wrapping of its own.
        keys::write(cluster.dir(), 2)?;
        cluster.cairn().args(["volume", "rewrap", "secret"]).ok()?;
        cluster.json(&["volume", "delete", "secret", "--force"])?;
        cluster.cairn().args(["volume", "rewrap", "again"]).ok()?;
        ensure!(!is_whole(cluster, "again")?, "nothing would be tested");
        let mut client = Client::connect(&cluster.engines[0].nbd_tcp(), "copy")?;
        client.write(30 * MIB + 1000, b"a part of a block")?;
        client.disconnect()?;
        restart_all(cluster)?;
        for volume in ["copy", "again"] {
            check_pieces(cluster, &[0, 1, 2], volume, 3000)?;
        }
        await_whole(cluster, "again")?;
        await_whole(cluster, "copy")?;
        restart_all(cluster)?;
        for volume in ["copy", "again"] {
            check_pieces(cluster, &[0, 2], volume, 3000)?;
        }
        let mut client = Client::connect(&cluster.engines[1].nbd_tcp(), "copy")?;
        ensure!(
            client.read(30 * MIB + 1000, 17)? == b"a part of a block",
            "part of a block"
        );
        client.disconnect()
    })
}
