//! Snapshots of several volumes at one instant, while engines crash, stop and are cut off: what a client wrote to one volume
//! after it was told that a write to another one is done is never shown without that.

use std::time::Duration;

use bytes::Bytes;
use cairn_api::block::{BlockOp, BlockReply, Tag};
use cairn_api::ids::{GroupId, SnapshotId};
use cairn_api::units::BLOCK_BYTES;
use cairn_core::event::{
    Command, CommandError, CommandId, CommandReply, DeviceId, GroupSpec, HOLD_TIME_MAX, HoldRequest, HoldStep,
};
use cairn_history::rng::Rng;
use cairn_sim::cluster::{Cluster, MILLISECOND, SECOND, Setup, read_bytes};

const BLOCKS: u64 = 64;
const VOLUMES: usize = 3;
/// How often everybody looks what has happened.
const STEP: Duration = Duration::from_micros(100);
/// A command that has no answer for so long is given up, as an engine would.
const ANSWERS_WITHIN: u64 = SECOND;

/// Numbers that a client writes to one volume after the other, each when it was told that the one before is done.
struct Chain {
    block: u64,
    order: [usize; VOLUMES],
    place: usize,
    number: u64,
    pending: Option<(u64, DeviceId, Tag)>,
}

/// A request to a volume's leader.
struct Asked {
    node: usize,
    life: u64,
    id: CommandId,
    since: u64,
}

/// Where a coordinator is.
enum Phase {
    Holding,
    /// All hold; the next one is asked for its snapshot at this time.
    Taking {
        next_at: u64,
    },
}

struct Attempt {
    token: u64,
    first: u64,
    phase: Phase,
    leaders: Vec<usize>,
    asked: Vec<Asked>,
    answered: usize,
}

struct World {
    cluster: Cluster,
    rng: Rng,
    specs: Vec<GroupSpec>,
    /// Each volume is used through the node of its number: the process's life, and the device.
    devices: Vec<Option<(u64, DeviceId)>>,
    chains: Vec<Chain>,
    /// Whether writes are held, as they must be.
    holds: bool,
    attempt: Option<Attempt>,
    attempts: u64,
    /// The first number of each attempt that succeeded.
    made: Vec<u64>,
    too_late: u64,
    fault_at: u64,
    down: Option<(usize, u64)>,
}

impl World {
    fn new(seed: u64, holds: bool) -> Self {
        let mut cluster = Cluster::new(Setup::new(seed));
        let groups = (2..2 + VOLUMES as u64).map(GroupId);
        let specs: Vec<GroupSpec> = groups.map(|group| cluster.spec(group, BLOCKS, 3)).collect();
        for spec in &specs {
            cluster.create(spec);
        }
        let chain = |block, order| Chain {
            block,
            order,
            place: 0,
            number: 1,
            pending: None,
        };
        Self {
            devices: vec![None; VOLUMES],
            chains: vec![chain(0, [0, 1, 2]), chain(1, [2, 1, 0]), chain(2, [1, 2, 0])],
            rng: Rng::new(seed),
            specs,
            holds,
            attempt: None,
            attempts: 0,
            made: Vec::new(),
            too_late: 0,
            fault_at: cluster.now + 2 * SECOND,
            down: None,
            cluster,
        }
    }

    fn step(&mut self) {
        self.cluster.run(STEP);
        for number in 0..self.chains.len() {
            self.write(number);
        }
        match self.attempt.take() {
            Some(attempt) => self.attempt = self.go_on(attempt),
            None if self.rng.below(300) == 0 => self.attempt = self.begin(),
            None => {}
        }
    }

    fn life(&self, node: usize) -> Option<u64> {
        let found = &self.cluster.nodes[node];
        (found.is_running() && found.recovered.is_some()).then_some(found.life)
    }

