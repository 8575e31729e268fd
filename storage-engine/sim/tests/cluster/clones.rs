//! Clones: volumes that begin as a snapshot of another one, are written from the first moment on, and become whole.

use std::time::Duration;

use bytes::Bytes;
use cairn_api::block::{BlockOp, BlockReply};
use cairn_api::ids::{GroupId, SnapshotId};
use cairn_api::units::{BLOCK_BYTES, Lba};
use cairn_core::event::{Base, ChangesRequest, Command, CommandError, CommandReply, DeviceId, GroupSpec};
use cairn_core::map::{Change, ChangeKind};
use cairn_history::rng::Rng;
use cairn_sim::cluster::{Cluster, Setup, read_bytes};

const SOURCE: GroupId = GroupId(2);
const CLONE: GroupId = GroupId(3);
const SECOND: GroupId = GroupId(4);
/// Five leaves and a bit.
const BLOCKS: u64 = 2700;
const SNAPSHOT: SnapshotId = SnapshotId(7);
/// Slow enough that much happens before a clone is whole: a quarter of a second for each entry.
const SLOWLY: u64 = 4 << 20;

/// A volume, and what each of its blocks holds: a number, or 0 for zeros.
#[derive(Clone)]
struct Volume {
    spec: GroupSpec,
    device: DeviceId,
    blocks: Vec<u64>,
}

struct World {
    cluster: Cluster,
    rng: Rng,
    last: u64,
}

fn content(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(BLOCK_BYTES as usize / 8)
}

impl World {
    fn new(seed: u64, tune: impl FnOnce(&mut Setup)) -> (Self, Volume) {
        let mut setup = Setup::new(seed);
        setup.limits.flatten_rate = SLOWLY;
        tune(&mut setup);
        let mut cluster = Cluster::new(setup);
        let spec = cluster.spec(SOURCE, BLOCKS, 3);
        cluster.create(&spec);
        let rng = Rng::new(seed);
        let mut world = Self { cluster, rng, last: 0 };
        let mut source = world.opened(spec, vec![0; BLOCKS as usize]);
        for _ in 0..40 {
            world.change(&mut source);
        }
        (world, source)
    }

    fn opened(&mut self, spec: GroupSpec, blocks: Vec<u64>) -> Volume {
        let device = self.cluster.open(0, &spec);
        Volume { spec, device, blocks }
    }

    /// Writes or trims somewhere.
    fn change(&mut self, volume: &mut Volume) {
        let size = volume.blocks.len() as u64;
        let at = self.rng.below(size);
        let blocks = (1 + self.rng.below(60)).min(size - at);
        let range = at as usize..(at + blocks) as usize;
        let op = if self.rng.below(4) == 0 {
            volume.blocks[range].fill(0);
            BlockOp::WriteZeroes {
                offset: at * BLOCK_BYTES,
                length: blocks * BLOCK_BYTES,
                no_hole: self.rng.below(3) == 0,
            }
        } else {
            let mut data = Vec::new();
            for block in &mut volume.blocks[range] {
                self.last += 1;
                *block = self.last;
                data.extend(content(self.last));
            }
            BlockOp::Write {
                offset: at * BLOCK_BYTES,
                data: Bytes::from(data),
            }
        };
        assert_eq!(self.cluster.call(0, volume.device, op), Ok(BlockReply::Done));
    }

    fn check(&mut self, volume: &Volume) {
        self.check_as(volume.device, &volume.blocks);
    }

    fn check_as(&mut self, device: DeviceId, blocks: &[u64]) {
        for (at, expected) in (0..).step_by(180).zip(blocks.chunks(180)) {
            let read = BlockOp::Read {
                offset: at * BLOCK_BYTES,
                length: (expected.len() as u64 * BLOCK_BYTES) as u32,
            };
            let found = read_bytes(self.cluster.call(0, device, read));
            for (i, (found, expected)) in found.chunks(BLOCK_BYTES as usize).zip(expected).enumerate() {
                let number = u64::from_le_bytes(found[..8].try_into().unwrap());
                assert_eq!(
                    (number, found == content(*expected)),
                    (*expected, true),
                    "block {at} + {i}"
                );
            }
        }
    }

    fn leader_command(&mut self, command: impl Fn() -> Command, group: GroupId) -> CommandReply {
        for _ in 0..50 {
            let leader = self.cluster.await_leader(group, Duration::from_secs(20));
            match self.cluster.command(leader, command()) {
                Ok(reply) => return reply,
                Err(error) => assert!(
                    !matches!(error, CommandError::NoSpace | CommandError::UnknownGroup(_)),
                    "{error}"
                ),
            }
            self.cluster.run(Duration::from_millis(200));
        }
        panic!("the command is never done");
    }

