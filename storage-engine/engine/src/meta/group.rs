//! The way of a command: proposed on the leader, committed by the log, applied here in log order by one thread that owns the
//! store, its verdict handed back to whoever proposed it.
//!
//! Reads of the catalogue go to [`Meta::view`], a snapshot that the applying thread publishes; [`Meta::barrier`] makes it
//! current first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use bytes::Bytes;
use cairn_api::ids::{DiskId, GroupId, LogIndex, ReplicaId};
use cairn_core::event::{Command as CoreCommand, CommandError, Member};
use tokio::sync::{oneshot, watch};

use super::catalogue::Catalogue;
use super::codec;
use super::decide::{Command, Outcome, Refusal, decide};
use super::store::{Store, StoreError};
use crate::disks::{AskError, DiskThread, ask};

/// How long a proposal or a barrier may take: several elections.
const PATIENCE: Duration = Duration::from_secs(10);
/// Commands applied before the view is published anew: a replay of a long log publishes rarely, a single command at once.
const APPLY_BATCH_MAX: usize = 256;

/// Why a command was not carried out.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MetaError {
    /// The catalogue refuses it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// This engine does not lead the meta group.
    #[error("this engine does not lead the meta group")]
    NotLeader,
    /// Nobody can tell whether it was committed; asking again is safe.
    #[error("leadership moved before the outcome was known; ask again")]
    Uncertain,
    /// It took too long.
    #[error("the meta group did not answer within {} s", PATIENCE.as_secs())]
    TimedOut,
    /// The log has no room for it.
    #[error("no space left on the meta leader's disk")]
    NoSpace,
    /// The log does not take it now.
    #[error("the meta group does not take the command: {0}")]
    Log(String),
}

impl From<AskError> for MetaError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Core(CommandError::NotLeader { .. } | CommandError::UnknownGroup(_)) | AskError::Gone => {
                Self::NotLeader
            }
            AskError::Core(CommandError::Uncertain) => Self::Uncertain,
            AskError::Core(CommandError::NoSpace) => Self::NoSpace,
            AskError::Core(error) => Self::Log(error.to_string()),
            AskError::TimedOut => Self::TimedOut,
        }
    }
}

/// Who leads the meta group, as known here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MetaLeader {
    /// The leader's place.
    pub member: Option<Member>,
    /// Whether it is this engine.
    pub is_local: bool,
}

enum Item {
    Apply(LogIndex, Bytes),
    Copy(Box<Catalogue>),
    Fence(oneshot::Sender<()>),
    Stop(oneshot::Sender<()>),
}

/// The queue into the applying thread. Unbounded, since a disk's thread must never wait for sled; its length is a metric, and
/// it is short in practice: the meta group's commands are rare.
#[derive(Clone)]
pub struct ApplyQueue {
    sender: mpsc::Sender<Item>,
    length: Arc<AtomicU64>,
}

impl ApplyQueue {
    fn put(&self, item: Item) {
        self.length.fetch_add(1, Ordering::Relaxed);
        // The receiver ends only when the engine stops or the store has failed, which stops the engine.
        let _ = self.sender.send(item);
    }

    /// A committed command.
    pub fn apply(&self, index: LogIndex, data: Bytes) {
        self.put(Item::Apply(index, data));
    }

    /// Items waiting.
    pub fn len(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }

    /// Whether none is waiting.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

type Verdict = Result<Outcome, Refusal>;
type Waiters = Arc<Mutex<HashMap<u64, oneshot::Sender<Verdict>>>>;

/// The meta group as this engine sees it.
pub struct Meta {
    queue: ApplyQueue,
    waiters: Waiters,
    view: watch::Receiver<Arc<Catalogue>>,
    leader: watch::Sender<MetaLeader>,
    local: Mutex<Local>,
    answered: AtomicBool,
    applied: Arc<AtomicU64>,
}

/// This engine's replicas of the meta group: one, or two while a disk of this engine takes the place of another.
#[derive(Default)]
struct Local {
    threads: BTreeMap<DiskId, Arc<dyn DiskThread>>,
    /// The members, as the replicas here know them.
    members: Vec<Member>,
    /// Disks whose replica has applied its own removal.
    removed: BTreeSet<DiskId>,
    /// Who leads on the word of the replica on each disk, and whether it is that replica.
    leaders: BTreeMap<DiskId, (Option<ReplicaId>, bool)>,
}

impl Local {
    /// Who leads: a replica here that leads knows best.
    fn leader(&self) -> (Option<ReplicaId>, bool) {
        let heard = |disk: &DiskId| self.threads.contains_key(disk);
        let leads = |(disk, (_, is_local)): &(&DiskId, &(Option<ReplicaId>, bool))| *is_local && heard(disk);
        let mut known = self.leaders.iter();
        let own = self.leaders.iter().find(leads);
        own.or_else(|| known.find(|(_, (leader, _))| leader.is_some()))
            .map_or((None, false), |(disk, (leader, is_local))| {
                (*leader, *is_local && heard(disk))
            })
    }

