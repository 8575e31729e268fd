//! Disks outside the ring: formatting, opening, refusing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "test data and a printed figure"
)]

mod common;

use std::os::unix::fs::FileExt;

use cairn_api::ids::{ClusterId, NodeId};
use cairn_api::units::ByteSize;
use cairn_reactor::DiskError;
use cairn_reactor::disk::{self, FormatOptions, Owner};
use common::{Bench, DISK_SIZE};

fn owner() -> Owner {
    Owner {
        cluster: ClusterId::random(),
        node: NodeId::random(),
    }
}

#[test]
fn a_formatted_disk_opens_and_remembers_who_claimed_it() {
    let bench = Bench::new();
    let path = bench.format("disk", DISK_SIZE);
    let (mine, theirs) = (owner(), owner());
    let mut disk = disk::open(&path, Some(mine)).unwrap();
    assert!(disk.superblock().is_unclaimed());
    disk.claim(mine).unwrap();
    drop(disk);

    let disk = disk::open(&path, Some(mine)).unwrap();
    assert_eq!(
        (disk.superblock().cluster, disk.superblock().node),
        (mine.cluster, mine.node)
    );
    assert_eq!(
        disk::inspect(&path).unwrap(),
        *disk.superblock(),
        "also while it is in use"
    );
    drop(disk);
    let stranger = disk::open(&path, Some(theirs)).unwrap_err();
    assert!(
        matches!(&stranger, DiskError::OtherCluster { found, .. } if *found == mine.cluster),
        "{stranger}"
    );
    let moved = Owner {
        node: theirs.node,
        ..mine
    };
    assert!(matches!(
        disk::open(&path, Some(moved)).unwrap_err(),
        DiskError::OtherNode { .. }
    ));
    let found = disk::recognise(&path).unwrap().unwrap();
    assert!(found.contains(&mine.cluster.to_string()), "{found}");
}

#[test]
fn a_second_open_is_refused_and_names_the_process() {
    let bench = Bench::new();
    let path = bench.format("disk", DISK_SIZE);
    let first = disk::open(&path, None).unwrap();
    let error = disk::open(&path, None).unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, DiskError::InUse { holder: Some(pid), .. } if pid == std::process::id()),
        "{text}"
    );
    assert!(text.contains("in use by another process (pid "), "{text}");
    let forced = FormatOptions {
        force: true,
        segment_size: Some(2 << 20),
        ..FormatOptions::default()
    };
    assert!(matches!(
        disk::format(&path, forced, |_, _| ()).unwrap_err(),
        DiskError::InUse { .. }
    ));
    drop(first);
    disk::open(&path, None).unwrap();
}

#[test]
fn a_disk_that_holds_something_is_formatted_only_by_force() {
    let bench = Bench::new();
    let path = bench.path("disk");
    std::fs::write(&path, vec![0; DISK_SIZE as usize]).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"XFSB", 0).unwrap();
    let options = FormatOptions {
        segment_size: Some(2 << 20),
        ..FormatOptions::default()
    };
    let error = disk::format(&path, options, |_, _| ()).unwrap_err();
    assert!(error.to_string().contains("xfs"), "{error}");
    let mut last = (0, 0);
    disk::format(&path, FormatOptions { force: true, ..options }, |done, total| {
        last = (done, total);
    })
    .unwrap();
    assert_eq!(last, (DISK_SIZE, DISK_SIZE));
    disk::open(&path, None).unwrap();
}

#[test]
fn a_truncated_disk_is_named_and_left_alone() {
    let bench = Bench::new();
    let path = bench.format("disk", DISK_SIZE);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(DISK_SIZE / 2).unwrap();
    let error = disk::open(&path, None).unwrap_err();
    assert!(
        matches!(error, DiskError::Truncated { found_bytes, expected_bytes, .. }
            if found_bytes == DISK_SIZE / 2 && expected_bytes == DISK_SIZE),
        "{error}"
    );
}

