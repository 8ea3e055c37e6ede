//! Runs the child command of `coldframe run`. It inherits standard input and output, signals are forwarded, and processes in
//! its own group are terminated when it exits.

use std::io;
use std::process::ExitStatus;

use tokio::process::Command;

use crate::cli::signals::Signals;

/// Returns the exit code, or 128 plus the signal number, and whether processes that it started were still running and were
/// terminated.
pub(crate) async fn run(command: Command) -> io::Result<(u8, bool)> {
    let mut signals = Signals::listen(system::FORWARDED)?;
    let (mut child, processes) = system::ChildProcesses::spawn(command)?;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            signal = signals.next() => processes.send(signal),
        }
    };
    Ok((code(status), processes.end().await))
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code();
    #[cfg(unix)]
    let code = code.or_else(|| Some(128 + std::os::unix::process::ExitStatusExt::signal(&status)?));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

#[cfg(unix)]
mod system {
    use std::io::{self, IsTerminal as _};
    use std::time::Duration;

    use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};
    use tokio::process::{Child, Command};

    /// How long remaining processes may take to exit after SIGTERM.
    const TERM_TIMEOUT: Duration = Duration::from_secs(2);

    /// How often to check whether they have exited.
    const POLL_INTERVAL: Duration = Duration::from_millis(20);

    pub(super) const FORWARDED: &[i32] = &[
        Signal::INT.as_raw(),
        Signal::TERM.as_raw(),
        Signal::HUP.as_raw(),
        Signal::QUIT.as_raw(),
        Signal::USR1.as_raw(),
        Signal::USR2.as_raw(),
    ];

    pub(super) struct ChildProcesses {
        /// Whether the command has its own group, which also contains the processes that it starts. On a terminal it shares ours,
        /// because a terminal lets only one group read from it.
        has_group: bool,
        pid: Option<Pid>,
    }

    impl ChildProcesses {
        pub(super) fn spawn(mut command: Command) -> io::Result<(Child, Self)> {
            let has_group = !io::stdin().is_terminal();
            if has_group {
                command.process_group(0);
            }
            let child = command.spawn()?;
            let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
            Ok((child, Self { has_group, pid }))
        }

        /// Forwards a signal. Ignores errors: the command may have exited already.
        pub(super) fn send(&self, number: i32) {
            let (Some(pid), Some(signal)) = (self.pid, Signal::from_named_raw(number)) else { return };
            let _ = match signal {
                _ if self.has_group => kill_process_group(pid, signal),
                // The terminal sends these to the whole group.
                Signal::INT | Signal::QUIT => Ok(()),
                _ => kill_process(pid, signal),
            };
        }

        /// Terminates the remaining processes in the group of the command. Returns whether there were any.
        pub(super) async fn end(&self) -> bool {
            let Some(group) = self.pid.filter(|_| self.has_group) else { return false };
            if kill_process_group(group, Signal::TERM).is_err() {
                return false;
            }
            // Stopped processes do not handle SIGTERM until they continue.
            let _ = kill_process_group(group, Signal::CONT);
            let deadline = tokio::time::Instant::now() + TERM_TIMEOUT;
            while test_kill_process_group(group).is_ok() {
                if tokio::time::Instant::now() >= deadline {
                    let _ = kill_process_group(group, Signal::KILL);
                    break;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            true
        }
    }
}

#[cfg(not(unix))]
mod system {
    use std::io;

    use tokio::process::{Child, Command};

    /// The console sends interrupts to all processes, so none are forwarded. This process only has to keep running.
    pub(super) const FORWARDED: &[i32] = &[];

    pub(super) struct ChildProcesses;

    impl ChildProcesses {
        pub(super) fn spawn(mut command: Command) -> io::Result<(Child, Self)> {
            Ok((command.spawn()?, Self))
        }

        pub(super) fn send(&self, _signal: i32) {}

        pub(super) async fn end(&self) -> bool {
            false
        }
    }
}
