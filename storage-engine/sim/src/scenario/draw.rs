//! Scenarios from seeds.
//!
//! Each seed draws first *which* faults it may have and how often, then the faults themselves (swarm testing: Groce et al.,
//! 2012). A run with everything at once hides what only shows when something is absent: a cluster that is crashed all the
//! time never gets far enough to be confused by anything else.

use cairn_history::rng::Rng;

use super::{ClientPlan, Direction, Fault, Kind, Move, Planned, Scenario, Target, VolumePlan};

const MS: u64 = 1_000;
const S: u64 = 1_000_000;

/// How long the faults last, before a majority heals.
const FAULTS_US: u64 = 56 * S;

/// How many volumes are encrypted.
const ENCRYPTED_PERCENT: u64 = 40;

impl Scenario {
    /// The scenario of a seed.
    pub fn draw(seed: u64) -> Self {
        let rng = &mut Rng::new(seed ^ 0x5CE7_A210);
        // What came later is drawn apart, so that the rest of a seed stays as it was.
        let more = &mut Rng::new(seed ^ 0xCA7C_4097);
        // More nodes than replicas, where a lost one can be replaced.
        let nodes = *pick(rng, &[3, 3, 3, 4, 4, 5]);
        let mut heal_order: Vec<usize> = (0..nodes).collect();
        shuffle(rng, &mut heal_order);
        let is_small = rng.chance(8);
        let mut volumes = draw_volumes(rng, nodes);
        if is_small {
            volumes.iter_mut().for_each(fill_up);
        }
        let drift_max = *pick(rng, &[0, 2_000, 20_000]);
        let mut scenario = Self {
            seed,
            nodes,
            disk_mib: if is_small { 40 } else { 768 },
            segment_mib: if is_small { 2 } else { *pick(rng, &[2, 4, 4, 16]) },
            write_latency_us: (60, *pick(rng, &[200, 900, 900, 8_000])),
            read_latency_us: (40, *pick(rng, &[300, 2_000])),
            link_latency_us: *pick(rng, &[(20, 300), (20, 300), (200, 4_000), (20, 40_000)]),
            drift_ppm: (0..nodes).map(|_| signed(rng, drift_max)).collect(),
            link_bytes_max: *pick(rng, &[512 << 10, 16 << 20]),
            headers_kept_max: *pick(rng, &[32, 4096]),
            move_leadership: rng.chance(50),
            scrub_mib_per_s: *pick(rng, &[0, 0, 4, 64]),
            log_kept_max: *pick(more, &[20, 20, 100, 400, 65_536]),
            catch_up_mib_per_s: *pick(more, &[0, 1, 8, 64]),
            flatten_kib_per_s: 0,
            window_segments_max: *pick(more, &[0, 2, 3, 8]),
            collects_always: more.chance(50),
            volumes,
            faults: Vec::new(),
            heal_at_us: rng.between(FAULTS_US * 3 / 4, FAULTS_US),
            heal_order,
        };
        if !is_small && more.chance(20) {
            come_round(&mut scenario);
        }
        scenario.faults = draw_faults(rng, &scenario);
        add_growth(&mut scenario);
        add_checkpoints(&mut scenario);
        add_hidden_tails(&mut scenario);
        // From a generator of its own: whether a volume is encrypted changes nothing else of the run.
        let own = &mut Rng::new(seed ^ 0x5EA1_ED00);
        for volume in &mut scenario.volumes {
            volume.encrypted = own.chance(ENCRYPTED_PERCENT);
        }
        add_clones(&mut scenario);
        scenario
    }
}

fn pick<'a, T>(rng: &mut Rng, choices: &'a [T]) -> &'a T {
    &choices[rng.pick(choices.len())]
}

fn shuffle<T>(rng: &mut Rng, items: &mut [T]) {
    for place in (1..items.len()).rev() {
        items.swap(place, rng.pick(place + 1));
    }
}

