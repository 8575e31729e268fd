//! The map against a `Vec` of slots.

use proptest::prelude::*;

use super::*;

/// Three leaves and a bit, at the end of one node and the start of the next, where a test wants both.
const MODEL_BLOCKS: u64 = 1700;
/// So far into the volume that the model's window crosses a border between nodes.
const WINDOW: u64 = 256 * 512 - 900;
const VOLUME_BLOCKS: u64 = 4 << 20;

#[derive(Clone, Debug)]
enum Change {
    Write { at: u64, blocks: u64, scatter: bool },
    Zero { at: u64, blocks: u64, allocate: bool },
    Freeze,
}

fn change() -> impl Strategy<Value = Change> {
    let at = 0..MODEL_BLOCKS;
    let blocks = prop_oneof![4 => Just(1_u64), 4 => 2..40_u64, 1 => 40..700_u64];
    prop_oneof![
        8 => (at.clone(), blocks.clone(), any::<bool>())
            .prop_map(|(at, blocks, scatter)| Change::Write { at, blocks: blocks.min(MODEL_BLOCKS - at), scatter }),
        3 => (at, blocks, any::<bool>())
            .prop_map(|(at, blocks, allocate)| Change::Zero { at, blocks: blocks.min(MODEL_BLOCKS - at), allocate }),
        1 => Just(Change::Freeze),
    ]
}

struct Pair {
    map: BlockMap,
    model: Vec<Slot>,
    births: Vec<Option<u32>>,
    birth: u32,
    next_block: u64,
}

impl Pair {
    fn new() -> Self {
        let count = usize::try_from(MODEL_BLOCKS).unwrap();
        Self {
            map: BlockMap::new(VOLUME_BLOCKS),
            model: vec![Slot::Hole; count],
            births: vec![None; count],
            birth: 0,
            next_block: 7,
        }
    }

    fn write(&mut self, at: u64, blocks: u64) {
        let first = DiskBlock(self.next_block);
        let crcs: Vec<u32> = (0..blocks)
            .map(|i| u32::try_from(first.0 + i).unwrap().wrapping_mul(0x9E37_79B1))
            .collect();
        self.next_block += blocks;
        self.map.write(Lba(WINDOW + at), first, &crcs);
        for (i, crc) in crcs.into_iter().enumerate() {
            let place = usize::try_from(at).unwrap() + i;
            self.model[place] = Slot::Data {
                block: first.advance(i as u64),
                crc,
            };
            self.births[place] = Some(self.birth);
        }
    }

    fn zero(&mut self, at: u64, blocks: u64, allocate: bool) {
        self.map.zero(Lba(WINDOW + at), blocks, allocate);
        for place in at..at + blocks {
            let place = usize::try_from(place).unwrap();
            self.model[place] = if allocate { Slot::Zero } else { Slot::Hole };
            self.births[place] = allocate.then_some(self.birth);
        }
    }

    fn check(&self) {
        let slots: Vec<Slot> = (0..MODEL_BLOCKS).map(|i| self.map.slot(Lba(WINDOW + i))).collect();
        assert_eq!(slots, self.model);
        let births: Vec<Option<u32>> = (0..MODEL_BLOCKS).map(|i| self.map.birth(Lba(WINDOW + i))).collect();
        assert_eq!(births, self.births);
        let runs: Vec<Run<'_>> = self.map.runs(Lba(WINDOW), MODEL_BLOCKS).collect();
        assert_eq!(expand(&runs, WINDOW), self.model);
        assert_maximal(&runs);
        let data = self
            .model
            .iter()
            .filter(|slot| matches!(slot, Slot::Data { .. }))
            .count();
        assert_eq!(self.map.allocated_blocks(), data as u64);
    }
}

