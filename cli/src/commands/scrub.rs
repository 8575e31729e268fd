//! `cairn disk scrub`: asks for it, shows it, and on request sees it through.

use std::time::Duration;

use cairn_api::control::{self, ScrubAction};
use tonic::Response;

use super::{Context, disk};
use crate::args::ScrubArgs;
use crate::error::{CliError, Kind};
use crate::output::remark;
use crate::progress::ByteBar;
use crate::views::{ClusterView, ScrubListView, ScrubView};

/// The pause between two looks.
const POLL_PAUSE: Duration = Duration::from_millis(300);

/// `cairn disk scrub`.
pub(super) async fn scrub(context: &Context, args: &ScrubArgs) -> Result<(), CliError> {
    let Some(disk) = &args.disk else {
        return context.output.show(&list(context).await?);
    };
    let request = control::ScrubDiskRequest {
        disk_id: disk::resolve(context, disk).await?,
        action: match args.stop {
            true => ScrubAction::Stop,
            false => ScrubAction::Begin,
        }
        .into(),
        bytes_per_s: args.rate.map_or(0, |rate| rate.0),
    };
    let mut view = ask(context, &request).await?;
    if args.wait {
        view = wait(context, view).await?;
    }
    context.output.show(&ScrubListView { disks: vec![view] })
}

/// How far every disk is; what is said of those that do not answer goes to stderr.
async fn list(context: &Context) -> Result<ScrubListView, CliError> {
    let cluster = ClusterView::new(&context.cluster().await?);
    let mut disks = Vec::new();
    let mut skipped = 0;
    for node in &cluster.nodes {
        for disk in &node.disks {
            // One whose node does not answer is not waited for: the others are what was asked for.
            let seen = match node.reachable {
                true => look(context, &disk.disk_id).await.map_err(|error| error.report()),
                false => Err(format!(
                    "disk {} of node {} is left out: the node's engine does not answer",
                    disk.disk_id, node.name
                )),
            };
            match seen {
                Ok(view) => disks.push(view),
                Err(reason) => {
                    skipped += 1;
                    remark(&reason);
                }
            }
        }
    }
    if disks.is_empty() && skipped > 0 {
        return Err(CliError::new(
            Kind::Unavailable,
            format!("none of {skipped} disks could be asked"),
            "start their engines; `cairn cluster status` shows which of them run",
        ));
    }
    Ok(ScrubListView { disks })
}

/// How far one is now: its node is not waited for.
async fn look(context: &Context, disk: &str) -> Result<ScrubView, CliError> {
    let request = control::ScrubDiskRequest {
        disk_id: disk.to_owned(),
        ..control::ScrubDiskRequest::default()
    };
    let scrub = context
        .engines
        .call_once(&format!("cannot see how far disk {disk} is"), async |client| {
            client.scrub_disk(request.clone()).await.map(Response::into_inner)
        })
        .await?;
    Ok(ScrubView::new(&scrub))
}

async fn ask(context: &Context, request: &control::ScrubDiskRequest) -> Result<ScrubView, CliError> {
    let scrub = context
        .engines
        .call(&format!("cannot scrub disk {}", request.disk_id), async |client| {
            client.scrub_disk(request.clone()).await.map(Response::into_inner)
        })
        .await?;
    Ok(ScrubView::new(&scrub))
}

/// Waits until no pass goes on.
async fn wait(context: &Context, begun: ScrubView) -> Result<ScrubView, CliError> {
    let mut view = begun;
    let mut bar = None;
    let mut shown = 0;
    while let Some(pass) = view.running.clone() {
        let what = || format!("reading {}:{}", view.node, view.path);
        bar.get_or_insert_with(|| ByteBar::start(view.expected_bytes, what()))
            .advance(pass.bytes.saturating_sub(shown));
        shown = pass.bytes;
        if context.engines.is_over() {
            return Err(context.engines.too_late(
                &format!("disk {} is being read through but not", view.disk_id),
                &view.state(),
                "it goes on by itself; the same command goes on waiting, and --timeout gives it longer",
            ));
        }
        tokio::time::sleep(POLL_PAUSE).await;
        // An engine may be away for a while: what counts is what is seen in the end.
        if let Ok(seen) = look(context, &view.disk_id).await {
            view = seen;
        }
    }
    Ok(view)
}