fn signed(rng: &mut Rng, max: i64) -> i64 {
    i64::try_from(rng.below(2 * max.unsigned_abs() + 1)).unwrap() - max
}

fn draw_volumes(rng: &mut Rng, nodes: usize) -> Vec<VolumePlan> {
    let count = *pick(rng, &[1, 1, 2, 3, 4]);
    let volume = |rng: &mut Rng| {
        let mut members: Vec<usize> = (0..nodes).collect();
        shuffle(rng, &mut members);
        members.truncate(match nodes {
            3 if rng.chance(6) => 1,
            5 if rng.chance(50) => 5,
            _ => 3,
        });
        let blocks = *pick(rng, &[40, 256, 700, 1_500, 4_096]);
        let busy = 1 + count as u64;
        let client = |rng: &mut Rng, node: usize, writes: bool| ClientPlan {
            node,
            writes,
            depth: *pick(rng, &[1, 4, 8]),
            gap_us: *pick(rng, &[5 * MS, 12 * MS, 40 * MS]) * busy,
        };
        let home = rng.pick(nodes);
        let mut clients = vec![client(rng, home, true)];
        if rng.chance(40) {
            // Somebody reads everywhere: whoever believes to lead is asked.
            clients.extend((0..nodes).map(|node| client(rng, node, false)));
        }
        // Readers anywhere, writers beside the first one; writers elsewhere seldom, since they mostly wait and are refused.
        for _ in 0..*pick(rng, &[0, 1, 1, 2]) {
            let node = if rng.chance(30) { home } else { rng.pick(nodes) };
            let writes = node == home || rng.chance(10);
            clients.push(client(rng, node, writes));
        }
        VolumePlan {
            blocks,
            hot_blocks: *pick(rng, &[1, 2, 8, 40]),
            blocks_max: *pick(rng, &[8, 24, 24, 40]),
            members,
            write_percent: *pick(rng, &[20, 40, 60]),
            unaligned_percent: *pick(rng, &[0, 12, 20]),
            trim_percent: *pick(rng, &[0, 3, 6]),
            zero_percent: *pick(rng, &[0, 4]),
            clients,
            snapshots: rng.chance(60),
            clones: false,
            encrypted: false,
        }
    };
    (0..count).map(|_| volume(rng)).collect()
}

/// Long writes and many of them: for disks that are to be full.
fn fill_up(volume: &mut VolumePlan) {
    volume.blocks = volume.blocks.max(3_000);
    volume.blocks_max = 40;
    volume.write_percent = 60;
    for client in &mut volume.clients {
        client.gap_us = client.gap_us.min(30 * MS);
        client.depth = 8;
    }
}

/// Small volumes on small disks: the log comes round to where it began.
fn come_round(scenario: &mut Scenario) {
    (scenario.disk_mib, scenario.segment_mib) = (48, 2);
    scenario.volumes.truncate(2);
    for volume in &mut scenario.volumes {
        volume.blocks = volume.blocks.min(700);
        volume.blocks_max = 40;
        volume.write_percent = 60;
        volume.clients.iter_mut().for_each(|client| client.depth = 8);
    }
}

