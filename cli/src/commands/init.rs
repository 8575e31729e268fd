//! Making a cluster of engines: ask every engine who it is; plan; tell every engine the same; wait until the meta group
//! leads and every node is registered.
//!
//! The plan is a pure function of what the engines said, so that each refusal has a test. Init may stop anywhere: the
//! engines that have been told keep the cluster's id, and the next run finds them, takes over their id and goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use cairn_api::control::{self, NodeInfo, NodeSpec};
use cairn_api::ids::ClusterId;
use tokio::time::Instant;
use tonic::Response;

use crate::client::Engines;
use crate::error::{CliError, Kind};
use crate::progress::Waiting;
use crate::views::{ClusterView, InitView};

/// The name of a cluster that was given none.
const NAME_DEFAULT: &str = "cairn";
/// Members of the meta group at most: five survive the loss of two, and more only make each decision slower.
const META_MEMBERS_MAX: usize = 5;
/// An election among engines that all run ends sooner; without a leader by then, one of them was told only half.
const ELECTION_TIME_MAX: Duration = Duration::from_secs(10);
/// The pause between two looks at the new cluster.
const POLL_PAUSE: Duration = Duration::from_millis(200);

/// What an engine said of itself, and of the cluster it knows, if any.
#[derive(Clone, Debug)]
struct Answer {
    address: String,
    node: NodeInfo,
    /// The cluster it belongs to, as far as it knows it.
    known: Option<Known>,
}

/// What an engine knows of its cluster: the catalogue once the cluster is founded, the plan it was told before that.
#[derive(Clone, Debug)]
struct Known {
    cluster_id: String,
    cluster_name: String,
    nodes: Vec<NodeSpec>,
}

/// What is to be done.
#[derive(Clone, PartialEq, Debug)]
enum Plan {
    /// All engines have been told; only if they do not become a cluster by themselves must they be told again.
    Wait(control::InitClusterRequest),
    /// Send this to every engine.
    Send(control::InitClusterRequest),
}

/// Makes the engines one cluster, or finds that they are one.
pub(crate) async fn init(engines: &Engines, name: Option<&str>) -> Result<InitView, CliError> {
    let waiting = Waiting::start();
    waiting.say("asking the engines who they are");
    let mut answers = Vec::with_capacity(engines.addresses().len());
    for address in engines.addresses() {
        answers.push(question(engines, address).await?);
    }
    let request = match plan(&answers, name, ClusterId::random())? {
        Plan::Send(request) => request,
        Plan::Wait(request) => {
            let leader_by = Instant::now() + ELECTION_TIME_MAX;
            match wait_until_whole(engines, &answers, Some(leader_by), &waiting).await? {
                Some(cluster) => {
                    return Ok(InitView {
                        created: false,
                        cluster: ClusterView::new(&cluster),
                    });
                }
                None => request,
            }
        }
    };
    for answer in &answers {
        waiting.say(format!(
            "telling {} about cluster {}",
            answer.node.name, request.cluster_name
        ));
        tell(engines, answer, &request).await?;
    }
    let cluster = wait_until_whole(engines, &answers, None, &waiting).await?;
    Ok(InitView {
        created: true,
        cluster: ClusterView::new(&cluster.unwrap_or_default()),
    })
}

async fn question(engines: &Engines, address: &str) -> Result<Answer, CliError> {
    let node = engines
        .ask(address, "cannot make a cluster", async |client| {
            client
                .get_node(control::GetNodeRequest {})
                .await
                .map(Response::into_inner)
        })
        .await?;
    let mut known = None;
    if !node.cluster_id.is_empty() {
        // An engine that was told half-way may not be able to answer; the plan does without.
        known = engines
            .ask(address, "cannot ask for the cluster", async |client| {
                client
                    .get_cluster(control::GetClusterRequest {})
                    .await
                    .map(Response::into_inner)
            })
            .await
            .ok()
            .filter(|cluster| !cluster.nodes.is_empty())
            .map(|cluster| Known {
                cluster_id: cluster.cluster_id,
                cluster_name: cluster.cluster_name,
                nodes: cluster.nodes.into_iter().filter_map(|node| node.spec).collect(),
            });
    }
    Ok(Answer {
        address: address.to_owned(),
        node,
        known,
    })
}