    fn write(&mut self, number: usize) {
        let chain = &self.chains[number];
        let volume = chain.order[chain.place];
        let life = self.life(volume);
        if self.devices[volume].is_some_and(|(opened, _)| life != Some(opened)) {
            self.devices[volume] = None;
        }
        let Some(life) = life else { return };
        let (_, device) =
            *self.devices[volume].get_or_insert_with(|| (life, self.cluster.open(volume, &self.specs[volume])));
        let chain = &mut self.chains[number];
        match chain.pending {
            Some((at, of, tag)) if at == life && of == device => match self.cluster.take_reply(volume, device, tag) {
                Some(Ok(BlockReply::Done)) => {
                    chain.pending = None;
                    chain.place = (chain.place + 1) % VOLUMES;
                    chain.number += u64::from(chain.place == 0);
                }
                Some(_) => {
                    self.cluster.close(volume, device);
                    self.devices[volume] = None;
                }
                None => {}
            },
            _ => {
                let mut data = vec![0; BLOCK_BYTES as usize];
                data[..8].copy_from_slice(&chain.number.to_le_bytes());
                let op = BlockOp::Write {
                    offset: chain.block * BLOCK_BYTES,
                    data: Bytes::from(data),
                };
                chain.pending = Some((life, device, self.cluster.submit(volume, device, op)));
            }
        }
    }

    /// A coordinator begins: who seems to lead each volume is asked to hold.
    fn begin(&mut self) -> Option<Attempt> {
        let mut leaders = Vec::new();
        for spec in &self.specs {
            let leads = |node: &usize| self.life(*node).is_some() && self.cluster.nodes[*node].leads(spec.group);
            let found: Vec<usize> = (0..self.cluster.nodes.len()).filter(leads).collect();
            leaders.push(*found.get(self.rng.below(found.len() as u64) as usize)?);
        }
        self.attempts += 1;
        let mut attempt = Attempt {
            token: self.attempts,
            first: self.attempts * VOLUMES as u64,
            phase: Phase::Holding,
            leaders,
            asked: Vec::new(),
            answered: 0,
        };
        if self.holds {
            for volume in 0..VOLUMES {
                self.ask(&mut attempt, volume, HoldStep::Begin);
            }
        } else {
            attempt.answered = VOLUMES;
        }
        Some(attempt)
    }

    fn ask(&mut self, attempt: &mut Attempt, volume: usize, step: HoldStep) {
        let node = attempt.leaders[volume];
        let group = self.specs[volume].group;
        let command = match step {
            HoldStep::Take(snapshot) if !self.holds => Command::CreateSnapshot { group, snapshot },
            step => Command::Hold(HoldRequest {
                group,
                token: attempt.token,
                step,
            }),
        };
        attempt.asked.push(Asked {
            node,
            life: self.cluster.nodes[node].life,
            since: self.cluster.now,
            id: self.cluster.start_command(node, command),
        });
    }

    /// Whether all answers that are there are good ones; takes them out.
    fn answers(&mut self, attempt: &mut Attempt) -> bool {
        let mut are_good = true;
        let mut waiting = Vec::new();
        for asked in std::mem::take(&mut attempt.asked) {
            let node = &mut self.cluster.nodes[asked.node];
            match node.command_replies.remove(&asked.id) {
                Some(Ok(CommandReply::Done | CommandReply::Committed(_))) => attempt.answered += 1,
                Some(Err(CommandError::Refused(why))) => {
                    self.too_late += u64::from(why.contains("not held any more"));
                    are_good = false;
                }
                Some(_) => are_good = false,
                None if node.life != asked.life || self.cluster.now > asked.since + ANSWERS_WITHIN => are_good = false,
                None => waiting.push(asked),
            }
        }
        attempt.asked = waiting;
        are_good
    }

    fn go_on(&mut self, mut attempt: Attempt) -> Option<Attempt> {
        if !attempt.asked.is_empty() && self.rng.below(1000) == 0 {
            // Coordinators die, too.
            return None;
        }
        if !self.answers(&mut attempt) {
            for volume in 0..VOLUMES {
                self.ask(&mut attempt, volume, HoldStep::End);
            }
            return None;
        }
        let now = self.cluster.now;
        match attempt.phase {
            Phase::Holding if attempt.answered == VOLUMES => {
                // Sometimes it is too slow for the holds.
                let delay = match self.rng.below(40) {
                    0 => self.rng.below(2 * HOLD_TIME_MAX.as_nanos() as u64),
                    _ => self.rng.below(5 * MILLISECOND),
                };
                attempt.answered = 0;
                attempt.phase = Phase::Taking { next_at: now + delay };
            }
            Phase::Taking { .. } if attempt.answered == VOLUMES => {
                self.made.push(attempt.first);
                return None;
            }
            Phase::Taking { next_at } if next_at <= now => {
                let volume = attempt.answered + attempt.asked.len();
                if volume < VOLUMES {
                    let id = SnapshotId(attempt.first + volume as u64);
                    self.ask(&mut attempt, volume, HoldStep::Take(id));
                    let next_at = now + self.rng.below(8 * MILLISECOND);
                    attempt.phase = Phase::Taking { next_at };
                }
            }
            _ => {}
        }
        Some(attempt)
    }

