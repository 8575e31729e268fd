//! The catalogue's part of encryption: a key belongs to one volume, is replaced on condition, and goes first.

use cairn_api::ids::{GroupId, ReplicaId};
use cairn_api::limits::VolumeLimits;

use super::decide::{Command, Outcome, Refusal, decide};
use super::encryption::{WRAPPED_BYTES_MAX, Wanted, WrappedKey, check_wanted};
use super::tests::{disk, node, planned, run, sample};
use super::{Catalogue, VolumeRecord};

fn create(volume: Option<u64>, version: u8) -> Command {
    Command::CreateVolume {
        source: None,
        name: "v".to_owned(),
        size_bytes: 4096,
        places: vec![(node(1), disk(1))],
        limits: VolumeLimits::default(),
        encryption: volume.map(|volume| planned(volume, version)),
    }
}

fn encrypted() -> Catalogue {
    let mut catalogue = sample(3);
    assert_eq!(
        run(&mut catalogue, &create(Some(2), 1)),
        Ok(Outcome::Volume(GroupId(2)))
    );
    catalogue
}

fn rewrap(old: u8, new: u8) -> Command {
    Command::RewrapVolume {
        group: GroupId(2),
        replaces: planned(2, old).key.bytes,
        key: planned(2, new).key,
    }
}

fn volume(catalogue: &Catalogue) -> &VolumeRecord {
    &catalogue.volumes[&GroupId(2)]
}

fn refusal(catalogue: &Catalogue, command: &Command) -> String {
    decide(catalogue, command).unwrap_err().to_string()
}

#[test]
fn a_key_that_was_wrapped_for_another_number_makes_no_volume() {
    let mut catalogue = sample(3);
    let message = refusal(&catalogue, &create(Some(3), 1));
    assert!(
        message.contains("wrapped for volume number 3, and the next one is 2"),
        "{message}"
    );
    run(&mut catalogue, &create(Some(2), 1)).unwrap();
    assert_eq!(volume(&catalogue).encryption, Some(planned(2, 1).key));
}

#[test]
fn creating_again_is_the_same_volume_if_it_is_encrypted_alike() {
    let mut catalogue = encrypted();
    let again = run(&mut catalogue, &create(Some(77), 2));
    assert_eq!(again, Ok(Outcome::Volume(GroupId(2))));
    assert_eq!(
        volume(&catalogue).encryption,
        Some(planned(2, 1).key),
        "it keeps its key"
    );
    assert!(refusal(&catalogue, &create(None, 0)).contains("it is encrypted"));
    let other = check_wanted(volume(&catalogue), Wanted::Encrypted(Some("other")));
    assert!(matches!(other, Err(Refusal::Exists(reason)) if reason.contains("'main', not 'other'")));
    let mut plain = sample(3);
    run(&mut plain, &create(None, 0)).unwrap();
    assert!(refusal(&plain, &create(Some(2), 1)).contains("it is not encrypted"));
}

#[test]
fn a_wrapping_is_replaced_by_whoever_read_it_last_and_once() {
    let mut catalogue = encrypted();
    run(&mut catalogue, &rewrap(1, 2)).unwrap();
    assert_eq!(volume(&catalogue).encryption, Some(planned(2, 2).key));
    assert_eq!(
        decide(&catalogue, &rewrap(1, 2)),
        Ok((Outcome::Done, Vec::new())),
        "done already"
    );
    let late = refusal(&catalogue, &rewrap(1, 3));
    assert!(late.contains("rewrapped meanwhile"), "{late}");
    run(&mut catalogue, &rewrap(2, 3)).unwrap();
    // Back to an older version, should somebody want that: what counts is what was read.
    run(&mut catalogue, &rewrap(3, 1)).unwrap();
    let mut plain = sample(3);
    run(&mut plain, &create(None, 0)).unwrap();
    assert!(refusal(&plain, &rewrap(1, 2)).contains("is not encrypted"));
    assert!(refusal(&sample(3), &rewrap(1, 2)).contains("there is no volume"));
}

#[test]
fn what_is_no_wrapped_key_is_refused() {
    let catalogue = encrypted();
    for length in [0, WRAPPED_BYTES_MAX + 1] {
        let bytes = vec![7; length];
        let key = WrappedKey {
            bytes,
            ..planned(2, 2).key
        };
        let command = Command::RewrapVolume {
            group: GroupId(2),
            replaces: planned(2, 1).key.bytes,
            key,
        };
        assert!(
            refusal(&catalogue, &command).contains("bytes of the wrapped key"),
            "{length}"
        );
    }
}

#[test]
fn deleting_erases_the_key_before_any_replica_is_dropped() {
    let mut catalogue = sample(3);
    // Bytes that stand nowhere else in a catalogue.
    run(&mut catalogue, &create(Some(2), 200)).unwrap();
    let wrapped = planned(2, 200).key.bytes;
    let has_key = |catalogue: &Catalogue| {
        let encoded = super::codec::encode_catalogue(catalogue);
        encoded.windows(wrapped.len()).any(|window| window == wrapped)
    };
    assert!(has_key(&catalogue));
    let delete = Command::DeleteVolume {
        group: GroupId(2),
        snapshots: false,
    };
    run(&mut catalogue, &delete).unwrap();
    let key = volume(&catalogue).encryption.clone().unwrap();
    assert!(key.is_erased());
    assert!(!has_key(&catalogue));
    assert!(refusal(&catalogue, &rewrap(200, 2)).contains("is being deleted"));
    let erased = Command::RewrapVolume {
        group: GroupId(2),
        replaces: Vec::new(),
        key: planned(2, 2).key,
    };
    assert!(refusal(&catalogue, &erased).contains("is being deleted"));
    let report = Command::ReportReplica {
        group: GroupId(2),
        replica: ReplicaId(4),
        dropped: true,
    };
    run(&mut catalogue, &report).unwrap();
    assert!(catalogue.volumes.is_empty());
}

#[test]
fn a_wrapped_key_is_not_shown() {
    let shown = format!("{:?}", planned(2, 9).key);
    assert_eq!(shown, "WrappedKey(version 9 of file key 'main', 5 bytes)");
}
