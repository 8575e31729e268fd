//! Simulated links: one per ordered pair of cores, as a TCP connection that its first end dials and only sends on.
//!
//! A message leaves the core into the driver's queue (bounded by the core), from there into the socket (bounded here),
//! and arrives in order after a seeded delay. A blocked link (a partition, one way or both) holds what is in the socket;
//! after a while the connection breaks: what was sent is lost, but for a prefix that may already be in the receiver's
//! buffers and arrives late, even behind what a newer connection carries. A receiver that is paused stops draining.

use std::collections::VecDeque;

use cairn_history::rng::Rng;

use crate::wire::Packet;

/// What fits between the two ends: two socket buffers.
const SOCKET_BYTES_MAX: usize = 512 << 10;

/// A frame under way.
pub struct Parcel {
    pub packet: Packet,
    /// What it counts for in the core's bound.
    pub accounted: usize,
    pub arrives_at: u64,
}

#[derive(Default)]
pub struct Link {
    /// Dialled and accepted.
    pub is_up: bool,
    /// Nothing gets through, in this direction.
    pub is_blocked: bool,
    /// Nanoseconds more that everything takes, from and to: the link is clogged.
    pub clog: Option<(u64, u64)>,
    /// The next frame loses a bit; if so it says, the next one with payload.
    pub garbles_next: Option<bool>,
    /// A frame has lost a bit, some time.
    pub has_garbled: bool,
    /// Counts connections, so that what belongs to an older one is told apart.
    pub generation: u64,
    queue: VecDeque<Parcel>,
    socket: VecDeque<Parcel>,
    socket_bytes: usize,
    last_arrival: u64,
    /// When the first parcel got stuck; the connection breaks some time after.
    pub stuck_since: Option<u64>,
}

impl Link {
    pub fn send(&mut self, packet: Packet, accounted: usize) {
        self.queue.push_back(Parcel {
            packet,
            accounted,
            arrives_at: 0,
        });
    }

    /// Moves parcels from the queue into the socket. Returns what the driver's queue shrank by, and the arrival of each.
    pub fn pump(&mut self, now: u64, latency: (u64, u64), rng: &mut Rng) -> (usize, Vec<u64>) {
        let mut drained = 0;
        let mut arrivals = Vec::new();
        while let Some(next) = self.queue.front() {
            if self.socket_bytes > 0 && self.socket_bytes + next.packet.len() > SOCKET_BYTES_MAX {
                break;
            }
            let Some(mut parcel) = self.queue.pop_front() else {
                break;
            };
            // A gigabyte a second beside the latency.
            let mut delay = rng.between(latency.0, latency.1) + parcel.packet.len() as u64;
            if let Some((from, to)) = self.clog {
                delay += rng.between(from, to);
            }
            parcel.arrives_at = self.last_arrival.max(now + delay);
            self.last_arrival = parcel.arrives_at;
            arrivals.push(parcel.arrives_at);
            drained += parcel.accounted;
            self.socket_bytes += parcel.packet.len();
            self.socket.push_back(parcel);
        }
        (drained, arrivals)
    }

    /// The next parcel, if it has arrived.
    pub fn receive(&mut self, now: u64) -> Option<Parcel> {
        if self.socket.front()?.arrives_at > now {
            return None;
        }
        let parcel = self.socket.pop_front()?;
        self.socket_bytes -= parcel.packet.len();
        Some(parcel)
    }

    /// What the driver still holds.
    pub fn queued_bytes(&self) -> usize {
        self.queue.iter().map(|parcel| parcel.accounted).sum()
    }

    /// Parcels in the queue and in the socket.
    pub fn parcels(&self) -> usize {
        self.queue.len() + self.socket.len()
    }

    pub fn has_parcels(&self) -> bool {
        !self.socket.is_empty() || !self.queue.is_empty()
    }

    /// Breaks the connection. Returns the bytes dropped from the driver's queue, and the parcels that the receiver's
    /// buffers held already.
    pub fn break_off(&mut self, rng: &mut Rng) -> (usize, Vec<Parcel>) {
        self.is_up = false;
        self.generation += 1;
        self.stuck_since = None;
        self.last_arrival = 0;
        self.socket_bytes = 0;
        let dropped = self.queue.drain(..).map(|parcel| parcel.accounted).sum();
        let kept = if rng.chance(50) {
            rng.pick(self.socket.len() + 1)
        } else {
            0
        };
        let late = self.socket.drain(..).take(kept).collect();
        (dropped, late)
    }
}
