//! The command that `coldframe run` runs: its input and output are its own, signals reach it, and nothing that it started
//! outlives it. Refuses to know what it does.

use std::io;
use std::process::ExitStatus;

use tokio::process::Command;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChildExit {
    /// Its exit code; 128 and the signal's number where a signal ended it.
    pub(crate) code: u8,
    /// Whether something that it had started was still running, and was ended.
    pub(crate) left_some: bool,
}

/// Runs it to its end.
///
/// # Errors
/// When it cannot be started.
pub(crate) async fn run(mut command: Command) -> io::Result<ChildExit> {
    let mut signals = system::Signals::listen()?;
    let group = system::Group::choose(&mut command);
    let mut child = command.spawn()?;
    let family = group.of(&child);
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            signal = signals.next() => family.send(signal),
        }
    };
    Ok(ChildExit { code: code(status), left_some: family.end().await })
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| system::signal(status).map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

#[cfg(unix)]
mod system {
    use std::io::{self, IsTerminal as _};
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;
    use std::time::Duration;

    use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};
    use tokio::process::{Child, Command};
    use tokio::signal::unix::{self, SignalKind};

    /// How long what is left behind may take to end by itself once it was asked to.
    const PATIENCE: Duration = Duration::from_secs(2);

    /// How often it is looked whether it has.
    const LOOK_EVERY: Duration = Duration::from_millis(20);

    /// What reaches this process and is meant for the command.
    pub(super) struct Signals([(Signal, unix::Signal); 6]);

    impl Signals {
        pub(super) fn listen() -> io::Result<Self> {
            let kinds = [
                (Signal::INT, SignalKind::interrupt()),
                (Signal::TERM, SignalKind::terminate()),
                (Signal::HUP, SignalKind::hangup()),
                (Signal::QUIT, SignalKind::quit()),
                (Signal::USR1, SignalKind::user_defined1()),
                (Signal::USR2, SignalKind::user_defined2()),
            ];
            let mut listening = Vec::with_capacity(kinds.len());
            for (signal, kind) in kinds {
                listening.push((signal, unix::signal(kind)?));
            }
            let listening = listening.try_into().map_err(|_| io::Error::other("a signal is missing"))?;
            Ok(Self(listening))
        }

        pub(super) async fn next(&mut self) -> Signal {
            let [one, two, three, four, five, six] = &mut self.0;
            tokio::select! {
                _ = one.1.recv() => one.0,
                _ = two.1.recv() => two.0,
                _ = three.1.recv() => three.0,
                _ = four.1.recv() => four.0,
                _ = five.1.recv() => five.0,
                _ = six.1.recv() => six.0,
            }
        }
    }

    /// Whether the command has a process group of its own.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum Group {
        /// It has: what it starts is reached through that.
        Own,
        /// It has ours: it reads from a terminal, which lets one group at a time do so, and which sends that group its own
        /// interrupts.
        Ours,
    }

    impl Group {
        pub(super) fn choose(command: &mut Command) -> Self {
            if io::stdin().is_terminal() {
                return Self::Ours;
            }
            command.process_group(0);
            Self::Own
        }

        pub(super) fn of(self, child: &Child) -> Family {
            let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
            Family { group: self, pid }
        }
    }

    /// The command and what it started, as far as that is known.
    pub(super) struct Family {
        group: Group,
        pid: Option<Pid>,
    }

    impl Family {
        /// Hands a signal on. Whoever has ended in the meantime does not miss it.
        pub(super) fn send(&self, signal: Signal) {
            let Some(pid) = self.pid else { return };
            let _ = match self.group {
                Group::Own => kill_process_group(pid, signal),
                // The terminal has sent these to everybody in the group.
                Group::Ours if matches!(signal, Signal::INT | Signal::QUIT) => Ok(()),
                Group::Ours => kill_process(pid, signal),
            };
        }

        /// Ends what the command left running in its group; whether there was any.
        pub(super) async fn end(&self) -> bool {
            let Some(group) = self.pid.filter(|_| self.group == Group::Own) else { return false };
            if kill_process_group(group, Signal::TERM).is_err() {
                return false;
            }
            // Stopped ones take nothing else in.
            let _ = kill_process_group(group, Signal::CONT);
            let deadline = tokio::time::Instant::now() + PATIENCE;
            while test_kill_process_group(group).is_ok() {
                if tokio::time::Instant::now() >= deadline {
                    let _ = kill_process_group(group, Signal::KILL);
                    break;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            true
        }
    }

    pub(super) fn signal(status: ExitStatus) -> Option<i32> {
        status.signal()
    }
}

#[cfg(not(unix))]
mod system {
    use std::io;
    use std::process::ExitStatus;

    use tokio::process::{Child, Command};

    /// Where the console tells everybody of an interrupt by itself, there is nothing to hand on; this process only stays.
    pub(super) struct Signals;

    impl Signals {
        #[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
        pub(super) fn listen() -> io::Result<Self> {
            Ok(Self)
        }

        pub(super) async fn next(&mut self) {
            // Where no signal can be awaited, none will be.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub(super) struct Group;

    impl Group {
        pub(super) fn choose(_command: &mut Command) -> Self {
            Self
        }

        pub(super) fn of(self, _child: &Child) -> Family {
            Family
        }
    }

    pub(super) struct Family;

    impl Family {
        pub(super) fn send(&self, _signal: ()) {}

        pub(super) async fn end(&self) -> bool {
            false
        }
    }

    pub(super) fn signal(_status: ExitStatus) -> Option<i32> {
        None
    }
}
