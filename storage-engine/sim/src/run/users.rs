//! The users of the volumes: clients that come back after whatever happened to them, somewhere.

use std::ops::Range;

use cairn_api::block::Tag;
use cairn_core::event::{Command, DeviceId, GroupSpec};

use crate::cluster::{MICROSECOND, MILLISECOND, SECOND};
use crate::scenario::{ClientPlan, Kind, Move, Scenario};
use crate::workload::{Mix, Workload};

use super::Run;
use super::agenda::Act;

/// Stamps of one run's volumes are so far apart.
const STAMPS_APART: u64 = 1 << 36;
/// The stamps of what a volume's users write.
pub(super) fn stamps_of(volume: usize) -> Range<u64> {
    let first = STAMPS_APART * volume as u64;
    first..first + STAMPS_APART
}

/// Requests under way and microseconds between them in a burst.
const BURST: (usize, u64) = (16, 700);

/// How long a user that has gone away is busy: longer than any lease.
const AWAY: u64 = 2 * SECOND;

/// One user of a volume.
pub(super) struct Slot {
    pub(super) plan: ClientPlan,
    /// Where it is, or wants to be.
    pub(super) node: usize,
    pub(super) device: Option<DeviceId>,
    /// Counts openings, so that what was planned for an earlier one is told apart.
    opening: u64,
}

/// A volume's users.
pub(super) struct Users {
    /// The volume as it was created.
    pub(super) created: GroupSpec,
    /// The highest number that a replica of it ever had.
    pub(super) replica_last: u64,
    pub(super) load: Workload,
    pub(super) slots: Vec<Slot>,
    usual: Mix,
    pub(super) is_bursting: bool,
    /// It is to have a size that is not applied anywhere yet.
    pub(super) is_growing: bool,
    /// Nobody asks for anything any more.
    pub(super) is_over: bool,
}

impl Users {
    pub(super) fn new(scenario: &Scenario, volume: usize, spec: GroupSpec) -> Self {
        let plan = &scenario.volumes[volume];
        let created = spec.clone();
        let mut load = Workload::with_stamps_after(spec, scenario.seed + volume as u64, stamps_of(volume).start);
        load.mix = Mix {
            write: plan.write_percent,
            unaligned: plan.unaligned_percent,
            trim: plan.trim_percent,
            zero: plan.zero_percent,
            flush: 1,
        };
        load.blocks_max = plan.blocks_max.min(plan.blocks);
        load.hot_blocks = plan.hot_blocks;
        // While disks are damaged or refuse to read, and peers are away, a block may be out of reach for a time.
        load.tolerates_io_errors = scenario.faults.iter().any(|planned| {
            let kind = planned.fault.kind();
            matches!(kind, Kind::ReadErrors | Kind::Misreads) || kind.is_damage()
        });
        let slot = |plan: &ClientPlan| Slot {
            plan: plan.clone(),
            node: plan.node,
            device: None,
            opening: 0,
        };
        Self {
            replica_last: created.replica_last().get(),
            created,
            usual: load.mix,
            load,
            slots: plan.clients.iter().map(slot).collect(),
            is_bursting: false,
            is_growing: false,
            is_over: false,
        }
    }

    /// Trims and zeroes instead of writes.
    pub(super) fn storm(&mut self) {
        self.load.mix = Mix {
            write: 20,
            unaligned: 10,
            trim: 30,
            zero: 25,
            flush: 1,
        };
    }

    pub(super) fn calm(&mut self) {
        self.load.mix = self.usual;
        self.is_bursting = false;
    }

    fn index_of(&self, device: DeviceId) -> Option<usize> {
        self.load.clients.iter().position(|client| client.device == device)
    }
}

