//! The core itself: events in, effects out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cairn_api::ids::{DiskId, GroupId, LogIndex, ReplicaId, Term};
use cairn_format::peer::{GatewayReply, GatewayRequest, GatewayResult, PeerMessage, RepairRefusal};

use crate::base::ThroughBase;
use crate::config::CoreConfig;
use crate::event::{
    Command, CommandError, CommandId, CommandReply, DiskFault, Effect, Event, GroupSpec, IoId, RecoverySummary, Stage,
};
use crate::flattener::Flattener;
use crate::gateway::Gateway;
use crate::group::{BASE, Group, Location, Recovered};
use crate::load::Load;
use crate::log::recovery::{LogRead, Outcome};
use crate::log::{LogWrite, Record, Ticket};
use crate::map::BlockMap;
use crate::memory::{Heap, Memory};
use crate::merge::Merger;
use crate::mutation::{Seeded, mutated};
use crate::recovering::{Ready, Recovering};
use crate::repair::Consumer;
use crate::repair::ask::Loss;
use crate::scrub::Scrub;
use crate::shared::{Origin, Purpose, Shared};
use crate::space::checkpoint::{Checkpoints, Replicas};
use crate::space::collect::Collector;
use crate::space::status::Teller;
use crate::time::Timestamp;

/// Groups that one disk may hold: what the memory of their bookkeeping is sized for.
const GROUPS_MAX: usize = 100_000;
/// Messages that the gateways and groups of one core may exchange in one turn: some for each group, and all that clients can
/// have under way.
const LOCAL_MESSAGES_MAX: u32 = 1 << 22;

/// A frame on its way to the disk.
struct Writing {
    since: Timestamp,
}

/// A core that serves.
struct Running {
    shared: Shared,
    groups: BTreeMap<GroupId, Group>,
    /// The number under which each group was last dropped: that number and those below it never come back.
    dropped: BTreeMap<GroupId, ReplicaId>,
    checkpoints: Checkpoints,
    collector: Collector,
    space: Teller,
    gateways: BTreeMap<GroupId, Gateway>,
    /// The volume that each open device is of.
    devices: BTreeMap<crate::event::DeviceId, GroupId>,
    dirty: BTreeSet<GroupId>,
    writing: BTreeMap<IoId, Writing>,
    /// Commands that are done when a record is durable.
    durable_commands: BTreeMap<(GroupId, Ticket), CommandId>,
    /// Groups whose creation waits for a frame.
    created: BTreeMap<GroupId, Ticket>,
    hand_over: Option<CommandId>,
    scrub: Scrub,
    merger: Merger,
    flattener: Flattener,
    next_tick: Timestamp,
    /// What recovery found, until the frame that opens the log is durable, and what has come meanwhile. What was read
    /// may still be in the device's volatile cache: nobody may be told of it before a flush has followed.
    opening: Option<(RecoverySummary, Vec<Event>)>,
}

enum Phase {
    New,
    Recovering(Box<Recovering>),
    Running(Box<Running>),
    Failed,
}

/// One disk's groups and gateways as a state machine. See [`crate::event`] for the rhythm in which it is driven.
pub struct Core {
    config: CoreConfig,
    seeded: Seeded,
    memory: Arc<dyn Memory>,
    phase: Phase,
}

impl Core {
    /// A core that has not read its disk yet.
    pub fn new(config: CoreConfig) -> Self {
        Self {
            config,
            seeded: Seeded::default(),
            memory: Arc::new(Heap),
            phase: Phase::New,
        }
    }

    /// A core with a seeded fault, for testing the tests.
    #[cfg(feature = "mutations")]
    pub fn with_mutation(config: CoreConfig, mutation: Option<crate::mutation::Mutation>) -> Self {
        Self {
            config,
            seeded: Seeded::with(mutation),
            memory: Arc::new(Heap),
            phase: Phase::New,
        }
    }

    /// Where to make payloads, from before the start on.
    pub fn use_memory(&mut self, memory: Arc<dyn Memory>) {
        self.memory = memory;
    }

    /// Starts recovery.
    pub fn start(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let mut reads = Vec::new();
        let recovering = Recovering::start(&self.config, self.seeded, &mut reads);
        self.phase = Phase::Recovering(Box::new(recovering));
        self.recovery_step(now, reads, None, effects);
    }

