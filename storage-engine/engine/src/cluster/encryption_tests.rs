//! Encrypted volumes through the control API of whole engines.

use std::os::unix::fs::PermissionsExt as _;

use cairn_api::control as api;
use tonic::{Code, Response, Status};

use super::tests::Bench;

fn write_keys(bench: &Bench, versions: u32) {
    let line = |version: u32| format!("main {version} {}\n", format!("{version:02x}").repeat(32));
    let text: String = (1..=versions).map(line).collect();
    std::fs::write(bench.keys(), text).unwrap();
    std::fs::set_permissions(bench.keys(), std::fs::Permissions::from_mode(0o600)).unwrap();
}

async fn create(bench: &Bench, number: usize, name: &str, key_name: &str) -> Result<api::Volume, Status> {
    let request = api::CreateVolumeRequest {
        source_volume: String::new(),
        source_snapshot: String::new(),
        name: name.to_owned(),
        size_bytes: 1 << 20,
        replicas: 3,
        encrypted: true,
        key_name: key_name.to_owned(),
        limits: None,
    };
    bench
        .client(number)
        .create_volume(request)
        .await
        .map(Response::into_inner)
}

async fn rewrap(bench: &Bench, number: usize, name: &str) -> Result<api::RewrapVolumeReply, Status> {
    let request = api::RewrapVolumeRequest {
        name: name.to_owned(),
        key_name: String::new(),
    };
    bench
        .client(number)
        .rewrap_volume(request)
        .await
        .map(Response::into_inner)
}

async fn key_status(bench: &Bench, number: usize) -> api::KeyStatus {
    let answer = bench.client(number).get_key_status(api::GetKeyStatusRequest {}).await;
    answer.unwrap().into_inner()
}

/// What each version of the master key is needed for: version, volumes, whether it is the current one.
fn uses(status: &api::KeyStatus) -> Vec<(u32, u32, bool)> {
    let of_key = |key: &api::MasterKeyUse| (key.version, key.volumes, key.current);
    status.keys.iter().map(of_key).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_shown_rotated_and_erased() {
    let bench = Bench::three().await;
    let refused = create(&bench, 0, "early", "").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("key service (file "), "{refused}");
    let status = key_status(&bench, 0).await;
    assert_eq!(uses(&status), [(0, 0, false)]);
    assert!(status.keys[0].problem.contains("master-keys"), "{status:?}");

    write_keys(&bench, 1);
    for (number, name) in [(0, "a"), (1, "b"), (2, "c")] {
        let volume = create(&bench, number, name, "").await.unwrap();
        let shown = volume.encryption.unwrap();
        assert_eq!(
            (shown.cipher.as_str(), shown.key_name.as_str(), shown.key_version),
            ("aes-256-xts", "main", 1)
        );
    }
    create(&bench, 1, "a", "main").await.unwrap();
    let other = create(&bench, 1, "a", "other").await.unwrap_err();
    assert_eq!(other.code(), Code::AlreadyExists, "{other}");
    let plain = bench.create(1, "a", 1 << 20).await.unwrap_err();
    assert!(plain.message().contains("it is encrypted"), "{plain}");
    assert_eq!(
        create(&bench, 0, "d", "no such name!").await.unwrap_err().code(),
        Code::InvalidArgument
    );

    write_keys(&bench, 2);
    assert_eq!(uses(&key_status(&bench, 2).await), [(1, 3, false), (2, 0, true)]);
    assert!(rewrap(&bench, 2, "a").await.unwrap().changed);
    assert!(!rewrap(&bench, 0, "a").await.unwrap().changed, "done already");
    assert_eq!(uses(&key_status(&bench, 0).await), [(1, 2, false), (2, 1, true)]);
    bench.create(0, "open", 1 << 20).await.unwrap();
    let nothing = rewrap(&bench, 0, "open").await.unwrap_err();
    assert!(nothing.message().contains("is not encrypted"), "{nothing}");
    assert_eq!(rewrap(&bench, 0, "none").await.unwrap_err().code(), Code::NotFound);

    let delete = api::DeleteVolumeRequest {
        name: "b".to_owned(),
        force: true,
        snapshots: false,
    };
    bench.client(0).delete_volume(delete).await.unwrap();
    assert_eq!(
        uses(&key_status(&bench, 0).await),
        [(1, 1, false), (2, 1, true)],
        "the key went with the volume"
    );
}

/// Volumes that are created at the same time get numbers of their own, and each a key that was wrapped for its number.
#[tokio::test(flavor = "multi_thread")]
async fn creations_at_the_same_time_do_not_get_each_others_keys() {
    let bench = Bench::three().await;
    write_keys(&bench, 1);
    let names: Vec<String> = (0..6).map(|number| format!("v{number}")).collect();
    let plain: Vec<String> = (0..6).map(|number| format!("p{number}")).collect();
    let both = names
        .iter()
        .zip(&plain)
        .enumerate()
        .map(|(number, (encrypted, plain))| {
            let bench = &bench;
            async move {
                let (one, two) = tokio::join!(
                    create(bench, number % 3, encrypted, ""),
                    bench.create(number % 3, plain, 4096)
                );
                assert!(one.unwrap().encryption.is_some());
                assert!(two.unwrap().encryption.is_none());
            }
        });
    let mut all: Vec<_> = both.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        all.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if all.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    // What unwraps for its own volume's number rewraps; for another's it would be refused.
    write_keys(&bench, 2);
    for name in &names {
        assert!(rewrap(&bench, 0, name).await.unwrap().changed, "{name}");
    }
}

/// What people are told of the catalogue has no wrapped key; what engines are told has, or they could not open volumes.
#[tokio::test(flavor = "multi_thread")]
async fn people_are_not_told_wrapped_keys() {
    let bench = Bench::three().await;
    write_keys(&bench, 1);
    create(&bench, 0, "a", "").await.unwrap();
    let request = api::GetCatalogueRequest::default();
    let catalogue = bench.client(0).get_catalogue(request).await.unwrap().into_inner();
    let volume = &catalogue.volumes[0];
    assert!(volume.encryption.as_ref().is_some_and(|shown| !shown.erased));
    assert!(
        catalogue.record.is_empty(),
        "the record is for engines, which ask for it"
    );
}
