//! The asynchronous runtime of a command. Its end does not wait for work that no one needs any more.

use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::cli::output::CliError;

/// How long a command waits at its end for blocking work. A look-up of a name may take 5 or 10 s more when the resolver is silent,
/// while all that a command must write was awaited before.
const LEFTOVER_WAIT: Duration = Duration::from_secs(1);

/// A runtime that ends within [`LEFTOVER_WAIT`].
pub(crate) struct CommandRuntime {
    handle: Handle,
    runtime: Option<Runtime>,
}

/// Builds the runtime of a command.
pub(crate) fn runtime() -> Result<CommandRuntime, CliError> {
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    Ok(CommandRuntime { handle: runtime.handle().clone(), runtime: Some(runtime) })
}

impl CommandRuntime {
    /// Runs `future` to its end. May be called again.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.handle.block_on(future)
    }
}

impl Drop for CommandRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(LEFTOVER_WAIT);
        }
    }
}