    /// One node at a time dies, stops or is cut off, and comes back.
    fn fault(&mut self) {
        let now = self.cluster.now;
        if let Some((node, until)) = self.down {
            if now >= until {
                self.recover(node);
            }
            return;
        }
        if now < self.fault_at {
            return;
        }
        let node = self.rng.below(3) as usize;
        let lasts = self.rng.between(20 * MILLISECOND, 2 * SECOND);
        match self.rng.below(4) {
            0 => self.cluster.crash(node),
            1 => self.cluster.kill(node),
            2 => self.cluster.pause(node, lasts),
            _ => self.cluster.isolate(node),
        }
        self.down = Some((node, now + lasts));
    }

    fn recover(&mut self, node: usize) {
        self.cluster.heal();
        if !self.cluster.nodes[node].is_running() {
            self.cluster.start(node);
        }
        self.down = None;
        self.fault_at = self.cluster.now + self.rng.between(100 * MILLISECOND, 3 * SECOND);
    }

    /// What a chain had written when a snapshot was made, volume by volume in the chain's order.
    fn shown(&mut self, first: u64, chain: usize) -> Vec<u64> {
        let (order, block) = (self.chains[chain].order, self.chains[chain].block);
        let mut numbers = Vec::new();
        for volume in order {
            let spec = self.specs[volume].clone();
            let id = SnapshotId(first + volume as u64);
            let device = self.cluster.open_as(chain % 3, &spec, BLOCKS, Some(id));
            let read = BlockOp::Read {
                offset: block * BLOCK_BYTES,
                length: 8,
            };
            let bytes = read_bytes(self.cluster.call(chain % 3, device, read));
            numbers.push(u64::from_le_bytes(bytes[..].try_into().unwrap()));
            self.cluster.close(chain % 3, device);
        }
        numbers
    }

    /// Attempts that show a write without one that was acknowledged before it.
    fn violations(&mut self) -> Vec<String> {
        if let Some((node, _)) = self.down {
            self.cluster.resume(node);
            self.recover(node);
        }
        self.cluster.settle_start();
        for spec in self.specs.clone() {
            self.cluster.await_leader(spec.group, Duration::from_secs(20));
        }
        let mut found = Vec::new();
        for first in self.made.clone() {
            for chain in 0..self.chains.len() {
                let shown = self.shown(first, chain);
                let is_cut = shown.windows(2).all(|pair| pair[0] >= pair[1]);
                if !is_cut || shown[0] > shown[VOLUMES - 1] + 1 {
                    found.push(format!("snapshot {first}, chain {chain}: {shown:?}"));
                }
            }
        }
        found
    }
}

fn run(seed: u64, holds: bool, with_faults: bool, seconds: u64) -> World {
    let mut world = World::new(seed, holds);
    let end = world.cluster.now + seconds * SECOND;
    while world.cluster.now < end {
        world.step();
        if with_faults {
            world.fault();
        }
    }
    world
}

#[test]
fn held_snapshots_of_several_volumes_are_of_one_instant() {
    let (mut made, mut attempts, mut too_late) = (0, 0, 0);
    for seed in 0..8 {
        let mut world = run(seed, true, true, 20);
        assert_eq!(world.violations(), Vec::<String>::new(), "seed {seed}");
        let written = world.chains.iter().map(|chain| chain.number).min().unwrap();
        assert!(written > 20, "seed {seed}: only {written} rounds");
        made += world.made.len();
        attempts += world.attempts;
        too_late += world.too_late;
        for spec in world.specs.clone() {
            world.cluster.quiesce(&spec);
        }
    }
    eprintln!("{made} of {attempts} attempts succeeded, {too_late} came too late for their holds");
    assert!(made > 300 && too_late > 5, "{made} of {attempts}, {too_late} too late");
}

