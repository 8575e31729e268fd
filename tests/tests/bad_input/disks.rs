//! A disk that is damaged, cut short, somebody else's, or in use.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use cairn_tests::cluster::with_fresh;
use cairn_tests::command::{Tool, system};
use cairn_tests::nbd::Client;
use cairn_tests::{Cluster, ClusterOptions, Engine, ports, wait};

const PATIENCE: Duration = Duration::from_secs(30);
const BLOCK: usize = 4096;

/// One engine with a volume of one replica that holds a known block.
fn one_engine(work: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    let options = ClusterOptions {
        engines: 1,
        disk_bytes: 256 << 20,
        ..ClusterOptions::default()
    };
    with_fresh(&options, |cluster| {
        cluster.create_volume("v", 16 << 20)?;
        let mut client = Client::connect(&cluster.engines[0].nbd_tcp(), "v")?;
        client.write(8192, &[0x42; BLOCK])?;
        client.disconnect()?;
        work(cluster)
    })
}

fn still_there(cluster: &mut Cluster) -> Result<()> {
    cluster.start_engines()?;
    cluster.wait_ready()?;
    let read = wait::until("the volume serves", PATIENCE, || {
        let mut client = Client::connect(&cluster.engines[0].nbd_tcp(), "v")?;
        client.read(8192, u32::try_from(BLOCK)?)
    })?;
    ensure!(read == [0x42; BLOCK], "the block is lost");
    Ok(())
}

fn disk_of(cluster: &Cluster) -> PathBuf {
    cluster.engines[0].config.disks[0].clone()
}

/// Starts the engine and waits until it says why it cannot use its disk.
fn refuses(engine: &mut Engine, words: &[&str]) -> Result<()> {
    let before = engine.log().len();
    engine.start()?;
    wait::until("the engine names the problem", PATIENCE, || {
        let log = engine.log().get(before..).unwrap_or_default().to_owned();
        for word in words {
            ensure!(log.contains(word), "its log lacks '{word}': {log}");
        }
        Ok(())
    })?;
    if engine.is_running()? {
        engine.terminate(PATIENCE)?;
    }
    Ok(())
}

fn read_at(path: &Path, offset: SeekFrom, length: usize) -> Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(offset)?;
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn write_at(path: &Path, offset: SeekFrom, bytes: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.seek(offset)?;
    file.write_all(bytes)?;
    Ok(file.sync_all()?)
}

const FIRST_COPY: SeekFrom = SeekFrom::Start(0);
const SECOND_COPY: SeekFrom = SeekFrom::End(-4096);

#[test]
fn one_corrupt_copy_of_the_superblock_does_no_harm() -> Result<()> {
    one_engine(|cluster| {
        for copy in [FIRST_COPY, SECOND_COPY] {
            cluster.engines[0].kill()?;
            let disk = disk_of(cluster);
            let good = read_at(&disk, copy, BLOCK)?;
            write_at(&disk, copy, &[0xee; 512])?;
            still_there(cluster)?;
            cluster.engines[0].kill()?;
            write_at(&disk, copy, &good)?;
            still_there(cluster)?;
        }
        Ok(())
    })
}

#[test]
fn a_corrupt_superblock_is_named_and_nothing_is_overwritten() -> Result<()> {
    one_engine(|cluster| {
        cluster.engines[0].terminate(PATIENCE)?;
        let disk = disk_of(cluster);
        let good = [read_at(&disk, FIRST_COPY, BLOCK)?, read_at(&disk, SECOND_COPY, BLOCK)?];
        for copy in [FIRST_COPY, SECOND_COPY] {
            // One byte in the middle: the checksum must find it.
            let mut bad = read_at(&disk, copy, BLOCK)?;
            bad[40] ^= 0x10;
            write_at(&disk, copy, &bad)?;
        }
        refuses(&mut cluster.engines[0], &["superblock", "checksum"])?;
        write_at(&disk, FIRST_COPY, &good[0])?;
        write_at(&disk, SECOND_COPY, &good[1])?;
        still_there(cluster)
    })
}

#[test]
fn a_truncated_disk_is_named_and_serves_again_when_whole() -> Result<()> {
    one_engine(|cluster| {
        cluster.engines[0].terminate(PATIENCE)?;
        let disk = disk_of(cluster);
        let whole = disk.with_extension("whole");
        fs::copy(&disk, &whole)?;
        let length = fs::metadata(&disk)?.len();
        OpenOptions::new().write(true).open(&disk)?.set_len(length / 2)?;
        refuses(&mut cluster.engines[0], &["truncated"])?;
        ensure!(
            fs::metadata(&disk)?.len() == length / 2,
            "the engine changed the disk's length"
        );
        fs::rename(&whole, &disk)?;
        still_there(cluster)
    })
}

/// A loop device over a file: what the file has lost at its end cannot be read until it is written.
struct Loop {
    device: PathBuf,
    file: PathBuf,
}

impl Loop {
    fn over(file: &Path) -> Result<Self> {
        let ran = Tool::new(system("losetup"))
            .args(["--find", "--show", "--direct-io=on"])
            .arg(file)
            .ok()?;
        Ok(Self {
            device: ran.stdout.trim().into(),
            file: file.to_owned(),
        })
    }

