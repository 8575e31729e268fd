//! Disks that exist in memory only, and a meta group that commits at once: for tests of everything around them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use cairn_api::block::FrontendSession;
use cairn_api::ids::{ClusterId, DiskId, Epoch, GroupId, LogIndex, NodeId, ReplicaId, Term};
use cairn_core::event::{
    Command, CommandError, CommandReply, GroupSpec, GroupStatus, Member, MemberChange, RecoverySummary, Role,
    ScrubStatus,
};
use cairn_core::membership::Membership;
use cairn_reactor::Opening;

use crate::config::DiskConfig;
use crate::disks::{
    CommandCallback, CommandResult, DiskBackend, DiskError, DiskLabel, DiskObserver, DiskStats, DiskThread,
};

const SIZE_BYTES: u64 = 8 << 30;

struct FakeDisk {
    label: DiskLabel,
    /// The replica of each group on it.
    groups: BTreeMap<GroupId, ReplicaId>,
    observer: Option<Arc<dyn DiskObserver>>,
    /// Commands of the meta group delivered so far; none before it was asked to.
    delivered: Option<usize>,
    /// Its core does not say which groups it has.
    is_mute: bool,
}

#[derive(Default)]
struct State {
    disks: BTreeMap<PathBuf, FakeDisk>,
    /// Each group as it was created, and its members, which all replicas know at once.
    specs: BTreeMap<GroupId, (GroupSpec, Membership)>,
    /// Changes of members so far: the index of the next one.
    changes: u64,
    /// The size of each volume that has grown, in blocks.
    sizes: BTreeMap<GroupId, u64>,
    log: Vec<Bytes>,
    broken: BTreeSet<PathBuf>,
}

impl State {
    fn disk(&mut self, id: DiskId) -> &mut FakeDisk {
        self.disks.values_mut().find(|disk| disk.label.disk == id).unwrap()
    }

    /// The first voter that runs, once a majority does.
    fn leader(&self, group: GroupId) -> Option<Member> {
        let (_, membership) = self.specs.get(&group)?;
        let runs = |member: &&Member| {
            self.disks.values().any(|disk| {
                let has_it = disk.groups.get(&group) == Some(&member.replica);
                disk.label.disk == member.disk && disk.observer.is_some() && has_it
            })
        };
        let running: Vec<&Member> = membership.voters.iter().filter(runs).collect();
        (running.len() * 2 > membership.voters.len()).then(|| *running[0])
    }

    fn meta_leader(&self) -> Option<Member> {
        self.leader(GroupId::META)
    }

    fn change_members(&mut self, id: DiskId, group: GroupId, change: MemberChange) -> CommandResult {
        let leader = self.leader(group);
        if leader.is_none_or(|leader| leader.disk != id) {
            return Err(CommandError::NotLeader { leader });
        }
        self.changes += 1;
        let index = LogIndex(1000 + self.changes);
        let (_, members) = self.specs.get_mut(&group).unwrap();
        members.revision = index;
        match change {
            MemberChange::AddLearner(member) if members.was_removed(member.replica) => {
                return Err(CommandError::Refused("the number was used before".to_owned()));
            }
            MemberChange::AddLearner(member) => {
                members.learners.push(member);
                members.replica_last = member.replica;
            }
            MemberChange::Promote(replica) => {
                let place = members.learners.iter().position(|member| member.replica == replica);
                let member = members.learners.remove(place.unwrap());
                members.voters.push(member);
            }
            MemberChange::Remove(replica) => {
                members.voters.retain(|member| member.replica != replica);
                members.learners.retain(|member| member.replica != replica);
            }
        }
        self.tell_leader();
        Ok(CommandReply::Done)
    }

    fn tell_leader(&self) {
        let leader = self.meta_leader();
        for disk in self
            .disks
            .values()
            .filter(|disk| disk.groups.contains_key(&GroupId::META))
        {
            if let Some(observer) = &disk.observer {
                let is_local = leader.as_ref().is_some_and(|leader| leader.disk == disk.label.disk);
                observer.on_leader_changed(GroupId::META, leader.as_ref().map(|leader| leader.replica), is_local);
            }
        }
    }

