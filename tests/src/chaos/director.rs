//! Carries out a plan: begins each fault in its time, ends it, and keeps account of what is up, down and damaged.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cairn_history::rng::Rng;
use nix::sys::signal::Signal;

use super::damage;
use super::figures::{Figures, Window};
use super::filler::Filler;
use super::plan::{Episode, Kind, Plan, Victim};
use super::stage::Stage;
use super::storm;
use crate::cluster::Cluster;

/// A holder that sleeps for less has its volume taken by force; after more it counts as gone anyhow.
const WITHOUT_FORCE_MIN: Duration = Duration::from_millis(6_500);
/// How long an answer may take to the question who leads.
const LEADER_ASKED_MAX: Duration = Duration::from_millis(1_500);
/// How often the director looks whether an engine has ended.
const GLANCE: Duration = Duration::from_millis(50);
/// An act that is later than this puts off all that follow.
const LATE_MAX: Duration = Duration::from_millis(500);
/// How long an engine may take to end after SIGTERM, whatever else is wrong.
const END_MAX: Duration = Duration::from_secs(20);
/// How long an engine may take to refuse a damaged disk.
const REFUSAL_MAX: Duration = Duration::from_secs(30);
/// What an engine says of a disk that has lost acknowledged data.
const REFUSAL: &str = "has lost data that it had acknowledged";
/// Payload blocks that one fault corrupts, at most.
const ROT_BLOCKS_MAX: u64 = 48;

/// What an engine's process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Process {
    Up,
    /// SIGSTOP.
    Paused,
    /// SIGTERM was sent.
    Ending,
    Down,
    /// Its disk is damaged, and it has refused it: it stays out.
    Out,
}

/// What is to be done at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Begin(usize),
    End(usize),
}

/// A fault at work.
#[derive(Debug, Clone)]
pub(super) struct Active {
    pub(super) kind: Kind,
    /// The engines that it hits.
    pub(super) engines: Vec<usize>,
    pub(super) amount: u64,
    from: u64,
}

/// See the module.
pub(super) struct Director<'a> {
    pub(super) stage: &'a Arc<Stage>,
    pub(super) cluster: &'a mut Cluster,
    pub(super) plan: &'a Plan,
    pub(super) processes: Vec<Process>,
    active: BTreeMap<usize, Active>,
    agenda: BTreeMap<(Duration, u64), Act>,
    agenda_last: u64,
    pub(super) windows: Vec<Window>,
    pub(super) filler: Option<Filler>,
    errands: Vec<JoinHandle<()>>,
    rng: Rng,
    /// What happened, and when since the round's start.
    pub(super) story: Vec<(Duration, String)>,
    pub(super) figures: Figures,
}

impl<'a> Director<'a> {
    pub(super) fn new(stage: &'a Arc<Stage>, cluster: &'a mut Cluster, plan: &'a Plan, seed: u64) -> Self {
        let mut director = Self {
            stage,
            processes: vec![Process::Up; cluster.engines.len()],
            cluster,
            plan,
            active: BTreeMap::new(),
            agenda: BTreeMap::new(),
            agenda_last: 0,
            windows: Vec::new(),
            filler: None,
            errands: Vec::new(),
            rng: Rng::new(seed ^ 0x4449_5245),
            story: Vec::new(),
            figures: Figures::default(),
        };
        for (index, episode) in plan.episodes.iter().enumerate() {
            director.schedule(episode.at, Act::Begin(index));
        }
        director
    }

    fn schedule(&mut self, at: Duration, act: Act) {
        self.agenda_last += 1;
        self.agenda.insert((at, self.agenda_last), act);
    }

    /// Carries the plan out for so long; some faults may still be at work then.
    pub(super) fn run(&mut self, length: Duration, mut glance: impl FnMut(&Self) -> Result<()>) -> Result<()> {
        while self.stage.elapsed() < length {
            self.watch()?;
            glance(self)?;
            let now = self.stage.elapsed();
            self.put_off(now);
            match self.agenda.first_entry() {
                Some(entry) if entry.key().0 <= now => match entry.remove() {
                    Act::Begin(index) => self.begin(index)?,
                    Act::End(index) => self.end(index)?,
                },
                Some(entry) => thread::sleep((entry.key().0 - now).min(GLANCE)),
                None => thread::sleep(GLANCE),
            }
        }
        Ok(())
    }

