//! The cluster's network: sending, arriving, breaking, partitions.

use cairn_api::ids::DiskId;
use cairn_core::event::Event;
use cairn_format::peer::PeerMessage;

use super::{Cluster, Happening, MICROSECOND, MILLISECOND, SECOND};
use crate::network::Parcel;
use crate::wire::{self, Packet};

impl Cluster {
    pub(super) fn send(&mut self, from: usize, to: DiskId, message: &PeerMessage) {
        let to = self.number_of(to);
        assert_ne!(from, to, "a message to oneself");
        let accounted = cairn_core::message_bytes(message);
        if !self.links.get(&(from, to)).is_some_and(|link| link.is_up) {
            return;
        }
        let packet = wire::encode(message);
        self.check_sent(from, to, &packet);
        let Some(link) = self.links.get_mut(&(from, to)) else {
            return;
        };
        link.send(packet, accounted);
        self.pump(from, to);
    }

    pub(super) fn pump(&mut self, from: usize, to: usize) {
        let now = self.now;
        let latency = self.setup.link_latency;
        let Some(link) = self.links.get_mut(&(from, to)) else {
            return;
        };
        let (drained, arrivals) = link.pump(now, latency, &mut self.rng);
        let generation = link.generation;
        for at in arrivals {
            self.plan(at, Happening::Arrival { from, to, generation });
        }
        self.note_stuck(from, to);
        if drained > 0 {
            self.deliver(
                from,
                Event::PeerDrained {
                    to: self.nodes[to].config.disk,
                    bytes: drained,
                },
            );
        }
    }

    /// A connection that cannot deliver breaks after a while.
    pub(super) fn note_stuck(&mut self, from: usize, to: usize) {
        let now = self.now;
        let patience = self.rng.between(800 * MILLISECOND, 4 * SECOND);
        let Some(link) = self.links.get_mut(&(from, to)) else {
            return;
        };
        if link.is_up && link.is_blocked && link.has_parcels() && link.stuck_since.is_none() {
            link.stuck_since = Some(now);
            let generation = link.generation;
            self.plan(now + patience, Happening::Break { from, to, generation });
        }
    }

    pub(super) fn arrive(&mut self, from: usize, to: usize, generation: u64) {
        let now = self.now;
        if self.nodes[to].paused_until > now {
            let resumed = self.nodes[to].paused_until;
            self.plan(resumed, Happening::Arrival { from, to, generation });
            return;
        }
        let Some(link) = self.links.get_mut(&(from, to)) else {
            return;
        };
        if link.generation != generation || link.is_blocked {
            return;
        }
        let mut arrived: Vec<Parcel> = std::iter::from_fn(|| link.receive(now)).collect();
        if arrived.is_empty() {
            return;
        }
        if let Some(wants_payload) = link.garbles_next {
            let is_fit = |parcel: &&mut Parcel| !wants_payload || parcel.packet.has_payload();
            if let Some(parcel) = arrived.iter_mut().find(is_fit) {
                link.garbles_next = None;
                link.has_garbled = true;
                parcel.packet.garble(self.rng.pick(4096));
            }
        }
        for parcel in arrived {
            self.receive(from, to, &parcel.packet);
        }
        self.pump(from, to);
    }

    /// A frame has arrived. One whose checksums do not hold ends the connection.
    pub(super) fn receive(&mut self, from: usize, to: usize, packet: &Packet) {
        if !self.nodes[to].is_running() {
            return;
        }
        match wire::decode(packet, self.setup.mutant) {
            Ok(messages) => {
                let from = self.nodes[from].config.disk;
                self.deliver(to, Event::Peer { from, messages });
            }
            Err(error) => {
                let garbled = self.links.get_mut(&(from, to)).is_some_and(|link| link.has_garbled);
                assert!(
                    garbled,
                    "[error] node {to} cannot decode what node {from} sent: {error}"
                );
                self.break_link(from, to);
            }
        }
    }

    /// The next frame on its way loses a bit, or the next one with payload.
    pub fn garble(&mut self, from: usize, to: usize, wants_payload: bool) {
        if let Some(link) = self.links.get_mut(&(from, to)) {
            link.garbles_next = Some(wants_payload);
        }
    }

    pub(super) fn plan_arrivals(&mut self, from: usize, to: usize) {
        let Some(link) = self.links.get(&(from, to)) else {
            return;
        };
        // Everything that has arrived meanwhile is taken at once; what is still under way has its own arrival planned.
        let generation = link.generation;
        self.plan(self.now + MICROSECOND, Happening::Arrival { from, to, generation });
    }

