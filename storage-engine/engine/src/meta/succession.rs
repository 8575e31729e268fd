//! How replicas are succeeded by others: the part of the catalogue that a disk's replacement lives in.
//!
//! A group (a volume's, or the meta group) is created with members that its log starts from, for ever. When a disk is
//! replaced, each group on it gets a [`Swap`]: a replica under a number that was never used joins on the new disk, catches
//! up, becomes a voter, and the replica on the old disk is removed. The group's own log says how far that is; what stands
//! here is the plan, which no crash can lose, and the step that was last reported of it, for people and to begin with after a
//! restart. Nothing that is reported late or twice does harm: steps only go forward, and numbers are never used again.
//!
//! The new disk may fail in its turn. It is then replaced like any other: the newcomer on it is one more replica that has to
//! leave, and the swap goes on with another newcomer.

use cairn_api::ids::{DiskId, LogIndex, NodeId, ReplicaId};
use cairn_core::event::Member;

/// How far a swap is. The order is that in which it happens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Step {
    /// The newcomer is to be made on its disk.
    Make,
    /// It is made, and is to become a member.
    Join,
    /// It is a learner, and receives what the group holds.
    CatchUp,
    /// Voters are being changed.
    Switch,
    /// The newcomer votes, and a majority knows that those who leave are no members any more. Never stands in the catalogue:
    /// a swap that is settled is gone.
    Settled,
}

impl Step {
    /// As the API shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Make => "make",
            Self::Join => "join",
            Self::CatchUp => "catch-up",
            Self::Switch => "switch",
            Self::Settled => "settled",
        }
    }

    /// Its number in the log and in the API.
    pub const fn code(self) -> u32 {
        match self {
            Self::Make => 1,
            Self::Join => 2,
            Self::CatchUp => 3,
            Self::Switch => 4,
            Self::Settled => 5,
        }
    }

    /// The step of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Make, Self::Join, Self::CatchUp, Self::Switch, Self::Settled];
        all.into_iter().find(|step| step.name() == name)
    }

    /// The step of that number, if there is one.
    pub const fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            1 => Self::Make,
            2 => Self::Join,
            3 => Self::CatchUp,
            4 => Self::Switch,
            5 => Self::Settled,
            _ => return None,
        })
    }
}

/// One replica that takes the place of another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Swap {
    /// Those that go: the replica whose place is taken, and newcomers that failed before they had taken it.
    pub leaving: Vec<Member>,
    /// The one that comes.
    pub joining: Member,
    /// How far it is.
    pub step: Step,
}

/// What has happened to a group's members since its creation, and what is to happen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Succession {
    /// The members that the group's log starts from; empty as long as nobody was ever replaced.
    pub founders: Vec<Member>,
    /// What is under way.
    pub swaps: Vec<Swap>,
    /// Replicas that are no members any more and that their disks have not reported as dropped.
    pub retired: Vec<Member>,
    /// The index, in the group's own log, of the last change of members that is known here.
    pub revision: LogIndex,
}

impl Succession {
    /// The members that the group's log starts from, if `present` are those of now.
    pub fn founders(&self, present: &[Member]) -> Vec<Member> {
        if self.founders.is_empty() {
            present.to_vec()
        } else {
            self.founders.clone()
        }
    }

    /// Whether the replica has to go.
    pub fn is_leaving(&self, replica: ReplicaId) -> bool {
        let mut leaving = self.swaps.iter().flat_map(|swap| &swap.leaving);
        leaving.any(|member| member.replica == replica)
    }

    /// Whether the group has something on the disk that would have to leave it.
    pub fn is_on(&self, present: &[Member], disk: DiskId) -> bool {
        let comes = self.swaps.iter().any(|swap| swap.joining.disk == disk);
        let stays = |member: &Member| member.disk == disk && !self.is_leaving(member.replica);
        comes || present.iter().any(stays)
    }

    /// Who remains, or comes, once `disk` is given up.
    pub fn staying(&self, present: &[Member], disk: DiskId) -> Vec<Member> {
        let present = present.iter().filter(|member| !self.is_leaving(member.replica));
        let coming = self.swaps.iter().map(|swap| &swap.joining);
        let all = present.chain(coming);
        all.filter(|member| member.disk != disk).copied().collect()
    }

    /// Plans that `joining` takes the place of what the group has on `disk`.
    pub fn plan(&mut self, present: &[Member], disk: DiskId, joining: Member) {
        if self.founders.is_empty() {
            self.founders = present.to_vec();
        }
        if let Some(swap) = self.swaps.iter_mut().find(|swap| swap.joining.disk == disk) {
            swap.leaving.push(swap.joining);
            swap.joining = joining;
            swap.step = Step::Make;
            return;
        }
        let leaving = present.iter().find(|member| member.disk == disk).copied();
        self.swaps.push(Swap {
            leaving: leaving.into_iter().collect(),
            joining,
            step: Step::Make,
        });
    }

    /// The swap by which `joining` comes.
    pub fn swap_by(&self, joining: ReplicaId) -> Option<&Swap> {
        self.swaps.iter().find(|swap| swap.joining.replica == joining)
    }

    /// Moves a swap forward; whether that is news.
    pub fn advance(&mut self, joining: ReplicaId, step: Step) -> bool {
        let swap = self.swaps.iter_mut().find(|swap| swap.joining.replica == joining);
        let Some(swap) = swap.filter(|swap| swap.step < step) else {
            return false;
        };
        swap.step = step;
        true
    }

    /// Ends a swap: the newcomer is in its place since the change of members at `revision`.
    pub fn settle(&mut self, joining: ReplicaId, revision: LogIndex) -> Option<Swap> {
        let place = self.swaps.iter().position(|swap| swap.joining.replica == joining)?;
        let swap = self.swaps.remove(place);
        self.retired.extend(&swap.leaving);
        self.revision = self.revision.max(revision);
        Some(swap)
    }

    /// The group is being deleted: nobody takes anybody's place any more, and whoever was to come is dropped.
    pub fn abandon(&mut self) -> Vec<Swap> {
        let swaps = std::mem::take(&mut self.swaps);
        self.retired.extend(swaps.iter().map(|swap| swap.joining));
        swaps
    }

    /// A replica that was no member any more is dropped; whether that is news.
    pub fn forget(&mut self, replica: ReplicaId) -> bool {
        let before = self.retired.len();
        self.retired.retain(|member| member.replica != replica);
        self.retired.len() != before
    }
}

/// A disk that another one replaces. It is kept for ever: a disk that was replaced never comes back as itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replacement {
    /// The disk that is given up.
    pub old: DiskId,
    /// Its node.
    pub old_node: NodeId,
    /// The disk that takes its place.
    pub new: DiskId,
    /// Its node.
    pub new_node: NodeId,
    /// Groups that had a replica on it.
    pub groups: u32,
    /// Those of them that still have.
    pub left: u32,
}

impl Replacement {
    /// Whether no group has a member on the old disk any more.
    pub const fn is_done(&self) -> bool {
        self.left == 0
    }
}
