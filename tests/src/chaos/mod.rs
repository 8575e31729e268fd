//! Faults on real processes: real engines with real io_uring, each in a network of its own, under a recorded load.
//!
//! # What is done
//! A run is made of rounds, each with a seed of its own: a new cluster of three engines, two volumes under load by several
//! NBD clients at once (writers through one engine, readers through every engine), a plan of faults drawn from the seed,
//! and a last check. Engines are killed, stopped, restarted; cut off from peers or clients, both ways or one way; links lose
//! packets or clog; disks are filled and corrupted; volumes change hands with requests in flight.
//!
//! # What is checked
//! - Every answer that any client ever got goes through the history that also judges the simulator: per sector, no
//!   acknowledged write is lost, no value is seen that could not be there, none is seen and then gone.
//! - No engine ends by itself. One whose log was damaged refuses its disk by name, and stays out.
//! - Once everything is healed each volume serves again in bounded time, and no request stays without an answer.
//! - In the end every replica, as the leader of its volume, returns exactly what the history says, and all the same.
//!
//! # What is not
//! The plan follows from the seed, but real time does not: the same seed does the same things to the engines, yet not at the
//! same instruction. What a power failure does to a disk's volatile cache is the simulator's affair: a killed process
//! loses nothing that the kernel has.

mod client;
mod damage;
mod director;
mod figures;
mod filler;
mod finale;
mod load;
mod plan;
mod recorder;
mod round;
mod stage;
mod storm;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

pub use figures::{Figures, OfKind};
pub use plan::Kind;

use crate::binaries::Binaries;
use crate::net::Fabric;

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The first round's seed; each further round has the next.
    pub seed: u64,
    /// How long to go on; the round that is under way then is finished.
    pub time: Duration,
    /// How long each round has its faults.
    pub round: Duration,
    /// Whether what happened is told of rounds in which nothing was wrong, too.
    pub story: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            time: Duration::from_secs(180),
            round: Duration::from_secs(45),
            story: false,
        }
    }
}

/// Runs rounds until the time is over or something is wrong. `tell` is given a line of progress now and then.
pub fn run(binaries: &Binaries, options: &Options, mut tell: impl FnMut(&str) + Send) -> Result<Figures> {
    let start = Instant::now();
    let mut figures = Figures::default();
    let mut slowest = Duration::ZERO;
    let mut seed = options.seed;
    // A round that could not end in time is not begun, but one there is.
    while figures.rounds == 0 || start.elapsed() + slowest < options.time {
        let began = Instant::now();
        thread::scope(|scope| {
            let work = || {
                let fabric = Arc::new(Fabric::new(round::ENGINES)?);
                // This thread only: whoever called stays where he is.
                fabric.enter()?;
                round::run(binaries, &fabric, seed, options, &mut figures, &mut tell)
            };
            let done = scope.spawn(work).join();
            done.map_err(|_| anyhow!("the round's thread panicked"))?
        })
        .with_context(|| format!("seed {seed}"))?;
        slowest = slowest.max(began.elapsed());
        seed += 1;
    }
    figures.took = start.elapsed();
    Ok(figures)
}
