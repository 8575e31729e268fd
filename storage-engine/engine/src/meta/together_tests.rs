//! What the commands of snapshots that are made together do to the catalogue.

use cairn_api::ids::{GroupId, LogIndex, SnapshotId};

use super::snapshot::{SnapshotCommand, SnapshotPhase};
use super::tests::{add_volume, run, sample};
use super::{Catalogue, Command, Made, Outcome, Refusal};

fn volumes(count: usize) -> (Catalogue, Vec<GroupId>) {
    let mut catalogue = sample(3);
    let names = (0..count).map(|number| format!("v{number}"));
    let groups: Vec<GroupId> = names
        .map(|name| add_volume(&mut catalogue, &name, 8192, &[1]))
        .collect();
    (catalogue, groups)
}

fn create(catalogue: &mut Catalogue, groups: &[GroupId], name: &str, token: u64) -> Result<SnapshotId, Refusal> {
    let command = SnapshotCommand::CreateTogether {
        groups: groups.to_vec(),
        name: name.to_owned(),
        created_unix_s: 7,
        token,
    };
    match run(catalogue, &Command::Snapshot(command))? {
        Outcome::Snapshot(first) => Ok(first),
        other => panic!("{other:?}"),
    }
}

fn complete(catalogue: &mut Catalogue, groups: &[GroupId], token: u64) -> Result<Outcome, Refusal> {
    let made = catalogue
        .snapshots_of_attempt(groups, token)
        .into_iter()
        .map(|one| Made {
            group: one.group,
            snapshot: one.id,
            index: LogIndex(9),
            size_bytes: 8192,
        });
    let made = made.collect();
    run(
        catalogue,
        &Command::Snapshot(SnapshotCommand::CompleteTogether { token, made }),
    )
}

fn abort(catalogue: &mut Catalogue, groups: &[GroupId], token: u64) {
    let groups = groups.to_vec();
    run(
        catalogue,
        &Command::Snapshot(SnapshotCommand::AbortTogether { token, groups }),
    )
    .unwrap();
}

fn phases(catalogue: &Catalogue) -> Vec<SnapshotPhase> {
    catalogue.snapshots.values().map(|snapshot| snapshot.phase).collect()
}

fn delete(catalogue: &mut Catalogue, group: GroupId, snapshot: SnapshotId) {
    run(
        catalogue,
        &Command::Snapshot(SnapshotCommand::Delete { group, snapshot }),
    )
    .unwrap();
}

#[test]
fn all_are_ready_at_once_and_asking_again_is_the_same() {
    let (mut catalogue, groups) = volumes(3);
    let first = create(&mut catalogue, &groups, "all", 5).unwrap();
    assert_eq!(create(&mut catalogue, &groups, "all", 6), Ok(first));
    assert_eq!(phases(&catalogue), [SnapshotPhase::Creating; 3]);
    // The leader of a volume has no say in it.
    let report = SnapshotCommand::Report {
        group: groups[0],
        snapshot: first,
        made: Some((LogIndex(4), 8192)),
    };
    run(&mut catalogue, &Command::Snapshot(report)).unwrap();
    assert_eq!(phases(&catalogue), [SnapshotPhase::Creating; 3]);
    for _ in 0..2 {
        complete(&mut catalogue, &groups, 5).unwrap();
        assert_eq!(phases(&catalogue), [SnapshotPhase::Ready; 3]);
    }
    abort(&mut catalogue, &groups, 5);
    assert_eq!(phases(&catalogue), [SnapshotPhase::Ready; 3], "what is complete stays");
    assert_eq!(create(&mut catalogue, &groups, "all", 7), Ok(first));
}

#[test]
fn what_was_given_up_is_never_complete() {
    let (mut catalogue, groups) = volumes(2);
    create(&mut catalogue, &groups, "all", 5).unwrap();
    abort(&mut catalogue, &groups, 6);
    assert_eq!(phases(&catalogue), [SnapshotPhase::Creating; 2], "another attempt's");
    abort(&mut catalogue, &groups, 5);
    assert_eq!(phases(&catalogue), [SnapshotPhase::Deleting; 2]);
    assert!(complete(&mut catalogue, &groups, 5).is_err());
    assert_eq!(phases(&catalogue), [SnapshotPhase::Deleting; 2]);
    let again = create(&mut catalogue, &groups, "all", 7).unwrap_err().to_string();
    assert!(again.contains("still being deleted"), "{again}");
}

#[test]
fn one_that_is_deleted_meanwhile_or_left_out_spoils_them_all() {
    let (mut catalogue, groups) = volumes(2);
    let first = create(&mut catalogue, &groups, "all", 5).unwrap();
    assert!(complete(&mut catalogue, &groups[..1], 5).is_err(), "one is left out");
    delete(&mut catalogue, groups[0], first);
    assert!(complete(&mut catalogue, &groups, 5).is_err());
    assert_eq!(
        phases(&catalogue),
        [SnapshotPhase::Deleting, SnapshotPhase::Creating],
        "and that is given up"
    );
    assert!(complete(&mut catalogue, &[], 5).is_err(), "nothing is no snapshot");
}

#[test]
fn a_name_is_of_the_same_volumes_or_taken() {
    let (mut catalogue, groups) = volumes(3);
    create(&mut catalogue, &groups[..2], "two", 5).unwrap();
    complete(&mut catalogue, &groups, 5).unwrap();
    let plain = SnapshotCommand::Create {
        group: groups[2],
        name: "one".to_owned(),
        created_unix_s: 0,
    };
    run(&mut catalogue, &Command::Snapshot(plain)).unwrap();
    let twice = [groups[0], groups[0]];
    for (of, name, words) in [
        (&groups[..], "two", "volume 'v0' has a snapshot 'two' already"),
        (&groups[..1], "two", "volume 'v0' has a snapshot 'two' already"),
        (&groups[1..], "one", "volume 'v2' has a snapshot 'one' already"),
        (
            &twice,
            "x",
            "the number of volumes is '2': name 1 to 64 volumes, each once",
        ),
        (&[], "x", "the number of volumes is '0'"),
        (&[GroupId(77)], "x", "no volume 77"),
        (&groups, "a@b", "snapshot name is 'a@b'"),
    ] {
        let refused = create(&mut catalogue, of, name, 6).unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
    }
    let alone = SnapshotCommand::Create {
        group: groups[0],
        name: "two".to_owned(),
        created_unix_s: 0,
    };
    let refused = run(&mut catalogue, &Command::Snapshot(alone)).unwrap_err().to_string();
    assert!(
        refused.contains("was made together with those of other volumes"),
        "{refused}"
    );
}
