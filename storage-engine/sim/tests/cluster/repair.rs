//! Blocks that a disk has lost come from a peer, and are written back.

use std::time::Duration;

use bytes::Bytes;
use cairn_api::block::{BlockError, BlockOp, BlockReply};
use cairn_api::ids::{GroupId, LogIndex};
use cairn_api::units::{BLOCK_BYTES, BLOCK_SIZE, Lba};
use cairn_core::event::{Command, CommandReply, DamageCounts, DeviceId, GroupSpec};
use cairn_core::map::{Run, Slot};

use cairn_history::content::{self, SECTOR};
use cairn_history::rng::Rng;
use cairn_sim::cluster::{Cluster, MILLISECOND, SECOND, Setup, read_bytes};
use cairn_sim::workload::Workload;

const VOLUME: GroupId = GroupId(2);
const BLOCKS: u64 = 600;

fn write(first: u64, blocks: u64, byte: u8) -> BlockOp {
    let data = Bytes::from(vec![byte; (blocks * BLOCK_BYTES) as usize]);
    let offset = first * BLOCK_BYTES;
    BlockOp::Write { offset, data }
}

fn read(first: u64, blocks: u64) -> BlockOp {
    BlockOp::Read {
        offset: first * BLOCK_BYTES,
        length: blocks as u32 * BLOCK_SIZE,
    }
}

/// A volume on three nodes whose blocks 0 to 63 hold fives, with a device on node 0, which leads.
fn volume(seed: u64) -> (Cluster, GroupSpec, DeviceId) {
    let mut cluster = Cluster::new(Setup::new(seed));
    let spec = cluster.spec(VOLUME, BLOCKS, 3);
    cluster.create(&spec);
    let device = cluster.open(0, &spec);
    assert_eq!(cluster.call(0, device, write(0, 64, 5)), Ok(BlockReply::Done));
    let is_led_here = cluster.run_until(Duration::from_secs(10), |cluster| cluster.leader(VOLUME) == Some(0));
    assert!(is_led_here, "leadership does not move to the consumer");
    // Long enough for every follower to have applied it, and for the log to have vouched for it.
    cluster.run(Duration::from_secs(1));
    (cluster, spec, device)
}

/// Where a block of the volume is on a node's disk, in bytes.
fn place(cluster: &Cluster, node: usize, lba: u64) -> u64 {
    let map = cluster.nodes[node].core.as_ref().unwrap().map(VOLUME).unwrap();
    let Slot::Data { block, .. } = map.slot(Lba(lba)) else {
        panic!("nothing at block {lba} of node {node}")
    };
    block.0 * BLOCK_BYTES
}

fn rot(cluster: &mut Cluster, node: usize, lba: u64) {
    let offset = place(cluster, node, lba);
    cluster.nodes[node].disk.rot(offset);
}

/// The places of all mapped blocks of a node.
fn mapped(cluster: &Cluster, node: usize) -> Vec<u64> {
    let Some(map) = cluster.nodes[node].core.as_ref().and_then(|core| core.map(VOLUME)) else {
        return Vec::new();
    };
    let mut offsets = Vec::new();
    for run in map.runs(Lba(0), map.size_blocks()) {
        if let Run::Data { block, blocks, .. } = run {
            offsets.extend((block.0..block.0 + blocks).map(|block| block * BLOCK_BYTES));
        }
    }
    offsets
}

fn damage(cluster: &mut Cluster, node: usize) -> DamageCounts {
    cluster.status(node, VOLUME).damage
}

fn counts(found: u64, repaired: u64, unrepairable: u64) -> DamageCounts {
    DamageCounts {
        found,
        repaired,
        unrepairable,
    }
}

fn reads_as(cluster: &mut Cluster, device: DeviceId, first: u64, blocks: u64, byte: u8) {
    let bytes = read_bytes(cluster.call(0, device, read(first, blocks)));
    assert!(bytes.iter().all(|found| *found == byte), "wrong data");
}

#[test]
fn a_rotten_block_is_repaired_before_the_reply_and_on_the_disk() {
    let (mut cluster, _, device) = volume(600);
    rot(&mut cluster, 0, 7);
    rot(&mut cluster, 0, 40);
    reads_as(&mut cluster, device, 0, 64, 5);
    cluster.run(Duration::from_millis(500));
    cluster.check_applied_is_durable(0, VOLUME);
    assert_eq!(damage(&mut cluster, 0), counts(2, 2, 0));
    reads_as(&mut cluster, device, 0, 64, 5);
    assert_eq!(damage(&mut cluster, 0), counts(2, 2, 0), "it stays repaired");
}