    /// The thread to ask: that of the replica that leads, if one does.
    fn thread(&self) -> Option<Arc<dyn DiskThread>> {
        let leads = |disk: &DiskId| self.leaders.get(disk).is_some_and(|(_, is_local)| *is_local);
        let leading = self.threads.iter().find(|(disk, _)| leads(disk));
        let any = leading.or_else(|| self.threads.iter().next());
        any.map(|(_, thread)| Arc::clone(thread))
    }
}

impl Meta {
    /// Takes the store over and starts the applying thread; `on_failure` hears if the store fails, after which nothing is
    /// applied any more.
    pub fn start(store: Store, on_failure: impl FnOnce(StoreError) + Send + 'static) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let length = Arc::new(AtomicU64::new(0));
        let waiters = Waiters::default();
        let copy = store.copy();
        let copied = copy.as_ref().map(|copy| copy.applied).unwrap_or_default();
        let (publish, view) = watch::channel(Arc::new(initial_view(&store, copy)));
        let applied = Arc::new(AtomicU64::new(store.catalogue().applied.get()));
        let applier = Applier {
            store,
            copied,
            receiver,
            length: Arc::clone(&length),
            waiters: Arc::clone(&waiters),
            publish,
            applied: Arc::clone(&applied),
        };
        std::thread::Builder::new()
            .name("cairn-meta".to_owned())
            .spawn(move || {
                if let Err(error) = applier.run() {
                    on_failure(error);
                }
            })?;
        Ok(Self {
            queue: ApplyQueue { sender, length },
            waiters,
            view,
            leader: watch::channel(MetaLeader::default()).0,
            local: Mutex::default(),
            answered: AtomicBool::new(false),
            applied,
        })
    }

    /// The queue for the disks' observers.
    pub fn queue(&self) -> ApplyQueue {
        self.queue.clone()
    }

    /// The catalogue as applied, or the copy of an engine outside the meta group.
    pub fn view(&self) -> Arc<Catalogue> {
        Arc::clone(&self.view.borrow())
    }

    /// Hears of every new view.
    pub fn watch_view(&self) -> watch::Receiver<Arc<Catalogue>> {
        self.view.clone()
    }

    /// Who leads, as known here.
    pub fn leader(&self) -> MetaLeader {
        self.leader.borrow().clone()
    }

    /// Hears of every change of leader.
    pub fn watch_leader(&self) -> watch::Receiver<MetaLeader> {
        self.leader.subscribe()
    }

    /// The replica on `disk` says who leads.
    pub fn note_leader(&self, disk: DiskId, leader: Option<ReplicaId>, is_local: bool) {
        self.local().leaders.insert(disk, (leader, is_local));
        self.settle_leader();
    }

    /// Finds out anew who leads. A leader whose number was not known to be anybody's may be known by now.
    pub fn settle_leader(&self) {
        let (leader, is_local) = self.local().leader();
        let member = leader.and_then(|replica| self.member(replica));
        let leader = MetaLeader { member, is_local };
        self.leader.send_if_modified(|known| {
            let is_news = *known != leader;
            *known = leader;
            is_news
        });
    }

    /// For an engine outside the meta group: whether a leader answered when it was asked last.
    pub fn hear_of_leader(&self, answered: bool) {
        self.answered.store(answered, Ordering::Relaxed);
    }

    /// Whether a leader is known: by this engine's own replica, or by asking.
    pub fn has_leader(&self) -> bool {
        if self.counts() {
            self.leader.borrow().member.is_some()
        } else {
            self.answered.load(Ordering::Relaxed)
        }
    }

    /// Whether this engine holds a replica of the meta group and that replica leads.
    pub fn is_leader(&self) -> bool {
        self.leader.borrow().is_local && self.thread().is_some()
    }

    fn local(&self) -> MutexGuard<'_, Local> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn thread(&self) -> Option<Arc<dyn DiskThread>> {
        self.local().thread()
    }

