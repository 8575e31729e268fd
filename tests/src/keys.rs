//! The master keys of a test's cluster, in a file that every engine reads.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::{Binaries, Cluster, ClusterOptions};
use anyhow::Result;

/// Where a cluster keeps them.
pub fn path(dir: &Path) -> PathBuf {
    dir.join("master-keys")
}

/// The digits of a version of the key `main`.
pub fn digits(version: u32) -> String {
    format!("{:02x}", 0xa0 + version).repeat(32)
}

/// Versions 1 to `last` of the key `main`.
pub fn write(dir: &Path, last: u32) -> Result<()> {
    let line = |version| format!("main {version} {}\n", digits(version));
    let fresh = dir.join("master-keys.new");
    fs::write(&fresh, (1..=last).map(line).collect::<String>())?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    // In one step: an engine may read them at any time.
    fs::rename(&fresh, path(dir))?;
    Ok(())
}

/// Three engines with key service, configured further by `configure`, joined into a cluster.
pub fn cluster(options: &ClusterOptions, configure: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<Cluster> {
    let mut cluster = Cluster::prepare(&Binaries::for_tests()?, options)?;
    let file = path(cluster.dir());
    write(cluster.dir(), 1)?;
    for engine in &mut cluster.engines {
        engine.config.master_keys = Some(file.clone());
    }
    configure(&mut cluster)?;
    cluster.found(options.disk_bytes)?;
    Ok(cluster)
}

/// Creates an encrypted volume and waits until it can be used.
pub fn create_encrypted(cluster: &Cluster, name: &str, bytes: u64) -> Result<()> {
    let size = bytes.to_string();
    let args = ["volume", "create", name, "--size", &size, "--encrypted"];
    cluster.cairn().args(args).ok()?;
    Ok(())
}
