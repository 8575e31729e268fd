//! Crashes and stops under load: nothing acknowledged is lost, nobody is told an error, and service goes on.

use std::time::Duration;

use cairn_api::ids::GroupId;

use cairn_sim::cluster::{Cluster, MILLISECOND, SECOND, Setup};
use cairn_sim::workload::Workload;

const VOLUME: GroupId = GroupId(2);
const BLOCKS: u64 = 800;

fn loaded(seed: u64, gateway: usize) -> (Cluster, Workload) {
    let mut cluster = Cluster::new(Setup::new(seed));
    let spec = cluster.spec(VOLUME, BLOCKS, 3);
    cluster.create(&spec);
    let mut load = Workload::new(spec, seed);
    load.open(&mut cluster, gateway);
    load.run(&mut cluster, SECOND);
    assert!(
        load.history.acknowledged > 50,
        "only {} writes in a second",
        load.history.acknowledged
    );
    (cluster, load)
}

fn finish(cluster: &mut Cluster, load: &mut Workload) {
    load.drain(cluster, 20 * SECOND);
    assert!(
        load.clients.iter().all(|client| client.refused.is_none()),
        "a client was refused"
    );
    load.verify_all(cluster, 0);
    let spec = load.spec.clone();
    cluster.quiesce(&spec);
}

/// Runs until a write is acknowledged; the nanoseconds that took.
fn stall(cluster: &mut Cluster, load: &mut Workload) -> u64 {
    let start = cluster.now;
    let seen = load.history.acknowledged;
    while load.history.acknowledged == seen {
        load.run(cluster, 4 * MILLISECOND);
        assert!(cluster.now - start < 30 * SECOND, "no write is acknowledged any more");
    }
    cluster.now - start
}

#[test]
fn a_leaders_crash_is_a_pause_of_at_most_three_seconds() {
    for seed in 100..106 {
        let (mut cluster, mut load) = loaded(seed, 0);
        // Make somebody else lead, so that the gateway outlives the leader.
        let gateway = cluster.leader(VOLUME).unwrap();
        let node = (0..3).find(|node| *node != gateway).unwrap();
        load.close(&mut cluster, 0);
        cluster.run(Duration::from_millis(100));
        load.open(&mut cluster, node);
        load.run(&mut cluster, 50 * MILLISECOND);
        let leader = cluster.leader(VOLUME).unwrap();
        if leader == node {
            continue;
        }
        cluster.crash(leader);
        let stalled = stall(&mut cluster, &mut load);
        assert!(
            stalled <= 3 * SECOND,
            "seed {seed}: {stalled} ns without an acknowledged write"
        );
        load.run(&mut cluster, SECOND);
        cluster.start(leader);
        load.run(&mut cluster, 2 * SECOND);
        finish(&mut cluster, &mut load);
    }
}

#[test]
fn the_gateways_own_node_may_crash() {
    for seed in 110..113 {
        let (mut cluster, mut load) = loaded(seed, 1);
        cluster.crash(1);
        load.bury_dead(&cluster);
        load.open(&mut cluster, 2);
        // The dead node held the attachment: the next gateway waits until it counts as gone.
        load.run(&mut cluster, 9 * SECOND);
        cluster.start(1);
        load.run(&mut cluster, 2 * SECOND);
        finish(&mut cluster, &mut load);
    }
}

#[test]
fn a_follower_that_stops_slows_no_write() {
    for seed in 120..121 {
        let (mut cluster, mut load) = loaded(seed, 0);
        let leader = cluster.leader(VOLUME).unwrap();
        let follower = (0..3).find(|node| *node != leader && *node != 0).unwrap();
        cluster.pause(follower, 60 * SECOND);
        let mut worst = 0;
        let end = cluster.now + 5 * SECOND;
        while cluster.now < end {
            worst = worst.max(stall(&mut cluster, &mut load));
        }
        assert!(
            worst <= 200 * MILLISECOND,
            "seed {seed}: {worst} ns without an acknowledged write"
        );
        cluster.resume(follower);
        load.run(&mut cluster, 2 * SECOND);
        finish(&mut cluster, &mut load);
    }
}

#[test]
fn all_crash_at_once_and_nothing_acknowledged_is_lost() {
    for seed in 130..135 {
        let (mut cluster, mut load) = loaded(seed, (seed % 3) as usize);
        for round in 0..2 {
            for node in 0..3 {
                cluster.crash(node);
            }
            load.bury_dead(&cluster);
            cluster.run(Duration::from_millis(100));
            for node in 0..3 {
                cluster.start(node);
            }
            cluster.settle_start();
            load.open(&mut cluster, ((seed + round) % 3) as usize);
            load.run(&mut cluster, 4 * SECOND);
        }
        finish(&mut cluster, &mut load);
    }
}

#[test]
fn handing_over_leaves_no_leadership_and_no_error() {
    use cairn_core::event::{Command, CommandReply};
    for seed in 150..154 {
        let (mut cluster, mut load) = loaded(seed, 0);
        let leader = cluster.leader(VOLUME).unwrap();
        let id = cluster.start_command(leader, Command::HandOver);
        let deadline = cluster.now + 5 * SECOND;
        while !cluster.nodes[leader].command_replies.contains_key(&id) {
            load.run(&mut cluster, 10 * MILLISECOND);
            assert!(cluster.now < deadline, "seed {seed}: still leading after 5 s");
        }
        assert_eq!(cluster.nodes[leader].command_replies[&id], Ok(CommandReply::Done));
        assert_ne!(cluster.leader(VOLUME), Some(leader));
        load.run(&mut cluster, SECOND);
        assert_ne!(cluster.leader(VOLUME), Some(leader), "it leads again while it drains");
        cluster.crash(leader);
        load.bury_dead(&cluster);
        cluster.start(leader);
        cluster.settle_start();
        if load.clients.is_empty() {
            load.open(&mut cluster, 0);
        }
        load.run(&mut cluster, 3 * SECOND);
        finish(&mut cluster, &mut load);
    }
}

#[test]
fn volumes_that_share_disks_and_frames_crash_and_come_back_together() {
    for seed in 160..163 {
        let mut cluster = Cluster::new(Setup::new(seed));
        let mut loads = Vec::new();
        for number in 0..5 {
            let spec = cluster.spec(GroupId(2 + number), 200, 3);
            cluster.create(&spec);
            let mut load = Workload::new(spec, seed * 10 + number);
            load.open(&mut cluster, (number % 3) as usize);
            loads.push(load);
        }
        for round in 0..3 {
            for _ in 0..20 {
                loads
                    .iter_mut()
                    .for_each(|load| load.run(&mut cluster, 15 * MILLISECOND));
            }
            let victims = if round == 1 { 0..1 } else { 0..3 };
            victims.clone().for_each(|node| cluster.crash(node));
            victims.for_each(|node| cluster.start(node));
            cluster.settle_start();
            for load in &mut loads {
                load.bury_dead(&cluster);
                if load.clients.is_empty() {
                    load.open(&mut cluster, round);
                }
            }
            cluster.run(Duration::from_secs(4));
        }
        for load in &mut loads {
            load.drain(&mut cluster, 30 * SECOND);
            load.verify_all(&mut cluster, 0);
            let spec = load.spec.clone();
            cluster.quiesce(&spec);
        }
    }
}