    /// Takes an event. Call [`Self::poll`] once after a batch of them.
    pub fn handle(&mut self, now: Timestamp, event: Event, effects: &mut Vec<Effect>) {
        match &mut self.phase {
            Phase::Running(running) => {
                running.with(now, effects, |running| running.event(event));
                self.note_failure(effects);
            }
            Phase::Recovering(recovering) => match event {
                Event::Read { io, result } => {
                    let mut reads = Vec::new();
                    let outcome = recovering.read(&self.config, self.seeded, io, result, &mut reads);
                    self.recovery_step(now, reads, outcome, effects);
                }
                Event::Tick => {}
                event => recovering.early.push(event),
            },
            Phase::New | Phase::Failed => refuse(&event, effects),
        }
    }

    /// Drives what the events changed; composes frames.
    pub fn poll(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if let Phase::Running(running) = &mut self.phase {
            running.with(now, effects, Running::turn);
            self.note_failure(effects);
        }
    }

    /// The map of a local group, once the core serves: for checks.
    pub fn map(&self, group: GroupId) -> Option<&BlockMap> {
        match &self.phase {
            Phase::Running(running) => running.groups.get(&group).map(Group::map),
            _ => None,
        }
    }

    /// The term of a local group, and until when it may be read under the lease of that term, if it may, by the clock that the
    /// core is given: for checks.
    pub fn lease(&self, group: GroupId) -> Option<(Term, Option<Timestamp>)> {
        match &self.phase {
            Phase::Running(running) => {
                let group = running.groups.get(&group)?;
                Some((Term(group.term()), group.lease_end(&running.shared)))
            }
            _ => None,
        }
    }

    /// What is under way, once the core serves.
    pub fn load(&self) -> Option<Load> {
        match &self.phase {
            Phase::Running(running) => Some(running.load()),
            _ => None,
        }
    }

    /// When a [`Event::Tick`] is wanted at the latest.
    pub fn next_deadline(&self) -> Timestamp {
        match &self.phase {
            Phase::Running(running) => running.next_deadline(),
            _ => Timestamp::from_nanos(u64::MAX),
        }
    }

    /// After a failure of the disk nothing in memory may be trusted, least of all acknowledged.
    fn note_failure(&mut self, effects: &[Effect]) {
        if effects.iter().any(|effect| matches!(effect, Effect::DiskFailed(_))) {
            self.phase = Phase::Failed;
        }
    }

    fn recovery_step(
        &mut self,
        now: Timestamp,
        reads: Vec<LogRead>,
        outcome: Option<Result<Outcome, String>>,
        effects: &mut Vec<Effect>,
    ) {
        effects.extend(
            reads
                .into_iter()
                .map(|LogRead { io, offset, length }| Effect::Read { io, offset, length }),
        );
        let Some(outcome) = outcome else { return };
        let Phase::Recovering(recovering) = std::mem::replace(&mut self.phase, Phase::Failed) else {
            return;
        };
        let rows = recovering.rows();
        let finished = outcome.and_then(|outcome| recovering.finish(&self.config, self.seeded, now, outcome));
        match finished.map(|ready| Running::new(&self.config, now, ready)) {
            Ok(mut running) => {
                running.shared.memory = Arc::clone(&self.memory);
                self.phase = Phase::Running(Box::new(running));
            }
            Err(reason) => effects.extend([Effect::RecoveryRefused(rows), Effect::DiskFailed(reason)]),
        }
    }
}

/// Ends what an event asks for on a disk that cannot serve.
fn refuse(event: &Event, effects: &mut Vec<Effect>) {
    match *event {
        Event::Command { id, .. } => {
            let result = Err(CommandError::Refused("the disk has failed".to_owned()));
            effects.push(Effect::CommandReply { id, result });
        }
        Event::Device { device, tag, .. } => {
            let result = Err(cairn_api::block::BlockError::ShuttingDown);
            effects.push(Effect::DeviceReply { device, tag, result });
        }
        _ => {}
    }
}

impl Running {
    fn new(config: &CoreConfig, now: Timestamp, ready: Ready) -> Self {
        Self {
            next_tick: now.after(config.timing.tick),
            shared: ready.shared,
            groups: ready.groups,
            dropped: ready.dropped,
            checkpoints: ready.checkpoints,
            collector: Collector::new(now),
            space: Teller::default(),
            gateways: BTreeMap::new(),
            devices: BTreeMap::new(),
            dirty: BTreeSet::new(),
            writing: BTreeMap::new(),
            durable_commands: BTreeMap::new(),
            created: BTreeMap::new(),
            hand_over: None,
            scrub: Scrub::new(config.limits.scrub, now),
            merger: ready.merger,
            flattener: Flattener::new(now),
            opening: Some((ready.summary, ready.early)),
        }
    }

