//! What a leader refuses, and what counts for nothing.

use std::time::Duration;

use cairn_api::block::BlockOp;
use cairn_core::event::Role;

use super::*;

fn refusal(reply: Option<Result<CommandReply, CommandError>>) -> String {
    match reply {
        Some(Err(error)) => error.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn what_would_endanger_the_group_is_refused_with_the_reason() {
    let mut scene = Scene::new(920, 6);
    let unknown = refusal(scene.try_change(MemberChange::Promote(ReplicaId(9))));
    assert!(
        unknown.contains("no member") && unknown.contains("1, 2, 3"),
        "{unknown}"
    );
    let unknown = refusal(scene.try_change(MemberChange::Remove(ReplicaId(9))));
    assert!(unknown.contains("no member"), "{unknown}");
    let same_disk = refusal(scene.try_change(MemberChange::AddLearner(newcomer(4, 1))));
    assert!(same_disk.contains("holds replica 2"), "{same_disk}");
    // A learner that nobody has made: it never catches up.
    scene.change(MemberChange::AddLearner(newcomer(4, 3)));
    scene.load.run(&mut scene.cluster, 3 * SECOND);
    let behind = refusal(scene.try_change(MemberChange::Promote(ReplicaId(4))));
    assert!(behind.contains("does not answer"), "{behind}");
    scene.change(MemberChange::Remove(ReplicaId(4)));
    let removed = refusal(scene.try_change(MemberChange::Promote(ReplicaId(4))));
    assert!(removed.contains("was removed"), "{removed}");
    let used = refusal(scene.try_change(MemberChange::AddLearner(newcomer(4, 3))));
    assert!(used.contains("never used again"), "{used}");
    // With one of three voters dead, the other two may not be removed.
    let leader = scene.cluster.leader(VOLUME).unwrap();
    let (dead, alive) = ((leader + 1) % 3, (leader + 2) % 3);
    scene.cluster.crash(dead);
    scene.load.run(&mut scene.cluster, 3 * SECOND);
    let fatal = refusal(scene.try_change(MemberChange::Remove(ReplicaId(alive as u64 + 1))));
    let named = format!("silent: {}", dead + 1);
    assert!(fatal.contains(&named) && fatal.contains("1 of 2"), "{fatal}");
    // Others are asked for the leader.
    let follower = scene.cluster.command(
        alive,
        Command::ChangeMembers {
            group: VOLUME,
            change: MemberChange::Remove(ReplicaId(dead as u64 + 1)),
        },
    );
    assert!(
        matches!(&follower, Err(CommandError::NotLeader { leader: Some(_) })),
        "{follower:?}"
    );
    scene.change(MemberChange::Remove(ReplicaId(dead as u64 + 1)));
    scene.change(MemberChange::Remove(ReplicaId(dead as u64 + 1)));
    // From here on one copy is a majority.
    scene.load.spec.members.truncate(1);
    scene.change(MemberChange::Remove(ReplicaId(alive as u64 + 1)));
    let last = refusal(scene.try_change(MemberChange::Remove(ReplicaId(leader as u64 + 1))));
    assert!(last.contains("last voter"), "{last}");
    scene.verify();
}

/// Two voters of three are cut off: their leader and a learner are no majority, whatever the learner acknowledges.
#[test]
fn a_learners_acknowledgement_commits_nothing() {
    for seed in 922..925 {
        let mut scene = Scene::new(seed, 5);
        scene.join(newcomer(4, 3));
        scene.change(MemberChange::AddLearner(newcomer(4, 3)));
        scene.await_caught_up(ReplicaId(4));
        let leader = scene.cluster.leader(VOLUME).unwrap();
        for voter in (0..3).filter(|voter| *voter != leader) {
            scene.cluster.block(voter, leader);
            scene.cluster.block(leader, voter);
        }
        let acknowledged = scene.load.history.acknowledged;
        let committed = scene.cluster.status(leader, VOLUME).committed;
        scene.load.run(&mut scene.cluster, 600 * MILLISECOND);
        let status = scene.cluster.status(leader, VOLUME);
        // Acknowledgements of others that were under way may still have arrived; what came later did not count.
        let learner = status.matched.iter().find(|(replica, _)| *replica == ReplicaId(4));
        assert!(status.role == Role::Leader, "the leader was deposed too soon to tell");
        assert!(
            learner.is_some_and(|(_, matched)| *matched > status.committed),
            "the learner did not get further than what is committed: {status:?}"
        );
        assert!(status.committed.get() <= committed.get() + 64);
        let now_acknowledged = scene.load.history.acknowledged;
        scene.load.run(&mut scene.cluster, 200 * MILLISECOND);
        assert_eq!(
            scene.load.history.acknowledged, now_acknowledged,
            "after {acknowledged}"
        );
        scene.cluster.heal();
        scene.verify();
    }
}

/// A leader's lease needs voters: answers of a learner keep no stale leader in office.
#[test]
fn a_learners_answers_hold_no_lease() {
    for seed in 926..929 {
        let mut scene = Scene::new(seed, 5);
        scene.join(newcomer(4, 3));
        scene.change(MemberChange::AddLearner(newcomer(4, 3)));
        scene.await_caught_up(ReplicaId(4));
        let leader = scene.cluster.leader(VOLUME).unwrap();
        // A reader at the old leader's own node, which is cut off together with the learner.
        scene.load.open(&mut scene.cluster, leader);
        scene.load.clients.last_mut().unwrap().may_write = false;
        for other in (0..5).filter(|other| *other != leader && *other != 3) {
            scene.cluster.block(other, leader);
            scene.cluster.block(leader, other);
        }
        for _ in 0..200 {
            scene.load.run(&mut scene.cluster, 20 * MILLISECOND);
        }
        scene.cluster.heal();
        scene.verify();
    }
}

/// A removed replica that was away, or never hears of it, neither votes anyone into office nor disturbs those who lead.
#[test]
fn a_removed_replica_that_comes_back_disturbs_nobody() {
    for seed in 930..934 {
        for is_cut in [false, true] {
            let mut scene = Scene::new(seed, 5);
            let leader = scene.cluster.leader(VOLUME).unwrap();
            let old = (leader + 1) % 3;
            if is_cut {
                scene.cluster.isolate(old);
            } else {
                scene.cluster.crash(old);
            }
            scene.replace(old as u64 + 1, newcomer(4, 3));
            let before = scene.latest();
            scene.cluster.heal();
            if !is_cut {
                scene.cluster.start(old);
                scene.cluster.settle_start();
            }
            scene.load.run(&mut scene.cluster, 6 * SECOND);
            let after = scene.latest();
            assert_eq!(
                (after.term, after.leader),
                (before.term, before.leader),
                "disturbed by a removed replica"
            );
            // What is asked of it is answered by others.
            let device = scene.cluster.open(old, &scene.spec.clone());
            let read = BlockOp::Read {
                offset: 0,
                length: 4096,
            };
            let reply = scene.cluster.call_within(old, device, read, Duration::from_secs(5));
            assert!(matches!(reply, Some(Ok(_))), "{reply:?}");
            assert_eq!(
                scene.cluster.command(old, Command::DropGroup(VOLUME)),
                Ok(CommandReply::Done)
            );
            scene.verify();
        }
    }
}

#[test]
fn a_leader_hands_over_before_it_is_removed() {
    for seed in 935..940 {
        let mut scene = Scene::new(seed, 5);
        let leader = scene.cluster.leader(VOLUME).unwrap() as u64 + 1;
        scene.join(newcomer(4, 3));
        scene.change(MemberChange::AddLearner(newcomer(4, 3)));
        scene.change(MemberChange::Promote(ReplicaId(4)));
        let refused = refusal(scene.try_change(MemberChange::Remove(ReplicaId(leader))));
        assert!(refused.contains("hands leadership to"), "{refused}");
        scene.change(MemberChange::Remove(ReplicaId(leader)));
        assert!(!scene.voters().contains(&leader));
        scene.verify();
    }
}

/// A disk may hold a replica again that joins under a new number, once the old one was dropped.
#[test]
fn a_disk_takes_a_new_replica_of_a_group_that_it_dropped() {
    let mut scene = Scene::new(941, 5);
    let leader = scene.cluster.leader(VOLUME).unwrap();
    let old = (leader + 1) % 3;
    scene.replace(old as u64 + 1, newcomer(4, 3));
    let early = scene.cluster.make_replica(old, &scene.spec, ReplicaId(5));
    assert!(
        matches!(&early, Err(CommandError::Refused(why)) if why.contains("drop that before")),
        "{early:?}"
    );
    assert_eq!(
        scene.cluster.command(old, Command::DropGroup(VOLUME)),
        Ok(CommandReply::Done)
    );
    scene.replace(4, newcomer(5, old));
    scene.verify();
    scene.cluster.crash(old);
    scene.cluster.start(old);
    scene.cluster.settle_start();
    scene.verify();
    assert_eq!(scene.cluster.status(old, VOLUME).replica, ReplicaId(5));
}
