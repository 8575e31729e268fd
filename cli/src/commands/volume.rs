//! `cairn volume …`: asks for the change, then waits until it is true.

use std::time::Duration;

use cairn_api::control::{self, VolumeState};
use tonic::Response;

use super::Context;
use cairn_api::units::ByteSize;

use crate::args::{CloneArgs, CreateArgs, DeleteArgs, DetachArgs, LimitArgs, LimitFlags, ResizeArgs};
use crate::error::{CliError, Kind};
use crate::progress::Waiting;
use crate::views::{ClusterView, DeletedView, DetachedView, ExportListView, NodeNames, VolumeListView, VolumeView};

/// The pause between two looks at a volume that is being made or dropped.
const POLL_PAUSE: Duration = Duration::from_millis(200);

/// `cairn volume create`.
pub(super) async fn create(context: &Context, args: &CreateArgs) -> Result<(), CliError> {
    let request = control::CreateVolumeRequest {
        source_volume: String::new(),
        source_snapshot: String::new(),
        name: args.name.clone(),
        size_bytes: args.size.0,
        replicas: args.replicas,
        limits: limits_of(&args.limits),
        encrypted: args.encrypted,
        key_name: args.key_name.clone().unwrap_or_default(),
    };
    let created = request_volume(context, &request).await?;
    let volume = if args.no_wait {
        created
    } else {
        wait_until_ready(context, created).await?
    };
    context
        .output
        .show(&VolumeView::new(&volume, &context.node_names().await))
}

/// `cairn volume clone`.
pub(super) async fn clone(context: &Context, args: &CloneArgs) -> Result<(), CliError> {
    let (source_volume, source_snapshot) = match args.source.split_once('@') {
        Some((volume, snapshot)) if !volume.is_empty() && !snapshot.is_empty() => (volume, snapshot),
        Some(_) => {
            return Err(CliError::new(
                Kind::Usage,
                format!("'{}' names no volume and no snapshot", args.source),
                "write VOLUME, or VOLUME@SNAPSHOT; `cairn snapshot list` shows the snapshots",
            ));
        }
        None => (args.source.as_str(), ""),
    };
    let request = control::CreateVolumeRequest {
        name: args.name.clone(),
        size_bytes: args.size.map_or(0, |size| size.0),
        replicas: 0,
        limits: limits_of(&args.limits),
        encrypted: false,
        key_name: args.key_name.clone().unwrap_or_default(),
        source_volume: source_volume.to_owned(),
        source_snapshot: source_snapshot.to_owned(),
    };
    let mut volume = request_volume(context, &request).await?;
    if !args.no_wait {
        volume = wait_until_ready(context, volume).await?;
    }
    if args.wait {
        volume = wait_until_whole(context, volume).await?;
    }
    context
        .output
        .show(&VolumeView::new(&volume, &context.node_names().await))
}

/// Waits until a clone needs its source no more.
async fn wait_until_whole(context: &Context, volume: control::Volume) -> Result<control::Volume, CliError> {
    let mut volume = volume;
    let waiting = Waiting::start();
    while let Some(origin) = volume.origin.clone().filter(|origin| !origin.whole) {
        let (filled, size) = (ByteSize(origin.filled_bytes), ByteSize(origin.size_bytes));
        let missing = format!("{filled} of {size} are its own");
        waiting.say(format!("volume {}: {missing}", volume.name));
        if context.engines.is_over() {
            return Err(context.engines.too_late(
                &format!("volume '{}' is ready but not whole", volume.name),
                &missing,
                "look at `cairn volume show`; the same command goes on waiting",
            ));
        }
        tokio::time::sleep(POLL_PAUSE).await;
        match get(context, &volume.name).await {
            Err(_) if context.engines.is_over() => {}
            look => volume = look?,
        }
    }
    Ok(volume)
}

/// Asks for a volume; succeeds if it is there already.
pub(crate) async fn request_volume(
    context: &Context,
    request: &control::CreateVolumeRequest,
) -> Result<control::Volume, CliError> {
    context
        .engines
        .call(&format!("cannot create volume '{}'", request.name), async |client| {
            client.create_volume(request.clone()).await.map(Response::into_inner)
        })
        .await
}

/// Waits until every replica of `volume` is made and one of them leads.
pub(crate) async fn wait_until_ready(context: &Context, volume: control::Volume) -> Result<control::Volume, CliError> {
    let mut volume = volume;
    let waiting = Waiting::start();
    while volume.state() != VolumeState::Ready || volume.leader.is_empty() {
        let missing = missing_for_ready(&volume);
        waiting.say(format!("volume {}: {missing}", volume.name));
        if context.engines.is_over() {
            return Err(context.engines.too_late(
                &format!("volume '{}' is accepted but not ready", volume.name),
                &missing,
                "look at `cairn cluster status`; the same command goes on waiting",
            ));
        }
        tokio::time::sleep(POLL_PAUSE).await;
        match get(context, &volume.name).await {
            // Time that runs out in the middle of a look is reported above, with what was seen last.
            Err(_) if context.engines.is_over() => {}
            look => volume = look?,
        }
    }
    Ok(volume)
}