#[test]
fn a_block_that_cannot_be_read_is_repaired_and_the_ones_beside_it_are_left_alone() {
    let (mut cluster, _, device) = volume(601);
    let offset = place(&cluster, 0, 33);
    cluster.nodes[0].disk.spoil(offset);
    let written = cluster.nodes[0].disk.bytes_written;
    reads_as(&mut cluster, device, 0, 64, 5);
    cluster.run(Duration::from_millis(500));
    cluster.check_applied_is_durable(0, VOLUME);
    assert_eq!(damage(&mut cluster, 0), counts(1, 1, 0));
    assert_eq!(cluster.nodes[0].disk.bytes_written - written, BLOCK_BYTES);
}

#[test]
fn different_blocks_come_from_different_peers() {
    let (mut cluster, _, device) = volume(602);
    // What one peer has lost the other one has; neither can give both.
    for (node, lba) in [(0, 3), (0, 9), (1, 3), (2, 9), (1, 20)] {
        rot(&mut cluster, node, lba);
    }
    let offset = place(&cluster, 2, 4);
    cluster.nodes[2].disk.spoil(offset);
    rot(&mut cluster, 0, 4);
    reads_as(&mut cluster, device, 0, 64, 5);
    cluster.run(Duration::from_millis(500));
    cluster.check_applied_is_durable(0, VOLUME);
    assert_eq!(damage(&mut cluster, 0), counts(3, 3, 0));
}

#[test]
fn a_block_that_all_have_lost_is_an_error_and_never_data() {
    let (mut cluster, _, device) = volume(603);
    for node in 0..3 {
        rot(&mut cluster, node, 7);
    }
    let reply = cluster.call(0, device, read(0, 16));
    let Err(BlockError::Io(words)) = reply else {
        panic!("{reply:?}")
    };
    assert!(words.contains("block 7 "), "{words}");
    reads_as(&mut cluster, device, 0, 7, 5);
    reads_as(&mut cluster, device, 8, 56, 5);
    assert!(cluster.call(0, device, read(7, 1)).is_err());
    assert_eq!(damage(&mut cluster, 0), counts(1, 0, 1), "counted once");
    // What is written anew is whole again.
    assert_eq!(cluster.call(0, device, write(7, 1, 6)), Ok(BlockReply::Done));
    reads_as(&mut cluster, device, 7, 1, 6);
}

#[test]
fn a_group_of_one_has_nobody_to_ask() {
    let mut cluster = Cluster::new(Setup::new(604));
    let spec = cluster.spec(VOLUME, BLOCKS, 1);
    cluster.create(&spec);
    let device = cluster.open(0, &spec);
    assert_eq!(cluster.call(0, device, write(0, 16, 5)), Ok(BlockReply::Done));
    rot(&mut cluster, 0, 7);
    assert!(matches!(cluster.call(0, device, read(0, 16)), Err(BlockError::Io(_))));
    reads_as(&mut cluster, device, 8, 8, 5);
}

#[test]
fn a_reader_waits_while_the_only_good_copy_is_stopped() {
    // Once for less than it takes the leader to step down, once for longer.
    for (seed, stopped) in [(605, 700 * MILLISECOND), (606, 6 * SECOND)] {
        let (mut cluster, _, device) = volume(seed);
        rot(&mut cluster, 0, 7);
        cluster.crash(2);
        cluster.pause(1, stopped);
        let resumed = cluster.now + stopped;
        let tag = cluster.submit(0, device, read(0, 64));
        let replied = cluster.run_until(Duration::from_secs(30), |cluster| {
            cluster.nodes[0].replies.contains_key(&(device, tag))
        });
        assert!(replied && cluster.now >= resumed);
        let bytes = read_bytes(cluster.take_reply(0, device, tag).unwrap());
        assert!(bytes.iter().all(|byte| *byte == 5));
        cluster.run(Duration::from_secs(5));
        reads_as(&mut cluster, device, 0, 64, 5);
        cluster.run(Duration::from_secs(1));
        cluster.check_applied_is_durable(0, VOLUME);
    }
}

#[test]
fn after_a_while_an_absent_member_is_waited_for_no_longer() {
    let (mut cluster, _, device) = volume(607);
    rot(&mut cluster, 0, 7);
    rot(&mut cluster, 1, 7);
    cluster.crash(2);
    let begun = cluster.now;
    let reply = cluster.call(0, device, read(7, 1));
    assert!(matches!(reply, Err(BlockError::Io(_))), "{reply:?}");
    let waited = cluster.now - begun;
    assert!((20 * SECOND..25 * SECOND).contains(&waited), "{waited} ns");
    cluster.start(2);
    cluster.settle_start();
    cluster.run(Duration::from_secs(1));
    reads_as(&mut cluster, device, 0, 64, 5);
    cluster.run(Duration::from_secs(1));
    assert_eq!(damage(&mut cluster, 0), counts(1, 1, 1));
}