    /// Runs `step` with the caller's effects in place.
    fn with(&mut self, now: Timestamp, effects: &mut Vec<Effect>, step: impl FnOnce(&mut Self)) {
        self.shared.now = self.shared.now.max(now);
        std::mem::swap(&mut self.shared.effects, effects);
        step(self);
        std::mem::swap(&mut self.shared.effects, effects);
    }

    fn event(&mut self, event: Event) {
        if let (Some((_, early)), false) = (&mut self.opening, matches!(event, Event::Written { .. } | Event::Tick)) {
            return early.push(event);
        }
        self.take(event);
        self.exchange();
    }

    /// The frame that opens the log is durable: the core serves.
    fn opened(&mut self) {
        let Some((summary, early)) = self.opening.take() else {
            return;
        };
        self.shared.effects.push(Effect::Recovered(summary));
        for event in early {
            self.take(event);
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Tick if self.opening.is_some() => {}
            Event::Tick => self.tick(),
            Event::Peer { from, messages } => {
                for message in messages {
                    self.peer_message(from, message);
                }
            }
            Event::PeerUp(disk) => self.peer_up(disk),
            Event::PeerDown(disk) => self.peer_down(disk),
            Event::PeerDrained { to, bytes } => {
                self.shared.links.drained(to, bytes);
                for group in self.groups.values_mut() {
                    group.drained(&mut self.shared, to);
                }
            }
            Event::Written { io, result } => self.written(io, result),
            Event::Read { io, result } => self.read(io, result),
            Event::OpenDevice {
                device,
                spec,
                info,
                cipher,
            } => {
                self.devices.insert(device, spec.group);
                let shared = &self.shared;
                let gateway = self
                    .gateways
                    .entry(spec.group)
                    .or_insert_with(|| Gateway::new(spec, shared));
                gateway.open(&self.shared, device, info, cipher);
                if let Some(group) = self.groups.get(&gateway.spec.group) {
                    gateway.leader_changed(&mut self.shared, group.leader());
                }
            }
            Event::CloseDevice(device) => {
                let Some(group) = self.devices.remove(&device) else {
                    return;
                };
                if let Some(gateway) = self.gateways.get_mut(&group) {
                    gateway.close(&mut self.shared, device);
                }
            }
            Event::Device { device, tag, op } => {
                let gateway = self.devices.get(&device).and_then(|group| self.gateways.get_mut(group));
                match gateway {
                    Some(gateway) => gateway.submit(&mut self.shared, device, tag, op),
                    None => {
                        let result = Err(cairn_api::block::BlockError::ShuttingDown);
                        self.shared.effects.push(Effect::DeviceReply { device, tag, result });
                    }
                }
            }
            Event::Command { id, command } => self.command(id, command),
        }
    }

    fn peer_message(&mut self, from: DiskId, message: PeerMessage) {
        match message {
            PeerMessage::Raft(wire) => {
                let Some(group) = self.groups.get_mut(&wire.group) else {
                    return;
                };
                self.dirty.insert(wire.group);
                group.step(&mut self.shared, from, wire);
            }
            PeerMessage::Request(request) => {
                let origin = Origin::Peer(from, request.request);
                self.request(origin, request);
            }
            PeerMessage::Reply(reply) => self.reply(reply),
            PeerMessage::RepairRequest(request) => match self.groups.get(&request.group) {
                Some(group) => group.answer_repair(&mut self.shared, from, request),
                None => self.shared.refuse_repair(from, &request, RepairRefusal::Absent),
            },
            PeerMessage::RepairReply(reply) => self.shared.repair_reply(from, reply),
            PeerMessage::CatchUpOffer(offer) => {
                self.for_peer(offer.group, |group, shared| group.offered(shared, from, offer));
            }
            PeerMessage::CatchUpRequest(request) => {
                self.for_peer(request.group, |group, shared| {
                    group.catch_up_request(shared, from, request);
                });
            }
            PeerMessage::CatchUpReply(reply) => {
                self.for_peer(reply.group, |group, shared| group.catch_up_reply(shared, from, reply));
            }
        }
    }

    /// Hands a peer's message to a group, if it is here.
    fn for_peer(&mut self, number: GroupId, act: impl FnOnce(&mut Group, &mut Shared)) {
        if let Some(group) = self.groups.get_mut(&number) {
            self.dirty.insert(number);
            act(group, &mut self.shared);
        }
    }

