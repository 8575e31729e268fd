//! `cairn volume …`, and how engines are found.

use std::net::TcpListener;
use std::time::Duration;

use crate::engines::{member, volume};
use crate::run::run;

#[test]
fn create_waits_until_the_volume_is_ready_and_shows_it() {
    let fake = member();
    fake.state().looks_until_ready = 3;
    let text = run(&format!("--engine {} volume create data --size 10GiB", fake.address)).ok();
    assert_eq!(fake.state().looks_until_ready, 0);
    assert_eq!(
        text,
        "\
Volume:       data (number 7)
Size:         10 GiB
Allocated:    12 MiB
Shared:       4 MiB
Exclusive:    8 MiB
Snapshots:    2, which keep 1 MiB
Limits:       none
State:        ready
Health:       healthy
Leader:       1
Attached to:  nobody

REPLICA  NODE  ROLE      TERM  APPLIED  LAG  ALLOCATED  DISK
     11  1     leader       3      100    0     12 MiB  disk-1
     12  2     follower     3      100    0     12 MiB  disk-2
     13  3     follower     3       90   10     12 MiB  disk-3
"
    );
}

#[test]
fn create_again_succeeds_and_with_another_size_is_a_conflict() {
    let fake = member();
    let create = |size| run(&format!("--engine {} volume create data --size {size}", fake.address));
    create("1GiB").ok();
    create("1GiB").ok();
    let ran = create("2GiB");
    assert_eq!(ran.code, 4);
    assert_eq!(
        ran.stderr,
        "error: cannot create volume 'data': its size is 1073741824 bytes, not 2147483648\n"
    );
    assert_eq!(ran.stdout, "");
}

