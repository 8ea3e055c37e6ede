//! The asynchronous runtime of a command. Its end does not wait for work that no one needs any more.

use std::ops::Deref;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::cli::output::Failure;

/// How long a command waits at its end for blocking work. A look-up of a name may take 5 or 10 s more when the resolver is silent,
/// while all that a command must write was awaited before.
const LEFTOVER_WAIT: Duration = Duration::from_secs(1);

/// A runtime that ends within [`LEFTOVER_WAIT`].
pub(crate) struct CommandRuntime(Option<Runtime>);

/// Builds the runtime of a command.
pub(crate) fn runtime() -> Result<CommandRuntime, Failure> {
    Ok(CommandRuntime(Some(Builder::new_multi_thread().enable_all().build()?)))
}

impl Deref for CommandRuntime {
    type Target = Runtime;

    #[expect(clippy::expect_used, reason = "it is there until it is dropped")]
    fn deref(&self) -> &Runtime {
        self.0.as_ref().expect("a runtime that was not dropped")
    }
}

impl Drop for CommandRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(LEFTOVER_WAIT);
        }
    }
}
