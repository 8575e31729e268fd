//! `cairn snapshot …`.

use serde_json::json;

use crate::engines::member;
use crate::fake::Fake;
use crate::run::run;

fn with_volume() -> Fake {
    let fake = member();
    run(&format!("--engine {} volume create data --size 10GiB", fake.address)).ok();
    fake
}

#[test]
fn a_snapshot_is_waited_for_shown_listed_and_deleted() {
    let fake = with_volume();
    let cairn = |line: &str| run(&format!("--engine {} {line}", fake.address));
    assert_eq!(
        cairn("snapshot list").ok(),
        "No snapshots yet: `cairn snapshot create VOLUME --name NAME` makes one.\n"
    );
    fake.state().looks_until_ready = 3;
    let made = cairn("snapshot create data --name monday").ok();
    assert_eq!(
        made,
        "\
Snapshot:   monday (number 3)
Volume:     data
State:      ready
Created:    2000-02-29 12:34:56Z
Size:       10 GiB
Kept:       8 KiB
Exclusive:  4 KiB
Export:     data@monday
"
    );
    assert_eq!(
        cairn("snapshot create data --name monday").ok(),
        made,
        "asked twice is done once"
    );
    assert_eq!(
        cairn("snapshot list data").ok(),
        "\
VOLUME  SNAPSHOT  STATE  CREATED                 SIZE   KEPT  EXCLUSIVE
data    monday    ready  2000-02-29 12:34:56Z  10 GiB  8 KiB      4 KiB
"
    );
    let shown = cairn("-o json snapshot show data monday").json();
    let expected = json!({
        "volume": "data", "name": "monday", "snapshot_id": 3, "state": "ready", "created_unix_s": 951_827_696,
        "size_bytes": 10_u64 << 30, "index": 99, "kept_bytes": 8192, "exclusive_bytes": 4096, "export": "data@monday",
        "together_id": null,
    });
    assert_eq!(shown, expected);
    assert_eq!(
        cairn("snapshot delete data monday").ok(),
        "Deleted snapshot monday of volume data.\n"
    );
    assert!(fake.state().snapshots.is_empty());
}

#[test]
fn what_is_not_there_is_said_with_where_to_look() {
    let fake = with_volume();
    for line in [
        "snapshot create other --name monday",
        "snapshot list other",
        "snapshot show data sunday",
        "snapshot delete data sunday",
    ] {
        let ran = run(&format!("--engine {} {line}", fake.address));
        let text = &ran.stderr;
        assert_eq!(ran.code, 3, "{text}");
        assert!(
            text.contains("there is no") && text.contains("cairn snapshot list"),
            "{text}"
        );
    }
}

#[test]
fn a_volume_with_snapshots_needs_a_word_more_to_be_deleted() {
    let fake = with_volume();
    let cairn = |line: &str| run(&format!("--engine {} {line}", fake.address));
    cairn("snapshot create data --name monday").ok();
    let refused = cairn("volume delete data");
    assert_eq!(refused.code, 6, "{refused:?}");
    assert!(refused.stderr.contains("--snapshots"), "{refused:?}");
    cairn("volume delete data --snapshots").ok();
}

#[test]
fn what_changed_is_a_table_or_rows_for_programs() {
    let fake = with_volume();
    let cairn = |line: &str| run(&format!("--engine {} {line}", fake.address));
    cairn("snapshot create data --name monday").ok();
    assert_eq!(
        cairn("snapshot diff data monday").ok(),
        "\
\x20OFFSET  LENGTH  KIND
      0  12 KiB  data
1048576   4 KiB  zero
"
    );
    let diff = cairn("-o json snapshot diff data monday").json();
    let expected = json!({
        "volume": "data", "from": null, "to": "monday", "size_bytes": 10_u64 << 30,
        "extents": [
            {"offset": 0, "length": 12288, "kind": "data"},
            {"offset": 1 << 20, "length": 4096, "kind": "zero"},
        ],
    });
    assert_eq!(diff, expected);
    assert_eq!(
        cairn("snapshot diff data sunday monday").ok(),
        "Nothing changed from snapshot sunday to monday of volume data.\n"
    );
    assert_eq!(cairn("snapshot diff data sunday").code, 3);
}

#[test]
fn several_volumes_are_taken_together_or_not_at_all() {
    let fake = with_volume();
    let cairn = |line: &str| run(&format!("--engine {} {line}", fake.address));
    cairn("volume create journal --size 1GiB").ok();
    assert_eq!(
        cairn("snapshot create data journal --name both").ok(),
        "\
VOLUME   SNAPSHOT  STATE  CREATED                 SIZE   KEPT  EXCLUSIVE
data     both      ready  2000-02-29 12:34:56Z  10 GiB  8 KiB      4 KiB
journal  both      ready  2000-02-29 12:34:56Z   1 GiB  8 KiB      4 KiB
"
    );
    let listed = cairn("-o json snapshot list").json();
    assert_eq!(listed["snapshots"][0]["together_id"], 3);
    let refused = cairn("snapshot create data none --name all");
    assert!(
        refused.code == 3 && refused.stderr.contains("no volume 'none'"),
        "{refused:?}"
    );
    assert_eq!(cairn("snapshot create --name all").code, 2, "no volume at all");
    assert_eq!(cairn("snapshot create data").code, 2, "no name");
}
