//! The faults as they come.
//!
//! Each says first whether it can take effect now: a node that is down cannot crash. What did not take effect is not
//! counted.

mod ambush;
mod damage;
mod disks;
mod network;
mod nodes;

use crate::cluster::MICROSECOND;
use crate::scenario::{Fault, Target};

use super::agenda::Act;
use super::{Run, group_of};

pub(super) use ambush::Ambushes;

impl Run<'_> {
    pub(super) fn inject(&mut self, place: usize) {
        let fault = &self.scenario.faults[place].fault;
        let trace = &self.cluster.trace;
        trace.say(self.cluster.now, format_args!("=== {fault:?}"));
        if self.take_effect(fault).is_some() {
            self.count(fault.kind());
        }
    }

    /// Who that is now, if anybody.
    fn resolve(&self, target: Target) -> Option<usize> {
        match target {
            Target::Node(node) => Some(node),
            Target::Leader(volume) => self.cluster.leader(group_of(volume)),
            Target::User(volume) => self.users[volume].slots.first().map(|slot| slot.node),
        }
    }

    /// The same, if it runs.
    fn running(&self, target: Target) -> Option<usize> {
        self.resolve(target)
            .filter(|node| self.cluster.nodes[*node].is_running())
    }

    /// Carries out an act after so many microseconds.
    fn after_us(&mut self, us: u64, act: Act) {
        self.agenda.plan(self.cluster.now + us * MICROSECOND, act);
    }

    fn take_effect(&mut self, fault: &Fault) -> Option<()> {
        match fault {
            Fault::Crash { .. }
            | Fault::Kill { .. }
            | Fault::PowerCut { .. }
            | Fault::Pause { .. }
            | Fault::HandOver { .. }
            | Fault::ClockJump { .. }
            | Fault::ClockRate { .. } => self.disturb_node(fault),
            Fault::Partition { .. }
            | Fault::OneWay { .. }
            | Fault::Clog { .. }
            | Fault::BreakLink { .. }
            | Fault::Garble { .. } => self.disturb_network(fault),
            Fault::SlowDisk { .. }
            | Fault::Stall { .. }
            | Fault::WriteError { .. }
            | Fault::ReadErrors { .. }
            | Fault::Misreads { .. }
            | Fault::HiddenTail { .. } => self.disturb_disk(fault),
            Fault::Rot { .. }
            | Fault::BadSectors { .. }
            | Fault::Phantom { .. }
            | Fault::Misdirected { .. }
            | Fault::Wipe { .. }
            | Fault::Shrink { .. } => self.damage(fault),
            Fault::VoteAmbush { .. }
            | Fault::LeaderAmbush { .. }
            | Fault::TransferTrap { .. }
            | Fault::RestartTrap { .. }
            | Fault::LeaseTrap { .. }
            | Fault::ResendTrap { .. }
            | Fault::LateAmbush { .. }
            | Fault::TornAmbush { .. }
            | Fault::CheckpointAmbush { .. } => self.lay_ambush(fault),
            Fault::Transfer { .. }
            | Fault::Burst { .. }
            | Fault::TrimStorm { .. }
            | Fault::Grow { .. }
            | Fault::Move { .. }
            | Fault::Replace { .. } => self.ask(fault),
        }
    }

    /// What users and the control plane ask for at a bad moment.
    fn ask(&mut self, fault: &Fault) -> Option<()> {
        match *fault {
            Fault::Transfer { volume, to } => self.transfer(volume, to),
            Fault::Replace { volume, node, to } => self.replace(volume, self.resolve(node)?, to),
            Fault::Grow { volume, blocks } => self.grow(volume, blocks),
            Fault::Burst { volume, for_us } => {
                self.users[volume].is_bursting = true;
                self.after_us(for_us, Act::Calm(volume));
                Some(())
            }
            Fault::TrimStorm { volume, for_us } => {
                self.users[volume].storm();
                self.after_us(for_us, Act::Calm(volume));
                Some(())
            }
            Fault::Move {
                volume,
                client,
                to,
                how,
            } => {
                self.relocate(volume, client, to, how);
                Some(())
            }
            _ => None,
        }
    }
}
