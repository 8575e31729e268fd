//! `cairn cluster …`.

use crate::engines::{fresh, member};
use crate::fake::Fake;
use crate::run::run;

fn addresses(fakes: &[Fake]) -> String {
    fakes
        .iter()
        .map(|fake| fake.address.to_string())
        .collect::<Vec<_>>()
        .join(",")
}

#[test]
fn init_tells_every_engine_the_same_and_is_idempotent() {
    let fakes = [fresh("1"), fresh("2"), fresh("3")];
    let init = || run(&format!("cluster init --name lab --engine {}", addresses(&fakes)));
    let text = init().ok();
    assert!(
        text.starts_with("Cluster lab is ready: 3 nodes, meta group led by 1.\n\nNODE  REACHABLE"),
        "{text}"
    );
    let told: Vec<_> = fakes.iter().map(|fake| fake.state().inits.clone()).collect();
    assert_eq!(told[0].len(), 1);
    assert_eq!((&told[0], &told[0]), (&told[1], &told[2]));
    let text = init().ok();
    assert!(text.starts_with("Cluster lab was there already: 3 nodes"), "{text}");
    assert_eq!(fakes[0].state().inits.len(), 1);
}

#[test]
fn init_goes_on_where_it_stopped() {
    let fakes = [fresh("1"), fresh("2"), fresh("3")];
    run(&format!("cluster init --name lab --engine {}", addresses(&fakes))).ok();
    let told = fakes[2].state().inits.pop().unwrap();
    // The third engine was never told.
    fakes[2].state().node.cluster_id.clear();
    fakes[2].state().cluster = Default::default();
    let json = run(&format!("-o json cluster init --engine {}", addresses(&fakes))).json();
    assert_eq!(fakes[2].state().inits, [told]);
    assert_eq!((&json["created"], &json["cluster_name"]), (&true.into(), &"lab".into()));
}

#[test]
fn init_refuses_engines_of_another_cluster_by_its_name() {
    let (member, other) = (member(), fresh("9"));
    member.state().node.cluster_id = "11111111-2222-3333-4444-555555555555".to_owned();
    let ran = run(&format!("cluster init --engine {},{}", member.address, other.address));
    assert_eq!(ran.code, 4);
    assert!(
        ran.stderr.contains("belongs to cluster 'lab' (11111111-"),
        "{}",
        ran.stderr
    );
    assert!(other.state().inits.is_empty());
}

#[test]
fn init_never_guesses_its_members() {
    let ran = run("cluster init");
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("name every engine"), "{}", ran.stderr);
}

#[test]
fn init_needs_every_engine() {
    let fake = fresh("1");
    let ran = run(&format!("cluster init --engine {},127.0.0.1:1", fake.address));
    assert_eq!(ran.code, 5);
    assert!(
        ran.stderr
            .contains("cannot make a cluster: 127.0.0.1:1: connection refused"),
        "{}",
        ran.stderr
    );
    assert!(fake.state().inits.is_empty());
}

#[test]
fn status_names_what_is_wrong() {
    let fake = member();
    fake.state().cluster.meta_leader.clear();
    let text = run(&format!("--engine {} cluster status", fake.address)).ok();
    assert_eq!(
        text,
        "\
Cluster:      lab (11111111-2222-3333-4444-555555555555)
Meta leader:  -

NODE  REACHABLE  STATE    META    CONTROL        PEERS          NBD             DISKS   SIZE     FREE
1     yes        ready    member  10.0.0.1:7400  10.0.0.1:7401  10.0.0.1:10809      1  2 GiB  1.5 GiB
2     yes        ready    member  10.0.0.2:7400  10.0.0.2:7401  10.0.0.2:10809      1  2 GiB  1.5 GiB
3     no         unknown  member  10.0.0.3:7400  10.0.0.3:7401  10.0.0.3:10809      1  2 GiB        -

No volumes yet: `cairn volume create NAME --size 10GiB` makes one.

Problems:
  node 3: connection refused
  the meta group has no leader: volumes cannot be created or deleted until a majority of its members runs
"
    );
    let json = run(&format!("--engine {} -o json cluster status", fake.address)).json();
    assert_eq!(json["meta_leader"], serde_json::Value::Null);
    assert_eq!(json["nodes"][2]["problem"], "connection refused");
    assert_eq!(json["nodes"][0]["disks"][0]["free_bytes"], 3u64 << 29);
}

#[test]
fn disks_are_listed_through_an_engine() {
    let fake = member();
    let text = run(&format!("--engine {} disk list", fake.address)).ok();
    assert_eq!(
        text,
        "\
NODE  PATH           SIZE     USED     FREE  REPLICAS  STATE    DISK
1     /disks/1.img  2 GiB  256 MiB  1.5 GiB         1  ok       disk-1
2     /disks/2.img  2 GiB  256 MiB  1.5 GiB         1  ok       disk-2
3     /disks/3.img  2 GiB        -        -         -  unknown  disk-3
"
    );
}

#[test]
fn add_tells_the_newcomer_whom_to_ask() {
    let (old, new) = (member(), fresh("4"));
    old.state()
        .cluster
        .nodes
        .push(crate::engines::status(crate::engines::spec("4"), true));
    let text = run(&format!("cluster add {} --engine {}", new.address, old.address)).ok();
    assert!(text.starts_with("Cluster lab has 4 nodes, 4 among them."), "{text}");
    let joins = new.state().joins.clone();
    assert_eq!(joins.len(), 1);
    assert_eq!(joins[0].cluster_id, old.state().cluster.cluster_id);
    assert!(joins[0].addresses.contains(&"10.0.0.1:7400".to_owned()), "{joins:?}");
    new.state().node.cluster_id = "99999999-2222-3333-4444-555555555555".to_owned();
    let ran = run(&format!("cluster add {} --engine {}", new.address, old.address));
    assert_eq!(ran.code, 4);
    assert!(ran.stderr.contains("belongs to another cluster"), "{}", ran.stderr);
}
