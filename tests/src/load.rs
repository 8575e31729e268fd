//! A verified load: one NBD connection, several requests in flight, every block accounted for in a ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use crate::ledger::{BLOCK_BYTES, BLOCK_BYTES_U64, Ledger, mix};
use crate::nbd::{Address, Client, Command, Reply};
use crate::samples::Samples;
use crate::wait;

/// How a load behaves.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Requests in flight.
    pub depth: usize,
    /// A request covers between one and this many blocks.
    pub blocks_max: u64,
    /// How many of a hundred requests read and compare.
    pub read_percent: u64,
    /// A pause before each request, where disk space is short.
    pub pause: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            depth: 16,
            blocks_max: 1,
            read_percent: 10,
            pause: Duration::ZERO,
        }
    }
}

/// Why a load ended before it was told to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The connection broke, or a reply made no sense.
    Connection(String),
    /// The server answered with this error number.
    Refused(u32),
}

/// What a load did.
#[derive(Debug)]
pub struct Outcome {
    /// What every block must hold now.
    pub ledger: Ledger,
    /// The time of every request.
    pub samples: Samples,
    /// Blocks that were read and compared during the load.
    pub compared: u64,
    /// What was wrong with blocks read during the load.
    pub mismatches: Vec<String>,
    /// Why it ended early, if it did.
    pub failure: Option<Failure>,
}

/// A load at work on its own thread.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: JoinHandle<Outcome>,
}

impl Load {
    /// Connects and starts. The ledger says which blocks it may touch and what they hold.
    pub fn start(address: &Address, export: &str, ledger: Ledger, plan: Plan) -> Result<Self> {
        let client = Client::connect(address, export)?;
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let worker = Worker {
            client,
            plan,
            random: mix(ledger.count() ^ u64::from(std::process::id())),
            busy: BTreeSet::new(),
            flights: BTreeMap::new(),
            answered: Arc::clone(&answered),
            outcome: Outcome {
                ledger,
                samples: Samples::default(),
                compared: 0,
                mismatches: Vec::new(),
                failure: None,
            },
        };
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || worker.run(&stopped))?;
        Ok(Self { stop, answered, thread })
    }

    /// Waits until so many more requests, and one, have been answered.
    pub fn goes_on(&self, more: u64, patience: Duration) -> Result<()> {
        let before = self.answered();
        wait::until("the load goes on", patience, || {
            ensure!(!self.has_ended(), "the load has ended");
            ensure!(
                self.answered() > before + more,
                "{} requests answered since",
                self.answered() - before
            );
            Ok(())
        })
    }

    /// Requests answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the answers of what is in flight, and ends.
    pub fn stop(self) -> Result<Outcome> {
        self.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    /// Waits until it ends by itself.
    pub fn join(self) -> Result<Outcome> {
        self.thread.join().map_err(|_| anyhow!("the load's thread panicked"))
    }
}

/// A request without an answer yet.
#[derive(Debug)]
struct Flight {
    sent: Instant,
    first: u64,
    /// The versions written, one a block; empty for a read.
    versions: Vec<u64>,
    blocks: u64,
}

struct Worker {
    client: Client,
    plan: Plan,
    random: u64,
    /// Blocks with a request in flight. Nothing else touches them, so that the order of two writes is never in doubt.
    busy: BTreeSet<u64>,
    flights: BTreeMap<u64, Flight>,
    answered: Arc<AtomicU64>,
    outcome: Outcome,
}

impl Worker {
    fn run(mut self, stop: &AtomicBool) -> Outcome {
        if let Err(error) = self.work(stop) {
            self.outcome
                .failure
                .get_or_insert(Failure::Connection(format!("{error:#}")));
        }
        for flight in std::mem::take(&mut self.flights).into_values() {
            self.leave_open(&flight);
        }
        self.outcome
    }

    fn work(&mut self, stop: &AtomicBool) -> Result<()> {
        loop {
            let ending = stop.load(Ordering::Relaxed) || self.outcome.failure.is_some();
            while !ending && self.flights.len() < self.plan.depth {
                if !self.plan.pause.is_zero() {
                    thread::sleep(self.plan.pause);
                }
                self.send_one()?;
            }
            if self.flights.is_empty() {
                return Ok(());
            }
            let reply = self.client.receive()?;
            self.take(&reply)?;
        }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.random) % below.max(1)
    }

    /// A run of blocks that nothing in flight touches.
    fn pick(&mut self) -> (u64, u64) {
        let blocks = 1 + self.draw(self.plan.blocks_max);
        let (first, count) = (self.outcome.ledger.first(), self.outcome.ledger.count());
        loop {
            let at = first + self.draw(count - blocks + 1);
            if self.busy.range(at..at + blocks).next().is_none() {
                return (at, blocks);
            }
        }
    }

    fn send_one(&mut self) -> Result<()> {
        let (first, blocks) = self.pick();
        let is_read = self.draw(100) < self.plan.read_percent;
        let mut payload = Vec::new();
        let mut versions = Vec::new();
        if !is_read {
            payload.resize(BLOCK_BYTES * usize::try_from(blocks)?, 0);
            for (block, out) in (first..).zip(payload.chunks_exact_mut(BLOCK_BYTES)) {
                let version = self.outcome.ledger.next_version();
                self.outcome.ledger.fill(block, version, out);
                versions.push(version);
            }
        }
        let command = if is_read { Command::Read } else { Command::Write };
        let length = u32::try_from(blocks * BLOCK_BYTES_U64)?;
        let flight = Flight {
            sent: Instant::now(),
            first,
            versions,
            blocks,
        };
        match self.client.send(command, 0, first * BLOCK_BYTES_U64, length, &payload) {
            Ok(cookie) => {
                self.busy.extend(first..first + blocks);
                self.flights.insert(cookie, flight);
                Ok(())
            }
            Err(error) => {
                // Part of it may have reached the server.
                self.leave_open(&flight);
                Err(error)
            }
        }
    }

    fn take(&mut self, reply: &Reply) -> Result<()> {
        let flight = self
            .flights
            .remove(&reply.cookie)
            .ok_or_else(|| anyhow!("a reply that nobody asked for"))?;
        self.outcome.samples.note(flight.sent);
        self.answered.fetch_add(1, Ordering::Relaxed);
        for block in flight.first..flight.first + flight.blocks {
            self.busy.remove(&block);
        }
        if reply.error != 0 {
            self.leave_open(&flight);
            self.outcome.failure.get_or_insert(Failure::Refused(reply.error));
            return Ok(());
        }
        for (block, version) in (flight.first..).zip(&flight.versions) {
            self.outcome.ledger.acknowledge(block, *version);
        }
        for (block, data) in (flight.first..).zip(reply.data.chunks_exact(BLOCK_BYTES)) {
            self.outcome.compared += 1;
            if let Err(reason) = self.outcome.ledger.check(block, data) {
                self.outcome.mismatches.push(reason);
            }
        }
        Ok(())
    }

    fn leave_open(&mut self, flight: &Flight) {
        for (block, version) in (flight.first..).zip(&flight.versions) {
            self.outcome.ledger.leave_open(block, *version);
        }
    }
}
