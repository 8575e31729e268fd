//! Disks that are lost, or taken out, and replaced under load.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cairn_tests::cluster::with_fresh;
use cairn_tests::ledger::Ledger;
use cairn_tests::load::{Load, Plan};
use cairn_tests::{Cluster, ClusterOptions, wait};

use crate::scene::{self, BLOCKS, GATEWAY, VOLUME};

/// The index of the engine that is added.
const NEWCOMER: usize = 3;

/// Through these engines leadership stays where it is.
fn options(keep_leadership: &[usize]) -> ClusterOptions {
    ClusterOptions {
        disk_bytes: 640 << 20,
        keep_leadership: keep_leadership.to_vec(),
        ..ClusterOptions::default()
    }
}

/// Slow enough to leave room on the disks for as long as a test takes: a new replica receives every entry there ever was.
fn plan() -> Plan {
    Plan {
        pause: Duration::from_millis(2),
        ..scene::plan()
    }
}

/// Replaces a disk and sees it through.
fn replace(cluster: &Cluster, old: &str, new: &str) -> Result<()> {
    let args = ["disk", "replace", old, new, "--wait", "--timeout", "60s", "-o", "json"];
    let done = cluster.cairn().args(args).ok()?.json()?;
    ensure!(done["done"] == true, "{done}");
    // The volume and the meta group were on it.
    ensure!(done["groups_done"] == 2, "{done}");
    Ok(())
}

/// The nodes that hold the volume's replicas, all of which must answer.
fn holders(cluster: &Cluster) -> Result<BTreeSet<String>> {
    scene::healthy(cluster)?;
    let volume = cluster.volume(VOLUME)?;
    let replicas = volume["replicas"].as_array().context("no replicas")?;
    let nodes = replicas.iter().filter_map(|replica| replica["node"].as_str());
    Ok(nodes.map(str::to_owned).collect())
}

fn names(cluster: &Cluster, engines: &[usize]) -> BTreeSet<String> {
    let names = engines.iter().map(|index| cluster.engines[*index].config.name.clone());
    names.collect()
}

#[test]
fn a_lost_disk_is_replaced_by_a_new_engines_and_then_another_member_may_go() -> Result<()> {
    let options = options(&[GATEWAY]);
    with_fresh(&options, |cluster| {
        let load = scene::load_with(cluster, plan())?;
        let lost = cluster.leader(VOLUME)?;
        let left = 1 - lost;
        let old = cluster.disk_id(lost)?;
        cluster.engines[lost].kill()?;
        fs::remove_file(&cluster.engines[lost].config.disks[0])?;
        scene::progresses(&load)?;
        let newcomer = cluster.add_engine(&options)?;
        replace(cluster, &old, &cluster.disk_id(newcomer)?)?;
        scene::progresses(&load)?;
        let mut ledger = scene::stop_clean(load)?.ledger;
        ensure!(
            holders(cluster)? == names(cluster, &[left, GATEWAY, newcomer]),
            "other replicas"
        );
        // The disk was its node's only one, and the node is forgotten with it.
        let disks = cluster.json(&["disk", "list"])?;
        ensure!(!disks.to_string().contains(&old), "{disks}");
        scene::read_back(cluster, newcomer, &mut ledger)?;
        cluster.engines[left].kill()?;
        let load = Load::start(&cluster.engines[newcomer].nbd_tcp(), VOLUME, ledger, plan())?;
        scene::progresses(&load)?;
        // The newcomer leads by now, so that what is read are its own blocks.
        wait::until("the newcomer leads", scene::PATIENCE, || {
            ensure!(cluster.leader(VOLUME)? == newcomer, "another one leads");
            Ok(())
        })?;
        let mut ledger = scene::stop_clean(load)?.ledger;
        [newcomer, GATEWAY]
            .into_iter()
            .try_for_each(|engine| scene::read_back(cluster, engine, &mut ledger))
    })
}

#[test]
fn a_replacement_goes_on_when_the_meta_leader_is_killed_in_the_middle_of_it() -> Result<()> {
    let options = options(&[NEWCOMER]);
    with_fresh(&options, |cluster| {
        cluster.create_volume(VOLUME, BLOCKS * 4096)?;
        let newcomer = cluster.add_engine(&options)?;
        // Through an engine outside the meta group, which is never the one that is killed.
        let nbd = cluster.engines[newcomer].nbd_tcp();
        let load = Load::start(&nbd, VOLUME, Ledger::new(1, 0, BLOCKS), plan())?;
        scene::progresses(&load)?;
        let leader = meta_leader(cluster)?;
        let taken_out = (leader + 1) % 3;
        let old = cluster.disk_id(taken_out)?;
        let new = cluster.disk_id(newcomer)?;
        let begun = cluster.json(&["disk", "replace", &old, &new])?;
        cluster.engines[leader].kill()?;
        ensure!(begun["done"] == false, "nothing was left to interrupt: {begun}");
        scene::progresses(&load)?;
        cluster.engines[leader].start()?;
        replace(cluster, &old, &new)?;
        cluster.engines[leader].wait_ready(scene::PATIENCE)?;
        scene::progresses(&load)?;
        let mut ledger = scene::stop_clean(load)?.ledger;
        let third = 3 - leader - taken_out;
        ensure!(
            holders(cluster)? == names(cluster, &[leader, third, newcomer]),
            "other replicas"
        );
        is_empty_and_out_of_the_meta_group(cluster, taken_out, &old)?;
        [leader, third, taken_out, newcomer]
            .into_iter()
            .try_for_each(|engine| scene::read_back(cluster, engine, &mut ledger))
    })
}

/// The index of the engine that leads the meta group.
fn meta_leader(cluster: &Cluster) -> Result<usize> {
    let status = cluster.json(&["cluster", "status"])?;
    let name = status["meta_leader"].as_str().context("no meta leader")?;
    let mut engines = cluster.engines.iter();
    let found = engines.position(|engine| engine.config.name == name);
    found.context("an unknown meta leader")
}

/// The engine whose disk was taken out lives, and knows that nothing on it counts any more.
fn is_empty_and_out_of_the_meta_group(cluster: &Cluster, engine: usize, disk: &str) -> Result<()> {
    wait::until("the replaced disk is empty", scene::PATIENCE, || {
        let status = cluster
            .cairn_to(&[engine])
            .args(["cluster", "status", "-o", "json"])
            .ok()?
            .json()?;
        let nodes = status["nodes"].as_array().context("no nodes")?;
        let name = &cluster.engines[engine].config.name;
        let node = nodes.iter().find(|node| node["name"] == **name).context("no node")?;
        ensure!(node["meta_member"] == false, "it is a member of the meta group: {node}");
        let disks = node["disks"].as_array().context("no disks")?;
        let own = disks.iter().find(|own| own["disk_id"] == *disk).context("no disk")?;
        ensure!(own["state"] == "removed" && own["replicas"] == 0, "{own}");
        Ok(())
    })
}
