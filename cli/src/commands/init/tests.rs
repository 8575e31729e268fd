//! Each way a plan can come out, from engines' answers made by hand.

use super::*;

const FRESH: &str = "00000000-0000-0000-0000-0000000000ff";

fn answer(name: &str, cluster_id: &str) -> Answer {
    let disk = control::Disk {
        disk_id: format!("disk-{name}"),
        node_id: format!("node-{name}"),
        path: format!("/dev/{name}"),
        size_bytes: 1 << 30,
        free_bytes: 77,
        used_bytes: 1 << 28,
        capacity_bytes: 1 << 30,
        state: "ok".to_owned(),
        replicas: 0,
    };
    let node = NodeInfo {
        cluster_id: cluster_id.to_owned(),
        node_id: format!("node-{name}"),
        name: name.to_owned(),
        control_address: format!("{name}:7400"),
        data_address: format!("{name}:7401"),
        disks: vec![disk],
        ..NodeInfo::default()
    };
    Answer {
        address: format!("{name}:7400"),
        node,
        known: None,
    }
}

fn member(name: &str, all: &[&str]) -> Answer {
    let mut answer = answer(name, "c1");
    let others: Vec<Answer> = all.iter().map(|name| self::answer(name, "")).collect();
    answer.known = Some(Known {
        cluster_id: "c1".to_owned(),
        cluster_name: "lab".to_owned(),
        nodes: specs(&others),
    });
    answer
}

fn plan_of(answers: &[Answer], name: Option<&str>) -> Result<Plan, CliError> {
    plan(answers, name, FRESH.parse().unwrap())
}

fn refusal(answers: &[Answer], name: Option<&str>) -> CliError {
    plan_of(answers, name).unwrap_err()
}

#[test]
fn fresh_engines_get_one_request_sorted_by_name_whatever_the_order_given() {
    let Plan::Send(request) = plan_of(&[answer("c", ""), answer("a", ""), answer("b", "")], None).unwrap() else {
        panic!("nothing to send");
    };
    assert_eq!(
        (request.cluster_id.as_str(), request.cluster_name.as_str()),
        (FRESH, "cairn")
    );
    let names: Vec<&str> = request.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert!(
        request
            .nodes
            .iter()
            .all(|node| node.meta_member && node.disks[0].free_bytes == 0)
    );
    let again = plan_of(&[answer("a", ""), answer("b", ""), answer("c", "")], None).unwrap();
    assert_eq!(again, Plan::Send(request));
}

#[test]
fn the_meta_group_is_odd_and_has_at_most_five_members() {
    for (nodes, members) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (9, 5)] {
        assert_eq!(meta_members(nodes), members, "{nodes} nodes");
    }
}

#[test]
fn a_half_made_cluster_is_finished_under_its_id_and_with_its_request() {
    let answers = [answer("a", ""), member("b", &["a", "b"])];
    let Plan::Send(request) = plan_of(&answers, None).unwrap() else {
        panic!("nothing to send")
    };
    assert_eq!(
        (request.cluster_id.as_str(), request.cluster_name.as_str()),
        ("c1", "lab")
    );
    assert_eq!(request.nodes, answers[1].known.as_ref().unwrap().nodes);
}

#[test]
fn a_repeated_request_has_the_first_ones_order_however_the_plan_is_told() {
    let Plan::Send(first) = plan_of(&[answer("c", ""), answer("b", ""), answer("a", "")], Some("lab")).unwrap() else {
        panic!("nothing to send");
    };
    let mut answers = [
        member("a", &["a", "b", "c"]),
        member("b", &["a", "b", "c"]),
        answer("c", ""),
    ];
    let second_disk = control::Disk {
        disk_id: "a-disk-sorted-first".to_owned(),
        ..control::Disk::default()
    };
    for member in &mut answers[..2] {
        let known = member.known.as_mut().unwrap();
        known.nodes.reverse();
        known.nodes[0].disks.push(second_disk.clone());
    }
    let Plan::Send(again) = plan_of(&answers, None).unwrap() else {
        panic!("nothing to send")
    };
    let names = |request: &control::InitClusterRequest| -> Vec<String> {
        request.nodes.iter().map(|node| node.name.clone()).collect()
    };
    assert_eq!(names(&again), names(&first));
    assert_eq!(again.nodes[2].disks[0], second_disk);
}

