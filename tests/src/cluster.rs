//! A cluster of real engines in one directory, on loopback, torn down when it is dropped.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::binaries::Binaries;
use crate::command::{Ran, Tool};
use crate::config::{Config, Tls};
use crate::engine::Engine;
use crate::nbd::Client;
use crate::net::Fabric;
use crate::{ports, wait};

/// How long a cluster may take to come up. Generous: a loaded machine in CI formats and recovers slowly.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What the cluster looks like.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// How many engines; their names are a, b, c, ...
    pub engines: usize,
    /// The size of each engine's disk file.
    pub disk_bytes: u64,
    /// Where it lives; a fresh directory below the target directory if not set.
    pub dir: Option<PathBuf>,
    /// Engines, by index, whose gateway leaves leadership where it is.
    pub keep_leadership: Vec<usize>,
    /// TLS on every engine's NBD port.
    pub tls: Option<Tls>,
    /// A network of its own, with room for every engine; loopback if not set. Whoever talks to the engines then does so
    /// from a thread that has entered it.
    pub fabric: Option<Arc<Fabric>>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            engines: 3,
            disk_bytes: 512 << 20,
            dir: None,
            keep_leadership: Vec::new(),
            tls: None,
            fabric: None,
        }
    }
}

/// Three engines (or as many as asked for), formatted, started and joined.
#[derive(Debug)]
pub struct Cluster {
    /// The engines, in the order of their names.
    pub engines: Vec<Engine>,
    dir: PathBuf,
    binaries: Binaries,
    keep: bool,
}

impl Cluster {
    /// Formats the disks, starts the engines and makes them one cluster.
    pub fn start(binaries: &Binaries, options: &ClusterOptions) -> Result<Self> {
        let mut cluster = Self::prepare(binaries, options)?;
        cluster.found(options.disk_bytes)?;
        Ok(cluster)
    }

    /// Formats the disks of a cluster that was prepared, starts the engines and makes them one cluster.
    pub fn found(&mut self, disk_bytes: u64) -> Result<()> {
        for index in 0..self.engines.len() {
            self.format(index, disk_bytes)?;
        }
        self.start_engines()?;
        self.init()?;
        self.wait_ready()
    }

    /// The directories and the configuration of a cluster, nothing formatted or running yet.
    pub fn prepare(binaries: &Binaries, options: &ClusterOptions) -> Result<Self> {
        let dir = match &options.dir {
            Some(dir) => dir.clone(),
            None => scratch_dir("cluster")?,
        };
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut engines = Vec::new();
        for index in 0..options.engines {
            engines.push(Engine::new(binaries, &dir, configure(&dir, index, options)?));
        }
        Ok(Self {
            engines,
            dir,
            binaries: binaries.clone(),
            keep: false,
        })
    }

    /// Formats the disk of one engine.
    pub fn format(&self, index: usize, bytes: u64) -> Result<()> {
        for disk in &self.engines[index].config.disks {
            let args = [
                "disk",
                "format",
                &disk.display().to_string(),
                "--size",
                &bytes.to_string(),
            ];
            Tool::new(&self.binaries.cli)
                .args(args)
                .timeout(Duration::from_secs(300))
                .ok()?;
        }
        Ok(())
    }

    /// Starts all engines that do not run.
    pub fn start_engines(&mut self) -> Result<()> {
        for engine in &mut self.engines {
            if !engine.is_running()? {
                engine.start()?;
            }
        }
        self.engines
            .iter_mut()
            .try_for_each(|engine| engine.wait_healthy(START_LIMIT))
    }

    /// Joins the engines into one cluster.
    pub fn init(&self) -> Result<()> {
        let addresses: Vec<String> = self.engines.iter().map(Engine::control_address).collect();
        let args = ["cluster", "init", "--name", "test", "--engine", &addresses.join(",")];
        Tool::new(&self.binaries.cli).args(args).timeout(START_LIMIT).ok()?;
        Ok(())
    }

