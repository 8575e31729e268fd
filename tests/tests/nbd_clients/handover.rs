//! One client after the other, each through another engine: the volume changes hands without a wait that anyone would notice.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cairn_tests::cluster::with_shared;
use cairn_tests::nbd::Client;

/// The longest that the first write through another engine may take: an election at worst, and far less than the time after
/// which a holder counts as gone.
const TAKE_MAX: Duration = Duration::from_secs(3);

#[test]
fn a_volume_changes_hands_at_once_when_its_client_says_goodbye() -> Result<()> {
    with_shared(|cluster| {
        cluster.create_volume("hands", 4 << 20)?;
        let mut slowest = Duration::ZERO;
        for round in 0..12u8 {
            let engine = &cluster.engines[usize::from(round % 3)];
            let start = Instant::now();
            let mut client = Client::connect(&engine.nbd_tcp(), "hands")?;
            client
                .write(0, &[round; 4096])
                .with_context(|| format!("round {round}, after {:?}", start.elapsed()))?;
            slowest = slowest.max(start.elapsed());
            ensure!(
                client.read(0, 4096)? == [round; 4096],
                "round {round} reads something else"
            );
            client.disconnect()?;
        }
        eprintln!("the slowest first write after a change of hands took {slowest:?}");
        ensure!(
            slowest <= TAKE_MAX,
            "a first write took {slowest:?}, at most {TAKE_MAX:?} are allowed"
        );
        Ok(())
    })
}

/// The client does not say goodbye, its connection just ends; and one is still connected, idle, elsewhere.
#[test]
fn a_volume_changes_hands_while_an_idle_reader_stays_connected() -> Result<()> {
    with_shared(|cluster| {
        cluster.create_volume("idle", 4 << 20)?;
        let mut reader = Client::connect(&cluster.engines[1].nbd_tcp(), "idle")?;
        for round in 1..5u8 {
            let engine = &cluster.engines[usize::from(round % 2) * 2];
            let start = Instant::now();
            let mut client = Client::connect(&engine.nbd_tcp(), "idle")?;
            client
                .write(0, &[round; 4096])
                .with_context(|| format!("round {round}, after {:?}", start.elapsed()))?;
            ensure!(start.elapsed() <= TAKE_MAX, "round {round} took {:?}", start.elapsed());
            drop(client);
            ensure!(
                reader.read(0, 4096)? == [round; 4096],
                "the reader sees something else in round {round}"
            );
        }
        Ok(())
    })
}
