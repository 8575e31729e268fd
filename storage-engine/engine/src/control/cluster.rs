//! The cluster as the catalogue and the engines see it.

use std::sync::Arc;

use cairn_api::control as api;
use tonic::Status;

use super::{convert, node, route, survey};
use crate::engine::Engine;

/// The catalogue, and what each engine says of itself now.
pub(super) async fn status(engine: &Arc<Engine>) -> Result<api::ClusterStatus, Status> {
    route::require_cluster(engine)?;
    let (catalogue, _) = route::catalogue_soon(engine).await;
    let asked: Vec<_> = catalogue
        .nodes
        .values()
        .map(|record| {
            let engine = Arc::clone(engine);
            let (id, address) = (record.id, record.control_address.clone());
            let answer = tokio::spawn(async move {
                if id == engine.node() {
                    Ok(node::info(&engine).await)
                } else {
                    route::probe(engine, address).await
                }
            });
            (record, answer)
        })
        .collect();
    let mut nodes = Vec::with_capacity(asked.len());
    for (record, answer) in asked {
        let spec = Some(convert::node_spec(record, catalogue.is_meta_member(record.id)));
        let answer = answer
            .await
            .unwrap_or_else(|error| Err(Status::internal(error.to_string())));
        nodes.push(match answer {
            Ok(info) if info.node_id == record.id.to_string() => api::NodeStatus {
                spec,
                reachable: true,
                problem: String::new(),
                info: Some(info),
            },
            Ok(info) => {
                let problem = format!(
                    "{} answers as node '{}' ({})",
                    record.control_address, info.name, info.node_id
                );
                api::NodeStatus {
                    spec,
                    reachable: false,
                    problem,
                    info: None,
                }
            }
            Err(status) => api::NodeStatus {
                spec,
                reachable: false,
                problem: status.message().to_owned(),
                info: None,
            },
        });
    }
    let survey = survey::survey(engine, &catalogue, None).await;
    let cluster = catalogue.cluster.as_ref();
    let leader = engine.meta_leader_name().or_else(|| {
        // An engine outside the meta group hears of the leader from those inside.
        let mut told = nodes
            .iter()
            .filter_map(|node| node.info.as_ref())
            .map(|info| &info.meta_leader);
        told.find(|name| !name.is_empty()).cloned()
    });
    Ok(api::ClusterStatus {
        cluster_id: engine.cluster().map(|cluster| cluster.to_string()).unwrap_or_default(),
        cluster_name: cluster.map(|cluster| cluster.name.clone()).unwrap_or_default(),
        meta_leader: leader.unwrap_or_default(),
        nodes,
        volumes: catalogue
            .volumes
            .values()
            .map(|volume| survey::describe(&catalogue, volume, &survey))
            .collect(),
    })
}
