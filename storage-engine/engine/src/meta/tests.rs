//! Properties of the state machine: replay gives the same catalogue, applying twice changes nothing, the store equals the model.

use bytes::Bytes;
use cairn_api::ids::{ClusterId, DiskId, GroupId, LogIndex, NodeId, ReplicaId, SnapshotId};
use cairn_api::limits::VolumeLimits;
use cairn_core::event::Member;
use proptest::prelude::*;

use super::catalogue::{Catalogue, DiskRecord, NodeRecord};
use super::clone::Source;
use super::codec;
use super::decide::{Command, LimitChange, Outcome, Refusal, carry_out, decide};
use super::encryption::{PlannedEncryption, ServiceKind, WrappedKey};
use super::snapshot::SnapshotCommand;
use super::store::Store;
use super::succession::Step;
use super::together::Made;

pub(crate) fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

pub(crate) fn disk(number: u8) -> DiskId {
    DiskId::from_bytes([number ^ 0x80; 16])
}

pub(crate) fn record(number: u8) -> NodeRecord {
    NodeRecord {
        id: node(number),
        name: format!("n{number}"),
        control_address: format!("127.0.0.1:{}", 7000 + u16::from(number) * 10),
        data_address: format!("127.0.0.1:{}", 7001 + u16::from(number) * 10),
        nbd_address: String::new(),
        disks: vec![DiskRecord {
            id: disk(number),
            path: format!("/dev/d{number}"),
            size_bytes: 8 << 30,
        }],
    }
}

pub(super) fn found(nodes: u8) -> Command {
    let members = (1..=nodes.min(3))
        .map(|number| Member {
            replica: ReplicaId(u64::from(number)),
            node: node(number),
            disk: disk(number),
        })
        .collect();
    Command::FoundCluster {
        id: ClusterId::from_bytes([9; 16]),
        name: "test".to_owned(),
        nodes: (1..=nodes).map(record).collect(),
        members,
    }
}

pub(crate) fn run(catalogue: &mut Catalogue, command: &Command) -> Result<Outcome, Refusal> {
    let (outcome, changes) = decide(catalogue, command)?;
    let index = catalogue.applied.next();
    carry_out(catalogue, index, &changes);
    Ok(outcome)
}

/// A catalogue of so many nodes, each with one disk of 8 GiB.
pub(crate) fn sample(nodes: u8) -> Catalogue {
    let mut catalogue = Catalogue::default();
    run(&mut catalogue, &found(nodes)).unwrap();
    catalogue
}

pub(crate) fn add_volume(catalogue: &mut Catalogue, name: &str, size_bytes: u64, places: &[u8]) -> GroupId {
    let places = places.iter().map(|number| (node(*number), disk(*number))).collect();
    match run(
        catalogue,
        &Command::CreateVolume {
            name: name.to_owned(),
            size_bytes,
            places,
            limits: VolumeLimits::default(),
            encryption: None,
            source: None,
        },
    )
    .unwrap()
    {
        Outcome::Volume(group) => group,
        Outcome::Done | Outcome::Snapshot(_) => panic!("a created volume has a number"),
    }
}

fn delete_volume(group: GroupId) -> Command {
    Command::DeleteVolume {
        group,
        snapshots: false,
    }
}

#[test]
fn numbers_start_after_the_meta_members_and_are_never_reused() {
    let mut catalogue = sample(3);
    let first = add_volume(&mut catalogue, "one", 4096, &[1, 2, 3]);
    assert_eq!(first, GroupId(2));
    let replicas: Vec<u64> = catalogue.volumes[&first]
        .replicas
        .iter()
        .map(|replica| replica.id.get())
        .collect();
    assert_eq!(replicas, [4, 5, 6]);
    run(&mut catalogue, &delete_volume(first)).unwrap();
    for replica in replicas {
        let report = Command::ReportReplica {
            group: first,
            replica: ReplicaId(replica),
            dropped: true,
        };
        run(&mut catalogue, &report).unwrap();
        run(&mut catalogue, &report).unwrap();
    }
    assert!(catalogue.volumes.is_empty());
    let second = add_volume(&mut catalogue, "one", 4096, &[1]);
    assert_eq!(
        (second, catalogue.volumes[&second].replicas[0].id),
        (GroupId(3), ReplicaId(7))
    );
}

