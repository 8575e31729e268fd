//! Snapshots on real engines: what was written before is in them, what is written later is not, and they are exports.

use std::time::Instant;

use anyhow::{Result, ensure};
use cairn_tests::nbd::Client;
use cairn_tests::{Cluster, Tool, keys};

use crate::with_keys;

const MIB: u64 = 1 << 20;

fn block(value: u8) -> Vec<u8> {
    vec![value; 4096]
}

#[test]
fn a_snapshot_shows_its_time_through_every_engine_and_takes_no_writes() -> Result<()> {
    with_keys(|cluster| {
        cluster.create_volume("snapped", 64 * MIB)?;
        let mut client = Client::connect(&cluster.engines[0].nbd_tcp(), "snapped")?;
        for number in 0..64 {
            client.write(number * MIB, &block(1))?;
        }
        let began = Instant::now();
        let made = cluster.json(&["snapshot", "create", "snapped", "--name", "first"])?;
        println!("a snapshot was made in {:?}", began.elapsed());
        ensure!(made["state"] == "ready" && made["size_bytes"] == 64 * MIB, "{made}");
        for number in 0..32 {
            client.write(number * MIB, &block(2))?;
        }
        cluster.json(&["snapshot", "create", "snapped", "--name", "second"])?;
        client.write(0, &block(3))?;
        for engine in &cluster.engines {
            for (export, first, last) in [("snapped@first", 1, 1), ("snapped@second", 2, 1), ("snapped", 3, 1)] {
                let mut reader = Client::connect(&engine.nbd_tcp(), export)?;
                ensure!(reader.read(0, 4096)? == block(first), "{export}: the first block");
                ensure!(reader.read(63 * MIB, 4096)? == block(last), "{export}: the last block");
                ensure!(reader.read(4096, 4096)? == block(0), "{export}: a hole");
                reader.disconnect()?;
            }
        }
        let mut writer = Client::connect(&cluster.engines[1].nbd_tcp(), "snapped@first")?;
        ensure!(writer.write(0, &block(9)).is_err(), "a snapshot took a write");
        let info = Tool::new("nbdinfo")
            .arg("--json")
            .arg(cluster.engines[2].uri("snapped@first"));
        let info = info.ok()?.json()?;
        ensure!(info["exports"][0]["is_read_only"] == true, "{info}");
        space_is_told(cluster)?;
        deletion(cluster, &mut client)
    })
}

fn space_is_told(cluster: &Cluster) -> Result<()> {
    let volume = cluster.volume("snapped")?;
    let expected = [
        ("allocated_bytes", 64 * 4096),
        ("shared_bytes", 63 * 4096),
        ("exclusive_bytes", 4096),
        ("snapshot_bytes", 33 * 4096),
        ("snapshots", 2),
    ];
    for (field, value) in expected {
        ensure!(volume[field] == value, "{field} is not {value}: {volume}");
    }
    let list = cluster.json(&["snapshot", "list", "snapped"])?;
    let kept: Vec<u64> = list["snapshots"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|snapshot| snapshot["kept_bytes"].as_u64())
        .collect();
    ensure!(kept == [32 * 4096, 4096], "{list}");
    Ok(())
}

fn deletion(cluster: &Cluster, client: &mut Client) -> Result<()> {
    let refused = cluster.run(&["volume", "delete", "snapped", "--force"])?;
    ensure!(refused.stderr.contains("--snapshots"), "{refused:?}");
    cluster.json(&["snapshot", "delete", "snapped", "second"])?;
    let refused = cluster.run(&["snapshot", "show", "snapped", "second"])?;
    ensure!(refused.code == Some(3), "{refused:?}");
    let mut reader = Client::connect(&cluster.engines[2].nbd_tcp(), "snapped@first")?;
    ensure!(reader.read(0, 4096)? == block(1), "the older snapshot has changed");
    ensure!(client.read(0, 4096)? == block(3), "the volume has changed");
    cluster.json(&["volume", "delete", "snapped", "--force", "--snapshots"])?;
    let left = cluster.json(&["snapshot", "list"])?.to_string();
    ensure!(!left.contains("snapped"), "{left}");
    Ok(())
}

/// A block keeps its number in a snapshot, and with it what it is encrypted with: part of a block, and a hole, too.
#[test]
fn a_snapshot_of_an_encrypted_volume_reads_as_it_was_written_through_every_engine() -> Result<()> {
    with_keys(|cluster| {
        keys::create_encrypted(cluster, "secret", 16 * MIB)?;
        let mut client = Client::connect(&cluster.engines[0].nbd_tcp(), "secret")?;
        client.write(0, &[block(1), block(2)].concat())?;
        client.write(8 * MIB + 1000, b"a part of a block")?;
        cluster.json(&["snapshot", "create", "secret", "--name", "kept"])?;
        client.write(0, &block(3))?;
        client.write(8 * MIB, &block(4))?;
        // Data keys are opened anew by whoever opens the export, also when the wrapping has changed since.
        cluster.cairn().args(["volume", "rewrap", "secret"]).ok()?;
        for engine in &cluster.engines {
            let mut reader = Client::connect(&engine.nbd_tcp(), "secret@kept")?;
            ensure!(reader.read(0, 8192)? == [block(1), block(2)].concat(), "whole blocks");
            ensure!(
                reader.read(2048, 4096)? == [vec![1; 2048], vec![2; 2048]].concat(),
                "across blocks"
            );
            let part = reader.read(8 * MIB, 4096)?;
            ensure!(part[1000..1017] == *b"a part of a block", "part of a block");
            ensure!(
                part[..1000].iter().chain(&part[1017..]).all(|byte| *byte == 0),
                "around it"
            );
            ensure!(reader.read(4 * MIB, 4096)? == block(0), "a hole is not decrypted");
            reader.disconnect()?;
            let mut reader = Client::connect(&engine.nbd_tcp(), "secret")?;
            ensure!(
                reader.read(0, 8192)? == [block(3), block(2)].concat(),
                "the volume itself"
            );
            reader.disconnect()?;
        }
        Ok(())
    })
}