fn draw_faults(rng: &mut Rng, scenario: &Scenario) -> Vec<Planned> {
    // Damage stays, so that there is little of it; in most runs none.
    let has_damage = rng.chance(40);
    let weight = |rng: &mut Rng, kind: &Kind| match kind {
        Kind::Rot | Kind::BadSectors if has_damage => *pick(rng, &[0, 1, 2, 6]),
        Kind::Phantom | Kind::Misdirected | Kind::Wipe | Kind::Shrink if has_damage => *pick(rng, &[0, 0, 1, 2]),
        kind if kind.is_damage() => 0,
        Kind::Grow | Kind::CheckpointAmbush | Kind::HiddenTail => 0,
        Kind::Replace => *pick(rng, &[0, 1, 3, 6]),
        _ => *pick(rng, &[0, 0, 1, 2, 6]),
    };
    let weights: Vec<u64> = Kind::ALL.iter().map(|kind| weight(rng, kind)).collect();
    let total: u64 = weights.iter().sum();
    let (storm_gap, calm) = *pick(
        rng,
        &[(100 * MS, 4 * S), (400 * MS, 4 * S), (400 * MS, 8 * S), (2 * S, 3 * S)],
    );
    let mut faults = Vec::new();
    let mut at_us = rng.below(calm);
    while at_us < scenario.heal_at_us && total > 0 {
        let mut dice = rng.below(total);
        let place = weights.iter().position(|weight| {
            let is_hit = dice < *weight;
            dice = dice.saturating_sub(*weight);
            is_hit
        });
        if let Some(place) = place {
            let fault = draw_fault(rng, scenario, Kind::ALL[place]);
            faults.push(Planned { at_us, fault });
        }
        // Faults come in storms, or nothing would ever be served that the next one could spoil.
        at_us += if rng.chance(70) {
            rng.below(2 * storm_gap)
        } else {
            rng.between(S, 2 * calm)
        };
    }
    faults
}

/// Volumes that grow in the middle of everything else. Drawn by itself, so that it adds to the other faults and changes none.
fn add_growth(scenario: &mut Scenario) {
    let rng = &mut Rng::new(scenario.seed ^ 0x6707_0717);
    for _ in 0..*pick(rng, &[0, 0, 1, 2, 5]) {
        let fault = Fault::Grow {
            volume: rng.pick(scenario.volumes.len()),
            blocks: *pick(rng, &[1, 7, 40, 300, 1_100]),
        };
        let at_us = rng.below(scenario.heal_at_us);
        scenario.faults.push(Planned { at_us, fault });
    }
    scenario.faults.sort_by_key(|planned| planned.at_us);
}

/// Clones of volumes that have snapshots. A clone's replicas stay where its source's are, so that there are none where disks are
/// replaced or lose what they hold, nor where disks are to be full. Drawn by itself as well.
fn add_clones(scenario: &mut Scenario) {
    let rng = &mut Rng::new(scenario.seed ^ 0xC10E_5EED);
    scenario.flatten_kib_per_s = *pick(rng, &[0, 512, 512, 4_096]);
    let is_spoilt = |planned: &Planned| {
        let kind = planned.fault.kind();
        kind == Kind::Replace || kind.is_damage()
    };
    if scenario.disk_mib < 256 || scenario.faults.iter().any(is_spoilt) {
        return;
    }
    for volume in &mut scenario.volumes {
        volume.clones = volume.snapshots && rng.chance(80);
    }
}

/// Nodes that lose power in the middle of a checkpoint, or of moving blocks. Drawn by itself as well.
fn add_checkpoints(scenario: &mut Scenario) {
    let rng = &mut Rng::new(scenario.seed ^ 0xC4EC_2019);
    for _ in 0..*pick(rng, &[0, 0, 2, 6, 12]) {
        let fault = Fault::CheckpointAmbush {
            node: target(rng, scenario),
            writes: rng.between(1, 12),
            down_us: some_time(rng, 2 * S),
        };
        let at_us = rng.below(scenario.heal_at_us);
        scenario.faults.push(Planned { at_us, fault });
    }
    scenario.faults.sort_by_key(|planned| planned.at_us);
}

/// Nodes that come back without a sight of what they wrote last.
fn add_hidden_tails(scenario: &mut Scenario) {
    let rng = &mut Rng::new(scenario.seed ^ 0x41DD_E27A);
    for _ in 0..*pick(rng, &[0, 0, 0, 1, 4]) {
        let fault = Fault::HiddenTail {
            node: target(rng, scenario),
            frames: *pick(rng, &[1, 2, 5]),
            down_us: some_time(rng, 2 * S),
        };
        let at_us = rng.below(scenario.heal_at_us);
        scenario.faults.push(Planned { at_us, fault });
    }
    scenario.faults.sort_by_key(|planned| planned.at_us);
}

