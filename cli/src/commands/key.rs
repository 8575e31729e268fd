//! `cairn key …` and `cairn volume rewrap`.

use cairn_api::control;
use tonic::Response;

use super::{Context, volume};
use crate::args::RewrapArgs;
use crate::error::CliError;
use crate::progress::Waiting;
use crate::views::{KeyStatusView, RewrappedListView, RewrappedView};

/// `cairn key status`.
pub(super) async fn status(context: &Context) -> Result<(), CliError> {
    let reply = context
        .engines
        .call("cannot show the keys", async |client| {
            client
                .get_key_status(control::GetKeyStatusRequest {})
                .await
                .map(Response::into_inner)
        })
        .await?;
    context.output.show(&KeyStatusView::new(&reply))
}

/// `cairn volume rewrap`. What is done stays done: the same command again goes on where this one ended.
pub(super) async fn rewrap(context: &Context, args: &RewrapArgs) -> Result<(), CliError> {
    let names = match &args.name {
        Some(name) => vec![name.clone()],
        None => encrypted_volumes(context).await?,
    };
    let waiting = Waiting::start();
    let mut volumes = Vec::with_capacity(names.len());
    for (place, name) in names.iter().enumerate() {
        waiting.say(format!("volume {name}, {} of {}", place + 1, names.len()));
        match rewrap_one(context, name, args.key_name.as_deref()).await {
            Ok(view) => volumes.push(view),
            Err(error) if args.all => {
                let done = format!(
                    "{} of {} volumes are done; the same command again goes on with the others",
                    volumes.len(),
                    names.len()
                );
                return Err(error.with_remedy(done));
            }
            Err(error) => return Err(error),
        }
    }
    drop(waiting);
    context.output.show(&RewrappedListView { volumes })
}

/// The volumes whose keys can be rewrapped: not those that are being deleted, whose keys are gone.
async fn encrypted_volumes(context: &Context) -> Result<Vec<String>, CliError> {
    let is_open = |volume: &control::Volume| volume.encryption.as_ref().is_some_and(|shown| !shown.erased);
    let volumes = volume::all(context).await?.into_iter().filter(is_open);
    Ok(volumes.map(|volume| volume.name).collect())
}

async fn rewrap_one(context: &Context, name: &str, key_name: Option<&str>) -> Result<RewrappedView, CliError> {
    let request = control::RewrapVolumeRequest {
        name: name.to_owned(),
        key_name: key_name.unwrap_or_default().to_owned(),
    };
    let reply = context
        .engines
        .call(&format!("cannot rewrap the key of volume '{name}'"), async |client| {
            client.rewrap_volume(request.clone()).await.map(Response::into_inner)
        })
        .await?;
    Ok(RewrappedView::new(name, &reply))
}
