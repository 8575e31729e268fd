//! Disks replaced and engines added, with whole engines on disks that are fakes.

use std::time::Duration;

use cairn_api::control as api;
use cairn_api::ids::GroupId;
use tonic::Code;

use super::tests::Bench;

/// Looks at a condition until it holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..400 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: not so after 20 s");
}

impl Bench {
    fn disk_id(&self, path: &std::path::Path) -> String {
        self.world.label(path).disk.to_string()
    }

    async fn replace(&self, by: usize, old: &str, new: &str) -> Result<api::Replacement, tonic::Status> {
        let request = api::ReplaceDiskRequest {
            old_disk_id: old.to_owned(),
            new_disk_id: new.to_owned(),
        };
        self.client(by)
            .replace_disk(request)
            .await
            .map(tonic::Response::into_inner)
    }

    async fn await_replaced(&self, by: usize, old: &str) {
        until("the disk is replaced", async || {
            let request = api::GetReplacementRequest {
                old_disk_id: old.to_owned(),
            };
            let reply = self.client(by).get_replacement(request).await;
            reply.is_ok_and(|reply| reply.get_ref().done)
        })
        .await;
    }

    async fn join(&self, newcomer: usize, by: usize) -> Result<(), tonic::Status> {
        let cluster = self.node(by).await;
        let request = api::JoinClusterRequest {
            cluster_id: cluster.cluster_id,
            addresses: vec![cluster.control_address],
        };
        self.client(newcomer).join_cluster(request).await.map(|_| ())
    }

    /// Adds an engine and waits until the cluster knows it.
    async fn add(&mut self, by: usize) -> usize {
        let number = self.grow().await;
        self.join(number, by).await.unwrap();
        until("the newcomer is registered", async || {
            let reply = self.client(by).get_catalogue(api::GetCatalogueRequest {}).await;
            reply.is_ok_and(|reply| reply.get_ref().nodes.len() > number)
        })
        .await;
        number
    }

    fn holds(&self, path: &std::path::Path) -> Vec<GroupId> {
        self.world.groups(path)
    }
}