/// Somebody: often whoever leads or uses a volume, since most that can go wrong goes wrong there.
fn target(rng: &mut Rng, scenario: &Scenario) -> Target {
    match rng.below(10) {
        0..5 => Target::Node(rng.pick(scenario.nodes)),
        5..9 => Target::Leader(rng.pick(scenario.volumes.len())),
        _ => Target::User(rng.pick(scenario.volumes.len())),
    }
}

/// From short to long, rather short: a fault is at its worst when it ends in the middle of the recovery from another.
fn some_time(rng: &mut Rng, max_us: u64) -> u64 {
    let scale = *pick(rng, &[100, 10, 3, 1]);
    rng.between(MS, (max_us / scale).max(2 * MS))
}

fn draw_fault(rng: &mut Rng, scenario: &Scenario, kind: Kind) -> Fault {
    let volume = rng.pick(scenario.volumes.len());
    let node = target(rng, scenario);
    match kind {
        Kind::Partition | Kind::OneWay | Kind::Clog | Kind::BreakLink | Kind::Garble => {
            draw_network_fault(rng, scenario, kind)
        }
        Kind::SlowDisk | Kind::Stall | Kind::WriteError | Kind::ReadErrors | Kind::Misreads => {
            draw_disk_fault(rng, node, kind)
        }
        Kind::Rot | Kind::BadSectors | Kind::Phantom | Kind::Misdirected | Kind::Wipe | Kind::Shrink => {
            draw_damage(rng, node, kind)
        }
        Kind::Crash | Kind::Kill | Kind::PowerCut | Kind::Pause | Kind::HandOver => draw_node_fault(rng, node, kind),
        Kind::ClockJump => Fault::ClockJump {
            node,
            by_us: some_time(rng, 20 * S),
        },
        Kind::ClockRate => Fault::ClockRate {
            node,
            ppm: signed(rng, 40_000),
            for_us: some_time(rng, 20 * S),
        },
        Kind::Transfer => Fault::Transfer {
            volume,
            to: *pick(rng, &scenario.volumes[volume].members),
        },
        Kind::Burst => Fault::Burst {
            volume,
            for_us: some_time(rng, S),
        },
        Kind::Replace => Fault::Replace {
            volume,
            node,
            to: rng.pick(scenario.nodes),
        },
        Kind::TrimStorm => Fault::TrimStorm {
            volume,
            for_us: some_time(rng, 3 * S),
        },
        Kind::Move => Fault::Move {
            volume,
            client: rng.pick(scenario.volumes[volume].clients.len()),
            to: rng.pick(scenario.nodes),
            how: *pick(rng, &[Move::Orderly, Move::Contending, Move::Detached, Move::Forced]),
        },
        _ => draw_ambush(rng, scenario, (volume, node), kind),
    }
}

fn draw_ambush(rng: &mut Rng, scenario: &Scenario, (volume, node): (usize, Target), kind: Kind) -> Fault {
    match kind {
        Kind::VoteAmbush => Fault::VoteAmbush {
            for_us: 4 * S,
            down_us: rng.between(MS, 400 * MS),
            cut_us: some_time(rng, 6 * S),
        },
        Kind::RestartTrap => Fault::RestartTrap {
            volume,
            apart_us: rng.between(S, 3 * S),
            for_us: rng.between(2 * S, 5 * S),
            down_us: rng.between(MS, 100 * MS),
        },
        Kind::TransferTrap => Fault::TransferTrap {
            volume,
            to: *pick(rng, &scenario.volumes[volume].members),
            for_us: rng.between(S, 5 * S),
        },
        Kind::LeaseTrap => Fault::LeaseTrap {
            volume,
            for_us: rng.between(2 * S, 5 * S),
        },
        Kind::ResendTrap => Fault::ResendTrap {
            volume,
            delay_us: rng.between(10 * MS, 150 * MS),
        },
        Kind::LateAmbush => Fault::LateAmbush {
            node,
            for_us: 10 * S,
            down_us: rng.between(MS, 100 * MS),
        },
        Kind::TornAmbush => Fault::TornAmbush {
            node,
            for_us: 10 * S,
            down_us: some_time(rng, 2 * S),
        },
        _ => Fault::LeaderAmbush {
            volume,
            for_us: 2 * S,
            down_us: some_time(rng, 4 * S),
        },
    }
}

