//! A text is written to an encrypted volume, and every byte of every file and of every peer's connection is searched for it.
//! The same text with another word in it goes to a volume that is not encrypted, where the same search finds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cairn_tests::nbd::{Client, Command};
use cairn_tests::net::Relay;
use cairn_tests::{Cluster, ClusterOptions, keys, wait};

const VOLUME_BYTES: u64 = 32 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// What is looked for: the beginning of each sentence that is written.
fn mark(volume: &str) -> Vec<u8> {
    format!("this is the text of volume {volume}, ").into_bytes()
}

/// Sentences that begin with the mark, without end.
fn text(volume: &str, length: usize) -> Vec<u8> {
    let mark = String::from_utf8_lossy(&mark(volume)).into_owned();
    let sentences = (0..).flat_map(|number: u32| format!("{mark}sentence {number}; ").into_bytes());
    sentences.take(length).collect()
}

fn count(bytes: &[u8], mark: &[u8]) -> usize {
    let mut found = 0;
    let mut rest = bytes;
    // The first byte rules most places out, and a search for one byte is fast.
    while let Some(at) = rest.iter().position(|byte| *byte == mark[0]) {
        found += usize::from(rest[at..].starts_with(mark));
        rest = &rest[at + 1..];
    }
    found
}

/// Every file below a directory.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => all.extend(files(&entry.path())?),
            kind if kind.is_file() => all.push(entry.path()),
            _ => {}
        }
    }
    Ok(all)
}

/// Writes of all shapes: long and aligned, parts of blocks, across blocks, over a trimmed range; and what must be there then.
fn write_all_shapes(client: &mut Client, volume: &str) -> Result<Vec<u8>> {
    let mut model = vec![0; 4 << 20];
    let text = text(volume, model.len());
    for (offset, length) in [
        (0, 1 << 20),
        (2 << 20, 4096),
        ((2 << 20) + 5000, 700),
        ((2 << 20) + 8100, 300),
        (3 << 20, 65_537),
    ] {
        client.write(offset as u64, &text[offset..offset + length])?;
        model[offset..offset + length].copy_from_slice(&text[offset..offset + length]);
    }
    for (command, offset, length) in [
        (Command::Trim, 65_536, 131_072),
        (Command::WriteZeroes, 300_001, 10_000),
    ] {
        let reply = client.call(command, offset as u64, u32::try_from(length)?, &[])?;
        ensure!(reply.error == 0, "{command:?}: {reply:?}");
        model[offset..offset + length].fill(0);
    }
    let again = 70_000..70_100;
    client.write(again.start as u64, &text[again.clone()])?;
    model[again.clone()].copy_from_slice(&text[again]);
    Ok(model)
}

/// Uses a volume through one engine and reads it through the others.
fn use_volume(cluster: &Cluster, volume: &str) -> Result<()> {
    let mut client = Client::connect(&cluster.engines[0].nbd_tcp(), volume)?;
    let model = write_all_shapes(&mut client, volume)?;
    client.disconnect()?;
    for engine in &cluster.engines {
        let mut client = Client::connect(&engine.nbd_tcp(), volume)?;
        let found = client.read(0, u32::try_from(model.len())?)?;
        ensure!(found == model, "engine {} reads something else", engine.config.name);
        let tail = client.read(VOLUME_BYTES - 8192, 8192)?;
        ensure!(tail.iter().all(|byte| *byte == 0), "a hole is not zeros");
        client.disconnect()?;
    }
    Ok(())
}

