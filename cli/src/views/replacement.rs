//! How far a disk's replacement is.

use cairn_api::control;
use serde::Serialize;

use super::View;
use super::table::{Column, layout};

/// A disk that another one replaces.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct ReplacementView {
    /// The disk that is given up.
    pub old_disk_id: String,
    /// The disk that takes its place.
    pub new_disk_id: String,
    /// The node of the first, or its id if the node is gone with it.
    pub old_node: String,
    /// The node of the second.
    pub new_node: String,
    /// Whether nothing is left on the old disk.
    pub done: bool,
    /// Groups (volumes, and perhaps the meta group) that had a replica on it.
    pub groups: u32,
    /// Those that have none there any more.
    pub groups_done: u32,
    /// Those that still have.
    pub items: Vec<ReplacementItemView>,
}

/// A group whose replica is being replaced.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct ReplacementItemView {
    /// The volume; none for the meta group.
    pub volume: Option<String>,
    /// The replica that goes.
    pub old_replica_id: u64,
    /// The replica that comes.
    pub new_replica_id: u64,
    /// `make`, `join`, `catch-up` or `switch`.
    pub step: String,
    /// Log entries that the new replica has.
    pub entries_held: u64,
    /// Log entries that there are.
    pub entries_last: u64,
}

impl ReplacementView {
    /// From the API's answer.
    pub fn new(replacement: &control::Replacement) -> Self {
        Self {
            old_disk_id: replacement.old_disk_id.clone(),
            new_disk_id: replacement.new_disk_id.clone(),
            old_node: replacement.old_node.clone(),
            new_node: replacement.new_node.clone(),
            done: replacement.done,
            groups: replacement.groups,
            groups_done: replacement.groups_done,
            items: replacement.items.iter().map(ReplacementItemView::new).collect(),
        }
    }

    /// What happens now, in one line.
    pub fn progress(&self) -> String {
        // The one that is furthest on its way says most.
        let moving = self.items.iter().filter(|item| item.step == "catch-up");
        let item = moving
            .max_by_key(|item| item.entries_held)
            .or_else(|| self.items.first());
        item.map_or_else(|| "done".to_owned(), ReplacementItemView::words)
    }
}

impl ReplacementItemView {
    fn new(item: &control::ReplacementItem) -> Self {
        Self {
            volume: super::non_empty(&item.volume),
            old_replica_id: item.old_replica_id,
            new_replica_id: item.new_replica_id,
            step: item.step.clone(),
            entries_held: item.entries_held,
            entries_last: item.entries_last,
        }
    }

    fn name(&self) -> String {
        self.volume.clone().unwrap_or_else(|| "(meta group)".to_owned())
    }

    fn words(&self) -> String {
        let doing = match self.step.as_str() {
            "make" => "its new replica is being made",
            "join" => "its new replica is to become a member",
            "catch-up" => "its new replica catches up",
            "switch" => "the new replica takes the old one's place",
            other => other,
        };
        format!(
            "{}: {doing}, {} of {} entries",
            self.name(),
            self.entries_held,
            self.entries_last
        )
    }
}

impl View for ReplacementView {
    fn table(&self) -> String {
        let old = format!("Disk {} of {}", self.old_disk_id, self.old_node);
        let new = format!("disk {} of {}", self.new_disk_id, self.new_node);
        if self.done {
            return format!(
                "{old} is replaced by {new}: {} of {} groups moved. Nothing on the old disk counts any more.",
                self.groups_done, self.groups
            );
        }
        let columns = [
            Column::Words("VOLUME"),
            Column::Words("STEP"),
            Column::Number("ENTRIES"),
            Column::Number("OF"),
            Column::Number("OLD REPLICA"),
            Column::Number("NEW REPLICA"),
        ];
        let row = |item: &ReplacementItemView| {
            vec![
                item.name(),
                item.step.clone(),
                item.entries_held.to_string(),
                item.entries_last.to_string(),
                item.old_replica_id.to_string(),
                item.new_replica_id.to_string(),
            ]
        };
        format!(
            "{old} is being replaced by {new}: {} of {} groups moved. It goes on by itself; the same command tells how \
             far it is.\n\n{}",
            self.groups_done,
            self.groups,
            layout(&columns, self.items.iter().map(row).collect())
        )
    }
}
