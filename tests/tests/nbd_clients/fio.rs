//! fio's `nbd` engine, which verifies what it wrote.

use anyhow::{Result, ensure};
use cairn_tests::cluster::with_shared;
use cairn_tests::fio::{Job, Target};

const MIB: u64 = 1 << 20;

#[test]
fn random_writes_verify() -> Result<()> {
    with_shared(|cluster| {
        cluster.create_volume("fio", 32 * MIB)?;
        let job = |uri: String| {
            Job::new(Target::Nbd(uri), "randwrite", "4k", 16)
                .with("size=32M")
                .with("verify=crc32c")
                .with("verify_fatal=1")
                .with("verify_state_save=0")
        };
        let written = job(cluster.engines[0].uri("fio")).run()?;
        ensure!(written.errors == 0 && written.bytes == 32 * MIB, "{written:?}");
        // The same blocks through another engine.
        let read = job(cluster.engines[1].unix_uri("fio")).with("verify_only=1").run()?;
        ensure!(read.errors == 0, "{read:?}");
        Ok(())
    })
}

/// Sixteen sectors of 512 bytes at a time, so that several of the same block are written at once: each is a
/// read-modify-write, and none may undo another.
#[test]
fn sectors_of_one_block_written_at_once_verify() -> Result<()> {
    with_shared(|cluster| {
        cluster.create_volume("sectors", 4 * MIB)?;
        let job = Job::new(Target::Nbd(cluster.engines[0].uri("sectors")), "write", "512", 16)
            .with("size=2M")
            .with("verify=crc32c")
            .with("verify_fatal=1")
            .with("verify_state_save=0");
        let figures = job.run()?;
        ensure!(figures.errors == 0 && figures.bytes == 2 * MIB, "{figures:?}");
        Ok(())
    })
}

#[test]
fn mixed_sizes_verify() -> Result<()> {
    with_shared(|cluster| {
        cluster.create_volume("mixed", 32 * MIB)?;
        let job = Job::new(Target::Nbd(cluster.engines[2].uri("mixed")), "randwrite", "4k", 8)
            .with("bsrange=4k-1M")
            .with("size=32M")
            .with("verify=crc32c")
            .with("verify_fatal=1")
            .with("verify_state_save=0");
        let figures = job.run()?;
        ensure!(figures.errors == 0, "{figures:?}");
        Ok(())
    })
}
