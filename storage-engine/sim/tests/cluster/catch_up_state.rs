//! A replica whose log ends before the leader's begins is given the state at a mark, and is then like any other.

use std::time::Duration;

use bytes::Bytes;
use cairn_api::block::{BlockOp, BlockReply};
use cairn_api::ids::{GroupId, ReplicaId, SnapshotId};
use cairn_core::SNAPSHOTS_MAX;
use cairn_core::event::{Command, Member, MemberChange};
use cairn_sim::cluster::{Cluster, MILLISECOND, SECOND, Setup, disk_id, node_id, read_bytes};
use cairn_sim::workload::Workload;

use super::members::Scene;

const VOLUME: GroupId = GroupId(2);

fn setup(seed: u64) -> Setup {
    let mut setup = Setup {
        disk_bytes: 512 << 20,
        ..Setup::new(seed)
    };
    setup.limits.headers_kept_max = 64;
    // A second of the workload writes many times as much.
    setup.limits.log_kept_max = 40;
    setup
}

struct Stage {
    cluster: Cluster,
    load: Workload,
    spec: cairn_core::event::GroupSpec,
    leader: usize,
    follower: usize,
}

impl Stage {
    /// A volume of three replicas under load, and one of its followers, on whose node is no client.
    fn new(setup: Setup, blocks: u64) -> Self {
        let seed = setup.seed;
        let mut cluster = Cluster::new(setup);
        let spec = cluster.spec(VOLUME, blocks, 3);
        cluster.create(&spec);
        let mut load = Workload::new(spec.clone(), seed);
        load.mix.write = 50;
        load.mix.trim = 10;
        load.mix.zero = 5;
        load.open(&mut cluster, 0);
        load.run(&mut cluster, SECOND);
        let leader = cluster.leader(VOLUME).unwrap();
        let follower = (0..3).find(|node| *node != leader && *node != 0).unwrap();
        Self {
            cluster,
            load,
            spec,
            leader,
            follower,
        }
    }

    /// The follower is away until its log ends before the leader's begins.
    fn leave_behind(&mut self) {
        self.cluster.crash(self.follower);
        let had = self.cluster.status(self.leader, VOLUME).last;
        self.load.run(&mut self.cluster, 3 * SECOND);
        let first = self.cluster.status(self.leader, VOLUME).first;
        assert!(
            first > had.next(),
            "the leader's log begins at {first}, the follower's ended at {had}"
        );
    }

    /// The load goes on until the follower receives a state.
    fn await_receiving(&mut self) {
        for _ in 0..2000 {
            self.load.run(&mut self.cluster, 5 * MILLISECOND);
            if self.cluster.status(self.follower, VOLUME).catch_up.is_some() {
                return;
            }
        }
        panic!("the follower is not given a state within 10 s");
    }

    /// The load goes on until the follower's log reaches to the leader's.
    fn await_caught_up(&mut self) {
        for _ in 0..600 {
            self.load.run(&mut self.cluster, 50 * MILLISECOND);
            let Some(leader) = self.cluster.leader(VOLUME) else {
                continue;
            };
            let last = self.cluster.status(leader, VOLUME).last.get();
            if self.cluster.status(self.follower, VOLUME).applied.get() + 32 >= last {
                return;
            }
        }
        panic!("the follower does not catch up within 30 s");
    }

    /// The load ends; the replicas are equal, and what was acknowledged can be read, also at the follower if it leads.
    fn verify(mut self) {
        self.load.bury_dead(&self.cluster);
        if self.load.clients.is_empty() {
            self.load.open(&mut self.cluster, 0);
        }
        self.load.drain(&mut self.cluster, 30 * SECOND);
        self.load.verify_all(&mut self.cluster, 0);
        let spec = self.spec.clone();
        self.cluster.quiesce(&spec);
        for number in 0..3 {
            self.cluster.check_applied_is_durable(number, VOLUME);
        }
        // It stays so after a restart of all.
        for number in 0..3 {
            self.cluster.crash(number);
        }
        (0..3).for_each(|number| self.cluster.start(number));
        self.cluster.settle_start();
        self.load.bury_dead(&self.cluster);
        let client = self.follower;
        self.load.open(&mut self.cluster, client);
        self.load.run(&mut self.cluster, 2 * SECOND);
        self.load.drain(&mut self.cluster, 30 * SECOND);
        self.load.verify_all(&mut self.cluster, 0);
        self.cluster.quiesce(&spec);
    }
}

#[test]
fn a_follower_that_was_away_longer_than_the_log() {
    for seed in 700..704 {
        let mut stage = Stage::new(setup(seed), 2000);
        stage.leave_behind();
        stage.cluster.start(stage.follower);
        stage.await_receiving();
        stage.await_caught_up();
        stage.verify();
    }
}

