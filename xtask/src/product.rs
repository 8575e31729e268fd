//! The binaries that `demo` and `bench` run: built for release.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use cairn_tests::Binaries;
use cairn_tests::binaries::DIR_VARIABLE;

use crate::{root, target_dir};

/// Builds the engine and the command for release and says where they are. Cargo shows its own progress. With
/// `CAIRN_BIN_DIR` set, the binaries there are taken as they are.
pub(crate) fn build_release() -> Result<Binaries> {
    if let Some(dir) = std::env::var_os(DIR_VARIABLE) {
        println!("taking cairn-engine and cairn from {}", Path::new(&dir).display());
        return Binaries::in_dir(Path::new(&dir));
    }
    println!("building cairn-engine and cairn for release (some minutes the first time)");
    let status = Command::new("cargo")
        .args(["build", "--release", "-p", "cairn-engine", "-p", "cairn-cli", "--bins"])
        .current_dir(root())
        .stdin(Stdio::null())
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("the build failed: {status}");
    }
    Binaries::in_dir(&target_dir().join("release"))
}

/// Builds the measurements of a core by itself for release, and says where the program is.
pub(crate) fn build_core_bench() -> Result<PathBuf> {
    println!("building the measurements of a core for release (a minute or two the first time)");
    let status = Command::new("cargo")
        .args([
            "build",
            "--release",
            "--quiet",
            "-p",
            "cairn-benches",
            "--bin",
            CORE_BENCH,
        ])
        .current_dir(root())
        .stdin(Stdio::null())
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("the build failed: {status}");
    }
    Ok(target_dir().join("release").join(CORE_BENCH))
}

/// The program that measures a core by itself.
const CORE_BENCH: &str = "cairn-bench-core";
