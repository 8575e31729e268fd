//! Disks that are read through for damage: what is covered, how fast, and what ends it.

use std::time::Duration;

use bytes::Bytes;
use cairn_api::block::{BlockOp, BlockReply};
use cairn_api::ids::GroupId;
use cairn_api::units::{BLOCK_BYTES, Lba};
use cairn_core::config::ScrubSettings;
use cairn_core::event::{Command, CommandReply, DamageCounts, ScrubReport, ScrubRequest, ScrubStatus};
use cairn_core::map::Slot;
use cairn_sim::cluster::{Cluster, Setup};

const SIZES: [u64; 3] = [600, 3000, 40];
/// In all volumes together.
const WRITTEN: u64 = 16 + 1024 + 40;

fn volume(number: usize) -> GroupId {
    GroupId(GroupId::FIRST_VOLUME.get() + number as u64)
}

/// Three volumes on three nodes, of which some blocks are written, here and there.
fn cluster_with(scrub: ScrubSettings) -> Cluster {
    let mut setup = Setup::new(5);
    setup.limits.scrub = scrub;
    let mut cluster = Cluster::new(setup);
    for (number, blocks) in SIZES.into_iter().enumerate() {
        let spec = cluster.spec(volume(number), blocks, 3);
        cluster.create(&spec);
        let device = cluster.open(0, &spec);
        let places: &[(u64, u64)] = match number {
            0 => &[(7, 8), (300, 8)],
            1 => &[(0, 256), (1000, 256), (1256, 256), (2700, 256)],
            _ => &[(0, 40)],
        };
        for (first, count) in places {
            let data = Bytes::from(vec![number as u8 + 1; (count * BLOCK_BYTES) as usize]);
            let offset = first * BLOCK_BYTES;
            let written = cluster.call(0, device, BlockOp::Write { offset, data });
            assert_eq!(written, Ok(BlockReply::Done));
        }
        cluster.close(0, device);
    }
    // Long enough for every follower to have applied it, and for the log to have vouched for it.
    cluster.run(Duration::from_secs(1));
    cluster
}

/// None begins by itself.
fn quiet() -> Cluster {
    cluster_with(ScrubSettings {
        bytes_per_s: 0,
        ..ScrubSettings::default()
    })
}

fn ask(cluster: &mut Cluster, node: usize, request: ScrubRequest) {
    let asked = cluster.command(node, Command::Scrub(request));
    assert_eq!(asked, Ok(CommandReply::Done));
}

fn begin(cluster: &mut Cluster, node: usize, bytes_per_s: u64) {
    let bytes_per_s = Some(bytes_per_s);
    ask(cluster, node, ScrubRequest::Begin { bytes_per_s });
}

fn status(cluster: &mut Cluster, node: usize) -> ScrubStatus {
    match cluster.command(node, Command::ScrubStatus) {
        Ok(CommandReply::Scrub(status)) => status,
        other => panic!("{other:?}"),
    }
}

/// Waits until no pass goes on, and tells of the last.
fn finished(cluster: &mut Cluster, node: usize) -> ScrubReport {
    for _ in 0..600 {
        let ScrubStatus {
            running: None, last, ..
        } = status(cluster, node)
        else {
            cluster.run(Duration::from_millis(100));
            continue;
        };
        return last.expect("no pass has ended").0;
    }
    panic!("the pass does not end: {:?}", status(cluster, node));
}

/// Spoils a block of a volume on a node.
fn rot(cluster: &mut Cluster, node: usize, number: usize, lba: u64) {
    let map = cluster.nodes[node].core.as_ref().unwrap().map(volume(number)).unwrap();
    let Slot::Data { block, .. } = map.slot(Lba(lba)) else {
        panic!("nothing at block {lba} of {number}")
    };
    assert!(cluster.nodes[node].disk.rot(block.0 * BLOCK_BYTES));
}

#[test]
fn a_pass_reads_every_block_once_wherever_it_begins() {
    let mut cluster = quiet();
    // Each begins at another place, drawn at random.
    for _ in 0..24 {
        for node in 0..3 {
            begin(&mut cluster, node, 1 << 30);
            let report = finished(&mut cluster, node);
            // The stretch in which it began may be read from its middle, and then whole.
            assert!((WRITTEN..WRITTEN + 64).contains(&report.blocks), "{report:?}");
            assert_eq!(report.damage, DamageCounts::default());
        }
    }
}

