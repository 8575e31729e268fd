//! `cairn disk …` on files.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::engines::member;
use crate::run::{Ran, run};

/// A directory on a real file system: `/tmp` may be memory, which knows no direct I/O.
fn scratch() -> tempfile::TempDir {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    tempfile::tempdir_in(target).unwrap()
}

#[test]
fn format_makes_a_file_that_is_written_from_end_to_end() {
    let dir = scratch();
    let path = dir.path().join("disk.img");
    let json = run(&format!("-o json disk format {} --size 130MiB", path.display())).json();
    assert_eq!(json["size_bytes"], 130 << 20);
    assert!(
        path.metadata().unwrap().blocks() * 512 >= 130 << 20,
        "the file has holes"
    );

    let listed = run(&format!("-o json disk list {}", path.display())).json();
    assert_eq!(listed["disks"][0]["content"], "cairn");
    assert_eq!(listed["disks"][0]["disk_id"], json["disk_id"]);
    assert_eq!(listed["disks"][0]["cluster_id"], serde_json::Value::Null);

    let ran = run(&format!("disk format {}", path.display()));
    assert_eq!(ran.code, 6, "{ran:?}");
    assert!(ran.stderr.contains("Cairn disk"), "{}", ran.stderr);
    let again = run(&format!("-o json disk format {} --size 140MiB --force", path.display())).json();
    assert_ne!(again["disk_id"], json["disk_id"]);
    assert_eq!(path.metadata().unwrap().len(), 140 << 20);
}

#[test]
fn format_refuses_what_it_recognises_and_names_it() {
    let dir = scratch();
    let path = dir.path().join("ext4.img");
    let file = fs::File::create(&path).unwrap();
    file.set_len(200 << 20).unwrap();
    file.write_all_at(&[0x53, 0xef], 1080).unwrap();
    let ran = run(&format!("disk format {}", path.display()));
    assert_eq!(ran.code, 6);
    assert!(ran.stderr.contains("ext2 file system"), "{}", ran.stderr);
    assert!(ran.stderr.contains("--force"), "{}", ran.stderr);
    run(&format!("disk format {} --force", path.display())).ok();
}

#[test]
fn format_refuses_sizes_that_cannot_be() {
    let dir = scratch();
    let path = dir.path().join("disk.img");
    let ran = run(&format!("disk format {} --size 32MiB", path.display()));
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("the least is 34607104 bytes"), "{}", ran.stderr);
    let ran = run(&format!("disk format {} --size 4000TiB", path.display()));
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("4000 TiB are needed for"), "{}", ran.stderr);
    let ran = run(&format!("disk format {}", path.display()));
    assert_eq!(ran.code, 3);
    assert!(
        ran.stderr.contains("does not exist\n  try: give --size"),
        "{}",
        ran.stderr
    );
    let ran = run(&format!(
        "disk format {}/none/disk.img --size 1GiB",
        dir.path().display()
    ));
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("its directory"), "{}", ran.stderr);
    assert!(!path.exists(), "a refusal made the file");
}

#[test]
fn list_tells_what_else_is_on_a_disk() {
    let dir = scratch();
    let (zeros, swap, gone) = (
        dir.path().join("zeros"),
        dir.path().join("swap"),
        dir.path().join("gone"),
    );
    fs::File::create(&zeros).unwrap().set_len(8 << 20).unwrap();
    fs::File::create(&swap).unwrap().set_len(8 << 20).unwrap();
    fs::File::options()
        .write(true)
        .open(&swap)
        .unwrap()
        .write_all_at(b"SWAPSPACE2", 4086)
        .unwrap();
    let line = format!(
        "-o json disk list {} {} {}",
        zeros.display(),
        swap.display(),
        gone.display()
    );
    let json = run(&line).json();
    assert_eq!(json["disks"][0]["content"], "empty");
    assert!(json["disks"][1]["content"].as_str().unwrap().contains("swap"), "{json}");
    assert!(
        json["disks"][2]["problem"]
            .as_str()
            .unwrap()
            .contains("could not be opened"),
        "{json}"
    );
}

#[test]
fn replace_finds_the_disks_waits_and_tells_how_far_it_is() {
    let fake = member();
    let at = format!("--engine {}", fake.address);
    let text = run(&format!("disk replace disk-1 2:/disks/2.img {at}")).ok();
    assert!(text.contains("0 of 3 groups moved. It goes on by itself"), "{text}");
    assert!(text.contains("data    catch-up       40  100"), "{text}");
    let json = run(&format!("-o json disk replace disk-1 disk-2 --wait {at}")).json();
    assert_eq!((&json["done"], &json["groups_done"]), (&true.into(), &3.into()));
    assert_eq!(
        (&json["old_disk_id"], &json["new_disk_id"]),
        (&"disk-1".into(), &"disk-2".into())
    );
    let unknown = run(&format!("disk replace nothing disk-2 {at}"));
    assert_eq!(unknown.code, 3);
    assert!(
        unknown
            .stderr
            .contains("the cluster has no disk 'nothing'\n  try: `cairn disk list`"),
        "{}",
        unknown.stderr
    );
    let unclear = run(&format!("disk replace disk disk-2 {at}"));
    assert_eq!(unclear.code, 2);
    assert!(unclear.stderr.contains("may be any of 3 disks"), "{}", unclear.stderr);
}

