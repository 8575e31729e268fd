//! What a run itself has planned: faults, their ends, and what its users do next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use cairn_core::event::DeviceId;

use crate::scenario::Direction;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Act {
    /// The fault at this place of the scenario.
    Fault(usize),
    /// A client asks for something.
    Submit {
        volume: usize,
        slot: usize,
        opening: u64,
    },
    /// A client that lost its device opens the volume again.
    Reopen {
        volume: usize,
        slot: usize,
    },
    /// A client that was left behind asks for something, too.
    Stray {
        volume: usize,
        device: DeviceId,
    },
    /// A client that was left behind by its user is closed.
    CloseStray {
        volume: usize,
        device: DeviceId,
    },
    CheckBounds,
    /// A node that is down starts.
    Start(usize),
    /// A node loses power, if it is still in this life.
    Crash {
        node: usize,
        life: u64,
        down: u64,
    },
    /// A node is cut off from all others, one way or both, for so long.
    Isolate {
        node: usize,
        direction: Direction,
        cut: u64,
    },
    /// Everything that the others send to a node takes so long.
    Delay {
        node: usize,
        by: u64,
    },
    /// The first user of a volume goes on elsewhere, if it is on this node.
    Away {
        volume: usize,
        node: usize,
    },
    /// The connection from a node to another breaks.
    BreakLink(usize, usize),
    /// A node that was paused goes on.
    Resume(usize),
    /// One fault less cuts this direction.
    Join(usize, usize),
    Unclog(usize, usize),
    FastDisk(usize),
    Readable(usize),
    ClockRate(usize, i64),
    /// A replica of a volume that is lost gets a successor.
    Replace {
        volume: usize,
        node: usize,
    },
    /// The control plane looks how far the replacement of a replica is.
    Administer(usize),
    /// The control plane looks after a volume's snapshots.
    Snapshots(usize),
    /// A volume's clones are made and used.
    Clones(usize),
    /// The control plane looks whether a volume has grown.
    Grow(usize),
    /// Somebody asks for a command of the meta group.
    Propose,
    /// A volume's clients ask for what they usually ask for.
    Calm(usize),
}

impl Act {
    /// Whether it ends a fault, or is one: what does not happen any more when all heals or stays.
    const fn is_fault(self) -> bool {
        !matches!(
            self,
            Self::Submit { .. }
                | Self::Reopen { .. }
                | Self::Stray { .. }
                | Self::CloseStray { .. }
                | Self::CheckBounds
                | Self::Replace { .. }
                | Self::Administer(_)
                | Self::Snapshots(_)
                | Self::Clones(_)
                | Self::Grow(_)
                | Self::Calm(_)
                | Self::Propose
        )
    }
}

#[derive(Default)]
pub(super) struct Agenda {
    times: BinaryHeap<Reverse<(u64, u64)>>,
    acts: BTreeMap<u64, Act>,
    last: u64,
}

impl Agenda {
    pub(super) fn plan(&mut self, at: u64, act: Act) {
        self.last += 1;
        self.times.push(Reverse((at, self.last)));
        self.acts.insert(self.last, act);
    }

    pub(super) fn next_at(&self) -> Option<u64> {
        self.times.peek().map(|Reverse((at, _))| *at)
    }

    /// The next act; `None` if it was taken off, too.
    pub(super) fn pop(&mut self) -> Option<Act> {
        let Reverse((_, number)) = self.times.pop()?;
        self.acts.remove(&number)
    }

    /// Takes off every fault and every end of one.
    pub(super) fn drop_faults(&mut self) {
        self.acts.retain(|_, act| !act.is_fault());
    }
}
