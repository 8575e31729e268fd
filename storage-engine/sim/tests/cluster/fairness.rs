//! Two volumes on one disk, one of which asks for far more than the other.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use cairn_api::block::{BlockOp, BlockReply, Tag};
use cairn_api::ids::GroupId;
use cairn_core::event::{DeviceId, GroupSpec};
use cairn_sim::cluster::{Cluster, MILLISECOND, SECOND, Setup};

const LARGE: GroupId = GroupId(2);
const SMALL: GroupId = GroupId(3);
const BLOCKS: u64 = 8192;
/// A frame of a mebibyte takes 21 ms.
const DISK_BYTES_PER_S: u64 = 50_000_000;
const DEPTH: usize = 24;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Load {
    Writes,
    Reads,
}

struct Volume {
    device: DeviceId,
    under_way: VecDeque<(Tag, u64)>,
    next: u64,
}

impl Volume {
    fn open(cluster: &mut Cluster, spec: &GroupSpec) -> Self {
        Self {
            device: cluster.open(0, spec),
            under_way: VecDeque::new(),
            next: 0,
        }
    }

    fn submit(&mut self, cluster: &mut Cluster, load: Load, length: u32) {
        self.next += 1;
        let offset = self.next * u64::from(length) % (BLOCKS * 4096 - u64::from(length)) / 4096 * 4096;
        let op = match load {
            Load::Reads => BlockOp::Read { offset, length },
            Load::Writes => BlockOp::Write {
                offset,
                data: Bytes::from(vec![1; length as usize]),
            },
        };
        let tag = cluster.submit(0, self.device, op);
        self.under_way.push_back((tag, cluster.now));
    }

    /// How long each took that has ended.
    fn collect(&mut self, cluster: &mut Cluster) -> Vec<u64> {
        let mut took = Vec::new();
        let (device, now) = (self.device, cluster.now);
        self.under_way
            .retain(|(tag, began)| match cluster.take_reply(0, device, *tag) {
                None => true,
                Some(Ok(BlockReply::Done | BlockReply::Read(_))) => {
                    took.push(now - began);
                    false
                }
                Some(other) => panic!("{other:?}"),
            });
        took
    }
}

/// The small volume's latencies beside the large one, sorted, and the bytes that the large one has moved.
fn latencies(load: Load, replicas: usize, is_fair: bool) -> (Vec<u64>, u64) {
    let mut setup = Setup {
        nodes: replicas,
        disk_bytes: 512 << 20,
        disk_bytes_per_s: Some(DISK_BYTES_PER_S),
        ..Setup::new(4)
    };
    setup.limits.is_fair = is_fair;
    let mut cluster = Cluster::new(setup);
    let volumes = [LARGE, SMALL].map(|group| {
        let spec = cluster.spec(group, BLOCKS, replicas);
        cluster.create(&spec);
        Volume::open(&mut cluster, &spec)
    });
    let [mut large, mut small] = volumes;
    for volume in [&mut large, &mut small] {
        // What is read later has to be there.
        for _ in 0..BLOCKS / 256 {
            volume.submit(&mut cluster, Load::Writes, 1 << 20);
        }
        cluster.run(Duration::from_secs(8));
        assert_eq!(volume.collect(&mut cluster).len() as u64, BLOCKS / 256);
    }
    let (mut took, mut moved) = (Vec::new(), 0);
    let end = cluster.now + 2 * SECOND;
    while cluster.now < end {
        moved += (large.collect(&mut cluster).len() as u64) << 20;
        while large.under_way.len() < DEPTH {
            large.submit(&mut cluster, load, 1 << 20);
        }
        took.extend(small.collect(&mut cluster));
        if small.under_way.is_empty() {
            small.submit(&mut cluster, load, 4096);
        }
        cluster.run(Duration::from_nanos(MILLISECOND / 4));
    }
    took.sort_unstable();
    (took, moved)
}

fn check(load: Load, replicas: usize) {
    let (fair, moved_fair) = latencies(load, replicas, true);
    let (unfair, moved_unfair) = latencies(load, replicas, false);
    let median = |took: &[u64]| took[took.len() / 2];
    eprintln!(
        "{replicas} replicas: {} small requests, median {} us, beside {} MiB; in order of arrival {}, {} us, {} MiB",
        fair.len(),
        median(&fair) / 1000,
        moved_fair >> 20,
        unfair.len(),
        median(&unfair) / 1000,
        moved_unfair >> 20
    );
    // What is under way (two frames, or four long reads), and one turn of the other.
    let bound = match load {
        Load::Writes => 100,
        Load::Reads => 130,
    };
    assert!(median(&fair) < bound * MILLISECOND, "{} us", median(&fair) / 1000);
    assert!(median(&unfair) > 3 * median(&fair), "the difference is worth its code");
    assert!(
        moved_fair * 10 > moved_unfair * 9,
        "the large one loses next to nothing"
    );
}

#[test]
fn a_block_does_not_wait_behind_another_volumes_queue_of_long_writes() {
    check(Load::Writes, 1);
}

#[test]
fn a_block_is_not_read_behind_another_volumes_queue_of_long_reads() {
    check(Load::Reads, 1);
}

#[test]
fn nor_does_it_on_the_followers_disks() {
    check(Load::Writes, 3);
}