    fn snapshot(&mut self, volume: &Volume, snapshot: SnapshotId) {
        let group = volume.spec.group;
        self.leader_command(|| Command::CreateSnapshot { group, snapshot }, group);
    }

    fn delete_snapshot(&mut self, volume: &Volume, snapshot: SnapshotId) {
        let group = volume.spec.group;
        self.leader_command(|| Command::DeleteSnapshot { group, snapshot }, group);
    }

    fn clone_of(&mut self, source: &Volume, snapshot: SnapshotId, group: GroupId, size_blocks: u64) -> Volume {
        self.snapshot(source, snapshot);
        let base = Base {
            group: source.spec.group,
            snapshot,
            blocks: source.blocks.len() as u64,
        };
        let mut spec = self.cluster.spec(group, size_blocks, 3);
        spec.base = Some(base);
        self.cluster.create(&spec);
        let mut blocks = source.blocks.clone();
        blocks.resize(size_blocks as usize, 0);
        self.opened(spec, blocks)
    }

    fn is_whole(&mut self, group: GroupId) -> bool {
        let running: Vec<usize> = (0..3).filter(|node| self.cluster.nodes[*node].is_running()).collect();
        running
            .into_iter()
            .all(|node| self.cluster.status(node, group).base.is_none())
    }

    fn await_whole(&mut self, group: GroupId) {
        for _ in 0..1200 {
            if self.is_whole(group) {
                return;
            }
            self.cluster.run(Duration::from_millis(100));
        }
        let status: Vec<_> = (0..3).map(|node| self.cluster.status(node, group)).collect();
        panic!("the clone does not become whole: {status:#?}");
    }

    /// What changed, by single blocks.
    fn changes(&mut self, group: GroupId, from: Option<SnapshotId>, to: SnapshotId) -> Vec<(u64, ChangeKind)> {
        let (mut found, mut next) = (Vec::new(), Some(Lba(0)));
        while let Some(lba) = next {
            let request = ChangesRequest { group, from, to, lba };
            let CommandReply::Changes(part) = self.leader_command(|| Command::Changes(request), group) else {
                panic!("no changes");
            };
            let row = |row: &Change| {
                let kind = row.kind;
                (row.lba.0..row.lba.0 + row.blocks).map(move |lba| (lba, kind))
            };
            found.extend(part.rows.iter().flat_map(row));
            next = part.next;
        }
        found
    }

    fn restart(&mut self, volumes: &mut [&mut Volume]) {
        for node in 0..3 {
            self.cluster.crash(node);
        }
        for node in 0..3 {
            self.cluster.start(node);
        }
        self.cluster.settle_start();
        for volume in volumes {
            self.cluster.await_leader(volume.spec.group, Duration::from_secs(20));
            let size = volume.blocks.len() as u64;
            volume.device = self.cluster.open_sized(0, &volume.spec, size);
        }
    }
}

#[test]
fn a_clone_and_its_source_go_their_own_ways_and_the_clone_outlives_the_source() {
    for seed in 1..4 {
        let (mut world, mut source) = World::new(seed, |_| {});
        let mut clone = world.clone_of(&source, SNAPSHOT, CLONE, BLOCKS);
        world.check(&clone);
        for _ in 0..60 {
            world.change(&mut source);
            world.change(&mut clone);
        }
        assert!(!world.is_whole(CLONE), "nothing would be tested");
        world.check(&clone);
        world.check(&source);
        world.await_whole(CLONE);
        world.cluster.quiesce(&clone.spec);
        world.delete_snapshot(&source, SNAPSHOT);
        world.check(&source);
        world.cluster.close(0, source.device);
        for node in 0..3 {
            let dropped = world.cluster.command(node, Command::DropGroup(SOURCE));
            assert_eq!(dropped, Ok(CommandReply::Done));
        }
        world.check(&clone);
        world.restart(&mut [&mut clone]);
        for _ in 0..20 {
            world.change(&mut clone);
        }
        world.check(&clone);
        world.cluster.quiesce(&clone.spec);
    }
}

