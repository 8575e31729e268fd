//! A real filesystem image, made without mounting anything.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::{Tool, system};

/// Makes `dir/image.ext4` of `bytes`, filled with files from `source`, and returns its path.
pub fn ext4(dir: &Path, bytes: u64, source: &Path) -> Result<PathBuf> {
    let image = dir.join("image.ext4");
    fs::File::create(&image)?.set_len(bytes)?;
    Tool::new(mkfs())
        .args(["-q", "-F", "-L", "cairn", "-d"])
        .arg(source)
        .arg(&image)
        .ok()?;
    Ok(image)
}

/// Checks the filesystem in `image` without changing it.
pub fn fsck(image: &Path) -> Result<()> {
    Tool::new(system("e2fsck"))
        .args(["-f", "-n"])
        .arg(image)
        .ok()
        .map(|_| ())
}

fn mkfs() -> PathBuf {
    system("mkfs.ext4")
}

/// The SHA-256 of a file, as `sha256sum` computes it.
pub fn sha256(path: &Path) -> Result<String> {
    let ran = Tool::new("sha256sum").arg(path).ok()?;
    Ok(ran
        .stdout
        .split_whitespace()
        .next()
        .context("sha256sum printed nothing")?
        .to_owned())
}
