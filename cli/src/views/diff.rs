//! What changed between two snapshots.

use cairn_api::control;
use cairn_api::units::ByteSize;
use serde::Serialize;

use super::View;
use super::table::{Column, layout};

/// Bytes in a row that changed.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct ChangedExtentView {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// `data`, to be read, or `zero`.
    pub kind: &'static str,
}

/// What changed from one snapshot to a later one, or what one holds.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct SnapshotDiffView {
    /// The volume.
    pub volume: String,
    /// The earlier snapshot; none for an empty volume.
    pub from: Option<String>,
    /// The later one.
    pub to: String,
    /// Its size.
    pub size_bytes: u64,
    /// In order.
    pub extents: Vec<ChangedExtentView>,
}

impl SnapshotDiffView {
    /// From the parts of the API's answer.
    pub fn new(volume: &str, from: Option<&str>, to: &str, parts: &[control::DiffSnapshotsReply]) -> Self {
        let mut extents: Vec<ChangedExtentView> = Vec::new();
        for extent in parts.iter().flat_map(|part| &part.extents) {
            let kind = if extent.zero { "zero" } else { "data" };
            match extents.last_mut() {
                // Parts may cut a row.
                Some(last) if last.offset + last.length == extent.offset && last.kind == kind => {
                    last.length += extent.length;
                }
                _ => extents.push(ChangedExtentView {
                    offset: extent.offset,
                    length: extent.length,
                    kind,
                }),
            }
        }
        Self {
            volume: volume.to_owned(),
            from: from.map(str::to_owned),
            to: to.to_owned(),
            size_bytes: parts.first().map_or(0, |part| part.size_bytes),
            extents,
        }
    }
}

impl View for SnapshotDiffView {
    fn table(&self) -> String {
        if self.extents.is_empty() {
            return match &self.from {
                Some(from) => format!(
                    "Nothing changed from snapshot {from} to {} of volume {}.",
                    self.to, self.volume
                ),
                None => format!("Snapshot {} of volume {} holds nothing.", self.to, self.volume),
            };
        }
        let columns = [
            Column::Number("OFFSET"),
            Column::Number("LENGTH"),
            Column::Words("KIND"),
        ];
        let row = |extent: &ChangedExtentView| {
            vec![
                extent.offset.to_string(),
                ByteSize(extent.length).to_string(),
                extent.kind.to_owned(),
            ]
        };
        layout(&columns, self.extents.iter().map(row).collect())
    }
}
