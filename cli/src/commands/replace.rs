//! `cairn disk replace`: asks for it, and on request sees it through.

use std::time::Duration;

use cairn_api::control;
use tonic::Response;

use super::{Context, disk};
use crate::args::ReplaceArgs;
use crate::error::CliError;
use crate::progress::StepBar;
use crate::views::ReplacementView;

/// The pause between two looks.
const POLL_PAUSE: Duration = Duration::from_millis(300);

/// `cairn disk replace`.
pub(super) async fn replace(context: &Context, args: &ReplaceArgs) -> Result<(), CliError> {
    let (old, new) = (
        disk::resolve(context, &args.old).await?,
        disk::resolve(context, &args.new).await?,
    );
    let request = control::ReplaceDiskRequest {
        old_disk_id: old.clone(),
        new_disk_id: new,
    };
    let begun = context
        .engines
        .call(&format!("cannot replace disk {old}"), async |client| {
            client.replace_disk(request.clone()).await.map(Response::into_inner)
        })
        .await?;
    let mut view = ReplacementView::new(&begun);
    if args.wait {
        view = wait(context, view).await?;
    }
    context.output.show(&view)
}

/// Waits until nothing is left on the old disk.
async fn wait(context: &Context, begun: ReplacementView) -> Result<ReplacementView, CliError> {
    let mut view = begun;
    let bar = StepBar::start();
    while !view.done {
        bar.say(u64::from(view.groups_done), u64::from(view.groups), view.progress());
        if context.engines.is_over() {
            let (done, all, progress) = (view.groups_done, view.groups, view.progress());
            return Err(context.engines.too_late(
                &format!("disk {} is being replaced but not", view.old_disk_id),
                &format!("{done} of {all} groups moved; {progress}"),
                "it goes on by itself; the same command goes on waiting, and --timeout gives it longer",
            ));
        }
        tokio::time::sleep(POLL_PAUSE).await;
        // An engine may be away, or behind the others: what counts is what is seen in the end.
        if let Ok(look) = get(context, &view.old_disk_id).await {
            view = ReplacementView::new(&look);
        }
    }
    Ok(view)
}

async fn get(context: &Context, old: &str) -> Result<control::Replacement, CliError> {
    let request = control::GetReplacementRequest {
        old_disk_id: old.to_owned(),
    };
    context
        .engines
        .call("cannot see how far it is", async |client| {
            client.get_replacement(request.clone()).await.map(Response::into_inner)
        })
        .await
}
