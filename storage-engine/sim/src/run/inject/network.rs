//! Faults of the network, and how several of one link add up.

use crate::cluster::MICROSECOND;
use crate::scenario::{Direction, Fault};

use super::super::Run;
use super::super::agenda::Act;

impl Run<'_> {
    pub(super) fn disturb_network(&mut self, fault: &Fault) -> Option<()> {
        let pair = |run: &Self, from, to| {
            let pair = (run.resolve(from)?, run.resolve(to)?);
            (pair.0 != pair.1).then_some(pair)
        };
        match *fault {
            Fault::Partition {
                ref nodes,
                direction,
                for_us,
            } => {
                let mut inside: Vec<usize> = nodes.iter().filter_map(|node| self.resolve(*node)).collect();
                inside.sort_unstable();
                inside.dedup();
                if inside.is_empty() || inside.len() == self.scenario.nodes {
                    return None;
                }
                self.partition(&inside, direction, for_us * MICROSECOND);
            }
            Fault::OneWay { from, to, for_us } => {
                let (from, to) = pair(self, from, to)?;
                self.cut(from, to, for_us * MICROSECOND);
            }
            Fault::Clog {
                from,
                to,
                delay_us,
                for_us,
            } => {
                let (from, to) = pair(self, from, to)?;
                let delay = delay_us * MICROSECOND;
                self.cluster.clog(from, to, Some((delay / 2, delay)));
                self.after_us(for_us, Act::Unclog(from, to));
            }
            Fault::BreakLink { from, to } => {
                let (from, to) = pair(self, from, to)?;
                self.cluster.break_link(from, to);
            }
            Fault::Garble { from, to, payload } => {
                let (from, to) = pair(self, from, to)?;
                self.cluster.garble(from, to, payload);
            }
            _ => return None,
        }
        Some(())
    }

    pub(in super::super) fn partition(&mut self, inside: &[usize], direction: Direction, length: u64) {
        let outside = (0..self.scenario.nodes).filter(|node| !inside.contains(node));
        let pairs: Vec<(usize, usize)> = outside
            .flat_map(|other| inside.iter().map(move |one| (*one, other)))
            .collect();
        for (one, other) in pairs {
            if direction != Direction::In {
                self.cut(one, other, length);
            }
            if direction != Direction::Out {
                self.cut(other, one, length);
            }
        }
    }

    pub(super) fn cut(&mut self, from: usize, to: usize, length: u64) {
        let cuts = self.cuts.entry((from, to)).or_default();
        *cuts += 1;
        if *cuts == 1 {
            self.cluster.block(from, to);
        }
        self.agenda.plan(self.cluster.now + length, Act::Join(from, to));
    }

    /// Everything that the others send to a node takes so long.
    pub(in super::super) fn delay_to(&mut self, node: usize, by: u64) {
        for other in (0..self.scenario.nodes).filter(|other| *other != node) {
            self.cluster.clog(other, node, Some((by, by)));
        }
    }

    /// One fault less cuts this direction.
    pub(in super::super) fn join(&mut self, from: usize, to: usize) {
        let Some(cuts) = self.cuts.get_mut(&(from, to)) else {
            return;
        };
        *cuts -= 1;
        if *cuts == 0 {
            self.cuts.remove(&(from, to));
            self.cluster.unblock(from, to);
        }
    }
}
