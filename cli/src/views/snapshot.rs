//! Snapshots.

use cairn_api::control;
use cairn_api::units::ByteSize;
use serde::Serialize;

use super::table::{Column, layout, properties};
use super::{View, or_nothing};

/// A snapshot of a volume.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct SnapshotView {
    /// The volume.
    pub volume: String,
    /// Its name, unique among the volume's.
    pub name: String,
    /// Its number, never used again.
    pub snapshot_id: u64,
    /// `creating`, `ready`, `deleting` or `unknown`.
    pub state: String,
    /// When it was asked for, in seconds since 1970.
    pub created_unix_s: u64,
    /// The volume's size then; 0 while it is not made.
    pub size_bytes: u64,
    /// The entry of the volume's log that made it.
    pub index: u64,
    /// What the volume has replaced since, and no newer snapshot shows, if the leader tells.
    pub kept_bytes: Option<u64>,
    /// Of that, what its deletion frees.
    pub exclusive_bytes: Option<u64>,
    /// The name of its export.
    pub export: String,
    /// Those that were made together, at one instant, have the same number here; none if it was made alone.
    pub together_id: Option<u64>,
}

impl SnapshotView {
    /// From the API's answer.
    pub fn new(snapshot: &control::Snapshot) -> Self {
        let state = match snapshot.state() {
            control::SnapshotState::Unspecified => "unknown",
            control::SnapshotState::Creating => "creating",
            control::SnapshotState::Ready => "ready",
            control::SnapshotState::Deleting => "deleting",
        };
        Self {
            volume: snapshot.volume.clone(),
            name: snapshot.name.clone(),
            snapshot_id: snapshot.snapshot_id,
            state: state.to_owned(),
            created_unix_s: snapshot.created_unix_s,
            size_bytes: snapshot.size_bytes,
            index: snapshot.index,
            kept_bytes: snapshot.kept_bytes,
            exclusive_bytes: snapshot.exclusive_bytes,
            export: format!("{}@{}", snapshot.volume, snapshot.name),
            together_id: (snapshot.together_id != 0).then_some(snapshot.together_id),
        }
    }
}

fn size(bytes: Option<u64>) -> String {
    or_nothing(bytes.map(|bytes| ByteSize(bytes).to_string()).as_deref())
}

/// A time in seconds since 1970 as `2026-01-31 23:59:59Z`.
fn utc(unix_s: u64) -> String {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut days, seconds) = (unix_s / 86_400, unix_s % 86_400);
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!(
        "{year:04}-{month:02}-{:02} {hour:02}:{minute:02}:{second:02}Z",
        days + 1
    )
}

impl View for SnapshotView {
    fn table(&self) -> String {
        properties(&[
            ("Snapshot", format!("{} (number {})", self.name, self.snapshot_id)),
            ("Volume", self.volume.clone()),
            ("State", self.state.clone()),
            ("Created", utc(self.created_unix_s)),
            ("Size", ByteSize(self.size_bytes).to_string()),
            ("Kept", size(self.kept_bytes)),
            ("Exclusive", size(self.exclusive_bytes)),
            ("Export", self.export.clone()),
        ])
    }
}

/// Snapshots of one volume or of all.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct SnapshotListView {
    /// By volume, oldest first.
    pub snapshots: Vec<SnapshotView>,
}

impl SnapshotListView {
    /// From the API's answer.
    pub fn new(snapshots: &[control::Snapshot]) -> Self {
        let mut snapshots: Vec<SnapshotView> = snapshots.iter().map(SnapshotView::new).collect();
        snapshots.sort_by(|left, right| (&left.volume, left.snapshot_id).cmp(&(&right.volume, right.snapshot_id)));
        Self { snapshots }
    }
}

impl View for SnapshotListView {
    fn table(&self) -> String {
        if self.snapshots.is_empty() {
            return "No snapshots yet: `cairn snapshot create VOLUME --name NAME` makes one.".to_owned();
        }
        let columns = [
            Column::Words("VOLUME"),
            Column::Words("SNAPSHOT"),
            Column::Words("STATE"),
            Column::Words("CREATED"),
            Column::Number("SIZE"),
            Column::Number("KEPT"),
            Column::Number("EXCLUSIVE"),
        ];
        let row = |snapshot: &SnapshotView| {
            vec![
                snapshot.volume.clone(),
                snapshot.name.clone(),
                snapshot.state.clone(),
                utc(snapshot.created_unix_s),
                ByteSize(snapshot.size_bytes).to_string(),
                size(snapshot.kept_bytes),
                size(snapshot.exclusive_bytes),
            ]
        };
        layout(&columns, self.snapshots.iter().map(row).collect())
    }
}

/// A snapshot that is gone, or going.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct SnapshotDeletedView {
    /// The volume.
    pub volume: String,
    /// The snapshot.
    pub name: String,
    /// Whether it is gone already.
    pub complete: bool,
}

impl View for SnapshotDeletedView {
    fn table(&self) -> String {
        let Self { volume, name, complete } = self;
        if *complete {
            format!("Deleted snapshot {name} of volume {volume}.")
        } else {
            format!("Snapshot {name} of volume {volume} is being deleted.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00Z");
        assert_eq!(utc(951_827_696), "2000-02-29 12:34:56Z");
        assert_eq!(utc(1_798_761_599), "2026-12-31 23:59:59Z");
        assert_eq!(utc(4_107_542_400), "2100-03-01 00:00:00Z");
    }

    #[test]
    fn what_nobody_tells_is_left_out_of_the_table_and_null_in_json() {
        let snapshot = control::Snapshot {
            volume: "data".to_owned(),
            name: "monday".to_owned(),
            state: control::SnapshotState::Ready.into(),
            size_bytes: 1 << 30,
            kept_bytes: Some(4096),
            ..control::Snapshot::default()
        };
        let list = SnapshotListView::new(&[snapshot]);
        assert!(list.table().ends_with("1 GiB  4 KiB          -"), "{}", list.table());
        let json = serde_json::to_value(&list).unwrap();
        assert_eq!(json["snapshots"][0]["exclusive_bytes"], serde_json::Value::Null);
        assert_eq!(json["snapshots"][0]["export"], "data@monday");
    }
}
