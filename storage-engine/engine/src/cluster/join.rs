//! How a new engine becomes a member of a cluster that runs. Like a cluster's birth ([`super::init`]) it happens on request
//! only.
//!
//! The engine is told the cluster's id and whom to ask. It fetches the catalogue and keeps it *before* it claims its disks:
//! from then on it finds the cluster by itself after any restart, and tells it of its addresses and disks
//! ([`super::reconcile`]). It starts with no replica: volumes that are made later, and disks that are replaced, bring them.

use std::sync::Arc;
use std::time::Duration;

use cairn_api::control as api;
use cairn_api::ids::ClusterId;
use tonic::Status;

use super::init;
use crate::control::{convert, route};
use crate::disks::{DiskState, DiskView};
use crate::engine::Engine;
use crate::identity::Identity;
use crate::meta::decide::decide;
use crate::meta::group::MetaError;
use crate::meta::{Catalogue, Command, DiskRecord, NodeRecord};

/// How long one engine of the cluster may take to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);
/// The engine that is asked may ask the leader, and nobody else may.
const HOPS: u32 = 1;

/// Makes this engine a member of the cluster that the request names.
pub async fn join(engine: &Arc<Engine>, request: &api::JoinClusterRequest) -> Result<(), Status> {
    let id: ClusterId = convert::parse_id("cluster_id", &request.cluster_id)?;
    let _one_at_a_time = engine.initialising.lock().await;
    match engine.cluster() {
        Some(cluster) if cluster != id => {
            return Err(Status::already_exists(format!(
                "engine '{}' belongs to cluster {cluster} already, not {id}",
                engine.config.name
            )));
        }
        Some(_) => {}
        None => {
            let catalogue = first_answer(engine, request, id).await?;
            come_back(engine, &catalogue)?;
            check_newcomer(engine, &catalogue)?;
            engine.meta.keep_copy(catalogue);
            engine.meta.fence().await;
            // Claiming and starting write to disks and wait for threads: other requests go on meanwhile.
            tokio::task::block_in_place(|| init::claim(engine, id))?;
            tracing::info!(cluster = %id, "joined the cluster");
        }
    }
    init::wait_for_disks(engine).await?;
    engine.wake.notify_one();
    Ok(())
}

/// The catalogue, from whichever of the cluster's engines has it.
async fn first_answer(
    engine: &Arc<Engine>,
    request: &api::JoinClusterRequest,
    id: ClusterId,
) -> Result<Catalogue, Status> {
    let mut problems = Vec::new();
    for address in &request.addresses {
        let answer = tokio::time::timeout(ANSWER_PATIENCE, route::fetch(engine, address, HOPS)).await;
        match answer {
            Ok(Ok(catalogue)) if catalogue.cluster.as_ref().is_some_and(|cluster| cluster.id == id) => {
                return Ok((*catalogue).clone());
            }
            Ok(Ok(_)) => problems.push(format!("{address} belongs to another cluster")),
            Ok(Err(status)) => problems.push(format!("{address}: {}", status.message())),
            Err(_) => problems.push(format!("{address}: no answer within {} s", ANSWER_PATIENCE.as_secs())),
        }
    }
    if problems.is_empty() {
        problems.push("no address was given".to_owned());
    }
    Err(Status::unavailable(format!(
        "engine '{}' gets no catalogue from cluster {id}: {}",
        engine.config.name,
        problems.join("; ")
    )))
}

/// An engine that has lost its data directory and its disks is still the node it was, if it has that node's name and
/// listens where that node did: nobody else can. Without this its name would be taken, by itself.
fn come_back(engine: &Engine, catalogue: &Catalogue) -> Result<(), Status> {
    let identity = engine.identity();
    let known = catalogue.node_by_name(&engine.config.name);
    let is_own = |node: &&NodeRecord| node.control_address == engine.addresses.control && node.id != identity.node;
    let Some(node) = known.filter(is_own) else {
        return Ok(());
    };
    tracing::info!(node = %node.id, name = node.name, "this engine is a node that the cluster knows, and lost all it had");
    let identity = Identity {
        node: node.id,
        ..identity
    };
    engine
        .set_identity(identity)
        .map_err(|error| Status::internal(error.to_string()))
}

/// What the cluster would refuse later is refused before anything is claimed.
fn check_newcomer(engine: &Engine, catalogue: &Catalogue) -> Result<(), Status> {
    let views = engine.disks.views();
    let free = views.iter().filter(|view| view.state == DiskState::Unclaimed);
    let disks: Vec<DiskRecord> = free.filter_map(disk_record).collect();
    if disks.is_empty() {
        return Err(Status::failed_precondition(format!(
            "engine '{}' has no disk that it could bring along: `cairn disk format PATH`, name it in the configuration \
             and restart the engine",
            engine.config.name
        )));
    }
    let record = NodeRecord {
        disks,
        ..engine.own_record()
    };
    decide(catalogue, &Command::RegisterNode(record)).map_err(|refusal| Status::from(MetaError::from(refusal)))?;
    Ok(())
}

fn disk_record(view: &DiskView) -> Option<DiskRecord> {
    let label = view.label.as_ref()?;
    Some(DiskRecord {
        id: label.disk,
        path: view.config.path.display().to_string(),
        size_bytes: label.size_bytes,
    })
}
