//! A peer that speaks garbage: dropped with a word in the log, while the cluster works on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Result, ensure};
use cairn_tests::cluster::with_fresh;
use cairn_tests::ledger::mix;
use cairn_tests::nbd::Client;
use cairn_tests::{ClusterOptions, metrics};

#[test]
fn garbage_on_the_data_port_harms_nobody() -> Result<()> {
    let options = ClusterOptions {
        disk_bytes: 256 << 20,
        ..ClusterOptions::default()
    };
    with_fresh(&options, |cluster| {
        cluster.create_volume("v", 16 << 20)?;
        let mut client = Client::connect(&cluster.engines[0].nbd_tcp(), "v")?;
        client.write(0, &[1; 4096])?;
        for round in 0..30u64 {
            for engine in &cluster.engines {
                let mut stream = TcpStream::connect(("127.0.0.1", engine.config.data))?;
                stream.set_read_timeout(Some(Duration::from_millis(100)))?;
                let garbage: Vec<u8> = (0..round * 40)
                    .map(|at| mix(round << 32 | at).to_le_bytes()[0])
                    .collect();
                // It may hang up before all is said.
                let _ = stream.write_all(&garbage);
                let _ = stream.read(&mut [0; 64]);
            }
            client.write(round * 4096, &[7; 4096])?;
        }
        for round in 0..30 {
            ensure!(client.read(round * 4096, 4096)? == [7; 4096], "block {round} is wrong");
        }
        for engine in &mut cluster.engines {
            ensure!(engine.is_running()?, "engine {} is gone", engine.config.name);
        }
        let log = cluster.engines[0].log();
        ensure!(log.contains("magic"), "the log does not name the problem");
        Ok(())
    })
}

#[test]
fn garbage_on_the_control_and_metrics_ports_harms_nobody() -> Result<()> {
    let options = ClusterOptions {
        engines: 1,
        disk_bytes: 256 << 20,
        ..ClusterOptions::default()
    };
    with_fresh(&options, |cluster| {
        for port in [cluster.engines[0].config.control, cluster.engines[0].config.metrics] {
            for round in 0..20u64 {
                let mut stream = TcpStream::connect(("127.0.0.1", port))?;
                let garbage: Vec<u8> = (0..1000).map(|at| mix(round << 32 | at).to_le_bytes()[0]).collect();
                let _ = stream.write_all(&garbage);
            }
        }
        let config = &cluster.engines[0].config;
        let (code, _) = metrics::get(config.at(config.metrics), "/readyz")?;
        ensure!(code == 200, "not ready any more");
        cluster.create_volume("v", 16 << 20)
    })
}
