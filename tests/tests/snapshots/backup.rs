//! Incremental backups: a volume rebuilt from what changed between its snapshots, read over NBD, is the volume.

use anyhow::{Context, Result, ensure};
use cairn_tests::ledger::mix;
use cairn_tests::nbd::{Client, Command};
use cairn_tests::{Cluster, Tool, keys};
use serde_json::{Value, json};

use crate::with_keys;

const BLOCK: u64 = 4096;
const BYTES: u64 = 32 << 20;
/// The size from the second snapshot on.
const GROWN_BYTES: u64 = 40 << 20;
/// Requests between two snapshots.
const REQUESTS: u64 = 300;

/// A block of this byte.
const fn block(byte: u8) -> [u8; 4096] {
    [byte; 4096]
}

/// Writes, trims and zeroes at random places, some of them at parts of blocks.
fn change(client: &mut Client, bytes: u64, round: u64) -> Result<()> {
    for number in 0..REQUESTS {
        let dice = mix(round * REQUESTS + number + 1);
        let length = (1 + dice % 9) * BLOCK;
        let at = mix(dice) % ((bytes - length) / BLOCK) * BLOCK;
        let command = match dice / 16 % 10 {
            0 | 1 => Command::Trim,
            2 => Command::WriteZeroes,
            3 => {
                client.write(at + 700, &dice.to_le_bytes())?;
                continue;
            }
            _ => {
                let words = (0..length / 8).flat_map(|word| mix(dice ^ word).to_le_bytes());
                client.write(at, &words.collect::<Vec<u8>>())?;
                continue;
            }
        };
        let reply = client.call(command, at, u32::try_from(length)?, &[])?;
        ensure!(reply.error == 0, "{command:?}: {reply:?}");
    }
    Ok(())
}

fn diff(cluster: &Cluster, engine: usize, volume: &str, snapshots: &[&str]) -> Result<Value> {
    let tool = cluster.cairn_to(&[engine]).args(["snapshot", "diff", volume]);
    tool.args(snapshots).args(["-o", "json"]).ok()?.json()
}

/// Brings a copy of the earlier snapshot to the later one by reading what changed, and nothing else. How much that was.
fn apply(cluster: &Cluster, volume: &str, copy: &mut Vec<u8>, snapshots: &[&str]) -> Result<u64> {
    let to = snapshots.last().context("no snapshot")?;
    let diff = diff(cluster, 0, volume, snapshots)?;
    copy.resize(usize::try_from(diff["size_bytes"].as_u64().context("no size")?)?, 0);
    let mut reader = Client::connect(&cluster.engines[1].nbd_tcp(), &format!("{volume}@{to}"))?;
    let mut changed = 0;
    for extent in diff["extents"].as_array().context("no extents")? {
        let number = |field: &str| extent[field].as_u64().context("not a number");
        let (mut offset, end) = (number("offset")?, number("offset")? + number("length")?);
        changed += end - offset;
        while offset < end {
            let length = (end - offset).min(1 << 20);
            let data = match extent["kind"] == "data" {
                true => reader.read(offset, u32::try_from(length)?)?,
                false => vec![0; usize::try_from(length)?],
            };
            let at = usize::try_from(offset)?;
            copy[at..at + data.len()].copy_from_slice(&data);
            offset += length;
        }
    }
    Ok(changed)
}

fn whole(cluster: &Cluster, export: &str) -> Result<Vec<u8>> {
    let mut reader = Client::connect(&cluster.engines[2].nbd_tcp(), export)?;
    let mut bytes = Vec::new();
    for offset in (0..reader.size).step_by(1 << 20) {
        bytes.extend(reader.read(offset, 1 << 20)?);
    }
    Ok(bytes)
}

/// Four snapshots, the volume grown after the second, and that one deleted: rebuilt from the first, step by step.
fn rebuild(cluster: &Cluster, volume: &str) -> Result<()> {
    let mut client = Client::connect(&cluster.engines[0].nbd_tcp(), volume)?;
    let mut bytes = BYTES;
    for (round, name) in (0..).zip(["s0", "s1", "s2", "s3"]) {
        change(&mut client, bytes, round)?;
        cluster.json(&["snapshot", "create", volume, "--name", name])?;
        if name == "s1" {
            let size = GROWN_BYTES.to_string();
            cluster
                .cairn()
                .args(["volume", "resize", volume, "--size", &size])
                .ok()?;
            bytes = GROWN_BYTES;
        }
    }
    // One in the middle is gone: what changed around it is told all the same.
    cluster.json(&["snapshot", "delete", volume, "s1"])?;
    let mut copy = Vec::new();
    for (snapshots, size) in [
        (&["s0"][..], BYTES),
        (&["s0", "s2"], GROWN_BYTES),
        (&["s2", "s3"], GROWN_BYTES),
    ] {
        let changed = apply(cluster, volume, &mut copy, snapshots)?;
        ensure!(changed > 0 && changed < BYTES / 2, "{changed} bytes changed");
        let name = snapshots[snapshots.len() - 1];
        let expected = whole(cluster, &format!("{volume}@{name}"))?;
        ensure!(expected.len() as u64 == size, "{} bytes in {name}", expected.len());
        ensure!(copy == expected, "the copy differs from {name}");
        eprintln!("{volume}: {changed} bytes to {name}");
    }
    ensure!(copy == whole(cluster, volume)?, "the copy differs from the volume");
    let mut once = Vec::new();
    apply(cluster, volume, &mut once, &["s3"])?;
    ensure!(once == copy, "all that the last one holds is something else");
    Ok(())
}