fn draw_node_fault(rng: &mut Rng, node: Target, kind: Kind) -> Fault {
    match kind {
        Kind::Crash => Fault::Crash {
            node,
            down_us: some_time(rng, 8 * S),
        },
        Kind::Kill => Fault::Kill {
            node,
            down_us: some_time(rng, 8 * S),
        },
        Kind::PowerCut => Fault::PowerCut {
            down_us: some_time(rng, 3 * S),
            spread_us: some_time(rng, 3 * S),
        },
        Kind::HandOver => Fault::HandOver {
            node,
            down_us: some_time(rng, 3 * S),
        },
        _ => Fault::Pause {
            node,
            for_us: some_time(rng, 8 * S),
        },
    }
}

fn draw_network_fault(rng: &mut Rng, scenario: &Scenario, kind: Kind) -> Fault {
    let (from, to) = (target(rng, scenario), target(rng, scenario));
    match kind {
        Kind::Partition => Fault::Partition {
            nodes: if scenario.nodes == 5 && rng.chance(50) {
                vec![from, to]
            } else {
                vec![from]
            },
            direction: *pick(rng, &[Direction::Both, Direction::Both, Direction::In, Direction::Out]),
            for_us: some_time(rng, 10 * S),
        },
        Kind::OneWay => Fault::OneWay {
            from,
            to,
            for_us: some_time(rng, 10 * S),
        },
        Kind::Clog => Fault::Clog {
            from,
            to,
            delay_us: some_time(rng, 2 * S),
            for_us: some_time(rng, 10 * S),
        },
        Kind::Garble => {
            let payload = rng.chance(70);
            // Payload goes from leaders to followers and readers.
            let leader = Target::Leader(rng.pick(scenario.volumes.len()));
            Fault::Garble {
                from: if payload { leader } else { from },
                to,
                payload,
            }
        }
        _ => Fault::BreakLink { from, to },
    }
}

fn draw_disk_fault(rng: &mut Rng, node: Target, kind: Kind) -> Fault {
    match kind {
        Kind::SlowDisk => Fault::SlowDisk {
            node,
            latency_us: some_time(rng, 400 * MS),
            for_us: some_time(rng, 10 * S),
        },
        Kind::Stall => Fault::Stall {
            node,
            for_us: some_time(rng, 6 * S),
        },
        Kind::WriteError => Fault::WriteError {
            node,
            down_us: some_time(rng, 5 * S),
        },
        Kind::Misreads => Fault::Misreads {
            node,
            everywhere: rng.chance(30),
            percent: *pick(rng, &[1, 10, 40]),
            for_us: some_time(rng, 5 * S),
        },
        _ => Fault::ReadErrors {
            node,
            percent: *pick(rng, &[5, 50, 100]),
            for_us: some_time(rng, 5 * S),
        },
    }
}

fn draw_damage(rng: &mut Rng, node: Target, kind: Kind) -> Fault {
    // Damage to headers ends a disk with its next recovery; damage to what they hold can be lived with.
    let headers = rng.chance(15);
    let places = (0..rng.between(1, 6)).map(|_| rng.draw() >> 16).collect();
    match kind {
        Kind::Rot => Fault::Rot { node, headers, places },
        Kind::BadSectors => Fault::BadSectors { node, headers, places },
        Kind::Phantom => Fault::Phantom { node },
        Kind::Misdirected => Fault::Misdirected {
            node,
            by: *pick(rng, &[-64, -3, -1, 1, 2, 40, 600]),
        },
        Kind::Shrink => Fault::Shrink {
            node,
            down_us: some_time(rng, 5 * S),
        },
        _ => Fault::Wipe { node },
    }
}
