//! Attachment epochs: who has lost the volume writes nothing any more, however late its requests arrive.

use std::time::Duration;

use bytes::Bytes;
use cairn_api::block::{BlockError, BlockOp, BlockReply};
use cairn_api::ids::{GroupId, NodeId};
use cairn_core::event::{Command, CommandReply, DeviceId, GroupSpec};

use cairn_sim::cluster::{Cluster, MILLISECOND, SECOND, Setup, node_id, read_bytes};
use cairn_sim::workload::Workload;

const VOLUME: GroupId = GroupId(2);

fn cluster(seed: u64) -> (Cluster, GroupSpec) {
    let mut cluster = Cluster::new(Setup::new(seed));
    let spec = cluster.spec(VOLUME, 256, 3);
    cluster.create(&spec);
    (cluster, spec)
}

fn write(block: u64, byte: u8) -> BlockOp {
    BlockOp::Write {
        offset: block * 4096,
        data: Bytes::from(vec![byte; 4096]),
    }
}

fn first_byte(cluster: &mut Cluster, node: usize, device: DeviceId, offset: u64) -> u8 {
    read_bytes(cluster.call(node, device, BlockOp::Read { offset, length: 512 }))[0]
}

fn detach(cluster: &mut Cluster, node: usize, spec: &GroupSpec, force: bool) {
    let reply = cluster.command(
        node,
        Command::Detach {
            spec: spec.clone(),
            force,
        },
    );
    assert_eq!(reply, Ok(CommandReply::Done));
}

#[test]
fn a_live_holder_keeps_others_out_and_a_closed_one_does_not() {
    let (mut cluster, spec) = cluster(300);
    let first = cluster.open(0, &spec);
    assert_eq!(cluster.call(0, first, write(0, 1)), Ok(BlockReply::Done));
    let second = cluster.open(1, &spec);
    let reply = cluster.call(1, second, write(0, 2));
    assert!(matches!(reply, Err(BlockError::Busy { .. })), "{reply:?}");
    assert_eq!(first_byte(&mut cluster, 1, second, 0), 1, "reads need no attachment");
    assert_eq!(cluster.call(0, first, write(0, 3)), Ok(BlockReply::Done));
    cluster.close(0, first);
    cluster.run(Duration::from_millis(200));
    let start = cluster.now;
    assert_eq!(cluster.call(1, second, write(0, 4)), Ok(BlockReply::Done));
    assert!(
        cluster.now - start < SECOND,
        "a volume that was given back is free at once"
    );
    assert_eq!(cluster.status(0, VOLUME).holder, node_id(1));
}

#[test]
fn a_holder_that_was_forced_off_is_fenced() {
    for seed in 310..316 {
        let (mut cluster, spec) = cluster(seed);
        let old = cluster.open(0, &spec);
        assert_eq!(cluster.call(0, old, write(0, 1)), Ok(BlockReply::Done));
        let before = cluster.status(0, VOLUME).epoch;
        detach(&mut cluster, 1, &spec, true);
        let new = cluster.open(1, &spec);
        assert_eq!(cluster.call(1, new, write(0, 2)), Ok(BlockReply::Done));
        assert!(
            cluster.status(1, VOLUME).epoch.get() >= before.get() + 2,
            "detaching and attaching raise the epoch"
        );
        let reply = cluster.call(0, old, write(0, 3));
        assert!(matches!(reply, Err(BlockError::Fenced { .. })), "{reply:?}");
        let reply = cluster.call(0, old, write(1, 3));
        assert!(matches!(reply, Err(BlockError::Fenced { .. })), "{reply:?}");
        assert_eq!(first_byte(&mut cluster, 0, old, 0), 2);
        cluster.quiesce(&spec);
    }
}

#[test]
fn forcing_is_needed_while_the_holder_lives() {
    let (mut cluster, spec) = cluster(320);
    let device = cluster.open(0, &spec);
    assert_eq!(cluster.call(0, device, write(0, 1)), Ok(BlockReply::Done));
    let reply = cluster.command(
        2,
        Command::Detach {
            spec: spec.clone(),
            force: false,
        },
    );
    assert!(reply.is_err(), "{reply:?}");
    assert_eq!(cluster.call(0, device, write(0, 2)), Ok(BlockReply::Done));
    cluster.crash(0);
    cluster.run(Duration::from_secs(8));
    detach(&mut cluster, 2, &spec, false);
    assert_eq!(cluster.status(2, VOLUME).holder, NodeId::NIL);
}

