//! Checkpoints and collection: what is overwritten and trimmed becomes room again, and a restart begins at the last checkpoint.

use std::time::Duration;

use bytes::Bytes;
use cairn_api::block::{BlockError, BlockOp, BlockReply};
use cairn_api::ids::GroupId;
use cairn_core::event::DeviceId;

use cairn_sim::cluster::{Cluster, Setup, read_bytes};

const VOLUME: GroupId = GroupId(2);
const LENGTH: u64 = 64 << 10;

fn cluster(seed: u64, disk_mib: u64) -> Cluster {
    Cluster::new(Setup {
        disk_bytes: disk_mib << 20,
        segment_bytes: 2 << 20,
        ..Setup::new(seed)
    })
}

fn write(cluster: &mut Cluster, device: DeviceId, slot: u64, value: u64) {
    let byte = u8::try_from(value % 251).unwrap();
    let data = Bytes::from(vec![byte; LENGTH as usize]);
    let offset = slot * LENGTH;
    let reply = cluster.call(0, device, BlockOp::Write { offset, data });
    assert_eq!(reply, Ok(BlockReply::Done), "slot {slot} value {value}");
}

fn check(cluster: &mut Cluster, node: usize, device: DeviceId, values: &[u64]) {
    for (slot, value) in values.iter().enumerate() {
        let offset = slot as u64 * LENGTH;
        let length = u32::try_from(LENGTH).unwrap();
        let bytes = read_bytes(cluster.call(node, device, BlockOp::Read { offset, length }));
        let byte = u8::try_from(value % 251).unwrap();
        assert!(bytes.iter().all(|found| *found == byte), "slot {slot} value {value}");
    }
}

/// Otherwise a disk would be full after it was written once.
#[test]
fn a_volume_is_overwritten_many_times_its_disk() {
    for seed in 900..903 {
        let mut cluster = cluster(seed, 96);
        let slots = 400_u64;
        let spec = cluster.spec(VOLUME, slots * LENGTH / 4096, 3);
        cluster.create(&spec);
        let device = cluster.open(0, &spec);
        let mut values = vec![0; slots as usize];
        let mut draw = seed;
        for value in 1..6000_u64 {
            draw = draw
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let slot = (draw >> 33) % slots;
            write(&mut cluster, device, slot, value);
            values[slot as usize] = value;
        }
        check(&mut cluster, 0, device, &values);
        cluster.quiesce(&spec);
        for node in 0..3 {
            cluster.crash(node);
            cluster.start(node);
        }
        cluster.settle_start();
        cluster.run(Duration::from_secs(4));
        let device = cluster.open(1, &spec);
        check(&mut cluster, 1, device, &values);
        cluster.quiesce(&spec);
    }
}

/// Trims free what they cover, on every replica, again and again.
#[test]
fn a_pool_is_filled_and_trimmed_ten_times() {
    let mut cluster = cluster(910, 96);
    let slots = 2000_u64;
    let spec = cluster.spec(VOLUME, slots * LENGTH / 4096, 3);
    cluster.create(&spec);
    let device = cluster.open(0, &spec);
    let mut filled = Vec::new();
    for round in 0..10 {
        let mut slot = 0;
        loop {
            let data = Bytes::from(vec![round + 1; LENGTH as usize]);
            let offset = slot * LENGTH;
            match cluster.call(0, device, BlockOp::Write { offset, data }) {
                Ok(BlockReply::Done) => slot += 1,
                Err(BlockError::NoSpace) => break,
                other => panic!("round {round} slot {slot}: {other:?}"),
            }
        }
        filled.push(slot);
        let bytes = read_bytes(cluster.call(
            0,
            device,
            BlockOp::Read {
                offset: (slot - 1) * LENGTH,
                length: u32::try_from(LENGTH).unwrap(),
            },
        ));
        assert!(bytes.iter().all(|byte| *byte == round + 1), "round {round}");
        let length = slot * LENGTH;
        assert_eq!(
            cluster.call(0, device, BlockOp::Trim { offset: 0, length }),
            Ok(BlockReply::Done)
        );
    }
    let (least, most) = (filled.iter().min().unwrap(), filled.iter().max().unwrap());
    assert!(*least > 900, "at least 56 of 96 MiB: {filled:?}");
    assert!(most - least <= most / 10, "as much every time: {filled:?}");
    cluster.quiesce(&spec);
}