/// The meta group's leader is on the disk, and its engine holds two replicas of the group for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_the_meta_leader_is_replaced_by_another_of_the_same_engine() {
    let mut bench = Bench::three().await;
    let volume = bench.create(1, "v", 1 << 20).await.unwrap();
    assert_eq!(bench.node(0).await.meta_leader, "n0");
    bench.stop(0).await;
    bench.seconds.push(0);
    bench.world.format(&bench.second(0));
    bench.start(0).await;
    let (old, new) = (bench.disk_id(&bench.disk(0)), bench.disk_id(&bench.second(0)));
    until("the second disk is known", async || {
        bench.replace(1, &old, &new).await.is_ok()
    })
    .await;
    bench.await_replaced(2, &old).await;
    let all = vec![GroupId::META, GroupId(volume.volume_id)];
    until("the old disk is empty", async || bench.holds(&bench.disk(0)).is_empty()).await;
    assert_eq!(bench.holds(&bench.second(0)), all);
    let found = bench.volume(1, "v").await.unwrap();
    assert_eq!(found.health, "healthy", "{found:?}");
    assert!(found.replicas.iter().any(|replica| replica.disk_id == new));
    // A new volume does not go to the old disk, and the meta group still decides.
    let other = bench.create(2, "w", 1 << 20).await.unwrap();
    assert!(other.replicas.iter().all(|replica| replica.disk_id != old), "{other:?}");
    bench.stop(0).await;
    bench.start(0).await;
    until("the cluster is led after a restart", async || {
        bench.volume(0, "w").await.is_ok()
    })
    .await;
    assert!(bench.node(0).await.meta_member);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_engines_disk_is_replaced_by_a_new_engines_and_is_emptied_when_it_comes_back() {
    let mut bench = Bench::three().await;
    bench.create(0, "v", 1 << 20).await.unwrap();
    let newcomer = bench.add(1).await;
    bench.stop(2).await;
    let (old, new) = (bench.disk_id(&bench.disk(2)), bench.disk_id(&bench.disk(newcomer)));
    let begun = bench.replace(newcomer, &old, &new).await.unwrap();
    assert_eq!((begun.groups, begun.old_node.as_str()), (2, "n2"));
    bench.await_replaced(0, &old).await;
    assert_eq!(bench.volume(0, "v").await.unwrap().health, "healthy");
    let nodes = bench
        .client(0)
        .get_catalogue(api::GetCatalogueRequest {})
        .await
        .unwrap();
    let names: Vec<String> = nodes.into_inner().nodes.into_iter().map(|node| node.name).collect();
    assert!(!names.contains(&"n2".to_owned()), "{names:?}");
    // It missed its own removal. It learns of it from the others, and keeps nothing.
    bench.start(2).await;
    until("the old disk is empty", async || bench.holds(&bench.disk(2)).is_empty()).await;
    until("it is no member any more", async || !bench.node(2).await.meta_member).await;
    until("it shows as removed", async || {
        let status = bench
            .client(2)
            .get_cluster(api::GetClusterRequest {})
            .await
            .unwrap()
            .into_inner();
        let shows = |replacement: &api::Replacement| replacement.old_disk_id == old && replacement.done;
        status.nodes.len() == 4 && status.replacements.iter().any(shows)
    })
    .await;
    // All restart, and the group that decides is the new one.
    for number in [0, 1, newcomer] {
        bench.stop(number).await;
    }
    for number in [0, 1, newcomer] {
        bench.start(number).await;
    }
    bench.stop(0).await;
    until("the new member decides", async || {
        bench.volume(newcomer, "v").await.is_ok()
    })
    .await;
    until("with one gone it leads or follows", async || {
        bench.create(2, "w", 1 << 20).await.is_err_and(|error| {
            error.code() == Code::FailedPrecondition && error.message().contains("3 replicas need 3 nodes")
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_succeed_now_is_refused_and_the_way_out_named() {
    let mut bench = Bench::three().await;
    bench.create(0, "v", 1 << 20).await.unwrap();
    let newcomer = bench.add(0).await;
    let (old, new) = (bench.disk_id(&bench.disk(2)), bench.disk_id(&bench.disk(newcomer)));
    let nobody = bench
        .replace(1, &old, "5f0c1d7e-0000-0000-0000-000000000000")
        .await
        .unwrap_err();
    assert_eq!(nobody.code(), Code::NotFound);
    assert!(nobody.message().contains("cairn cluster add"), "{}", nobody.message());
    bench.stop(newcomer).await;
    // For a moment it says that it is stopping.
    until("the engine is known to be silent", async || {
        let silent = bench.replace(1, &old, &new).await.unwrap_err();
        assert_eq!(silent.code(), Code::FailedPrecondition);
        silent
            .message()
            .contains("cannot take the place of another: the engine of node 'n3'")
    })
    .await;
    bench.start(newcomer).await;
    // Two replicas of three are gone from their disks: what is left is no majority.
    let group = GroupId(bench.volume(0, "v").await.unwrap().volume_id);
    bench.world.lose(&bench.disk(1), group);
    bench.world.lose(&bench.disk(2), group);
    let few = bench.replace(0, &old, &new).await.unwrap_err();
    assert_eq!(few.code(), Code::FailedPrecondition);
    assert!(
        few.message().contains("volume 'v' has 1 of 3 replicas (silent: "),
        "{}",
        few.message()
    );
    let none = bench
        .client(0)
        .get_replacement(api::GetReplacementRequest { old_disk_id: old })
        .await;
    assert_eq!(none.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_joins_once_and_under_a_name_of_its_own() {
    let mut bench = Bench::three().await;
    let newcomer = bench.add(2).await;
    bench.join(newcomer, 0).await.unwrap();
    assert!(!bench.node(newcomer).await.meta_member);
    // It finds the cluster again by itself.
    bench.stop(newcomer).await;
    bench.start(newcomer).await;
    until("it knows the cluster", async || {
        let status = bench.client(newcomer).get_cluster(api::GetClusterRequest {}).await;
        status.is_ok_and(|status| status.get_ref().nodes.iter().all(|node| node.reachable))
    })
    .await;
    let stranger = bench.grow().await;
    let request = api::JoinClusterRequest {
        cluster_id: cairn_api::ids::ClusterId::from_bytes([9; 16]).to_string(),
        addresses: vec![bench.node(0).await.control_address],
    };
    let refused = bench.client(stranger).join_cluster(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(
        refused.message().contains("belongs to another cluster"),
        "{}",
        refused.message()
    );
    assert!(
        bench.world.label(&bench.disk(stranger)).cluster.is_nil(),
        "it was claimed all the same"
    );
}

/// The device is the same, its contents are not: to the cluster it is another disk, under the same node.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_comes_back_with_an_empty_disk_in_place_of_the_one_it_lost() {
    let mut bench = Bench::three().await;
    let volume = bench.create(0, "v", 1 << 20).await.unwrap();
    let node = bench.node(2).await.node_id;
    let old = bench.disk_id(&bench.disk(2));
    bench.stop(2).await;
    bench.world.format(&bench.disk(2));
    bench.start(2).await;
    let new = bench.disk_id(&bench.disk(2));
    until("the empty disk is known", async || {
        bench.replace(2, &old, &new).await.is_ok()
    })
    .await;
    bench.await_replaced(0, &old).await;
    until("its replicas are there", async || {
        bench.holds(&bench.disk(2)) == [GroupId::META, GroupId(volume.volume_id)]
    })
    .await;
    assert_eq!(bench.node(2).await.node_id, node);
    assert_eq!(bench.volume(1, "v").await.unwrap().health, "healthy");
    until("the lost disk is forgotten", async || {
        let reply = bench.client(0).get_catalogue(api::GetCatalogueRequest {}).await;
        let nodes = reply.map(|reply| reply.into_inner().nodes).unwrap_or_default();
        nodes.iter().any(|node| node.name == "n2" && node.disks.len() == 1)
    })
    .await;
    // Another member goes: the new replicas count in full.
    bench.stop(0).await;
    until("the others decide", async || {
        bench
            .volume(2, "v")
            .await
            .is_ok_and(|volume| volume.health == "degraded")
    })
    .await;
}

/// A machine that was set up anew: neither its disks nor its data directory say who it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_everything_is_added_under_its_own_name_and_id() {
    let mut bench = Bench::three().await;
    bench.create(0, "v", 1 << 20).await.unwrap();
    let node = bench.node(2).await.node_id;
    let old = bench.disk_id(&bench.disk(2));
    bench.stop(2).await;
    std::fs::remove_dir_all(bench.data_dir(2)).unwrap();
    bench.world.format(&bench.disk(2));
    bench.start(2).await;
    assert_ne!(bench.node(2).await.node_id, node);
    bench.join(2, 0).await.unwrap();
    assert_eq!(bench.node(2).await.node_id, node);
    let new = bench.disk_id(&bench.disk(2));
    until("the empty disk is known", async || {
        bench.replace(0, &old, &new).await.is_ok()
    })
    .await;
    bench.await_replaced(1, &old).await;
    assert_eq!(bench.volume(1, "v").await.unwrap().health, "healthy");
    until("it is a member of the meta group", async || {
        let info = bench.node(2).await;
        info.meta_member && !info.meta_leader.is_empty()
    })
    .await;
}
