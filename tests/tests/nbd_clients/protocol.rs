//! Clients that break the rules: each is answered as the protocol says, or dropped, and nobody else notices.

use std::io::{Read, Write};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cairn_tests::Engine;
use cairn_tests::cluster::with_shared;
use cairn_tests::ledger::mix;
use cairn_tests::nbd::{Client, Command, Stream, wire};

const MIB: u64 = 1 << 20;

/// The engine still serves: a fresh connection writes and reads.
fn still_serves(engine: &Engine, volume: &str) -> Result<()> {
    let mut client = Client::connect(&engine.nbd_tcp(), volume).context("the engine serves no more")?;
    client.write(0, &[0x5a; 4096])?;
    ensure!(client.read(0, 4096)? == [0x5a; 4096], "the engine serves wrong bytes");
    client.disconnect()
}

#[test]
fn an_unknown_command_is_refused_and_the_connection_goes_on() -> Result<()> {
    with_shared(|cluster| {
        cluster.create_volume("unknown", 4 * MIB)?;
        let mut client = Client::connect(&cluster.engines[0].nbd_tcp(), "unknown")?;
        client.send_raw(&wire::request(0, 999, 77, 0, 4096))?;
        let reply = client.receive()?;
        ensure!((reply.cookie, reply.error) == (77, wire::EINVAL), "{reply:?}");
        // Flags that the protocol does not know for this command.
        client.send_raw(&wire::request(1 << 14, Command::Read as u16, 78, 0, 4096))?;
        let reply = client.receive()?;
        ensure!((reply.cookie, reply.error) == (78, wire::EINVAL), "{reply:?}");
        client.write(0, &[1; 4096])?;
        client.disconnect()
    })
}

#[test]
fn an_oversized_read_is_refused_and_the_connection_goes_on() -> Result<()> {
    with_shared(|cluster| {
        cluster.create_volume("huge", 256 * MIB)?;
        let mut client = Client::connect(&cluster.engines[0].nbd_tcp(), "huge")?;
        let (_, _, maximum) = client.block_sizes.context("the server tells no block sizes")?;
        let length = u32::try_from(128 * MIB)?;
        ensure!(length > maximum, "the test must ask for more than {maximum}");
        client.send_raw(&wire::request(0, Command::Read as u16, 5, 0, length))?;
        let reply = client.receive()?;
        ensure!(reply.cookie == 5, "{reply:?}");
        ensure!([wire::EINVAL, wire::EOVERFLOW].contains(&reply.error), "{reply:?}");
        client.write(4096, &[2; 4096])?;
        client.disconnect()
    })
}

/// A write that announces more than the server takes: it may swallow the bytes and answer, or hang up; it may not take the
/// engine down, nor make it hold gigabytes.
#[test]
fn an_oversized_write_harms_nobody() -> Result<()> {
    with_shared(|cluster| {
        cluster.create_volume("oversized", 4 * MIB)?;
        for length in [u32::MAX, u32::try_from(512 * MIB)?] {
            let mut client = Client::connect(&cluster.engines[0].nbd_tcp(), "oversized")?;
            client.stream().set_timeout(Duration::from_millis(500))?;
            client.send_raw(&wire::request(0, Command::Write as u16, 6, 0, length))?;
            // It may have hung up already; then this fails, which is as good.
            let _ = client.send_raw(&[0; 1 << 20]);
            let _ = client.receive();
        }
        still_serves(&cluster.engines[0], "oversized")
    })
}

#[test]
fn garbage_in_any_phase_harms_nobody() -> Result<()> {
    with_shared(|cluster| {
        cluster.create_volume("garbage", 4 * MIB)?;
        let engine = &cluster.engines[0];
        let mut random = 0x6761_7262u64;
        let mut bytes = |count: usize| -> Vec<u8> {
            let next = || {
                random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
                mix(random).to_le_bytes()[0]
            };
            std::iter::repeat_with(next).take(count).collect()
        };
        for round in 0..40 {
            // Before the handshake.
            let mut stream = Stream::connect(&engine.nbd_tcp(), Duration::from_millis(300))?;
            let _ = stream.write_all(&bytes(64 + round * 7));
            // After a proper greeting.
            let mut stream = Stream::connect(&engine.nbd_unix(), Duration::from_millis(300))?;
            let mut greeting = [0; 18];
            stream.read_exact(&mut greeting)?;
            stream.write_all(&wire::CLIENT_FLAGS.to_be_bytes())?;
            stream.write_all(&wire::OPTION_MAGIC.to_be_bytes())?;
            let _ = stream.write_all(&bytes(300));
            // In the transmission phase.
            let mut client = Client::connect(&engine.nbd_tcp(), "garbage")?;
            let _ = client.send_raw(&bytes(28 * 10));
        }
        still_serves(engine, "garbage")
    })
}

#[test]
fn clients_that_stop_halfway_harm_nobody() -> Result<()> {
    with_shared(|cluster| {
        cluster.create_volume("halfway", 4 * MIB)?;
        let engine = &cluster.engines[0];
        let mut held = Vec::new();
        for _ in 0..20 {
            // Half a header, and a write whose payload never comes.
            let mut client = Client::connect(&engine.nbd_tcp(), "halfway")?;
            client.send_raw(&wire::request(0, Command::Write as u16, 1, 0, 4096)[..13])?;
            held.push(client);
            let mut client = Client::connect(&engine.nbd_tcp(), "halfway")?;
            client.send_raw(&wire::request(0, Command::Write as u16, 1, 0, 65536))?;
            client.send_raw(&[0; 1000])?;
            held.push(client);
        }
        still_serves(engine, "halfway")?;
        drop(held);
        still_serves(engine, "halfway")
    })
}