impl Run<'_> {
    pub(super) fn begin_users(&mut self, volume: usize) {
        for slot in 0..self.users[volume].slots.len() {
            let at = self.cluster.now + self.rng.below(300 * MILLISECOND);
            self.agenda.plan(at, Act::Reopen { volume, slot });
        }
    }

    /// Opens the volume where the user wants it, now or when that node serves.
    pub(super) fn reopen(&mut self, volume: usize, slot: usize) {
        let users = &mut self.users[volume];
        if users.is_over || users.slots[slot].device.is_some() {
            return;
        }
        if self.lost.contains(&users.slots[slot].node) {
            users.slots[slot].node = self.rng.pick(self.scenario.nodes);
        }
        let node = users.slots[slot].node;
        if self.cluster.nodes[node].recovered.is_none() {
            let at = self.cluster.now + self.rng.between(20 * MILLISECOND, 300 * MILLISECOND);
            self.agenda.plan(at, Act::Reopen { volume, slot });
            return;
        }
        users.load.open(&mut self.cluster, node);
        let state = &mut users.slots[slot];
        if let Some(client) = users.load.clients.last_mut() {
            client.may_write = state.plan.writes;
            client.depth = state.plan.depth;
            state.device = Some(client.device);
            self.devices.insert(client.device, volume);
        }
        state.opening += 1;
        let opening = state.opening;
        self.agenda
            .plan(self.cluster.now, Act::Submit { volume, slot, opening });
    }

    /// A user asks for something, and plans when to ask again.
    pub(super) fn submit(&mut self, volume: usize, slot: usize, opening: u64) {
        let users = &mut self.users[volume];
        let is_void = users.is_over || users.slots[slot].opening != opening;
        let Some(device) = users.slots[slot].device.filter(|_| !is_void) else {
            return;
        };
        let Some(index) = users.index_of(device) else { return };
        let plan = &users.slots[slot].plan;
        let (depth, gap_us) = if users.is_bursting {
            BURST
        } else {
            (plan.depth, plan.gap_us)
        };
        if users.load.clients[index].refused.is_some() {
            let pause = self.rng.between(10 * MILLISECOND, 2 * SECOND);
            self.leave(volume, slot, pause);
            return;
        }
        if users.load.clients[index].under_way() < depth {
            users.load.submit_one(&mut self.cluster, index);
        }
        let at = self.cluster.now + self.rng.between(1, 2 * gap_us * MICROSECOND);
        self.agenda.plan(at, Act::Submit { volume, slot, opening });
    }

    /// A user closes its device, and comes back after a pause.
    pub(super) fn leave(&mut self, volume: usize, slot: usize, pause: u64) {
        let users = &mut self.users[volume];
        if let Some(device) = users.slots[slot].device.take()
            && let Some(index) = users.index_of(device)
        {
            users.load.close(&mut self.cluster, index);
        }
        self.agenda.plan(self.cluster.now + pause, Act::Reopen { volume, slot });
    }

    /// A user goes on at another node.
    pub(super) fn relocate(&mut self, volume: usize, slot: usize, to: usize, how: Move) {
        let now = self.cluster.now;
        let users = &mut self.users[volume];
        users.slots[slot].node = to;
        if how == Move::Orderly {
            let pause = self.rng.between(MILLISECOND, 100 * MILLISECOND);
            return self.leave(volume, slot, pause);
        }
        // What it leaves behind goes on for a while, as the requests of a node do that does not know yet.
        if let Some(device) = users.slots[slot].device.take() {
            let at = now + self.rng.between(10 * MILLISECOND, 3 * SECOND);
            self.agenda.plan(at, Act::CloseStray { volume, device });
            self.stray(volume, device);
        }
        if how != Move::Contending && self.cluster.nodes[to].recovered.is_some() {
            let spec = self.users[volume].load.spec.clone();
            let force = how == Move::Forced;
            self.cluster.start_command(to, Command::Detach { spec, force });
        }
        let at = now + self.rng.below(100 * MILLISECOND);
        self.agenda.plan(at, Act::Reopen { volume, slot });
    }

    /// The first user goes on at another node, if it is on this one, and is busy: what it leaves behind goes on reading there,
    /// while others see it write elsewhere.
    pub(super) fn move_away(&mut self, volume: usize, node: usize) {
        let users = &self.users[volume];
        if users.is_over || users.slots.is_empty() {
            return;
        }
        let is_here = users.slots[0].node == node;
        self.users[volume].is_bursting = true;
        self.agenda.plan(self.cluster.now + AWAY, Act::Calm(volume));
        if !is_here {
            return;
        }
        let to = (node + 1 + self.rng.pick(self.scenario.nodes - 1)) % self.scenario.nodes;
        self.relocate(volume, 0, to, Move::Forced);
    }

    /// What is left behind keeps asking, too, until it is closed or refused.
    pub(super) fn stray(&mut self, volume: usize, device: DeviceId) {
        let users = &mut self.users[volume];
        let Some(index) = users.index_of(device).filter(|_| !users.is_over) else {
            return;
        };
        if users.load.clients[index].refused.is_none() && users.load.clients[index].under_way() < 8 {
            users.load.submit_one(&mut self.cluster, index);
        }
        let at = self.cluster.now + self.rng.between(MILLISECOND, 40 * MILLISECOND);
        self.agenda.plan(at, Act::Stray { volume, device });
    }

    pub(super) fn close_stray(&mut self, volume: usize, device: DeviceId) {
        let users = &mut self.users[volume];
        if let Some(index) = users.index_of(device) {
            users.load.close(&mut self.cluster, index);
        }
    }

    pub(super) fn on_reply(&mut self, node: usize, device: DeviceId, tag: Tag) {
        if let Some(volume) = self.devices.get(&device) {
            self.users[*volume].load.on_reply(&mut self.cluster, node, device, tag);
        }
    }

    /// A node's process has ended: its clients are gone, and come back when it does, or elsewhere.
    pub(super) fn bury(&mut self, node: usize, life: u64) {
        let now = self.cluster.now;
        for volume in 0..self.users.len() {
            self.users[volume].load.node_died(now, node, life);
            for slot in 0..self.users[volume].slots.len() {
                let users = &mut self.users[volume];
                let is_gone = users.slots[slot]
                    .device
                    .is_some_and(|device| users.index_of(device).is_none());
                if !is_gone {
                    continue;
                }
                users.slots[slot].device = None;
                if self.rng.chance(50) {
                    users.slots[slot].node = self.rng.pick(self.scenario.nodes);
                }
                let at = now + self.rng.between(10 * MILLISECOND, SECOND);
                self.agenda.plan(at, Act::Reopen { volume, slot });
            }
        }
    }
}
