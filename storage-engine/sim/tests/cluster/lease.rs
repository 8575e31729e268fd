//! Reads under a lease are never stale: an old leader that is cut off, or stopped and woken, answers nothing old.

use std::time::Duration;

use bytes::Bytes;
use cairn_api::block::{BlockOp, BlockReply};
use cairn_api::ids::GroupId;
use cairn_core::event::{Command, DeviceId};

use cairn_sim::cluster::{Cluster, MILLISECOND, SECOND, Setup, read_bytes};
use cairn_sim::workload::Workload;

const VOLUME: GroupId = GroupId(2);

fn write_byte(cluster: &mut Cluster, node: usize, device: DeviceId, byte: u8, limit: Duration) -> bool {
    let op = BlockOp::Write {
        offset: 0,
        data: Bytes::from(vec![byte; 4096]),
    };
    match cluster.call_within(node, device, op, limit) {
        Some(reply) => {
            assert_eq!(reply, Ok(BlockReply::Done));
            true
        }
        None => false,
    }
}

/// A cluster whose leadership stays where it is unless somebody fails, a device on each node, and who leads. The first
/// byte is 1.
fn led(seed: u64, drift_ppm_max: u64) -> (Cluster, Vec<DeviceId>, [usize; 3]) {
    let mut setup = Setup {
        drift_ppm_max,
        ..Setup::new(seed)
    };
    setup.limits.move_leadership = false;
    let mut cluster = Cluster::new(setup);
    let spec = cluster.spec(VOLUME, 64, 3);
    cluster.create(&spec);
    let leader = cluster.leader(VOLUME).unwrap();
    let device = cluster.open(leader, &spec);
    assert!(write_byte(&mut cluster, leader, device, 1, Duration::from_secs(10)));
    cluster.close(leader, device);
    cluster.run(Duration::from_millis(1500 + seed % 7 * 20));
    assert_eq!(cluster.leader(VOLUME), Some(leader));
    let devices = (0..3).map(|node| cluster.open(node, &spec)).collect();
    (cluster, devices, [leader, (leader + 1) % 3, (leader + 2) % 3])
}

/// Writes through a node of the majority while the old leader is asked all the time; it may answer only as long as
/// nothing newer was acknowledged.
///
/// Gives how many reads it answered at all.
fn never_stale(cluster: &mut Cluster, devices: &[DeviceId], old: usize, writer: usize) -> u64 {
    let write = BlockOp::Write {
        offset: 0,
        data: Bytes::from(vec![2; 4096]),
    };
    let tag = cluster.submit(writer, devices[writer], write);
    let mut asked = Vec::new();
    let end = cluster.now + 12 * SECOND;
    let mut acknowledged_at = None;
    while cluster.now < end {
        let read = cluster.submit(
            old,
            devices[old],
            BlockOp::Read {
                offset: 0,
                length: 4096,
            },
        );
        asked.push((read, cluster.now));
        cluster.run(Duration::from_micros(700));
        if acknowledged_at.is_none() && cluster.nodes[writer].replies.contains_key(&(devices[writer], tag)) {
            acknowledged_at = Some(cluster.now);
        }
        if acknowledged_at.is_some_and(|at| cluster.now > at + SECOND) {
            break;
        }
    }
    let acknowledged_at = acknowledged_at.expect("the majority does not serve");
    let mut answered = 0;
    for (read, asked_at) in asked {
        if let Some(reply) = cluster.take_reply(old, devices[old], read) {
            answered += 1;
            let byte = read_bytes(reply)[0];
            assert!(
                byte == 2 || asked_at < acknowledged_at,
                "asked at {asked_at}, it answers {byte}"
            );
        }
    }
    answered
}

#[test]
fn a_leader_that_is_cut_off_answers_nothing_old() {
    for seed in 200..212 {
        let (mut cluster, devices, [old, one, other]) = led(seed, 20_000);
        cluster.isolate(old);
        let answered = never_stale(&mut cluster, &devices, old, if seed % 2 == 0 { one } else { other });
        assert!(answered > 0, "the old leader never answered: the test shows nothing");
    }
}

#[test]
fn a_leader_that_hears_but_cannot_speak_answers_nothing_old() {
    for seed in 220..226 {
        let (mut cluster, devices, [old, one, other]) = led(seed, 20_000);
        cluster.block(old, one);
        cluster.block(old, other);
        let answered = never_stale(&mut cluster, &devices, old, one);
        assert!(answered > 0, "the old leader never answered: the test shows nothing");
    }
}

