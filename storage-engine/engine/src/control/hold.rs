//! Asking a volume's leader to hold its writes, wherever it is: the part of the engine that has it, and of the one that asks.
//!
//! Each request is sent once. Whoever gets no answer does not know what was done, and gives the whole attempt up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cairn_api::control as api;
use cairn_api::ids::{GroupId, NodeId, SnapshotId};
use cairn_api::units::BLOCK_BYTES;
use cairn_core::event::{Command, CommandError, CommandReply, HoldRequest, HoldStep};
use tokio::task::JoinSet;
use tonic::Status;

use super::route;
use crate::disks::{AskError, DiskThread, ask};
use crate::engine::Engine;
use crate::meta::{Catalogue, VolumeRecord};

/// How long a core, or another engine, may take. A hold lasts no longer, so that waiting for more is of no use.
const PATIENCE: Duration = cairn_core::event::HOLD_TIME_MAX;

/// On the engine that was asked: has it done if a replica here leads the volume.
pub(super) async fn serve(
    engine: &Arc<Engine>,
    request: api::HoldVolumeRequest,
) -> Result<api::HoldVolumeReply, Status> {
    route::require_cluster(engine)?;
    let step = match request.step() {
        api::HoldStep::Begin => HoldStep::Begin,
        api::HoldStep::Take => HoldStep::Take(SnapshotId(request.snapshot_id)),
        api::HoldStep::End => HoldStep::End,
        api::HoldStep::Unspecified => return Err(Status::invalid_argument("step is missing: begin, take or end")),
    };
    let wanted = HoldRequest {
        group: GroupId(request.volume_id),
        token: request.token,
        step,
    };
    let mut reason = "no disk of this engine serves".to_owned();
    for (_, thread) in engine.disks.serving() {
        match ask(&thread, Command::Hold(wanted), PATIENCE).await {
            Ok(CommandReply::Committed(index)) => {
                return Ok(api::HoldVolumeReply {
                    index: index.get(),
                    size_bytes: size_of(&thread, wanted).await?,
                });
            }
            // Any replica that holds nothing has ended what it held.
            Ok(_) if step == HoldStep::End => {}
            Ok(_) => return Ok(api::HoldVolumeReply::default()),
            Err(AskError::Core(error @ (CommandError::UnknownGroup(_) | CommandError::NotLeader { .. }))) => {
                reason = error.to_string();
            }
            Err(error) => return Err(Status::failed_precondition(error.to_string())),
        }
    }
    if step == HoldStep::End {
        return Ok(api::HoldVolumeReply::default());
    }
    Err(Status::failed_precondition(reason))
}

/// The volume's size in the snapshot that was just made.
async fn size_of(thread: &Arc<dyn DiskThread>, wanted: HoldRequest) -> Result<u64, Status> {
    let told = ask(thread, Command::Snapshots(wanted.group), PATIENCE).await;
    let Ok(CommandReply::Snapshots(all)) = told else {
        return Err(Status::unavailable("the snapshot was made, and its size is not told"));
    };
    let HoldStep::Take(snapshot) = wanted.step else {
        return Err(Status::internal("only what was taken has a size"));
    };
    let found = all.iter().find(|one| one.id == snapshot);
    let found = found.ok_or_else(|| Status::aborted("the snapshot was deleted meanwhile"))?;
    Ok(found.size_blocks * BLOCK_BYTES)
}

/// What an engine is asked for.
pub(super) fn request(group: GroupId, token: u64, step: api::HoldStep, snapshot_id: u64) -> api::HoldVolumeRequest {
    api::HoldVolumeRequest {
        volume_id: group.get(),
        token,
        step: step.into(),
        snapshot_id,
    }
}

/// Asks one engine.
pub(super) async fn ask_engine(
    engine: &Arc<Engine>,
    address: Option<&str>,
    request: api::HoldVolumeRequest,
) -> Result<api::HoldVolumeReply, Status> {
    let asked = async {
        match address {
            None => serve(engine, request).await,
            Some(address) => {
                let mut client = engine.channels.client(address)?;
                client.hold_volume(request).await.map(tonic::Response::into_inner)
            }
        }
    };
    let answer = tokio::time::timeout(PATIENCE, asked).await;
    answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("the engine did not answer in time")))
}

/// The engines with a replica of a volume, this one without an address.
fn holders(engine: &Engine, catalogue: &Catalogue, volume: &VolumeRecord) -> Vec<Option<String>> {
    let nodes: BTreeSet<NodeId> = volume.members_and_coming().map(|member| member.node).collect();
    let found = nodes.iter().filter_map(|node| catalogue.nodes.get(node));
    found
        .map(|node| (node.id != engine.node()).then(|| node.control_address.clone()))
        .collect()
}

/// Has the leader of a volume hold its writes, whoever that is; the address of its engine, none for this one.
pub(super) async fn begin(
    engine: &Arc<Engine>,
    catalogue: &Catalogue,
    volume: &VolumeRecord,
    token: u64,
) -> Result<Option<String>, String> {
    let mut asked = JoinSet::new();
    for address in holders(engine, catalogue, volume) {
        let engine = Arc::clone(engine);
        let request = request(volume.group, token, api::HoldStep::Begin, 0);
        asked.spawn(async move {
            let answer = ask_engine(&engine, address.as_deref(), request).await;
            answer.map(|_| address)
        });
    }
    let mut reasons = BTreeSet::new();
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok(Ok(address)) => return Ok(address),
            Ok(Err(status)) => reasons.insert(status.message().to_owned()),
            Err(error) => reasons.insert(error.to_string()),
        };
    }
    let reasons: Vec<String> = reasons.into_iter().collect();
    Err(format!(
        "no leader of volume '{}' holds its writes: {}",
        volume.name,
        reasons.join("; ")
    ))
}