    /// A replica of the meta group lives on this disk's thread, and these are the group's members.
    pub fn attach(&self, disk: DiskId, thread: Arc<dyn DiskThread>, members: Vec<Member>) {
        let mut local = self.local();
        local.threads.insert(disk, thread);
        local.members = members;
        drop(local);
        self.settle_leader();
    }

    /// Whether a replica is on this disk.
    pub fn is_on(&self, disk: DiskId) -> bool {
        self.local().threads.contains_key(&disk)
    }

    /// The replica's disk serves no more, or has no replica any more.
    pub fn detach(&self, disk: DiskId) {
        let mut local = self.local();
        local.threads.remove(&disk);
        local.leaders.remove(&disk);
        local.removed.remove(&disk);
        drop(local);
        self.settle_leader();
    }

    /// The member of that number, from what the group itself says, else from the catalogue.
    pub fn member(&self, replica: ReplicaId) -> Option<Member> {
        let is_it = |member: &&Member| member.replica == replica;
        if let Some(member) = self.local().members.iter().find(is_it) {
            return Some(*member);
        }
        let view = self.view();
        let cluster = view.cluster.as_ref()?;
        let coming = cluster.succession.swaps.iter().map(|swap| &swap.joining);
        cluster.members.iter().chain(coming).find(is_it).copied()
    }

    /// The last index that the own state machine holds: the log goes on behind it.
    pub fn applied(&self) -> LogIndex {
        LogIndex(self.applied.load(Ordering::Acquire))
    }

    /// Whether a replica of the meta group is here.
    pub fn is_member(&self) -> bool {
        self.thread().is_some()
    }

    /// Whether a replica here is a member, as far as is known. One that was just made, to take another's place, hears from
    /// nobody before it is; one that was removed never again.
    pub fn counts(&self) -> bool {
        let view = self.view();
        let is_named = |disk: &DiskId| {
            let mut members = view.cluster.iter().flat_map(|cluster| &cluster.members);
            view.cluster.is_none() || members.any(|member| member.disk == *disk)
        };
        let local = self.local();
        let mut counting = local.threads.keys().filter(|disk| !local.removed.contains(disk));
        counting.any(is_named)
    }

    /// The replica on `disk` has applied its own removal: what it says of the group is of the past.
    pub fn note_removed(&self, disk: DiskId) {
        let mut local = self.local();
        local.removed.insert(disk);
        local.leaders.remove(&disk);
        drop(local);
        self.settle_leader();
    }

    /// Keeps somebody else's catalogue over a restart, and shows it as long as the own state machine is behind it.
    pub fn keep_copy(&self, catalogue: Catalogue) {
        self.queue.put(Item::Copy(Box::new(catalogue)));
    }

    /// Waits until everything queued so far is applied and published.
    pub async fn fence(&self) {
        let (sender, receiver) = oneshot::channel();
        self.queue.put(Item::Fence(sender));
        // An error is the applying thread's end: nothing more will be applied.
        let _ = receiver.await;
    }

    /// Flushes the store and ends the applying thread.
    pub async fn stop(&self) {
        let (sender, receiver) = oneshot::channel();
        self.queue.put(Item::Stop(sender));
        let _ = receiver.await;
    }

    /// On the leader: makes the view contain all that was committed before this call.
    pub async fn barrier(&self) -> Result<Arc<Catalogue>, MetaError> {
        let thread = self.thread().ok_or(MetaError::NotLeader)?;
        ask(&thread, CoreCommand::ReadBarrier(GroupId::META), PATIENCE).await?;
        self.fence().await;
        Ok(self.view())
    }

    /// On the leader: commits a command and returns its verdict.
    pub async fn execute(&self, command: &Command) -> Result<Outcome, MetaError> {
        // What is hopeless costs no entry; the view is current first, so that nothing is refused for old reasons.
        let view = self.barrier().await?;
        if view.applied == LogIndex(0) {
            // What is shown is the plan of a cluster that is being founded; a moment later the log has it.
            return Err(MetaError::NotLeader);
        }
        let (outcome, changes) = decide(&view, command)?;
        if changes.is_empty() {
            return Ok(outcome);
        }
        self.commit(command).await
    }