#[test]
fn a_leader_that_speaks_but_cannot_hear_stops_answering() {
    for seed in 230..236 {
        let (mut cluster, devices, [old, one, other]) = led(seed, 20_000);
        cluster.block(one, old);
        cluster.block(other, old);
        // Its heartbeats keep the others from electing anyone until check-quorum makes it step down.
        let answered = never_stale(&mut cluster, &devices, old, one);
        assert!(answered > 0, "the old leader never answered: the test shows nothing");
    }
}

#[test]
fn a_leader_stopped_in_mid_lease_answers_nothing_old_when_it_wakes() {
    for seed in 240..252 {
        let (mut cluster, devices, [old, one, _]) = led(seed, 20_000);
        cluster.submit(
            old,
            devices[old],
            BlockOp::Read {
                offset: 0,
                length: 4096,
            },
        );
        cluster.pause(old, 3600 * SECOND);
        // A read comes in while the others elect a leader and write: it is there when the old leader wakes.
        assert!(
            write_byte(&mut cluster, one, devices[one], 2, Duration::from_secs(15)),
            "seed {seed}: no failover"
        );
        let acknowledged_at = cluster.now;
        let fresh = cluster.submit(
            old,
            devices[old],
            BlockOp::Read {
                offset: 0,
                length: 4096,
            },
        );
        cluster.resume(old);
        let end = cluster.now + 6 * SECOND;
        while cluster.now < end && !cluster.nodes[old].replies.contains_key(&(devices[old], fresh)) {
            cluster.run(Duration::from_micros(500));
        }
        let reply = cluster
            .take_reply(old, devices[old], fresh)
            .expect("no reply after it woke");
        assert_eq!(
            read_bytes(reply)[0],
            2,
            "seed {seed}: stale, written at {acknowledged_at}"
        );
    }
}

#[test]
fn a_restarted_follower_does_not_void_the_lease() {
    // The follower answers the leader, restarts at once, and must not help to elect another before the lease ends.
    for seed in 260..272 {
        let (mut cluster, mut devices, [old, one, other]) = led(seed, 10_000);
        cluster.isolate(old);
        cluster.crash(one);
        cluster.start(one);
        devices[one] = cluster.open(one, &cluster.spec(VOLUME, 64, 3));
        let answered = never_stale(&mut cluster, &devices, old, other);
        assert!(answered > 0, "the old leader never answered: the test shows nothing");
    }
}

#[test]
fn a_leader_that_has_handed_over_answers_nothing_old() {
    for seed in 290..298 {
        let (mut cluster, mut devices, [old, one, other]) = led(seed, 10_000);
        // It hears nothing any more, but its word to campaign gets out: the target need not wait for the lease to end.
        cluster.block(one, old);
        cluster.block(other, old);
        cluster.start_command(old, Command::HandOver);
        let elected = cluster.run_until(Duration::from_millis(100), |cluster| {
            cluster.nodes[one].leads(VOLUME) || cluster.nodes[other].leads(VOLUME)
        });
        assert!(elected, "seed {seed}: nobody was told to lead");
        let writer = if cluster.nodes[one].leads(VOLUME) { one } else { other };
        devices[writer] = cluster.open(writer, &cluster.spec(VOLUME, 64, 3));
        never_stale(&mut cluster, &devices, old, writer);
    }
}

#[test]
fn leadership_moves_under_load_without_a_stale_read() {
    for seed in 280..282 {
        let mut cluster = Cluster::new(Setup {
            drift_ppm_max: 20_000,
            ..Setup::new(seed)
        });
        let spec = cluster.spec(VOLUME, 64, 3);
        cluster.create(&spec);
        let mut load = Workload::new(spec.clone(), seed);
        for node in 0..3 {
            load.open(&mut cluster, node);
            let reader = load.clients.last_mut().unwrap();
            (reader.may_write, reader.depth) = (false, 2);
        }
        // The writer moves from node to node, and pulls the leadership after it.
        let mut leaders = std::collections::BTreeSet::new();
        for round in 0..3 {
            load.open(&mut cluster, round % 3);
            load.run(&mut cluster, 3700 * MILLISECOND);
            leaders.extend(cluster.leader(VOLUME));
            load.clients.last_mut().unwrap().may_write = false;
            load.drain(&mut cluster, 10 * SECOND);
            load.close(&mut cluster, 3);
            // The attachment is given back only when the node has no device left.
            let readers = load.clients.iter().position(|client| client.node == round % 3).unwrap();
            load.close(&mut cluster, readers);
            cluster.run(Duration::from_millis(200));
            load.open(&mut cluster, round % 3);
            load.clients.last_mut().unwrap().may_write = false;
        }
        assert!(leaders.len() > 1, "seed {seed}: leadership never moved");
        load.drain(&mut cluster, 10 * SECOND);
        assert!(load.history.checked > 1000);
        cluster.quiesce(&spec);
    }
}
