//! What each command does: one file a noun, and one for a cluster's birth.

mod add;
mod cluster;
mod disk;
pub(crate) mod init;
mod key;
mod replace;
mod scrub;
mod snapshot;
pub(crate) mod volume;

use cairn_api::control;

use crate::args::{Cli, ClusterCommand, Command, DiskCommand, GlobalArgs, KeyCommand, SnapshotCommand, VolumeCommand};
use crate::client::Engines;
use crate::dev;
use crate::error::CliError;
use crate::output::Output;
use crate::views::NodeNames;

/// What a command needs of the world.
pub(crate) struct Context {
    /// The engines to ask.
    pub(crate) engines: Engines,
    /// Where results go.
    pub(crate) output: Output,
}

impl Context {
    fn new(global: &GlobalArgs) -> Self {
        Self {
            engines: Engines::new(global.engines_or_default(), global.timeout),
            output: Output(global.output),
        }
    }

    /// The cluster as an engine sees it.
    pub(crate) async fn cluster(&self) -> Result<control::ClusterStatus, CliError> {
        self.engines
            .call("cannot ask for the cluster's status", async |client| {
                client
                    .get_cluster(control::GetClusterRequest {})
                    .await
                    .map(tonic::Response::into_inner)
            })
            .await
    }

    /// The nodes' names. They only make output readable, so a failure leaves ids instead of ending the command.
    pub(crate) async fn node_names(&self) -> NodeNames {
        let catalogue = self
            .engines
            .glance(async |client| {
                client
                    .get_catalogue(control::GetCatalogueRequest {})
                    .await
                    .map(tonic::Response::into_inner)
            })
            .await
            .unwrap_or_default();
        catalogue
            .nodes
            .into_iter()
            .map(|node| (node.node_id, node.name))
            .collect()
    }
}

/// Runs one command to its end.
///
/// # Errors
/// What to tell the user, and the exit code.
pub async fn run(cli: Cli) -> Result<(), CliError> {
    let context = Context::new(&cli.global);
    match &cli.command {
        Command::Volume(VolumeCommand::Create(args)) => volume::create(&context, args).await,
        Command::Volume(VolumeCommand::Clone(args)) => volume::clone(&context, args).await,
        Command::Volume(VolumeCommand::List) => volume::list(&context).await,
        Command::Volume(VolumeCommand::Show(args)) => volume::show(&context, &args.name).await,
        Command::Volume(VolumeCommand::Resize(args)) => volume::resize(&context, args).await,
        Command::Volume(VolumeCommand::Limit(args)) => volume::limit(&context, args).await,
        Command::Volume(VolumeCommand::Delete(args)) => volume::delete(&context, args).await,
        Command::Volume(VolumeCommand::Export(args)) => volume::export(&context, &args.name).await,
        Command::Volume(VolumeCommand::Detach(args)) => volume::detach(&context, args).await,
        Command::Volume(VolumeCommand::Rewrap(args)) => key::rewrap(&context, args).await,
        Command::Key(KeyCommand::Status) => key::status(&context).await,
        Command::Snapshot(SnapshotCommand::Create(args)) => snapshot::create(&context, args).await,
        Command::Snapshot(SnapshotCommand::List(args)) => snapshot::list(&context, args).await,
        Command::Snapshot(SnapshotCommand::Show(args)) => snapshot::show(&context, args).await,
        Command::Snapshot(SnapshotCommand::Diff(args)) => snapshot::diff(&context, args).await,
        Command::Snapshot(SnapshotCommand::Delete(args)) => snapshot::delete(&context, args).await,
        Command::Cluster(ClusterCommand::Init(args)) => cluster::init(&context, &cli.global, args).await,
        Command::Cluster(ClusterCommand::Add(args)) => add::add(&context, args).await,
        Command::Cluster(ClusterCommand::Status) => cluster::status(&context).await,
        Command::Disk(DiskCommand::List(args)) => disk::list(&context, args).await,
        Command::Disk(DiskCommand::Replace(args)) => replace::replace(&context, args).await,
        Command::Disk(DiskCommand::Format(args)) => disk::format(&context, args),
        Command::Disk(DiskCommand::Clear(args)) => disk::clear(&context, args),
        Command::Disk(DiskCommand::Scrub(args)) => scrub::scrub(&context, args).await,
        Command::Dev(args) => dev::run(&cli.global, args).await,
    }
}