#[test]
fn the_mark_is_dropped_when_nobody_needs_it() {
    let mut stage = Stage::new(setup(705), 2000);
    stage.leave_behind();
    stage.cluster.start(stage.follower);
    stage.await_receiving();
    let leader = stage.cluster.leader(VOLUME).unwrap();
    assert!(stage.cluster.status(leader, VOLUME).mark.is_some());
    stage.await_caught_up();
    for _ in 0..30 {
        stage.load.run(&mut stage.cluster, SECOND / 2);
    }
    for number in 0..3 {
        let status = stage.cluster.status(number, VOLUME);
        assert_eq!(status.mark, None, "node {number}");
        let kept = status.last.get() - status.first.get();
        assert!(kept < 200, "node {number} keeps {kept} entries");
    }
    stage.verify();
}

#[test]
fn only_what_changed_is_sent() {
    let mut cluster = Cluster::new(setup(706));
    let spec = cluster.spec(VOLUME, 20_000, 3);
    cluster.create(&spec);
    let device = cluster.open(0, &spec);
    let write = |cluster: &mut Cluster, block: u64, blocks: usize, value: u8| {
        let (offset, data) = (block * 4096, vec![value; blocks << 12].into());
        let reply = cluster.call(0, device, BlockOp::Write { offset, data });
        assert!(reply.is_ok(), "{reply:?}");
    };
    (0..40).for_each(|part| write(&mut cluster, part * 64, 64, 7));
    cluster.run(Duration::from_millis(200));
    let follower = (1..3).find(|node| Some(*node) != cluster.leader(VOLUME)).unwrap();
    cluster.crash(follower);
    (0..100).for_each(|part| write(&mut cluster, 25 * part, 1, 9));
    cluster.start(follower);
    let mut received = None;
    for _ in 0..60_000 {
        cluster.step();
        let caught_up = cluster.nodes[follower].caught_up_bytes;
        received = received.max(Some(caught_up)).filter(|bytes| *bytes > 0);
    }
    let received = received.expect("the follower is given a state");
    let least = 40 * 4096;
    assert!((least..=100 * 4096).contains(&received), "{received} bytes were sent");
    cluster.quiesce(&spec);
}

/// Snapshots of before, some of which are deleted while the follower receives what they keep, and some made meanwhile.
#[test]
fn snapshots_are_part_of_the_state() {
    for seed in 740..743 {
        let mut setup = setup(seed);
        setup.limits.catch_up_rate = 2 << 20;
        let mut stage = Stage::new(setup, 2000);
        let leader = stage.leader;
        let ask = |stage: &mut Stage, command: Command| {
            let reply = stage.cluster.command(leader, command);
            assert!(reply.is_ok(), "{reply:?}");
            stage.load.run(&mut stage.cluster, 300 * MILLISECOND);
        };
        let group = VOLUME;
        let create = |id: u64| Command::CreateSnapshot {
            group,
            snapshot: SnapshotId(id),
        };
        let delete = |id: u64| Command::DeleteSnapshot {
            group,
            snapshot: SnapshotId(id),
        };
        (1..4).for_each(|id| ask(&mut stage, create(id)));
        stage.leave_behind();
        (4..6).for_each(|id| ask(&mut stage, create(id)));
        ask(&mut stage, delete(3));
        stage.cluster.start(stage.follower);
        stage.await_receiving();
        ask(&mut stage, delete(2));
        ask(&mut stage, create(6));
        ask(&mut stage, delete(5));
        stage.await_caught_up();
        for number in 0..3 {
            assert_eq!(stage.cluster.status(number, VOLUME).snapshots, 3, "node {number}");
        }
        stage.verify();
    }
}

/// As many snapshots as a volume may have, all with another version of one block, which then go into one reply.
#[test]
fn a_thousand_snapshots_of_one_block_are_part_of_the_state() {
    let mut stage = Stage::new(setup(745), 2000);
    stage.load.drain(&mut stage.cluster, 10 * SECOND);
    stage.cluster.crash(stage.follower);
    let spec = stage.spec.clone();
    let (leader, cluster) = (stage.leader, &mut stage.cluster);
    let device = cluster.open(leader, &spec);
    let write = |cluster: &mut Cluster, number: u64| {
        let data = Bytes::from(number.to_le_bytes().repeat(512));
        let reply = cluster.call(leader, device, BlockOp::Write { offset: 8192, data });
        assert_eq!(reply, Ok(BlockReply::Done));
    };
    let most = u64::try_from(SNAPSHOTS_MAX).unwrap();
    assert!(most >= 1000);
    for number in 1..=most {
        write(cluster, number);
        let snapshot = SnapshotId(number);
        let reply = cluster.command(
            leader,
            Command::CreateSnapshot {
                group: VOLUME,
                snapshot,
            },
        );
        assert!(reply.is_ok(), "{number}: {reply:?}");
    }
    write(cluster, most + 1);
    let more = Command::CreateSnapshot {
        group: VOLUME,
        snapshot: SnapshotId(most + 1),
    };
    let refused = cluster.command(leader, more).unwrap_err().to_string();
    assert!(refused.contains("the most there can be"), "{refused}");
    cluster.start(stage.follower);
    cluster.run(Duration::from_secs(20));
    for number in 0..3 {
        let snapshots = u64::try_from(cluster.status(number, VOLUME).snapshots).unwrap();
        assert_eq!(snapshots, most, "node {number}");
    }
    cluster.quiesce(&spec);
    for number in [1, 2, 500, 999, most] {
        let size_blocks = spec.size_blocks;
        let device = cluster.open_as(stage.follower, &spec, size_blocks, Some(SnapshotId(number)));
        let (offset, length) = (8192, 4096);
        let bytes = read_bytes(cluster.call(stage.follower, device, BlockOp::Read { offset, length }));
        assert_eq!(bytes[..8], number.to_le_bytes(), "snapshot {number}");
    }
}

