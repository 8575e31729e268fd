//! Members that come and go: replaced when dead, wiped or in the way, one step at a time and under load.

mod faults;
mod rules;

use std::time::Duration;

use cairn_api::ids::{GroupId, LogIndex, ReplicaId};
use cairn_core::event::{Command, CommandError, CommandReply, GroupSpec, GroupStatus, Member, MemberChange};
use cairn_sim::cluster::{Cluster, MILLISECOND, SECOND, Setup, disk_id, node_id};
use cairn_sim::workload::Workload;

pub(super) const VOLUME: GroupId = GroupId(2);
const BLOCKS: u64 = 300;

/// A volume of three replicas on the first nodes of a cluster, and a client on its last node, which has no replica.
pub(super) struct Scene {
    pub cluster: Cluster,
    /// As it was created.
    pub spec: GroupSpec,
    pub load: Workload,
    pub client: usize,
}

impl Scene {
    pub fn new(seed: u64, nodes: usize) -> Self {
        // Every newcomer to a disk writes the whole log to it, and nothing is reclaimed yet.
        let setup = Setup {
            nodes,
            disk_bytes: 2 << 30,
            ..Setup::new(seed)
        };
        Self::with(setup, 3)
    }

    pub fn with(setup: Setup, members: usize) -> Self {
        let (seed, nodes) = (setup.seed, setup.nodes);
        let mut cluster = Cluster::new(setup);
        let spec = cluster.spec(VOLUME, BLOCKS, members);
        cluster.create(&spec);
        let mut load = Workload::new(spec.clone(), seed);
        load.open(&mut cluster, nodes - 1);
        load.run(&mut cluster, 300 * MILLISECOND);
        Self {
            cluster,
            spec,
            load,
            client: nodes - 1,
        }
    }

    /// Asks the leader, whoever that is, until the change is made; the client goes on working. What was refused on the
    /// way is returned.
    pub fn change(&mut self, change: MemberChange) -> Vec<String> {
        let mut refusals = Vec::new();
        let end = self.cluster.now + 60 * SECOND;
        while self.cluster.now < end {
            match self.try_change(change) {
                Some(Ok(_)) => return refusals,
                Some(Err(error)) => refusals.push(error.to_string()),
                None => {}
            }
            self.load.run(&mut self.cluster, 50 * MILLISECOND);
        }
        panic!("{change:?} is not made within 60 s: {refusals:#?}");
    }

    /// Asks the leader once; `None` if there is none, or no answer.
    pub fn try_change(&mut self, change: MemberChange) -> Option<Result<CommandReply, CommandError>> {
        let leader = self.cluster.leader(VOLUME)?;
        let life = self.cluster.nodes[leader].life;
        let id = self
            .cluster
            .start_command(leader, Command::ChangeMembers { group: VOLUME, change });
        for _ in 0..400 {
            self.load.run(&mut self.cluster, 5 * MILLISECOND);
            let node = &mut self.cluster.nodes[leader];
            if let Some(result) = node.command_replies.remove(&id) {
                return Some(result);
            }
            if node.life != life {
                return None;
            }
        }
        None
    }

    /// A new replica on a node's empty disk takes the place of another one.
    pub fn replace(&mut self, old: u64, new: Member) {
        self.join(new);
        self.change(MemberChange::AddLearner(new));
        // What a learner lacks when its predecessor goes would be missing twice: it catches up first.
        self.await_caught_up(new.replica);
        self.change(MemberChange::Remove(ReplicaId(old)));
        self.change(MemberChange::Promote(new.replica));
    }

    /// Makes the replica on its disk: no member yet.
    pub fn join(&mut self, new: Member) {
        let number = self.number_of(&new);
        assert_eq!(
            self.cluster.make_replica(number, &self.spec, new.replica),
            Ok(CommandReply::Done)
        );
    }

