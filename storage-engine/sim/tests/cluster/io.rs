//! What a device does, against a model, without faults.

use std::time::Duration;

use bytes::Bytes;
use cairn_api::block::{Allocation, BlockError, BlockOp, BlockReply};
use cairn_api::ids::GroupId;
use cairn_core::event::{Command, CommandReply, DeviceId};

use cairn_history::rng::Rng;
use cairn_sim::cluster::{Cluster, SECOND, Setup, read_bytes};
use cairn_sim::workload::Workload;

const VOLUME: GroupId = GroupId(2);
const BLOCKS: u64 = 600;

fn write(offset: u64, data: Vec<u8>) -> BlockOp {
    BlockOp::Write {
        offset,
        data: Bytes::from(data),
    }
}

/// Does the same to the device and to the model, and compares what is read.
fn random_request(cluster: &mut Cluster, node: usize, device: DeviceId, model: &mut [u8], rng: &mut Rng) {
    let size = model.len() as u64;
    let length = [1, 511, 512, 4096, 9000, 40_960, 300 * 4096][rng.pick(7)];
    let length = rng.between(1, length).min(size);
    let offset = if rng.chance(40) {
        rng.below((size - length) / 4096 + 1) * 4096
    } else {
        rng.below(size - length + 1)
    };
    let offset = offset.min(size - length);
    let range = offset as usize..(offset + length) as usize;
    match rng.below(10) {
        0..4 => {
            let byte = rng.draw() as u8;
            let data: Vec<u8> = (0..length).map(|i| byte.wrapping_add((i % 251) as u8)).collect();
            model[range].copy_from_slice(&data);
            assert_eq!(cluster.call(node, device, write(offset, data)), Ok(BlockReply::Done));
        }
        4 => {
            let whole = (offset.div_ceil(4096) * 4096) as usize..((offset + length) / 4096 * 4096) as usize;
            if whole.start < whole.end {
                model[whole].fill(0);
            }
            assert_eq!(
                cluster.call(node, device, BlockOp::Trim { offset, length }),
                Ok(BlockReply::Done)
            );
        }
        5 => {
            model[range].fill(0);
            let op = BlockOp::WriteZeroes {
                offset,
                length,
                no_hole: rng.chance(50),
            };
            assert_eq!(cluster.call(node, device, op), Ok(BlockReply::Done));
        }
        6 => assert_eq!(cluster.call(node, device, BlockOp::Flush), Ok(BlockReply::Done)),
        _ => {
            let reply = cluster.call(
                node,
                device,
                BlockOp::Read {
                    offset,
                    length: length as u32,
                },
            );
            assert!(read_bytes(reply) == model[range], "{length} bytes at {offset} differ");
        }
    }
}

#[test]
fn every_gateway_agrees_with_a_vec_of_bytes() {
    for seed in 0..4 {
        let mut cluster = Cluster::new(Setup::new(seed));
        let spec = cluster.spec(VOLUME, BLOCKS, 3);
        cluster.create(&spec);
        if seed % 2 == 1 {
            cluster.encrypt(VOLUME, 0..0);
        }
        let mut rng = Rng::new(seed);
        let mut model = vec![0; (BLOCKS * 4096) as usize];
        for node in 0..3 {
            let device = cluster.open(node, &spec);
            for _ in 0..120 {
                random_request(&mut cluster, node, device, &mut model, &mut rng);
            }
            cluster.close(node, device);
            cluster.run(Duration::from_millis(200));
        }
        for node in 0..3 {
            let device = cluster.open(node, &spec);
            let reply = cluster.call(
                node,
                device,
                BlockOp::Read {
                    offset: 0,
                    length: model.len() as u32,
                },
            );
            assert!(read_bytes(reply) == model, "node {node} reads something else");
        }
        cluster.quiesce(&spec);
    }
}

