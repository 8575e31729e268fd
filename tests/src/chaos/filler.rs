//! Fills one engine's disk: a volume with a single replica, written until there is no space.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cluster::Cluster;
use crate::command::Tool;
use crate::nbd::{Address, Client, Command, Dialect, wire};
use crate::net::Fabric;
use crate::wait;

const VOLUME: &str = "filler";
/// Larger than any disk of a round: thin, so that it costs nothing before it is written.
const BYTES: u64 = 64 << 30;
/// Bytes of one write.
const WRITE_BYTES: u32 = 1 << 20;
/// The volume must be there by then, whatever else is wrong: the control API needs a majority.
const CREATE_MAX: Duration = Duration::from_secs(40);

/// A volume being filled, and the engine that has its replica once that is known.
pub(super) struct Filler {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    /// The engine whose disk is full.
    full: Arc<Mutex<Option<usize>>>,
    /// The engine that is being filled.
    target: Arc<Mutex<Option<usize>>>,
}

struct Worker {
    stop: Arc<AtomicBool>,
    full: Arc<Mutex<Option<usize>>>,
    target: Arc<Mutex<Option<usize>>>,
    gateways: Vec<Address>,
    names: Vec<String>,
    cli: std::path::PathBuf,
    controls: Vec<String>,
}

impl Filler {
    pub(super) fn start(cluster: &Cluster, fabric: Arc<Fabric>) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let full = Arc::new(Mutex::new(None));
        let target = Arc::new(Mutex::new(None));
        let worker = Worker {
            stop: Arc::clone(&stop),
            full: Arc::clone(&full),
            target: Arc::clone(&target),
            gateways: cluster.engines.iter().map(crate::Engine::nbd_tcp).collect(),
            names: cluster
                .engines
                .iter()
                .map(|engine| engine.config.name.clone())
                .collect(),
            cli: cluster.binaries().cli.clone(),
            controls: cluster.engines.iter().map(crate::Engine::control_address).collect(),
        };
        let thread = thread::Builder::new().name("filler".to_owned()).spawn(move || {
            if fabric.enter().is_err() {
                return;
            }
            while !worker.stop.load(Ordering::SeqCst) {
                // Faults go on meanwhile: it tries until it is told to stop.
                if let Ok(engine) = worker.fill() {
                    *worker.full.lock().unwrap_or_else(PoisonError::into_inner) = Some(engine);
                    return;
                }
                thread::sleep(Duration::from_millis(100));
            }
        })?;
        Ok(Self {
            thread,
            stop,
            full,
            target,
        })
    }

    /// Goes on filling for at most `limit` more, then stops. Says which engine was being filled, if that is known, and
    /// whether it is full.
    pub(super) fn finish(self, limit: Duration) -> (Option<usize>, bool) {
        // Whether it has ended is all that is asked for here.
        let _ = wait::until("the disk is full", limit, || {
            self.thread.is_finished().then_some(()).context("not yet")
        });
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.join();
        let full = *self.full.lock().unwrap_or_else(PoisonError::into_inner);
        let target = *self.target.lock().unwrap_or_else(PoisonError::into_inner);
        (full.or(target), full.is_some())
    }
}

impl Worker {
    fn cairn(&self, args: &[&str]) -> Tool {
        let mut tool = Tool::new(&self.cli).timeout(CREATE_MAX);
        for control in &self.controls {
            tool = tool.args(["--engine", control]);
        }
        tool.args(args)
    }

    fn fill(&self) -> Result<usize> {
        let bytes = BYTES.to_string();
        self.cairn(&["volume", "create", VOLUME, "--size", &bytes, "--replicas", "1"])
            .ok()?;
        let volume = self.cairn(&["volume", "show", VOLUME, "-o", "json"]).ok()?.json()?;
        let node = volume["replicas"][0]["node"]
            .as_str()
            .context("a volume without a replica")?;
        let engine = self
            .names
            .iter()
            .position(|name| name == node)
            .context("a replica nowhere")?;
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = Some(engine);
        let dialect = Dialect {
            structured: false,
            timeout: Duration::from_secs(10),
        };
        let mut client = Client::connect_as(&self.gateways[engine], VOLUME, dialect)?;
        let payload = vec![0xA5; usize::try_from(WRITE_BYTES)?];
        let mut offset = 0;
        while !self.stop.load(Ordering::SeqCst) {
            // From the beginning again after a fault: the log keeps every write, whatever it overwrites.
            let reply = client.call(Command::Write, offset, WRITE_BYTES, &payload)?;
            match reply.error {
                0 => offset = (offset + u64::from(WRITE_BYTES)) % BYTES,
                wire::ENOSPC => return Ok(engine),
                error => bail!("filling ended with error {error}"),
            }
        }
        bail!("told to stop")
    }
}