    fn request(&mut self, origin: Origin, request: GatewayRequest) {
        match self.groups.get_mut(&request.group) {
            Some(group) => {
                self.dirty.insert(request.group);
                group.tell_members(&mut self.shared, origin, request.revision);
                group.request(&mut self.shared, origin, request.op);
            }
            None => self
                .shared
                .reply(request.group, origin, GatewayResult::NotLeader { leader: None }),
        }
    }

    fn reply(&mut self, reply: GatewayReply) {
        if let Some(gateway) = self.gateways.get_mut(&reply.group) {
            gateway.on_reply(&mut self.shared, reply);
        }
    }

    /// Passes what gateways and groups of this core say to each other.
    ///
    /// # Panics
    /// If they answer each other for ever: a disk's thread that stops can be started again, one that spins cannot.
    fn exchange(&mut self) {
        let mut messages = 0;
        loop {
            messages += 1;
            assert!(
                messages < LOCAL_MESSAGES_MAX,
                "the gateways and groups of disk {} answer each other for ever",
                self.shared.config.disk
            );
            if let Some(request) = self.shared.local_requests.pop_front() {
                self.request(Origin::Local(request.request), request);
            } else if let Some(reply) = self.shared.local_replies.pop_front() {
                self.reply(reply);
            } else if let Some(read) = self.shared.through_bases.pop_front() {
                self.read_through_base(&read);
            } else if let Some(ended) = self.shared.repairs.take_ended() {
                if let Consumer::Scrub { serial } = ended.consumer {
                    self.scrub.repaired(&mut self.shared, serial, &ended.outcome);
                    continue;
                }
                let waiting = ended.waiting();
                if let Some(group) = self.groups.get_mut(&waiting) {
                    self.dirty.insert(waiting);
                    group.repaired(&mut self.shared, ended.consumer, ended.outcome);
                }
            } else {
                return;
            }
        }
    }

    fn tick(&mut self) {
        // Never more than one tick at a time: an election clock that runs fast would break leases.
        if self.shared.now >= self.next_tick {
            self.next_tick = self.shared.now.after(self.shared.config.timing.tick);
            for (number, group) in &mut self.groups {
                group.tick(&mut self.shared);
                self.dirty.insert(*number);
            }
            self.continue_hand_over();
            self.shared.tick_repairs();
            self.shared.log.vouch();
            self.space.tick(&mut self.shared);
        }
        for number in self.shared.catch_up.take_due(self.shared.now) {
            self.for_peer(number, Group::ask_next);
        }
        for gateway in self.gateways.values_mut() {
            gateway.tick(&mut self.shared);
        }
        self.gateways.retain(|_, gateway| !gateway.is_idle());
    }

    fn peer_up(&mut self, disk: DiskId) {
        self.shared.links.connected(disk);
        for gateway in self.gateways.values_mut() {
            gateway.link_up(&mut self.shared);
        }
    }

    fn peer_down(&mut self, disk: DiskId) {
        self.shared.links.lost(disk);
        for (number, group) in &mut self.groups {
            if let Some(replica) = group.replica_on(disk) {
                group.unreachable(replica);
                self.dirty.insert(*number);
            }
        }
        for gateway in self.gateways.values_mut() {
            gateway.link_lost(&mut self.shared, disk);
        }
    }

    fn written(&mut self, io: IoId, result: Result<(), DiskFault>) {
        if let Err(fault) = result
            && !mutated!(self.shared.seeded, FailedFlushTrusted)
        {
            // What the media holds now is unknown. A second flush that succeeds would prove nothing (DESIGN.md 4).
            self.shared
                .effects
                .push(Effect::DiskFailed(format!("a durable write failed: {fault}")));
            return;
        }
        if self.shared.healed(io) {
            return;
        }
        let mut replicas = Replicas {
            groups: &mut self.groups,
            dropped: &self.dropped,
        };
        if self.checkpoints.written(&mut self.shared, &mut replicas, io)
            || self.collector.written(&mut self.shared, &mut self.groups, io)
        {
            return;
        }
        let Some(writing) = self.writing.remove(&io) else {
            return;
        };
        self.shared.measured(Stage::Disk, writing.since);
        let Some(records) = self.shared.log.completed(io) else {
            return;
        };
        self.opened();
        for (number, ticket) in records {
            if let Some(group) = self.groups.get_mut(&number) {
                group.durable(&mut self.shared, ticket);
                self.dirty.insert(number);
            }
            let up_to = (number, Ticket(0))..=(number, ticket);
            while let Some((due, id)) = self
                .durable_commands
                .range(up_to.clone())
                .next()
                .map(|(due, id)| (*due, *id))
            {
                self.durable_commands.remove(&due);
                self.shared.end_command(id, Ok(CommandReply::Done));
            }
        }
    }