    fn deliver(&mut self) {
        let log = self.log.clone();
        for disk in self.disks.values_mut() {
            let (Some(delivered), Some(observer)) = (&mut disk.delivered, &disk.observer) else {
                continue;
            };
            for (data, index) in log.iter().zip(1_u64..).skip(*delivered) {
                observer.on_apply(GroupId::META, LogIndex(index), data.clone());
            }
            *delivered = log.len();
        }
    }

    fn command(&mut self, id: DiskId, command: Command) -> CommandResult {
        if self.disk(id).observer.is_none() {
            return Err(CommandError::Refused("the thread has ended".to_owned()));
        }
        match command {
            Command::CreateGroup { spec, replica } => {
                let group = spec.group;
                self.disk(id).groups.insert(group, replica);
                let membership = Membership::of(&spec);
                let (known, _) = self.specs.entry(group).or_insert_with(|| (spec.clone(), membership));
                assert_eq!(*known, spec, "every replica is made as its group was created");
                if group == GroupId::META {
                    self.tell_leader();
                }
                Ok(CommandReply::Done)
            }
            Command::DropGroup(group) => {
                self.disk(id).groups.remove(&group);
                Ok(CommandReply::Done)
            }
            Command::Propose {
                group: GroupId::META,
                data,
            } => {
                self.require_leader(id)?;
                self.log.push(data);
                self.deliver();
                Ok(CommandReply::Committed(LogIndex(self.log.len() as u64)))
            }
            Command::ReadBarrier(GroupId::META) => self.require_leader(id).map(|()| CommandReply::Done),
            Command::StartApply { applied, .. } => {
                self.disk(id).delivered = Some(usize::try_from(applied.get()).unwrap());
                self.deliver();
                Ok(CommandReply::Done)
            }
            Command::ChangeMembers { group, change } => self.change_members(id, group, change),
            Command::UpdateMembers { .. } | Command::UpdateVolume { .. } => Ok(CommandReply::Done),
            Command::Resize { group, size_blocks } => {
                let leader = self.leader(group);
                if leader.is_none_or(|leader| leader.disk != id) {
                    return Err(CommandError::NotLeader { leader });
                }
                let size = self.sizes.entry(group).or_default();
                *size = size_blocks.max(*size);
                Ok(CommandReply::Done)
            }
            Command::Inspect if self.disk(id).is_mute => Err(CommandError::Refused("busy".to_owned())),
            Command::Inspect => Ok(CommandReply::Groups(self.inspect(id))),
            Command::Detach { .. } | Command::HandOver | Command::Scrub(_) => Ok(CommandReply::Done),
            Command::ScrubStatus => Ok(CommandReply::Scrub(ScrubStatus {
                running: None,
                bytes_per_s: 8 << 20,
                blocks_expected: 0,
                last: None,
                next_in: None,
            })),
            other => Err(CommandError::Refused(format!("the fake does not know {other:?}"))),
        }
    }

    fn require_leader(&self, id: DiskId) -> Result<(), CommandError> {
        let leader = self.meta_leader();
        if leader.as_ref().is_some_and(|leader| leader.disk == id) {
            return Ok(());
        }
        Err(CommandError::NotLeader { leader })
    }

    fn inspect(&mut self, id: DiskId) -> Vec<GroupStatus> {
        let groups = self.disk(id).groups.clone();
        groups
            .into_iter()
            .map(|(group, own)| {
                let (spec, membership) = self.specs[&group].clone();
                let leader: Option<ReplicaId> = self.leader(group).map(|leader| leader.replica);
                let matched = membership.all().map(|member| (member.replica, LogIndex(1)));
                GroupStatus {
                    base: None,
                    filled_blocks: 0,
                    matched: matched.collect(),
                    settled: membership.revision,
                    membership,
                    replica: own,
                    role: if leader == Some(own) {
                        Role::Leader
                    } else {
                        Role::Follower
                    },
                    leader,
                    term: Term(1),
                    committed: LogIndex(1),
                    applied: LogIndex(1),
                    last: LogIndex(1),
                    epoch: Epoch(0),
                    holder: NodeId::NIL,
                    size_blocks: self.sizes.get(&group).copied().unwrap_or(spec.size_blocks),
                    space: cairn_core::map::HeadSpace::default(),
                    snapshots: 0,
                    damage: cairn_core::event::DamageCounts::default(),
                    first: LogIndex(1),
                    mark: None,
                    catch_up: None,
                    spec,
                }
            })
            .collect()
    }
}

