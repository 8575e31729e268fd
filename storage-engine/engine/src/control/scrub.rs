//! Reading disks through for damage: asked of any engine, done by the one that has the disk.

use std::sync::Arc;
use std::time::Duration;

use cairn_api::control as api;
use cairn_api::ids::DiskId;
use cairn_core::event::{Command, CommandReply, ScrubReport, ScrubRequest, ScrubStatus};
use tonic::{Request, Response, Status};

use super::{convert, route};
use crate::disks::{AskError, DiskThread, ask};
use crate::engine::Engine;

/// How long a disk's thread may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Carries out a request here, or passes it on to the engine that has the disk.
pub(super) async fn scrub(
    engine: &Arc<Engine>,
    request: Request<api::ScrubDiskRequest>,
) -> Result<Response<api::Scrub>, Status> {
    route::require_cluster(engine)?;
    let disk: DiskId = convert::parse_id("disk_id", &request.get_ref().disk_id)?;
    let action = action(request.get_ref())?;
    let view = engine.disks.views().into_iter().find(|view| view.id() == Some(disk));
    if let Some(view) = view {
        let Some((_, thread)) = view.serving() else {
            return Err(Status::failed_precondition(format!(
                "disk {disk} of node '{}' is {}: it can be read through when it is ok",
                engine.config.name,
                view.state.describe()
            )));
        };
        let status = ask_disk(thread, action)
            .await
            .map_err(|error| Status::unavailable(format!("disk {disk} of node '{}': {error}", engine.config.name)))?;
        let path = view.config.path.display().to_string();
        return Ok(Response::new(message(disk, &engine.config.name, path, &status)));
    }
    pass_on(engine, request, disk).await
}

fn action(request: &api::ScrubDiskRequest) -> Result<Option<ScrubRequest>, Status> {
    let bytes_per_s = Some(request.bytes_per_s).filter(|pace| *pace > 0);
    match api::ScrubAction::try_from(request.action) {
        Ok(api::ScrubAction::Unspecified) => Ok(None),
        Ok(api::ScrubAction::Begin) => Ok(Some(ScrubRequest::Begin { bytes_per_s })),
        Ok(api::ScrubAction::Stop) => Ok(Some(ScrubRequest::Stop)),
        Err(_) => Err(Status::invalid_argument(format!(
            "action is {}, which is none",
            request.action
        ))),
    }
}

async fn ask_disk(thread: &Arc<dyn DiskThread>, action: Option<ScrubRequest>) -> Result<ScrubStatus, AskError> {
    if let Some(action) = action {
        ask(thread, Command::Scrub(action), PATIENCE).await?;
    }
    match ask(thread, Command::ScrubStatus, PATIENCE).await? {
        CommandReply::Scrub(status) => Ok(status),
        other => {
            tracing::error!(
                ?other,
                "the disk's core answered a question about its scrubbing with something else"
            );
            Err(AskError::Gone)
        }
    }
}

async fn pass_on(
    engine: &Arc<Engine>,
    request: Request<api::ScrubDiskRequest>,
    disk: DiskId,
) -> Result<Response<api::Scrub>, Status> {
    let catalogue = route::catalogue_soon(engine).await?;
    let node = catalogue
        .node_of(disk)
        .ok_or_else(|| Status::not_found(format!("the cluster has no disk {disk}")))?;
    if node.id == engine.node() || route::was_passed_on(&request) {
        return Err(Status::failed_precondition(format!(
            "node '{}' does not have disk {disk} now: see `cairn disk list`",
            engine.config.name
        )));
    }
    let unreachable = |problem: &str| {
        Status::unavailable(format!(
            "disk {disk} is on node '{}', whose engine does not answer: {problem}",
            node.name
        ))
    };
    let mut client = engine
        .channels
        .client(&node.control_address)
        .map_err(|error| unreachable(&error.to_string()))?;
    let asked = client.scrub_disk(route::pass_on(request.into_inner())).await;
    asked.map_err(|status| match route::look_elsewhere(&status) {
        true => unreachable(status.message()),
        false => status,
    })
}

fn message(disk: DiskId, node: &str, path: String, status: &ScrubStatus) -> api::Scrub {
    api::Scrub {
        disk_id: disk.to_string(),
        node: node.to_owned(),
        path,
        bytes_per_s: status.bytes_per_s,
        running: status.running.as_ref().map(pass),
        blocks_expected: status.blocks_expected,
        last: status.last.as_ref().map(|(report, _)| pass(report)),
        last_ended_s_ago: status.last.map_or(0, |(_, ago)| ago.as_secs()),
        next_in_s: status.next_in.map(|next| next.as_secs()),
    }
}

fn pass(report: &ScrubReport) -> api::ScrubPass {
    api::ScrubPass {
        blocks: report.blocks,
        damaged: report.damage.found,
        repaired: report.damage.repaired,
        unrepairable: report.damage.unrepairable,
        took_ms: u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
    }
}
