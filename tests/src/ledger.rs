//! What every block of a region must hold, by the writes that were acknowledged.
//!
//! Every write to a block carries a version that no other write has, and the block's bytes follow from seed, block and
//! version, so that a block read back tells which write it came from. A write without an answer (the connection broke, or
//! the server said no) may or may not have landed; once it has been read, it must stay.

use std::collections::BTreeMap;

/// The unit that the ledger accounts for: the volume's block.
pub const BLOCK_BYTES: usize = 4096;

/// The block size as the protocol's offsets need it.
pub const BLOCK_BYTES_U64: u64 = 4096;

/// Starts every written block.
const MARK: u64 = 0x6361_6972_6e2d_7477;

/// The state of a region of blocks.
#[derive(Debug)]
pub struct Ledger {
    seed: u64,
    first: u64,
    /// The last acknowledged version of each block; zero where nothing was ever written.
    settled: Vec<u64>,
    /// Versions that may have landed, by the block's place in the region.
    unsettled: BTreeMap<u64, Vec<u64>>,
    next_version: u64,
}

impl Ledger {
    /// A region of `count` blocks from block `first`, which holds zeros.
    pub fn new(seed: u64, first: u64, count: u64) -> Self {
        let settled = (0..count).map(|_| 0).collect();
        Self {
            seed,
            first,
            settled,
            unsettled: BTreeMap::new(),
            next_version: 1,
        }
    }

    /// The region's first block.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The region's number of blocks.
    pub fn count(&self) -> u64 {
        self.settled.len() as u64
    }

    /// How many blocks have an acknowledged write.
    pub fn written(&self) -> u64 {
        self.settled.iter().filter(|version| **version != 0).count() as u64
    }

    /// A version for the next write.
    pub fn next_version(&mut self) -> u64 {
        self.next_version += 1;
        self.next_version - 1
    }

    /// The bytes of `block` at `version`, put into `out`.
    pub fn fill(&self, block: u64, version: u64, out: &mut [u8]) {
        assert_eq!(out.len(), BLOCK_BYTES, "a block is filled whole");
        let head = [MARK, self.seed, block, version];
        let mut state = mix(self.seed ^ block.rotate_left(32) ^ version);
        for (index, word) in out.chunks_exact_mut(8).enumerate() {
            let value = head.get(index).copied().unwrap_or_else(|| {
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                mix(state)
            });
            word.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// The write of `version` to `block` was acknowledged. It came later than every unanswered write, whose connection was
    /// fenced when this one attached, so those can no longer show.
    pub fn acknowledge(&mut self, block: u64, version: u64) {
        let index = block - self.first;
        if let Some(slot) = self.settled.get_mut(usize::try_from(index).unwrap_or(usize::MAX)) {
            *slot = version;
            self.unsettled.remove(&index);
        }
    }

    /// The write of `version` to `block` has no answer, and never will.
    pub fn leave_open(&mut self, block: u64, version: u64) {
        self.unsettled.entry(block - self.first).or_default().push(version);
    }

    /// Compares what was read from `block`; says what is wrong.
    pub fn check(&mut self, block: u64, data: &[u8]) -> Result<(), String> {
        let index = block - self.first;
        let expected = self.settled[usize::try_from(index).map_err(|error| error.to_string())?];
        let found = self
            .version_of(block, data)
            .map_err(|reason| format!("block {block}: {reason}"))?;
        if found == expected {
            return Ok(());
        }
        let open = self.unsettled.get_mut(&index);
        let Some(open) = open.filter(|open| open.contains(&found)) else {
            return Err(format!(
                "block {block} holds version {found}, but version {expected} was acknowledged"
            ));
        };
        // Seen once, it must stay: an older version would be a step back in time.
        open.retain(|version| *version != found);
        self.settled[usize::try_from(index).map_err(|error| error.to_string())?] = found;
        Ok(())
    }

    fn version_of(&self, block: u64, data: &[u8]) -> Result<u64, String> {
        if data.iter().all(|byte| *byte == 0) {
            return Ok(0);
        }
        let word = |index: usize| {
            let bytes = data
                .get(index * 8..index * 8 + 8)
                .and_then(|bytes| bytes.try_into().ok());
            bytes.map(u64::from_le_bytes).ok_or_else(|| "a short block".to_owned())
        };
        if word(0)? != MARK || word(1)? != self.seed {
            return Err("its bytes come from no write of this run".to_owned());
        }
        if word(2)? != block {
            return Err(format!("it holds what was written to block {}", word(2)?));
        }
        let version = word(3)?;
        let mut expected = vec![0; BLOCK_BYTES];
        self.fill(block, version, &mut expected);
        if expected != data {
            return Err(format!("it begins as version {version} but is torn"));
        }
        Ok(version)
    }
}

/// The finaliser of splitmix64: every bit of the input moves every bit of the output.
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(ledger: &Ledger, number: u64, version: u64) -> Vec<u8> {
        let mut data = vec![0; BLOCK_BYTES];
        ledger.fill(number, version, &mut data);
        data
    }

    #[test]
    fn an_acknowledged_write_must_be_there() {
        let mut ledger = Ledger::new(7, 100, 10);
        assert!(ledger.check(103, &[0; BLOCK_BYTES]).is_ok());
        ledger.acknowledge(103, 1);
        assert!(ledger.check(103, &[0; BLOCK_BYTES]).is_err());
        assert!(ledger.check(103, &block(&ledger, 103, 1)).is_ok());
        ledger.acknowledge(103, 2);
        assert!(
            ledger
                .check(103, &block(&ledger, 103, 1))
                .unwrap_err()
                .contains("version 2 was acknowledged")
        );
    }

    #[test]
    fn an_open_write_may_show_and_then_stays() {
        let mut ledger = Ledger::new(7, 0, 10);
        ledger.acknowledge(3, 1);
        ledger.leave_open(3, 2);
        assert!(ledger.check(3, &block(&ledger, 3, 1)).is_ok());
        assert!(ledger.check(3, &block(&ledger, 3, 2)).is_ok());
        assert!(ledger.check(3, &block(&ledger, 3, 1)).is_err());
    }

    #[test]
    fn torn_and_misplaced_blocks_are_told_apart() {
        let mut ledger = Ledger::new(7, 0, 10);
        ledger.acknowledge(3, 1);
        let mut torn = block(&ledger, 3, 1);
        torn[2000] ^= 1;
        assert!(ledger.check(3, &torn).unwrap_err().contains("torn"));
        assert!(
            ledger
                .check(3, &block(&ledger, 4, 1))
                .unwrap_err()
                .contains("written to block 4")
        );
        assert!(
            ledger
                .check(3, &[9; BLOCK_BYTES])
                .unwrap_err()
                .contains("no write of this run")
        );
    }
}
