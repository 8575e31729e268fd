//! Replacing disks, as commands of the catalogue: what is planned, refused, done twice, and what the end of it leaves.

use std::collections::BTreeSet;

use cairn_api::ids::{DiskId, GroupId, LogIndex, ReplicaId};

use super::catalogue::{Catalogue, DiskRecord, NodeRecord};
use super::decide::{Command, Outcome, decide};
use super::succession::{Step, Swap};
use super::tests::{add_volume, disk, node, record, run, sample};

fn replace(old: u8, new: u8) -> Command {
    Command::ReplaceDisk {
        old: disk(old),
        new: disk(new),
    }
}

fn advance(group: GroupId, joining: ReplicaId, step: Step) -> Command {
    Command::AdvanceSwap {
        group,
        joining,
        step,
        revision: LogIndex(40),
    }
}

fn refusal(catalogue: &Catalogue, command: &Command) -> String {
    decide(catalogue, command).unwrap_err().to_string()
}

/// What every catalogue must satisfy, whatever was done to it.
pub(super) fn check_counts(catalogue: &Catalogue) {
    for replacement in catalogue.replacements.values() {
        let leaves = |swap: &Swap| swap.leaving.iter().any(|member| member.disk == replacement.old);
        let left = catalogue.swaps().filter(|(_, swap)| leaves(swap)).count();
        assert_eq!(left, replacement.left as usize, "{replacement:?}");
        let stays = catalogue.replicas_on(replacement.old);
        let stays = stays.filter(|(volume, replica)| !volume.deleting && !volume.succession.is_leaving(replica.id));
        assert_eq!(stays.count(), 0, "something stays on a disk that is given up");
    }
    let mut numbers = BTreeSet::new();
    let joining = catalogue.swaps().map(|(_, swap)| swap.joining.replica);
    let replicas = catalogue.volumes.values().flat_map(|volume| &volume.replicas);
    let members = catalogue.cluster.iter().flat_map(|cluster| &cluster.members);
    let all = joining.chain(replicas.map(|replica| replica.id));
    for number in all.chain(members.map(|member| member.replica)) {
        assert!(numbers.insert(number), "replica number {number} is given twice");
        let next = catalogue.cluster.as_ref().map(|cluster| cluster.next_replica);
        assert!(next.is_some_and(|next| number < next));
    }
}

/// Takes everything that is under way to its end.
fn settle_all(catalogue: &mut Catalogue) {
    let swaps: Vec<(GroupId, ReplicaId)> = catalogue
        .swaps()
        .map(|(group, swap)| (group, swap.joining.replica))
        .collect();
    for (group, joining) in swaps {
        for step in [Step::Join, Step::CatchUp, Step::Switch, Step::Settled] {
            for _ in 0..2 {
                assert_eq!(run(catalogue, &advance(group, joining, step)), Ok(Outcome::Done));
                check_counts(catalogue);
            }
        }
    }
}

#[test]
fn every_group_on_the_disk_gets_a_newcomer_and_the_last_one_removes_the_disk() {
    let mut catalogue = sample(4);
    let one = add_volume(&mut catalogue, "one", 4096, &[1, 2, 3]);
    let two = add_volume(&mut catalogue, "two", 4096, &[4]);
    let before = catalogue.volumes[&one].spec();
    assert_eq!(run(&mut catalogue, &replace(3, 4)), Ok(Outcome::Done));
    check_counts(&catalogue);
    let planned: Vec<(GroupId, u64, u64)> = catalogue
        .swaps()
        .map(|(group, swap)| (group, swap.leaving[0].replica.get(), swap.joining.replica.get()))
        .collect();
    // The meta group's member on the disk is 3, the volume's 6; the numbers that come were never used.
    assert_eq!(planned, [(GroupId::META, 3, 8), (one, 6, 9)]);
    assert!(catalogue.volumes[&two].succession.swaps.is_empty());
    assert!(catalogue.is_given_up(disk(3)) && !catalogue.is_removed(disk(3)));
    settle_all(&mut catalogue);
    assert!(catalogue.is_removed(disk(3)));
    let volume = &catalogue.volumes[&one];
    let replicas: Vec<(u64, DiskId)> = volume
        .replicas
        .iter()
        .map(|replica| (replica.id.get(), replica.disk))
        .collect();
    assert_eq!(replicas, [(4, disk(1)), (5, disk(2)), (9, disk(4))]);
    assert!(volume.replicas[2].created, "it was made before it could take its place");
    // New replicas are made as the group's log begins; gateways ask those of now.
    assert_eq!(volume.spec(), before);
    assert_eq!(volume.present_spec().members, volume.members());
    assert_eq!(volume.succession.revision, LogIndex(40));
    let cluster = catalogue.cluster.as_ref().unwrap();
    let meta: Vec<u64> = cluster.members.iter().map(|member| member.replica.get()).collect();
    assert_eq!(meta, [1, 2, 8]);
    assert_eq!(cluster.meta_spec().members.last().unwrap().disk, disk(3));
    // Its node had no other disk. If its engine lives, it comes back by itself.
    assert!(!catalogue.nodes.contains_key(&node(3)));
    run(&mut catalogue, &Command::RegisterNode(record(3))).unwrap();
    assert_eq!(catalogue.nodes[&node(3)].disks[0].id, disk(3));
    let retired: Vec<u64> = catalogue.retired().map(|(_, member)| member.replica.get()).collect();
    assert_eq!(retired, [3, 6]);
    for (group, replica) in [(GroupId::META, 3), (one, 6)] {
        let report = Command::ReportReplica {
            group,
            replica: ReplicaId(replica),
            dropped: true,
        };
        run(&mut catalogue, &report).unwrap();
    }
    assert_eq!(catalogue.retired().count(), 0);
}