    /// An act that took long, or a machine that stood still, must not make all that follows happen at once.
    fn put_off(&mut self, now: Duration) {
        let due = self.agenda.first_key_value().map_or(now, |((due, _), _)| *due);
        let late = now.saturating_sub(due);
        if late > LATE_MAX {
            let agenda = std::mem::take(&mut self.agenda).into_iter();
            self.agenda = agenda.map(|((due, number), act)| ((due + late, number), act)).collect();
        }
    }

    /// Looks for what must not be: a violation, or an engine that ended by itself.
    fn watch(&mut self) -> Result<()> {
        if let Some(violation) = self.stage.violation() {
            bail!("{violation}");
        }
        for index in 0..self.processes.len() {
            let status = match self.processes[index] {
                Process::Up | Process::Paused | Process::Ending => self.cluster.engines[index].exit_status()?,
                Process::Down | Process::Out => None,
            };
            let Some(status) = status else { continue };
            if self.processes[index] != Process::Ending {
                bail!("engine {} ended by itself with {status}", self.name(index));
            }
            // An engine that has just begun to start may not have come to minding signals yet, and has nothing to lose.
            if !status.success() && status.signal() != Some(Signal::SIGTERM as i32) {
                bail!("engine {} ended with {status} after SIGTERM", self.name(index));
            }
            self.cluster.engines[index].wait_exit(END_MAX)?;
            // Only now: until here a client's connection was one to the old process.
            self.stage.end_life(index);
            self.processes[index] = Process::Down;
            self.start(index)?;
        }
        Ok(())
    }

    fn name(&self, index: usize) -> String {
        self.cluster.engines[index].config.name.clone()
    }

    pub(super) fn tell(&mut self, what: &str) {
        self.story.push((self.stage.elapsed(), what.to_owned()));
    }

    fn begin(&mut self, index: usize) -> Result<()> {
        let episode = self.plan.episodes[index].clone();
        let engines = self.victims(&episode);
        let from = self.stage.now();
        let active = Active {
            kind: episode.kind,
            engines,
            amount: episode.amount,
            from,
        };
        let was_injected = self.inject(&episode, &active)?;
        self.figures.count(episode.kind, was_injected);
        let names: Vec<String> = active.engines.iter().map(|engine| self.name(*engine)).collect();
        let how = if was_injected { "" } else { " (skipped)" };
        self.tell(&format!(
            "{} [{}] of {} for {:?}{how}",
            episode.kind,
            names.join(" "),
            self.stage.volumes[episode.volume].name,
            episode.length
        ));
        if was_injected {
            self.active.insert(index, active);
            self.schedule(self.stage.elapsed() + episode.length, Act::End(index));
            self.blow()?;
        }
        Ok(())
    }

    /// The engines that an episode hits.
    fn victims(&self, episode: &Episode) -> Vec<usize> {
        let count = self.processes.len();
        let first = match episode.victim {
            Victim::Engine(index) => index,
            Victim::Holder(volume) => self.stage.volumes[volume].site(),
            Victim::Leader(volume) => self.leader(volume),
        };
        let first = match episode.kind {
            Kind::TakeOver => self.stage.volumes[episode.volume].site(),
            _ => first,
        };
        let second = (first + episode.step) % count;
        match episode.kind {
            Kind::KillTwo | Kind::PairCut | Kind::TakeOver => vec![first, second],
            Kind::KillAll | Kind::StopAll | Kind::LossEverywhere => (0..count).collect(),
            Kind::Rot => vec![self.plan.damaged],
            Kind::Disconnect | Kind::Detach | Kind::FillDisk => Vec::new(),
            Kind::Move => vec![second],
            _ => vec![first],
        }
    }

    /// Who leads a volume. Where leadership follows the writers, that need not be asked; and nobody may be able to tell.
    fn leader(&self, volume: usize) -> usize {
        let volume = &self.stage.volumes[volume];
        if !self.plan.keeps_leadership {
            return volume.site();
        }
        let tool = self
            .cluster
            .cairn()
            .args(["volume", "show", &volume.name, "-o", "json"]);
        let shown = tool.timeout(LEADER_ASKED_MAX).ok().and_then(|ran| ran.json());
        let leader = shown.ok().and_then(|shown| shown["leader"].as_str().map(str::to_owned));
        let engines = &self.cluster.engines;
        let index = leader.and_then(|name| engines.iter().position(|engine| engine.config.name == name));
        index.unwrap_or_else(|| volume.site())
    }