#[test]
fn a_volume_of_one_replica_works_and_survives_a_crash() {
    let mut cluster = Cluster::new(Setup {
        nodes: 2,
        ..Setup::new(11)
    });
    let spec = cluster.spec(VOLUME, BLOCKS, 1);
    cluster.create(&spec);
    // Through the node without a replica: every request crosses a link.
    let device = cluster.open(1, &spec);
    let mut rng = Rng::new(11);
    let mut model = vec![0; (BLOCKS * 4096) as usize];
    for _ in 0..150 {
        random_request(&mut cluster, 1, device, &mut model, &mut rng);
    }
    cluster.crash(0);
    cluster.run(Duration::from_millis(300));
    cluster.start(0);
    for _ in 0..50 {
        random_request(&mut cluster, 1, device, &mut model, &mut rng);
    }
    let reply = cluster.call(
        1,
        device,
        BlockOp::Read {
            offset: 0,
            length: model.len() as u32,
        },
    );
    assert!(read_bytes(reply) == model);
}

#[test]
fn five_replicas_work() {
    let mut cluster = Cluster::new(Setup {
        nodes: 5,
        ..Setup::new(12)
    });
    let spec = cluster.spec(VOLUME, BLOCKS, 5);
    cluster.create(&spec);
    let mut load = Workload::new(spec.clone(), 12);
    load.open(&mut cluster, 3);
    load.run(&mut cluster, SECOND);
    cluster.crash(0);
    cluster.crash(1);
    load.run(&mut cluster, 3 * SECOND);
    cluster.start(0);
    cluster.start(1);
    load.drain(&mut cluster, 20 * SECOND);
    assert!(load.history.acknowledged > 100);
    load.verify_all(&mut cluster, 0);
    cluster.quiesce(&spec);
}

#[test]
fn many_long_writes_at_once_are_served() {
    let mut cluster = Cluster::new(Setup::new(13));
    let spec = cluster.spec(VOLUME, 16 * 256, 3);
    cluster.create(&spec);
    let device = cluster.open(0, &spec);
    let tags: Vec<_> = (0..16_u64)
        .map(|i| cluster.submit(0, device, write(i << 20, vec![i as u8 + 1; 1 << 20])))
        .collect();
    let done = cluster.run_until(Duration::from_secs(20), |cluster| {
        tags.iter()
            .all(|tag| cluster.nodes[0].replies.contains_key(&(device, *tag)))
    });
    assert!(done, "16 writes of 1 MiB are not done within 20 s");
    for i in 0..16_u64 {
        let bytes = read_bytes(cluster.call(
            0,
            device,
            BlockOp::Read {
                offset: i << 20,
                length: 1 << 20,
            },
        ));
        assert!(bytes.iter().all(|byte| *byte == i as u8 + 1));
    }
    cluster.quiesce(&spec);
}

#[test]
fn sectors_of_one_block_written_at_once_all_stay() {
    let mut cluster = Cluster::new(Setup::new(14));
    let spec = cluster.spec(VOLUME, BLOCKS, 3);
    cluster.create(&spec);
    let devices = [cluster.open(1, &spec), cluster.open(1, &spec)];
    for round in 0..20_u8 {
        let tags: Vec<_> = (0..8_u64)
            .map(|i| {
                let device = devices[(i % 2) as usize];
                (
                    device,
                    cluster.submit(1, device, write(4096 + i * 512, vec![round * 8 + i as u8 + 1; 512])),
                )
            })
            .collect();
        let done = cluster.run_until(Duration::from_secs(20), |cluster| {
            tags.iter().all(|key| cluster.nodes[1].replies.contains_key(key))
        });
        assert!(done);
        let bytes = read_bytes(cluster.call(
            1,
            devices[0],
            BlockOp::Read {
                offset: 4096,
                length: 4096,
            },
        ));
        for i in 0..8_u8 {
            assert_eq!(
                bytes[usize::from(i) * 512],
                round * 8 + i + 1,
                "sector {i} of round {round}"
            );
        }
    }
}

