//! The tokio runtime of a command. Shutdown waits at most one second for blocking work.

use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::cli::output::CliError;

/// How long shutdown waits for blocking work. A DNS lookup may take 5 or 10 s longer if the resolver does not answer. All
/// writes of a command are already complete.
const LEFTOVER_WAIT: Duration = Duration::from_secs(1);

/// A runtime that shuts down within [`LEFTOVER_WAIT`].
pub(crate) struct CommandRuntime {
    handle: Handle,
    runtime: Option<Runtime>,
}

pub(crate) fn runtime() -> Result<CommandRuntime, CliError> {
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    Ok(CommandRuntime { handle: runtime.handle().clone(), runtime: Some(runtime) })
}

impl CommandRuntime {
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
