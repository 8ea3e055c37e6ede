//! Runs the background tasks. One that panics is logged, counted and started again after a pause that grows; readiness shows those that
//! do not run, and remarks on those that had to be started again. Owns the tasks: dropped, it ends them.

pub(crate) mod config_reload;
pub(crate) mod decision_reload;
pub mod feeds;
pub(crate) mod gateway_reload;
pub(crate) mod ledger_health;
pub(crate) mod policy_reload;
pub mod prefetch;
pub(crate) mod retention;
pub(crate) mod summary;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::server::admin::HealthCheck;
use crate::telemetry::{Metrics, TaskFailed, TaskLabel};

/// How long it takes at first until a task is started again, and at most. One that ran for that long begins with the first again.
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How a background task ends: when it has nothing more to do, or by the panic of something that it waited for.
pub(crate) type TaskEnd = Result<(), JoinError>;

/// The background tasks of a process.
pub(crate) struct Supervisor {
    tasks: JoinSet<()>,
    states: States,
    metrics: Arc<Metrics>,
}

/// How each task stands, by its number.
#[derive(Clone, Default)]
struct States(Arc<Mutex<Vec<State>>>);

struct State {
    name: String,
    failures: u32,
    /// How it failed last.
    error: String,
    is_running: bool,
}

impl Supervisor {
    /// One without tasks.
    pub(crate) fn new(metrics: &Arc<Metrics>) -> Self {
        Self { tasks: JoinSet::new(), states: States::default(), metrics: Arc::clone(metrics) }
    }

    /// Runs what `start` makes, again whenever it fails. `name` tells tasks of one kind apart.
    pub(crate) fn spawn<F>(&mut self, label: TaskLabel, name: impl Into<String>, start: impl Fn() -> F + Send + 'static)
    where
        F: Future<Output = TaskEnd> + Send + 'static,
    {
        let (number, states, metrics) = (self.states.add(name.into()), self.states.clone(), Arc::clone(&self.metrics));
        self.tasks.spawn(async move {
            let mut pause = SHORTEST_PAUSE;
            loop {
                let begun = Instant::now();
                // In a set of its own, so that it ends with this task and a panic of it does not end this one.
                let mut running = JoinSet::new();
                running.spawn(start());
                let error = match running.join_next().await {
                    Some(Ok(Ok(()))) | None => return,
                    Some(Ok(Err(error)) | Err(error)) => error.to_string(),
                };
                if begun.elapsed() >= LONGEST_PAUSE {
                    pause = SHORTEST_PAUSE;
                }
                TaskFailed { task: label, detail: &error, restart: Some(pause) }.emit(&metrics);
                states.fail(number, error);
                tokio::time::sleep(pause).await;
                states.lock()[number].is_running = true;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
    }

    /// Notes that something ended that cannot be started again.
    pub(crate) fn note_lost(&self, label: TaskLabel, name: &str, error: &JoinError) {
        let error = error.to_string();
        TaskFailed { task: label, detail: &error, restart: None }.emit(&self.metrics);
        self.states.fail(self.states.add(name.to_owned()), error);
    }

    /// Fails while a task does not run.
    pub(crate) fn check(&self) -> HealthCheck {
        let states = self.states.clone();
        Arc::new(move || states.tell(|state| !state.is_running, "does not run and is started again soon"))
    }

    /// Tells which tasks had to be started again, and run.
    pub(crate) fn remark(&self) -> HealthCheck {
        let states = self.states.clone();
        Arc::new(move || states.tell(|state| state.failures > 0 && state.is_running, "was started again"))
    }

    /// Ends all of them.
    pub(crate) async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}

impl States {
    fn add(&self, name: String) -> usize {
        let mut states = self.lock();
        states.push(State { name, failures: 0, error: String::new(), is_running: true });
        states.len() - 1
    }

    fn fail(&self, number: usize, error: String) {
        let state = &mut self.lock()[number];
        state.failures = state.failures.saturating_add(1);
        (state.error, state.is_running) = (error, false);
    }

    fn tell(&self, which: impl Fn(&State) -> bool, what: &str) -> Result<(), String> {
        let states = self.lock();
        let told = states.iter().filter(|state| which(state)).map(|state| {
            let State { name, failures, error, .. } = state;
            format!("task `{name}` {what}: {failures} failures, the last: {error}")
        });
        let told: Vec<String> = told.collect();
        if told.is_empty() { Ok(()) } else { Err(told.join("; ")) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Long enough for the runtime to come to rest in paused time, and for nothing else.
    async fn moment(length: Duration) {
        tokio::time::sleep(length).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_started_again_counted_and_shown() {
        let (metrics, runs) = (Arc::new(Metrics::new()), Arc::new(AtomicU32::new(0)));
        let mut supervisor = Supervisor::new(&metrics);
        let (check, remark) = (supervisor.check(), supervisor.remark());
        let counted = Arc::clone(&runs);
        supervisor.spawn(TaskLabel::Feed, "feed osv", move || {
            let counted = Arc::clone(&counted);
            async move {
                match counted.fetch_add(1, Ordering::Relaxed) {
                    0 => panic!("out of range"),
                    // A panic of what it waits for is one of its own.
                    1 => tokio::task::spawn_blocking(|| panic!("on the blocking pool")).await,
                    _ => std::future::pending().await,
                }
            }
        });
        assert_eq!((check(), remark()), (Ok(()), Ok(())));
        moment(SHORTEST_PAUSE / 2).await;
        let told = check().unwrap_err();
        assert!(told.contains("task `feed osv` does not run") && told.contains("out of range"), "{told}");
        moment(SHORTEST_PAUSE * 10).await;
        assert_eq!((runs.load(Ordering::Relaxed), check()), (3, Ok(())));
        assert!(remark().unwrap_err().contains("2 failures, the last: "), "{:?}", remark());
        let numbers = metrics.render();
        assert!(numbers.contains("coldframe_task_failures_total{task=\"feed\"} 2\n"), "{numbers}");
        supervisor.shutdown().await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_at_once_is_started_less_and_less_often_and_one_that_is_done_is_left() {
        let (metrics, runs) = (Arc::new(Metrics::new()), Arc::new(AtomicU32::new(0)));
        let mut supervisor = Supervisor::new(&metrics);
        let counted = Arc::clone(&runs);
        supervisor.spawn(TaskLabel::Decisions, "decisions", move || {
            counted.fetch_add(1, Ordering::Relaxed);
            async { panic!("on purpose") }
        });
        supervisor.spawn(TaskLabel::Prefetch, "prefetch", || async { Ok(()) });
        moment(Duration::from_secs(3600)).await;
        let runs = runs.load(Ordering::Relaxed);
        assert!((50..80).contains(&runs), "{runs}");
        assert!(!supervisor.check()().is_err_and(|told| told.contains("prefetch")));
    }
}