#[test]
fn allocation_is_told_in_bytes() {
    let mut cluster = Cluster::new(Setup::new(15));
    let spec = cluster.spec(VOLUME, BLOCKS, 3);
    cluster.create(&spec);
    let device = cluster.open(0, &spec);
    assert_eq!(
        cluster.call(0, device, write(8192, vec![1; 4096])),
        Ok(BlockReply::Done)
    );
    let zero = BlockOp::WriteZeroes {
        offset: 12_288,
        length: 8192,
        no_hole: true,
    };
    assert_eq!(cluster.call(0, device, zero), Ok(BlockReply::Done));
    let ask = BlockOp::Status {
        offset: 100,
        length: 40_000,
        extents_max: 16,
    };
    let Ok(BlockReply::Status(extents)) = cluster.call(0, device, ask) else {
        panic!("no status")
    };
    let got: Vec<(u64, Allocation)> = extents
        .iter()
        .map(|extent| (extent.length, extent.allocation))
        .collect();
    let hole = 40_100 - 20_480;
    let expected = [
        (8092, Allocation::Hole),
        (4096, Allocation::Data),
        (8192, Allocation::Zero),
        (hole, Allocation::Hole),
    ];
    assert_eq!(got, expected);
    let ask = BlockOp::Status {
        offset: 100,
        length: 40_000,
        extents_max: 1,
    };
    let Ok(BlockReply::Status(extents)) = cluster.call(0, device, ask) else {
        panic!("no status")
    };
    assert_eq!(extents.len(), 1);
}

#[test]
fn requests_outside_the_volume_are_refused() {
    let mut cluster = Cluster::new(Setup::new(16));
    let spec = cluster.spec(VOLUME, BLOCKS, 3);
    cluster.create(&spec);
    let device = cluster.open(2, &spec);
    let size = BLOCKS * 4096;
    for op in [
        write(size - 1, vec![0; 2]),
        BlockOp::Read {
            offset: size,
            length: 1,
        },
        BlockOp::Trim {
            offset: 4096,
            length: u64::MAX,
        },
        BlockOp::WriteZeroes {
            offset: u64::MAX - 1,
            length: 4,
            no_hole: false,
        },
    ] {
        let reply = cluster.call(2, device, op);
        assert!(matches!(reply, Err(BlockError::OutOfRange { .. })), "{reply:?}");
    }
}

#[test]
fn groups_come_and_go_and_repeating_it_is_harmless() {
    let mut cluster = Cluster::new(Setup::new(17));
    let spec = cluster.spec(VOLUME, BLOCKS, 3);
    cluster.create(&spec);
    assert_eq!(
        cluster.make_replica(0, &spec, spec.members[0].replica),
        Ok(CommandReply::Done)
    );
    let other = cluster.spec(GroupId(3), BLOCKS, 3);
    cluster.create(&other);
    let device = cluster.open(0, &other);
    assert_eq!(cluster.call(0, device, write(0, vec![9; 4096])), Ok(BlockReply::Done));
    for node in 0..3 {
        assert_eq!(
            cluster.command(node, Command::DropGroup(VOLUME)),
            Ok(CommandReply::Done)
        );
        assert_eq!(
            cluster.command(node, Command::DropGroup(VOLUME)),
            Ok(CommandReply::Done)
        );
    }
    for node in 0..3 {
        cluster.crash(node);
        cluster.start(node);
    }
    cluster.settle_start();
    for node in &cluster.nodes {
        let summary = node.recovered.as_ref().unwrap();
        assert_eq!(summary.groups, [GroupId(3)], "a dropped group comes back");
    }
    let again = cluster.make_replica(0, &spec, spec.members[0].replica);
    assert!(
        again.is_err(),
        "a dropped replica is made anew under its number: {again:?}"
    );
    let device = cluster.open(1, &other);
    let bytes = read_bytes(cluster.call(
        1,
        device,
        BlockOp::Read {
            offset: 0,
            length: 4096,
        },
    ));
    assert!(bytes.iter().all(|byte| *byte == 9));
}