#[test]
fn a_write_back_waits_for_the_log_to_vouch_for_its_frame() {
    // Rot in the very last durable frame, noticed at once: the repair must not touch what recovery would look at.
    for seed in 610..620 {
        let (mut cluster, _, device) = volume(seed);
        assert_eq!(cluster.call(0, device, write(100, 8, 9)), Ok(BlockReply::Done));
        // With the next write the peers hear that the first one is committed; its frame, which vouches here, takes long.
        cluster.nodes[0].write_latency = Some((40 * MILLISECOND, 40 * MILLISECOND));
        cluster.submit(0, device, write(200, 1, 1));
        cluster.run(Duration::from_millis(2));
        cluster.nodes[0].write_latency = None;
        rot(&mut cluster, 0, 103);
        let offset = place(&cluster, 0, 103);
        let rotten = cluster.nodes[0].disk.read(offset, BLOCK_SIZE);
        let written = cluster.nodes[0].disk.bytes_written;
        reads_as(&mut cluster, device, 100, 8, 9);
        let has_written = |cluster: &Cluster| cluster.nodes[0].disk.bytes_written > written;
        assert!(cluster.run_until(Duration::from_secs(1), has_written));
        let is_as_before = cluster.nodes[0].disk.read(offset, BLOCK_SIZE) == rotten;
        assert!(is_as_before, "seed {seed}: the repair came first");
        cluster.run(Duration::from_secs(1));
        cluster.check_applied_is_durable(0, VOLUME);
    }
}

#[test]
fn rot_and_bad_sectors_under_load_are_never_seen() {
    for seed in 620..626 {
        let mut cluster = Cluster::new(Setup::new(seed));
        let spec = cluster.spec(VOLUME, BLOCKS, 3);
        cluster.create(&spec);
        let mut rng = Rng::new(seed);
        let mut load = Workload::new(spec.clone(), seed);
        load.open(&mut cluster, 0);
        load.run(&mut cluster, SECOND);
        for _ in 0..20 {
            // Never two replicas of the same block: each round is repaired by a reading of everything.
            let node = rng.pick(3);
            spoil_some(&mut cluster, node, &mut rng);
            load.run(&mut cluster, 200 * MILLISECOND);
            load.drain(&mut cluster, 20 * SECOND);
            if cluster.leader(VOLUME) == Some(node) {
                load.verify_all(&mut cluster, 0);
                cluster.run(Duration::from_millis(500));
                cluster.check_applied_is_durable(node, VOLUME);
                let damage = damage(&mut cluster, node);
                assert_eq!((damage.found, damage.unrepairable), (damage.repaired, 0));
            }
        }
        let leader = cluster.leader(VOLUME).unwrap();
        assert!(damage(&mut cluster, leader).repaired > 0);
        cluster.quiesce(&spec);
    }
}

/// Flips bits in some of a node's mapped blocks, and makes others unreadable.
fn spoil_some(cluster: &mut Cluster, node: usize, rng: &mut Rng) {
    for offset in mapped(cluster, node) {
        match rng.below(40) {
            0 => assert!(cluster.nodes[node].disk.rot(offset)),
            1 => cluster.nodes[node].disk.spoil(offset),
            _ => {}
        }
    }
}

#[test]
fn power_cuts_in_the_middle_of_repairs_do_no_harm() {
    for seed in 630..642 {
        let mut cluster = Cluster::new(Setup::new(seed));
        let spec = cluster.spec(VOLUME, BLOCKS, 3);
        cluster.create(&spec);
        let mut rng = Rng::new(seed);
        let mut load = Workload::new(spec.clone(), seed);
        load.open(&mut cluster, 0);
        load.run(&mut cluster, SECOND);
        load.drain(&mut cluster, 20 * SECOND);
        let Some(leader) = cluster.leader(VOLUME) else { continue };
        spoil_some(&mut cluster, leader, &mut rng);
        // Frames that follow vouch for those that were spoilt, or recovery would rightly take the last one for torn.
        load.mix.write = 90;
        load.run(&mut cluster, 150 * MILLISECOND);
        load.mix.write = 0;
        let pause = rng.between(MILLISECOND, 60 * MILLISECOND);
        load.run(&mut cluster, pause);
        cluster.crash(leader);
        load.bury_dead(&cluster);
        cluster.start(leader);
        cluster.settle_start();
        assert!(cluster.nodes[leader].failure.is_none());
        load.mix.write = 40;
        load.open(&mut cluster, leader);
        load.run(&mut cluster, 4 * SECOND);
        load.drain(&mut cluster, 20 * SECOND);
        load.verify_all(&mut cluster, load.clients.len() - 1);
        cluster.quiesce(&spec);
    }
}