#[test]
fn the_pace_is_kept() {
    let mut cluster = quiet();
    for mib_per_s in [1, 2] {
        begin(&mut cluster, 1, mib_per_s << 20);
        let report = finished(&mut cluster, 1);
        let expected = report.blocks as f64 * BLOCK_BYTES as f64 / (mib_per_s << 20) as f64;
        let took = report.took.as_secs_f64();
        assert!((took / expected - 1.0).abs() < 0.05, "{took} s instead of {expected} s");
    }
}

#[test]
fn rot_is_repaired_though_nobody_reads() {
    let mut cluster = quiet();
    for (number, lba) in [(0, 9), (1, 255), (1, 1256), (2, 39)] {
        rot(&mut cluster, 2, number, lba);
    }
    begin(&mut cluster, 2, 1 << 30);
    let report = finished(&mut cluster, 2);
    assert_eq!((report.damage.found, report.damage.unrepairable), (4, 0));
    cluster.run(Duration::from_secs(1));
    begin(&mut cluster, 2, 1 << 30);
    assert_eq!(
        finished(&mut cluster, 2).damage,
        DamageCounts::default(),
        "it was written back"
    );
}

#[test]
fn what_nobody_has_is_counted_and_passed_over() {
    let mut cluster = quiet();
    (0..3).for_each(|node| rot(&mut cluster, node, 1, 1300));
    begin(&mut cluster, 0, 1 << 30);
    let report = finished(&mut cluster, 0);
    assert_eq!((report.damage.found, report.damage.unrepairable), (1, 1));
    assert!(report.blocks >= WRITTEN, "the rest was read all the same");
}

#[test]
fn a_pass_waits_for_a_peer_that_is_away() {
    let mut cluster = quiet();
    rot(&mut cluster, 0, 2, 3);
    cluster.crash(1);
    cluster.crash(2);
    begin(&mut cluster, 0, 1 << 30);
    cluster.run(Duration::from_secs(5));
    assert!(
        status(&mut cluster, 0).running.is_some(),
        "somebody may come back who has it"
    );
    cluster.start(1);
    let report = finished(&mut cluster, 0);
    assert_eq!((report.damage.found, report.damage.unrepairable), (1, 0));
}

#[test]
fn passes_begin_by_themselves_and_can_be_stopped() {
    let every = Duration::from_secs(20);
    let mut cluster = cluster_with(ScrubSettings {
        bytes_per_s: 1 << 20,
        every,
    });
    cluster.run(Duration::from_secs(20));
    let first = status(&mut cluster, 0);
    assert!(first.running.is_some(), "{first:?}");
    ask(&mut cluster, 0, ScrubRequest::Stop);
    let stopped = status(&mut cluster, 0);
    assert_eq!((stopped.running, stopped.last), (None, None));
    assert!(
        stopped
            .next_in
            .is_some_and(|next| next > Duration::ZERO && next < every)
    );
    cluster.run(every);
    let again = status(&mut cluster, 0);
    assert!(again.running.is_some() || again.last.is_some(), "{again:?}");
    // What was being read for the first one is nobody's: the next one is whole.
    begin(&mut cluster, 0, 1 << 30);
    assert!(finished(&mut cluster, 0).blocks >= WRITTEN);
}

#[test]
fn a_volume_that_goes_takes_nothing_of_the_pass_with_it() {
    let mut cluster = quiet();
    rot(&mut cluster, 0, 1, 100);
    cluster.crash(1);
    cluster.crash(2);
    begin(&mut cluster, 0, 1 << 30);
    // In the middle of a repair that cannot end.
    cluster.run(Duration::from_secs(2));
    assert!(status(&mut cluster, 0).running.is_some());
    let dropped = cluster.command(0, Command::DropGroup(volume(1)));
    assert_eq!(dropped, Ok(CommandReply::Done));
    let report = finished(&mut cluster, 0);
    assert!(report.blocks < WRITTEN, "{report:?}");
}
