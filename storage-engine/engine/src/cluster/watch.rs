//! Background tasks that look at the catalogue again whenever it changes, and after a pause.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::Engine;

/// A task with what it remembers from one look to the next.
pub(super) trait Task: Default + Send {
    /// Looks, does what is to be done, and gives the pause until the next look unless the catalogue changes before.
    fn look(&mut self, engine: &Arc<Engine>) -> impl Future<Output = Duration> + Send;
}

/// Runs a task until the engine drains.
pub(super) async fn run<T: Task>(engine: Arc<Engine>) {
    let mut view = engine.meta.watch_view();
    let mut task = T::default();
    while !engine.is_draining() {
        let pause = task.look(&engine).await;
        tokio::select! {
            _ = view.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
