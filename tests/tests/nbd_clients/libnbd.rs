//! Python's libnbd: the parts of the protocol that the command-line clients do not reach.

use std::path::Path;

use anyhow::Result;
use cairn_tests::cluster::with_shared;
use cairn_tests::{Cluster, Tool};

const MIB: u64 = 1 << 20;

/// Runs one of the scripts in `tests/python` with the URIs of the volume at the first two engines.
fn script(cluster: &Cluster, name: &str, volume: &str) -> Result<()> {
    cluster.create_volume(volume, 16 * MIB)?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name);
    let uris = [cluster.engines[0].uri(volume), cluster.engines[1].uri(volume)];
    Tool::new("/usr/bin/python3").arg(path).args(uris).ok().map(|_| ())
}

#[test]
fn structured_replies_and_block_status() -> Result<()> {
    with_shared(|cluster| script(cluster, "structured.py", "structured"))
}

#[test]
fn two_connections_through_two_engines_see_each_others_writes() -> Result<()> {
    with_shared(|cluster| script(cluster, "multi_conn.py", "multi-conn"))
}

#[test]
fn halves_of_a_block_written_at_once_both_stay() -> Result<()> {
    with_shared(|cluster| script(cluster, "halves.py", "halves"))
}

#[test]
fn requests_beyond_the_end_are_refused_and_the_connection_goes_on() -> Result<()> {
    with_shared(|cluster| script(cluster, "beyond.py", "beyond"))
}
