//! A follower that was away comes back from the leader's log, also when the leader must read old entries from its disk.

use std::time::Duration;

use cairn_api::ids::GroupId;

use cairn_sim::cluster::{Cluster, SECOND, Setup};
use cairn_sim::workload::Workload;

const VOLUME: GroupId = GroupId(2);

fn setup(seed: u64) -> Setup {
    let mut setup = Setup {
        disk_bytes: 512 << 20,
        ..Setup::new(seed)
    };
    // Small bounds, so that a short test passes them many times.
    setup.limits.link_bytes_max = 1 << 20;
    setup.limits.headers_kept_max = 64;
    setup
}

fn run(seed: u64, away: impl Fn(&mut Cluster, usize), back: impl Fn(&mut Cluster, usize)) {
    let mut cluster = Cluster::new(setup(seed));
    let spec = cluster.spec(VOLUME, 2000, 3);
    cluster.create(&spec);
    let mut load = Workload::new(spec.clone(), seed);
    load.mix.write = 60;
    load.open(&mut cluster, 0);
    load.run(&mut cluster, SECOND);
    let leader = cluster.leader(VOLUME).unwrap();
    let follower = (0..3).find(|node| *node != leader && *node != 0).unwrap();
    away(&mut cluster, follower);
    load.run(&mut cluster, 5 * SECOND);
    let behind = cluster.status(leader, VOLUME).last.get();
    assert!(behind > 1000, "only {behind} entries to catch up with");
    back(&mut cluster, follower);
    load.run(&mut cluster, SECOND);
    load.drain(&mut cluster, 20 * SECOND);
    cluster.quiesce(&spec);
    // The one that caught up must be good enough to lead.
    let leader = cluster.leader(VOLUME).unwrap();
    let third = (0..3).find(|node| *node != leader && *node != follower).unwrap();
    if leader != follower {
        cluster.crash(leader);
        load.bury_dead(&cluster);
        cluster.run(Duration::from_secs(6));
        if load.clients.is_empty() {
            load.open(&mut cluster, follower);
        }
    }
    load.run(&mut cluster, 2 * SECOND);
    load.drain(&mut cluster, 20 * SECOND);
    load.verify_all(&mut cluster, 0);
    assert!(cluster.nodes[third].is_running());
}

#[test]
fn after_a_long_stop() {
    for seed in 400..402 {
        run(
            seed,
            |cluster, node| cluster.pause(node, 3600 * SECOND),
            |cluster, node| cluster.resume(node),
        );
    }
}

#[test]
fn after_a_crash() {
    for seed in 410..412 {
        run(seed, Cluster::crash, Cluster::start);
    }
}

#[test]
fn after_being_cut_off() {
    for seed in 420..421 {
        run(seed, Cluster::isolate, |cluster, _| cluster.heal());
    }
}

#[test]
fn a_leader_that_was_restarted_serves_old_entries_too() {
    // What it has in memory after recovery is other than what it had before.
    for seed in 430..432 {
        let restart_others = |cluster: &mut Cluster, node: usize| {
            for other in (0..3).filter(|other| *other != node) {
                cluster.crash(other);
                cluster.start(other);
            }
            cluster.settle_start();
            cluster.start(node);
        };
        let mut cluster = Cluster::new(setup(seed));
        let spec = cluster.spec(VOLUME, 2000, 3);
        cluster.create(&spec);
        let mut load = Workload::new(spec.clone(), seed);
        load.open(&mut cluster, 0);
        load.run(&mut cluster, SECOND);
        cluster.crash(2);
        load.run(&mut cluster, 4 * SECOND);
        restart_others(&mut cluster, 2);
        load.bury_dead(&cluster);
        load.open(&mut cluster, 1);
        load.run(&mut cluster, 2 * SECOND);
        load.drain(&mut cluster, 20 * SECOND);
        load.verify_all(&mut cluster, 0);
        cluster.quiesce(&spec);
    }
}

#[test]
fn the_queue_to_a_stopped_follower_is_bounded() {
    let mut cluster = Cluster::new(setup(440));
    let spec = cluster.spec(VOLUME, 2000, 3);
    cluster.create(&spec);
    let mut load = Workload::new(spec, 440);
    load.mix.write = 80;
    load.open(&mut cluster, 0);
    load.run(&mut cluster, SECOND);
    let leader = cluster.leader(VOLUME).unwrap();
    let follower = (0..3).find(|node| *node != leader && *node != 0).unwrap();
    cluster.pause(follower, 3600 * SECOND);
    let bound = cluster.setup.limits.link_bytes_max + (4 << 20);
    for _ in 0..50 {
        load.run(&mut cluster, SECOND / 10);
        let queued = cluster.queued_bytes(leader, follower);
        assert!(queued <= bound, "{queued} bytes queued to a stopped follower");
    }
}