#[test]
fn creating_again_is_the_same_volume_and_a_difference_is_named() {
    let mut catalogue = sample(3);
    let group = add_volume(&mut catalogue, "v", 8192, &[1, 2, 3]);
    assert_eq!(add_volume(&mut catalogue, "v", 8192, &[3, 2, 1]), group);
    let other = Command::CreateVolume {
        source: None,
        name: "v".to_owned(),
        size_bytes: 4096,
        places: vec![(node(1), disk(1))],
        limits: VolumeLimits::default(),
        encryption: None,
    };
    let message = decide(&catalogue, &other).unwrap_err().to_string();
    assert!(
        message.contains("size is 8 KiB, not 4 KiB") && message.contains("3 replicas, not 1"),
        "{message}"
    );
}

#[test]
fn hopeless_requests_are_refused_by_name() {
    let catalogue = sample(3);
    let create = |name: &str, size_bytes, places: &[u8]| Command::CreateVolume {
        source: None,
        name: name.to_owned(),
        size_bytes,
        places: places.iter().map(|number| (node(*number), disk(*number))).collect(),
        limits: VolumeLimits::default(),
        encryption: None,
    };
    for (command, part) in [
        (create("Upper", 4096, &[1]), "name is 'Upper'"),
        (create("", 4096, &[1]), "name is ''"),
        (create("v", 4095, &[1]), "size_bytes is '4095'"),
        (create("v", 0, &[1]), "size_bytes is '0'"),
        (create("v", 4096, &[1, 2]), "replicas is '2'"),
        (create("v", 4096, &[1, 1, 2]), "never share a node"),
        (create("v", 4096, &[77]), "not in the catalogue"),
        (delete_volume(GroupId(9)), "no volume 9"),
        (
            Command::RegisterNode(NodeRecord {
                name: "n1".to_owned(),
                ..record(8)
            }),
            "node name 'n1' belongs to",
        ),
        (
            Command::RegisterNode(NodeRecord {
                disks: record(1).disks,
                ..record(8)
            }),
            "belongs to node 'n1'",
        ),
    ] {
        let message = decide(&catalogue, &command).unwrap_err().to_string();
        assert!(message.contains(part), "'{part}' not in: {message}");
    }
    assert!(matches!(
        decide(&Catalogue::default(), &create("v", 4096, &[1])),
        Err(Refusal::Precondition(_))
    ));
}

#[test]
fn a_second_cluster_is_refused_and_the_same_one_is_done_already() {
    let mut catalogue = sample(3);
    assert_eq!(run(&mut catalogue, &found(3)), Ok(Outcome::Done));
    let Command::FoundCluster {
        name, nodes, members, ..
    } = found(3)
    else {
        unreachable!()
    };
    let other = Command::FoundCluster {
        id: ClusterId::from_bytes([8; 16]),
        name,
        nodes,
        members,
    };
    assert!(matches!(run(&mut catalogue, &other), Err(Refusal::Exists(_))));
}

#[test]
fn a_disk_that_a_node_does_not_report_stays_its_own() {
    let mut catalogue = sample(3);
    let moved = NodeRecord {
        data_address: "127.0.0.1:1".to_owned(),
        disks: Vec::new(),
        ..record(2)
    };
    run(&mut catalogue, &Command::RegisterNode(moved)).unwrap();
    let known = &catalogue.nodes[&node(2)];
    assert_eq!((known.data_address.as_str(), known.disks.len()), ("127.0.0.1:1", 1));
}

/// A volume's key, wrapped by this version of a master key, as far as the catalogue can tell.
pub(crate) fn planned(volume: u64, version: u8) -> PlannedEncryption {
    let key = WrappedKey {
        service: ServiceKind::File,
        key_name: "main".to_owned(),
        version: version.into(),
        bytes: vec![version; 5],
    };
    let volume = GroupId(volume);
    PlannedEncryption { volume, key }
}

