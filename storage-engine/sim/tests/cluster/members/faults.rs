//! Crashes and partitions between the steps, and in the middle of them.

use cairn_history::rng::Rng;

use super::*;

/// A change whose proposer dies is finished, or not, by whoever comes next; a leader that inherits its own removal steps
/// down when it applies it.
#[test]
fn a_leader_that_inherits_its_own_removal_steps_down() {
    for seed in 950..956 {
        let mut scene = Scene::new(seed, 5);
        scene.load.drain(&mut scene.cluster, 20 * SECOND);
        let leader = scene.cluster.leader(VOLUME).unwrap();
        let (heir, third) = ((leader + 1) % 3, (leader + 2) % 3);
        // The entry reaches the heir only, and its acknowledgement does not come back.
        scene.cluster.block(leader, third);
        scene.cluster.block(heir, leader);
        let change = MemberChange::Remove(ReplicaId(heir as u64 + 1));
        scene
            .cluster
            .start_command(leader, Command::ChangeMembers { group: VOLUME, change });
        scene.cluster.run(Duration::from_millis(60));
        assert_eq!(scene.cluster.status(heir, VOLUME).membership.voters.len(), 3);
        scene.cluster.crash(leader);
        scene.cluster.heal();
        scene.cluster.run(Duration::from_secs(4));
        scene.cluster.start(leader);
        scene.load.run(&mut scene.cluster, 6 * SECOND);
        // Whether the entry got there in time is the seed's affair; the volume must go on either way.
        scene.change(change);
        assert!(!scene.voters().contains(&(heir as u64 + 1)));
        assert!(!scene.cluster.nodes[heir].leads(VOLUME), "a removed replica leads");
        scene.verify();
    }
}

/// Everything that a control plane would do, repeated until it is done, while nodes crash at any moment.
#[test]
fn a_replacement_is_finished_whatever_crashes_on_the_way() {
    let mut lost = 0;
    for seed in 960..972 {
        let mut rng = Rng::new(seed ^ 0x4D45_4D42);
        let mut scene = Scene::new(seed, 5);
        let new = newcomer(4, 3);
        scene.join(new);
        let old = scene.cluster.leader(VOLUME).unwrap() as u64 + rng.below(3);
        let old = old % 3 + 1;
        let steps = [
            MemberChange::AddLearner(new),
            MemberChange::Promote(new.replica),
            MemberChange::Remove(ReplicaId(old)),
        ];
        for step in steps {
            // The step is begun; then somebody crashes, or everybody.
            if let Some(leader) = scene.cluster.leader(VOLUME) {
                scene.cluster.start_command(
                    leader,
                    Command::ChangeMembers {
                        group: VOLUME,
                        change: step,
                    },
                );
            }
            scene.cluster.run(Duration::from_nanos(rng.below(4 * MILLISECOND)));
            let doomed: Vec<usize> = (0..4).filter(|_| rng.chance(45)).collect();
            for node in &doomed {
                scene.cluster.crash(*node);
                lost += 1;
            }
            scene.load.run(&mut scene.cluster, rng.below(2 * SECOND));
            for node in doomed {
                scene.cluster.start(node);
            }
            scene.cluster.settle_start();
            scene.change(step);
        }
        assert_eq!(scene.voters().len(), 3);
        assert!(!scene.voters().contains(&old));
        scene.verify();
    }
    assert!(lost > 20, "only {lost} crashes");
}

/// Members change to and fro while links and nodes fail at random. `CAIRN_MEMBERS_SEEDS=first..end` runs other seeds.
#[test]
fn members_change_under_random_faults() {
    let seeds = std::env::var("CAIRN_MEMBERS_SEEDS").unwrap_or_else(|_| "985..991".to_owned());
    let (first, end) = seeds.split_once("..").expect("CAIRN_MEMBERS_SEEDS=first..end");
    for seed in first.parse().unwrap()..end.parse().unwrap() {
        eprintln!("seed {seed}");
        let mut rng = Rng::new(seed ^ 0x4641_554C);
        let mut scene = Scene::new(seed, 7);
        let mut number = 3;
        for round in 0..rng.between(3, 6) {
            // A free disk is one without a member: its old replica is dropped first.
            let membership = loop {
                if let Some(leader) = scene.cluster.leader(VOLUME) {
                    break scene.cluster.status(leader, VOLUME).membership;
                }
                scene.load.run(&mut scene.cluster, 50 * MILLISECOND);
            };
            let free = (0..6)
                .find(|node| membership.on_disk(disk_id(*node)).is_none())
                .unwrap();
            if !scene.cluster.nodes[free].is_running() {
                scene.cluster.start(free);
                scene.cluster.settle_start();
            }
            assert_eq!(
                scene.cluster.command(free, Command::DropGroup(VOLUME)),
                Ok(CommandReply::Done)
            );
            number += 1;
            let old = membership.voters[rng.pick(membership.voters.len())].replica;
            disturb(&mut scene, &mut rng);
            scene.join_patiently(newcomer(number, free));
            scene.change_healing(MemberChange::AddLearner(newcomer(number, free)), &mut rng);
            disturb(&mut scene, &mut rng);
            if round % 2 == 0 {
                scene.change_healing(MemberChange::Promote(ReplicaId(number)), &mut rng);
                disturb(&mut scene, &mut rng);
                scene.change_healing(MemberChange::Remove(old), &mut rng);
            } else {
                scene.change_healing(MemberChange::Remove(old), &mut rng);
                disturb(&mut scene, &mut rng);
                scene.change_healing(MemberChange::Promote(ReplicaId(number)), &mut rng);
            }
        }
        heal(&mut scene);
        assert_eq!(scene.voters().len(), 3);
        scene.verify();
    }
}

fn disturb(scene: &mut Scene, rng: &mut Rng) {
    let node = rng.pick(6);
    let other = (node + 1 + rng.pick(5)) % 6;
    match rng.below(6) {
        0 | 1 if scene.cluster.nodes[node].is_running() => scene.cluster.crash(node),
        2 => scene.cluster.isolate(node),
        3 => scene.cluster.block(node, other),
        4 => scene.cluster.pause(node, rng.between(10 * MILLISECOND, 2 * SECOND)),
        _ => {}
    }
    scene.load.run(&mut scene.cluster, rng.below(800 * MILLISECOND));
}

fn heal(scene: &mut Scene) {
    scene.cluster.heal();
    for node in 0..6 {
        if !scene.cluster.nodes[node].is_running() {
            scene.cluster.start(node);
        }
        scene.cluster.resume(node);
    }
    scene.cluster.settle_start();
}

impl Scene {
    /// A few attempts among the faults; then these end, and it must be made.
    fn change_healing(&mut self, change: MemberChange, rng: &mut Rng) {
        for _ in 0..rng.below(6) {
            if let Some(Ok(_)) = self.try_change(change) {
                return;
            }
            self.load.run(&mut self.cluster, rng.below(400 * MILLISECOND));
        }
        heal(self);
        self.change(change);
    }

    fn join_patiently(&mut self, new: Member) {
        let number = self.number_of(&new);
        if !self.cluster.nodes[number].is_running() {
            self.cluster.start(number);
        }
        self.cluster.resume(number);
        self.cluster.settle_start();
        self.join(new);
    }
}
