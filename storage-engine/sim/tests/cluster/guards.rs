//! What later versions of the raft crate mended, guarded here for the version in use; and the meta group's commands.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use cairn_api::ids::{GroupId, LogIndex};
use cairn_core::event::{Command, CommandError, CommandReply, Role};

use cairn_sim::cluster::{Cluster, MILLISECOND, SECOND, Setup};
use cairn_sim::workload::Workload;

const VOLUME: GroupId = GroupId(2);

/// Entries are applied on a replica only when they are durable there. The leader's disk is so slow that the followers
/// commit long before it: it must not acknowledge from memory, and what it applied must be there after a crash.
#[test]
fn nothing_is_applied_before_it_is_durable_here() {
    for seed in 700..703 {
        let mut cluster = Cluster::new(Setup::new(seed));
        let spec = cluster.spec(VOLUME, 400, 3);
        cluster.create(&spec);
        let leader = cluster.leader(VOLUME).unwrap();
        let mut load = Workload::new(spec.clone(), seed);
        load.open(&mut cluster, leader);
        load.run(&mut cluster, 500 * MILLISECOND);
        cluster.nodes[leader].write_latency = Some((20 * MILLISECOND, 60 * MILLISECOND));
        for _ in 0..100 {
            load.run(&mut cluster, 5 * MILLISECOND);
            // `check_durable_applied` compares what is applied with what the disk holds.
            cluster.check_applied_is_durable(leader, VOLUME);
        }
        cluster.nodes[leader].write_latency = None;
        load.drain(&mut cluster, 20 * SECOND);
        cluster.crash(leader);
        load.bury_dead(&cluster);
        cluster.start(leader);
        cluster.settle_start();
        load.open(&mut cluster, leader);
        load.run(&mut cluster, 8 * SECOND);
        load.drain(&mut cluster, 20 * SECOND);
        load.verify_all(&mut cluster, 0);
        cluster.quiesce(&spec);
    }
}

/// Divergent logs: a leader that is cut off appends what nobody gets, others go on; when it comes back its tail is
/// rejected, probed and replaced, again and again, with delayed rejections of earlier connections mixed in.
#[test]
fn rejected_appends_neither_panic_nor_loop() {
    for seed in 710..713 {
        let mut cluster = Cluster::new(Setup::new(seed));
        let spec = cluster.spec(VOLUME, 400, 3);
        cluster.create(&spec);
        let mut load = Workload::new(spec.clone(), seed);
        load.open(&mut cluster, 0);
        for round in 0..6 {
            load.run(&mut cluster, 300 * MILLISECOND);
            let Some(leader) = cluster.leader(VOLUME) else { continue };
            cluster.isolate(leader);
            load.run(&mut cluster, (500 + 400 * (round % 3)) * MILLISECOND);
            let other = (leader + 1) % 3;
            cluster.break_link(other, leader);
            cluster.run(Duration::from_millis(2500));
            cluster.heal();
        }
        load.run(&mut cluster, 3 * SECOND);
        load.drain(&mut cluster, 30 * SECOND);
        load.verify_all(&mut cluster, 0);
        cluster.quiesce(&spec);
    }
}

/// A restarted replica has forgotten that it heard a leader: it helps nobody to win an election for a while.
#[test]
fn a_restarted_replica_does_not_vote_at_once() {
    for seed in 720..728 {
        let mut cluster = Cluster::new(Setup::new(seed));
        let spec = cluster.spec(VOLUME, 64, 3);
        cluster.create(&spec);
        cluster.run(Duration::from_secs(3));
        let leader = cluster.leader(VOLUME).unwrap();
        let (voter, candidate) = ((leader + 1) % 3, (leader + 2) % 3);
        // The candidate has not heard the leader for almost long enough when the voter restarts.
        cluster.isolate(candidate);
        cluster.run(Duration::from_millis(900));
        cluster.crash(voter);
        cluster.isolate(leader);
        cluster.heal_between(voter, candidate);
        cluster.start(voter);
        let restarted = cluster.now;
        let elected = cluster.run_until(Duration::from_secs(20), |cluster| {
            cluster.nodes[candidate].leads(VOLUME) || cluster.nodes[voter].leads(VOLUME)
        });
        assert!(elected, "seed {seed}: nobody is elected");
        let waited = cluster.now - restarted;
        let timeout = u64::try_from(cluster.setup.timing.election_timeout().as_nanos()).unwrap();
        assert!(
            waited >= timeout * 99 / 100,
            "seed {seed}: elected {waited} ns after the voter's restart"
        );
    }
}