#[test]
fn what_an_old_holder_sent_is_refused_however_late_it_arrives() {
    for seed in 330..342 {
        let (mut cluster, spec) = cluster(seed);
        let leader = cluster.leader(VOLUME).unwrap();
        let old_node = (leader + 1) % 3;
        let new_node = (leader + 2) % 3;
        let old = cluster.open(old_node, &spec);
        cluster.nodes[old_node].config.limits.move_leadership = false;
        assert_eq!(cluster.call(old_node, old, write(0, 1)), Ok(BlockReply::Done));
        cluster.run(Duration::from_secs(4));
        let leader = cluster.leader(VOLUME).unwrap();
        let stuck_node = if leader == old_node { new_node } else { leader };
        // The old holder's requests get stuck on their way: its link is clogged, or it is stopped itself.
        let late: Vec<_> = if leader == old_node {
            cluster.pause(old_node, 3600 * SECOND);
            (0..4)
                .map(|block| cluster.submit(old_node, old, write(block, 9)))
                .collect()
        } else {
            cluster.block(old_node, stuck_node);
            (0..4)
                .map(|block| cluster.submit(old_node, old, write(block, 9)))
                .collect()
        };
        cluster.run(Duration::from_millis(20));
        detach_through(&mut cluster, new_node, &spec);
        let new = cluster.open(new_node, &spec);
        for block in 0..4 {
            assert_eq!(cluster.call(new_node, new, write(block, 2)), Ok(BlockReply::Done));
        }
        cluster.resume(old_node);
        cluster.heal();
        cluster.run(Duration::from_secs(12));
        for tag in late {
            let reply = cluster.take_reply(old_node, old, tag);
            assert!(
                matches!(reply, Some(Err(BlockError::Fenced { .. }))),
                "seed {seed}: {reply:?}"
            );
        }
        for block in 0..4 {
            assert_eq!(
                first_byte(&mut cluster, new_node, new, block * 4096),
                2,
                "seed {seed}, block {block}"
            );
        }
        cluster.quiesce(&spec);
    }
}

/// Detaches by force as soon as some leader takes it.
fn detach_through(cluster: &mut Cluster, node: usize, spec: &GroupSpec) {
    for _ in 0..10 {
        if cluster
            .command(
                node,
                Command::Detach {
                    spec: spec.clone(),
                    force: true,
                },
            )
            .is_ok()
        {
            return;
        }
        cluster.run(Duration::from_millis(500));
    }
    panic!("no detach within ten attempts");
}

#[test]
fn writes_behind_a_detachment_in_the_log_are_refused_when_applied() {
    // Disks so slow that writes of the old epoch are proposed behind the detachment before the leader has applied it.
    let mut fenced = 0;
    for seed in 343..349 {
        let (mut cluster, spec) = cluster(seed);
        let old = cluster.open(0, &spec);
        assert_eq!(cluster.call(0, old, write(0, 1)), Ok(BlockReply::Done));
        for node in &mut cluster.nodes {
            node.write_latency = Some((30 * MILLISECOND, 31 * MILLISECOND));
        }
        let mut tags: Vec<_> = Vec::new();
        let id = cluster.start_command(
            1,
            Command::Detach {
                spec: spec.clone(),
                force: true,
            },
        );
        while !cluster.nodes[1].command_replies.contains_key(&id) {
            tags.push(cluster.submit(0, old, write(1 + tags.len() as u64, 9)));
            cluster.run(Duration::from_millis(1));
            assert!(tags.len() < 250, "seed {seed}: no reply to the detachment");
        }
        let device = cluster.open(2, &spec);
        let all = BlockOp::Read {
            offset: 0,
            length: 256 * 4096,
        };
        let first = read_bytes(cluster.call(2, device, all.clone()));
        cluster.run(Duration::from_secs(2));
        let later = read_bytes(cluster.call(2, device, all));
        assert!(first == later, "seed {seed}: a write landed behind the detachment");
        for (block, tag) in (1..).zip(tags) {
            let is_there = later[block * 4096] == 9;
            match cluster.take_reply(0, old, tag) {
                Some(Ok(BlockReply::Done)) => assert!(is_there),
                Some(Err(BlockError::Fenced { .. })) => fenced += 1,
                other => panic!("seed {seed}, block {block}: {other:?}"),
            }
        }
    }
    assert!(fenced > 20, "only {fenced} writes were fenced: the test shows little");
}