    pub(super) fn plan_dial(&mut self, from: usize, to: usize) {
        let delay = self.rng.between(MILLISECOND, 150 * MILLISECOND);
        self.plan(self.now + delay, Happening::Dial { from, to });
    }

    pub(super) fn dial(&mut self, from: usize, to: usize) {
        let running = self.nodes[from].is_running() && self.nodes[to].is_running();
        let Some(link) = self.links.get_mut(&(from, to)) else {
            return;
        };
        if link.is_up || !running {
            return;
        }
        if link.is_blocked || self.nodes[from].recovered.is_none() || self.nodes[to].recovered.is_none() {
            self.plan_dial(from, to);
            return;
        }
        link.is_up = true;
        self.deliver(from, Event::PeerUp(self.nodes[to].config.disk));
    }

    pub fn break_link(&mut self, from: usize, to: usize) {
        let Some(link) = self.links.get_mut(&(from, to)) else {
            return;
        };
        if !link.is_up {
            return;
        }
        let (dropped, late) = link.break_off(&mut self.rng);
        let life = self.nodes[to].life;
        let delay = self.rng.below(800 * MILLISECOND);
        for (i, parcel) in (0..).zip(late) {
            let at = self.now + delay + i * MICROSECOND;
            self.plan(
                at,
                Happening::Late {
                    from,
                    to,
                    life,
                    packet: parcel.packet,
                },
            );
        }
        let drained = Event::PeerDrained {
            to: self.nodes[to].config.disk,
            bytes: dropped,
        };
        let down = Event::PeerDown(self.nodes[to].config.disk);
        if self.rng.chance(50) {
            self.deliver(from, drained);
            self.deliver(from, down);
        } else {
            self.deliver(from, down);
            self.deliver(from, drained);
        }
        self.plan_dial(from, to);
    }

    /// Parcels of broken connections that are still to come.
    pub fn late_parcels(&self) -> usize {
        self.agenda
            .iter()
            .filter(|planned| matches!(planned.happening, Happening::Late { .. }))
            .count()
    }

    /// Everything that `from` sends to `to` takes so much longer from here on; `None` for no longer.
    pub fn clog(&mut self, from: usize, to: usize, clog: Option<(u64, u64)>) {
        if let Some(link) = self.links.get_mut(&(from, to)) {
            link.clog = clog;
        }
    }

    /// Whether either direction between two nodes is clogged.
    pub fn is_clogged(&self, one: usize, other: usize) -> bool {
        [(one, other), (other, one)]
            .iter()
            .any(|pair| self.links.get(pair).is_some_and(|link| link.clog.is_some()))
    }

    /// Stops what `from` sends to `to`, in this direction only.
    pub fn block(&mut self, from: usize, to: usize) {
        if let Some(link) = self.links.get_mut(&(from, to)) {
            link.is_blocked = true;
        }
        self.note_stuck(from, to);
    }

    pub fn unblock(&mut self, from: usize, to: usize) {
        if let Some(link) = self.links.get_mut(&(from, to)) {
            if !link.is_blocked {
                return;
            }
            link.is_blocked = false;
            link.stuck_since = None;
        }
        self.plan_arrivals(from, to);
        self.plan_dial(from, to);
    }

    /// Cuts a node off from all others, both ways.
    pub fn isolate(&mut self, number: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != number) {
            self.block(number, other);
            self.block(other, number);
        }
    }

    /// Two nodes hear each other again.
    pub fn heal_between(&mut self, one: usize, other: usize) {
        self.unblock(one, other);
        self.unblock(other, one);
    }

    /// Bytes that the driver of `from` holds for `to`.
    pub fn queued_bytes(&self, from: usize, to: usize) -> usize {
        self.links[&(from, to)].queued_bytes()
    }

    /// Every link works again.
    pub fn heal(&mut self) {
        let pairs: Vec<(usize, usize)> = self.links.keys().copied().collect();
        for (from, to) in pairs {
            self.unblock(from, to);
        }
    }

    pub(crate) fn number_of(&self, disk: DiskId) -> usize {
        self.nodes
            .iter()
            .position(|node| node.config.disk == disk)
            .unwrap_or_else(|| panic!("no {disk:?} here"))
    }
}