#[test]
fn replace_that_takes_too_long_goes_on_by_itself() {
    let fake = member();
    fake.state().replacement_is_stuck = true;
    let ran = run(&format!(
        "disk replace disk-1 disk-2 --wait --timeout 700ms --engine {}",
        fake.address
    ));
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(
        ran.stderr
            .contains("data: its new replica catches up, 40 of 100 entries"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("try: it goes on by itself"), "{}", ran.stderr);
}

#[test]
fn list_shows_what_is_being_replaced_what_was_and_what_is_missing() {
    use cairn_api::control::{Disk, Replacement};
    let fake = member();
    let mut state = fake.state();
    let cluster = &mut state.cluster;
    for (old, done) in [("disk-2", 1), ("disk-3", 2)] {
        cluster.replacements.push(Replacement {
            old_disk_id: old.to_owned(),
            new_disk_id: "disk-1".to_owned(),
            done: done == 2,
            groups: 2,
            groups_done: done,
            ..Replacement::default()
        });
    }
    let spec = cluster.nodes[0].spec.as_mut().unwrap();
    spec.disks.push(Disk {
        disk_id: "disk-9".to_owned(),
        path: "/disks/9.img".to_owned(),
        ..Disk::default()
    });
    drop(state);
    let text = run(&format!("disk list --engine {}", fake.address)).ok();
    for part in [
        "ok, being replaced by disk-1 (1 of 2 done)",
        "removed, replaced by disk-1",
        "missing",
    ] {
        assert!(text.contains(part), "'{part}' not in:\n{text}");
    }
    let json = run(&format!("-o json disk list --engine {}", fake.address)).json();
    let states: Vec<&str> = json["disks"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|disk| disk["state"].as_str())
        .collect();
    assert_eq!(states, ["ok", "missing", "ok", "removed"]);
    assert_eq!(json["disks"][2]["given_up"]["replaced_by"], "disk-1");
}

#[test]
fn scrub_shows_every_disk_and_sees_one_through() {
    let fake = member();
    let idle = run(&format!("disk scrub --engine {}", fake.address)).ok();
    assert!(
        idle.contains("next in 60 minutes") || idle.contains("next in 1 hour"),
        "{idle}"
    );
    let begun = run(&format!(
        "-o json disk scrub disk-1 --rate 64MiB --engine {}",
        fake.address
    ))
    .json();
    assert_eq!(begun["disks"][0]["bytes_per_s"], 64 << 20);
    assert_eq!(begun["disks"][0]["running"]["bytes"], 0);
    assert_eq!(begun["disks"][0]["expected_bytes"], 2 << 20);
    let seen = run(&format!("disk scrub disk-1 --wait --engine {}", fake.address)).ok();
    let row = seen.lines().nth(1).unwrap();
    assert!(row.contains("2 MiB") && row.ends_with("2         1     1"), "{seen}");
    let stopped = run(&format!("-o json disk scrub disk-1 --stop --engine {}", fake.address)).json();
    assert_eq!(stopped["disks"][0]["running"], serde_json::Value::Null);
}

/// The third node is known not to answer, and the second one's engine dies in the middle.
#[test]
fn scrub_lists_the_disks_whose_engines_answer_and_waits_for_no_other() {
    let fake = member();
    let list = || run(&format!("-o json disk scrub --timeout 20s --engine {}", fake.address));
    let start = Instant::now();
    let ran = list();
    let listed = |ran: &Ran| {
        let json: serde_json::Value = serde_json::from_str(&ran.stdout).ok()?;
        json["disks"].as_array().map(Vec::len)
    };
    assert_eq!((ran.code, listed(&ran)), (0, Some(2)), "{ran:?}");
    assert!(ran.stderr.contains("of node 3 is left out"), "{}", ran.stderr);
    fake.state().silent_disks = vec!["disk-2".to_owned()];
    let ran = list();
    assert_eq!((ran.code, listed(&ran)), (0, Some(1)), "{ran:?}");
    assert!(
        ran.stderr.contains("cannot see how far disk disk-2 is"),
        "{}",
        ran.stderr
    );
    fake.state().silent_disks.push("disk-1".to_owned());
    let ran = list();
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.stderr.contains("none of 3 disks could be asked"), "{}", ran.stderr);
    assert!(start.elapsed() < Duration::from_secs(15), "nobody was waited for");
    let named = run(&format!("disk scrub disk-2 --timeout 500ms --engine {}", fake.address));
    assert_eq!(named.code, 5, "{named:?}");
}

#[test]
fn scrub_that_takes_too_long_goes_on_by_itself() {
    let fake = member();
    fake.state().scrub_is_stuck = true;
    let ran = run(&format!(
        "disk scrub disk-1 --wait --timeout 700ms --engine {}",
        fake.address
    ));
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(
        ran.stderr.contains("is being read through but not within"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("try: it goes on by itself"), "{}", ran.stderr);
    for (line, words) in [
        ("disk scrub --wait", "<DISK>"),
        ("disk scrub disk-1 --stop --rate 1MiB", "cannot be used with"),
        ("disk scrub nothing", "the cluster has no disk 'nothing'"),
    ] {
        let ran = run(&format!("{line} --engine {}", fake.address));
        assert!(
            matches!(ran.code, 2 | 3) && ran.stderr.contains(words),
            "{line}: {ran:?}"
        );
    }
}
