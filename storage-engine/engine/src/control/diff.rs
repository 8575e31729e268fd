//! What changed between two snapshots, as a stream: from a replica here, or passed on from an engine that has one.
//!
//! Each part is asked of the core when the receiver has taken those before it, so that a slow receiver costs a few parts of
//! memory and no more. A stream ends with an error if the replica goes, or a snapshot is deleted meanwhile; what was told
//! before stays true, and whoever asks again goes on after it.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cairn_api::control as api;
use cairn_api::ids::{DiskId, NodeId};
use cairn_api::units::{BLOCK_BYTES, Lba};
use cairn_core::event::{ChangesPart, ChangesRequest, Command, CommandReply};
use cairn_core::map::{Change, ChangeKind};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{route, survey, volumes};
use crate::disks::ask;
use crate::engine::Engine;
use crate::meta::{Catalogue, SnapshotPhase, SnapshotRecord, VolumeRecord};

/// How long a core may take for one part.
const PART_PATIENCE: Duration = Duration::from_secs(5);
/// Parts that wait for a slow receiver, each of at most some 100 KiB.
const PARTS_WAITING: usize = 4;

/// The answer to a request for changes.
pub(super) type DiffStream = Pin<Box<dyn Stream<Item = Result<api::DiffSnapshotsReply, Status>> + Send>>;

/// Streams what changed.
pub(super) async fn diff(
    engine: &Arc<Engine>,
    request: Request<api::DiffSnapshotsRequest>,
) -> Result<Response<DiffStream>, Status> {
    route::require_cluster(engine)?;
    let was_passed_on = route::was_passed_on(&request);
    let request = request.into_inner();
    let catalogue = route::catalogue_soon(engine).await?;
    let volume = volumes::find(&catalogue, &request.volume)?;
    let wanted = check(&catalogue, volume, &request)?;
    if let Some((disk, first)) = replica_here(engine, wanted).await {
        return Ok(Response::new(stream(
            Arc::clone(engine),
            disk,
            (wanted, first),
            request,
        )));
    }
    if was_passed_on {
        return Err(Status::unavailable(format!(
            "engine '{}' has no replica of volume '{}' with these snapshots",
            engine.config.name, volume.name
        )));
    }
    from_another(engine, &catalogue, volume, &request).await
}

/// What is asked of the core, if it makes sense.
fn check(
    catalogue: &Catalogue,
    volume: &VolumeRecord,
    request: &api::DiffSnapshotsRequest,
) -> Result<ChangesRequest, Status> {
    let to = ready(catalogue, volume, &request.to)?;
    let from = match request.from.as_str() {
        "" => None,
        from => Some(ready(catalogue, volume, from)?),
    };
    if from.is_some_and(|from| from.index > to.index) {
        let (from, to) = (&request.from, &request.to);
        return Err(Status::invalid_argument(format!(
            "snapshot '{to}' of volume '{}' is older than '{from}': name the earlier one first, '{to}' and then '{from}'",
            volume.name
        )));
    }
    let first = request.first_byte;
    if !first.is_multiple_of(BLOCK_BYTES) {
        return Err(Status::invalid_argument(format!(
            "first_byte is '{first}': it must be a multiple of {BLOCK_BYTES}, such as {}",
            first / BLOCK_BYTES * BLOCK_BYTES
        )));
    }
    if first > to.size_bytes {
        return Err(Status::invalid_argument(format!(
            "first_byte is '{first}': snapshot '{}' of volume '{}' ends at {}",
            to.name, volume.name, to.size_bytes
        )));
    }
    Ok(ChangesRequest {
        group: volume.group,
        from: from.map(|from| from.id),
        to: to.id,
        lba: Lba(first / BLOCK_BYTES),
    })
}

/// A snapshot that can be read.
fn ready<'a>(catalogue: &'a Catalogue, volume: &VolumeRecord, name: &str) -> Result<&'a SnapshotRecord, Status> {
    let snapshot = super::snapshots::find(catalogue, volume, name)?;
    let refuse = |how: &str| {
        Err(Status::failed_precondition(format!(
            "snapshot '{name}' of volume '{}' is {how}",
            volume.name
        )))
    };
    match snapshot.phase {
        SnapshotPhase::Ready => Ok(snapshot),
        SnapshotPhase::Creating => refuse("not made yet: ask again when `cairn snapshot show` says that it is ready"),
        SnapshotPhase::Deleting => refuse("being deleted: compare with one that is left, or make a new one"),
    }
}

async fn ask_for(engine: &Engine, disk: DiskId, wanted: ChangesRequest) -> Result<ChangesPart, Status> {
    let unavailable = |why: String| Status::unavailable(format!("the changes cannot be told: {why}"));
    let thread = engine.disks.thread_of(disk);
    let thread = thread.ok_or_else(|| unavailable(format!("disk {disk} does not serve")))?;
    match ask(&thread, Command::Changes(wanted), PART_PATIENCE).await {
        Ok(CommandReply::Changes(part)) => Ok(part),
        Ok(other) => Err(Status::internal(format!("the core answered changes with {other:?}"))),
        Err(error) => Err(unavailable(error.to_string())),
    }
}