    fn read(&mut self, io: IoId, result: Result<bytes::Bytes, DiskFault>) {
        self.shared.read_ended_on_disk(io);
        let Some(purpose) = self.shared.reads.remove(&io) else {
            return;
        };
        let shared = &mut self.shared;
        if let Purpose::Scrub { serial, .. } = purpose {
            return self.scrub.read(shared, &self.groups, serial, result);
        }
        if let Purpose::Collect { serial, block } = purpose {
            return self.collector.read(shared, &mut self.groups, (serial, block), result);
        }
        let Some(number) = purpose.group() else { return };
        let Some(group) = self.groups.get_mut(&number) else {
            return;
        };
        self.dirty.insert(number);
        match purpose {
            Purpose::Scrub { .. } | Purpose::Collect { .. } => {}
            Purpose::BlockRead { read, piece, .. } => {
                if let Some(loss) = group.block_read(shared, read, piece, result) {
                    self.find_lost(&loss, (number, read, piece));
                }
            }
            Purpose::Fetch {
                fetch, offset, header, ..
            } => group.fetch_read(shared, (fetch, offset, header), result),
            Purpose::Outbox { to, serial, entry, .. } => group.outbox_read(shared, (to, serial, entry), result),
            Purpose::CatchUp { serial, place, .. } => group.catch_up_read(shared, (serial, place), result),
            Purpose::External { index, .. } => group.external_read(shared, index, result),
            Purpose::RepairProbe { job, place, .. } => shared.probed(job, place, result),
            Purpose::RepairServe {
                answer, first, count, ..
            } => shared.served(answer, (first, count), &result),
            Purpose::RepairSearch {
                search, offset, header, ..
            } => shared.searched(search, (offset, header), result),
        }
    }

    /// A read of a clone: what its own map does not have, its base shows.
    fn read_through_base(&mut self, read: &ThroughBase) {
        let Some(group) = self.groups.get(&read.group) else {
            let nobody = GatewayResult::NotLeader { leader: None };
            return self.shared.reply(read.group, read.origin, nobody);
        };
        let shown = group.shown(&self.groups, read.query);
        self.for_peer(read.group, |group, shared| {
            group.answer_with(shared, read.origin, shown);
        });
    }

    /// Asks for blocks that a read has not found on the disk: the other replicas of their volume, which may be a base of the one
    /// that is read.
    fn find_lost(&mut self, loss: &Loss, (reader, read, piece): (GroupId, u64, usize)) {
        if let Some(home) = self.groups.get(&loss.group) {
            return home.find_lost(&mut self.shared, loss, Consumer::Read { reader, read, piece });
        }
        let unanswered = crate::repair::Outcome::Unanswered;
        self.for_peer(reader, |group, shared| {
            group.piece_repaired(shared, read, piece, unanswered);
        });
    }

    /// Drives every group that changed, then composes frames: group commit.
    fn turn(&mut self) {
        loop {
            self.exchange();
            if self.dirty.is_empty() && self.opening.is_none() {
                self.dirty = self.flattener.step(&mut self.shared, &mut self.groups);
            }
            let dirty = std::mem::take(&mut self.dirty);
            if dirty.is_empty() {
                break;
            }
            for number in dirty {
                if let Some(group) = self.groups.get_mut(&number) {
                    group.drive(&mut self.shared);
                    self.merger.note(number, group);
                    self.flattener.note(&self.shared, number, group);
                    if group.take_members_changed()
                        && let Some(gateway) = self.gateways.get_mut(&number)
                    {
                        let members = group.membership();
                        gateway.update_members(&self.shared, members.revision, &members.voters);
                    }
                    if group.take_leader_changed()
                        && let Some(gateway) = self.gateways.get_mut(&number)
                    {
                        gateway.leader_changed(&mut self.shared, group.leader());
                    }
                }
            }
        }
        if self.opening.is_none() {
            let mut replicas = Replicas {
                groups: &mut self.groups,
                dropped: &self.dropped,
            };
            self.checkpoints.step(&mut self.shared, &mut replicas);
            self.collector.step(&mut self.shared, &mut self.groups);
            self.shared.release_dead();
            self.scrub.step(&mut self.shared, &self.groups);
            self.merger.step(&mut self.shared, &mut self.groups);
        }
        self.compose();
        self.shared.write_heals();
    }

