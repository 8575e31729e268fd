//! Clones in the catalogue.

use cairn_api::ids::{GroupId, LogIndex, SnapshotId};

use super::clone::Source;
use super::snapshot::{SnapshotCommand, SnapshotPhase};
use super::succession::Step;
use super::tests::{add_volume, disk, node, run, sample};
use super::{Catalogue, Command, Outcome, Refusal};

const SIZE: u64 = 8192;

fn clone_command(catalogue: &Catalogue, name: &str, size_bytes: u64, of: (GroupId, Option<SnapshotId>)) -> Command {
    let places = [1, 2, 3].map(|number| (node(number), disk(number)));
    let _ = catalogue;
    Command::CreateVolume {
        name: name.to_owned(),
        size_bytes,
        places: places.to_vec(),
        limits: Default::default(),
        encryption: None,
        source: Some(Source {
            group: of.0,
            snapshot: of.1,
            created_unix_s: 7,
        }),
    }
}

fn clone_of(catalogue: &mut Catalogue, name: &str, of: (GroupId, Option<SnapshotId>)) -> GroupId {
    let command = clone_command(catalogue, name, SIZE, of);
    match run(catalogue, &command) {
        Ok(Outcome::Volume(group)) => group,
        other => panic!("{other:?}"),
    }
}

/// A snapshot that is made, by the entry at `index`.
fn snapshot(catalogue: &mut Catalogue, group: GroupId, name: &str, index: u64) -> SnapshotId {
    let create = SnapshotCommand::Create {
        group,
        name: name.to_owned(),
        created_unix_s: 7,
    };
    let Ok(Outcome::Snapshot(id)) = run(catalogue, &Command::Snapshot(create)) else {
        panic!("no snapshot");
    };
    made(catalogue, group, id, index);
    id
}

fn made(catalogue: &mut Catalogue, group: GroupId, snapshot: SnapshotId, index: u64) {
    let report = SnapshotCommand::Report {
        group,
        snapshot,
        made: Some((LogIndex(index), SIZE)),
    };
    run(catalogue, &Command::Snapshot(report)).unwrap();
}

fn delete_snapshot(catalogue: &mut Catalogue, group: GroupId, snapshot: SnapshotId) {
    let delete = SnapshotCommand::Delete { group, snapshot };
    run(catalogue, &Command::Snapshot(delete)).unwrap();
}

fn delete(catalogue: &mut Catalogue, group: GroupId) -> Result<Outcome, Refusal> {
    run(catalogue, &Command::DeleteVolume { group, snapshots: true })
}

fn one_whole(catalogue: &mut Catalogue, group: GroupId, number: usize) {
    let replica = catalogue.volumes[&group].replicas[number].id;
    run(catalogue, &Command::ReportWhole { group, replica }).unwrap();
}

/// All replicas of a clone are whole.
fn whole(catalogue: &mut Catalogue, group: GroupId) {
    (0..3).for_each(|number| one_whole(catalogue, group, number));
}

fn phase(catalogue: &Catalogue, group: GroupId, snapshot: SnapshotId) -> (SnapshotPhase, bool) {
    let record = &catalogue.snapshots[&(group, snapshot)];
    (record.phase, record.hidden)
}