    /// Adds a new engine with an empty disk to the cluster that runs, and returns its index.
    pub fn add_engine(&mut self, options: &ClusterOptions) -> Result<usize> {
        let index = self.engines.len();
        let members: Vec<usize> = (0..index).collect();
        let config = configure(&self.dir, index, options)?;
        self.engines.push(Engine::new(&self.binaries, &self.dir, config));
        self.format(index, options.disk_bytes)?;
        self.engines[index].start()?;
        self.engines[index].wait_healthy(START_LIMIT)?;
        let address = self.engines[index].control_address();
        let add = self.cairn_to(&members).args(["cluster", "add", &address]);
        add.timeout(START_LIMIT).ok()?;
        self.engines[index].wait_ready(START_LIMIT)?;
        Ok(index)
    }

    /// The id of an engine's only disk that the cluster counts on, as the cluster knows it.
    pub fn disk_id(&self, engine: usize) -> Result<String> {
        let disks = self.json(&["disk", "list"])?;
        let name = &self.engines[engine].config.name;
        let disks = disks["disks"].as_array().context("no disks")?;
        let own = disks
            .iter()
            .find(|disk| disk["node"] == **name && disk["state"] != "removed");
        let id = own.and_then(|disk| disk["disk_id"].as_str());
        id.map(str::to_owned)
            .with_context(|| format!("no disk of {name}: {disks:?}"))
    }