#[test]
fn the_same_without_holding_is_found_out() {
    let mut world = run(7, false, false, 10);
    let found = world.violations();
    assert!(
        world.made.len() > 30 && !found.is_empty(),
        "{} were made",
        world.made.len()
    );
}

/// One volume and a client on the node that leads it.
struct One {
    cluster: Cluster,
    node: usize,
    device: DeviceId,
}

impl One {
    fn new(seed: u64) -> Self {
        let mut cluster = Cluster::new(Setup::new(seed));
        let spec = cluster.spec(GroupId(2), BLOCKS, 3);
        cluster.create(&spec);
        let node = cluster.await_leader(spec.group, Duration::from_secs(10));
        let device = cluster.open(node, &spec);
        let mut one = Self { cluster, node, device };
        let tag = one.write();
        assert!(one.is_answered(tag));
        one
    }

    fn write(&mut self) -> Tag {
        let op = BlockOp::Write {
            offset: 0,
            data: Bytes::from(vec![7; BLOCK_BYTES as usize]),
        };
        self.cluster.submit(self.node, self.device, op)
    }

    fn is_answered(&mut self, tag: Tag) -> bool {
        self.cluster.run(Duration::from_millis(200));
        match self.cluster.take_reply(self.node, self.device, tag) {
            Some(Ok(BlockReply::Done)) => true,
            None => false,
            other => panic!("{other:?}"),
        }
    }

    fn hold(&mut self, token: u64, step: HoldStep) -> Result<CommandReply, CommandError> {
        let group = GroupId(2);
        let request = HoldRequest { group, token, step };
        self.cluster.command(self.node, Command::Hold(request))
    }

    fn refused(&mut self, token: u64, step: HoldStep, words: &str) {
        match self.hold(token, step) {
            Err(CommandError::Refused(why)) => assert!(why.contains(words), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_held_write_waits_and_a_read_does_not() {
    let mut one = One::new(1);
    assert_eq!(one.hold(1, HoldStep::Begin), Ok(CommandReply::Done));
    one.refused(2, HoldStep::Begin, "held for another snapshot");
    one.refused(2, HoldStep::Take(SnapshotId(1)), "not held any more");
    let waiting = one.write();
    assert!(!one.is_answered(waiting), "a held write was answered");
    let read = BlockOp::Read { offset: 0, length: 512 };
    let bytes = read_bytes(one.cluster.call(one.node, one.device, read));
    assert!(bytes.iter().all(|byte| *byte == 7));
    let taken = one.hold(1, HoldStep::Take(SnapshotId(1)));
    assert!(matches!(taken, Ok(CommandReply::Committed(_))), "{taken:?}");
    assert!(one.is_answered(waiting), "it goes on behind the snapshot");
}

#[test]
fn a_hold_ends_with_its_snapshot_its_attempt_and_its_time() {
    let mut one = One::new(2);
    assert_eq!(one.hold(1, HoldStep::Begin), Ok(CommandReply::Done));
    one.hold(1, HoldStep::Take(SnapshotId(1))).unwrap();
    one.refused(1, HoldStep::Take(SnapshotId(2)), "not held any more");
    // By who began it, and by nobody else.
    assert_eq!(one.hold(3, HoldStep::Begin), Ok(CommandReply::Done));
    assert_eq!(one.hold(1, HoldStep::End), Ok(CommandReply::Done));
    let waiting = one.write();
    assert!(!one.is_answered(waiting));
    assert_eq!(one.hold(3, HoldStep::End), Ok(CommandReply::Done));
    assert!(one.is_answered(waiting));
    // By the leader's clock, which is not quite ours.
    assert_eq!(one.hold(4, HoldStep::Begin), Ok(CommandReply::Done));
    one.cluster.run(HOLD_TIME_MAX + Duration::from_millis(20));
    one.refused(4, HoldStep::Take(SnapshotId(2)), "not held any more");
}