#[test]
fn a_half_made_cluster_that_cannot_tell_its_members_is_finished_too() {
    let Plan::Send(request) = plan_of(&[answer("a", ""), answer("b", "c1")], Some("lab")).unwrap() else {
        panic!("nothing to send")
    };
    assert_eq!(
        (
            request.cluster_id.as_str(),
            request.cluster_name.as_str(),
            request.nodes.len()
        ),
        ("c1", "lab", 2)
    );
}

#[test]
fn a_cluster_whose_members_were_all_told_is_waited_for() {
    let answers = [member("a", &["a", "b"]), member("b", &["a", "b"])];
    let plan = plan_of(&answers, Some("lab"));
    assert!(
        matches!(&plan, Ok(Plan::Wait(request)) if request.nodes.len() == 2),
        "{plan:?}"
    );
}

#[test]
fn another_name_than_the_clusters_is_a_conflict() {
    let error = refusal(&[member("a", &["a"])], Some("prod"));
    assert_eq!(
        (error.kind, error.what.as_str()),
        (
            Kind::Conflict,
            "the engines belong to cluster 'lab' already, not to 'prod'"
        )
    );
}

#[test]
fn engines_of_different_clusters_are_named_with_them() {
    let error = refusal(&[member("a", &["a"]), answer("b", "c2"), answer("c", "")], None);
    assert_eq!(error.kind, Kind::Conflict);
    assert_eq!(
        error.what,
        "the engines belong to different clusters: a at a:7400 in cluster 'lab' (c1); b at b:7400 in cluster c2"
    );
}

#[test]
fn an_engine_of_a_whole_cluster_cannot_start_another() {
    let error = refusal(&[member("a", &["a", "x"]), answer("b", "")], None);
    assert_eq!(
        error.what,
        "a at a:7400 belongs to cluster 'lab' (c1) already, and b is no member of it"
    );
    let error = refusal(&[member("a", &["a", "x"])], None);
    assert_eq!(
        error.what,
        "the engines belong to cluster 'lab' (c1) already, which has other members too: x (x:7400)"
    );
}

#[test]
fn an_engine_without_a_usable_disk_is_named_with_the_reason() {
    let mut diskless = answer("b", "");
    diskless.node.disks[0].state = "failed: no superblock".to_owned();
    let error = refusal(&[answer("a", ""), diskless.clone()], None);
    assert_eq!(
        error.what,
        "b at b:7400 has no disk it could use: /dev/b is failed: no superblock"
    );
    diskless.node.disks.clear();
    let error = refusal(&[diskless], None);
    assert_eq!(
        error.what,
        "b at b:7400 has no disk it could use: its configuration names none"
    );
}

#[test]
fn the_same_engine_twice_or_two_of_one_name_are_refused() {
    let mut again = answer("a", "");
    again.address = "localhost:7400".to_owned();
    assert_eq!(refusal(&[answer("a", ""), again.clone()], None).kind, Kind::Usage);
    again.node.node_id = "node-z".to_owned();
    assert_eq!(refusal(&[answer("a", ""), again], None).kind, Kind::Conflict);
}

#[test]
fn a_cluster_is_whole_when_it_is_led_and_every_node_answers() {
    let node = |name: &str, reachable| control::NodeStatus {
        spec: Some(NodeSpec {
            name: name.to_owned(),
            ..NodeSpec::default()
        }),
        reachable,
        ..control::NodeStatus::default()
    };
    let mut cluster = control::ClusterStatus {
        nodes: vec![node("a", true), node("b", false)],
        ..Default::default()
    };
    assert_eq!(
        missing_for_whole(&cluster, &["a", "b"]).as_deref(),
        Some("the meta group has no leader yet")
    );
    cluster.meta_leader = "a".to_owned();
    assert_eq!(
        missing_for_whole(&cluster, &["a", "b", "c"]).as_deref(),
        Some("waiting for b, c")
    );
    cluster.nodes[1].reachable = true;
    assert_eq!(missing_for_whole(&cluster, &["a", "b"]), None);
}