    fn set_len(&self, bytes: u64) -> Result<()> {
        OpenOptions::new().write(true).open(&self.file)?.set_len(bytes)?;
        // The pages that the kernel has of the device know nothing of it.
        let flushed = Tool::new(system("blockdev")).arg("--flushbufs").arg(&self.device);
        flushed.ok().map(|_| ())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let detached = Tool::new(system("losetup")).arg("--detach").arg(&self.device).ok();
        if let Err(error) = detached {
            eprintln!("{} stays: {error:#}", self.device.display());
        }
    }
}

/// Where the first segment of a disk of 256 MiB begins, and the last two, in which nothing is yet.
const SEGMENTS: [u64; 3] = [1 << 20, 245 << 20, 249 << 20];

#[test]
fn what_cannot_be_read_is_not_taken_for_the_end_of_the_log() -> Result<()> {
    one_engine(|cluster| {
        cluster.engines[0].terminate(PATIENCE)?;
        let file = disk_of(cluster);
        let disk = Loop::over(&file)?;
        cluster.engines[0].config.disks = vec![disk.device.clone()];
        still_there(cluster)?;
        cluster.engines[0].terminate(PATIENCE)?;

        // Two segments, of which nobody can say then whether the log goes on there; and the last alone.
        disk.set_len(SEGMENTS[1])?;
        let at = |segment: usize| format!("cannot be read at byte {}", SEGMENTS[segment]);
        refuses(
            &mut cluster.engines[0],
            &[
                "cannot be read at byte 2",
                "Start the engine again",
                "cairn disk replace",
            ],
        )?;
        disk.set_len(SEGMENTS[2])?;
        refuses(&mut cluster.engines[0], &[&at(2), "cairn disk clear"])?;

        let clear = |byte: u64| {
            let device = disk.device.display().to_string();
            cluster.run(&["disk", "clear", &device, "--at", &byte.to_string()])
        };
        let cleared = clear(SEGMENTS[2])?;
        ensure!(cleared.code == Some(0), "{}", cleared.text());
        for (byte, code, words) in [
            (SEGMENTS[2], 6, "can be read: it is left as it is"),
            (SEGMENTS[0] + 1, 2, "is no block of its log"),
            (0, 2, "is no block of its log"),
        ] {
            let ran = clear(byte)?;
            ensure!(
                ran.code == Some(code) && ran.text().contains(words),
                "{byte}: {:?} {}",
                ran.code,
                ran.text()
            );
        }
        still_there(cluster)?;
        cluster.engines[0].terminate(PATIENCE)?;
        Ok(())
    })
}

#[test]
fn a_disk_of_another_cluster_is_refused() -> Result<()> {
    one_engine(|cluster| {
        let own = disk_of(cluster);
        one_engine(|other| {
            cluster.engines[0].terminate(PATIENCE)?;
            other.engines[0].terminate(PATIENCE)?;
            let foreign = disk_of(other);
            cluster.engines[0].config.disks = vec![foreign];
            refuses(&mut cluster.engines[0], &["belongs to cluster"])?;
            // The other cluster's disk took no harm.
            still_there(other)
        })?;
        cluster.engines[0].config.disks = vec![own];
        still_there(cluster)
    })
}

#[test]
fn two_engines_on_one_disk_are_kept_apart_by_a_lock() -> Result<()> {
    one_engine(|cluster| {
        let mut config = cluster.engines[0].config.clone();
        config.name = "second".to_owned();
        config.data_dir = cluster.dir().join("second.d");
        config.socket = cluster.dir().join("second.sock");
        for port in [
            &mut config.control,
            &mut config.data,
            &mut config.nbd,
            &mut config.metrics,
        ] {
            *port = ports::free()?;
        }
        let mut second = Engine::new(cluster.binaries(), cluster.dir(), config);
        refuses(&mut second, &["in use by another process"])?;
        still_there(cluster)
    })
}

#[test]
fn a_disk_that_was_never_formatted_is_refused() -> Result<()> {
    let options = ClusterOptions {
        engines: 1,
        ..ClusterOptions::default()
    };
    let binaries = cairn_tests::Binaries::for_tests()?;
    let mut cluster = Cluster::prepare(&binaries, &options)?;
    let disk = disk_of(&cluster);
    fs::write(&disk, vec![0; 64 << 20])?;
    refuses(&mut cluster.engines[0], &["cairn disk format"])?;
    ensure!(
        fs::read(&disk)?.iter().all(|byte| *byte == 0),
        "the engine wrote to a disk that is not its own"
    );
    Ok(())
}

#[test]
fn formatting_a_disk_that_holds_something_needs_force() -> Result<()> {
    one_engine(|cluster| {
        cluster.engines[0].terminate(PATIENCE)?;
        let disk = disk_of(cluster).display().to_string();
        let ran = cluster.run(&["disk", "format", &disk])?;
        ensure!(ran.code == Some(6), "exit code {:?}: {}", ran.code, ran.text());
        ensure!(
            ran.text().contains("--force"),
            "the message does not say how: {}",
            ran.text()
        );
        still_there(cluster)
    })
}
