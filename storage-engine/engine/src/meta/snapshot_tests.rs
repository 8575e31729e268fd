//! What the commands of snapshots do to the catalogue.

use cairn_api::ids::{GroupId, LogIndex, SnapshotId};
use cairn_core::SNAPSHOTS_MAX;

use super::snapshot::{SnapshotCommand, SnapshotPhase};
use super::tests::{add_volume, run, sample};
use super::{Catalogue, Command, Outcome, Refusal};

fn create(catalogue: &mut Catalogue, group: GroupId, name: &str) -> Result<SnapshotId, Refusal> {
    let command = Command::Snapshot(SnapshotCommand::Create {
        group,
        name: name.to_owned(),
        created_unix_s: 7,
    });
    match run(catalogue, &command)? {
        Outcome::Snapshot(id) => Ok(id),
        other => panic!("{other:?}"),
    }
}

fn made(group: GroupId, snapshot: SnapshotId) -> Command {
    Command::Snapshot(SnapshotCommand::Report {
        group,
        snapshot,
        made: Some((LogIndex(99), 8192)),
    })
}

fn gone(group: GroupId, snapshot: SnapshotId) -> Command {
    Command::Snapshot(SnapshotCommand::Report {
        group,
        snapshot,
        made: None,
    })
}

#[test]
fn a_snapshot_is_asked_for_made_deleted_and_gone_and_every_word_may_come_twice() {
    let mut catalogue = sample(3);
    let group = add_volume(&mut catalogue, "v", 8192, &[1, 2, 3]);
    let id = create(&mut catalogue, group, "monday").unwrap();
    assert_eq!(create(&mut catalogue, group, "monday"), Ok(id));
    assert_eq!(catalogue.snapshots[&(group, id)].phase, SnapshotPhase::Creating);
    for _ in 0..2 {
        run(&mut catalogue, &made(group, id)).unwrap();
        let record = &catalogue.snapshots[&(group, id)];
        assert_eq!(
            (record.phase, record.index, record.size_bytes),
            (SnapshotPhase::Ready, LogIndex(99), 8192)
        );
    }
    assert!(matches!(
        run(&mut catalogue, &gone(group, id)),
        Err(Refusal::Precondition(_))
    ));
    let delete = Command::Snapshot(SnapshotCommand::Delete { group, snapshot: id });
    for _ in 0..2 {
        run(&mut catalogue, &delete).unwrap();
        run(&mut catalogue, &made(group, id)).unwrap();
        assert_eq!(catalogue.snapshots[&(group, id)].phase, SnapshotPhase::Deleting);
    }
    let message = create(&mut catalogue, group, "monday").unwrap_err().to_string();
    assert!(message.contains("still being deleted"), "{message}");
    for _ in 0..2 {
        run(&mut catalogue, &gone(group, id)).unwrap();
        assert!(catalogue.snapshots.is_empty());
    }
    assert!(
        create(&mut catalogue, group, "monday").unwrap() > id,
        "numbers are never given twice"
    );
}

#[test]
fn names_are_of_one_volume_and_bad_ones_are_refused() {
    let mut catalogue = sample(3);
    let one = add_volume(&mut catalogue, "one", 8192, &[1]);
    let other = add_volume(&mut catalogue, "other", 8192, &[1]);
    let first = create(&mut catalogue, one, "same").unwrap();
    assert_ne!(create(&mut catalogue, other, "same"), Ok(first));
    for (group, name, part) in [
        (one, "a@b", "snapshot name is 'a@b'"),
        (one, "", "snapshot name is ''"),
        (GroupId(77), "x", "no volume 77"),
    ] {
        let message = create(&mut catalogue, group, name).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_volume_has_so_many_at_most() {
    let mut catalogue = sample(3);
    let group = add_volume(&mut catalogue, "v", 8192, &[1]);
    for number in 0..SNAPSHOTS_MAX {
        create(&mut catalogue, group, &format!("s{number}")).unwrap();
    }
    let message = create(&mut catalogue, group, "more").unwrap_err().to_string();
    assert!(message.contains("the most there can be"), "{message}");
}

#[test]
fn a_volume_with_snapshots_is_deleted_with_them_or_not_at_all() {
    let mut catalogue = sample(3);
    let group = add_volume(&mut catalogue, "v", 8192, &[1]);
    create(&mut catalogue, group, "s").unwrap();
    let delete = |snapshots| Command::DeleteVolume { group, snapshots };
    let message = run(&mut catalogue, &delete(false)).unwrap_err().to_string();
    assert!(message.contains("has 1 snapshots ('s' is the oldest)"), "{message}");
    run(&mut catalogue, &delete(true)).unwrap();
    assert!(create(&mut catalogue, group, "t").is_err());
    let replica = catalogue.volumes[&group].replicas[0].id;
    let report = Command::ReportReplica {
        group,
        replica,
        dropped: true,
    };
    run(&mut catalogue, &report).unwrap();
    assert!(catalogue.volumes.is_empty() && catalogue.snapshots.is_empty());
}