#[test]
fn a_clone_of_a_volume_comes_with_a_hidden_snapshot_that_goes_when_it_is_whole() {
    let mut catalogue = sample(3);
    let source = add_volume(&mut catalogue, "v", SIZE, &[1, 2, 3]);
    let clone = clone_of(&mut catalogue, "c", (source, None));
    let origin = catalogue.volumes[&clone].origin.clone().unwrap();
    assert_eq!(
        (origin.group, origin.size_bytes, origin.name.as_str()),
        (source, SIZE, "v")
    );
    assert_eq!(catalogue.volumes[&clone].spec().base, Some(origin.base()));
    assert_eq!(
        phase(&catalogue, source, origin.snapshot),
        (SnapshotPhase::Creating, true)
    );
    assert_eq!(
        clone_of(&mut catalogue, "c", (source, None)),
        clone,
        "asked twice is made once"
    );
    assert_eq!(catalogue.snapshots.len(), 1);
    made(&mut catalogue, source, origin.snapshot, 9);
    assert_eq!(phase(&catalogue, source, origin.snapshot), (SnapshotPhase::Ready, true));
    assert!(catalogue.snapshot_by_name(source, "").is_none(), "nobody sees it");
    for number in [0, 2, 0, 1] {
        assert_eq!(
            phase(&catalogue, source, origin.snapshot),
            (SnapshotPhase::Ready, true),
            "a replica has a base still"
        );
        one_whole(&mut catalogue, clone, number);
        assert!(catalogue.volumes[&clone].origin.as_ref().unwrap().is_whole());
    }
    assert_eq!(
        phase(&catalogue, source, origin.snapshot),
        (SnapshotPhase::Deleting, true)
    );
    let before = catalogue.volumes.clone();
    whole(&mut catalogue, clone);
    assert_eq!(catalogue.volumes, before, "told again");
    let origin = catalogue.volumes[&clone].origin.clone().unwrap();
    assert_eq!(
        catalogue.volumes[&clone].spec().base,
        Some(origin.base()),
        "how replicas are made stays"
    );
}

#[test]
fn a_deleted_snapshot_and_a_deleted_source_stay_hidden_for_their_clones() {
    let mut catalogue = sample(3);
    let source = add_volume(&mut catalogue, "v", SIZE, &[1, 2, 3]);
    let kept = snapshot(&mut catalogue, source, "s", 9);
    let other = snapshot(&mut catalogue, source, "t", 10);
    let clone = clone_of(&mut catalogue, "c", (source, Some(kept)));
    delete_snapshot(&mut catalogue, source, kept);
    assert_eq!(phase(&catalogue, source, kept), (SnapshotPhase::Ready, true));
    let again = snapshot(&mut catalogue, source, "s", 11);
    assert_ne!(again, kept, "its name is free");
    delete(&mut catalogue, source).unwrap();
    assert!(catalogue.volumes[&source].hidden && !catalogue.volumes[&source].deleting);
    assert_eq!(phase(&catalogue, source, other), (SnapshotPhase::Deleting, true));
    assert!(catalogue.volume_by_name("v").is_none());
    let namesake = add_volume(&mut catalogue, "v", SIZE, &[1, 2, 3]);
    assert_eq!(catalogue.volume_by_name("v").map(|volume| volume.group), Some(namesake));
    delete(&mut catalogue, source).unwrap();
    assert!(!catalogue.volumes[&source].deleting, "deleted twice is deleted once");
    whole(&mut catalogue, clone);
    assert!(catalogue.volumes[&source].deleting);
    assert!(!catalogue.volumes[&clone].deleting && !catalogue.volumes[&namesake].deleting);
}

#[test]
fn a_clone_that_is_deleted_needs_nothing_any_more() {
    let mut catalogue = sample(3);
    let source = add_volume(&mut catalogue, "v", SIZE, &[1, 2, 3]);
    let first = clone_of(&mut catalogue, "c", (source, None));
    let second = clone_of(&mut catalogue, "d", (first, None));
    delete(&mut catalogue, source).unwrap();
    delete(&mut catalogue, first).unwrap();
    let is_deleting = |catalogue: &Catalogue, group| catalogue.volumes[&group].deleting;
    assert!(!is_deleting(&catalogue, source) && !is_deleting(&catalogue, first));
    delete(&mut catalogue, second).unwrap();
    assert!(
        is_deleting(&catalogue, source) && is_deleting(&catalogue, first),
        "all go together"
    );
}