    pub fn await_caught_up(&mut self, replica: ReplicaId) {
        for _ in 0..1200 {
            self.load.run(&mut self.cluster, 50 * MILLISECOND);
            let Some(leader) = self.cluster.leader(VOLUME) else {
                continue;
            };
            let status = self.cluster.status(leader, VOLUME);
            let matched = status.matched.iter().find(|(other, _)| *other == replica);
            if matched.is_some_and(|(_, matched)| matched.get() + 32 >= status.last.get()) {
                return;
            }
        }
        panic!("replica {replica} does not catch up within 60 s");
    }

    pub fn number_of(&self, member: &Member) -> usize {
        (0..self.cluster.nodes.len())
            .find(|number| disk_id(*number) == member.disk)
            .unwrap()
    }

    /// What a running member that has applied most knows.
    pub fn latest(&mut self) -> GroupStatus {
        let leader = self.cluster.await_leader(VOLUME, Duration::from_secs(20));
        self.cluster.status(leader, VOLUME)
    }

    pub fn voters(&mut self) -> Vec<u64> {
        numbers(&self.latest().membership.voters)
    }

    /// The group as its members are now.
    pub fn present(&mut self) -> GroupSpec {
        GroupSpec {
            base: None,
            members: self.latest().membership.voters,
            ..self.spec.clone()
        }
    }

    /// The load ends; everything that was ever acknowledged is there, on every voter alike.
    pub fn verify(&mut self) {
        self.load.bury_dead(&self.cluster);
        self.load.drain(&mut self.cluster, 40 * SECOND);
        if self.load.clients.is_empty() {
            self.load.open(&mut self.cluster, self.client);
        }
        let acknowledged = self.load.history.acknowledged;
        self.load.run(&mut self.cluster, 8 * SECOND);
        self.load.drain(&mut self.cluster, 40 * SECOND);
        assert!(self.load.history.acknowledged > acknowledged, "no writes are taken");
        self.load.verify_all(&mut self.cluster, 0);
        let present = self.present();
        self.cluster.quiesce(&present);
        let membership = self.latest().membership;
        for member in membership.all() {
            let number = self.number_of(member);
            if self.cluster.nodes[number].is_running() {
                let status = self.cluster.status(number, VOLUME);
                assert_eq!(status.membership, membership, "node {number} knows other members");
                assert_eq!(status.replica, member.replica);
            }
        }
    }
}

pub(super) fn numbers(members: &[Member]) -> Vec<u64> {
    let mut numbers: Vec<u64> = members.iter().map(|member| member.replica.get()).collect();
    numbers.sort_unstable();
    numbers
}

/// A replica that is to be made on a node.
pub(super) fn newcomer(replica: u64, node: usize) -> Member {
    Member {
        replica: ReplicaId(replica),
        node: node_id(node),
        disk: disk_id(node),
    }
}

#[test]
fn a_dead_member_is_replaced_under_load() {
    for seed in 900..902 {
        for dead in 0..3_usize {
            let mut scene = Scene::new(seed, 5);
            scene.cluster.crash(dead);
            scene.replace(dead as u64 + 1, newcomer(4, 3));
            let mut expected: Vec<u64> = (1..=4).filter(|number| *number != dead as u64 + 1).collect();
            expected.sort_unstable();
            assert_eq!(scene.voters(), expected);
            scene.verify();
            // The new one counts in full: the group goes on with it and one of the others.
            scene.cluster.crash((dead + 1) % 3);
            scene.verify();
        }
    }
}

