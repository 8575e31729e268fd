//! Reading a whole region back and comparing it with its ledger.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::ledger::{BLOCK_BYTES, BLOCK_BYTES_U64, Ledger};
use crate::nbd::{Address, Client, Command};

/// Blocks to a read.
const RUN_BLOCKS: u64 = 64;
/// Reads in flight.
const DEPTH: usize = 8;

/// The result of reading a region back.
#[derive(Debug, Default)]
pub struct Verified {
    /// Blocks with an acknowledged write that were read and compared.
    pub blocks: u64,
    /// What was wrong.
    pub mismatches: Vec<String>,
}

/// Reads every block of the ledger's region and compares it.
pub fn region(address: &Address, export: &str, ledger: &mut Ledger) -> Result<Verified> {
    let mut client = Client::connect(address, export)?;
    let end = ledger.first() + ledger.count();
    let mut next = ledger.first();
    let mut flights = BTreeMap::new();
    let mut verified = Verified {
        blocks: ledger.written(),
        mismatches: Vec::new(),
    };
    loop {
        while next < end && flights.len() < DEPTH {
            let blocks = RUN_BLOCKS.min(end - next);
            let length = u32::try_from(blocks * BLOCK_BYTES_U64)?;
            let cookie = client.send(Command::Read, 0, next * BLOCK_BYTES_U64, length, &[])?;
            flights.insert(cookie, (next, blocks));
            next += blocks;
        }
        if flights.is_empty() {
            client.disconnect()?;
            return Ok(verified);
        }
        let reply = client.receive()?;
        let (first, blocks) = flights.remove(&reply.cookie).context("a reply that nobody asked for")?;
        ensure!(
            reply.error == 0,
            "reading {blocks} blocks from block {first}: error {}",
            reply.error
        );
        for (block, data) in (first..).zip(reply.data.chunks_exact(BLOCK_BYTES)) {
            if let Err(reason) = ledger.check(block, data) {
                verified.mismatches.push(reason);
            }
        }
    }
}

/// Fails with the first few mismatches, if there are any.
pub fn expect_clean(mismatches: &[String]) -> Result<()> {
    let few = mismatches.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
    ensure!(mismatches.is_empty(), "{} blocks are wrong:\n{few}", mismatches.len());
    Ok(())
}
