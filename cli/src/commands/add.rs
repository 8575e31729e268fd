//! `cairn cluster add`: tells a new engine which cluster it belongs to, and waits until the cluster knows it.

use std::time::Duration;

use cairn_api::control::{self, NodeInfo};
use tonic::Response;

use super::Context;
use crate::args::AddArgs;
use crate::error::{CliError, Kind};
use crate::progress::Waiting;
use crate::views::{AddedView, ClusterView};

/// The pause between two looks at the cluster.
const POLL_PAUSE: Duration = Duration::from_millis(200);

/// `cairn cluster add`.
pub(super) async fn add(context: &Context, args: &AddArgs) -> Result<(), CliError> {
    let cluster = context.cluster().await?;
    let mut added = Vec::with_capacity(args.newcomers.len());
    for address in &args.newcomers {
        added.push(tell(context, &cluster, address).await?);
    }
    let cluster = wait(context, &added).await?;
    context.output.show(&AddedView {
        added: added.into_iter().map(|node| node.name).collect(),
        cluster: ClusterView::new(&cluster),
    })
}

/// Makes the engine at `address` a member.
async fn tell(context: &Context, cluster: &control::ClusterStatus, address: &str) -> Result<NodeInfo, CliError> {
    let node = context
        .engines
        .ask(address, "cannot ask the new engine who it is", async |client| {
            client
                .get_node(control::GetNodeRequest {})
                .await
                .map(Response::into_inner)
        })
        .await?;
    if !node.cluster_id.is_empty() && node.cluster_id != cluster.cluster_id {
        return Err(CliError::new(
            Kind::Conflict,
            format!(
                "{} at {address} belongs to another cluster, {}",
                node.name, node.cluster_id
            ),
            "an engine leaves a cluster by getting an empty data_dir and newly formatted disks",
        ));
    }
    let specs = cluster.nodes.iter().filter_map(|node| node.spec.as_ref());
    let request = control::JoinClusterRequest {
        cluster_id: cluster.cluster_id.clone(),
        addresses: specs.map(|spec| spec.control_address.clone()).collect(),
    };
    let doing = format!("{} could not be added to cluster '{}'", node.name, cluster.cluster_name);
    context
        .engines
        .ask(address, &doing, async |client| {
            client.join_cluster(request.clone()).await.map(|_| ())
        })
        .await?;
    Ok(node)
}

/// Waits until the cluster knows the newcomers and they answer.
async fn wait(context: &Context, added: &[NodeInfo]) -> Result<control::ClusterStatus, CliError> {
    let waiting = Waiting::start();
    loop {
        let cluster = context.cluster().await?;
        let is_there = |name: &str| {
            cluster.nodes.iter().any(|node| {
                let spec = node.spec.as_ref();
                node.reachable && spec.is_some_and(|spec| spec.name == name && !spec.disks.is_empty())
            })
        };
        let absent: Vec<&str> = added
            .iter()
            .map(|node| node.name.as_str())
            .filter(|name| !is_there(name))
            .collect();
        if absent.is_empty() {
            return Ok(cluster);
        }
        waiting.say(format!("waiting for {}", absent.join(", ")));
        if context.engines.is_over() {
            return Err(context.engines.too_late(
                &format!("{} joined, and the cluster does not see it", absent.join(", ")),
                "",
                "see its log; the same command goes on waiting",
            ));
        }
        tokio::time::sleep(POLL_PAUSE).await;
    }
}
