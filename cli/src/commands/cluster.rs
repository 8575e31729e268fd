//! `cairn cluster …`.

use super::{Context, init};
use crate::args::{GlobalArgs, InitArgs};
use crate::error::{CliError, Kind};
use crate::views::ClusterView;

/// `cairn cluster status`.
pub(super) async fn status(context: &Context) -> Result<(), CliError> {
    context.output.show(&ClusterView::new(&context.cluster().await?))
}

/// `cairn cluster init`. A cluster is for ever, so its members are never guessed: they must be named.
pub(super) async fn init(context: &Context, global: &GlobalArgs, args: &InitArgs) -> Result<(), CliError> {
    if global.engines_named().is_empty() {
        return Err(CliError::new(
            Kind::Usage,
            "a new cluster needs its members named",
            "name every engine: cairn cluster init --engine HOST,HOST,HOST",
        ));
    }
    let made = init::init(&context.engines, args.name.as_deref()).await?;
    context.output.show(&made)
}
