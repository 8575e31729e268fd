//! Crashes at random: whatever happens to the writes under way, recovery finds everything that was acknowledged, in
//! order, and nothing that was not pushed.

use proptest::collection::vec;
use proptest::prelude::*;

use super::Rig;
use crate::log::LogSettings;
use crate::log::recovery::Outcome;

#[derive(Clone, Debug)]
enum Op {
    Entry(u32),
    HardState,
    GroupCreated,
    Compose,
    Complete(usize),
    Vouch,
    /// Each bit decides about a sector of a write under way, over and over.
    Crash(Vec<bool>),
    /// Each write under way is lost or not as a whole.
    CrashWhole(Vec<bool>),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0_u32..6).prop_map(Op::Entry),
        1 => (1_u32..=256).prop_map(Op::Entry),
        2 => Just(Op::HardState),
        1 => Just(Op::GroupCreated),
        6 => Just(Op::Compose),
        5 => any::<usize>().prop_map(Op::Complete),
        1 => Just(Op::Vouch),
        1 => vec(any::<bool>(), 1..40).prop_map(Op::Crash),
        1 => vec(any::<bool>(), 1..6).prop_map(Op::CrashWhole),
    ]
}

fn settings() -> impl Strategy<Value = LogSettings> {
    (1_usize..=4, prop_oneof![Just(8_u32), Just(256)]).prop_map(|(frames_in_flight_max, frame_payload_blocks_max)| {
        LogSettings {
            frames_in_flight_max,
            frame_payload_blocks_max,
            ..LogSettings::default()
        }
    })
}

fn apply(rig: &mut Rig, op: Op) {
    match op {
        Op::Entry(blocks) if rig.writer.free_blocks() >= u64::from(blocks) => rig.push_entry(blocks),
        Op::Entry(_) => {}
        Op::HardState => {
            let record = rig.hard_state();
            rig.push(record);
        }
        Op::GroupCreated => {
            let record = rig.group_created();
            rig.push(record);
        }
        Op::Compose => {
            rig.compose();
        }
        Op::Complete(place) => {
            if !rig.under_way.is_empty() {
                rig.complete(place % rig.under_way.len());
            }
        }
        Op::Vouch => rig.writer.vouch(),
        Op::Crash(sectors) => {
            let mut keep = sectors.into_iter().cycle();
            rig.crash(|_, _| keep.next().unwrap_or(false));
            rig.restart();
        }
        Op::CrashWhole(writes) => {
            rig.crash(|write, _| writes[write % writes.len()]);
            rig.restart();
        }
    }
}

/// A few seconds' worth of cases, unless more are asked for.
fn config() -> ProptestConfig {
    let asked = std::env::var("CAIRN_PROPERTY_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(100),
        failure_persistence: None,
        max_shrink_iters: 100_000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_crash_loses_nothing_acknowledged(settings in settings(), ops in vec(op(), 1..120)) {
        let mut rig = Rig::with_settings(12, settings);
        for op in ops {
            apply(&mut rig, op);
        }
        rig.crash(|_, _| false);
        rig.restart();
        rig.settle();
        let count = rig.pushed.len();
        rig.restart();
        prop_assert_eq!(rig.pushed.len(), count, "a quiet stop takes nothing away");
    }

    #[test]
    fn damage_to_acknowledged_data_is_noticed_or_harmless(
        settings in settings(),
        ops in vec(op(), 1..60),
        place in any::<prop::sample::Index>(),
        mask in 1_u8..,
        length in prop_oneof![Just(1_u64), Just(512), Just(4096)],
    ) {
        let mut rig = Rig::with_settings(12, settings);
        for op in ops {
            apply(&mut rig, op);
        }
        rig.crash(|_, _| false);
        rig.restart();
        rig.settle();
        rig.writer.vouch();
        rig.settle();
        // Damage anywhere in what was ever written.
        let written: Vec<u64> = rig.disk.sectors.keys().copied().collect();
        let offset = written[place.index(written.len())] * super::SECTOR + u64::from(mask);
        if length == 1 {
            rig.disk.flip(offset, mask);
        } else {
            let offset = offset / length * length;
            for byte in 0..length {
                rig.disk.flip(offset + byte, mask);
            }
        }
        let (outcome, records) = rig.recover();
        match outcome {
            Outcome::LostAcknowledged { .. } => {}
            Outcome::Clean { .. } | Outcome::TornTail { .. } => {
                prop_assert_eq!(records.len(), rig.pushed.len(), "lost without a word: {:?}", outcome);
                prop_assert!(super::is_prefix(&records, &rig.pushed));
            }
            other => prop_assert!(false, "unexpected: {:?}", other),
        }
    }

    #[test]
    fn read_errors_take_nothing_from_the_log(
        settings in settings(),
        ops in vec(op(), 1..60),
        keep in any::<u64>(),
        unreadable in vec(any::<prop::sample::Index>(), 1..4),
    ) {
        let mut rig = Rig::with_settings(12, settings);
        for op in ops {
            apply(&mut rig, op);
        }
        rig.crash(|write, sector| keep.rotate_left((write as u32).wrapping_mul(7).wrapping_add(sector as u32)) & 1 == 1);
        let (outcome, records) = rig.recover();
        // Anywhere in what was ever written, right behind it, or in any segment's header.
        let headers = (0..12).map(|segment| rig.geometry.segment_offset(segment) / super::SECTOR);
        let written = rig.disk.sectors.keys().flat_map(|sector| [*sector, sector + 8]);
        let places: Vec<u64> = written.chain(headers).collect();
        for place in unreadable {
            rig.disk.make_unreadable(places[place.index(places.len())] * super::SECTOR);
        }
        let (again, records_again) = rig.recover();
        if matches!(again, Outcome::Unreadable { .. }) {
            prop_assert!(records.starts_with(&records_again), "nothing else than what is there");
        } else {
            prop_assert_eq!(forget_bytes_read(again), forget_bytes_read(outcome), "another end than the true one");
            prop_assert_eq!(records_again, records);
        }
    }
}

/// An outcome without what it cost.
fn forget_bytes_read(mut outcome: Outcome) -> Outcome {
    if let Outcome::Clean { summary, .. } | Outcome::TornTail { summary, .. } = &mut outcome {
        summary.bytes_read = 0;
    }
    outcome
}