#[test]
fn asking_again_is_the_same_replacement_and_another_one_is_refused() {
    let mut catalogue = sample(5);
    add_volume(&mut catalogue, "one", 4096, &[1, 2, 3]);
    run(&mut catalogue, &replace(3, 4)).unwrap();
    assert_eq!(decide(&catalogue, &replace(3, 4)), Ok((Outcome::Done, Vec::new())));
    let other = refusal(&catalogue, &replace(3, 5));
    assert!(
        other.contains("being replaced by") && other.contains(&disk(4).to_string()),
        "{other}"
    );
    settle_all(&mut catalogue);
    assert_eq!(decide(&catalogue, &replace(3, 4)), Ok((Outcome::Done, Vec::new())));
    assert!(refusal(&catalogue, &replace(3, 5)).contains("was replaced by"));
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let mut catalogue = sample(5);
    add_volume(&mut catalogue, "one", 4096, &[1, 2, 3]);
    let two_disks = NodeRecord {
        disks: vec![
            record(2).disks[0].clone(),
            DiskRecord {
                id: disk(12),
                ..record(2).disks[0].clone()
            },
        ],
        ..record(2)
    };
    run(&mut catalogue, &Command::RegisterNode(two_disks)).unwrap();
    for (command, part) in [
        (replace(3, 3), "cannot take its own place"),
        (replace(77, 4), "the cluster has no disk"),
        (replace(3, 77), "is not in the cluster"),
        (replace(3, 2), "node 'n2' holds replica 2 of the meta group"),
        (replace(3, 12), "node 'n2' holds replica 2 of the meta group"),
    ] {
        let message = refusal(&catalogue, &command);
        assert!(message.contains(part), "'{part}' not in: {message}");
    }
    run(&mut catalogue, &replace(3, 4)).unwrap();
    assert!(refusal(&catalogue, &replace(5, 3)).contains("is itself replaced by"));
    let place = Command::CreateVolume {
        source: None,
        name: "two".to_owned(),
        size_bytes: 4096,
        places: vec![(node(3), disk(3))],
        limits: cairn_api::limits::VolumeLimits::default(),
        encryption: None,
    };
    assert!(refusal(&catalogue, &place).contains("takes no new replicas"));
    assert!(refusal(&Catalogue::default(), &replace(3, 4)).contains("not founded"));
}

/// Nodes 4 and 5 are outside the meta group, so that only the volume decides.
#[test]
fn replicas_share_a_node_only_if_no_other_node_has_a_disk() {
    let mut catalogue = sample(5);
    add_volume(&mut catalogue, "one", 4096, &[1, 4, 5]);
    let second = |number: u8| NodeRecord {
        disks: vec![
            record(number).disks[0].clone(),
            DiskRecord {
                id: disk(number + 10),
                ..record(number).disks[0].clone()
            },
        ],
        ..record(number)
    };
    run(&mut catalogue, &Command::RegisterNode(second(4))).unwrap();
    run(&mut catalogue, &Command::RegisterNode(second(5))).unwrap();
    assert!(
        refusal(&catalogue, &replace(5, 4)).contains("holds replica 5 of volume 'one' already: choose another disk")
    );
    let shared = refusal(&catalogue, &replace(5, 14));
    assert!(
        shared.contains("node 'n4'") && shared.contains("(n2, n3, n5)"),
        "{shared}"
    );
    // On the node that it leaves there is no question.
    assert!(decide(&catalogue, &replace(5, 15)).is_ok());
    // With the other nodes' disks given up there is no choice left.
    let mut small = sample(3);
    for number in [4, 5] {
        let mut other = second(number);
        other.disks.truncate(if number == 5 { 1 } else { 2 });
        run(&mut small, &Command::RegisterNode(other)).unwrap();
    }
    add_volume(&mut small, "one", 4096, &[1, 4, 5]);
    let given_up = small.nodes.keys().copied().filter(|id| [node(2), node(3)].contains(id));
    for id in given_up.collect::<Vec<_>>() {
        small.nodes.get_mut(&id).unwrap().disks.clear();
    }
    assert!(decide(&small, &replace(5, 14)).is_ok());
}