/// Decides from the answers. `fresh` is the id a new cluster would get.
fn plan(answers: &[Answer], name: Option<&str>, fresh: ClusterId) -> Result<Plan, CliError> {
    refuse_twins(answers)?;
    let clusters: BTreeSet<&str> = answers
        .iter()
        .map(|answer| answer.node.cluster_id.as_str())
        .filter(|id| !id.is_empty())
        .collect();
    if clusters.len() > 1 {
        return Err(two_clusters(answers));
    }
    let known = answers.iter().find_map(|answer| answer.known.as_ref());
    if let Some(known) = known {
        refuse_other_members(answers, known)?;
        refuse_other_name(name, known)?;
    }
    let outside: Vec<&Answer> = answers
        .iter()
        .filter(|answer| answer.node.cluster_id.is_empty())
        .collect();
    for answer in &outside {
        refuse_diskless(answer)?;
    }
    let request = control::InitClusterRequest {
        cluster_id: clusters
            .first()
            .map_or_else(|| fresh.to_string(), |id| (*id).to_owned()),
        cluster_name: known
            .map_or(name.unwrap_or(NAME_DEFAULT), |known| &known.cluster_name)
            .to_owned(),
        nodes: in_order(known.map_or_else(|| specs(answers), |known| known.nodes.clone())),
    };
    Ok(if outside.is_empty() {
        Plan::Wait(request)
    } else {
        Plan::Send(request)
    })
}

fn refuse_twins(answers: &[Answer]) -> Result<(), CliError> {
    for (index, answer) in answers.iter().enumerate() {
        for earlier in &answers[..index] {
            if earlier.node.node_id == answer.node.node_id {
                return Err(CliError::new(
                    Kind::Usage,
                    format!(
                        "{} and {} are the same engine, {}",
                        earlier.address, answer.address, answer.node.name
                    ),
                    "name each engine once",
                ));
            }
            if earlier.node.name == answer.node.name {
                return Err(CliError::new(
                    Kind::Conflict,
                    format!(
                        "the engines at {} and {} are both named '{}'",
                        earlier.address, answer.address, answer.node.name
                    ),
                    "give each engine a name of its own in its configuration (name = \"...\") and restart it",
                ));
            }
        }
    }
    Ok(())
}

fn two_clusters(answers: &[Answer]) -> CliError {
    let members: Vec<String> = answers
        .iter()
        .filter(|answer| !answer.node.cluster_id.is_empty())
        .map(|answer| {
            format!(
                "{} at {} in {}",
                answer.node.name,
                answer.address,
                cluster_words(answer)
            )
        })
        .collect();
    CliError::new(
        Kind::Conflict,
        format!("the engines belong to different clusters: {}", members.join("; ")),
        "name only engines without a cluster; an engine leaves one by getting an empty data_dir and newly formatted disks",
    )
}

fn cluster_words(answer: &Answer) -> String {
    match &answer.known {
        Some(known) => format!("cluster '{}' ({})", known.cluster_name, answer.node.cluster_id),
        None => format!("cluster {}", answer.node.cluster_id),
    }
}

/// Init makes clusters and finishes making them; it does not add nodes to one that is whole.
fn refuse_other_members(answers: &[Answer], known: &Known) -> Result<(), CliError> {
    let members: BTreeSet<&str> = known.nodes.iter().map(|node| node.node_id.as_str()).collect();
    let cluster = format!("cluster '{}' ({})", known.cluster_name, known.cluster_id);
    if let Some(stranger) = answers
        .iter()
        .find(|answer| !members.contains(answer.node.node_id.as_str()))
    {
        let member = answers
            .iter()
            .find(|answer| !answer.node.cluster_id.is_empty())
            .unwrap_or(stranger);
        return Err(CliError::new(
            Kind::Conflict,
            format!(
                "{} at {} belongs to {cluster} already, and {} is no member of it",
                member.node.name, member.address, stranger.node.name
            ),
            "name only engines without a cluster",
        ));
    }
    let named: BTreeSet<&str> = answers.iter().map(|answer| answer.node.node_id.as_str()).collect();
    let absent: Vec<String> = known
        .nodes
        .iter()
        .filter(|node| !named.contains(node.node_id.as_str()))
        .map(|node| format!("{} ({})", node.name, node.control_address))
        .collect();
    if absent.is_empty() {
        return Ok(());
    }
    Err(CliError::new(
        Kind::Conflict,
        format!(
            "the engines belong to {cluster} already, which has other members too: {}",
            absent.join(", ")
        ),
        "name all of its members to finish its making, or none of them",
    ))
}

fn refuse_other_name(name: Option<&str>, known: &Known) -> Result<(), CliError> {
    match name {
        Some(name) if name != known.cluster_name => Err(CliError::new(
            Kind::Conflict,
            format!(
                "the engines belong to cluster '{}' already, not to '{name}'",
                known.cluster_name
            ),
            "leave --name out, or give the name it has",
        )),
        _ => Ok(()),
    }
}

fn is_claimable(disk: &control::Disk) -> bool {
    !disk.disk_id.is_empty() && !disk.state.starts_with("failed")
}

fn refuse_diskless(answer: &Answer) -> Result<(), CliError> {
    if answer.node.disks.iter().any(is_claimable) {
        return Ok(());
    }
    let disks: Vec<String> = answer
        .node
        .disks
        .iter()
        .map(|disk| format!("{} is {}", disk.path, disk.state))
        .collect();
    let which = if disks.is_empty() {
        "its configuration names none".to_owned()
    } else {
        disks.join(", ")
    };
    Err(CliError::failed(
        format!(
            "{} at {} has no disk it could use: {which}",
            answer.node.name, answer.address
        ),
        format!(
            "on {}, `cairn disk format PATH`, name it in the configuration ([[disk]] path = \"PATH\") and restart the engine",
            answer.node.name
        ),
    ))
}