/// A disk that has lost what it had acknowledged stays out for good under its number, and comes back under another one.
#[test]
fn a_disk_that_lost_data_is_replaced_and_its_old_replica_never_votes() {
    for seed in 905..908 {
        let mut scene = Scene::new(seed, 5);
        scene.cluster.crash(2);
        let first_frame = scene.cluster.nodes[2].config.geometry.segments_start + 4096;
        scene.cluster.nodes[2].disk.rot(first_frame);
        scene.cluster.start(2);
        scene.load.run(&mut scene.cluster, SECOND);
        let failure = scene.cluster.nodes[2].failure.clone().expect("the loss is noticed");
        assert!(failure.contains("has lost data"), "{failure}");
        // Nobody can make the old replica on the fresh disk, nor give its number to a new one.
        let old = scene.cluster.make_replica(3, &scene.spec, ReplicaId(3));
        assert!(
            matches!(&old, Err(CommandError::Refused(why)) if why.contains("is on disk")),
            "{old:?}"
        );
        let reused = scene.try_change(MemberChange::AddLearner(newcomer(3, 3)));
        assert!(matches!(&reused, Some(Err(_))), "{reused:?}");
        scene.join(newcomer(4, 3));
        scene.change(MemberChange::AddLearner(newcomer(4, 3)));
        scene.await_caught_up(ReplicaId(4));
        // A learner gives no majority: with it and one voter of three the group waits.
        let cut = scene.cluster.leader(VOLUME).unwrap();
        scene.cluster.crash(cut);
        scene.load.run(&mut scene.cluster, 6 * SECOND);
        assert_eq!(
            scene.cluster.leader(VOLUME),
            None,
            "a leader without a majority of voters"
        );
        scene.cluster.start(cut);
        scene.change(MemberChange::Remove(ReplicaId(3)));
        scene.change(MemberChange::Promote(ReplicaId(4)));
        assert_eq!(scene.voters(), [1, 2, 4]);
        scene.verify();
    }
}

/// A client whose gateway knew none of the members in the end works all along.
#[test]
fn all_members_are_replaced_in_turn_while_a_client_works() {
    for seed in 910..913 {
        let mut scene = Scene::new(seed, 7);
        for old in 0..3 {
            scene.replace(old as u64 + 1, newcomer(old as u64 + 4, old + 3));
            scene.cluster.crash(old);
        }
        assert_eq!(scene.voters(), [4, 5, 6]);
        scene.verify();
        // They restart from logs that begin with members of whom none is left.
        for node in 3..6 {
            scene.cluster.crash(node);
        }
        for node in 3..6 {
            scene.cluster.start(node);
        }
        scene.cluster.settle_start();
        scene.verify();
        assert_eq!(scene.voters(), [4, 5, 6]);
    }
}

/// A gateway that slept through all of it is told by the control plane.
#[test]
fn an_idle_gateway_is_told_of_members_that_it_never_met() {
    let mut scene = Scene::new(915, 8);
    let idle = 6;
    let device = scene.cluster.open(idle, &scene.spec.clone());
    for old in 0..3 {
        scene.replace(old as u64 + 1, newcomer(old as u64 + 4, old + 3));
        scene.cluster.crash(old);
    }
    let read = cairn_api::block::BlockOp::Read {
        offset: 0,
        length: 4096,
    };
    let limit = Duration::from_secs(5);
    assert!(scene.cluster.call_within(idle, device, read, limit).is_none());
    let membership = scene.latest().membership;
    let update = Command::UpdateMembers {
        group: VOLUME,
        revision: membership.revision,
        voters: membership.voters,
    };
    assert_eq!(scene.cluster.command(idle, update), Ok(CommandReply::Done));
    let read = cairn_api::block::BlockOp::Read {
        offset: 0,
        length: 4096,
    };
    assert!(scene.cluster.call_within(idle, device, read, limit).is_some());
    let stale = Command::UpdateMembers {
        group: VOLUME,
        revision: LogIndex(1),
        voters: scene.spec.members.clone(),
    };
    assert_eq!(scene.cluster.command(idle, stale), Ok(CommandReply::Done));
    let read = cairn_api::block::BlockOp::Read {
        offset: 0,
        length: 4096,
    };
    assert!(scene.cluster.call_within(idle, device, read, limit).is_some());
}