#[test]
fn snapshots_of_a_clone_and_their_differences_are_exact_while_it_is_filled() {
    let (mut world, source) = World::new(11, |setup| setup.limits.flatten_rate = 1 << 18);
    let mut clone = world.clone_of(&source, SNAPSHOT, CLONE, BLOCKS);
    let mut taken: Vec<(SnapshotId, Vec<u64>)> = Vec::new();
    for number in 0..8 {
        for _ in 0..6 {
            world.change(&mut clone);
        }
        let id = SnapshotId(100 + number);
        world.snapshot(&clone, id);
        taken.push((id, clone.blocks.clone()));
        if number == 4 {
            let (gone, _) = taken.remove(1);
            world.delete_snapshot(&clone, gone);
        }
        world.cluster.run(Duration::from_millis(300));
    }
    let was_whole = world.is_whole(CLONE);
    for round in 0..3 {
        for (i, (id, blocks)) in taken.iter().enumerate() {
            let device = world.cluster.open_as(0, &clone.spec, BLOCKS, Some(*id));
            world.check_as(device, blocks);
            world.cluster.close(0, device);
            let all = world.changes(CLONE, None, *id);
            let data = all.iter().filter(|(_, kind)| *kind == ChangeKind::Data);
            let expected = (0_u64..).zip(blocks).filter(|(_, block)| **block != 0);
            assert!(
                data.map(|(lba, _)| *lba).eq(expected.map(|(lba, _)| lba)),
                "round {round}"
            );
            for (from, before) in &taken[..i] {
                let found = world.changes(CLONE, Some(*from), *id);
                let is_there = |lba: usize| found.iter().any(|(found, _)| *found == lba as u64);
                let differs = (0..before.len()).filter(|lba| before[*lba] != blocks[*lba]);
                assert!(differs.into_iter().all(is_there), "a change is missing, round {round}");
                let unchanged = found.iter().filter(|(lba, _)| {
                    let (before, now) = (before[*lba as usize], blocks[*lba as usize]);
                    before == now && now != 0
                });
                assert_eq!(
                    unchanged.count(),
                    0,
                    "each written block has a number of its own, round {round}"
                );
            }
        }
        if round == 0 {
            world.await_whole(CLONE);
        } else {
            world.restart(&mut [&mut clone]);
        }
    }
    assert!(!was_whole, "nothing would be tested");
    // Trims leave holes now, and they are told from what was filled.
    let id = SnapshotId(200);
    let at = clone.blocks.iter().position(|block| *block != 0).unwrap();
    let trim = BlockOp::Trim {
        offset: at as u64 * BLOCK_BYTES,
        length: BLOCK_BYTES,
    };
    assert_eq!(world.cluster.call(0, clone.device, trim), Ok(BlockReply::Done));
    world.snapshot(&clone, id);
    let (last, _) = taken.last().unwrap();
    assert_eq!(world.changes(CLONE, Some(*last), id), [(at as u64, ChangeKind::Zero)]);
    world.cluster.quiesce(&clone.spec);
}

#[test]
fn a_clone_may_be_larger_and_grow() {
    let (mut world, mut source) = World::new(21, |_| {});
    let mut clone = world.clone_of(&source, SNAPSHOT, CLONE, BLOCKS + 900);
    world.check(&clone);
    for _ in 0..30 {
        world.change(&mut clone);
        world.change(&mut source);
    }
    let size_blocks = BLOCKS + 1500;
    let group = CLONE;
    world.leader_command(|| Command::Resize { group, size_blocks }, CLONE);
    clone.blocks.resize(size_blocks as usize, 0);
    clone.device = world.cluster.open_sized(0, &clone.spec, size_blocks);
    world.check(&clone);
    world.await_whole(CLONE);
    world.restart(&mut [&mut clone, &mut source]);
    world.check(&clone);
    world.check(&source);
    world.cluster.quiesce(&clone.spec);
}

#[test]
fn a_clone_of_a_clone_reads_through_both() {
    let (mut world, mut source) = World::new(31, |_| {});
    let mut clone = world.clone_of(&source, SNAPSHOT, CLONE, BLOCKS);
    for _ in 0..20 {
        world.change(&mut clone);
        world.change(&mut source);
    }
    let mut second = world.clone_of(&clone, SnapshotId(9), SECOND, BLOCKS + 300);
    assert!(!world.is_whole(CLONE), "nothing would be tested");
    for _ in 0..20 {
        world.change(&mut clone);
        world.change(&mut second);
        world.change(&mut source);
    }
    for volume in [&source, &clone, &second] {
        world.check(volume);
    }
    world.restart(&mut [&mut source, &mut clone, &mut second]);
    for volume in [&source, &clone, &second] {
        world.check(volume);
    }
    world.await_whole(SECOND);
    world.await_whole(CLONE);
    for volume in [&source, &clone, &second] {
        world.check(volume);
        world.cluster.quiesce(&volume.spec);
    }
}

#[test]
fn filling_goes_on_where_it_was_after_power_cuts_of_everybody() {
    let (mut world, source) = World::new(41, |_| {});
    let mut clone = world.clone_of(&source, SNAPSHOT, CLONE, BLOCKS);
    let mut filled = 0;
    let mut cuts = 0;
    while !world.is_whole(CLONE) && cuts < 200 {
        world.change(&mut clone);
        world.cluster.run(Duration::from_millis(400));
        let leader = world.cluster.await_leader(CLONE, Duration::from_secs(10));
        let now = world.cluster.status(leader, CLONE).filled_blocks;
        assert!(now >= filled, "{now} is filled after {filled}");
        filled = now;
        world.restart(&mut [&mut clone]);
        cuts += 1;
    }
    assert!((3..200).contains(&cuts), "{cuts} power cuts before the clone was whole");
    world.check(&clone);
    world.cluster.quiesce(&clone.spec);
}

