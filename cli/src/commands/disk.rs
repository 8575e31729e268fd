//! `cairn disk …`.

use super::Context;
use crate::args::{ClearArgs, FormatArgs, ListArgs};
use crate::disk;
use crate::error::{CliError, Kind};
use crate::output::remark;
use crate::views::{ClusterView, DiskListView, DiskView, LocalDiskListView};

use cairn_api::control;
use cairn_api::ids::DiskId;

/// The least that names a disk by the beginning of its id.
const PREFIX_MIN: usize = 4;

/// `cairn disk format`.
pub(super) fn format(context: &Context, args: &FormatArgs) -> Result<(), CliError> {
    context.output.show(&disk::format(&args.path, args.size, args.force)?)
}

/// `cairn disk clear`.
pub(super) fn clear(context: &Context, args: &ClearArgs) -> Result<(), CliError> {
    context.output.show(&disk::clear(&args.path, args.at)?)
}

/// `cairn disk list`: of the paths given, or of the cluster.
pub(super) async fn list(context: &Context, args: &ListArgs) -> Result<(), CliError> {
    if !args.paths.is_empty() {
        return context.output.show(&LocalDiskListView {
            disks: args.paths.iter().map(disk::look).collect(),
        });
    }
    let disks = match context.cluster().await {
        Ok(cluster) => ClusterView::new(&cluster)
            .nodes
            .into_iter()
            .flat_map(|node| node.disks)
            .collect(),
        // Engines that wait for a cluster know no others, but each knows its own disks.
        Err(error) if error.kind == Kind::Precondition => disks_of_each_engine(context).await?,
        Err(error) => return Err(error),
    };
    context.output.show(&DiskListView { disks })
}

/// The disks of the engines that answer; what the others say goes to stderr, unless none answers.
async fn disks_of_each_engine(context: &Context) -> Result<Vec<DiskView>, CliError> {
    let mut disks = Vec::new();
    let mut failures = Vec::new();
    for address in context.engines.addresses() {
        let answer = context
            .engines
            .ask(address, "cannot list disks", async |client| {
                client
                    .get_node(control::GetNodeRequest {})
                    .await
                    .map(tonic::Response::into_inner)
            })
            .await;
        match answer {
            Ok(node) => disks.extend(node.disks.iter().map(|disk| DiskView::new(disk, &node.name, true))),
            Err(error) => failures.push(error),
        }
    }
    if failures.len() == context.engines.addresses().len() {
        return Err(failures.swap_remove(0));
    }
    for failure in failures {
        remark(&failure.report());
    }
    Ok(disks)
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
