//! Background tasks that look at the catalogue again whenever it changes, and after a pause.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::Engine;

/// A task with what it remembers from one look to the next.
pub(super) trait Task: Default + Send {
    /// The pause between two looks while there is something to do.
    const BUSY_PAUSE: Duration;
    /// The pause between two looks otherwise; changes of the catalogue are looked at as they come.
    const IDLE_PAUSE: Duration;

    /// Looks, in an engine that has a cluster, and does what is to be done; whether there is more.
    fn pass(&mut self, engine: &Arc<Engine>) -> impl Future<Output = bool> + Send;
}

/// Runs a task until the engine drains.
pub(super) async fn run<T: Task>(engine: Arc<Engine>) {
    let mut view = engine.meta.watch_view();
    let mut task = T::default();
    while !engine.is_draining() {
        let is_busy = engine.cluster().is_some() && task.pass(&engine).await;
        let pause = if is_busy { T::BUSY_PAUSE } else { T::IDLE_PAUSE };
        tokio::select! {
            _ = view.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
