//! The clients of a round: their threads, and their end.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use cairn_history::rng::Rng;

use super::client::{Client, Role};
use super::stage::Stage;

/// Writing connections to each volume; one more reads it through each engine.
const WRITERS: usize = 2;
/// How long the clients may take to leave once everything is healed: their last answers must come.
const LEAVE_MAX: Duration = Duration::from_secs(40);

/// Clients at work.
pub(super) struct Load {
    stage: Arc<Stage>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Load {
    /// Starts all clients of all volumes.
    pub(super) fn start(stage: &Arc<Stage>, seed: u64) -> Result<Self> {
        let mut rng = Rng::new(seed ^ 0x4C4F_4144);
        let mut threads = Vec::new();
        for volume in 0..stage.volumes.len() {
            let readers = (0..stage.gateways.len()).map(Role::Reader);
            for role in std::iter::repeat_n(Role::Writer, WRITERS).chain(readers) {
                let client = Client::new(Arc::clone(stage), volume, role, rng.draw());
                let name = format!("client-{}", threads.len());
                threads.push(thread::Builder::new().name(name).spawn(move || client.run())?);
            }
        }
        Ok(Self {
            stage: Arc::clone(stage),
            threads,
        })
    }

    /// Waits for the last answers. Everything must be healed.
    pub(super) fn finish(self) -> Result<()> {
        self.stage.drain();
        let start = Instant::now();
        while let Some(waiting) = self.waiting() {
            if start.elapsed() > LEAVE_MAX {
                bail!("{waiting} clients have no answer to their last requests after {LEAVE_MAX:?} without a fault");
            }
            thread::sleep(Duration::from_millis(20));
        }
        for thread in self.threads {
            thread
                .join()
                .map_err(|_| anyhow!("a client's thread panicked"))?
                .context("a client cannot work")?;
        }
        Ok(())
    }

    fn waiting(&self) -> Option<usize> {
        let count = self.threads.iter().filter(|thread| !thread.is_finished()).count();
        (count > 0).then_some(count)
    }

    /// A client that has ended before it was told to, because its thread could not work.
    pub(super) fn has_failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }
}
