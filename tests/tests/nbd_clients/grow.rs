//! Volumes that become larger under their clients.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cairn_tests::cluster::with_shared;
use cairn_tests::nbd::Client;
use cairn_tests::{Cluster, Tool};

const MIB: u64 = 1 << 20;

fn resize(cluster: &Cluster, name: &str, bytes: u64) -> Tool {
    cluster
        .cairn()
        .args(["volume", "resize", name, "--size", &bytes.to_string()])
}

/// libnbd, through every engine: that with the leader, and those without.
#[test]
fn a_connected_client_uses_what_is_new() -> Result<()> {
    with_shared(|cluster| {
        for (number, engine) in cluster.engines.iter().enumerate() {
            let name = format!("grows-{number}");
            cluster.create_volume(&name, 8 * MIB)?;
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/grow.py");
            let (size, larger) = ((8 * MIB).to_string(), (24 * MIB).to_string());
            let cairn = cluster.binaries().cli.display().to_string();
            let control = cluster.engines[0].control_address();
            Tool::new("/usr/bin/python3")
                .arg(path)
                .args([&engine.uri(&name), &size, &larger, &cairn])
                .args(["--engine", &control, "volume", "resize", &name, "--size", &larger])
                .ok()
                .with_context(|| format!("through engine {number}"))?;
        }
        Ok(())
    })
}

/// Readers and writers go on, through several connections, while the volume grows step by step.
#[test]
fn nobody_is_refused_anything_while_a_volume_grows() -> Result<()> {
    with_shared(|cluster| {
        cluster.create_volume("steps", 4 * MIB)?;
        let mut client = Client::connect(&cluster.engines[1].nbd_tcp(), "steps")?;
        for step in 2..8u64 {
            let ran = resize(cluster, "steps", step * 4 * MIB);
            let start = Instant::now();
            ran.ok()?;
            eprintln!("step {step}: {:?}", start.elapsed());
            let mark = u8::try_from(step)?;
            client.write(step * 4 * MIB - 4096, &[mark; 4096])?;
            client.write((step - 1) * 4 * MIB - 512, &[mark; 1024])?;
            ensure!(client.read(step * 4 * MIB - 4096, 4096)? == [mark; 4096]);
            ensure!(client.read((step - 1) * 4 * MIB - 512, 1024)? == [mark; 1024]);
        }
        let volume = cluster.volume("steps")?;
        ensure!(
            volume["size_bytes"] == 28 * MIB && volume["served_bytes"] == 28 * MIB,
            "{volume}"
        );
        client.disconnect()
    })
}

#[test]
fn what_cannot_be_is_refused_by_name() -> Result<()> {
    with_shared(|cluster| {
        cluster.create_volume("fixed", 8 * MIB)?;
        let shrunk = resize(cluster, "fixed", 4 * MIB).run()?;
        ensure!(
            shrunk.code == Some(1) && shrunk.stderr.contains("cannot shrink to 4 MiB"),
            "{shrunk:?}"
        );
        let absurd = resize(cluster, "fixed", 1 << 50).run()?;
        ensure!(
            absurd.code == Some(2) && absurd.stderr.contains("up to 64 TiB"),
            "{absurd:?}"
        );
        resize(cluster, "fixed", 8 * MIB).ok()?;
        Ok(())
    })
}