/// sled lets go of its lock a moment after the database is dropped.
fn open(path: &std::path::Path) -> Store {
    for _ in 0..100 {
        if let Ok(store) = Store::open(path) {
            return store;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Store::open(path).unwrap()
}

fn snapshot_commands() -> impl Strategy<Value = Command> {
    let name = prop::sample::select(vec!["s", "t", "Bad"]);
    let snap = (2_u64..5, name, 0..9_u64).prop_map(|(group, name, created_unix_s)| SnapshotCommand::Create {
        group: GroupId(group),
        name: name.to_owned(),
        created_unix_s,
    });
    let made = prop::option::of((1..9_u64, 1..9_u64).prop_map(|(index, size)| (LogIndex(index), size)));
    let snapped = (2_u64..5, 1_u64..6, made).prop_map(|(group, snapshot, made)| SnapshotCommand::Report {
        group: GroupId(group),
        snapshot: SnapshotId(snapshot),
        made,
    });
    let unsnap = (2_u64..5, 1_u64..6).prop_map(|(group, snapshot)| SnapshotCommand::Delete {
        group: GroupId(group),
        snapshot: SnapshotId(snapshot),
    });
    let groups = || prop::collection::vec((2_u64..5).prop_map(GroupId), 0..4);
    let name = prop::sample::select(vec!["s", "t"]);
    let together = (groups(), name, 0..4_u64).prop_map(|(groups, name, token)| SnapshotCommand::CreateTogether {
        groups,
        name: name.to_owned(),
        created_unix_s: 3,
        token,
    });
    let made = (2_u64..5, 1_u64..6).prop_map(|(group, snapshot)| Made {
        group: GroupId(group),
        snapshot: SnapshotId(snapshot),
        index: LogIndex(5),
        size_bytes: 4096,
    });
    let made = prop::collection::vec(made, 0..4);
    let complete = (0..4_u64, made).prop_map(|(token, made)| SnapshotCommand::CompleteTogether { token, made });
    let abort = (0..4_u64, groups()).prop_map(|(token, groups)| SnapshotCommand::AbortTogether { token, groups });
    let several = prop_oneof![2 => together, 1 => complete, 1 => abort];
    prop_oneof![3 => snap, 2 => snapped, 1 => unsnap, 3 => several].prop_map(Command::Snapshot)
}

fn commands() -> impl Strategy<Value = Vec<Command>> {
    let name = prop::sample::select(vec!["a", "b", "c", "Bad"]);
    let places = prop::collection::vec(1_u8..5, 1..4);
    let key = || prop::option::of((2_u64..8, 0_u8..3).prop_map(|(volume, byte)| planned(volume, byte)));
    let source = prop::option::of((2_u64..8, 0_u64..6).prop_map(|(group, snapshot)| Source {
        group: GroupId(group),
        snapshot: (snapshot > 0).then_some(SnapshotId(snapshot)),
        created_unix_s: 3,
    }));
    let create = (name, 1_u64..4, places, key(), source);
    let create = create.prop_map(|(name, blocks, places, encryption, source)| Command::CreateVolume {
        name: name.to_owned(),
        size_bytes: blocks * 4096,
        places: places.into_iter().map(|number| (node(number), disk(number))).collect(),
        limits: VolumeLimits {
            iops: (blocks == 3).then_some(500),
            ..VolumeLimits::default()
        },
        encryption,
        source,
    });
    let whole = (2_u64..8, 3_u64..20).prop_map(|(group, replica)| Command::ReportWhole {
        group: GroupId(group),
        replica: ReplicaId(replica),
    });
    let limit = (2_u64..8, 0_u64..30, 0_u32..3).prop_map(|(group, iops, burst)| Command::LimitVolume {
        group: GroupId(group),
        change: LimitChange {
            iops: (iops > 5).then(|| (iops > 8).then_some(iops)),
            bytes_per_s: (iops < 9).then_some(None),
            burst_ms: (burst > 0).then_some(burst * 25_000),
        },
    });
    let rewrap = (2_u64..8, 0_u8..3, 0_u8..3).prop_map(|(group, old, new)| Command::RewrapVolume {
        group: GroupId(group),
        replaces: vec![old; 5],
        key: planned(group, new).key,
    });
    let report = (2_u64..8, 3_u64..20, any::<bool>()).prop_map(|(group, replica, dropped)| Command::ReportReplica {
        group: GroupId(group),
        replica: ReplicaId(replica),
        dropped,
    });
    let delete = (2_u64..8, any::<bool>()).prop_map(|(group, snapshots)| Command::DeleteVolume {
        group: GroupId(group),
        snapshots,
    });
    let resize = (2_u64..8, 0_u64..6).prop_map(|(group, blocks)| Command::ResizeVolume {
        group: GroupId(group),
        size_bytes: blocks * 4096,
    });
    let swap = (1_u8..7, 1_u8..7).prop_map(|(old, new)| Command::ReplaceDisk {
        old: disk(old),
        new: disk(new),
    });
    let step = prop::sample::select(vec![Step::Join, Step::CatchUp, Step::Switch, Step::Settled]);
    let advance = (1_u64..8, 3_u64..24, step).prop_map(|(group, replica, step)| Command::AdvanceSwap {
        group: GroupId(group),
        joining: ReplicaId(replica),
        step,
        revision: LogIndex(replica),
    });
    let register = (1_u8..6).prop_map(|number| Command::RegisterNode(record(number)));
    let any_command = prop_oneof![
        4 => create, 2 => rewrap, 4 => report, 2 => delete, 2 => swap, 5 => advance, 2 => register, 1 => Just(found(3)),
        2 => resize, 2 => limit, 5 => snapshot_commands(), 2 => whole,
    ];
    prop::collection::vec(any_command, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The store on disk, re-opened at any point and fed the whole log again, equals the model in memory.
    #[test]
    fn replaying_the_log_gives_the_same_catalogue(log in commands(), stop in 0_usize..40) {
        let directory = tempfile::tempdir().unwrap();
        let log: Vec<Bytes> = std::iter::once(found(3))
            .chain(log)
            .enumerate()
            .map(|(request, command)| Bytes::from(codec::encode_command(request as u64, &command)))
            .collect();
        let mut model = Catalogue::default();
        for (data, index) in log.iter().zip(1..) {
            let (_, command) = codec::decode_command(data).unwrap();
            let changes = decide(&model, &command).map(|(_, changes)| changes).unwrap_or_default();
            carry_out(&mut model, LogIndex(index), &changes);
        }
        let verdicts_once = {
            let mut store = open(&directory.path().join("one"));
            let mut verdicts = Vec::new();
            for (data, index) in log.iter().zip(1..) {
                verdicts.push(store.apply(LogIndex(index), data).unwrap().unwrap());
            }
            prop_assert_eq!(store.catalogue(), &model);
            verdicts
        };
        {
            let mut store = open(&directory.path().join("two"));
            for (data, index) in log.iter().zip(1..).take(stop) {
                store.apply(LogIndex(index), data).unwrap();
            }
            store.flush().unwrap();
        }
        let mut store = open(&directory.path().join("two"));
        let applied = usize::try_from(store.catalogue().applied.get()).unwrap();
        prop_assert_eq!(applied, stop.min(log.len()));
        for (data, index) in log.iter().zip(1..) {
            let verdict = store.apply(LogIndex(index), data).unwrap();
            let position = usize::try_from(index).unwrap();
            prop_assert_eq!(verdict.as_ref(), (position > applied).then(|| &verdicts_once[position - 1]));
        }
        prop_assert_eq!(store.catalogue(), &model);
    }

    #[test]
    fn every_command_and_catalogue_survives_its_encoding(log in commands()) {
        let mut catalogue = sample(3);
        for (request, command) in log.iter().enumerate() {
            let data = codec::encode_command(request as u64, command);
            prop_assert_eq!(codec::decode_command(&data).unwrap(), (request as u64, command.clone()));
            let _ = run(&mut catalogue, command);
            super::replace_tests::check_counts(&catalogue);
        }
        prop_assert_eq!(codec::decode_catalogue(&codec::encode_catalogue(&catalogue)).unwrap(), catalogue);
    }

    #[test]
    fn bytes_that_are_no_command_are_refused_without_a_panic(data in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = codec::decode_command(&data);
        let _ = codec::decode_catalogue(&data);
    }
}
