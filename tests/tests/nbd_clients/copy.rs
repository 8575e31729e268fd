//! `nbdcopy`: a real filesystem in and out, byte for byte.

use std::path::Path;

use anyhow::{Result, ensure};
use cairn_tests::cluster::{scratch_dir, with_shared};
use cairn_tests::{Tool, image};

const BYTES: u64 = 64 << 20;

#[test]
fn an_ext4_image_survives_the_way_in_and_out() -> Result<()> {
    with_shared(|cluster| {
        cluster.create_volume("ext4", BYTES)?;
        let dir = scratch_dir("image")?;
        let source = Path::new(env!("CARGO_MANIFEST_DIR"));
        let original = image::ext4(&dir, BYTES, source)?;
        let sum = image::sha256(&original)?;
        // In through one engine over TCP, with several connections; out through another over its unix socket.
        Tool::new("nbdcopy")
            .arg("--connections=4")
            .arg(&original)
            .arg(cluster.engines[0].uri("ext4"))
            .ok()?;
        for (number, uri) in [cluster.engines[1].unix_uri("ext4"), cluster.engines[2].uri("ext4")]
            .iter()
            .enumerate()
        {
            let copy = dir.join(format!("copy-{number}"));
            Tool::new("nbdcopy").arg(uri).arg(&copy).ok()?;
            ensure!(image::sha256(&copy)? == sum, "{uri} gave back other bytes");
            image::fsck(&copy)?;
        }
        std::fs::remove_dir_all(&dir)?;
        Ok(())
    })
}

#[test]
fn one_volume_is_copied_into_another() -> Result<()> {
    with_shared(|cluster| {
        cluster.create_volume("from", 16 << 20)?;
        cluster.create_volume("to", 16 << 20)?;
        let (from, to) = (cluster.engines[0].uri("from"), cluster.engines[1].uri("to"));
        Tool::new("qemu-io")
            .args(["-f", "raw", &from, "-c", "write -P 0x42 1M 5M"])
            .ok()?;
        Tool::new("nbdcopy").args([&from, &to]).ok()?;
        Tool::new("qemu-img")
            .args(["compare", "-f", "raw", "-F", "raw", &from, &to])
            .ok()?;
        Ok(())
    })
}