#[test]
fn a_replica_that_is_behind_the_log_is_given_the_state_of_a_clone() {
    for (seed, until_whole) in [(51, false), (52, true), (53, false)] {
        let (mut world, source) = World::new(seed, |setup| setup.limits.log_kept_max = 8);
        let mut clone = world.clone_of(&source, SNAPSHOT, CLONE, BLOCKS);
        world.cluster.run(Duration::from_millis(700));
        let leader = world.cluster.await_leader(CLONE, Duration::from_secs(10));
        let away = if leader == 2 { 1 } else { 2 };
        world.cluster.crash(away);
        for number in 0..3 {
            for _ in 0..10 {
                world.change(&mut clone);
            }
            world.snapshot(&clone, SnapshotId(100 + number));
        }
        if until_whole {
            world.await_whole(CLONE);
        }
        world.cluster.start(away);
        world.cluster.settle_start();
        for _ in 0..10 {
            world.change(&mut clone);
        }
        world.await_whole(CLONE);
        let numbers = world.cluster.quiesce(&clone.spec);
        assert_eq!(numbers.len(), 3, "seed {seed}");
        world.check(&clone);
        // The others are gone: what it was given is what is read.
        for node in (1..3).filter(|node| *node != away) {
            world.cluster.crash(node);
        }
        world.check(&clone);
    }
}

#[test]
fn a_base_that_is_damaged_here_is_read_and_filled_from_its_other_replicas() {
    let (mut world, source) = World::new(61, |_| {});
    let clone = world.clone_of(&source, SNAPSHOT, CLONE, BLOCKS);
    let leader = world.cluster.await_leader(CLONE, Duration::from_secs(10));
    let map = world.cluster.nodes[leader].core.as_ref().unwrap().map(SOURCE).unwrap();
    let places: Vec<u64> = map
        .data()
        .flat_map(|(block, blocks)| (block..block + blocks).step_by(7))
        .collect();
    assert!(places.len() > 20, "nothing would be tested");
    for place in places {
        world.cluster.nodes[leader].disk.rot(place * BLOCK_BYTES + 77);
    }
    world.check(&clone);
    world.await_whole(CLONE);
    world.check(&clone);
    world.cluster.quiesce(&clone.spec);
}

#[test]
fn what_cannot_be_a_clone_is_refused() {
    let (mut world, source) = World::new(71, |_| {});
    world.snapshot(&source, SNAPSHOT);
    let base = |group, blocks| Base {
        group,
        snapshot: SNAPSHOT,
        blocks,
    };
    for base in [base(CLONE, BLOCKS), base(SOURCE, BLOCKS + 1)] {
        let mut spec = world.cluster.spec(CLONE, BLOCKS, 3);
        spec.base = Some(base);
        let refused = world.cluster.make_replica(0, &spec, spec.members[0].replica);
        assert!(matches!(refused, Err(CommandError::Refused(_))), "{refused:?}");
    }
    let mut clone = world.clone_of(&source, SNAPSHOT, CLONE, BLOCKS);
    clone.spec.base = None;
    let other = world
        .cluster
        .make_replica(0, &clone.spec, clone.spec.members[0].replica);
    assert!(matches!(other, Err(CommandError::Refused(_))), "{other:?}");
}

/// A base that is not on this disk yet is waited for, never taken for zeros.
#[test]
fn a_clone_without_its_base_answers_nothing_until_the_base_is_there() {
    let (mut world, source) = World::new(81, |_| {});
    let mut spec = world.cluster.spec(CLONE, BLOCKS, 3);
    spec.base = Some(Base {
        group: SOURCE,
        snapshot: SNAPSHOT,
        blocks: BLOCKS,
    });
    world.cluster.create(&spec);
    let clone = world.opened(spec, source.blocks.clone());
    let at = source.blocks.iter().position(|block| *block != 0).unwrap() as u64;
    let read = BlockOp::Read {
        offset: at * BLOCK_BYTES,
        length: BLOCK_BYTES as u32,
    };
    let tag = world.cluster.submit(0, clone.device, read);
    world.cluster.run(Duration::from_secs(5));
    assert!(world.cluster.take_reply(0, clone.device, tag).is_none());
    assert_eq!(world.cluster.status(0, CLONE).filled_blocks, 0);
    world.snapshot(&source, SNAPSHOT);
    world.cluster.run(Duration::from_secs(2));
    let reply = world.cluster.take_reply(0, clone.device, tag).expect("it is there now");
    assert_eq!(read_bytes(reply), content(source.blocks[at as usize]));
    world.check(&clone);
    world.await_whole(CLONE);
}
