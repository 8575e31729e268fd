//! Encrypted volumes: what is written through one gateway is read through another, and is nowhere in between.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use cairn_api::block::{BlockOp, BlockReply, ReadPiece};
use cairn_api::ids::GroupId;
use cairn_history::content;
use cairn_sim::cluster::{Cluster, SECOND, Setup, read_bytes};
use cairn_sim::workload::Workload;

const BLOCKS: u64 = 128;
const VOLUME: GroupId = GroupId(5);

fn cluster(seed: u64) -> Cluster {
    let mut cluster = Cluster::new(Setup::new(seed));
    let spec = cluster.spec(VOLUME, BLOCKS, 3);
    cluster.create(&spec);
    cluster
}

fn load(cluster: &Cluster, seed: u64) -> Workload {
    Workload::new(cluster.spec(VOLUME, BLOCKS, 3), seed)
}

#[test]
fn what_clients_write_is_nowhere_below_their_gateways_whatever_happens() {
    for seed in 1..4 {
        let mut cluster = cluster(seed);
        cluster.encrypt(VOLUME, 0..1 << 48);
        let mut load = load(&cluster, seed);
        load.open(&mut cluster, 0);
        load.run(&mut cluster, SECOND);
        // A failover: what was not acknowledged is sent again.
        let leader = cluster.await_leader(VOLUME, std::time::Duration::from_secs(10));
        cluster.crash(leader);
        load.bury_dead(&cluster);
        let elsewhere = (leader + 1) % 3;
        load.open(&mut cluster, elsewhere);
        load.run(&mut cluster, 4 * SECOND);
        cluster.start(leader);
        load.run(&mut cluster, 2 * SECOND);
        load.drain(&mut cluster, 60 * SECOND);
        load.open(&mut cluster, (leader + 2) % 3);
        let last = load.clients.len() - 1;
        load.verify_all(&mut cluster, last);
        let spec = cluster.spec(VOLUME, BLOCKS, 3);
        cluster.quiesce(&spec);
        assert!(load.finished > 300, "{} requests", load.finished);
    }
}

/// The same search finds what is written to a volume that is not encrypted: it is not blind.
#[test]
fn the_search_finds_what_is_written_to_a_plain_volume() {
    let mut cluster = cluster(1);
    // Its stamps are searched for, as another volume's that is encrypted.
    cluster.encrypt(GroupId(99), 0..1 << 48);
    let mut load = load(&cluster, 1);
    load.open(&mut cluster, 0);
    let found = catch_unwind(AssertUnwindSafe(|| load.run(&mut cluster, SECOND))).unwrap_err();
    let words = found.downcast_ref::<String>().unwrap();
    assert!(words.contains("[plaintext]"), "{words}");
}

#[test]
fn holes_trims_and_zeroes_read_as_zeros_and_edges_stay() {
    let mut cluster = cluster(2);
    cluster.encrypt(VOLUME, 0..1 << 48);
    let spec = cluster.spec(VOLUME, BLOCKS, 3);
    let device = cluster.open(0, &spec);
    let mut model = vec![0_u8; 16 * 4096];
    let text: Vec<u8> = (0..16 * 4096_u32).map(|i| u8::try_from(i % 251).unwrap() | 1).collect();
    // Whole blocks, parts of blocks, and what straddles a hole, in any order.
    for (offset, length) in [
        (4096, 8192),
        (100, 50),
        (4095, 2),
        (6 * 4096 + 10, 9000),
        (15 * 4096 + 4000, 96),
    ] {
        let data = Bytes::copy_from_slice(&text[offset..offset + length]);
        model[offset..offset + length].copy_from_slice(&data);
        let op = BlockOp::Write {
            offset: offset as u64,
            data,
        };
        assert_eq!(cluster.call(0, device, op), Ok(BlockReply::Done));
    }
    for (offset, length, is_trim) in [(4096, 4096, true), (2 * 4096 + 7, 300, false), (7 * 4096, 4096, false)] {
        model[offset..offset + length].fill(0);
        let (offset, length) = (offset as u64, length as u64);
        let op = match is_trim {
            true => BlockOp::Trim { offset, length },
            false => BlockOp::WriteZeroes {
                offset,
                length,
                no_hole: true,
            },
        };
        assert_eq!(cluster.call(0, device, op), Ok(BlockReply::Done));
    }
    let elsewhere = cluster.open(1, &spec);
    for (number, device) in [(0, device), (1, elsewhere)] {
        for (offset, length) in [(0, 16 * 4096), (4097, 5), (4000, 9000), (3 * 4096, 3 * 4096)] {
            let op = BlockOp::Read {
                offset: offset as u64,
                length: u32::try_from(length).unwrap(),
            };
            let read = read_bytes(cluster.call(number, device, op));
            assert!(
                read == model[offset..offset + length],
                "{length} bytes at {offset} through node {number}"
            );
        }
    }
    // A hole costs nothing, and is said to be one.
    let op = BlockOp::Read {
        offset: 3 * 4096,
        length: 4096,
    };
    assert_eq!(
        cluster.call(0, device, op),
        Ok(BlockReply::Read(vec![ReadPiece::Zeros(4096)]))
    );
}

/// A gateway with another key reads noise: it is the key that the plaintext depends on.
#[test]
fn another_key_reads_noise() {
    let mut cluster = cluster(3);
    cluster.encrypt(VOLUME, 0..1 << 48);
    let spec = cluster.spec(VOLUME, BLOCKS, 3);
    let device = cluster.open(0, &spec);
    let data: Vec<u8> = (0..8).flat_map(|place| content::sector(7, place)).collect();
    let op = BlockOp::Write {
        offset: 0,
        data: data.clone().into(),
    };
    assert_eq!(cluster.call(0, device, op), Ok(BlockReply::Done));
    let read = BlockOp::Read {
        offset: 0,
        length: 4096,
    };
    assert!(read_bytes(cluster.call(0, device, read.clone())) == data);
    cluster.close(0, device);
    cluster.setup.seed += 1;
    cluster.encrypt(VOLUME, 0..1 << 48);
    let stranger = cluster.open(1, &spec);
    let noise = read_bytes(cluster.call(1, stranger, read));
    let same = noise
        .chunks(16)
        .zip(data.chunks(16))
        .filter(|(one, two)| one == two)
        .count();
    assert_eq!(same, 0);
}