#[test]
fn a_clone_has_its_sources_size_says_how_far_it_is_on_its_own_and_is_waited_for() {
    let fake = member();
    let volume = |rest: &str| run(&format!("--engine {} --timeout 700ms volume {rest}", fake.address));
    volume("create data --size 8GiB").ok();
    let text = volume("clone data@nightly copy").ok();
    assert!(text.contains("Size:         8 GiB\n"), "{text}");
    assert!(text.contains("Clone of:     data@nightly, 25 % its own\n"), "{text}");
    volume("clone data@nightly copy").ok();
    let list = volume("list").ok();
    assert!(
        list.contains("CLONE OF") && list.contains("data@nightly, 25 % its own"),
        "{list}"
    );
    let ran = volume("clone data@nightly copy --wait");
    assert_eq!(ran.code, 5);
    assert!(
        ran.stderr
            .contains("is ready but not whole within 700ms: 2 GiB of 8 GiB are its own"),
        "{}",
        ran.stderr
    );
    if let Some(origin) = &mut fake.state().volumes.get_mut("copy").unwrap().origin {
        origin.whole = true;
    }
    let json = volume("clone data@nightly copy --wait -o json").ok();
    let shown: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(shown["origin"]["whole"], true);
    assert!(volume("show copy").ok().contains("Clone of:     data@nightly, whole\n"));
    let larger = volume("clone data larger --size 9GiB").ok();
    assert!(
        larger.contains("Size:         9 GiB\n") && larger.contains("Clone of:     data, 2"),
        "{larger}"
    );
    for (source, words) in [("data@", "'data@' names no volume"), ("@s", "'@s' names no volume")] {
        let ran = volume(&format!("clone {source} other"));
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    assert_eq!(volume("clone nothing other").code, 3);
}

#[test]
fn create_that_is_not_ready_in_time_says_what_is_missing() {
    let fake = member();
    fake.state().looks_until_ready = u32::MAX;
    let ran = run(&format!(
        "--engine {} volume create data --size 1GiB --no-wait",
        fake.address
    ));
    assert_eq!(ran.code, 0, "{ran:?}");
    fake.state().volumes.get_mut("data").unwrap().replicas[2].created = false;
    let ran = run(&format!(
        "--engine {} --timeout 700ms volume create data --size 1GiB",
        fake.address
    ));
    assert_eq!(ran.code, 5);
    assert!(
        ran.stderr
            .contains("accepted but not ready within 700ms: 2 of 3 replicas are made"),
        "{}",
        ran.stderr
    );
}

#[test]
fn limits_are_set_changed_one_by_one_and_lifted() {
    let fake = member();
    let volume = |rest: &str| run(&format!("--engine {} volume {rest}", fake.address));
    let created = volume("create v --size 1GiB --iops 1000").ok();
    assert!(
        created.contains("Limits:       1000 IOPS, bursts of 100 ms\n"),
        "{created}"
    );
    let limited = volume("limit v --bandwidth 50MiB/s --burst 2s").ok();
    assert!(
        limited.contains("Limits:       1000 IOPS, 50 MiB/s, bursts of 2000 ms\n"),
        "{limited}"
    );
    let json = volume("limit v --iops none -o json").json();
    let expected = serde_json::json!({"iops": null, "bytes_per_s": 50 << 20, "burst_ms": 2000});
    assert_eq!(json["limits"], expected);
    assert!(volume("list").ok().contains("50 MiB/s\n"));
    for (rest, words) in [
        ("limit v", "nothing is to be changed of the limits of volume 'v'"),
        (
            "limit v --iops 0",
            "a volume is limited to 10 to 10000000 requests a second, or to none; write `none`",
        ),
        ("limit v --iops many", "'many' is not a number of requests a second"),
        (
            "limit v --bandwidth 4KiB",
            "a volume is limited to 1 MiB to 1 TiB a second",
        ),
        ("limit v --burst 61s", "a burst is 0 to 60 s of the limits"),
        ("limit v --burst 5", "'5' is not a time"),
        ("create w --size 1GiB --bandwidth 2000TiB", "1 MiB to 1 TiB"),
    ] {
        let ran = volume(rest);
        assert_eq!(ran.code, 2, "{rest}: {ran:?}");
        assert!(ran.stderr.contains(words), "{rest}: {}", ran.stderr);
    }
}

#[test]
fn resize_waits_until_the_leader_serves_the_size() {
    let fake = member();
    fake.state().volumes = [("v".to_owned(), volume("v", 1 << 30, 3))].into();
    let resize = |rest: &str| run(&format!("--engine {} volume resize {rest}", fake.address));
    fake.state().looks_until_ready = u32::MAX;
    let ran = resize("v --size 2GiB --no-wait");
    assert!(
        ran.ok()
            .contains("Size:         2 GiB, of which 1 GiB are served yet\n")
    );
    let ran = resize("v --size 2GiB --timeout 900ms");
    assert_eq!(ran.code, 5);
    assert!(
        ran.stderr
            .contains("accepted but not served within 900ms: 1 GiB of 2 GiB are served"),
        "{}",
        ran.stderr
    );
    fake.state().looks_until_ready = 2;
    assert!(resize("v --size 2GiB").ok().contains("Size:         2 GiB\n"));
    assert_eq!(fake.state().looks_until_ready, 0);
    for (rest, code, words) in [
        ("v --size 1GiB", 1, "cannot resize volume 'v': a volume cannot shrink"),
        ("v --size 5000", 2, "not a multiple of the block of 4096"),
        ("w --size 1GiB", 3, "there is no volume 'w'"),
    ] {
        let ran = resize(rest);
        assert_eq!(ran.code, code, "{rest}: {ran:?}");
        assert!(ran.stderr.contains(words), "{rest}: {}", ran.stderr);
    }
}

#[test]
fn list_as_table_and_as_json() {
    let fake = member();
    let list = |format| run(&format!("--engine {} -o {format} volume list", fake.address));
    assert_eq!(
        list("table").ok(),
        "No volumes yet: `cairn volume create NAME --size 10GiB` makes one.\n"
    );
    assert_eq!(list("json").ok(), "{\n  \"volumes\": []\n}\n");
    let mut attached = volume("b", 4096, 1);
    attached.attached_to = "2".to_owned();
    fake.state().volumes = [("b".to_owned(), attached), ("a".to_owned(), volume("a", 3 << 29, 3))].into();
    assert_eq!(
        list("table").ok(),
        "\
VOLUME     SIZE  REPLICAS  STATE  HEALTH   LEADER  ATTACHED TO  LIMITS
a       1.5 GiB         3  ready  healthy  1       -            -
b         4 KiB         1  ready  healthy  1       2            -
"
    );
    let json = list("json").json();
    assert_eq!(json["volumes"][0]["size_bytes"], 3u64 << 29);
    assert_eq!(json["volumes"][1]["attached_to"], "2");
}

#[test]
fn show_as_json_has_the_documented_fields() {
    let fake = member();
    let mut half = volume("v", 1 << 30, 3);
    half.replicas[2].status = None;
    fake.state().volumes = [("v".to_owned(), half)].into();
    let json = run(&format!("--engine {} -o json volume show v", fake.address)).json();
    let expected = serde_json::json!({
        "name": "v", "volume_id": 7, "size_bytes": 1u64 << 30, "served_bytes": 1u64 << 30,
        "limits": {"iops": null, "bytes_per_s": null, "burst_ms": 100}, "state": "ready", "health": "healthy", "leader": "1",
        "attached_to": null, "epoch": 2, "allocated_bytes": 12 << 20,
        "shared_bytes": 4 << 20, "exclusive_bytes": 8 << 20, "snapshot_bytes": 1 << 20, "snapshots": 2,
        "replicas": [
            {"replica_id": 11, "node": "1", "disk_id": "disk-1", "created": true, "answering": true, "role": "leader",
             "term": 3, "committed": 100, "applied": 100, "last": 100, "lag": 0, "allocated_bytes": 12 << 20},
            {"replica_id": 12, "node": "2", "disk_id": "disk-2", "created": true, "answering": true, "role": "follower",
             "term": 3, "committed": 100, "applied": 100, "last": 100, "lag": 0, "allocated_bytes": 12 << 20},
            {"replica_id": 13, "node": "3", "disk_id": "disk-3", "created": true, "answering": false, "role": null,
             "term": null, "committed": null, "applied": null, "last": null, "lag": null, "allocated_bytes": null},
        ],
        "joining": [],
        "encryption": null,
    });
    assert_eq!(json, expected);
}

#[test]
fn show_tells_of_a_replica_that_takes_anothers_place() {
    let fake = member();
    let mut swapped = volume("v", 1 << 30, 3);
    let mut newcomer = swapped.replicas[1].clone();
    newcomer.replica_id = 20;
    newcomer.disk_id = "disk-4".to_owned();
    let status = newcomer.status.as_mut().unwrap();
    (status.role, status.applied) = ("learner".to_owned(), 40);
    swapped.joining.push(newcomer);
    fake.state().volumes = [("v".to_owned(), swapped)].into();
    let text = run(&format!("--engine {} volume show v", fake.address)).ok();
    let row = text.lines().find(|line| line.contains("disk-4")).unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(words[..6], ["20", "2", "learner", "3", "40", "60"], "{text}");
    let list = run(&format!("--engine {} volume list", fake.address)).ok();
    assert!(list.contains("3  ready"), "a newcomer is not counted yet: {list}");
}

#[test]
fn what_is_not_there_exits_with_3() {
    let fake = member();
    for line in ["volume show v", "volume delete v", "volume detach v", "volume export v"] {
        let ran = run(&format!("--engine {} {line}", fake.address));
        assert_eq!(ran.code, 3, "{line}: {ran:?}");
        assert!(
            ran.stderr
                .contains("there is no volume 'v'\n  try: `cairn volume list`"),
            "{line}: {}",
            ran.stderr
        );
    }
}

#[test]
fn delete_of_an_attached_volume_needs_force() {
    let fake = member();
    let mut attached = volume("v", 1 << 30, 3);
    attached.attached_to = "2".to_owned();
    fake.state().volumes = [("v".to_owned(), attached)].into();
    let ran = run(&format!("--engine {} volume delete v", fake.address));
    assert_eq!(ran.code, 6);
    assert_eq!(
        ran.stderr,
        "error: cannot delete volume 'v': it is attached to node 2\n  \
         try: disconnect its clients and `cairn volume detach v`, or delete it with --force\n"
    );
    let text = run(&format!("--engine {} volume delete v --force", fake.address)).ok();
    assert_eq!(text, "Deleted volume v.\n");
    assert!(fake.state().volumes.is_empty());
}

#[test]
fn detach_tells_the_epoch() {
    let fake = member();
    fake.state().volumes = [("v".to_owned(), volume("v", 1 << 30, 3))].into();
    let json = run(&format!("--engine {} -o json volume detach v", fake.address)).json();
    assert_eq!(json, serde_json::json!({"name": "v", "epoch": 4}));
}

#[test]
fn export_lists_every_door_the_leaders_first() {
    let fake = member();
    let mut led_by_second = volume("v", 1 << 30, 3);
    led_by_second.leader = "2".to_owned();
    fake.state().volumes = [("v".to_owned(), led_by_second)].into();
    let text = run(&format!("--engine {} volume export v", fake.address)).ok();
    assert_eq!(
        text,
        "\
NODE  REACHABLE  REPLICA  TCP                     UNIX SOCKET, ON THE NODE ITSELF
2     yes        leader   nbd://10.0.0.2:10809/v  nbd+unix:///v?socket=/run/2/nbd.sock
1     yes        yes      nbd://10.0.0.1:10809/v  nbd+unix:///v?socket=/run/1/nbd.sock
3     no         yes      nbd://10.0.0.3:10809/v  -

Try:
  nbdinfo 'nbd://10.0.0.2:10809/v'
  qemu-img info 'nbd://10.0.0.2:10809/v'
  nbdcopy --progress image.raw 'nbd://10.0.0.2:10809/v'
  nbd-client 10.0.0.2 10809 /dev/nbd0 -name v -persist   # as root: a kernel device
  fio --name=try --ioengine=nbd --uri='nbd://10.0.0.2:10809/v' --rw=randwrite --bs=4k --iodepth=32 --size=64m   # overwrites data
"
    );
    let json = run(&format!("--engine {} -o json volume export v", fake.address)).json();
    assert_eq!(json["exports"][0]["uri"], "nbd://10.0.0.2:10809/v");
    assert_eq!(json["exports"][2]["reachable"], false);
}

#[test]
fn engines_are_tried_in_turn_and_a_failure_lists_each_with_its_reason() {
    let fake = member();
    // Accepts connections, by its backlog, and never says a word.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute_address = mute.local_addr().unwrap();
    let ran = run(&format!(
        "--engine 127.0.0.1:1,{mute_address},{} --timeout 3s volume list",
        fake.address
    ));
    assert_eq!(ran.code, 0, "{ran:?}");
    // Pings find the mute one out before its turn eats up the time.
    assert!(ran.took < Duration::from_secs(3), "{ran:?}");
    let ran = run(&format!(
        "--engine 127.0.0.1:1 --engine {mute_address} --timeout 1s volume list"
    ));
    assert_eq!(ran.code, 5);
    let first = "cannot list volumes: none of 2 engines could: 127.0.0.1:1: connection refused; ";
    assert!(ran.stderr.contains(first), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("{mute_address}: no ")), "{}", ran.stderr);
    assert!(ran.stderr.contains("\n  try: start an engine"), "{}", ran.stderr);
}

#[test]
fn an_election_is_waited_for_but_not_for_ever() {
    let fake = member();
    fake.state().not_now = 3;
    run(&format!("--engine {} volume list", fake.address)).ok();
    fake.state().not_now = u32::MAX;
    let ran = run(&format!("--engine {} --timeout 1s volume list", fake.address));
    assert_eq!(ran.code, 5);
    let expected = format!(
        "error: cannot list volumes: {}: the meta group has no leader\n",
        fake.address
    );
    assert!(ran.stderr.starts_with(&expected), "{}", ran.stderr);
    assert!(ran.took < Duration::from_secs(3), "{ran:?}");
}
