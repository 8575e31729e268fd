//! Disks, as engines see them and as their superblocks say.

use cairn_api::control;
use cairn_api::units::ByteSize;
use serde::Serialize;

use super::table::{Column, layout};
use super::{View, non_empty, or_nothing};

/// A disk of an engine.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct DiskView {
    /// Its node's name.
    pub node: String,
    /// Where the node finds it.
    pub path: String,
    /// Its id.
    pub disk_id: String,
    /// Its size.
    pub size_bytes: u64,
    /// Data that it can still take; absent while the node does not answer.
    pub free_bytes: Option<u64>,
    /// Data on it that is in use; absent while the node does not answer.
    pub used_bytes: Option<u64>,
    /// Data that it takes at most: less than its size, since collection needs room to work in.
    pub capacity_bytes: Option<u64>,
    /// `ok`, `ok, filling up`, `ok, nearly full`, `ok, full`, `recovering`, `failed: <why>`, `missing` if its node does not have it now, `removed` once it is replaced, or
    /// `unknown` while the node does not answer.
    pub state: String,
    /// Replicas on it; absent while the node does not answer.
    pub replicas: Option<u32>,
    /// What takes its place, if anything does or did.
    pub given_up: Option<GivenUpView>,
}

/// What takes a disk's place, and how far that is.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct GivenUpView {
    /// The disk that takes its place.
    pub replaced_by: String,
    /// Groups that had a replica on it.
    pub groups: u32,
    /// Those that have none there any more.
    pub groups_done: u32,
    /// Whether nothing is left on it.
    pub done: bool,
}

impl DiskView {
    /// From the API's answer; `live` if the node itself said it.
    pub fn new(disk: &control::Disk, node: &str, live: bool) -> Self {
        Self {
            node: node.to_owned(),
            path: disk.path.clone(),
            disk_id: disk.disk_id.clone(),
            size_bytes: disk.size_bytes,
            free_bytes: live.then_some(disk.free_bytes),
            used_bytes: live.then_some(disk.used_bytes),
            capacity_bytes: live.then_some(disk.capacity_bytes),
            state: non_empty(&disk.state)
                .filter(|_| live)
                .unwrap_or_else(|| "unknown".to_owned()),
            replicas: live.then_some(disk.replicas),
            given_up: None,
        }
    }

    /// A disk that the cluster knows and its node, which answers, does not have now.
    pub fn missing(disk: &control::Disk, node: &str) -> Self {
        Self {
            state: "missing".to_owned(),
            ..Self::new(disk, node, false)
        }
    }

    /// With what the cluster knows of its replacement.
    #[must_use]
    pub fn with_replacements(mut self, replacements: &[control::Replacement]) -> Self {
        let replacement = replacements
            .iter()
            .find(|replacement| replacement.old_disk_id == self.disk_id);
        if let Some(replacement) = replacement {
            if replacement.done {
                "removed".clone_into(&mut self.state);
            }
            self.given_up = Some(GivenUpView {
                replaced_by: replacement.new_disk_id.clone(),
                groups: replacement.groups,
                groups_done: replacement.groups_done,
                done: replacement.done,
            });
        }
        self
    }

    fn state_words(&self) -> String {
        match &self.given_up {
            None => self.state.clone(),
            Some(given_up) if given_up.done => format!("removed, replaced by {}", given_up.replaced_by),
            Some(given_up) => format!(
                "{}, being replaced by {} ({} of {} done)",
                self.state, given_up.replaced_by, given_up.groups_done, given_up.groups
            ),
        }
    }
}

/// The disks of a cluster.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct DiskListView {
    /// By node, then path.
    pub disks: Vec<DiskView>,
}

impl View for DiskListView {
    fn table(&self) -> String {
        if self.disks.is_empty() {
            return "No disks: name some in the engine's configuration, after `cairn disk format PATH`.".to_owned();
        }
        let columns = [
            Column::Words("NODE"),
            Column::Words("PATH"),
            Column::Number("SIZE"),
            Column::Number("USED"),
            Column::Number("FREE"),
            Column::Number("REPLICAS"),
            Column::Words("STATE"),
            Column::Words("DISK"),
        ];
        let row = |disk: &DiskView| {
            vec![
                disk.node.clone(),
                disk.path.clone(),
                ByteSize(disk.size_bytes).to_string(),
                or_nothing(disk.used_bytes.map(|bytes| ByteSize(bytes).to_string()).as_deref()),
                or_nothing(disk.free_bytes.map(|bytes| ByteSize(bytes).to_string()).as_deref()),
                or_nothing(disk.replicas.map(|count| count.to_string()).as_deref()),
                disk.state_words(),
                disk.disk_id.clone(),
            ]
        };
        layout(&columns, self.disks.iter().map(row).collect())
    }
}

/// What is on a local disk.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct LocalDiskView {
    /// The device or file.
    pub path: String,
    /// `cairn`, `empty`, or what else was recognised.
    pub content: String,
    /// Its size, if it could be told.
    pub size_bytes: Option<u64>,
    /// The disk's id, if it is Cairn's.
    pub disk_id: Option<String>,
    /// The cluster it belongs to, if it is Cairn's and claimed.
    pub cluster_id: Option<String>,
    /// The node it belongs to, if it is Cairn's and claimed.
    pub node_id: Option<String>,
    /// Why it could not be read, if so.
    pub problem: Option<String>,
}

/// Local disks, in the order asked.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct LocalDiskListView {
    /// The disks.
    pub disks: Vec<LocalDiskView>,
}

impl View for LocalDiskListView {
    fn table(&self) -> String {
        let columns = [
            Column::Words("PATH"),
            Column::Number("SIZE"),
            Column::Words("CONTENT"),
            Column::Words("DISK"),
            Column::Words("CLUSTER"),
            Column::Words("NODE"),
        ];
        let row = |disk: &LocalDiskView| {
            let claimed = |id: &Option<String>| match (id, &disk.disk_id) {
                (Some(id), _) => id.clone(),
                (None, Some(_)) => "unclaimed".to_owned(),
                (None, None) => "-".to_owned(),
            };
            vec![
                disk.path.clone(),
                or_nothing(disk.size_bytes.map(|bytes| ByteSize(bytes).to_string()).as_deref()),
                disk.problem.clone().unwrap_or_else(|| disk.content.clone()),
                or_nothing(disk.disk_id.as_deref()),
                claimed(&disk.cluster_id),
                claimed(&disk.node_id),
            ]
        };
        layout(&columns, self.disks.iter().map(row).collect())
    }
}

/// A disk that `disk format` has prepared.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct FormattedView {
    /// The device or file.
    pub path: String,
    /// The new disk's id.
    pub disk_id: String,
    /// Its size.
    pub size_bytes: u64,
}

/// A block that `disk clear` has overwritten.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct ClearedView {
    /// The device or file.
    pub path: String,
    /// The disk's id.
    pub disk_id: String,
    /// Where the block begins, in bytes.
    pub at: u64,
}

impl View for ClearedView {
    fn table(&self) -> String {
        format!(
            "Cleared the block at byte {} of {}, disk {}.\nNext: start the engine. If it names another byte, that block cannot be \
             read either.",
            self.at, self.path, self.disk_id
        )
    }
}

impl View for FormattedView {
    fn table(&self) -> String {
        format!(
            "Formatted {}: {}, disk {}.\nNext: name it in an engine's configuration ([[disk]] path = \"{0}\") and start the engine.",
            self.path,
            ByteSize(self.size_bytes),
            self.disk_id
        )
    }
}
