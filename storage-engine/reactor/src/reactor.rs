//! The loop of a disk's thread.
//!
//! A turn: hand operations to the kernel and wait for one to end, or for the next deadline; reap all that have ended and
//! turn them into events; read the clock, after reaping, because a lease must not be checked against a time before a
//! request arrived; hand each event to the core, poll it once, and carry out what it wants; at last encode and send what
//! has gathered for peers and clients. There is no busy polling: with nothing to do the thread sleeps.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_api::ids::{ClusterId, NodeId};
use cairn_core::event::{Command, CommandId, Effect, Event};
use cairn_core::time::Timestamp;

use crate::buffers::BufferPool;
use crate::context::{Context, Tag, clock};
use crate::counters::Counters;
use crate::disk::Disk;
use crate::disk_io::DiskIo;
use crate::error::Failure;
use crate::inbound::Inbounds;
use crate::links::{Identity, Links};
use crate::machine::Machine;
use crate::mailbox::{Mailbox, Reply, Request};
use crate::observer::Observer;
use crate::operation::{Operation, WakeRead};
use crate::streams::Streams;
use crate::uring::{Completion, Ring};
use crate::wake::Waker;

/// The longest sleep, should the core want no tick at all.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// How long a thread that was asked to stop goes on to answer what clients have in flight.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(3);

/// What a loop is made of.
pub(crate) struct Parts {
    pub(crate) ring: Ring<Tag>,
    pub(crate) pool: BufferPool,
    pub(crate) disk: Disk,
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) counters: Arc<Counters>,
    pub(crate) waker: Arc<Waker>,
    pub(crate) mailbox: Arc<Mailbox>,
}

/// The loop and all it owns.
pub(crate) struct Turner<'a, M> {
    machine: M,
    observer: &'a mut dyn Observer,
    disk: DiskIo,
    links: Links,
    inbounds: Inbounds,
    streams: Streams,
    commands: BTreeMap<CommandId, Reply>,
    next_command: u64,
    waker: Arc<Waker>,
    wake_event: Rc<OwnedFd>,
    mailbox: Arc<Mailbox>,
    effects: Vec<Effect>,
    completions: Vec<Completion<Tag>>,
    /// When to stop at the latest, once asked to.
    stop_at: Option<Timestamp>,
    failure: Option<Failure>,
    /// Last, so that all that refers to buffers and files is gone before the ring waits for its operations.
    context: Context,
}

impl<'a, M: Machine> Turner<'a, M> {
    pub(crate) fn new(parts: Parts, mut machine: M, observer: &'a mut dyn Observer) -> Result<Self, Failure> {
        let Parts {
            ring,
            pool,
            disk,
            cluster,
            node,
            counters,
            waker,
            mailbox,
        } = parts;
        let identity = Identity {
            cluster,
            node,
            disk: disk.superblock().disk,
        };
        let wake_event = waker.descriptor().map_err(|error| Failure::Ring(error.to_string()))?;
        machine.use_memory(Arc::new(pool.clone()));
        let mut context = Context::new(ring, pool, counters);
        let disk = DiskIo::new(disk, &mut context)?;
        Ok(Self {
            machine,
            observer,
            disk,
            links: Links::new(identity),
            inbounds: Inbounds::default(),
            streams: Streams::new(),
            commands: BTreeMap::new(),
            next_command: 1,
            waker,
            wake_event: Rc::new(wake_event),
            mailbox,
            effects: Vec::new(),
            completions: Vec::new(),
            stop_at: None,
            failure: None,
            context,
        })
    }

    /// Turns until asked to stop, or until something fails for good.
    pub(crate) fn run(&mut self) -> Result<(), Failure> {
        self.listen_for_wakes();
        self.machine.start(self.context.now, &mut self.effects);
        self.carry_out();
        self.disk.flush(&mut self.context);
        while self.failure.is_none() && !self.is_done() {
            self.turn()?;
        }
        self.close();
        self.failure.take().map_or(Ok(()), Err)
    }