#[test]
fn one_corrupt_superblock_is_survived_and_two_are_named() {
    let bench = Bench::new();
    let path = bench.format("disk", DISK_SIZE);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0xff; 64], 20).unwrap();
    disk::open(&path, None).unwrap();
    file.write_all_at(&[0xff; 64], DISK_SIZE - 4096 + 20).unwrap();
    let error = disk::open(&path, None).unwrap_err();
    assert!(matches!(error, DiskError::CorruptSuperblock { .. }), "{error}");
    assert!(error.to_string().contains("checksum"), "{error}");
}

#[test]
fn what_is_no_cairn_disk_is_named() {
    let bench = Bench::new();
    let path = bench.path("disk");
    std::fs::write(&path, vec![0; DISK_SIZE as usize]).unwrap();
    let error = disk::open(&path, None).unwrap_err();
    assert!(error.to_string().contains("only zeros"), "{error}");
    let directory = disk::inspect(bench.directory.path()).unwrap_err();
    assert!(matches!(directory, DiskError::NotADisk { .. }), "{directory}");
    assert!(matches!(
        disk::open(&bench.path("absent"), None).unwrap_err(),
        DiskError::Open { .. }
    ));
}

#[test]
fn sizes_that_cannot_be_are_refused_and_leave_nothing_behind() {
    let bench = Bench::new();
    let path = bench.path("disk");
    for (size, word) in [(DISK_SIZE + 1, "multiple of 4096"), (8192, "too small")] {
        let options = FormatOptions {
            size: Some(ByteSize(size)),
            ..FormatOptions::default()
        };
        let error = disk::format(&path, options, |_, _| ()).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        assert!(!path.exists());
    }
    let path = bench.format("made", DISK_SIZE);
    let shorter = FormatOptions {
        size: Some(ByteSize(DISK_SIZE / 2)),
        force: true,
        segment_size: Some(2 << 20),
    };
    assert!(
        disk::format(&path, shorter, |_, _| ())
            .unwrap_err()
            .to_string()
            .contains("not made shorter")
    );
}

/// A loop device over a file, detached again when dropped; `None` where the machine gives none to this user.
struct LoopDevice(String);

impl LoopDevice {
    fn over(file: &std::path::Path) -> Option<Self> {
        let output = std::process::Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .output()
            .ok()?;
        let path = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        output.status.success().then_some(Self(path))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup")
            .args(["--detach", &self.0])
            .status();
    }
}

#[test]
fn a_device_is_formatted_at_its_ends_only_and_opened_exclusively() {
    use std::os::unix::fs::OpenOptionsExt;

    let bench = Bench::new();
    let file = bench.path("backing");
    std::fs::write(&file, vec![0; DISK_SIZE as usize]).unwrap();
    let Some(device) = LoopDevice::over(&file) else {
        println!("no loop device is to be had here: the test of devices was skipped");
        return;
    };
    let path = std::path::Path::new(&device.0);
    let options = FormatOptions {
        segment_size: Some(2 << 20),
        ..FormatOptions::default()
    };
    let sized = FormatOptions {
        size: Some(ByteSize(DISK_SIZE)),
        ..options
    };
    let error = disk::format(path, sized, |_, _| ()).unwrap_err();
    assert!(
        error.to_string().contains("a size can only be given for a file"),
        "{error}"
    );
    let mut total = 0;
    disk::format(path, options, |_, all| total = all).unwrap();
    assert_eq!(total, 2 << 20, "a MiB at either end");

    let disk = disk::open(path, None).unwrap();
    assert_eq!(disk.size_bytes(), DISK_SIZE);
    assert!(matches!(disk::open(path, None).unwrap_err(), DiskError::InUse { .. }));
    drop(disk);
    // What the kernel has taken for a mount or an array it holds open exclusively.
    let taken = std::fs::File::options()
        .read(true)
        .custom_flags(libc::O_EXCL)
        .open(path)
        .unwrap();
    assert!(matches!(disk::open(path, None).unwrap_err(), DiskError::InUse { .. }));
    drop(taken);
    disk::open(path, None).unwrap();
}