#[test]
fn a_group_grows_and_shrinks() {
    for seed in 916..919 {
        let mut scene = Scene::with(
            Setup {
                nodes: 6,
                disk_bytes: 256 << 20,
                ..Setup::new(seed)
            },
            1,
        );
        for (number, node) in [(2, 1), (3, 2), (4, 3), (5, 4)] {
            scene.join(newcomer(number, node));
            scene.change(MemberChange::AddLearner(newcomer(number, node)));
            scene.change(MemberChange::Promote(ReplicaId(number)));
        }
        assert_eq!(scene.voters(), [1, 2, 3, 4, 5]);
        scene.verify();
        for number in [2, 1, 5, 3] {
            scene.change(MemberChange::Remove(ReplicaId(number)));
        }
        assert_eq!(scene.voters(), [4]);
        scene.verify();
    }
}

/// Once the old replica is dropped nobody else can tell the new one that the removal is committed: it must know by itself.
#[test]
fn a_volume_of_one_that_moved_comes_back_from_a_restart_alone() {
    for seed in 920..924 {
        let mut scene = Scene::with(
            Setup {
                nodes: 3,
                ..Setup::new(seed)
            },
            1,
        );
        scene.join(newcomer(2, 1));
        scene.change(MemberChange::AddLearner(newcomer(2, 1)));
        scene.await_caught_up(ReplicaId(2));
        scene.load.drain(&mut scene.cluster, 20 * SECOND);
        let client = scene.load.clients.len() - 1;
        scene.load.close(&mut scene.cluster, client);
        // Nothing is written any more that would carry the commit index to the disk.
        scene.change(MemberChange::Promote(ReplicaId(2)));
        scene.change(MemberChange::Remove(ReplicaId(1)));
        let mut is_settled = false;
        for _ in 0..200 {
            let status = scene.cluster.status(1, VOLUME);
            is_settled = status.membership.was_removed(ReplicaId(1)) && status.settled >= status.membership.revision;
            if is_settled {
                break;
            }
            scene.cluster.run(Duration::from_millis(10));
        }
        assert!(is_settled, "the removal is not settled within 2 s");
        assert_eq!(
            scene.cluster.command(0, Command::DropGroup(VOLUME)),
            Ok(CommandReply::Done)
        );
        scene.cluster.crash(1);
        scene.cluster.start(1);
        scene.cluster.settle_start();
        assert_eq!(scene.voters(), [2], "seed {seed}");
    }
}

/// Each of several refusals by one member used to move the guess on, and three of them moved it around to the same member.
#[test]
fn a_gateway_whose_own_replica_is_gone_asks_the_others() {
    for requests in 1..6 {
        let mut scene = Scene::new(930, 5);
        scene.replace(1, newcomer(4, 3));
        scene.load.drain(&mut scene.cluster, 20 * SECOND);
        let client = scene.load.clients.len() - 1;
        scene.load.close(&mut scene.cluster, client);
        scene.cluster.run(Duration::from_secs(1));
        assert_eq!(
            scene.cluster.command(0, Command::DropGroup(VOLUME)),
            Ok(CommandReply::Done)
        );
        // It is opened as it was created: the first member that it knows is its own node's.
        let device = scene.cluster.open(0, &scene.spec.clone());
        let write = cairn_api::block::BlockOp::Write {
            offset: 0,
            data: vec![7; 4096].into(),
        };
        let mut tags = vec![scene.cluster.submit(0, device, write)];
        for block in 1..=requests {
            let read = cairn_api::block::BlockOp::Read {
                offset: block * 4096,
                length: 4096,
            };
            tags.push(scene.cluster.submit(0, device, read));
        }
        for tag in tags {
            let replied = scene.cluster.run_until(Duration::from_secs(10), |cluster| {
                cluster.nodes[0].replies.contains_key(&(device, tag))
            });
            assert!(replied, "{requests} reads beside a write: no reply to {tag:?}");
            let reply = scene.cluster.take_reply(0, device, tag);
            assert!(matches!(reply, Some(Ok(_))), "{reply:?}");
        }
    }
}