    fn compose(&mut self) {
        if !self.shared.log.has_queued() {
            return;
        }
        let since = *self.shared.queued_since.get_or_insert(self.shared.now);
        let mut writes: Vec<LogWrite> = Vec::new();
        let Shared { log, io, .. } = &mut self.shared;
        log.compose(&mut || io.next(), &mut writes);
        let is_any_composed = !writes.is_empty();
        for write in writes {
            for (number, last) in &write.records {
                if self.created.get(number).is_some_and(|ticket| ticket <= last) {
                    self.created.remove(number);
                    if let Some(group) = self.groups.get_mut(number) {
                        group.created_sequence = write.sequence;
                    }
                }
            }
            for placed in &write.placed {
                if let Some(group) = self.groups.get_mut(&placed.group) {
                    let location = Location {
                        frame_offset: placed.frame_offset,
                        payload_block: placed.payload_block,
                    };
                    group.place(placed.index, placed.term, location);
                }
            }
            for portion in &write.portions {
                if let Some(group) = self.groups.get_mut(&portion.group) {
                    group.portion_placed(portion.ticket, portion.payload_block);
                }
            }
            self.writing.insert(write.io, Writing { since: self.shared.now });
            self.shared.measured(Stage::Queue, since);
            self.shared.effects.push(Effect::Write {
                io: write.io,
                offset: write.offset,
                buffers: write.buffers,
            });
        }
        if !self.shared.log.is_open() && self.shared.log.in_flight() == 0 {
            // Nothing that recovery read may be relied on before that frame is durable, and it never will be.
            let reason = "the disk has no room left for the frame that opens its log: format a larger one".to_owned();
            self.shared.effects.push(Effect::DiskFailed(reason));
        }
        if is_any_composed {
            // What is left was not the oldest: its wait is counted from here, at most one frame's time too late.
            self.shared.queued_since = self.shared.log.has_queued().then_some(self.shared.now);
        }
    }

    fn load(&self) -> Load {
        let mut load = Load {
            log_bytes: self.shared.log.queued_bytes(),
            frames: self.writing.len(),
            reads: self.shared.reads.len() + self.shared.reading.waiting(),
            link_bytes: self.shared.links.queued_bytes_in_all(),
            operations: self.gateways.values().map(Gateway::operations).sum(),
            write_backs: self.shared.repairs.write_backs(),
            ..Load::default()
        };
        for group in self.groups.values() {
            group.add_load(&mut load);
        }
        load
    }

    fn next_deadline(&self) -> Timestamp {
        let now = self.shared.now;
        let gateways = self
            .gateways
            .values()
            .filter_map(Gateway::next_deadline)
            .filter(|deadline| *deadline > now);
        // What is due already was so since the last tick only.
        let soon = now.after(Duration::from_nanos(1));
        let held = self
            .gateways
            .values()
            .filter_map(Gateway::release_at)
            .map(|at| at.max(soon));
        let own = [
            self.scrub.next_deadline(),
            self.merger.next_deadline(),
            self.flattener.next_deadline(),
            self.collector.next_deadline(),
            self.shared.catch_up.next_deadline(),
        ];
        let own = own.into_iter().flatten().filter(|deadline| *deadline > now);
        gateways.chain(held).chain(own).fold(self.next_tick, Timestamp::min)
    }

    /// Tells the volume's gateway something, if there is one here.
    fn for_gateway(&mut self, id: CommandId, group: GroupId, tell: impl FnOnce(&mut Gateway, &mut Shared)) {
        if let Some(gateway) = self.gateways.get_mut(&group) {
            tell(gateway, &mut self.shared);
        }
        self.shared.end_command(id, Ok(CommandReply::Done));
    }

    fn detach(&mut self, id: CommandId, spec: GroupSpec, force: bool) {
        let shared = &self.shared;
        let gateway = self
            .gateways
            .entry(spec.group)
            .or_insert_with(|| Gateway::new(spec, shared));
        gateway.detach(&mut self.shared, id, force);
    }

    fn inspect(&mut self, id: CommandId) {
        let repairs = &self.shared.repairs;
        let groups = self.groups.values().map(|group| group.status(repairs)).collect();
        self.shared.end_command(id, Ok(CommandReply::Groups(groups)));
    }

