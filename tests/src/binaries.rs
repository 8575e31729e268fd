//! Where the binaries under test are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};

/// The two programs that make up a cluster.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// `cairn-engine`.
    pub engine: PathBuf,
    /// `cairn`.
    pub cli: PathBuf,
}

/// Names the directory of the binaries, for running the suites against a build made elsewhere.
pub const DIR_VARIABLE: &str = "CAIRN_BIN_DIR";

impl Binaries {
    /// The binaries in `dir`, which must exist.
    pub fn in_dir(dir: &Path) -> Result<Self> {
        let found = Self {
            engine: dir.join("cairn-engine"),
            cli: dir.join("cairn"),
        };
        for path in [&found.engine, &found.cli] {
            if !path.is_file() {
                bail!(
                    "{} is not there: run `cargo build --workspace --bins` first",
                    path.display()
                );
            }
        }
        Ok(found)
    }

    /// The binaries for a test: those of `CAIRN_BIN_DIR`, else those built from this tree with the profile of the
    /// running test. They are brought up to date once a process, so that no suite ever judges an old engine.
    pub fn for_tests() -> Result<Self> {
        static FOUND: OnceLock<Result<Binaries, String>> = OnceLock::new();
        FOUND
            .get_or_init(|| locate().map_err(|error| format!("{error:#}")))
            .clone()
            .map_err(|error| anyhow!(error))
    }
}

fn locate() -> Result<Binaries> {
    if let Some(dir) = std::env::var_os(DIR_VARIABLE) {
        return Binaries::in_dir(Path::new(&dir));
    }
    // A test binary lies in target/<profile>/deps.
    let exe = std::env::current_exe().context("cannot find the running test binary")?;
    let profile_dir = exe
        .ancestors()
        .nth(2)
        .context("the test binary lies in no target directory")?;
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "build",
            "--quiet",
            "--profile",
            profile,
            "-p",
            "cairn-engine",
            "-p",
            "cairn-cli",
            "--bins",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .context("cannot run cargo to build the engine")?;
    if !status.success() {
        bail!("building cairn-engine and cairn failed: {status}");
    }
    Binaries::in_dir(profile_dir)
}
