//! A full disk: writes that need space are refused, everything else goes on, nothing acknowledged is lost.

use std::time::Duration;

use bytes::Bytes;
use cairn_api::block::{BlockError, BlockOp, BlockReply};
use cairn_api::ids::GroupId;
use cairn_core::event::DeviceId;

use cairn_sim::cluster::{Cluster, Setup, read_bytes};

const VOLUME: GroupId = GroupId(2);

/// Bytes of each write.
const LENGTH: u32 = 256 << 10;

fn offset_of(write: u64) -> u64 {
    write * u64::from(LENGTH)
}

/// Writes one after another until the disks are full; gives the writes that were acknowledged.
fn write_until_refused(cluster: &mut Cluster, device: DeviceId) -> Vec<u64> {
    let mut written = Vec::new();
    for write in 0..200 {
        let data = Bytes::from(vec![(write + 1) as u8; LENGTH as usize]);
        let offset = offset_of(write);
        match cluster.call(0, device, BlockOp::Write { offset, data }) {
            Ok(BlockReply::Done) => written.push(write),
            refused => {
                assert_eq!(refused, Err(BlockError::NoSpace), "after {} writes", written.len());
                assert!(written.len() > 60, "{} writes of 256 KiB fit 50 MiB", written.len());
                return written;
            }
        }
    }
    panic!("200 writes of 256 KiB fit 50 MiB");
}

fn check(cluster: &mut Cluster, node: usize, device: DeviceId, written: &[u64]) {
    for write in written {
        let offset = offset_of(*write);
        let reply = cluster.call(node, device, BlockOp::Read { offset, length: LENGTH });
        let is_whole = read_bytes(reply).iter().all(|byte| u64::from(*byte) == write + 1);
        assert!(is_whole, "write {write}");
    }
}

fn fill(seed: u64) {
    let mut cluster = Cluster::new(Setup {
        disk_bytes: 50 << 20,
        segment_bytes: 2 << 20,
        ..Setup::new(seed)
    });
    let spec = cluster.spec(VOLUME, 64 << 8, 3);
    cluster.create(&spec);
    let device = cluster.open(0, &spec);
    let written = write_until_refused(&mut cluster, device);
    check(&mut cluster, 0, device, &written);
    // Trims need no payload; a write is still refused, and a reader elsewhere is served.
    assert_eq!(
        cluster.call(
            0,
            device,
            BlockOp::Trim {
                offset: 40 << 20,
                length: 1 << 20
            }
        ),
        Ok(BlockReply::Done)
    );
    let again = BlockOp::Write {
        offset: 0,
        data: Bytes::from(vec![0xEE; 1 << 20]),
    };
    assert_eq!(cluster.call(0, device, again), Err(BlockError::NoSpace));
    let reader = cluster.open(2, &spec);
    check(&mut cluster, 2, reader, &written);
    cluster.quiesce(&spec);
    for node in 0..3 {
        cluster.crash(node);
        cluster.start(node);
    }
    cluster.settle_start();
    cluster.run(Duration::from_secs(4));
    let device = cluster.open(1, &spec);
    check(&mut cluster, 1, device, &written);
    cluster.quiesce(&spec);
}

#[test]
fn a_full_disk_refuses_writes_and_serves_reads() {
    for seed in 500..503 {
        fill(seed);
    }
}

#[test]
fn failovers_on_a_full_disk_go_on_for_long() {
    // Elections, attachments and trims write records without payload: a reserve must last for them.
    let mut cluster = Cluster::new(Setup {
        disk_bytes: 50 << 20,
        segment_bytes: 2 << 20,
        ..Setup::new(510)
    });
    let spec = cluster.spec(VOLUME, 64 << 8, 3);
    cluster.create(&spec);
    let device = cluster.open(0, &spec);
    for i in 0..200_u64 {
        let data = Bytes::from(vec![1; 256 << 10]);
        if cluster.call(
            0,
            device,
            BlockOp::Write {
                offset: i * (256 << 10),
                data,
            },
        ) == Err(BlockError::NoSpace)
        {
            break;
        }
    }
    for round in 0..20 {
        let leader = cluster.await_leader(VOLUME, Duration::from_secs(20));
        cluster.crash(leader);
        cluster.run(Duration::from_millis(500));
        cluster.start(leader);
        cluster.settle_start();
        cluster.run(Duration::from_secs(3));
        let node = round % 3;
        let device = cluster.open(node, &spec);
        let bytes = read_bytes(cluster.call(
            node,
            device,
            BlockOp::Read {
                offset: 0,
                length: 4096,
            },
        ));
        assert!(bytes.iter().all(|byte| *byte == 1), "round {round}");
        cluster.close(node, device);
    }
}