/// The disk here with a replica that has the snapshots, and the first part that it tells.
async fn replica_here(engine: &Arc<Engine>, wanted: ChangesRequest) -> Option<(DiskId, ChangesPart)> {
    for (disk, status) in survey::local_groups(engine).await {
        if status.spec.group == wanted.group
            && let Ok(first) = ask_for(engine, disk, wanted).await
        {
            return Some((disk, first));
        }
    }
    None
}

fn stream(
    engine: Arc<Engine>,
    disk: DiskId,
    (mut wanted, first): (ChangesRequest, ChangesPart),
    request: api::DiffSnapshotsRequest,
) -> DiffStream {
    let (sender, receiver) = mpsc::channel(PARTS_WAITING);
    tokio::spawn(async move {
        let mut told = Ok(first);
        loop {
            let next = told.as_ref().ok().and_then(|part| part.next);
            // Nobody listens any more, or there is nothing more to say.
            if sender.send(told.map(|part| describe(&part))).await.is_err() {
                return;
            }
            let Some(next) = next else { return };
            wanted.lba = next;
            told = match ask_for(&engine, disk, wanted).await {
                Ok(part) => Ok(part),
                Err(status) => Err(because_it_is_gone(&engine, &request).unwrap_or(status)),
            };
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

/// Why a stream breaks off, if it is that a snapshot was deleted meanwhile.
fn because_it_is_gone(engine: &Engine, request: &api::DiffSnapshotsRequest) -> Option<Status> {
    let view = engine.meta.view();
    let volume = match volumes::find(&view, &request.volume) {
        Ok(volume) => volume,
        Err(status) => return Some(status),
    };
    check(&view, volume, request).err()
}

fn describe(part: &ChangesPart) -> api::DiffSnapshotsReply {
    let extent = |row: &Change| api::ChangedExtent {
        offset: row.lba.0 * BLOCK_BYTES,
        length: row.blocks * BLOCK_BYTES,
        zero: row.kind == ChangeKind::Zero,
    };
    api::DiffSnapshotsReply {
        size_bytes: part.size_blocks * BLOCK_BYTES,
        extents: part.rows.iter().map(extent).collect(),
        next_byte: part.next.map_or(part.size_blocks, |next| next.0) * BLOCK_BYTES,
    }
}

/// Passes on what an engine with a replica tells.
async fn from_another(
    engine: &Arc<Engine>,
    catalogue: &Catalogue,
    volume: &VolumeRecord,
    request: &api::DiffSnapshotsRequest,
) -> Result<Response<DiffStream>, Status> {
    let holders: BTreeSet<NodeId> = volume.replicas.iter().map(|replica| replica.node).collect();
    let mut last = Status::unavailable(format!("no engine with a replica of volume '{}' answers", volume.name));
    for node in catalogue.nodes.values() {
        if node.id == engine.node() || !holders.contains(&node.id) {
            continue;
        }
        let Ok(mut client) = engine.channels.client(&node.control_address) else {
            continue;
        };
        match client.diff_snapshots(route::pass_on(request.clone())).await {
            Ok(reply) => return Ok(Response::new(Box::pin(reply.into_inner()))),
            Err(status) => last = status,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::SnapshotCommand;
    use crate::meta::tests::{add_volume, run, sample};

    fn request(from: &str, to: &str, first_byte: u64) -> api::DiffSnapshotsRequest {
        api::DiffSnapshotsRequest {
            volume: "v".to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
            first_byte,
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name_and_with_what_would() {
        let mut catalogue = sample(3);
        let group = add_volume(&mut catalogue, "v", 8192, &[1, 2, 3]);
        for (name, index) in [("old", 7), ("new", 9), ("coming", 0)] {
            let create = SnapshotCommand::Create {
                group,
                name: name.to_owned(),
                created_unix_s: 0,
            };
            run(&mut catalogue, &crate::meta::Command::Snapshot(create)).unwrap();
            let snapshot = catalogue.snapshot_by_name(group, name).unwrap().id;
            let made = Some((cairn_api::ids::LogIndex(index), 8192));
            if index > 0 {
                let report = SnapshotCommand::Report { group, snapshot, made };
                run(&mut catalogue, &crate::meta::Command::Snapshot(report)).unwrap();
            }
        }
        let volume = &catalogue.volumes[&group];
        let wanted = check(&catalogue, volume, &request("old", "new", 4096)).unwrap();
        assert_eq!((wanted.from.is_some(), wanted.lba), (true, Lba(1)));
        assert_eq!(check(&catalogue, volume, &request("", "old", 8192)).unwrap().from, None);
        for (from, to, first, words) in [
            (
                "new",
                "old",
                0,
                "'old' of volume 'v' is older than 'new': name the earlier one first",
            ),
            (
                "old",
                "new",
                4097,
                "first_byte is '4097': it must be a multiple of 4096, such as 4096",
            ),
            (
                "old",
                "new",
                12288,
                "first_byte is '12288': snapshot 'new' of volume 'v' ends at 8192",
            ),
            ("none", "new", 0, "there is no snapshot 'none' of volume 'v'"),
            ("old", "none", 0, "there is no snapshot 'none' of volume 'v'"),
            (
                "old",
                "coming",
                0,
                "'coming' of volume 'v' is not made yet: ask again when",
            ),
        ] {
            let refused = check(&catalogue, volume, &request(from, to, first)).unwrap_err();
            assert!(refused.message().contains(words), "{refused}");
        }
    }
}