#[test]
fn what_is_written_to_an_encrypted_volume_is_on_no_disk_and_on_no_wire() -> Result<()> {
    let options = ClusterOptions {
        disk_bytes: 256 << 20,
        ..ClusterOptions::default()
    };
    let mut relays = Vec::new();
    let mut cluster = keys::cluster(&options, |cluster| {
        for engine in &mut cluster.engines {
            let relay = Relay::start(engine.config.at(engine.config.data))?;
            engine.config.data_advertised = Some(relay.address());
            relays.push(relay);
        }
        Ok(())
    })?;
    keys::create_encrypted(&cluster, "hidden", VOLUME_BYTES)?;
    cluster.create_volume("public", VOLUME_BYTES)?;
    for volume in ["hidden", "public"] {
        use_volume(&cluster, volume).with_context(|| cluster.story())?;
    }
    let told = cluster.json(&["volume", "list"])?.to_string() + &cluster.json(&["key", "status"])?.to_string();
    ensure!(
        told.contains("aes-256-xts") && !told.contains(&keys::digits(1)),
        "{told}"
    );
    for engine in &mut cluster.engines {
        engine.terminate(PATIENCE)?;
    }
    let mut public_files = 0;
    for path in files(cluster.dir())? {
        let bytes = fs::read(&path)?;
        let hidden = count(&bytes, &mark("hidden"));
        ensure!(hidden == 0, "{} has the hidden text {hidden} times", path.display());
        public_files += usize::from(count(&bytes, &mark("public")) > 1000);
        let has_master = count(&bytes, keys::digits(1).as_bytes()) > 0;
        ensure!(
            !has_master || path == keys::path(cluster.dir()),
            "{} has the master key",
            path.display()
        );
    }
    ensure!(
        public_files == 3,
        "the search finds the public text in {public_files} files, and there are three disks"
    );
    let heard: Vec<Vec<u8>> = relays.iter().flat_map(Relay::heard).collect();
    let of = |volume: &str| heard.iter().map(|bytes| count(bytes, &mark(volume))).sum::<usize>();
    let (hidden, public) = (of("hidden"), of("public"));
    ensure!(hidden == 0, "peers were sent the hidden text {hidden} times");
    ensure!(
        public > 2000,
        "the search finds the public text {public} times on the wire"
    );
    let bytes: usize = heard.iter().map(Vec::len).sum();
    println!(
        "searched {bytes} bytes of {} connections; public text {public} times",
        heard.len()
    );
    Ok(())
}

/// The same disks with other master keys: the volume stays closed, and says why.
#[test]
fn without_its_master_key_a_volume_stays_closed() -> Result<()> {
    let options = ClusterOptions {
        disk_bytes: 256 << 20,
        ..ClusterOptions::default()
    };
    let mut cluster = keys::cluster(&options, |_| Ok(()))?;
    keys::create_encrypted(&cluster, "v", VOLUME_BYTES)?;
    Client::connect(&cluster.engines[0].nbd_tcp(), "v")?.disconnect()?;
    // An engine that was started without the section keeps its replica, and refuses to open the volume.
    cluster.engines[1].terminate(PATIENCE)?;
    cluster.engines[1].config.master_keys = None;
    cluster.engines[1].start()?;
    cluster.engines[1].wait_ready(PATIENCE)?;
    let refusal = |engine: usize| match Client::connect(&cluster.engines[engine].nbd_tcp(), "v") {
        Ok(_) => Ok(String::new()),
        Err(error) => Ok::<_, anyhow::Error>(format!("{error:#}")),
    };
    let without = wait::until("the engine knows the volume", PATIENCE, || {
        let refused = refusal(1)?;
        ensure!(refused.contains("cannot be decrypted"), "{refused}");
        Ok(refused)
    })?;
    ensure!(without.contains("[encryption.file]"), "{without}");
    // Gone from the file: the gateway of the first engine has closed meanwhile, and needs the key again.
    fs::write(keys::path(cluster.dir()), format!("main 2 {}\n", keys::digits(2)))?;
    std::thread::sleep(Duration::from_secs(2));
    let gone = wait::until("the volume is closed", PATIENCE, || {
        let refused = refusal(0)?;
        ensure!(refused.contains("no version 1 of key 'main'"), "'{refused}'");
        Ok(refused)
    })?;
    ensure!(gone.contains("master-keys"), "it does not name the file: {gone}");
    keys::write(cluster.dir(), 1)?;
    Client::connect(&cluster.engines[0].nbd_tcp(), "v")?.disconnect()
}
