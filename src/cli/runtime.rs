//! The tokio runtime of a command.

use std::time::Duration;

use tokio::runtime::Builder;

/// How long shutdown waits for blocking work. A DNS lookup may take 5 or 10 s longer if the resolver does not answer. All
/// writes of a command are already complete.
const LEFTOVER_WAIT: Duration = Duration::from_secs(1);

/// Runs a future on a runtime of its own, which then shuts down within [`LEFTOVER_WAIT`].
pub(crate) fn block_on<F: Future>(future: F) -> std::io::Result<F::Output> {
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let output = runtime.block_on(future);
    runtime.shutdown_timeout(LEFTOVER_WAIT);
    Ok(output)
}