    /// Begins a fault. Says whether it could be.
    fn inject(&mut self, episode: &Episode, active: &Active) -> Result<bool> {
        let up: Vec<usize> = active
            .engines
            .iter()
            .copied()
            .filter(|engine| self.processes[*engine] == Process::Up)
            .collect();
        match episode.kind {
            Kind::Kill | Kind::KillTwo | Kind::KillAll => self.kill(&active.engines),
            Kind::Stop | Kind::StopAll => {
                for engine in &up {
                    self.cluster.engines[*engine].pause()?;
                    self.processes[*engine] = Process::Paused;
                }
                Ok(!up.is_empty())
            }
            Kind::Restart => {
                for engine in &up {
                    self.cluster.engines[*engine].signal(Signal::SIGTERM)?;
                    self.processes[*engine] = Process::Ending;
                }
                Ok(!up.is_empty())
            }
            Kind::TakeOver => self.take_over(episode, active),
            kind if storm::is_weather(kind) => Ok(!up.is_empty()),
            Kind::Disconnect => {
                self.stage.volumes[episode.volume].drop_connections();
                Ok(true)
            }
            Kind::Move => Ok(self.move_writers(episode.volume, active.engines[0])),
            Kind::Detach => self.detach(episode.volume),
            Kind::Rot => self.rot(active),
            Kind::BreakLog => self.break_log(active),
            Kind::FillDisk => {
                let network = Arc::clone(&self.stage.fabric);
                self.filler = Some(Filler::start(self.cluster, network)?);
                Ok(true)
            }
            other => bail!("nobody knows how to begin '{other}'"),
        }
    }

    fn kill(&mut self, engines: &[usize]) -> Result<bool> {
        let alive: Vec<usize> = engines
            .iter()
            .copied()
            .filter(|engine| matches!(self.processes[*engine], Process::Up | Process::Paused | Process::Ending))
            .collect();
        for engine in &alive {
            self.stage.end_life(*engine);
            self.cluster.engines[*engine].signal(Signal::SIGKILL)?;
        }
        for engine in &alive {
            self.cluster.engines[*engine].wait_exit(END_MAX)?;
            self.processes[*engine] = Process::Down;
        }
        Ok(!alive.is_empty())
    }

    fn start(&mut self, engine: usize) -> Result<()> {
        if self.processes[engine] == Process::Down {
            self.cluster.engines[engine].start()?;
            self.processes[engine] = Process::Up;
            self.tell(&format!("engine {} starts", self.name(engine)));
        }
        Ok(())
    }

    fn resume(&mut self, engine: usize) -> Result<()> {
        if self.processes[engine] == Process::Paused {
            self.cluster.engines[engine].resume()?;
            self.processes[engine] = Process::Up;
        }
        Ok(())
    }

    /// Writers go to another engine, if it is not out for good.
    fn move_writers(&mut self, volume: usize, engine: usize) -> bool {
        let is_out = self.processes[engine] == Process::Out;
        if !is_out {
            self.stage.volumes[volume].move_to(engine);
        }
        !is_out
    }

    /// The holder sleeps, or hears nothing, while its clients go on sending for a moment; then they go elsewhere.
    fn take_over(&mut self, episode: &Episode, active: &Active) -> Result<bool> {
        let (holder, heir) = (active.engines[0], active.engines[1]);
        if self.processes[holder] != Process::Up || self.processes[heir] != Process::Up {
            return Ok(false);
        }
        if storm::is_cut_when_taken(active.amount) {
            let mut weather = storm::of(self.active.values(), self.processes.len());
            storm::add(&mut weather, active, self.processes.len());
            self.stage.fabric.set(&weather)?;
        } else {
            self.cluster.engines[holder].pause()?;
            self.processes[holder] = Process::Paused;
        }
        thread::sleep(Duration::from_millis(30 + active.amount / 8 % 120));
        if episode.length < WITHOUT_FORCE_MIN {
            self.detach(episode.volume)?;
        }
        Ok(self.move_writers(episode.volume, heir))
    }

    /// The control API may take its time, or fail, when engines are down: it is asked from beside.
    fn detach(&mut self, volume: usize) -> Result<bool> {
        let name = self.stage.volumes[volume].name.clone();
        let tool = self.cluster.cairn().args(["volume", "detach", &name, "--force"]);
        let tool = tool.timeout(Duration::from_secs(30));
        let fabric = Arc::clone(&self.stage.fabric);
        let errand = thread::Builder::new().name("detach".to_owned()).spawn(move || {
            // Whether it gets through is not what is judged: the history judges what it does if it does.
            if fabric.enter().is_ok() {
                let _ = tool.run();
            }
        });
        self.errands.push(errand.context("no thread for an errand")?);
        Ok(true)
    }