#[test]
fn a_volume_is_rebuilt_from_a_snapshot_and_what_changed_since() -> Result<()> {
    with_keys(|cluster| {
        cluster.create_volume("backed-up", BYTES)?;
        rebuild(cluster, "backed-up")
    })
}

#[test]
fn an_encrypted_volume_is_rebuilt_like_any_other() -> Result<()> {
    with_keys(|cluster| {
        keys::create_encrypted(cluster, "backed-up-secret", BYTES)?;
        rebuild(cluster, "backed-up-secret")
    })
}

#[test]
fn what_changed_is_exact_to_the_block_and_the_same_through_every_engine() -> Result<()> {
    with_keys(|cluster| {
        let volume = "exact";
        // One replica: two of the engines have none, and pass the request on.
        let create = ["volume", "create", volume, "--size", "1GiB", "--replicas", "1"];
        cluster.cairn().args(create).ok()?;
        let mut client = Client::connect(&cluster.engines[0].nbd_tcp(), volume)?;
        client.write(8 * BLOCK, &block(1).repeat(4))?;
        cluster.json(&["snapshot", "create", volume, "--name", "a"])?;
        client.write(9 * BLOCK + 100, b"a part of a block")?;
        client.write((1 << 30) - BLOCK, &block(2))?;
        let trimmed = u32::try_from(2 * BLOCK)?;
        // The second of them is a hole, and stays one; so does what is zeroed there.
        client.call(Command::Trim, 11 * BLOCK, trimmed, &[])?;
        client.call(Command::WriteZeroes, 512 << 20, 4096, &[])?;
        cluster.json(&["snapshot", "create", volume, "--name", "b"])?;
        let row = |block: u64, kind: &str| json!({"offset": block * BLOCK, "length": BLOCK, "kind": kind});
        // In more leaves of the map than one part of the answer looks at.
        let spread: Vec<u64> = (0..300).map(|leaf| leaf * 512 + leaf).collect();
        for at in &spread {
            client.write(at * BLOCK, &block(3))?;
        }
        cluster.json(&["snapshot", "create", volume, "--name", "c"])?;
        client.write(0, &block(4))?;
        let spread: Vec<Value> = spread.iter().map(|at| row(*at, "data")).collect();
        let between = json!([row(9, "data"), row(11, "zero"), row(262_143, "data")]);
        for engine in 0..cluster.engines.len() {
            let told = diff(cluster, engine, volume, &["a", "b"])?;
            ensure!(told["extents"] == between && told["size_bytes"] == 1 << 30, "{told}");
            let all = diff(cluster, engine, volume, &["a"])?;
            let held = json!([{"offset": 8 * BLOCK, "length": 4 * BLOCK, "kind": "data"}]);
            ensure!(all["extents"] == held, "{all}");
            let parts = diff(cluster, engine, volume, &["b", "c"])?;
            ensure!(parts["extents"] == json!(spread), "{parts}");
            let nothing = diff(cluster, engine, volume, &["a", "a"])?;
            ensure!(nothing["extents"] == json!([]), "{nothing}");
        }
        refusals(cluster, volume)
    })
}

fn refusals(cluster: &Cluster, volume: &str) -> Result<()> {
    for (snapshots, code, words) in [
        (&["b", "a"][..], 2, "name the earlier one first, 'a' and then 'b'"),
        (&["a", "none"], 3, "there is no snapshot 'none' of volume 'exact'"),
        (&["none"], 3, "`cairn snapshot list` shows the snapshots there are"),
    ] {
        let tool: Tool = cluster.cairn().args(["snapshot", "diff", volume]);
        let ran = tool.args(snapshots).run()?;
        ensure!(ran.code == Some(code) && ran.stderr.contains(words), "{ran:?}");
    }
    Ok(())
}
