//! One engine: a real process that can be killed, stopped, continued, terminated and started again.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::binaries::Binaries;
use crate::config::Config;
use crate::metrics;
use crate::nbd::Address;
use crate::wait;

/// An engine and the files it lives on.
#[derive(Debug)]
pub struct Engine {
    /// What it is told; changes take effect when it is started again.
    pub config: Config,
    binaries: Binaries,
    config_path: PathBuf,
    log_path: PathBuf,
    child: Option<Child>,
    /// Whether it outlives this process.
    detached: bool,
}

impl Engine {
    /// An engine that is not running yet, with its configuration and log in `dir`.
    pub fn new(binaries: &Binaries, dir: &Path, config: Config) -> Self {
        let config_path = dir.join(format!("{}.toml", config.name));
        let log_path = dir.join(format!("{}.log", config.name));
        Self {
            config,
            binaries: binaries.clone(),
            config_path,
            log_path,
            child: None,
            detached: false,
        }
    }

    /// Starts the process. The log is appended to, so that it tells the whole story of a test.
    pub fn start(&mut self) -> Result<()> {
        if self.is_running()? {
            bail!("engine {} is already running", self.config.name);
        }
        fs::create_dir_all(&self.config.data_dir)?;
        fs::write(&self.config_path, self.config.to_toml())?;
        let log = OpenOptions::new().create(true).append(true).open(&self.log_path)?;
        self.child = Some(spawn(self.command(log)?)?);
        Ok(())
    }

    fn command(&self, log: File) -> Result<Command> {
        // `setpriv --pdeathsig` becomes the engine by exec, so the pid stays. The engine dies with the test process, however
        // that ends: a killed test never leaves a cluster behind.
        let setpriv = Path::new("/usr/bin/setpriv");
        let mut words: Vec<OsString> = Vec::new();
        if let Some(namespace) = &self.config.namespace {
            // It becomes the next program by exec as well.
            words.push("nsenter".into());
            words.push(format!("--net={}", namespace.display()).into());
            words.push("--".into());
        }
        if setpriv.exists() && !self.detached {
            words.extend([setpriv.into(), "--pdeathsig".into(), "KILL".into(), "--".into()]);
        }
        words.push(self.binaries.engine.clone().into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.arg("--config").arg(&self.config_path);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if self.detached {
            // Out of the terminal's foreground group, so that ctrl-c for something else does not reach it.
            command.process_group(0);
        }
        Ok(command)
    }

    /// From its next start on, the engine outlives this process.
    pub fn detach(&mut self) {
        self.detached = true;
    }

    /// Waits until the engine says on `/readyz` that it serves. Fails at once if the process has ended.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        self.wait_for_page("/readyz", limit)
    }

    /// Waits until the engine answers on `/healthz`: it runs, but may belong to no cluster yet.
    pub fn wait_healthy(&mut self, limit: Duration) -> Result<()> {
        self.wait_for_page("/healthz", limit)
    }

    fn wait_for_page(&mut self, path: &str, limit: Duration) -> Result<()> {
        let name = self.config.name.clone();
        let start = Instant::now();
        loop {
            if let Some(status) = self.exit_status()? {
                bail!("engine {name} ended with {status}\n{}", self.log_tail(20));
            }
            let reason = match metrics::get(self.config.at(self.config.metrics), path) {
                Ok((200, _)) => return Ok(()),
                Ok((code, body)) => format!("{path} answers {code}: {}", body.trim()),
                Err(error) => format!("{error:#}"),
            };
            if start.elapsed() > limit {
                bail!(
                    "engine {name} is not up after {limit:?}: {reason}\n{}",
                    self.log_tail(20)
                );
            }
            thread::sleep(Duration::from_millis(30));
        }
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Result<u32> {
        self.child
            .as_ref()
            .map(Child::id)
            .with_context(|| format!("engine {} is not running", self.config.name))
    }

    /// Whether the process is there (it may be stopped).
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.is_some() && self.exit_status()?.is_none())
    }

    /// How the process ended, if it has.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid()?)?);
        kill(pid, signal).with_context(|| format!("{signal} to engine {}", self.config.name))
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait_exit(Duration::from_secs(10)).map(|_| ())
    }

    /// SIGSTOP: the process keeps its sockets and does nothing.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// SIGTERM, and how long the engine took to end.
    pub fn terminate(&mut self, limit: Duration) -> Result<(ExitStatus, Duration)> {
        let start = Instant::now();
        self.signal(Signal::SIGTERM)?;
        let status = self.wait_exit(limit)?;
        Ok((status, start.elapsed()))
    }

    /// Waits for the process to end by itself.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let name = self.config.name.clone();
        let child = self
            .child
            .as_mut()
            .with_context(|| format!("engine {name} is not running"))?;
        let status = wait::until(&format!("engine {name} ends"), limit, || {
            child.try_wait()?.context("it still runs")
        })?;
        self.child = None;
        Ok(status)
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log_path).unwrap_or_default()
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Where its configuration file is.
    pub fn config_path(&self) -> &Path {
        &self.config_path
    }

    /// Where its log is.
    pub fn log_path(&self) -> &Path {
        &self.log_path
    }

    /// The control API's address, for `cairn --engine`.
    pub fn control_address(&self) -> String {
        self.config.at(self.config.control).to_string()
    }

    /// The NBD server over TCP.
    pub fn nbd_tcp(&self) -> Address {
        Address::Tcp(self.config.at(self.config.nbd))
    }

    /// The NBD server on its unix socket.
    pub fn nbd_unix(&self) -> Address {
        Address::Unix(self.config.socket.clone())
    }

    /// An NBD URI for other people's clients, over TCP.
    pub fn uri(&self, volume: &str) -> String {
        format!("nbd://{}/{volume}", self.config.at(self.config.nbd))
    }

    /// An NBD URI for other people's clients, over the unix socket.
    pub fn unix_uri(&self, volume: &str) -> String {
        format!("nbd+unix:///{volume}?socket={}", self.config.socket.display())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take().filter(|_| !self.detached) {
            // It may have ended already; then there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

type Spawned = std::io::Result<Child>;

/// Spawns from one thread that lives as long as this process. The death signal of [`Engine::command`] fires when the
/// *thread* that spawned ends, and a test's own thread ends before a cluster that tests share.
fn spawn(command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<Sender<(Command, Sender<Spawned>)>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, receiver) = channel::<(Command, Sender<Spawned>)>();
        thread::spawn(move || {
            for (mut command, answer) in receiver {
                // The asker waits for the answer, so it is there to take it.
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });
    let program = command.get_program().to_string_lossy().into_owned();
    let (answer, spawned) = channel();
    spawner
        .send((command, answer))
        .ok()
        .context("the spawning thread is gone")?;
    spawned.recv()?.with_context(|| format!("cannot start {program}"))
}