/// A set of disks that several engines of a test share.
#[derive(Clone, Default)]
pub(crate) struct World {
    state: Arc<Mutex<State>>,
}

impl World {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Formats a disk.
    pub(crate) fn format(&self, path: &Path) {
        let label = DiskLabel {
            disk: DiskId::random(),
            cluster: ClusterId::NIL,
            node: NodeId::NIL,
            size_bytes: SIZE_BYTES,
        };
        let disk = FakeDisk {
            label,
            groups: BTreeMap::new(),
            observer: None,
            delivered: None,
            is_mute: false,
        };
        self.state().disks.insert(path.to_owned(), disk);
    }

    /// From now on the disk cannot be opened.
    pub(crate) fn break_disk(&self, path: &Path) {
        self.state().broken.insert(path.to_owned());
    }

    /// What the disk's superblock says.
    pub(crate) fn label(&self, path: &Path) -> DiskLabel {
        self.state().disks[path].label.clone()
    }

    /// Gives the disk another owner.
    pub(crate) fn relabel(&self, path: &Path, cluster: ClusterId, node: NodeId) {
        let mut state = self.state();
        let label = &mut state.disks.get_mut(path).unwrap().label;
        (label.cluster, label.node) = (cluster, node);
    }

    /// The groups on the disk.
    pub(crate) fn groups(&self, path: &Path) -> Vec<GroupId> {
        self.state().disks[path].groups.keys().copied().collect()
    }

    /// The disk does not tell of its groups any more.
    pub(crate) fn mute(&self, path: &Path) {
        self.state().disks.get_mut(path).unwrap().is_mute = true;
    }

    /// The disk loses a group, as if its contents were lost.
    pub(crate) fn lose(&self, path: &Path, group: GroupId) {
        self.state().disks.get_mut(path).unwrap().groups.remove(&group);
    }

    /// The disk fails under the engine.
    pub(crate) fn fail(&self, path: &Path, reason: &str) {
        let observer = self.state().disks[path].observer.clone().unwrap();
        observer.on_disk_failed(reason.to_owned());
    }
}

impl DiskBackend for World {
    fn inspect(&self, path: &Path) -> Result<DiskLabel, DiskError> {
        let state = self.state();
        if state.broken.contains(path) {
            return Err(DiskError(format!("disk {} cannot be read", path.display())));
        }
        let disk = state.disks.get(path);
        disk.map(|disk| disk.label.clone())
            .ok_or_else(|| DiskError(format!("{} is not formatted", path.display())))
    }

    fn claim(&self, path: &Path, cluster: ClusterId, node: NodeId) -> Result<DiskLabel, DiskError> {
        self.relabel(path, cluster, node);
        Ok(self.label(path))
    }

    fn start(
        &self,
        config: &DiskConfig,
        label: &DiskLabel,
        observer: Arc<dyn DiskObserver>,
    ) -> Result<Arc<dyn DiskThread>, DiskError> {
        let mut state = self.state();
        let disk = state.disks.get_mut(&config.path).unwrap();
        disk.observer = Some(Arc::clone(&observer));
        disk.delivered = None;
        observer.on_recovered(&RecoverySummary {
            groups: disk.groups.keys().copied().collect(),
            ..RecoverySummary::default()
        });
        state.tell_leader();
        Ok(Arc::new(FakeThread {
            world: self.clone(),
            disk: label.disk,
        }))
    }
}

struct FakeThread {
    world: World,
    disk: DiskId,
}

impl DiskThread for FakeThread {
    fn set_peer(&self, _disk: DiskId, _address: SocketAddr) -> bool {
        true
    }
    fn adopt_peer(&self, _socket: OwnedFd, _from: DiskId) {}
    fn adopt_stream(&self, _socket: OwnedFd, _session: Box<dyn FrontendSession>, _opening: Opening) {}
    fn close_streams_of(&self, _group: GroupId) {}

    fn command(&self, command: Command, callback: CommandCallback) {
        let result = self.world.state().command(self.disk, command);
        callback(result);
    }

    fn stats(&self) -> DiskStats {
        DiskStats {
            free_bytes: SIZE_BYTES,
            capacity_bytes: SIZE_BYTES,
            ..DiskStats::default()
        }
    }

    fn stop(&self) {
        let mut state = self.world.state();
        state.disk(self.disk).observer = None;
        state.tell_leader();
    }

    fn join(&self) {}
}
