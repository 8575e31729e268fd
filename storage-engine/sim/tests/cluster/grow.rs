//! Volumes that become larger while they are served.

use std::time::Duration;

use bytes::Bytes;
use cairn_api::block::{BlockError, BlockOp, BlockReply};
use cairn_api::ids::{GroupId, SnapshotId};
use cairn_api::limits::VolumeLimits;
use cairn_api::units::BLOCK_BYTES;
use cairn_core::event::{Command, CommandError, CommandReply, GroupSpec};
use cairn_sim::cluster::{Cluster, Setup, read_bytes};

const VOLUME: GroupId = GroupId(2);
const BLOCKS: u64 = 300;
const LARGER: u64 = 700;

fn cluster(seed: u64) -> (Cluster, GroupSpec) {
    let mut cluster = Cluster::new(Setup::new(seed));
    let spec = cluster.spec(VOLUME, BLOCKS, 3);
    cluster.create(&spec);
    (cluster, spec)
}

fn write(block: u64) -> BlockOp {
    let data = Bytes::from(vec![u8::try_from(block % 251).unwrap() + 1; BLOCK_BYTES as usize]);
    BlockOp::Write {
        offset: block * BLOCK_BYTES,
        data,
    }
}

fn read(block: u64) -> BlockOp {
    BlockOp::Read {
        offset: block * BLOCK_BYTES,
        length: BLOCK_BYTES as u32,
    }
}

fn resize(cluster: &mut Cluster, size_blocks: u64) -> Result<CommandReply, CommandError> {
    let leader = cluster.await_leader(VOLUME, Duration::from_secs(10));
    let group = VOLUME;
    cluster.command(leader, Command::Resize { group, size_blocks })
}

fn tell(cluster: &mut Cluster, node: usize, size_blocks: u64) {
    let update = Command::UpdateVolume {
        group: VOLUME,
        size_bytes: size_blocks * BLOCK_BYTES,
        limits: VolumeLimits::default(),
    };
    assert_eq!(cluster.command(node, update), Ok(CommandReply::Done));
}

#[test]
fn an_open_device_uses_what_is_new_once_the_entry_is_applied() {
    let (mut cluster, spec) = cluster(1);
    let device = cluster.open(1, &spec);
    assert_eq!(cluster.call(1, device, write(BLOCKS - 1)), Ok(BlockReply::Done));
    let beyond = cluster.call(1, device, write(BLOCKS));
    assert!(matches!(beyond, Err(BlockError::OutOfRange { .. })), "{beyond:?}");
    // The gateway knows first: the request waits for the group.
    tell(&mut cluster, 1, LARGER);
    let waiting = cluster.submit(1, device, write(LARGER - 1));
    cluster.run(Duration::from_secs(3));
    assert!(cluster.take_reply(1, device, waiting).is_none());
    assert_eq!(cluster.call(1, device, write(3)), Ok(BlockReply::Done), "others go on");
    assert_eq!(resize(&mut cluster, LARGER), Ok(CommandReply::Done));
    cluster.run(Duration::from_millis(300));
    assert_eq!(cluster.take_reply(1, device, waiting), Some(Ok(BlockReply::Done)));
    let new = read_bytes(cluster.call(1, device, read(LARGER - 1)));
    assert!(
        new.iter()
            .all(|byte| *byte == u8::try_from((LARGER - 1) % 251).unwrap() + 1)
    );
    let hole = read_bytes(cluster.call(1, device, read(BLOCKS + 1)));
    assert!(hole.iter().all(|byte| *byte == 0));
    let beyond = cluster.call(1, device, read(LARGER));
    assert!(matches!(beyond, Err(BlockError::OutOfRange { size_bytes, .. }) if size_bytes == LARGER * BLOCK_BYTES));
    cluster.quiesce(&spec);
}

#[test]
fn repeats_and_smaller_sizes_change_nothing_on_any_replica() {
    let (mut cluster, spec) = cluster(2);
    let leader = cluster.await_leader(VOLUME, Duration::from_secs(10));
    let group = VOLUME;
    // All of them are proposed before the first is applied.
    for size_blocks in [LARGER, BLOCKS + 1, LARGER, LARGER - 1] {
        cluster.start_command(leader, Command::Resize { group, size_blocks });
    }
    cluster.run(Duration::from_secs(1));
    let last = cluster.status(leader, VOLUME).last;
    assert_eq!(resize(&mut cluster, BLOCKS), Ok(CommandReply::Done));
    assert_eq!(resize(&mut cluster, LARGER), Ok(CommandReply::Done));
    assert_eq!(cluster.status(leader, VOLUME).last, last, "what is done costs no entry");
    for node in 0..3 {
        assert_eq!(cluster.status(node, VOLUME).size_blocks, LARGER);
    }
    assert!(matches!(
        resize(&mut cluster, (1 << 51) + 1),
        Err(CommandError::Refused(_))
    ));
    cluster.quiesce(&spec);
}

