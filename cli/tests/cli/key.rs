//! Encrypted volumes and their keys.

use cairn_api::control::{KeyServiceStatus, KeyStatus, MasterKeyUse};

use crate::engines::member;
use crate::run::run;

#[test]
fn an_encrypted_volume_is_shown_with_its_master_key() {
    let fake = member();
    let engine = format!("--engine {}", fake.address);
    let shown = run(&format!(
        "{engine} volume create secret --size 1GiB --encrypted --key-name tenant-7"
    ))
    .ok();
    assert!(
        shown.contains("Encryption:   aes-256-xts\nMaster key:   tenant-7 version 1 (file)\n"),
        "{shown}"
    );
    run(&format!("{engine} volume create open --size 1GiB")).ok();
    assert!(!run(&format!("{engine} volume show open")).ok().contains("Master key"));
    assert_eq!(
        run(&format!("{engine} volume list")).ok(),
        "\
VOLUME   SIZE  REPLICAS  STATE  HEALTH   LEADER  ATTACHED TO  LIMITS  MASTER KEY
open    1 GiB         3  ready  healthy  1       -            -       -
secret  1 GiB         3  ready  healthy  1       -            -       tenant-7 version 1 (file)
"
    );
    let json = run(&format!("{engine} -o json volume show secret")).json();
    let expected = serde_json::json!({
        "cipher": "aes-256-xts", "service": "file", "key_name": "tenant-7", "key_version": 1, "erased": false,
    });
    assert_eq!(json["encryption"], expected);
}

#[test]
fn rewrapping_does_what_is_left_and_says_what_it_did() {
    let fake = member();
    let engine = format!("--engine {}", fake.address);
    assert_eq!(
        run(&format!("{engine} volume rewrap --all")).ok(),
        "No volume is encrypted.\n"
    );
    for name in ["a", "b"] {
        run(&format!("{engine} volume create {name} --size 1GiB --encrypted")).ok();
    }
    run(&format!("{engine} volume create open --size 1GiB")).ok();
    fake.state().master_version = 2;
    run(&format!("{engine} volume rewrap b")).ok();
    assert_eq!(
        run(&format!("{engine} volume rewrap --all")).ok(),
        "\
VOLUME  MASTER KEY             REWRAPPED
a       main version 2 (file)  now
b       main version 2 (file)  was already
"
    );
    let json = run(&format!("{engine} -o json volume rewrap --all")).json();
    assert_eq!(json["volumes"][0]["changed"], false);
    let refused = run(&format!("{engine} volume rewrap open"));
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.contains("there is nothing to rewrap"),
        "{}",
        refused.stderr
    );
    assert_eq!(run(&format!("{engine} volume rewrap none")).code, 3);
}

#[test]
fn the_keys_are_shown_with_what_depends_on_them() {
    let fake = member();
    let status = || run(&format!("--engine {} key status", fake.address)).ok();
    fake.state().keys.engine = "a".to_owned();
    assert_eq!(
        status(),
        "\
Engine:       a
Key service:  none: the configuration has no [encryption]
Usual key:    -
"
    );
    let key = |version, volumes, current, problem: &str| MasterKeyUse {
        service: "file".to_owned(),
        key_name: "main".to_owned(),
        version,
        volumes,
        current,
        problem: problem.to_owned(),
    };
    fake.state().keys = KeyStatus {
        engine: "a".to_owned(),
        default_key: "main".to_owned(),
        services: vec![KeyServiceStatus {
            kind: "file".to_owned(),
            description: "file /etc/cairn/master-keys".to_owned(),
            wraps: true,
        }],
        keys: vec![
            key(1, 12, false, ""),
            key(2, 3, true, ""),
            key(0, 0, false, "its mode is 0644"),
        ],
    };
    assert_eq!(
        status(),
        "\
Engine:       a
Key service:  file /etc/cairn/master-keys
Usual key:    main

MASTER KEY  SERVICE  VERSION  VOLUMES  STATE
main        file           1       12  old: `cairn volume rewrap --all`
main        file           2        3  current
main        file           -        0  its mode is 0644
"
    );
    let json = run(&format!("--engine {} -o json key status", fake.address)).json();
    assert_eq!(json["keys"][2]["version"], serde_json::Value::Null);
}