/// Where a node's disk holds payload of the workload, superseded or not.
fn payload_places(cluster: &Cluster, node: usize) -> Vec<u64> {
    let node = &cluster.nodes[node];
    let geometry = node.config.geometry;
    let is_payload = |offset: &u64| {
        let bytes = node.disk.read(*offset, BLOCK_SIZE).unwrap();
        bytes.chunks(SECTOR).any(|sector| content::stamp_of(sector).is_some())
    };
    let mut places = Vec::new();
    for segment in 0..geometry.segment_count {
        let blocks = geometry.segment_offset(segment)..geometry.segment_end(segment);
        let found: Vec<u64> = blocks.step_by(BLOCK_SIZE as usize).filter(is_payload).collect();
        if found.is_empty() {
            break;
        }
        places.extend(found);
    }
    places
}

#[test]
fn a_follower_catches_up_from_a_leader_whose_old_entries_have_rotted() {
    for seed in 650..653 {
        let mut setup = Setup {
            disk_bytes: 4 << 30,
            ..Setup::new(seed)
        };
        // Most entries are then to be looked up on the disk, at the leader and at the peer that helps out.
        setup.limits.headers_kept_max = 64;
        // No checkpoint cuts the log while the follower is away.
        setup.limits.space.window_segments_max = Some(32);
        let mut cluster = Cluster::new(setup);
        let spec = cluster.spec(VOLUME, 200, 3);
        cluster.create(&spec);
        let mut rng = Rng::new(seed);
        let mut load = Workload::new(spec.clone(), seed);
        load.mix.write = 60;
        load.open(&mut cluster, 0);
        load.run(&mut cluster, SECOND);
        cluster.crash(2);
        load.run(&mut cluster, 4 * SECOND);
        load.drain(&mut cluster, 20 * SECOND);
        let leader = cluster.leader(VOLUME).unwrap();
        let places = payload_places(&cluster, leader);
        let mut spoilt = 0;
        for offset in &places {
            match rng.below(40) {
                0 => assert!(cluster.nodes[leader].disk.rot(*offset)),
                1 => cluster.nodes[leader].disk.spoil(*offset),
                _ => continue,
            }
            spoilt += 1;
        }
        assert!(spoilt > 20, "only {spoilt} blocks of {} spoilt", places.len());
        cluster.start(2);
        load.run(&mut cluster, SECOND);
        load.drain(&mut cluster, 20 * SECOND);
        cluster.quiesce(&spec);
        for node in 0..3 {
            load.verify_all(&mut cluster, 0);
            cluster.run(Duration::from_millis(500));
            cluster.check_applied_is_durable(node, VOLUME);
        }
        let damage = damage(&mut cluster, leader);
        assert!(damage.repaired > 10 && damage.unrepairable == 0, "{damage:?}");
    }
}

#[test]
fn a_meta_replica_fetches_commands_that_its_disk_has_lost() {
    let mut cluster = Cluster::new(Setup::new(660));
    let meta = cluster.spec(GroupId::META, 0, 3);
    cluster.create(&meta);
    let start = Command::StartApply {
        group: GroupId::META,
        applied: LogIndex(0),
    };
    for node in 0..3 {
        assert_eq!(cluster.command(node, start.clone()), Ok(CommandReply::Done));
    }
    let leader = cluster.await_leader(GroupId::META, Duration::from_secs(10));
    for i in 0..20_u8 {
        let group = GroupId::META;
        let data = Bytes::from(vec![0xA0 + i; 6000]);
        let reply = cluster.command(leader, Command::Propose { group, data });
        assert!(matches!(reply, Ok(CommandReply::Committed(_))), "{reply:?}");
    }
    cluster.run(Duration::from_secs(1));
    let victim = (leader + 1) % 3;
    let geometry = cluster.nodes[victim].config.geometry;
    let blocks = (geometry.segment_offset(0)..geometry.segment_end(0)).step_by(BLOCK_SIZE as usize);
    for offset in blocks {
        let bytes = cluster.nodes[victim].disk.read(offset, BLOCK_SIZE).unwrap();
        if bytes[0] >= 0xA0 && bytes[..1000].iter().all(|byte| *byte == bytes[0]) {
            cluster.nodes[victim].disk.rot(offset);
        }
    }
    cluster.crash(victim);
    cluster.start(victim);
    cluster.settle_start();
    assert_eq!(cluster.command(victim, start), Ok(CommandReply::Done));
    cluster.run(Duration::from_secs(5));
    let node = &cluster.nodes[victim];
    assert_eq!(node.failure, None);
    let commands: Vec<u8> = node.applied.iter().map(|(_, _, data)| data[0]).collect();
    assert_eq!(commands, (0xA0..0xB4).collect::<Vec<u8>>());
    let damage = cluster.status(victim, GroupId::META).damage;
    assert_eq!((damage.found, damage.repaired), (40, 40));
}