#[test]
fn the_size_survives_power_cuts_and_the_log_of_a_follower_that_was_away() {
    let (mut cluster, spec) = cluster(3);
    let leader = cluster.await_leader(VOLUME, Duration::from_secs(10));
    let away = (leader + 1) % 3;
    cluster.crash(away);
    assert_eq!(resize(&mut cluster, LARGER), Ok(CommandReply::Done));
    let device = cluster.open_sized(leader, &spec, LARGER);
    assert_eq!(cluster.call(leader, device, write(LARGER - 1)), Ok(BlockReply::Done));
    cluster.start(away);
    cluster.settle_start();
    cluster.quiesce(&spec);
    for node in 0..3 {
        cluster.crash(node);
    }
    for node in 0..3 {
        cluster.start(node);
    }
    cluster.settle_start();
    cluster.quiesce(&spec);
    for node in 0..3 {
        let status = cluster.status(node, VOLUME);
        assert_eq!((status.size_blocks, status.spec.size_blocks), (LARGER, BLOCKS));
        let device = cluster.open_sized(node, &spec, LARGER);
        assert_eq!(
            read_bytes(cluster.call(node, device, read(LARGER - 1)))[0],
            u8::try_from((LARGER - 1) % 251).unwrap() + 1
        );
        cluster.close(node, device);
    }
}

#[test]
fn a_snapshot_keeps_its_size() {
    let (mut cluster, spec) = cluster(4);
    let device = cluster.open(1, &spec);
    let (group, snapshot) = (VOLUME, SnapshotId(1));
    let leader = cluster.await_leader(VOLUME, Duration::from_secs(10));
    let made = cluster.command(leader, Command::CreateSnapshot { group, snapshot });
    assert!(matches!(made, Ok(CommandReply::Committed(_))), "{made:?}");
    assert_eq!(resize(&mut cluster, LARGER), Ok(CommandReply::Done));
    tell(&mut cluster, 1, LARGER);
    assert_eq!(cluster.call(1, device, write(LARGER - 1)), Ok(BlockReply::Done));
    let past = cluster.open_as(1, &spec, BLOCKS, Some(snapshot));
    assert_eq!(read_bytes(cluster.call(1, past, read(BLOCKS - 1)))[0], 0);
    let beyond = cluster.call(1, past, read(BLOCKS));
    assert!(matches!(beyond, Err(BlockError::OutOfRange { .. })), "{beyond:?}");
    // Nobody waits for a snapshot to grow, not even who was told a size that it does not have.
    let mistaken = cluster.open_as(1, &spec, LARGER, Some(snapshot));
    let beyond = cluster.call(1, mistaken, read(BLOCKS));
    assert!(matches!(beyond, Err(BlockError::OutOfRange { size_bytes, .. }) if size_bytes == BLOCKS * BLOCK_BYTES));
    cluster.quiesce(&spec);
}

#[test]
fn a_size_that_the_log_has_forgotten_comes_with_the_state() {
    let mut setup = Setup::new(5);
    setup.limits.log_kept_max = 20;
    let mut cluster = Cluster::new(setup);
    let spec = cluster.spec(VOLUME, BLOCKS, 3);
    cluster.create(&spec);
    let leader = cluster.await_leader(VOLUME, Duration::from_secs(10));
    let away = (leader + 1) % 3;
    let device = cluster.open(leader, &spec);
    cluster.crash(away);
    let had = cluster.status(leader, VOLUME).last;
    assert_eq!(resize(&mut cluster, LARGER), Ok(CommandReply::Done));
    tell(&mut cluster, leader, LARGER);
    for block in LARGER - 100..LARGER {
        assert_eq!(cluster.call(leader, device, write(block)), Ok(BlockReply::Done));
    }
    cluster.run(Duration::from_secs(1));
    let first = cluster.status(leader, VOLUME).first;
    assert!(
        first > had.next().next(),
        "the log begins at {first}: it still has the entry"
    );
    for _ in 0..2 {
        cluster.start(away);
        cluster.settle_start();
        cluster.quiesce(&spec);
        let status = cluster.status(away, VOLUME);
        assert_eq!((status.size_blocks, status.spec.size_blocks), (LARGER, BLOCKS));
        cluster.crash(away);
    }
}
