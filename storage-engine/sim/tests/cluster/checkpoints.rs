//! What a start makes of the last checkpoint, whole or damaged: the rows of the table of recovery that are about it.

use std::time::Duration;

use bytes::Bytes;
use cairn_api::block::{BlockOp, BlockReply};
use cairn_api::ids::{GroupId, LogIndex};
use cairn_api::units::BLOCK_BYTES;
use cairn_core::event::{Command, CommandReply, GroupSpec};
use cairn_core::log::recovery::Row;
use cairn_format::anchor::{ANCHOR_OFFSETS, Anchor};
use cairn_sim::cluster::{Cluster, Setup, read_bytes};

const VOLUME: GroupId = GroupId(2);
const BLOCKS: u64 = 4096;

/// One node with a volume that was written, and checkpoints of it, as many as asked for; it is stopped.
fn stopped_after(checkpoints: usize) -> (Cluster, GroupSpec) {
    let mut cluster = Cluster::new(Setup {
        nodes: 1,
        disk_bytes: 128 << 20,
        segment_bytes: 2 << 20,
        ..Setup::new(31)
    });
    let spec = cluster.spec(VOLUME, BLOCKS, 1);
    cluster.create(&spec);
    let device = cluster.open(0, &spec);
    for round in 0..=checkpoints {
        for place in 0..64 {
            let data = Bytes::from(vec![round as u8 + 1; 16 * BLOCK_BYTES as usize]);
            let offset = place * 16 * BLOCK_BYTES;
            let reply = cluster.call(0, device, BlockOp::Write { offset, data });
            assert_eq!(reply, Ok(BlockReply::Done));
        }
        if round < checkpoints {
            assert_eq!(cluster.command(0, Command::Checkpoint), Ok(CommandReply::Done));
            cluster.run(Duration::from_secs(1));
        }
    }
    cluster.run(Duration::from_secs(1));
    cluster.crash(0);
    (cluster, spec)
}

fn anchor(cluster: &Cluster, place: usize) -> Anchor {
    let bytes = cluster.nodes[0].disk.read(ANCHOR_OFFSETS[place], 4096).unwrap();
    Anchor::decode(&bytes).unwrap()
}

/// The place of the anchor that rules.
fn newest(cluster: &Cluster) -> usize {
    let [first, second] = [0, 1].map(|place| anchor(cluster, place).generation);
    assert_eq!(first.abs_diff(second), 1, "they are written in turn");
    usize::from(second > first)
}

/// Starts the node: everything that was acknowledged is there.
fn assert_whole(cluster: &mut Cluster, spec: &GroupSpec, value: u8) {
    cluster.start(0);
    cluster.settle_start();
    let device = cluster.open(0, spec);
    for place in 0..64 {
        let length = 16 * BLOCK_BYTES as u32;
        let offset = place * 16 * BLOCK_BYTES;
        let bytes = read_bytes(cluster.call(0, device, BlockOp::Read { offset, length }));
        assert!(bytes.iter().all(|byte| *byte == value), "place {place}");
    }
}

fn met(cluster: &Cluster, row: Row) -> bool {
    cluster.rows.of(row) > 0
}

/// Starts the node, which refuses its disk; gives the reason.
fn refusal(cluster: &mut Cluster) -> String {
    cluster.start(0);
    cluster.run(Duration::from_secs(2));
    cluster.nodes[0].failure.clone().expect("the disk is refused")
}

#[test]
fn a_start_begins_at_the_last_checkpoint() {
    let (mut cluster, spec) = stopped_after(3);
    assert!(anchor(&cluster, newest(&cluster)).generation >= 3);
    assert_whole(&mut cluster, &spec, 4);
    assert!(met(&cluster, Row::Checkpoint) && !met(&cluster, Row::OneAnchor));
    let summary = cluster.nodes[0].recovered.clone().unwrap();
    assert!(
        summary.segments < 5,
        "the log behind the checkpoint, not the whole: {summary:?}"
    );
}

#[test]
fn one_anchor_is_enough() {
    for place in [0, 1] {
        for is_damaged in [true, false] {
            let (mut cluster, spec) = stopped_after(3);
            let disk = &mut cluster.nodes[0].disk;
            if is_damaged {
                disk.rot(ANCHOR_OFFSETS[place] + 100);
            } else {
                disk.spoil(ANCHOR_OFFSETS[place]);
            }
            assert_whole(&mut cluster, &spec, 4);
            assert!(met(&cluster, Row::OneAnchor), "anchor {place}");
        }
    }
}

#[test]
fn a_damaged_checkpoint_is_lost_and_never_taken_for_an_empty_disk() {
    let (mut cluster, _) = stopped_after(2);
    for offset in ANCHOR_OFFSETS {
        cluster.nodes[0].disk.rot(offset + 100);
    }
    let reason = refusal(&mut cluster);
    assert!(reason.contains("no anchor left"), "{reason}");
    assert!(met(&cluster, Row::CheckpointDamaged));

    let (mut cluster, _) = stopped_after(2);
    let table = anchor(&cluster, newest(&cluster)).checkpoint.unwrap().table;
    cluster.nodes[0].disk.rot(table.block * BLOCK_BYTES + 200);
    let reason = refusal(&mut cluster);
    assert!(reason.contains("has lost a part of its last checkpoint"), "{reason}");

    // A page is in the chunk before the table.
    let (mut cluster, _) = stopped_after(2);
    let table = anchor(&cluster, newest(&cluster)).checkpoint.unwrap().table;
    cluster.nodes[0].disk.rot((table.block - 1) * BLOCK_BYTES + 90);
    let reason = refusal(&mut cluster);
    assert!(reason.contains("has lost a part of its last checkpoint"), "{reason}");
}

