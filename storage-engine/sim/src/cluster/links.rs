//! The cluster's network: sending, arriving, breaking, partitions.

use cairn_api::ids::DiskId;
use cairn_core::event::Event;
use cairn_format::peer::PeerMessage;

use super::{Cluster, Happening, MICROSECOND, MILLISECOND, SECOND, disk_id};
use crate::wire;

impl Cluster {
    pub(super) fn send(&mut self, from: usize, to: DiskId, message: &PeerMessage) {
        let to = self.number_of(to);
        assert_ne!(from, to, "a message to oneself");
        let accounted = cairn_core::message_bytes(message);
        let Some(link) = self.links.get_mut(&(from, to)) else {
            return;
        };
        if !link.is_up {
            return;
        }
        link.send(wire::encode(message), accounted);
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
                    to: disk_id(to),
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
        if let Some(parcel) = link.receive(now) {
            let messages = wire::decode(&parcel.bytes);
            self.deliver(
                to,
                Event::Peer {
                    from: disk_id(from),
                    messages,
                },
            );
            self.pump(from, to);
        }
    }

    pub(super) fn plan_arrivals(&mut self, from: usize, to: usize) {
        let Some(link) = self.links.get(&(from, to)) else {
            return;
        };
        let generation = link.generation;
        // More than there can be parcels in a socket of this size matters little: an arrival without a parcel is nothing.
        for i in 0..512 {
            self.plan(self.now + i * MICROSECOND, Happening::Arrival { from, to, generation });
        }
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
        self.deliver(from, Event::PeerUp(disk_id(to)));
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
                    bytes: parcel.bytes,
                },
            );
        }
        let drained = Event::PeerDrained {
            to: disk_id(to),
            bytes: dropped,
        };
        let down = Event::PeerDown(disk_id(to));
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
            .values()
            .filter(|happening| matches!(happening, Happening::Late { .. }))
            .count()
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

    pub(super) fn number_of(&self, disk: DiskId) -> usize {
        self.nodes
            .iter()
            .position(|node| node.config.disk == disk)
            .unwrap_or_else(|| panic!("no {disk:?} here"))
    }
}