fn missing_for_ready(volume: &control::Volume) -> String {
    let made = volume.replicas.iter().filter(|replica| replica.created).count();
    if made < volume.replicas.len() {
        format!("{made} of {} replicas are made", volume.replicas.len())
    } else {
        "no replica leads yet".to_owned()
    }
}

/// What a new volume may be asked for, if that was said.
fn limits_of(flags: &LimitFlags) -> Option<control::VolumeLimits> {
    let is_any = flags.iops.is_some() || flags.bandwidth.is_some() || flags.burst.is_some();
    is_any.then(|| control::VolumeLimits {
        iops: flags.iops.and_then(|ceiling| ceiling.0).unwrap_or_default(),
        bytes_per_s: flags.bandwidth.and_then(|ceiling| ceiling.0).unwrap_or_default(),
        burst_ms: flags.burst,
    })
}

/// `cairn volume limit`.
pub(super) async fn limit(context: &Context, args: &LimitArgs) -> Result<(), CliError> {
    let (name, flags) = (&args.name, &args.limits);
    if limits_of(flags).is_none() {
        return Err(CliError::new(
            Kind::Usage,
            format!("nothing is to be changed of the limits of volume '{name}'"),
            "name at least one of --iops, --bandwidth and --burst; `cairn volume show` tells what they are",
        ));
    }
    let request = control::LimitVolumeRequest {
        name: name.clone(),
        iops: flags.iops.map(|ceiling| ceiling.0.unwrap_or_default()),
        bytes_per_s: flags.bandwidth.map(|ceiling| ceiling.0.unwrap_or_default()),
        burst_ms: flags.burst,
    };
    let volume = context
        .engines
        .call(&format!("cannot limit volume '{name}'"), async |client| {
            client.limit_volume(request.clone()).await.map(Response::into_inner)
        })
        .await
        .map_err(list_volumes_remedy)?;
    wait_until_heard(context, name, volume.revision).await?;
    context
        .output
        .show(&VolumeView::new(&volume, &context.node_names().await))
}

/// `cairn volume resize`.
pub(super) async fn resize(context: &Context, args: &ResizeArgs) -> Result<(), CliError> {
    let name = &args.name;
    let request = control::ResizeVolumeRequest {
        name: name.clone(),
        size_bytes: args.size.0,
    };
    let accepted = context
        .engines
        .call(&format!("cannot resize volume '{name}'"), async |client| {
            client.resize_volume(request.clone()).await.map(Response::into_inner)
        })
        .await
        .map_err(list_volumes_remedy)?;
    let volume = if args.no_wait {
        accepted
    } else {
        let revision = accepted.revision;
        let grown = wait_until_grown(context, accepted).await?;
        wait_until_heard(context, name, revision).await?;
        grown
    };
    context
        .output
        .show(&VolumeView::new(&volume, &context.node_names().await))
}

/// Waits until the leader of `volume` serves all of it.
async fn wait_until_grown(context: &Context, volume: control::Volume) -> Result<control::Volume, CliError> {
    let wanted = volume.size_bytes;
    let mut volume = volume;
    let waiting = Waiting::start();
    while volume.served_bytes < wanted {
        let so_far = if volume.leader.is_empty() {
            "no replica leads".to_owned()
        } else {
            format!("{} of {} are served", ByteSize(volume.served_bytes), ByteSize(wanted))
        };
        waiting.say(format!("volume {}: {so_far}", volume.name));
        if context.engines.is_over() {
            return Err(context.engines.too_late(
                &format!("the size of volume '{}' is accepted but not served", volume.name),
                &so_far,
                "it goes on by itself once a majority of the volume's replicas answers; the same command goes on waiting",
            ));
        }
        tokio::time::sleep(POLL_PAUSE).await;
        match get(context, &volume.name).await {
            Err(_) if context.engines.is_over() => {}
            look => volume = look?,
        }
    }
    Ok(volume)
}