/// Runs as single slots, checking that they follow each other from `start`.
fn expand(runs: &[Run<'_>], start: u64) -> Vec<Slot> {
    let mut slots = Vec::new();
    for run in runs {
        assert_eq!(run.lba().0, start + slots.len() as u64);
        assert!(run.blocks() > 0);
        match run {
            Run::Data {
                block, crcs, blocks, ..
            } => {
                assert_eq!(crcs.len() as u64, *blocks);
                let places = (block.0..).map(DiskBlock);
                slots.extend(
                    places
                        .zip(crcs.iter())
                        .map(|(block, crc)| Slot::Data { block, crc: *crc }),
                );
            }
            Run::Zeros { blocks, .. } => slots.extend((0..*blocks).map(|_| Slot::Zero)),
            Run::Hole { blocks, .. } => slots.extend((0..*blocks).map(|_| Slot::Hole)),
        }
    }
    slots
}

/// No two neighbours could be one run: always for zeros and holes, up to a gateway's longest read for data.
fn assert_maximal(runs: &[Run<'_>]) {
    for pair in runs.windows(2) {
        match (&pair[0], &pair[1]) {
            (Run::Zeros { .. }, Run::Zeros { .. }) | (Run::Hole { .. }, Run::Hole { .. }) => {
                panic!("{pair:?} could be one run");
            }
            (
                Run::Data { block, blocks, .. },
                Run::Data {
                    block: next,
                    blocks: more,
                    ..
                },
            ) if block.advance(*blocks) == *next && blocks + more <= 256 => {
                panic!("{pair:?} could be one run");
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn the_map_equals_a_vec_of_slots(changes in prop::collection::vec(change(), 1..120)) {
        let mut pair = Pair::new();
        let mut frozen: Vec<(FrozenMap, Vec<Slot>, u32)> = Vec::new();
        for change in changes {
            match change {
                Change::Write { at, blocks, scatter: false } => pair.write(at, blocks),
                Change::Write { at, blocks, scatter: true } => {
                    // Every second block by itself: what turns a leaf dense.
                    for i in (0..blocks).step_by(2) {
                        pair.write(at + i, 1);
                    }
                }
                Change::Zero { at, blocks, allocate } => pair.zero(at, blocks, allocate),
                Change::Freeze => {
                    let map = pair.map.freeze();
                    prop_assert_eq!(map.birth(), pair.birth);
                    let digest = map.digest();
                    frozen.push((map, pair.model.clone(), digest));
                    pair.birth += 1;
                }
            }
        }
        pair.check();
        for (map, model, digest) in frozen {
            let runs: Vec<Run<'_>> = map.runs(Lba(WINDOW), MODEL_BLOCKS).collect();
            prop_assert_eq!(expand(&runs, WINDOW), model);
            prop_assert_eq!(map.digest(), digest);
        }
    }

    #[test]
    fn any_part_of_the_map_can_be_read(at in 0..MODEL_BLOCKS, length in 1..MODEL_BLOCKS, seed in 0..64_u64) {
        let mut pair = Pair::new();
        for i in 0..40 {
            pair.write((seed + i * 97) % (MODEL_BLOCKS - 40), 1 + i % 40);
        }
        let length = length.min(MODEL_BLOCKS - at);
        let runs: Vec<Run<'_>> = pair.map.runs(Lba(WINDOW + at), length).collect();
        let (from, to) = (usize::try_from(at).unwrap(), usize::try_from(at + length).unwrap());
        prop_assert_eq!(&expand(&runs, WINDOW + at)[..], &pair.model[from..to]);
    }
}

#[test]
fn a_read_across_a_leaf_border_is_one_run() {
    let mut map = BlockMap::new(2048);
    let crcs: Vec<u32> = (0..256).collect();
    map.write(Lba(400), DiskBlock(1000), &crcs);
    let runs: Vec<Run<'_>> = map.runs(Lba(400), 256).collect();
    let expected = Run::Data {
        lba: Lba(400),
        block: DiskBlock(1000),
        crcs: Cow::Borrowed(&crcs),
        blocks: 256,
    };
    assert_eq!(runs, [expected]);
}

#[test]
fn sequential_writes_cost_little_more_than_their_checksums() {
    let mut map = BlockMap::new(1 << 20);
    for i in 0..(1_u64 << 18) / 8 {
        map.write(Lba(i * 8), DiskBlock(100 + i * 9), &[1; 8]);
    }
    let per_block = map.memory_bytes() as f64 / f64::from(1 << 18);
    assert!(per_block < 10.0, "{per_block} bytes a block");
}

#[test]
fn random_writes_cost_at_most_20_bytes_a_block() {
    let mut map = BlockMap::new(1 << 18);
    for i in 0..1_u64 << 18 {
        // An odd multiplier permutes the addresses.
        map.write(Lba(i.wrapping_mul(0x9E37_79B1) % (1 << 18)), DiskBlock(i), &[1]);
    }
    assert_eq!(map.allocated_blocks(), 1 << 18);
    let per_block = map.memory_bytes() as f64 / f64::from(1 << 18);
    assert!(per_block <= 20.0, "{per_block} bytes a block");
}

#[test]
fn huge_ranges_cost_what_is_there() {
    let size = 1_u64 << 42; // 16 PiB of volume, so that a visit to every leaf would not end.
    let mut map = BlockMap::new(size);
    map.write(Lba(5), DiskBlock(1), &[1, 2, 3]);
    map.write(Lba(size - 2), DiskBlock(9), &[4, 5]);
    let runs: Vec<u64> = map.runs(Lba(0), size).map(|run| run.blocks()).collect();
    assert_eq!(runs, [5, 3, size - 10, 2]);
    map.zero(Lba(1), size - 1, false);
    assert_eq!(map.allocated_blocks(), 0);
    assert_eq!(map.memory_bytes(), 0);
    assert_eq!(
        map.runs(Lba(0), size).collect::<Vec<_>>(),
        [Run::Hole {
            lba: Lba(0),
            blocks: size
        }]
    );
}

#[test]
fn allocated_zeros_of_a_large_volume_share_one_leaf() {
    let size = 1_u64 << 28; // 1 TiB
    let mut map = BlockMap::new(size);
    map.write(Lba(700), DiskBlock(1), &[1; 100]);
    map.zero(Lba(3), size - 3, true);
    map.write(Lba(800), DiskBlock(7), &[1]);
    let runs: Vec<Run<'_>> = map.runs(Lba(0), size).collect();
    assert_eq!(runs.len(), 4);
    assert_eq!(
        runs[3],
        Run::Zeros {
            lba: Lba(801),
            blocks: size - 801
        }
    );
    assert_eq!(map.allocated_blocks(), 1);
}

#[test]
fn the_digest_ignores_where_data_is() {
    let mut one = BlockMap::new(4096);
    let mut other = BlockMap::new(4096);
    one.write(Lba(10), DiskBlock(100), &[1, 2, 3]);
    other.write(Lba(12), DiskBlock(9), &[3]);
    other.write(Lba(10), DiskBlock(50), &[1, 2]);
    assert_eq!(one.digest(), other.digest());
    other.write(Lba(10), DiskBlock(60), &[7]);
    assert_ne!(one.digest(), other.digest());
    one.zero(Lba(10), 3, true);
    assert_eq!(one.digest(), BlockMap::new(4096).digest());
}

#[test]
#[should_panic(expected = "is not in a volume")]
fn a_write_beyond_the_end_is_a_broken_invariant() {
    BlockMap::new(8).write(Lba(7), DiskBlock(0), &[0, 0]);
}