#[test]
fn a_new_disk_that_fails_half_way_is_replaced_in_its_turn() {
    let mut catalogue = sample(5);
    let group = add_volume(&mut catalogue, "one", 4096, &[1, 2, 3]);
    run(&mut catalogue, &replace(3, 4)).unwrap();
    let first = catalogue.volumes[&group].succession.swaps[0].joining.replica;
    run(&mut catalogue, &advance(group, first, Step::CatchUp)).unwrap();
    run(&mut catalogue, &replace(4, 5)).unwrap();
    check_counts(&catalogue);
    let swap = catalogue.volumes[&group].succession.swaps[0].clone();
    let leaving: Vec<DiskId> = swap.leaving.iter().map(|member| member.disk).collect();
    assert_eq!(
        (leaving, swap.joining.disk, swap.step),
        (vec![disk(3), disk(4)], disk(5), Step::Make)
    );
    // What the first newcomer's engine still reports is of the past.
    assert!(refusal(&catalogue, &advance(group, first, Step::Settled)).contains("takes nobody's place"));
    settle_all(&mut catalogue);
    assert!(catalogue.is_removed(disk(3)) && catalogue.is_removed(disk(4)));
    let disks: Vec<DiskId> = catalogue.volumes[&group]
        .replicas
        .iter()
        .map(|replica| replica.disk)
        .collect();
    assert_eq!(disks, [disk(1), disk(2), disk(5)]);
}

#[test]
fn steps_only_go_forward() {
    let mut catalogue = sample(4);
    let group = add_volume(&mut catalogue, "one", 4096, &[1, 2, 3]);
    run(&mut catalogue, &replace(3, 4)).unwrap();
    let joining = catalogue.volumes[&group].succession.swaps[0].joining.replica;
    run(&mut catalogue, &advance(group, joining, Step::Switch)).unwrap();
    let late = decide(&catalogue, &advance(group, joining, Step::Join));
    assert_eq!(late, Ok((Outcome::Done, Vec::new())));
    assert_eq!(catalogue.volumes[&group].succession.swaps[0].step, Step::Switch);
}

/// Nobody waits for a disk that is given up, and newcomers are dropped like everyone.
#[test]
fn a_volume_is_deleted_in_the_middle_of_a_replacement() {
    for is_deleted_first in [false, true] {
        let mut catalogue = sample(4);
        let group = add_volume(&mut catalogue, "one", 4096, &[1, 2, 3]);
        let delete = Command::DeleteVolume {
            group,
            snapshots: false,
        };
        if is_deleted_first {
            run(&mut catalogue, &delete).unwrap();
        }
        run(&mut catalogue, &replace(3, 4)).unwrap();
        check_counts(&catalogue);
        run(&mut catalogue, &delete).unwrap();
        check_counts(&catalogue);
        let mut present = vec![4, 5];
        present.extend(catalogue.retired().map(|(_, member)| member.replica.get()));
        assert_eq!(present.len(), if is_deleted_first { 2 } else { 3 });
        for replica in present {
            assert!(catalogue.volumes.contains_key(&group));
            let report = Command::ReportReplica {
                group,
                replica: ReplicaId(replica),
                dropped: true,
            };
            run(&mut catalogue, &report).unwrap();
            check_counts(&catalogue);
        }
        assert!(!catalogue.volumes.contains_key(&group));
        settle_all(&mut catalogue);
        assert!(catalogue.is_removed(disk(3)));
    }
}

#[test]
fn a_node_comes_back_with_an_empty_disk_and_the_old_one_is_forgotten() {
    let mut catalogue = sample(4);
    add_volume(&mut catalogue, "one", 4096, &[1, 2, 3]);
    let fresh = DiskRecord {
        id: disk(13),
        ..record(3).disks[0].clone()
    };
    let back = NodeRecord {
        disks: vec![fresh],
        ..record(3)
    };
    run(&mut catalogue, &Command::RegisterNode(back.clone())).unwrap();
    // Before it is replaced, the old disk may only be away.
    assert_eq!(catalogue.nodes[&node(3)].disks.len(), 2);
    run(&mut catalogue, &replace(3, 13)).unwrap();
    settle_all(&mut catalogue);
    run(&mut catalogue, &Command::RegisterNode(back.clone())).unwrap();
    assert_eq!(catalogue.nodes[&node(3)], back);
}
