//! What commands print. Each view is a struct whose serde field names are the JSON that programs read (they never change
//! meaning; new ones may appear), and which knows its table for people.

mod cluster;
mod diff;
mod disk;
mod done;
mod export;
mod key;
mod replacement;
mod scrub;
mod snapshot;
mod table;
mod volume;

pub use cluster::{AddedView, ClusterView, InitView, NodeView};
pub use diff::{ChangedExtentView, SnapshotDiffView};
pub use disk::{ClearedView, DiskListView, DiskView, FormattedView, GivenUpView, LocalDiskListView, LocalDiskView};
pub use done::{DeletedView, DetachedView, DevEngineView, DevView};
pub use export::{ExportListView, ExportView};
pub use key::{EncryptionView, KeyServiceView, KeyStatusView, MasterKeyView, RewrappedListView, RewrappedView};
pub use replacement::{ReplacementItemView, ReplacementView};
pub use scrub::{ScrubListView, ScrubPassView, ScrubView};
pub use snapshot::{SnapshotDeletedView, SnapshotListView, SnapshotView};
pub use volume::{NodeNames, ReplicaView, VolumeListView, VolumeView};

use serde::Serialize;

/// A result that can be printed.
pub trait View: Serialize {
    /// For people.
    fn table(&self) -> String;
}

/// `None` for the empty string, by which the control API says "nobody".
fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// What stands in a table where there is nothing to say.
const NOTHING: &str = "-";

fn or_nothing(text: Option<&str>) -> String {
    text.unwrap_or(NOTHING).to_owned()
}