/// Engines number the meta group's replicas in the order of the request and put each on its node's first disk. So the order
/// must be the same in a request that is repeated after a restart, whatever order the engines tell their plan in: two
/// orders would be two meta groups.
fn in_order(mut nodes: Vec<NodeSpec>) -> Vec<NodeSpec> {
    nodes.sort_by(|left, right| left.name.cmp(&right.name));
    for node in &mut nodes {
        node.disks.sort_by(|left, right| left.disk_id.cmp(&right.disk_id));
    }
    nodes
}

/// The members of a new cluster, from what they say of themselves.
fn specs(answers: &[Answer]) -> Vec<NodeSpec> {
    let mut nodes: Vec<&NodeInfo> = answers.iter().map(|answer| &answer.node).collect();
    nodes.sort_by(|left, right| left.name.cmp(&right.name));
    let meta_members = meta_members(nodes.len());
    nodes
        .iter()
        .enumerate()
        .map(|(index, node)| NodeSpec {
            node_id: node.node_id.clone(),
            name: node.name.clone(),
            control_address: node.control_address.clone(),
            data_address: node.data_address.clone(),
            nbd_address: node.nbd_address.clone(),
            disks: node
                .disks
                .iter()
                .filter(|disk| is_claimable(disk))
                .map(identity_of)
                .collect(),
            meta_member: index < meta_members,
        })
        .collect()
}

/// What of a disk never changes: its state and free space do, and would make a repeated request look like another.
fn identity_of(disk: &control::Disk) -> control::Disk {
    control::Disk {
        disk_id: disk.disk_id.clone(),
        node_id: disk.node_id.clone(),
        path: disk.path.clone(),
        size_bytes: disk.size_bytes,
        ..control::Disk::default()
    }
}

/// The largest odd number of members there can be: an even one more survives no more failures.
fn meta_members(nodes: usize) -> usize {
    let bounded = nodes.min(META_MEMBERS_MAX);
    if bounded.is_multiple_of(2) {
        bounded.saturating_sub(1)
    } else {
        bounded
    }
}

async fn tell(engines: &Engines, answer: &Answer, request: &control::InitClusterRequest) -> Result<(), CliError> {
    let doing = format!(
        "{} could not be made a member of cluster '{}'",
        answer.node.name, request.cluster_name
    );
    engines
        .ask(&answer.address, &doing, async |client| {
            client.init_cluster(request.clone()).await.map(|_| ())
        })
        .await
        .map_err(|error| {
            if error.remedy.is_empty() || error.kind == Kind::Unavailable {
                error.with_remedy("mend that engine and run the same command again: it goes on where it stopped")
            } else {
                error
            }
        })
}

/// Waits until the meta group leads and every node answers. `None` if there is no leader by `leader_by`.
async fn wait_until_whole(
    engines: &Engines,
    answers: &[Answer],
    leader_by: Option<Instant>,
    waiting: &Waiting,
) -> Result<Option<control::ClusterStatus>, CliError> {
    let names: Vec<&str> = answers.iter().map(|answer| answer.node.name.as_str()).collect();
    loop {
        // The cluster may need a moment before it can answer at all, so a refusal is only reported when time is up.
        let status = engines
            .call("cannot ask for the cluster's status", async |client| {
                client
                    .get_cluster(control::GetClusterRequest {})
                    .await
                    .map(Response::into_inner)
            })
            .await;
        let missing = match status {
            Ok(cluster) => match missing_for_whole(&cluster, &names) {
                None => return Ok(Some(cluster)),
                Some(_) if cluster.meta_leader.is_empty() && leader_by.is_some_and(|by| Instant::now() >= by) => {
                    return Ok(None);
                }
                Some(missing) => missing,
            },
            Err(error) => error.what,
        };
        if engines.is_over() {
            return Err(engines.too_late(
                "the cluster is made but not whole",
                &missing,
                "see the engines' logs; the same command goes on waiting",
            ));
        }
        waiting.say(missing);
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

fn missing_for_whole(cluster: &control::ClusterStatus, names: &[&str]) -> Option<String> {
    if cluster.meta_leader.is_empty() {
        return Some("the meta group has no leader yet".to_owned());
    }
    let whole = |name: &&str| {
        cluster
            .nodes
            .iter()
            .any(|node| node.reachable && node.spec.as_ref().is_some_and(|spec| spec.name == **name))
    };
    let absent: Vec<&str> = names.iter().filter(|name| !whole(name)).copied().collect();
    (!absent.is_empty()).then(|| format!("waiting for {}", absent.join(", ")))
}

#[cfg(test)]
mod tests;