/// Waits until every engine that answers has told its gateways of the catalogue's revision.
async fn wait_until_heard(context: &Context, name: &str, revision: u64) -> Result<(), CliError> {
    let waiting = Waiting::start();
    loop {
        let cluster = context.cluster().await?;
        let infos = cluster.nodes.iter().filter_map(|node| node.info.as_ref());
        let behind: Vec<&str> = infos
            .filter(|info| info.heard_revision < revision)
            .map(|info| info.name.as_str())
            .collect();
        if behind.is_empty() {
            return Ok(());
        }
        let behind = format!("node {} has not heard of it", behind.join(", "));
        waiting.say(format!("volume {name}: {behind}"));
        if context.engines.is_over() {
            return Err(context.engines.too_late(
                &format!("the change of volume '{name}' is made but not known everywhere"),
                &behind,
                "it goes on by itself; look at `cairn cluster status` if it does not",
            ));
        }
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

async fn get(context: &Context, name: &str) -> Result<control::Volume, CliError> {
    let request = control::GetVolumeRequest { name: name.to_owned() };
    let result = context
        .engines
        .call(&format!("cannot show volume '{name}'"), async |client| {
            client.get_volume(request.clone()).await.map(Response::into_inner)
        })
        .await;
    result.map_err(list_volumes_remedy)
}

/// Who names a volume that is not there wants to know which are.
fn list_volumes_remedy(error: CliError) -> CliError {
    if error.kind == Kind::NotFound {
        error.with_remedy("`cairn volume list` shows the volumes there are")
    } else {
        error
    }
}

/// Every volume of the cluster.
pub(super) async fn all(context: &Context) -> Result<Vec<control::Volume>, CliError> {
    let reply = context
        .engines
        .call("cannot list volumes", async |client| {
            client
                .list_volumes(control::ListVolumesRequest {})
                .await
                .map(Response::into_inner)
        })
        .await?;
    Ok(reply.volumes)
}

/// `cairn volume list`.
pub(super) async fn list(context: &Context) -> Result<(), CliError> {
    let volumes = all(context).await?;
    // Node names only appear in the JSON's replicas, so people need not wait for them.
    let names = if context.output.is_json() {
        context.node_names().await
    } else {
        NodeNames::new()
    };
    context.output.show(&VolumeListView::new(&volumes, &names))
}

/// `cairn volume show`.
pub(super) async fn show(context: &Context, name: &str) -> Result<(), CliError> {
    let volume = get(context, name).await?;
    context
        .output
        .show(&VolumeView::new(&volume, &context.node_names().await))
}

/// `cairn volume delete`.
pub(super) async fn delete(context: &Context, args: &DeleteArgs) -> Result<(), CliError> {
    let name = &args.name;
    let request = control::DeleteVolumeRequest {
        name: name.clone(),
        force: args.force,
        snapshots: args.snapshots,
    };
    let deleted = context
        .engines
        .call(&format!("cannot delete volume '{name}'"), async |client| {
            client.delete_volume(request.clone()).await.map(Response::into_inner)
        })
        .await;
    if let Err(error) = deleted {
        if error.what.contains("--snapshots") {
            return Err(CliError {
                kind: Kind::Refused,
                ..error
            });
        }
        let remedy = format!("disconnect its clients and `cairn volume detach {name}`, or delete it with --force");
        return Err(explain(context, error, name, args.force, &remedy).await);
    }
    if !args.no_wait {
        wait_until_gone(context, name).await?;
    }
    context.output.show(&DeletedView {
        name: name.clone(),
        complete: !args.no_wait,
    })
}

/// Says of a refused deletion or detachment whether force would help: if the volume is there, it is the volume's state that
/// the engine minds, and that is what `--force` is for.
async fn explain(context: &Context, error: CliError, name: &str, forced: bool, remedy: &str) -> CliError {
    if error.kind != Kind::Precondition || forced || get(context, name).await.is_err() {
        return list_volumes_remedy(error);
    }
    // The engine may have named the way out already.
    let remedy = if error.what.contains("--force") { "" } else { remedy };
    CliError {
        kind: Kind::Refused,
        ..error.with_remedy(remedy)
    }
}

async fn wait_until_gone(context: &Context, name: &str) -> Result<(), CliError> {
    let waiting = Waiting::start();
    loop {
        match get(context, name).await {
            Err(error) if error.kind == Kind::NotFound => return Ok(()),
            Ok(_) => waiting.say(format!("volume {name}: its replicas are being dropped")),
            Err(_) if context.engines.is_over() => {}
            Err(error) => return Err(error),
        }
        if context.engines.is_over() {
            return Err(context.engines.too_late(
                &format!("the deletion of volume '{name}' is accepted but not complete"),
                "",
                "it goes on by itself once every node with a replica runs; --no-wait does not wait for that",
            ));
        }
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

/// `cairn volume detach`.
pub(super) async fn detach(context: &Context, args: &DetachArgs) -> Result<(), CliError> {
    let name = &args.name;
    let request = control::DetachVolumeRequest {
        name: name.clone(),
        force: args.force,
    };
    let detached = context
        .engines
        .call(&format!("cannot detach volume '{name}'"), async |client| {
            client.detach_volume(request.clone()).await.map(Response::into_inner)
        })
        .await;
    match detached {
        Ok(reply) => context.output.show(&DetachedView {
            name: name.clone(),
            epoch: reply.epoch,
        }),
        Err(error) => {
            let remedy = "disconnect its clients first, or fence them with --force: their writes fail from then on";
            Err(explain(context, error, name, args.force, remedy).await)
        }
    }
}

/// `cairn volume export`.
pub(super) async fn export(context: &Context, name: &str) -> Result<(), CliError> {
    let volume = get(context, name).await?;
    let cluster = ClusterView::new(&context.cluster().await?);
    let view = ExportListView::new(&volume, &cluster.nodes);
    if view.exports.is_empty() {
        return Err(CliError::failed(
            format!(
                "no engine serves volume '{name}': NBD is off on all {} nodes",
                cluster.nodes.len()
            ),
            "give an engine's configuration [nbd] listen = \"HOST:10809\" or socket = \"PATH\", and restart it",
        ));
    }
    context.output.show(&view)
}
