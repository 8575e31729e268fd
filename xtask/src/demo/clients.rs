//! Clients that nobody here wrote: a real filesystem image in and out, and QEMU's tools.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use cairn_tests::{Cluster, Tool, image};

use super::report::Report;
use crate::{progress, root};

/// The image: a filesystem of this size, on a volume of the same size.
const IMAGE_BYTES: u64 = 256 << 20;
/// Blocks of 4 KiB in it.
const IMAGE_BLOCKS: u64 = IMAGE_BYTES / 4096;
/// What fills the image besides the source code: bytes that do not compress and do not repeat.
const RANDOM_BYTES: &str = "64M";

/// The image that the volume `image` must hold from now on.
pub(super) struct Image {
    dir: PathBuf,
    sha256: String,
}

/// Shows the volume to each client.
pub(super) fn run(cluster: &Cluster, report: &mut Report) -> Result<Image> {
    cluster.create_volume("image", IMAGE_BYTES)?;
    let uri = cluster.engines[0].uri("image");
    let info = progress::during("nbdinfo", |_| Tool::new("nbdinfo").arg(&uri).ok())?;
    for line in info
        .stdout
        .lines()
        .filter(|line| line.contains("export-size") || line.contains("can_multi_conn"))
    {
        println!("      {}", line.trim());
    }
    let dir = cluster.dir().join("image");
    let made = progress::during("an ext4 image of 256 MiB with real files", |_| make(&dir))?;
    progress::during(
        "nbdcopy: image in, image out, SHA-256 equal, e2fsck clean",
        |activity| {
            let file = dir.join("image.ext4");
            activity.say("nbdcopy: image in");
            Tool::new("nbdcopy").arg(&file).arg(&uri).ok()?;
            activity.say("nbdcopy: image out, through another engine");
            check(&made, &cluster.engines[1].uri("image"))
        },
    )?;
    report.blocks_verified += IMAGE_BLOCKS;
    progress::during("qemu-img compare and convert, qemu-io patterns", |_| {
        qemu(cluster, &dir)
    })?;
    Ok(made)
}

/// Reads the image once more, after everything that happened meanwhile.
pub(super) fn verify_again(cluster: &Cluster, report: &mut Report, made: &Image) -> Result<()> {
    progress::during("nbdcopy: image out, SHA-256 still equal", |_| {
        check(made, &cluster.engines[0].uri("image"))
    })?;
    report.blocks_verified += IMAGE_BLOCKS;
    Ok(())
}

fn make(dir: &Path) -> Result<Image> {
    let source = dir.join("files");
    fs::create_dir_all(&source)?;
    // Sources only: beside them may lie build directories of any size.
    let sources = [
        "storage-engine/core/src",
        "storage-engine/engine/src",
        "cli/src",
        "tests/src",
        "xtask/src",
    ];
    Tool::new("cp")
        .args(["-r", "--parents"])
        .args(sources)
        .arg(&source)
        .dir(root())
        .ok()?;
    let random = source.join("random");
    Tool::new("dd")
        .args(["if=/dev/urandom", "bs=1M", "count=64", "status=none"])
        .arg(of(&random))
        .ok()?;
    let image = image::ext4(dir, IMAGE_BYTES, &source)?;
    ensure!(
        fs::metadata(&random)?.len() == 64 << 20,
        "the random file is not {RANDOM_BYTES}"
    );
    Ok(Image {
        dir: dir.to_path_buf(),
        sha256: image::sha256(&image)?,
    })
}

fn of(path: &Path) -> String {
    format!("of={}", path.display())
}

/// Copies the volume out and compares it with the image that went in.
fn check(made: &Image, uri: &str) -> Result<()> {
    let copy = made.dir.join("copy.ext4");
    if copy.exists() {
        fs::remove_file(&copy)?;
    }
    Tool::new("nbdcopy").arg(uri).arg(&copy).ok()?;
    let found = image::sha256(&copy)?;
    ensure!(
        found == made.sha256,
        "the image came back with SHA-256 {found}, it went in with {}",
        made.sha256
    );
    image::fsck(&copy)
}

fn qemu(cluster: &Cluster, dir: &Path) -> Result<()> {
    let uri = cluster.engines[0].uri("image");
    let compare = ["compare", "-f", "raw", "-F", "raw"];
    Tool::new("qemu-img")
        .args(compare)
        .arg(&uri)
        .arg(dir.join("image.ext4"))
        .ok()?;
    let qcow = dir.join("image.qcow2");
    Tool::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .arg(&uri)
        .arg(&qcow)
        .ok()?;
    Tool::new("qemu-img")
        .args(["compare", "-f", "qcow2", "-F", "raw"])
        .arg(&qcow)
        .arg(&uri)
        .ok()?;
    cluster.create_volume("qemu", 64 << 20)?;
    let commands = [
        "write -P 0x5a 0 1M",
        "write -P 0xa5 1000 3000",
        "read -P 0x5a 0 1000",
        "read -P 0xa5 1000 3000",
        "read -P 0x5a 4000 1000",
        "write -z 64k 64k",
        "read -P 0 64k 64k",
        "discard 128k 128k",
        "flush",
    ];
    let mut tool = Tool::new("qemu-io").args(["-f", "raw", &cluster.engines[1].uri("qemu")]);
    for command in commands {
        tool = tool.args(["-c", command]);
    }
    let ran = tool.ok()?;
    // qemu-io says so when a pattern does not match, and exits with 0 in some versions.
    ensure!(
        !ran.text().contains("Pattern verification failed"),
        "qemu-io read wrong bytes: {}",
        ran.text()
    );
    Ok(())
}