/// With one member gone, the leader can commit nothing before the one that is behind has the state.
#[test]
fn the_only_other_voter_is_given_the_state() {
    for seed in 750..753 {
        let mut stage = Stage::new(setup(seed), 2000);
        stage.leave_behind();
        let third = (0..3)
            .find(|node| ![stage.leader, stage.follower].contains(node))
            .unwrap();
        stage.cluster.crash(third);
        stage.load.bury_dead(&stage.cluster);
        if stage.load.clients.is_empty() {
            stage.load.open(&mut stage.cluster, stage.leader);
        }
        stage.cluster.start(stage.follower);
        stage.await_caught_up();
        stage.cluster.start(third);
        stage.cluster.settle_start();
        stage.verify();
    }
}

/// Until the record of a new state is durable the replica does not campaign, however long the disk takes.
#[test]
fn a_slow_disk_while_a_state_is_installed() {
    let mut installed = 0;
    for seed in 760..763 {
        let mut stage = Stage::new(setup(seed), 2000);
        stage.leave_behind();
        stage.cluster.start(stage.follower);
        stage.await_receiving();
        let behind = stage.cluster.status(stage.follower, VOLUME).applied;
        let latency = Some((1900 * MILLISECOND, 1900 * MILLISECOND));
        stage.cluster.nodes[stage.follower].write_latency = latency;
        for _ in 0..6000 {
            stage.load.run(&mut stage.cluster, 5 * MILLISECOND);
            if stage.cluster.status(stage.follower, VOLUME).applied > behind {
                installed += 1;
                break;
            }
        }
        stage.cluster.isolate(stage.follower);
        stage.load.run(&mut stage.cluster, 5 * SECOND);
        stage.cluster.nodes[stage.follower].write_latency = None;
        stage.cluster.heal();
        stage.await_caught_up();
        stage.verify();
    }
    assert!(
        installed > 0,
        "no follower had a state installed while its disk was slow"
    );
}

#[test]
fn the_leader_dies_in_the_middle() {
    for seed in 710..714 {
        let mut setup = setup(seed);
        setup.limits.catch_up_rate = 4 << 20;
        let mut stage = Stage::new(setup, 4000);
        stage.leave_behind();
        stage.cluster.start(stage.follower);
        stage.await_receiving();
        stage.load.run(&mut stage.cluster, 300 * MILLISECOND);
        stage.cluster.crash(stage.leader);
        stage.load.bury_dead(&stage.cluster);
        stage.cluster.run(Duration::from_secs(4));
        if stage.load.clients.is_empty() {
            stage.load.open(&mut stage.cluster, stage.follower);
        }
        stage.await_caught_up();
        stage.cluster.start(stage.leader);
        stage.verify();
    }
}

#[test]
fn the_receiver_crashes_in_the_middle() {
    for seed in 720..724 {
        let mut setup = setup(seed);
        setup.limits.catch_up_rate = 4 << 20;
        let mut stage = Stage::new(setup, 4000);
        stage.leave_behind();
        for pause in [10, 100, 300, 700] {
            stage.cluster.start(stage.follower);
            stage.await_receiving();
            stage.load.run(&mut stage.cluster, pause * MILLISECOND);
            stage.cluster.crash(stage.follower);
            stage.load.run(&mut stage.cluster, 500 * MILLISECOND);
        }
        stage.cluster.start(stage.follower);
        stage.await_caught_up();
        stage.verify();
    }
}

#[test]
fn a_newcomer_is_given_the_state_instead_of_the_log() {
    for seed in 730..733 {
        let setup = Setup {
            nodes: 5,
            ..setup(seed)
        };
        let mut scene = Scene::with(setup, 3);
        scene.load.run(&mut scene.cluster, 2 * SECOND);
        let new = Member {
            replica: ReplicaId(4),
            node: node_id(3),
            disk: disk_id(3),
        };
        scene.replace(2, new);
        assert!(scene.cluster.status(3, VOLUME).first.get() > 40);
        scene.change(MemberChange::Remove(ReplicaId(1)));
        assert_eq!(scene.voters(), [3, 4]);
        scene.verify();
    }
}
