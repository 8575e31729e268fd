//! The cluster as the catalogue and the engines see it.

use std::sync::Arc;

use cairn_api::control as api;
use tonic::Status;

use super::{convert, node, route, survey};
use crate::engine::Engine;
use crate::meta::{Catalogue, NodeRecord};

/// The catalogue, and what each engine says of itself now.
pub(super) async fn status(engine: &Arc<Engine>) -> Result<api::ClusterStatus, Status> {
    route::require_cluster(engine)?;
    let catalogue = route::catalogue_soon(engine).await?;
    let nodes = ask_everyone(engine, &catalogue).await;
    let survey = survey::survey(engine, &catalogue, None).await;
    let cluster = catalogue.cluster.as_ref();
    let leader = engine.meta_leader_name().or_else(|| {
        // An engine outside the meta group hears of the leader from those inside.
        let infos = nodes.iter().filter_map(|node| node.info.as_ref());
        let mut told = infos.map(|info| &info.meta_leader).filter(|name| !name.is_empty());
        told.next().cloned()
    });
    let volumes = catalogue.visible_volumes();
    Ok(api::ClusterStatus {
        cluster_id: engine.cluster().map(|cluster| cluster.to_string()).unwrap_or_default(),
        cluster_name: cluster.map(|cluster| cluster.name.clone()).unwrap_or_default(),
        meta_leader: leader.unwrap_or_default(),
        nodes,
        volumes: volumes
            .map(|volume| survey::describe(&catalogue, volume, &survey))
            .collect(),
        replacements: catalogue
            .replacements
            .values()
            .map(|replacement| convert::replacement(&catalogue, replacement))
            .collect(),
    })
}

/// Every engine of the catalogue, asked at once.
async fn ask_everyone(engine: &Arc<Engine>, catalogue: &Catalogue) -> Vec<api::NodeStatus> {
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
        let spec = convert::node_spec(record, catalogue.is_meta_member(record.id));
        let answer = answer.await;
        nodes.push(node_status(
            record,
            spec,
            answer.unwrap_or_else(|error| Err(Status::internal(error.to_string()))),
        ));
    }
    nodes
}

fn node_status(record: &NodeRecord, spec: api::NodeSpec, answer: Result<api::NodeInfo, Status>) -> api::NodeStatus {
    let (problem, info) = match answer {
        Ok(info) if info.node_id == record.id.to_string() => (String::new(), Some(info)),
        Ok(info) => {
            let address = &record.control_address;
            (
                format!("{address} answers as node '{}' ({})", info.name, info.node_id),
                None,
            )
        }
        Err(status) => (status.message().to_owned(), None),
    };
    api::NodeStatus {
        spec: Some(spec),
        reachable: info.is_some(),
        problem,
        info,
    }
}
