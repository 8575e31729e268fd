//! How far disks have been read through for damage.

use std::time::Duration;

use cairn_api::control;
use cairn_api::units::{BLOCK_BYTES, ByteSize};
use indicatif::HumanDuration;
use serde::Serialize;

use super::table::{Column, layout};
use super::{View, or_nothing};

/// The scrubbing of a disk.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct ScrubView {
    /// The disk.
    pub disk_id: String,
    /// Its node's name.
    pub node: String,
    /// Where the node finds it.
    pub path: String,
    /// The pace now, or of the next pass; 0 if none begins by itself.
    pub bytes_per_s: u64,
    /// About what the pass that goes on will have read.
    pub expected_bytes: u64,
    /// The pass that goes on.
    pub running: Option<ScrubPassView>,
    /// The last whole pass since the engine started.
    pub last: Option<ScrubPassView>,
    /// How long ago it ended.
    pub last_ended_s_ago: Option<u64>,
    /// When the next pass begins by itself.
    pub next_in_s: Option<u64>,
}

/// A pass: what was read, and what was noticed on the disk meanwhile.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct ScrubPassView {
    /// Bytes read.
    pub bytes: u64,
    /// Blocks that did not match their checksum or could not be read.
    pub damaged: u64,
    /// Blocks that were fetched from another replica and written back.
    pub repaired: u64,
    /// Blocks that no other replica could give.
    pub unrepairable: u64,
    /// How long it took, or has taken.
    pub took_ms: u64,
}

/// Several of them.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct ScrubListView {
    /// One a disk.
    pub disks: Vec<ScrubView>,
}

impl ScrubView {
    /// From the API's answer.
    pub fn new(scrub: &control::Scrub) -> Self {
        Self {
            disk_id: scrub.disk_id.clone(),
            node: scrub.node.clone(),
            path: scrub.path.clone(),
            bytes_per_s: scrub.bytes_per_s,
            expected_bytes: scrub.blocks_expected * BLOCK_BYTES,
            running: scrub.running.as_ref().map(ScrubPassView::new),
            last: scrub.last.as_ref().map(ScrubPassView::new),
            last_ended_s_ago: scrub.last.as_ref().map(|_| scrub.last_ended_s_ago),
            next_in_s: scrub.next_in_s,
        }
    }

    /// What goes on, in a few words.
    pub fn state(&self) -> String {
        match (&self.running, self.next_in_s) {
            (Some(pass), _) => {
                let percent = (pass.bytes * 100).checked_div(self.expected_bytes).unwrap_or(100);
                format!("{percent} % of {}", ByteSize(self.expected_bytes))
            }
            (None, Some(next)) => format!("next in {}", HumanDuration(Duration::from_secs(next))),
            (None, None) => "when asked for".to_owned(),
        }
    }

    fn row(&self) -> Vec<String> {
        // What goes on is what matters; else what there was.
        let pass = self.running.as_ref().or(self.last.as_ref());
        let count = |of: fn(&ScrubPassView) -> u64| or_nothing(pass.map(|pass| of(pass).to_string()).as_deref());
        let ended = self
            .last_ended_s_ago
            .map(|ago| format!("{} ago", HumanDuration(Duration::from_secs(ago))));
        vec![
            self.node.clone(),
            self.path.clone(),
            self.state(),
            match self.bytes_per_s {
                0 => "-".to_owned(),
                pace => format!("{}/s", ByteSize(pace)),
            },
            or_nothing(ended.as_deref()),
            or_nothing(pass.map(|pass| ByteSize(pass.bytes).to_string()).as_deref()),
            count(|pass| pass.damaged),
            count(|pass| pass.repaired),
            count(|pass| pass.unrepairable),
        ]
    }
}

impl ScrubPassView {
    fn new(pass: &control::ScrubPass) -> Self {
        Self {
            bytes: pass.blocks * BLOCK_BYTES,
            damaged: pass.damaged,
            repaired: pass.repaired,
            unrepairable: pass.unrepairable,
            took_ms: pass.took_ms,
        }
    }
}

impl View for ScrubListView {
    fn table(&self) -> String {
        let columns = [
            Column::Words("NODE"),
            Column::Words("PATH"),
            Column::Words("STATE"),
            Column::Number("PACE"),
            Column::Words("LAST"),
            Column::Number("READ"),
            Column::Number("DAMAGED"),
            Column::Number("REPAIRED"),
            Column::Number("LOST"),
        ];
        layout(&columns, self.disks.iter().map(ScrubView::row).collect())
    }
}
