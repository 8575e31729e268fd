//! `cairn disk replace`: asks for it, and on request sees it through.

use std::time::Duration;

use cairn_api::control;
use cairn_api::ids::DiskId;
use tonic::Response;

use super::Context;
use crate::args::ReplaceArgs;
use crate::error::{CliError, Kind};
use crate::progress::StepBar;
use crate::views::{ClusterView, DiskView, ReplacementView};

/// The pause between two looks.
const POLL_PAUSE: Duration = Duration::from_millis(300);
/// The least that names a disk by the beginning of its id.
const PREFIX_MIN: usize = 4;

/// `cairn disk replace`.
pub(super) async fn replace(context: &Context, args: &ReplaceArgs) -> Result<(), CliError> {
    let (old, new) = (resolve(context, &args.old).await?, resolve(context, &args.new).await?);
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
            return Err(CliError::new(
                Kind::Unavailable,
                format!(
                    "disk {} is being replaced but not within {:?}: {} of {} groups moved; {}",
                    view.old_disk_id,
                    context.engines.timeout(),
                    view.groups_done,
                    view.groups,
                    view.progress()
                ),
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

/// A disk's id, from what the user calls it.
pub(super) async fn resolve(context: &Context, name: &str) -> Result<String, CliError> {
    if let Ok(id) = name.parse::<DiskId>() {
        return Ok(id.to_string());
    }
    let cluster = ClusterView::new(&context.cluster().await?);
    let disks = cluster.nodes.iter().flat_map(|node| &node.disks);
    pick(&disks.collect::<Vec<_>>(), name)
}

fn pick(disks: &[&DiskView], name: &str) -> Result<String, CliError> {
    let is_meant = |disk: &&&DiskView| {
        let is_beginning = name.len() >= PREFIX_MIN && disk.disk_id.starts_with(&name.to_lowercase());
        is_beginning || name == format!("{}:{}", disk.node, disk.path)
    };
    let meant: Vec<&str> = disks
        .iter()
        .filter(is_meant)
        .map(|disk| disk.disk_id.as_str())
        .collect();
    match meant.as_slice() {
        [only] => Ok((*only).to_owned()),
        [] => Err(CliError::new(
            Kind::NotFound,
            format!("the cluster has no disk '{name}'"),
            format!(
                "`cairn disk list` shows those it has; give an id, at least its first {PREFIX_MIN} characters, or \
                 NODE:PATH"
            ),
        )),
        several => Err(CliError::new(
            Kind::Usage,
            format!("'{name}' may be any of {} disks: {}", several.len(), several.join(", ")),
            "give the whole id",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(id: &str, node: &str) -> DiskView {
        let disk = control::Disk {
            disk_id: id.to_owned(),
            path: "/dev/sdb".to_owned(),
            ..control::Disk::default()
        };
        DiskView::new(&disk, node, true)
    }

    #[test]
    fn a_disk_is_found_by_the_beginning_of_its_id_or_by_its_place() {
        let disks = [disk("5f0c1d7e-aa", "a"), disk("5f0c99aa-bb", "b")];
        let disks: Vec<&DiskView> = disks.iter().collect();
        assert_eq!(pick(&disks, "5f0c1").unwrap(), "5f0c1d7e-aa");
        assert_eq!(pick(&disks, "5F0C9").unwrap(), "5f0c99aa-bb");
        assert_eq!(pick(&disks, "b:/dev/sdb").unwrap(), "5f0c99aa-bb");
        assert_eq!(pick(&disks, "5f0c").unwrap_err().kind, Kind::Usage);
        for unknown in ["5f0", "77aa", "c:/dev/sdb", ""] {
            assert_eq!(pick(&disks, unknown).unwrap_err().kind, Kind::NotFound, "{unknown}");
        }
    }
}
