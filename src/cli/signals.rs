//! Receives signals that would otherwise end the process.

pub(crate) use system::Signals;

/// The numbers of the signals that ask a process to stop, equal on all systems.
pub(crate) const INTERRUPT: i32 = 2;
pub(crate) const TERMINATE: i32 = 15;

#[cfg(unix)]
mod system {
    use std::future::poll_fn;
    use std::io;
    use std::task::Poll;

    use tokio::signal::unix::{Signal, SignalKind, signal};

    pub(crate) struct Signals(Vec<(i32, Signal)>);

    impl Signals {
        pub(crate) fn listen(numbers: &[i32]) -> io::Result<Self> {
            let listen = |number: &i32| Ok((*number, signal(SignalKind::from_raw(*number))?));
            Ok(Self(numbers.iter().map(listen).collect::<io::Result<_>>()?))
        }

        pub(crate) async fn next(&mut self) -> i32 {
            poll_fn(|context| {
                let due = |(number, signal): &mut (i32, Signal)| signal.poll_recv(context).is_ready().then_some(*number);
                self.0.iter_mut().find_map(due).map_or(Poll::Pending, Poll::Ready)
            })
            .await
        }
    }
}

#[cfg(not(unix))]
mod system {
    use std::io;

    pub(crate) struct Signals;

    impl Signals {
        #[expect(clippy::unnecessary_wraps, reason = "same signature as on Unix")]
        pub(crate) fn listen(_numbers: &[i32]) -> io::Result<Self> {
            Ok(Self)
        }

        /// Waits for the next interrupt, the only signal here.
        pub(crate) async fn next(&mut self) -> i32 {
            // If signals cannot be received, wait forever.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
            super::INTERRUPT
        }
    }
}