    /// On the leader: commits a command, whatever the view says, and returns its verdict.
    pub async fn commit(&self, command: &Command) -> Result<Outcome, MetaError> {
        let thread = self.thread().ok_or(MetaError::NotLeader)?;
        let request = uuid::Uuid::new_v4().as_u64_pair().0;
        let data = Bytes::from(codec::encode_command(request, command));
        if data.len() > codec::COMMAND_BYTES_MAX {
            let text = format!(
                "the command has {} bytes, the log takes {}",
                data.len(),
                codec::COMMAND_BYTES_MAX
            );
            return Err(MetaError::Log(text));
        }
        let (sender, receiver) = oneshot::channel();
        let waiting = Waiting {
            waiters: &self.waiters,
            request,
        };
        lock(&self.waiters).insert(request, sender);
        let verdict = async {
            match ask(
                &thread,
                CoreCommand::Propose {
                    group: GroupId::META,
                    data,
                },
                PATIENCE,
            )
            .await
            .map_err(MetaError::from)
            {
                // An uncertain proposal may yet be applied: the verdict would tell.
                Ok(_) | Err(MetaError::Uncertain) => {}
                Err(error) => return Err(error),
            }
            receiver
                .await
                .map_err(|_| MetaError::Uncertain)?
                .map_err(MetaError::Refused)
        };
        let result = tokio::time::timeout(PATIENCE, verdict)
            .await
            .unwrap_or(Err(MetaError::TimedOut));
        drop(waiting);
        result
    }
}

fn lock(waiters: &Waiters) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Verdict>>> {
    waiters.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets a waiter whatever way its future ends, cancellation included.
struct Waiting<'a> {
    waiters: &'a Waiters,
    request: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(self.waiters).remove(&self.request);
    }
}

/// The state machine's own catalogue once it is founded, or the copy if that is further on: this engine may have left the
/// meta group, or it may just have come and replay the log from its beginning. What is shown never goes back in time.
fn initial_view(store: &Store, copy: Option<Catalogue>) -> Catalogue {
    let own = store.catalogue();
    let copy = copy.filter(|copy| own.cluster.is_none() || copy.applied > own.applied);
    copy.unwrap_or_else(|| own.clone())
}

struct Applier {
    store: Store,
    /// The revision of the copy that was kept last.
    copied: LogIndex,
    receiver: mpsc::Receiver<Item>,
    length: Arc<AtomicU64>,
    waiters: Waiters,
    publish: watch::Sender<Arc<Catalogue>>,
    applied: Arc<AtomicU64>,
}

impl Applier {
    fn run(mut self) -> Result<(), StoreError> {
        let mut next = None;
        while let Some(item) = next.take().or_else(|| self.receive()) {
            match item {
                Item::Apply(index, data) => next = self.apply_batch(index, &data)?,
                Item::Copy(catalogue) => {
                    self.store.keep_copy(&catalogue)?;
                    self.copied = catalogue.applied;
                    let own = self.store.catalogue();
                    if own.cluster.is_none() || own.applied < self.copied {
                        self.publish.send_replace(Arc::new(*catalogue));
                    }
                }
                Item::Fence(sender) => {
                    let _ = sender.send(());
                }
                Item::Stop(sender) => {
                    self.store.flush()?;
                    let _ = sender.send(());
                    return Ok(());
                }
            }
        }
        self.store.flush()
    }

    fn receive(&self) -> Option<Item> {
        let item = self.receiver.recv().ok()?;
        self.length.fetch_sub(1, Ordering::Relaxed);
        Some(item)
    }

    /// Applies this command and those that wait behind it, publishes the view once, then hands out the verdicts: whoever
    /// hears one sees its effect in the view. Returns the first item that is no command.
    fn apply_batch(&mut self, index: LogIndex, data: &Bytes) -> Result<Option<Item>, StoreError> {
        let mut verdicts = Vec::new();
        verdicts.extend(self.store.apply(index, data)?);
        let mut rest = None;
        for _ in 1..APPLY_BATCH_MAX {
            let Ok(item) = self.receiver.try_recv() else { break };
            self.length.fetch_sub(1, Ordering::Relaxed);
            match item {
                Item::Apply(index, data) => verdicts.extend(self.store.apply(index, &data)?),
                other => {
                    rest = Some(other);
                    break;
                }
            }
        }
        self.applied
            .store(self.store.catalogue().applied.get(), Ordering::Release);
        let own = self.store.catalogue();
        if own.cluster.is_some() && own.applied >= self.copied {
            self.publish.send_replace(Arc::new(own.clone()));
        }
        for applied in verdicts {
            if let Err(refusal) = &applied.verdict {
                tracing::debug!(request = applied.request, %refusal, "the catalogue refused a command of the log");
            }
            if let Some(waiter) = lock(&self.waiters).remove(&applied.request) {
                let _ = waiter.send(applied.verdict);
            }
        }
        Ok(rest)
    }
}