    fn command(&mut self, id: CommandId, command: Command) {
        match command {
            Command::CreateGroup { spec, replica } => self.create_group(id, spec, replica),
            Command::DropGroup(group) => self.drop_group(id, group),
            Command::ChangeMembers { group, change } => {
                self.for_group(id, group, |group, shared| group.change_members(shared, id, &change));
            }
            Command::Resize { group, size_blocks } => {
                self.for_group(id, group, |group, shared| group.resize(shared, id, size_blocks));
            }
            Command::UpdateVolume {
                group,
                size_bytes,
                limits,
            } => self.for_gateway(id, group, |gateway, shared| {
                gateway.update_size(size_bytes);
                gateway.set_limits(shared, limits);
            }),
            Command::UpdateMembers {
                group,
                revision,
                voters,
            } => self.for_gateway(id, group, |gateway, shared| {
                gateway.update_members(shared, revision, &voters);
            }),
            Command::CreateSnapshot { group, snapshot } => {
                self.for_group(id, group, |group, shared| group.create_snapshot(shared, id, snapshot));
            }
            Command::DeleteSnapshot { group, snapshot } => {
                self.for_group(id, group, |group, shared| group.delete_snapshot(shared, id, snapshot));
            }
            Command::Hold(ask) => self.for_group(id, ask.group, |group, shared| group.hold(shared, id, ask)),
            Command::Changes(ask) => {
                let group = self.groups.get(&ask.group).ok_or(CommandError::UnknownGroup(ask.group));
                let result = group.and_then(|group| group.changes(&self.shared, &self.groups, ask));
                self.shared.end_command(id, result);
            }
            Command::Snapshots(group) => self.for_group(id, group, |group, shared| {
                shared.end_command(id, Ok(CommandReply::Snapshots(group.map().snapshots().collect())));
            }),
            Command::Propose { group, data } => {
                self.for_group(id, group, |group, shared| {
                    group.propose_command(shared, Origin::Command(id), &data);
                });
            }
            Command::ReadBarrier(group) => {
                self.for_group(id, group, |group, shared| group.barrier(shared, Origin::Command(id)));
            }
            Command::StartApply { group, applied } => self.for_group(id, group, |group, shared| {
                group.start_apply(shared, applied);
                shared.end_command(id, Ok(CommandReply::Done));
            }),
            Command::Detach { spec, force } => self.detach(id, spec, force),
            Command::HandOver => {
                self.shared.draining = true;
                self.hand_over = Some(id);
                self.continue_hand_over();
            }
            Command::Inspect => self.inspect(id),
            Command::Checkpoint | Command::Space | Command::Scrub(_) | Command::ScrubStatus => {
                self.disk_command(id, &command);
            }
            Command::Digest(group) => self.for_group(id, group, |group, shared| {
                shared.end_command(id, Ok(CommandReply::Digest(group.map().digest())));
            }),
        }
    }

    /// What is asked of the disk, and of no group.
    fn disk_command(&mut self, id: CommandId, command: &Command) {
        let reply = match command {
            Command::Space => CommandReply::Space(self.shared.space_status()),
            Command::ScrubStatus => CommandReply::Scrub(self.scrub.status(&self.shared)),
            Command::Scrub(request) => {
                self.scrub.ask(&mut self.shared, &self.groups, *request);
                CommandReply::Done
            }
            _ => {
                self.checkpoints.ask();
                CommandReply::Done
            }
        };
        self.shared.end_command(id, Ok(reply));
    }

    fn for_group(&mut self, id: CommandId, number: GroupId, act: impl FnOnce(&mut Group, &mut Shared)) {
        match self.groups.get_mut(&number) {
            Some(group) => {
                self.dirty.insert(number);
                act(group, &mut self.shared);
            }
            None => self.shared.end_command(id, Err(CommandError::UnknownGroup(number))),
        }
    }

    fn create_group(&mut self, id: CommandId, spec: GroupSpec, replica: ReplicaId) {
        let number = spec.group;
        if let Some(problem) = self.refuse_group(&spec, replica) {
            return self.shared.end_command(id, Err(CommandError::Refused(problem)));
        }
        if self.groups.contains_key(&number) {
            return self.shared.end_command(id, Ok(CommandReply::Done));
        }
        match Group::start(Recovered::empty(spec.clone(), replica), true, &self.shared) {
            Ok(mut group) => {
                // What the group writes from here on follows this record in the log.
                let ticket = self.shared.log.push(Record::GroupCreated {
                    spec,
                    replica,
                    index: LogIndex(BASE),
                    term: Term(BASE),
                });
                self.durable_commands.insert((number, ticket), id);
                self.created.insert(number, ticket);
                if group
                    .spec
                    .members
                    .first()
                    .is_some_and(|member| member.replica == group.replica)
                {
                    group.campaign();
                }
                self.groups.insert(number, group);
                self.dirty.insert(number);
            }
            Err(error) => self.shared.end_command(id, Err(error)),
        }
    }

