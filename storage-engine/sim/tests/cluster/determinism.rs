//! The same seed gives the same effects, to the last bit.

use std::time::Duration;

use cairn_api::ids::GroupId;

use cairn_sim::cluster::{Cluster, MILLISECOND, SECOND, Setup};
use cairn_sim::workload::Workload;

fn traced(seed: u64) -> (u64, u64) {
    let mut cluster = Cluster::new(Setup::new(seed));
    let spec = cluster.spec(GroupId(2), 500, 3);
    cluster.create(&spec);
    let mut load = Workload::new(spec.clone(), seed);
    load.open(&mut cluster, 1);
    load.run(&mut cluster, 500 * MILLISECOND);
    let leader = cluster.leader(GroupId(2)).unwrap();
    cluster.crash(leader);
    load.bury_dead(&cluster);
    if load.clients.is_empty() {
        load.open(&mut cluster, (leader + 1) % 3);
    }
    load.run(&mut cluster, SECOND);
    cluster.start(leader);
    load.run(&mut cluster, 4 * SECOND);
    cluster.run(Duration::from_secs(1));
    cluster.trace.digest()
}

#[test]
fn one_seed_gives_one_trace() {
    for seed in 600..603 {
        let (first, second) = (traced(seed), traced(seed));
        assert_eq!(first, second, "seed {seed}");
        assert!(first.1 > 5_000, "only {} effects", first.1);
    }
    assert_ne!(traced(600), traced(601), "the trace does not depend on the seed");
}
