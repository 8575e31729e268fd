//! The engines as child processes: started in process groups of their own (so that the terminal's ctrl-c reaches this
//! program only, which then stops them in order), watched, started again if wished, and stopped.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::layout::EnginePlan;
use super::{Signals, pidfile};
use crate::error::CliError;
use crate::output::remark;

/// How long engines get to hand over and stop; they promise to need less than 10 s.
const STOP_TIME: Duration = Duration::from_secs(12);
/// The pause before an engine that died is started again.
const REVIVAL_PAUSE: Duration = Duration::from_secs(1);
/// An engine that dies sooner than this after its start never worked.
const LIFE_MIN: Duration = Duration::from_secs(5);
/// So many lives without work in a row, and it is not started again.
const FUTILE_LIVES_MAX: u32 = 5;
/// Bytes from the end of a log that are searched for an engine's last words.
const LOG_TAIL_BYTES: u64 = 4096;

/// The end of an engine's process.
pub(super) struct Death {
    index: usize,
    pub(super) name: String,
    pub(super) how: String,
    pub(super) log: PathBuf,
    pub(super) last_words: String,
}

struct Member {
    plan: EnginePlan,
    /// Its process, while there is one.
    pid: Option<u32>,
    started: Instant,
    /// When to start it again.
    revival: Option<Instant>,
    futile_lives: u32,
}

/// All engines.
pub(super) struct Fleet {
    program: PathBuf,
    members: Vec<Member>,
    ends: JoinSet<(usize, io::Result<ExitStatus>)>,
}

impl Fleet {
    /// Starts every engine.
    pub(super) fn start(program: &Path, plans: &[EnginePlan]) -> Result<Self, CliError> {
        let mut fleet = Self {
            program: program.to_owned(),
            members: Vec::with_capacity(plans.len()),
            ends: JoinSet::new(),
        };
        for plan in plans {
            fleet.members.push(Member {
                plan: plan.clone(),
                pid: None,
                started: Instant::now(),
                revival: None,
                futile_lives: 0,
            });
        }
        for index in 0..fleet.members.len() {
            // The children of a fleet that is dropped half-way are killed with it: see `kill_on_drop`.
            fleet.spawn(index)?;
        }
        Ok(fleet)
    }

    fn spawn(&mut self, index: usize) -> Result<u32, CliError> {
        let member = &mut self.members[index];
        let plan = &member.plan;
        let failed = |error: io::Error| {
            CliError::failed(
                format!(
                    "engine {} cannot be started with '{}': {error}",
                    plan.name,
                    self.program.display()
                ),
                "",
            )
        };
        let log = File::options()
            .create(true)
            .append(true)
            .open(&plan.log)
            .map_err(failed)?;
        let mut child = Command::new(&self.program)
            .arg("--config")
            .arg(&plan.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let pid = child.id().unwrap_or_default();
        pidfile::write(plan, pid);
        member.pid = Some(pid);
        member.started = Instant::now();
        member.revival = None;
        self.ends.spawn(async move { (index, child.wait().await) });
        Ok(pid)
    }

    /// The process of an engine, while it has one.
    pub(super) fn pid(&self, index: usize) -> Option<u32> {
        self.members[index].pid
    }

    /// Waits for an engine to end. Never returns while none runs.
    pub(super) async fn next_death(&mut self) -> Death {
        let (index, status) = loop {
            match self.ends.join_next().await {
                Some(Ok(end)) => break end,
                // A watcher that failed has lost its child; the others still watch theirs.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        };
        let member = &mut self.members[index];
        member.pid = None;
        pidfile::remove(&member.plan);
        Death {
            index,
            name: member.plan.name.clone(),
            how: status.map_or_else(|error| error.to_string(), how_it_ended),
            log: member.plan.log.clone(),
            last_words: last_line(&member.plan.log),
        }
    }

    /// Says that an engine died, and decides whether it gets another life.
    pub(super) fn bury(&mut self, death: &Death, restart: bool) -> Result<(), CliError> {
        let member = &mut self.members[death.index];
        let futile = member.started.elapsed() < LIFE_MIN;
        member.futile_lives = if futile { member.futile_lives + 1 } else { 0 };
        let died = format!("engine {} ended ({})", death.name, death.how);
        if !restart {
            let by_hand = format!("{} --config {}", self.program.display(), member.plan.config.display());
            remark(&format!(
                "{died}; --restart would start it again, or by hand: {by_hand}"
            ));
        } else if member.futile_lives >= FUTILE_LIVES_MAX {
            remark(&format!(
                "{died} for the {FUTILE_LIVES_MAX}th time in a row and is left alone; see {}",
                death.log.display()
            ));
        } else {
            remark(&format!("{died}; it is started again"));
            member.revival = Some(Instant::now() + REVIVAL_PAUSE);
        }
        if self
            .members
            .iter()
            .all(|member| member.pid.is_none() && member.revival.is_none())
        {
            return Err(CliError::failed(
                format!("every engine has ended; the last was {} ({})", death.name, death.how),
                format!("see {}; the same command starts them again", death.log.display()),
            ));
        }
        Ok(())
    }

    /// When the next engine is due to be started again, if one is.
    pub(super) fn next_revival(&self) -> Option<Instant> {
        self.members.iter().filter_map(|member| member.revival).min()
    }

    /// Starts the engines that are due.
    pub(super) fn revive(&mut self) {
        let now = Instant::now();
        for index in 0..self.members.len() {
            if self.members[index].revival.is_none_or(|due| due > now) {
                continue;
            }
            match self.spawn(index) {
                Ok(pid) => remark(&format!(
                    "engine {} runs again as process {pid}",
                    self.members[index].plan.name
                )),
                Err(error) => {
                    remark(&error.report());
                    self.members[index].revival = Some(now + REVIVAL_PAUSE);
                }
            }
        }
    }

    /// Stops every engine: asks it to, waits, and kills what is left. A second signal shortens the wait.
    pub(super) async fn stop(&mut self, signals: &mut Signals) {
        for member in &mut self.members {
            member.revival = None;
        }
        self.signal_all(Signal::SIGTERM);
        // One that was stopped with SIGSTOP could not obey.
        self.signal_all(Signal::SIGCONT);
        let deadline = Instant::now() + STOP_TIME;
        while self.members.iter().any(|member| member.pid.is_some()) {
            tokio::select! {
                _ = self.next_death() => {}
                () = signals.any() => break,
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        for member in self.members.iter().filter(|member| member.pid.is_some()) {
            remark(&format!("engine {} does not stop and is killed", member.plan.name));
        }
        self.signal_all(Signal::SIGKILL);
        while self.members.iter().any(|member| member.pid.is_some()) {
            self.next_death().await;
        }
    }

    /// Signals the processes that have not been waited for: their ids cannot belong to anybody else yet.
    fn signal_all(&self, signal: Signal) {
        for pid in self
            .members
            .iter()
            .filter_map(|member| member.pid)
            .filter_map(|pid| i32::try_from(pid).ok())
        {
            // It may have ended meanwhile, which is what is wanted.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

/// Waits until `due`; for ever if there is nothing due.
pub(super) async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn how_it_ended(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(number), _) => {
            Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |signal| signal.to_string())
        }
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => status.to_string(),
    }
}

/// The last line of a log that says something.
fn last_line(log: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let tail = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = fs::metadata(log)?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = tail().unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or_default()
        .to_owned()
}