    /// Waits until every running engine serves.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.engines
            .iter_mut()
            .try_for_each(|engine| engine.wait_ready(START_LIMIT))
    }

    /// Where the cluster keeps its files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Leaves the directory in place when the cluster is dropped.
    pub fn keep_files(&mut self) {
        self.keep = true;
    }

    /// The binaries it runs.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The `cairn` command, told the addresses of all engines.
    pub fn cairn(&self) -> Tool {
        self.cairn_to(&(0..self.engines.len()).collect::<Vec<_>>())
    }

    /// The `cairn` command, told the addresses of these engines.
    pub fn cairn_to(&self, engines: &[usize]) -> Tool {
        let mut tool = Tool::new(&self.binaries.cli);
        for index in engines {
            tool = tool.args(["--engine", &self.engines[*index].control_address()]);
        }
        tool
    }

    /// Runs `cairn` with `args` and `-o json`.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        self.cairn().args(args).args(["-o", "json"]).ok()?.json()
    }

    /// Creates a volume with three replicas (one if there is but one engine) and waits until it can be used.
    pub fn create_volume(&self, name: &str, bytes: u64) -> Result<()> {
        let replicas = if self.engines.len() >= 3 { "3" } else { "1" };
        self.cairn()
            .args([
                "volume",
                "create",
                name,
                "--size",
                &bytes.to_string(),
                "--replicas",
                replicas,
            ])
            .ok()
            .with_context(|| format!("creating volume {name}"))?;
        wait::until(&format!("volume {name} is healthy"), START_LIMIT, || {
            let volume = self.volume(name)?;
            match volume["health"].as_str() {
                Some("healthy") => Ok(()),
                other => bail!("its health is {other:?}"),
            }
        })
    }

    /// A volume as `cairn volume show -o json` tells it.
    pub fn volume(&self, name: &str) -> Result<Value> {
        self.json(&["volume", "show", name])
    }

    /// The index of the engine that leads the volume.
    pub fn leader(&self, name: &str) -> Result<usize> {
        wait::until(&format!("volume {name} has a leader"), Duration::from_secs(20), || {
            let volume = self.volume(name)?;
            let leader = volume["leader"].as_str().unwrap_or_default().to_owned();
            self.engines
                .iter()
                .position(|engine| engine.config.name == leader)
                .context("no leader is known")
        })
    }

    /// Sees to it that `gateway` does not lead the volume: while it is used through another engine, leadership moves there.
    pub fn lead_elsewhere(&self, name: &str, gateway: usize) -> Result<()> {
        if self.leader(name)? != gateway {
            return Ok(());
        }
        let other = usize::from(gateway == 0);
        let mut client = Client::connect(&self.engines[other].nbd_tcp(), name)?;
        wait::until(
            &format!("leadership of {name} moves off the gateway"),
            START_LIMIT,
            || {
                client.write(0, &[0; 4096])?;
                ensure!(self.leader(name)? != gateway, "the gateway leads");
                Ok(())
            },
        )?;
        client.disconnect()?;
        wait::until(&format!("{name} is given back"), START_LIMIT, || {
            let volume = self.volume(name)?;
            ensure!(volume["attached_to"].is_null(), "{} holds it", volume["attached_to"]);
            Ok(())
        })
    }

    /// Runs `cairn` with `args`, whatever its exit code.
    pub fn run(&self, args: &[&str]) -> Result<Ran> {
        self.cairn().args(args).run()
    }

    /// Where everything is and how the logs end, for a failure's message.
    pub fn story(&self) -> String {
        format!(
            "the cluster's files are in {}\n{}",
            self.dir.display(),
            self.log_tails(25)
        )
    }

    /// The ends of all logs, for a failure's message.
    pub fn log_tails(&self, lines: usize) -> String {
        let tail = |engine: &Engine| format!("--- {}\n{}\n", engine.log_path().display(), engine.log_tail(lines));
        self.engines.iter().map(tail).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            eprintln!("{}", self.story());
        }
        self.engines.clear();
        if !self.keep && !failed {
            // A file that cannot be removed is only untidy.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Runs a test on a cluster of its own. If it fails, its files stay, and the error says where and how the logs end.
pub fn with_fresh(options: &ClusterOptions, work: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    let mut cluster = Cluster::start(&Binaries::for_tests()?, options)?;
    let result = work(&mut cluster);
    if result.is_err() {
        cluster.keep_files();
    }
    result.with_context(|| cluster.story())
}

/// Runs a test on the cluster that all tests of this process share. It ends with the process.
pub fn with_shared(work: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
    let start = || {
        let options = ClusterOptions {
            disk_bytes: 1 << 30,
            ..ClusterOptions::default()
        };
        Cluster::start(&Binaries::for_tests()?, &options)
    };
    let shared = SHARED.get_or_init(|| start().map_err(|error| format!("{error:#}")));
    let cluster = shared
        .as_ref()
        .map_err(|error| anyhow!("the shared cluster did not start: {error}"))?;
    work(cluster).with_context(|| cluster.story())
}

/// A fresh directory on the disk that holds the build, which is a real filesystem where `/tmp` may be memory.
pub fn scratch_dir(purpose: &str) -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let exe = std::env::current_exe()?;
    let target = exe
        .ancestors()
        .find(|dir| dir.ends_with("target"))
        .map_or_else(std::env::temp_dir, Path::to_path_buf);
    sweep(&target.join("cairn"));
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // Short: a unix socket's path, which lies below, may have 107 bytes.
    let dir = target
        .join("cairn")
        .join(format!("{purpose}-{}-{number}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// Removes what processes that are gone have left below `dir`: each directory's name holds its process's id.
fn sweep(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(pid) = name.rsplit('-').nth(1).and_then(|pid| pid.parse::<u32>().ok()) else {
            continue;
        };
        if !Path::new(&format!("/proc/{pid}")).exists() {
            // Another test may be sweeping too; what is gone is gone.
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn configure(dir: &Path, index: usize, options: &ClusterOptions) -> Result<Config> {
    let letter = u8::try_from(index)
        .ok()
        .and_then(|index| b'a'.checked_add(index))
        .context("too many engines")?;
    let name = char::from(letter).to_string();
    let fabric = options.fabric.as_ref();
    Ok(Config {
        address: fabric.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |fabric| fabric.address(index)),
        namespace: fabric.map(|fabric| fabric.namespace(index)),
        data_dir: dir.join(format!("{name}.d")),
        control: ports::free()?,
        data: ports::free()?,
        data_advertised: None,
        master_keys: None,
        flatten_rate: None,
        nbd: ports::free()?,
        socket: dir.join(format!("{name}.sock")),
        metrics: ports::free()?,
        disks: vec![dir.join(format!("{name}.disk"))],
        move_leadership: !options.keep_leadership.contains(&index),
        tls: options.tls.clone(),
        name,
    })
}
