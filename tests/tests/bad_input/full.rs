//! A full disk: writes that need space are refused, reads go on, and what was acknowledged stays.

use std::time::Duration;

use anyhow::{Result, ensure};
use cairn_tests::cluster::with_fresh;
use cairn_tests::ledger::Ledger;
use cairn_tests::load::{Failure, Load, Plan};
use cairn_tests::nbd::wire;
use cairn_tests::{ClusterOptions, verify};

/// Small disks, and a volume larger than they are.
const DISK_BYTES: u64 = 256 << 20;
const VOLUME_BLOCKS: u64 = 128 << 10;

#[test]
fn a_full_disk_answers_enospc_and_loses_nothing() -> Result<()> {
    let options = ClusterOptions {
        disk_bytes: DISK_BYTES,
        ..ClusterOptions::default()
    };
    with_fresh(&options, |cluster| {
        cluster.create_volume("v", VOLUME_BLOCKS * 4096)?;
        let plan = Plan {
            depth: 8,
            blocks_max: 64,
            read_percent: 5,
            pause: Duration::ZERO,
        };
        let ledger = Ledger::new(3, 0, VOLUME_BLOCKS);
        let outcome = Load::start(&cluster.engines[0].nbd_unix(), "v", ledger, plan.clone())?.join()?;
        ensure!(
            outcome.failure == Some(Failure::Refused(wire::ENOSPC)),
            "{:?}",
            outcome.failure
        );
        verify::expect_clean(&outcome.mismatches)?;
        let mut ledger = outcome.ledger;
        ensure!(ledger.written() > 20_000, "only {} blocks were taken", ledger.written());
        // Every block that was acknowledged can be read, through every engine, although nothing more can be written.
        for engine in &cluster.engines {
            let verified = verify::region(&engine.nbd_tcp(), "v", &mut ledger)?;
            verify::expect_clean(&verified.mismatches)?;
        }
        // A full disk stays full, with the same answer, and its engines go on.
        let again = Load::start(&cluster.engines[0].nbd_unix(), "v", ledger, plan)?.join()?;
        ensure!(
            again.failure == Some(Failure::Refused(wire::ENOSPC)),
            "{:?}",
            again.failure
        );
        let mut ledger = again.ledger;
        // Recovery from a full log needs no space either.
        for engine in &mut cluster.engines {
            engine.kill()?;
        }
        cluster.start_engines()?;
        cluster.wait_ready()?;
        cluster.leader("v")?;
        let verified = verify::region(&cluster.engines[1].nbd_tcp(), "v", &mut ledger)?;
        verify::expect_clean(&verified.mismatches)
    })
}
