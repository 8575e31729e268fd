//! `cairn disk …`.

use super::Context;
use crate::args::{ClearArgs, FormatArgs, ListArgs};
use crate::disk;
use crate::error::{CliError, Kind};
use crate::output::remark;
use crate::views::{ClusterView, DiskListView, DiskView, LocalDiskListView};

use cairn_api::control;

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
