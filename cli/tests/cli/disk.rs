//! `cairn disk …` on files.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use crate::run::run;

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
    let ran = run(&format!("disk format {} --size 64MiB", path.display()));
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("the least is 135270400 bytes"), "{}", ran.stderr);
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
