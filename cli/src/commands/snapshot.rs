//! `cairn snapshot …`: asks for the change, then waits until it is true.

use std::cell::RefCell;
use std::time::Duration;

use cairn_api::control::{self, SnapshotState};
use tonic::Response;

use super::Context;
use crate::args::{SnapshotArgs, SnapshotCreateArgs, SnapshotDeleteArgs, SnapshotDiffArgs, SnapshotListArgs};
use crate::error::{CliError, Kind};
use crate::progress::Waiting;
use crate::views::{SnapshotDeletedView, SnapshotDiffView, SnapshotListView, SnapshotView};

/// The pause between two looks at a snapshot that is being made or deleted.
const POLL_PAUSE: Duration = Duration::from_millis(200);

/// Who names a snapshot or a volume that is not there wants to know which are.
fn list_remedy(error: CliError) -> CliError {
    if error.kind == Kind::NotFound {
        error.with_remedy("`cairn snapshot list` shows the snapshots there are, `cairn volume list` the volumes")
    } else {
        error
    }
}

/// `cairn snapshot create`.
pub(super) async fn create(context: &Context, args: &SnapshotCreateArgs) -> Result<(), CliError> {
    let name = &args.name;
    let [volume] = &args.volumes[..] else {
        return create_together(context, args).await;
    };
    let request = control::CreateSnapshotRequest {
        volume: volume.clone(),
        name: name.clone(),
    };
    let what = format!("cannot make snapshot '{name}' of volume '{volume}'");
    let created = context.engines.call(&what, async |client| {
        client.create_snapshot(request.clone()).await.map(Response::into_inner)
    });
    let mut snapshot = created.await.map_err(list_remedy)?;
    let waiting = Waiting::start();
    while !args.no_wait && snapshot.state() == SnapshotState::Creating {
        waiting.say(format!(
            "snapshot {name}: the leader of volume {volume} has not made it yet"
        ));
        if context.engines.is_over() {
            return Err(context.engines.too_late(
                &format!("snapshot '{name}' of volume '{volume}' is accepted but not made"),
                "the volume's leader has not made it",
                "look at `cairn volume show`; the same command goes on waiting",
            ));
        }
        tokio::time::sleep(POLL_PAUSE).await;
        match get(context, volume, name).await {
            Err(_) if context.engines.is_over() => {}
            look => snapshot = look?,
        }
    }
    drop(waiting);
    context.output.show(&SnapshotView::new(&snapshot))
}

/// Of several volumes: the cluster answers when all are made, or none.
async fn create_together(context: &Context, args: &SnapshotCreateArgs) -> Result<(), CliError> {
    let request = control::CreateSnapshotsTogetherRequest {
        volumes: args.volumes.clone(),
        name: args.name.clone(),
    };
    let count = args.volumes.len();
    let what = format!("cannot make snapshot '{}' of {count} volumes together", args.name);
    let created = context.engines.call(&what, async |client| {
        let made = client.create_snapshots_together(request.clone()).await;
        made.map(Response::into_inner)
    });
    let reply = created.await.map_err(list_remedy)?;
    context.output.show(&SnapshotListView::new(&reply.snapshots))
}

async fn get(context: &Context, volume: &str, name: &str) -> Result<control::Snapshot, CliError> {
    let request = control::GetSnapshotRequest {
        volume: volume.to_owned(),
        name: name.to_owned(),
    };
    let what = format!("cannot show snapshot '{name}' of volume '{volume}'");
    let found = context.engines.call(&what, async |client| {
        client.get_snapshot(request.clone()).await.map(Response::into_inner)
    });
    found.await.map_err(list_remedy)
}

/// `cairn snapshot show`.
pub(super) async fn show(context: &Context, args: &SnapshotArgs) -> Result<(), CliError> {
    let snapshot = get(context, &args.volume, &args.name).await?;
    context.output.show(&SnapshotView::new(&snapshot))
}

/// `cairn snapshot list`.
pub(super) async fn list(context: &Context, args: &SnapshotListArgs) -> Result<(), CliError> {
    let request = control::ListSnapshotsRequest {
        volume: args.volume.clone().unwrap_or_default(),
    };
    let listed = context.engines.call("cannot list snapshots", async |client| {
        client.list_snapshots(request.clone()).await.map(Response::into_inner)
    });
    let reply = listed.await.map_err(list_remedy)?;
    context.output.show(&SnapshotListView::new(&reply.snapshots))
}

/// `cairn snapshot diff`.
pub(super) async fn diff(context: &Context, args: &SnapshotDiffArgs) -> Result<(), CliError> {
    let (from, to) = args.from_and_to();
    let what = match from {
        Some(from) => format!(
            "cannot tell what changed from snapshot '{from}' of volume '{}' to '{to}'",
            args.volume
        ),
        None => format!("cannot tell what snapshot '{to}' of volume '{}' holds", args.volume),
    };
    let told: RefCell<Vec<control::DiffSnapshotsReply>> = RefCell::default();
    let all = context.engines.call(&what, async |client| {
        // What an engine told before it went silent is true: the next one goes on after it.
        let first_byte = told.borrow().last().map_or(0, |part| part.next_byte);
        let request = control::DiffSnapshotsRequest {
            volume: args.volume.clone(),
            from: from.unwrap_or_default().to_owned(),
            to: to.to_owned(),
            first_byte,
        };
        let mut parts = client.diff_snapshots(request).await?.into_inner();
        while let Some(part) = parts.message().await? {
            told.borrow_mut().push(part);
        }
        Ok(())
    });
    all.await.map_err(list_remedy)?;
    let view = SnapshotDiffView::new(&args.volume, from, to, &told.into_inner());
    context.output.show(&view)
}

/// `cairn snapshot delete`.
pub(super) async fn delete(context: &Context, args: &SnapshotDeleteArgs) -> Result<(), CliError> {
    let (volume, name) = (&args.volume, &args.name);
    let request = control::DeleteSnapshotRequest {
        volume: volume.clone(),
        name: name.clone(),
    };
    let what = format!("cannot delete snapshot '{name}' of volume '{volume}'");
    let deleted = context.engines.call(&what, async |client| {
        client.delete_snapshot(request.clone()).await.map(Response::into_inner)
    });
    deleted.await.map_err(list_remedy)?;
    if !args.no_wait {
        wait_until_gone(context, volume, name).await?;
    }
    context.output.show(&SnapshotDeletedView {
        volume: volume.clone(),
        name: name.clone(),
        complete: !args.no_wait,
    })
}

async fn wait_until_gone(context: &Context, volume: &str, name: &str) -> Result<(), CliError> {
    let waiting = Waiting::start();
    loop {
        match get(context, volume, name).await {
            Err(error) if error.kind == Kind::NotFound => return Ok(()),
            Ok(_) => waiting.say(format!(
                "snapshot {name}: the leader of volume {volume} has not deleted it yet"
            )),
            Err(_) if context.engines.is_over() => {}
            Err(error) => return Err(error),
        }
        if context.engines.is_over() {
            return Err(context.engines.too_late(
                &format!("the deletion of snapshot '{name}' of volume '{volume}' is accepted but not complete"),
                "",
                "it goes on by itself once the volume has a leader; --no-wait does not wait for that",
            ));
        }
        tokio::time::sleep(POLL_PAUSE).await;
    }
}
