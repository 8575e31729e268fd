//! The state of each configured disk, in the order of the configuration.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairn_api::ids::{ClusterId, DiskId, GroupId, NodeId};

use super::{DiskBackend, DiskError, DiskLabel, DiskObserver, DiskThread};
use crate::config::DiskConfig;

/// What a disk is up to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DiskState {
    /// Formatted, and in no cluster yet.
    Unclaimed,
    /// Claimed, its thread is not started.
    Claimed,
    /// Its thread reads the log.
    Recovering,
    /// It serves.
    Ok,
    /// It does not, for this reason.
    Failed(String),
}

impl DiskState {
    /// As the control API says it.
    pub fn describe(&self) -> String {
        match self {
            Self::Unclaimed => "unclaimed".to_owned(),
            Self::Claimed | Self::Recovering => "recovering".to_owned(),
            Self::Ok => "ok".to_owned(),
            Self::Failed(reason) => format!("failed: {reason}"),
        }
    }
}

/// A disk as it is now.
#[derive(Clone)]
pub struct DiskView {
    /// As configured.
    pub config: DiskConfig,
    /// What its superblock says, if that could be read.
    pub label: Option<DiskLabel>,
    /// What it is up to.
    pub state: DiskState,
    /// Its thread, while it runs.
    pub thread: Option<Arc<dyn DiskThread>>,
    /// Groups that recovery found.
    pub recovered: Vec<GroupId>,
}

impl DiskView {
    /// Its id, if its superblock could be read.
    pub fn id(&self) -> Option<DiskId> {
        self.label.as_ref().map(|label| label.disk)
    }

    /// Its id and thread, if it serves.
    pub fn serving(&self) -> Option<(DiskId, &Arc<dyn DiskThread>)> {
        match (&self.state, &self.label, &self.thread) {
            (DiskState::Ok, Some(label), Some(thread)) => Some((label.disk, thread)),
            _ => None,
        }
    }
}

/// All configured disks.
pub struct DiskSet {
    backend: Arc<dyn DiskBackend>,
    slots: Mutex<Vec<DiskView>>,
}

impl DiskSet {
    /// Reads the superblock of each disk. One that cannot be read does not stop the others.
    pub fn inspect(backend: Arc<dyn DiskBackend>, configs: &[DiskConfig]) -> Self {
        let slots = configs
            .iter()
            .map(|config| {
                let (label, state) = match backend.inspect(&config.path) {
                    Ok(label) if label.cluster.is_nil() => (Some(label), DiskState::Unclaimed),
                    Ok(label) => (Some(label), DiskState::Claimed),
                    Err(error) => (None, DiskState::Failed(error.to_string())),
                };
                DiskView {
                    config: config.clone(),
                    label,
                    state,
                    thread: None,
                    recovered: Vec::new(),
                }
            })
            .collect();
        Self {
            backend,
            slots: Mutex::new(slots),
        }
    }

    fn slots(&self) -> MutexGuard<'_, Vec<DiskView>> {
        // No code that holds the lock can panic half-way through a change.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All disks as they are now.
    pub fn views(&self) -> Vec<DiskView> {
        self.slots().clone()
    }

    /// The disks that serve, by id.
    pub fn serving(&self) -> Vec<(DiskId, Arc<dyn DiskThread>)> {
        self.slots()
            .iter()
            .filter_map(|slot| slot.serving().map(|(disk, thread)| (disk, Arc::clone(thread))))
            .collect()
    }

    /// Every thread that was started and not given up.
    pub fn threads(&self) -> Vec<(DiskId, Arc<dyn DiskThread>)> {
        self.slots()
            .iter()
            .filter_map(|slot| Some((slot.id()?, Arc::clone(slot.thread.as_ref()?))))
            .collect()
    }

    /// The thread of a disk that serves.
    pub fn thread_of(&self, disk: DiskId) -> Option<Arc<dyn DiskThread>> {
        self.serving()
            .into_iter()
            .find(|(id, _)| *id == disk)
            .map(|(_, thread)| thread)
    }

    /// Whether any disk could still serve.
    pub fn any_usable(&self) -> bool {
        self.slots()
            .iter()
            .any(|slot| !matches!(slot.state, DiskState::Failed(_)))
    }

    /// Marks a disk failed. Its thread is asked to end.
    pub fn fail(&self, disk: DiskId, reason: &str) {
        let thread = {
            let mut slots = self.slots();
            let Some(slot) = slots.iter_mut().find(|slot| slot.id() == Some(disk)) else {
                return;
            };
            slot.state = DiskState::Failed(reason.to_owned());
            slot.thread.take()
        };
        if let Some(thread) = thread {
            thread.stop();
        }
    }

    /// Gives up the disks that could not be claimed: the others need not wait for them.
    pub fn fail_unclaimed(&self, reason: &str) {
        for slot in self.slots().iter_mut() {
            if slot.state == DiskState::Unclaimed {
                slot.state = DiskState::Failed(reason.to_owned());
            }
        }
    }

    /// A disk's recovery is over.
    pub fn recovered(&self, disk: DiskId, groups: &[GroupId]) {
        if let Some(slot) = self.slots().iter_mut().find(|slot| slot.id() == Some(disk))
            && slot.state == DiskState::Recovering
        {
            slot.state = DiskState::Ok;
            slot.recovered = groups.to_vec();
        }
    }

    /// Claims every unclaimed disk. The first that cannot be claimed is the error; those before it stay claimed, and asking
    /// again goes on from there.
    pub fn claim(&self, cluster: ClusterId, node: NodeId) -> Result<(), DiskError> {
        let unclaimed: Vec<DiskView> = self
            .views()
            .into_iter()
            .filter(|slot| slot.state == DiskState::Unclaimed)
            .collect();
        for view in unclaimed {
            let label = self
                .backend
                .claim(&view.config.path, cluster, node)
                .map_err(|error| DiskError(format!("cannot claim {}: {error}", view.config.path.display())))?;
            tracing::info!(disk = %label.disk, path = %view.config.path.display(), %cluster, "claimed the disk");
            if let Some(slot) = self.slots().iter_mut().find(|slot| slot.id() == Some(label.disk)) {
                slot.label = Some(label);
                slot.state = DiskState::Claimed;
            }
        }
        Ok(())
    }

    /// Starts the thread of every disk that is claimed and has none.
    pub fn start(&self, observer_of: impl Fn(DiskId) -> Arc<dyn DiskObserver>) {
        for view in self.views() {
            let (DiskState::Claimed, Some(label)) = (&view.state, &view.label) else {
                continue;
            };
            // The state is set first: the thread may report its recovery before this call returns.
            self.set(label.disk, DiskState::Recovering, None);
            match self.backend.start(&view.config, label, observer_of(label.disk)) {
                Ok(thread) => {
                    if let Some(slot) = self.slots().iter_mut().find(|slot| slot.id() == Some(label.disk)) {
                        slot.thread = Some(thread);
                    }
                }
                Err(error) => {
                    tracing::error!(disk = %label.disk, path = %view.config.path.display(), %error, "cannot start the disk");
                    self.set(label.disk, DiskState::Failed(error.to_string()), None);
                }
            }
        }
    }

    fn set(&self, disk: DiskId, state: DiskState, thread: Option<Arc<dyn DiskThread>>) {
        if let Some(slot) = self.slots().iter_mut().find(|slot| slot.id() == Some(disk)) {
            slot.state = state;
            slot.thread = thread;
        }
    }
}
