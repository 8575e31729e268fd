//! QEMU's tools: conversion, comparison, patterns at odd places.

use anyhow::{Result, ensure};
use cairn_tests::cluster::{scratch_dir, with_shared};
use cairn_tests::{Cluster, Tool};

const MIB: u64 = 1 << 20;

/// Runs `qemu-io` commands on the volume and checks that every pattern matched.
fn qemu_io(cluster: &Cluster, engine: usize, volume: &str, commands: &[&str]) -> Result<()> {
    let mut tool = Tool::new("qemu-io").args(["-f", "raw", &cluster.engines[engine].uri(volume)]);
    for command in commands {
        tool = tool.args(["-c", command]);
    }
    let ran = tool.ok()?;
    let text = ran.text();
    ensure!(!text.contains("failed") && !text.contains("error"), "{text}");
    Ok(())
}

#[test]
fn converts_and_compares() -> Result<()> {
    with_shared(|cluster| {
        cluster.create_volume("convert", 32 * MIB)?;
        let dir = scratch_dir("qemu")?;
        let raw = dir.join("raw");
        Tool::new("dd")
            .args(["if=/dev/urandom", "bs=1M", "count=32", "status=none"])
            .arg(format!("of={}", raw.display()))
            .ok()?;
        let uri = cluster.engines[0].uri("convert");
        Tool::new("qemu-img")
            .args(["convert", "-n", "-f", "raw", "-O", "raw"])
            .arg(&raw)
            .arg(&uri)
            .ok()?;
        Tool::new("qemu-img")
            .args(["compare", "-f", "raw", "-F", "raw"])
            .arg(&raw)
            .arg(&uri)
            .ok()?;
        let other = cluster.engines[2].unix_uri("convert");
        let qcow = dir.join("qcow2");
        Tool::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "qcow2", &other])
            .arg(&qcow)
            .ok()?;
        Tool::new("qemu-img")
            .args(["compare", "-f", "raw", "-F", "qcow2"])
            .arg(&raw)
            .arg(&qcow)
            .ok()?;
        let info = Tool::new("qemu-img")
            .args(["info", "--output=json", &uri])
            .ok()?
            .json()?;
        ensure!(info["virtual-size"] == 32 * MIB, "{info}");
        std::fs::remove_dir_all(&dir)?;
        Ok(())
    })
}

#[test]
fn patterns_at_unaligned_places_are_read_back() -> Result<()> {
    with_shared(|cluster| {
        cluster.create_volume("patterns", 8 * MIB)?;
        let write = [
            "write -P 0x11 0 64k",
            "write -P 0x22 1 511",
            "write -P 0x33 4095 2",
            "write -P 0x44 10000 20001",
        ];
        qemu_io(cluster, 0, "patterns", &write)?;
        let read = [
            "read -P 0x11 0 1",
            "read -P 0x22 1 511",
            "read -P 0x11 512 3583",
            "read -P 0x33 4095 2",
            "read -P 0x11 4097 5903",
            "read -P 0x44 10000 20001",
            "read -P 0x11 30001 35535",
            "read -P 0 64k 64k",
        ];
        qemu_io(cluster, 1, "patterns", &read)
    })
}

#[test]
fn zeroes_and_discards_read_as_zeros() -> Result<()> {
    with_shared(|cluster| {
        cluster.create_volume("zeroes", 8 * MIB)?;
        let commands = [
            "write -P 0x55 0 4M",
            "write -z 1M 1M",
            "write -z 2500000 5001",
            "write -z -u 3M 64k",
            "discard 0 512k",
            "flush",
            "read -P 0 0 512k",
            "read -P 0x55 512k 512k",
            "read -P 0 1M 1M",
            "read -P 0x55 2M 402848",
            "read -P 0 2500000 5001",
            "read -P 0x55 2505001 640727",
            "read -P 0 3M 64k",
            "read -P 0x55 3211264 983040",
        ];
        qemu_io(cluster, 2, "zeroes", &commands)
    })
}

#[test]
fn forced_unit_access_and_flush_are_answered() -> Result<()> {
    with_shared(|cluster| {
        cluster.create_volume("fua", 8 * MIB)?;
        qemu_io(
            cluster,
            0,
            "fua",
            &[
                "write -f -P 0x77 0 8k",
                "write -f -z 4k 4k",
                "flush",
                "read -P 0x77 0 4k",
            ],
        )
    })
}
