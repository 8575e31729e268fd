//! Snapshots of real volumes on real engines, read over NBD, and what is made of them.
#![forbid(unsafe_code)]

mod backup;
mod clones;
mod exports;
mod together;

use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};
use cairn_tests::{Cluster, ClusterOptions, keys};

/// Runs a test on the cluster that all tests of this suite share: three engines with a key service.
fn with_keys(work: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        let options = ClusterOptions {
            disk_bytes: 1 << 30,
            ..ClusterOptions::default()
        };
        keys::cluster(&options, |_| Ok(())).map_err(|error| format!("{error:#}"))
    });
    let cluster = shared
        .as_ref()
        .map_err(|error| anyhow!("the shared cluster did not start: {error}"))?;
    work(cluster).with_context(|| cluster.story())
}