#[test]
fn a_disk_that_is_gone_is_replaced_once_the_clone_is_whole_and_its_newcomer_ends_the_need() {
    let mut catalogue = sample(4);
    let source = add_volume(&mut catalogue, "v", SIZE, &[1, 2, 3]);
    let base = snapshot(&mut catalogue, source, "s", 9);
    let clone = clone_of(&mut catalogue, "c", (source, Some(base)));
    let replace = Command::ReplaceDisk {
        old: disk(3),
        new: disk(4),
    };
    let refusal = run(&mut catalogue, &replace).unwrap_err().to_string();
    assert!(refusal.contains("volume 'c' reads from volume 'v'"), "{refusal}");
    one_whole(&mut catalogue, clone, 0);
    one_whole(&mut catalogue, clone, 1);
    run(&mut catalogue, &replace).unwrap();
    delete_snapshot(&mut catalogue, source, base);
    let joining = catalogue.volumes[&clone].succession.swaps[0].joining.replica;
    let report = Command::ReportWhole {
        group: clone,
        replica: joining,
    };
    run(&mut catalogue, &report).unwrap();
    assert_eq!(
        phase(&catalogue, source, base),
        (SnapshotPhase::Ready, true),
        "it is no member yet"
    );
    let settle = Command::AdvanceSwap {
        group: clone,
        joining,
        step: Step::Settled,
        revision: LogIndex(40),
    };
    run(&mut catalogue, &settle).unwrap();
    run(&mut catalogue, &report).unwrap();
    assert_eq!(phase(&catalogue, source, base), (SnapshotPhase::Deleting, true));
}

#[test]
fn what_cannot_be_is_refused_and_says_why() {
    let mut catalogue = sample(4);
    let source = add_volume(&mut catalogue, "v", SIZE, &[1, 2, 3]);
    let ready = snapshot(&mut catalogue, source, "s", 9);
    let gone = snapshot(&mut catalogue, source, "gone", 10);
    delete_snapshot(&mut catalogue, source, gone);
    clone_of(&mut catalogue, "c", (source, Some(ready)));
    let mut refused = |name: &str, size, of| {
        let command = clone_command(&catalogue, name, size, of);
        run(&mut catalogue, &command).unwrap_err().to_string()
    };
    for (name, size, of, words) in [
        ("d", SIZE, (GroupId(99), None), "there is no volume 99 to clone"),
        (
            "d",
            SIZE,
            (source, Some(SnapshotId(99))),
            "volume 'v' has no snapshot 99",
        ),
        (
            "d",
            SIZE,
            (source, Some(gone)),
            "snapshot 'gone' of volume 'v' is being deleted",
        ),
        (
            "d",
            4096,
            (source, Some(ready)),
            "a clone of 'v@s' has at least its size, 8 KiB",
        ),
        ("c", SIZE, (source, None), "exists and differs: it is a clone of 'v@s'"),
        (
            "c",
            SIZE + 4096,
            (source, Some(ready)),
            "exists and differs: its size is",
        ),
        ("v", SIZE, (source, Some(ready)), "exists and differs: it is no clone"),
    ] {
        let refusal = refused(name, size, of);
        assert!(refusal.contains(words), "{refusal}");
    }
    let replace = Command::ReplaceDisk {
        old: disk(1),
        new: disk(4),
    };
    let refusal = run(&mut catalogue, &replace).unwrap_err().to_string();
    assert!(refusal.contains("volume 'c' reads from volume 'v'"), "{refusal}");
    let report = Command::ReportWhole {
        group: source,
        replica: catalogue.volumes[&source].replicas[0].id,
    };
    assert!(
        run(&mut catalogue, &report)
            .unwrap_err()
            .to_string()
            .contains("is no clone")
    );
}

#[test]
fn chains_have_a_bound_that_whole_clones_do_not_count_for() {
    let mut catalogue = sample(3);
    let mut last = add_volume(&mut catalogue, "v", SIZE, &[1, 2, 3]);
    let mut clones = Vec::new();
    for number in 0..cairn_core::BASES_MAX {
        last = clone_of(&mut catalogue, &format!("c{number}"), (last, None));
        clones.push(last);
    }
    let command = clone_command(&catalogue, "more", SIZE, (last, None));
    let refusal = run(&mut catalogue, &command).unwrap_err().to_string();
    assert!(refusal.contains("none of which is whole yet"), "{refusal}");
    whole(&mut catalogue, clones[3]);
    assert!(run(&mut catalogue, &command).is_ok());
}