#[test]
fn a_checkpoint_that_cannot_be_read_is_tried_again() {
    let (mut cluster, spec) = stopped_after(2);
    let table = anchor(&cluster, newest(&cluster)).checkpoint.unwrap().table;
    cluster.nodes[0].disk.spoil(table.block * BLOCK_BYTES);
    let reason = refusal(&mut cluster);
    assert!(reason.contains("Start the engine again"), "{reason}");
    assert!(met(&cluster, Row::CheckpointUnreadable) && !met(&cluster, Row::CheckpointDamaged));
    cluster.nodes[0].disk.clear_unreadable();
    assert_whole(&mut cluster, &spec, 3);
}

/// The table says what was free; what has been written since is not to be lost for it.
#[test]
fn an_older_checkpoint_is_used_whole_or_not_at_all() {
    let (mut cluster, spec) = stopped_after(2);
    // Without the last checkpoint's anchor the one before rules, and the log behind it is all there.
    let last = newest(&cluster);
    cluster.nodes[0].disk.rot(ANCHOR_OFFSETS[last] + 100);
    assert_whole(&mut cluster, &spec, 3);
}

/// One node with a meta group, whose commands somebody applies.
fn with_meta(seed: u64, disk_mib: u64) -> Cluster {
    let mut cluster = Cluster::new(Setup {
        nodes: 1,
        disk_bytes: disk_mib << 20,
        segment_bytes: 2 << 20,
        ..Setup::new(seed)
    });
    let meta = cluster.spec(GroupId::META, 0, 1);
    cluster.create(&meta);
    apply_from_the_first(&mut cluster);
    cluster
}

fn apply_from_the_first(cluster: &mut Cluster) {
    let start = Command::StartApply {
        group: GroupId::META,
        applied: LogIndex(0),
    };
    assert_eq!(cluster.command(0, start), Ok(CommandReply::Done));
}

/// The node loses power; it leads the meta group and a volume again, and applies all commands once more.
fn restart_with_meta(cluster: &mut Cluster, volume: GroupId) {
    cluster.crash(0);
    cluster.start(0);
    cluster.settle_start();
    apply_from_the_first(cluster);
    cluster.await_leader(GroupId::META, Duration::from_secs(10));
    cluster.await_leader(volume, Duration::from_secs(10));
    cluster.run(Duration::from_secs(1));
}

#[test]
fn commands_of_the_meta_group_outlive_checkpoints_and_restarts() {
    let mut cluster = with_meta(32, 128);
    cluster.await_leader(GroupId::META, Duration::from_secs(10));
    for round in 0..3_u8 {
        for i in 0..4 {
            let data = Bytes::from(vec![16 * round + i; 6000]);
            let group = GroupId::META;
            let reply = cluster.command(0, Command::Propose { group, data });
            assert!(matches!(reply, Ok(CommandReply::Committed(_))), "{reply:?}");
        }
        let volume = cluster.spec(GroupId(2 + u64::from(round)), BLOCKS, 1);
        cluster.create(&volume);
        let device = cluster.open(0, &volume);
        for place in 0..256 {
            let data = Bytes::from(vec![round + 1; 16 * BLOCK_BYTES as usize]);
            let offset = place % 128 * 16 * BLOCK_BYTES;
            let reply = cluster.call(0, device, BlockOp::Write { offset, data });
            assert_eq!(reply, Ok(BlockReply::Done));
        }
        for _ in 0..3 {
            assert_eq!(cluster.command(0, Command::Checkpoint), Ok(CommandReply::Done));
            cluster.run(Duration::from_secs(1));
        }
        let before = cluster.status(0, GroupId::META);
        restart_with_meta(&mut cluster, volume.group);
        assert!(cluster.status(0, GroupId::META).applied >= before.applied);
    }
}

/// Commands are kept for good, and their place in the log comes to be used again.
#[test]
fn the_log_comes_round_to_where_commands_were() {
    let mut cluster = with_meta(33, 48);
    let volume = cluster.spec(VOLUME, 512, 1);
    cluster.create(&volume);
    let mut device = cluster.open(0, &volume);
    let mut wanted = Vec::new();
    for round in 0..100_u8 {
        let data = Bytes::from(vec![round; 100 + 50 * usize::from(round)]);
        wanted.push(data.clone());
        let group = GroupId::META;
        let reply = cluster.command(0, Command::Propose { group, data });
        assert!(matches!(reply, Ok(CommandReply::Committed(_))), "{reply:?}");
        for place in 0..32 {
            let data = Bytes::from(vec![round; 16 * BLOCK_BYTES as usize]);
            let offset = place * 16 * BLOCK_BYTES;
            let reply = cluster.call(0, device, BlockOp::Write { offset, data });
            assert_eq!(reply, Ok(BlockReply::Done));
        }
        if round % 50 == 49 {
            restart_with_meta(&mut cluster, VOLUME);
            let applied = cluster.nodes[0].applied.iter().map(|(_, _, data)| data.clone());
            assert_eq!(applied.collect::<Vec<_>>(), wanted, "round {round}");
            device = cluster.open(0, &volume);
        }
    }
}