    fn turn(&mut self) -> Result<(), Failure> {
        let timeout = self.sleep_time();
        self.context
            .ring
            .wait(timeout)
            .map_err(|error| Failure::Ring(error.to_string()))?;
        let mut completions = std::mem::take(&mut self.completions);
        self.context.ring.reap(&mut completions);
        self.context.now = clock();
        for completion in completions.drain(..) {
            self.dispatch(completion);
        }
        self.completions = completions;
        self.context.ring.tidy_files();
        self.links.on_time(&mut self.context);
        // What the dispatch did took time, and the requests it found must not be older than the clock.
        self.context.now = clock();
        if self.machine.next_deadline() <= self.context.now {
            self.context.events.push(Event::Tick);
        }
        if !self.context.events.is_empty() {
            self.feed();
        }
        self.streams.flush(&mut self.context, self.observer);
        self.links.flush(&mut self.context);
        self.inbounds.flush(&mut self.context);
        self.disk.flush(&mut self.context);
        self.context.counters.turns.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Hands the events of the turn to the core and carries out what it wants. What that brings up at once (a reply's
    /// follow-up request, a broken link) belongs to the next turn.
    fn feed(&mut self) {
        let mut events = std::mem::take(&mut self.context.events);
        for event in events.drain(..) {
            self.machine.handle(self.context.now, event, &mut self.effects);
        }
        if self.context.events.is_empty() {
            self.context.events = events;
        }
        self.machine.poll(self.context.now, &mut self.effects);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            self.apply(effect);
        }
        self.effects = effects;
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Send { to, message } => self.links.send(&mut self.context, to, message),
            Effect::Write { io, offset, buffers } => self.disk.write(&mut self.context, io, offset, buffers),
            Effect::Read { io, offset, length } => self.disk.read(&mut self.context, io, offset, length),
            Effect::DeviceReply { device, tag, result } => self.streams.reply(device, tag, result),
            Effect::CommandReply { id, result } => {
                if let Some(reply) = self.commands.remove(&id) {
                    reply.send(result);
                }
            }
            Effect::Apply { group, index, data } => self.observer.on_apply(group, index, data),
            Effect::Recovered(summary) => self.observer.on_recovered(summary),
            // What follows says it in words.
            Effect::RecoveryRefused(_) => {}
            Effect::DiskFailed(reason) => {
                self.failure.get_or_insert(Failure::Disk(reason));
            }
            Effect::LeaderChanged {
                group,
                leader,
                is_local,
            } => {
                self.observer.on_leader_changed(group, leader, is_local);
            }
            Effect::Throttled { group, nanos } => self.observer.on_throttled(group, nanos),
            Effect::Damage { damage, blocks, .. } => self.observer.on_damage(damage, blocks),
            Effect::CaughtUp { bytes } => self.observer.on_caught_up(bytes),
            Effect::Filled { blocks } => self.observer.on_filled(blocks),
            Effect::Collected(report) => self.observer.on_collected(report),
            Effect::Space(status) => self.observer.on_space(status),
            Effect::Checkpointed(report) => self.observer.on_checkpoint(report),
            Effect::Scrubbed { blocks, is_over } => self.observer.on_scrubbed(blocks, is_over),
            Effect::Measured { stage, nanos } => self.observer.on_measured(stage, nanos),
        }
    }

    fn dispatch(&mut self, completion: Completion<Tag>) {
        let Completion { tag, operation, result } = completion;
        match (tag, operation) {
            (Tag::Wake, _) => {
                self.waker.acknowledge();
                self.listen_for_wakes();
                self.read_mail();
            }
            (Tag::DiskWrite(io), Operation::Write(write)) => self.disk.written(&mut self.context, io, write, result),
            (Tag::DiskRead(io), Operation::Read(read)) => self.disk.was_read(&mut self.context, io, read, result),
            (Tag::Link(peer, serial), operation) => {
                self.links.completed(&mut self.context, peer, serial, operation, result);
            }
            (Tag::Inbound(serial), Operation::Receive(receiving)) => {
                self.inbounds.completed(&mut self.context, serial, receiving, result);
            }
            (Tag::Stream(device), operation) => {
                self.streams.completed(&mut self.context, device, operation, result);
            }
            (Tag::DiskWrite(_) | Tag::DiskRead(_) | Tag::Inbound(_), _) => {
                unreachable!("an operation comes back with the tag it was submitted under");
            }
        }
    }

    fn listen_for_wakes(&mut self) {
        let read = WakeRead {
            event: Rc::clone(&self.wake_event),
            count: [0; 8],
        };
        self.context.ring.submit(Tag::Wake, Operation::Wake(Box::new(read)));
    }

    fn read_mail(&mut self) {
        for request in self.mailbox.take() {
            match request {
                Request::SetPeer { disk, address } => self.links.set_peer(&mut self.context, disk, address),
                Request::RemovePeer(disk) => {
                    self.links.remove_peer(&mut self.context, disk);
                    self.inbounds.remove(disk);
                }
                Request::AdoptPeer { socket, from } => self.inbounds.adopt(&mut self.context, socket, from),
                Request::AdoptStream {
                    socket,
                    session,
                    opening,
                } => {
                    self.streams
                        .adopt(&mut self.context, self.observer, socket, session, opening);
                }
                Request::Command { command, reply } => {
                    let id = CommandId(self.next_command);
                    self.next_command += 1;
                    self.commands.insert(id, reply);
                    if let Command::UpdateVolume { group, size_bytes, .. } = command {
                        self.streams.resized(group, size_bytes);
                    }
                    self.context.events.push(Event::Command { id, command });
                }
                Request::CloseStreamsOf(group) => {
                    self.streams.close_group(&mut self.context, self.observer, group);
                }
                Request::Stop => {
                    self.streams.start_draining();
                    self.stop_at.get_or_insert(self.context.now.after(DRAIN_TIME_MAX));
                }
            }
        }
    }

    /// How long there is nothing to do.
    fn sleep_time(&self) -> Duration {
        if !self.context.events.is_empty() {
            return Duration::ZERO;
        }
        let now = clock();
        let deadlines = [
            Some(self.machine.next_deadline()),
            self.links.next_deadline(),
            self.stop_at,
        ];
        let earliest = deadlines
            .into_iter()
            .flatten()
            .min()
            .unwrap_or_else(|| now.after(SLEEP_MAX));
        earliest.since(now).min(SLEEP_MAX)
    }

    /// Whether a stop was asked for and nothing is owed any more, or time is up.
    fn is_done(&self) -> bool {
        let Some(stop_at) = self.stop_at else { return false };
        let owes_nothing = self.context.events.is_empty() && self.streams.is_drained() && self.links.is_drained();
        self.context.now >= stop_at || owes_nothing
    }

    /// Ends all connections. The ring waits for its operations when it is dropped.
    fn close(&mut self) {
        self.streams.close_all(&mut self.context, self.observer);
        self.links.close_all(&mut self.context);
        self.inbounds.close_all();
        self.context.events.clear();
        self.commands.clear();
        tracing::debug!(
            operations = self.context.ring.in_flight(),
            "a disk's thread waits for its operations"
        );
    }
}