    fn rot(&mut self, active: &Active) -> Result<bool> {
        let engine = self.plan.damaged;
        let disk = self.cluster.engines[engine].config.disks[0].clone();
        let was_up = self.processes[engine] == Process::Up;
        if was_up && active.amount.is_multiple_of(2) {
            self.kill(&[engine])?;
        }
        let count = usize::try_from(1 + active.amount % ROT_BLOCKS_MAX)?;
        self.stage.has_rot.store(true, std::sync::atomic::Ordering::SeqCst);
        let changed = damage::rot(&disk, count, &mut self.rng)?;
        self.figures.rotted += changed;
        self.tell(&format!("{changed} payload blocks of {} corrupted", disk.display()));
        if was_up {
            self.start(engine)?;
        }
        Ok(changed > 0)
    }

    /// Damages the log of an engine, which must refuse its disk by name and stay out; others go on without it.
    fn break_log(&mut self, active: &Active) -> Result<bool> {
        let engine = active.engines[0];
        if active.amount.is_multiple_of(2) {
            self.kill(&[engine])?;
        }
        let disk = self.cluster.engines[engine].config.disks[0].clone();
        let Some(sequence) = damage::break_log(&disk, &mut self.rng)? else {
            self.start(engine)?;
            return Ok(false);
        };
        self.tell(&format!("frame {sequence} of {} damaged", disk.display()));
        // A running engine has no reason to read it; it finds it when it starts.
        self.kill(&[engine])?;
        let before = self.cluster.engines[engine].log().len();
        self.cluster.engines[engine].start()?;
        let name = self.name(engine);
        let refuser = &mut self.cluster.engines[engine];
        crate::wait::until(&format!("engine {name} refuses its disk"), REFUSAL_MAX, || {
            let log = refuser.log();
            let news = log.get(before..).unwrap_or_default();
            if !news.contains(REFUSAL) {
                bail!("its log does not say so: {news}");
            }
            refuser.exit_status()?.context("it still runs")
        })?;
        refuser.wait_exit(END_MAX)?;
        self.processes[engine] = Process::Out;
        self.leave(engine);
        Ok(true)
    }

    /// Writers leave an engine that will not be back.
    pub(super) fn leave(&mut self, engine: usize) {
        let elsewhere = (0..self.processes.len())
            .find(|other| *other != engine && self.processes[*other] != Process::Out)
            .unwrap_or(engine);
        for volume in &self.stage.volumes {
            if volume.site() == engine {
                volume.move_to(elsewhere);
            }
        }
    }

    fn end(&mut self, index: usize) -> Result<()> {
        let Some(active) = self.active.remove(&index) else {
            return Ok(());
        };
        match active.kind {
            Kind::Kill | Kind::KillTwo | Kind::KillAll => {
                active.engines.iter().try_for_each(|engine| self.start(*engine))?;
            }
            Kind::Stop | Kind::StopAll | Kind::TakeOver => {
                active.engines.iter().try_for_each(|engine| self.resume(*engine))?;
            }
            _ => {}
        }
        self.blow()?;
        self.tell(&format!("{} is over", active.kind));
        self.windows.push(Window {
            kind: active.kind,
            from: active.from,
            to: self.stage.now(),
        });
        Ok(())
    }

    /// Makes the network as the active faults want it.
    fn blow(&self) -> Result<()> {
        let weather = storm::of(self.active.values(), self.processes.len());
        self.stage.fabric.set(&weather)
    }

    /// Ends every fault: the network is whole, and every engine runs that has a disk to run on.
    pub(super) fn heal(&mut self) -> Result<()> {
        self.agenda.clear();
        for index in self.active.keys().copied().collect::<Vec<_>>() {
            self.end(index)?;
        }
        for engine in 0..self.processes.len() {
            self.resume(engine)?;
            self.start(engine)?;
        }
        crate::wait::until("engines end after SIGTERM", END_MAX, || {
            self.watch()?;
            if self.processes.contains(&Process::Ending) {
                bail!("one still runs");
            }
            Ok(())
        })?;
        for errand in self.errands.drain(..) {
            // What it did is judged by the history.
            let _ = errand.join();
        }
        self.tell("everything is healed");
        Ok(())
    }
}