    fn refuse_group(&self, spec: &GroupSpec, replica: ReplicaId) -> Option<String> {
        let group = spec.group;
        let members = spec.members.len();
        if !matches!(members, 1 | 3 | 5) {
            return Some(format!("group {group} has {members} members: choose 1, 3 or 5"));
        }
        let distinct: BTreeSet<_> = spec.members.iter().map(|member| member.replica).collect();
        if distinct.len() != members || distinct.iter().any(|replica| replica.get() == 0) {
            return Some(format!(
                "the replica numbers of group {group} are not distinct and above 0"
            ));
        }
        if let Some(problem) = refuse_replica(spec, replica, self.shared.config.disk) {
            return Some(problem);
        }
        if let Some(base) = spec.base
            && (base.group == group || base.blocks > spec.size_blocks)
        {
            let (of, blocks) = (base.group, base.blocks);
            return Some(format!(
                "group {group} of {} blocks cannot be a clone of {blocks} blocks of group {of}",
                spec.size_blocks
            ));
        }
        if let Some(dropped) = self.dropped.get(&group).filter(|dropped| **dropped >= replica) {
            return Some(format!(
                "replica {dropped} of group {group} was dropped from this disk for good: a new one needs a higher number"
            ));
        }
        if let Some(present) = self.groups.get(&group) {
            if present.spec != *spec {
                return Some(format!(
                    "group {group} exists with other members, another size or another base"
                ));
            }
            let found = present.replica;
            return (found != replica).then(|| {
                format!("this disk holds replica {found} of group {group}: drop that before replica {replica} is made")
            });
        }
        (self.groups.len() >= GROUPS_MAX).then(|| format!("the disk holds {GROUPS_MAX} groups already"))
    }

    fn drop_group(&mut self, id: CommandId, number: GroupId) {
        let Some(mut group) = self.groups.remove(&number) else {
            return self.shared.end_command(id, Ok(CommandReply::Done));
        };
        group.abandon(&mut self.shared);
        // What it was reading must not be taken for something that a successor under another number has asked for.
        self.shared.reads.retain(|_, purpose| purpose.group() != Some(number));
        self.shared.reading.forget(number);
        self.shared.repairs.forget(number);
        self.scrub.forget(number);
        self.collector.forget(number);
        for other in self.groups.values_mut() {
            other.base_gone(&mut self.shared, number);
        }
        for (block, count) in group.data() {
            self.shared.segments.gone(block, count);
        }
        self.checkpoints.abandon(&mut self.shared, &mut self.groups);
        self.created.remove(&number);
        self.dropped.insert(number, group.replica);
        let ticket = self.shared.log.push(Record::GroupDropped(number));
        self.durable_commands.insert((number, ticket), id);
    }

    /// Hands over what is still led here; replies when nothing is.
    fn continue_hand_over(&mut self) {
        let Some(id) = self.hand_over else { return };
        let mut leads = false;
        for (number, group) in &mut self.groups {
            // A group of one has nobody to hand over to.
            if group.is_leader() && group.membership().voters.len() > 1 {
                leads = true;
                if let Some(successor) = group.successor(&self.shared) {
                    group.transfer(&mut self.shared, successor);
                    self.dirty.insert(*number);
                }
            }
        }
        if !leads {
            self.hand_over = None;
            self.shared.end_command(id, Ok(CommandReply::Done));
        }
    }
}

/// Why a disk cannot hold this replica, if so.
fn refuse_replica(spec: &GroupSpec, replica: ReplicaId, disk: DiskId) -> Option<String> {
    let group = spec.group;
    if replica.get() == 0 {
        return Some(format!("a replica of group {group} needs a number above 0"));
    }
    match spec.members.iter().find(|member| member.replica == replica) {
        Some(member) if member.disk != disk => Some(format!(
            "replica {replica} of group {group} is on disk {}, not {disk}",
            member.disk
        )),
        Some(_) => None,
        None => {
            let last = spec.replica_last();
            (replica < last)
                .then(|| format!("replica {replica} of group {group} joins later: its number is above {last}"))
        }
    }
}
