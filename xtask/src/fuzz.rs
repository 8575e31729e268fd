//! `cargo xtask fuzz`: every decoder under a coverage-guided fuzzer for a while.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use cairn_tests::Tool;
use clap::Args;

use crate::root;
use crate::steps::{self, Counts, Steps};

/// The crates that have a fuzz crate beside them.
const CRATES: [&str; 2] = ["storage-engine/format", "storage-engine/frontends/nbd"];

/// What `cargo xtask fuzz` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cargo xtask fuzz\n  cargo xtask fuzz --seconds 600 superblock\n\n\
    Needs a nightly toolchain (rustup toolchain install nightly); cargo-fuzz is installed if it is missing."
)]
pub(crate) struct Options {
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Only these targets.
    targets: Vec<String>,
}

/// Fuzzes the targets one after the other.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut all = Vec::new();
    for dir in CRATES.map(|name| root().join(name)) {
        let names = targets(&dir.join("fuzz/fuzz_targets"))?;
        all.extend(names.into_iter().map(|name| (dir.clone(), name)));
    }
    if let Some(unknown) = options
        .targets
        .iter()
        .find(|target| !all.iter().any(|(_, name)| name == *target))
    {
        let names: Vec<&str> = all.iter().map(|(_, name)| name.as_str()).collect();
        bail!("there is no fuzz target {unknown}; there are: {}", names.join(", "));
    }
    if Tool::new("cargo").args(["fuzz", "--version"]).ok().is_err() {
        println!("installing: cargo-fuzz");
        steps::command(
            root(),
            "cargo",
            &["install", "cargo-fuzz", "--locked"],
            &mut Counts::default(),
        )?;
    }
    let limit = format!("-max_total_time={}", options.seconds);
    let mut steps = Steps::default();
    for (dir, target) in all
        .iter()
        .filter(|(_, target)| options.targets.is_empty() || options.targets.contains(target))
    {
        steps.run(&format!("fuzz {target}"), |counts| {
            // The host's own triple: a static one, which cargo-fuzz may choose, cannot link the sanitizer.
            let args = ["+nightly", "fuzz", "run", "--target", host(), target, "--", &limit];
            steps::command(dir, "cargo", &args, counts).map(Into::into)
        });
    }
    steps.finish()
}

fn host() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "aarch64-unknown-linux-gnu"
    } else {
        "x86_64-unknown-linux-gnu"
    }
}

fn targets(dir: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("no fuzz targets in {}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            found.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    found.sort();
    Ok(found)
}