#[test]
fn a_write_that_was_sent_again_never_lands_a_second_time() {
    // The connection breaks under a write; its bytes may be in the receiver's buffers and come late, when the write was
    // sent again and the block was written once more.
    let mut late = 0;
    for seed in 400..412 {
        let mut setup = Setup::new(seed);
        setup.limits.move_leadership = false;
        let mut cluster = Cluster::new(setup);
        let spec = cluster.spec(VOLUME, 256, 3);
        cluster.create(&spec);
        let leader = cluster.leader(VOLUME).unwrap();
        let gateway = (leader + 1) % 3;
        let device = cluster.open(gateway, &spec);
        assert_eq!(cluster.call(gateway, device, write(0, 1)), Ok(BlockReply::Done));
        for round in 0..8_u8 {
            let tag = cluster.submit(gateway, device, write(7, 100 + round));
            cluster.run(Duration::from_micros(20));
            cluster.break_link(gateway, leader);
            late += u64::from(cluster.late_parcels() > 0);
            let limit = Duration::from_secs(10);
            let done = cluster.run_until(limit, |cluster| {
                cluster.nodes[gateway].replies.contains_key(&(device, tag))
            });
            assert!(done, "seed {seed}, round {round}: no reply");
            assert_eq!(cluster.call(gateway, device, write(7, round)), Ok(BlockReply::Done));
            cluster.run(Duration::from_secs(1));
            assert_eq!(
                first_byte(&mut cluster, gateway, device, 7 * 4096),
                round,
                "seed {seed}: an old copy landed"
            );
        }
        cluster.quiesce(&spec);
    }
    assert!(late > 10, "only {late} writes came late: the test shows little");
}

#[test]
fn an_unaligned_write_reads_its_edges_under_the_attachment() {
    // The second gateway's write of one sector waits for the attachment. Until it has it, the holder writes another
    // sector of the same block: that write must not be undone by edges that were read too early.
    for seed in 350..356 {
        let (mut cluster, spec) = cluster(seed);
        let holder = cluster.open(0, &spec);
        assert_eq!(cluster.call(0, holder, write(0, 1)), Ok(BlockReply::Done));
        let waiting = cluster.open(1, &spec);
        let sector = |offset: u64, byte: u8| BlockOp::Write {
            offset,
            data: Bytes::from(vec![byte; 512]),
        };
        let tag = cluster.submit(1, waiting, sector(512, 7));
        cluster.run(Duration::from_millis(600));
        assert_eq!(cluster.call(0, holder, sector(2048, 5)), Ok(BlockReply::Done));
        cluster.close(0, holder);
        let done = cluster.run_until(Duration::from_secs(20), |cluster| {
            cluster.nodes[1].replies.contains_key(&(waiting, tag))
        });
        assert!(done);
        assert_eq!(cluster.take_reply(1, waiting, tag), Some(Ok(BlockReply::Done)));
        assert_eq!(first_byte(&mut cluster, 1, waiting, 512), 7);
        assert_eq!(
            first_byte(&mut cluster, 1, waiting, 2048),
            5,
            "an acknowledged write was undone"
        );
        assert_eq!(first_byte(&mut cluster, 1, waiting, 1024), 1);
    }
}

#[test]
fn two_gateways_that_fight_over_a_volume_lose_nothing() {
    for seed in 360..363 {
        let (mut cluster, spec) = cluster(seed);
        let mut load = Workload::new(spec.clone(), seed);
        load.open(&mut cluster, 0);
        load.open(&mut cluster, 1);
        for round in 0..8 {
            load.run(&mut cluster, 700 * MILLISECOND);
            let taker = round % 2;
            detach(&mut cluster, taker, &spec, true);
            // Whoever was refused opens the volume again.
            while let Some(place) = load.clients.iter().position(|client| client.refused.is_some()) {
                let node = load.clients[place].node;
                load.close(&mut cluster, place);
                load.open(&mut cluster, node);
            }
        }
        load.drain(&mut cluster, 30 * SECOND);
        assert!(load.history.acknowledged > 100);
        load.verify_all(&mut cluster, 0);
        cluster.quiesce(&spec);
    }
}