/// An election of all-new replicas needs no such wait.
#[test]
fn a_new_group_elects_its_first_leader_fast() {
    let mut cluster = Cluster::new(Setup::new(730));
    let spec = cluster.spec(VOLUME, 64, 3);
    cluster.settle_start();
    cluster.run(Duration::from_millis(500));
    let start = cluster.now;
    cluster.create(&spec);
    assert!(cluster.now - start < 2 * SECOND, "{} ns", cluster.now - start);
}

/// Proposals of very different length, all at once: payload and entry stay together, in order.
#[test]
fn payload_stays_with_its_entry() {
    for seed in 740..742 {
        let mut cluster = Cluster::new(Setup::new(seed));
        let spec = cluster.spec(VOLUME, 4000, 3);
        cluster.create(&spec);
        let mut load = Workload::new(spec.clone(), seed);
        load.blocks_max = 256;
        load.mix.write = 70;
        load.open(&mut cluster, 0);
        load.clients[0].depth = 32;
        load.run(&mut cluster, 400 * MILLISECOND);
        load.drain(&mut cluster, 20 * SECOND);
        load.verify_all(&mut cluster, 0);
        cluster.quiesce(&spec);
    }
}

#[test]
fn commands_of_the_meta_group_arrive_in_order_on_every_member() {
    for seed in 750..754 {
        let mut cluster = Cluster::new(Setup::new(seed));
        let meta = cluster.spec(GroupId::META, 0, 3);
        cluster.create(&meta);
        for node in 0..3 {
            let start = Command::StartApply {
                group: GroupId::META,
                applied: LogIndex(0),
            };
            assert_eq!(cluster.command(node, start), Ok(CommandReply::Done));
        }
        let mut committed: BTreeMap<u64, Bytes> = BTreeMap::new();
        for i in 0..60_u32 {
            let data = Bytes::from(vec![i as u8 + 1; 1 + (i as usize * 977) % 20_000]);
            loop {
                let leader = cluster.await_leader(GroupId::META, Duration::from_secs(10));
                match cluster.command(
                    leader,
                    Command::Propose {
                        group: GroupId::META,
                        data: data.clone(),
                    },
                ) {
                    Ok(CommandReply::Committed(index)) => {
                        committed.insert(index.get(), data.clone());
                        let handed = cluster.nodes[leader].applied.iter().any(|(_, at, _)| *at == index);
                        assert!(handed, "the reply came before the command was handed over");
                        break;
                    }
                    Err(CommandError::NotLeader { .. } | CommandError::Uncertain | CommandError::Refused(_)) => {
                        cluster.run(Duration::from_millis(100));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        cluster.run(Duration::from_secs(1));
        check_applied(&cluster, &committed, 0);
        restart_and_check(&mut cluster, &committed);
    }
}

fn restart_and_check(cluster: &mut Cluster, committed: &BTreeMap<u64, Bytes>) {
    for node in 0..3 {
        cluster.crash(node);
        cluster.start(node);
    }
    cluster.settle_start();
    // Each state machine says how far it is: what follows comes again, and nothing before.
    let resume = *committed.keys().nth(30).unwrap();
    for node in 0..3 {
        let start = Command::StartApply {
            group: GroupId::META,
            applied: LogIndex(resume),
        };
        assert_eq!(cluster.command(node, start), Ok(CommandReply::Done));
    }
    let leader = cluster.await_leader(GroupId::META, Duration::from_secs(10));
    cluster.run(Duration::from_secs(2));
    assert_eq!(
        cluster.command(leader, Command::ReadBarrier(GroupId::META)),
        Ok(CommandReply::Done)
    );
    check_applied(cluster, committed, resume);
    let follower = (leader + 1) % 3;
    let status = cluster.status(follower, GroupId::META);
    assert_eq!(status.role, Role::Follower);
    let refused = cluster.command(
        follower,
        Command::Propose {
            group: GroupId::META,
            data: Bytes::from_static(b"x"),
        },
    );
    assert!(
        matches!(refused, Err(CommandError::NotLeader { leader: Some(_) })),
        "{refused:?}"
    );
}

fn check_applied(cluster: &Cluster, committed: &BTreeMap<u64, Bytes>, after: u64) {
    for (number, node) in cluster.nodes.iter().enumerate() {
        let indices: Vec<u64> = node.applied.iter().map(|(_, index, _)| index.get()).collect();
        assert!(
            indices.windows(2).all(|pair| pair[0] < pair[1]),
            "node {number}: {indices:?}"
        );
        assert!(indices.iter().all(|index| *index > after));
        for (index, data) in committed.range(after + 1..) {
            let found = node.applied.iter().find(|(_, at, _)| at.get() == *index);
            assert!(
                found.is_some_and(|(_, _, got)| got == data),
                "node {number} lacks command {index}"
            );
        }
    }
}
