//! Supervises the background tasks. A task that panics is logged, counted and restarted after a growing delay. Readiness fails
//! while a task is down and warns about restarted ones. Dropping the supervisor ends all tasks.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::server::admin::HealthChecks;
use crate::telemetry::{Metrics, TaskFailed, TaskLabel};

/// The first and the maximum delay before a restart. A task that ran for the maximum delay starts with the first one again.
const MIN_RESTART_DELAY: Duration = Duration::from_millis(500);
const MAX_RESTART_DELAY: Duration = Duration::from_secs(60);

/// The end of a background task: it is done, or a task that it awaited panicked.
pub(crate) type TaskEnd = Result<(), JoinError>;

pub(crate) struct Supervisor {
    tasks: JoinSet<()>,
    states: States,
    metrics: Arc<Metrics>,
}

#[derive(Clone, Default)]
struct States(Arc<Mutex<Vec<State>>>);

struct State {
    name: String,
    failures: u32,
    error: String,
    is_running: bool,
}

impl Supervisor {
    pub(crate) fn new(metrics: &Arc<Metrics>) -> Self {
        Self { tasks: JoinSet::new(), states: States::default(), metrics: Arc::clone(metrics) }
    }

    /// Runs the task that `start` returns for a clone of `state`, and restarts it whenever it fails. `name` distinguishes tasks
    /// with the same label.
    pub(crate) fn spawn<S, F>(
        &mut self,
        label: TaskLabel,
        name: impl Into<String>,
        state: S,
        start: impl Fn(S) -> F + Send + 'static,
    ) where
        S: Clone + Send + 'static,
        F: Future<Output = TaskEnd> + Send + 'static,
    {
        let (number, states, metrics) = (self.states.add(name.into()), self.states.clone(), Arc::clone(&self.metrics));
        self.tasks.spawn(async move {
            let mut pause = MIN_RESTART_DELAY;
            loop {
                let begun = Instant::now();
                // A set of its own ends the task with this one, and isolates this one from its panics.
                let mut running = JoinSet::new();
                running.spawn(start(state.clone()));
                let error = match running.join_next().await {
                    Some(Ok(Ok(()))) | None => return,
                    Some(Ok(Err(error)) | Err(error)) => error.to_string(),
                };
                if begun.elapsed() >= MAX_RESTART_DELAY {
                    pause = MIN_RESTART_DELAY;
                }
                TaskFailed { task: label, detail: &error, restart: Some(pause) }.emit(&metrics);
                states.fail(number, error);
                tokio::time::sleep(pause).await;
                states.lock()[number].is_running = true;
                pause = (pause * 2).min(MAX_RESTART_DELAY);
            }
        });
    }

    /// Records the failure of a task that cannot be restarted.
    pub(crate) fn note_lost(&self, label: TaskLabel, name: &str, error: &JoinError) {
        let error = error.to_string();
        TaskFailed { task: label, detail: &error, restart: None }.emit(&self.metrics);
        self.states.fail(self.states.add(name.to_owned()), error);
    }

    /// The server is not ready while a task is down. Restarted tasks are listed as a warning.
    pub(crate) fn add_checks(&self, checks: &mut HealthChecks) {
        let (down, restarted) = (self.states.clone(), self.states.clone());
        checks.require("tasks", move || down.check_all(|state| !state.is_running, "is down and will be restarted"));
        checks.warn("tasks", move || restarted.check_all(|state| state.failures > 0 && state.is_running, "was restarted"));
    }

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

    fn check_all(&self, which: impl Fn(&State) -> bool, what: &str) -> Result<(), String> {
        let states = self.lock();
        let report = states.iter().filter(|state| which(state)).map(|state| {
            let State { name, failures, error, .. } = state;
            format!("task `{name}` {what}: {failures} failures, last error: {error}")
        });
        let report: Vec<String> = report.collect();
        if report.is_empty() { Ok(()) } else { Err(report.join("; ")) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Returns the reports of tasks that are down, and of restarted ones.
    fn reports(supervisor: &Supervisor) -> (Result<(), String>, Result<(), String>) {
        let mut checks = HealthChecks::default();
        supervisor.add_checks(&mut checks);
        (checks.required[0].1(), checks.warnings[0].1())
    }

    /// Sleeps in paused time, which lets the runtime become idle.
    async fn moment(length: Duration) {
        tokio::time::sleep(length).await;
    }

    #[tokio::test(start_paused = true)]
    async fn panicking_task_is_restarted_counted_and_reported() {
        let (metrics, runs) = (Arc::new(Metrics::default()), Arc::new(AtomicU32::new(0)));
        let mut supervisor = Supervisor::new(&metrics);
        supervisor.spawn(TaskLabel::Feed, "feed osv", Arc::clone(&runs), |counted| async move {
            match counted.fetch_add(1, Ordering::Relaxed) {
                0 => panic!("out of range"),
                // A panic in an awaited task counts as a panic of this one.
                1 => tokio::task::spawn_blocking(|| panic!("on the blocking pool")).await,
                _ => std::future::pending().await,
            }
        });
        assert_eq!(reports(&supervisor), (Ok(()), Ok(())));
        moment(MIN_RESTART_DELAY / 2).await;
        let report = reports(&supervisor).0.unwrap_err();
        assert!(report.contains("task `feed osv` is down") && report.contains("out of range"), "{report}");
        moment(MIN_RESTART_DELAY * 10).await;
        let (down, restarted) = reports(&supervisor);
        assert_eq!((runs.load(Ordering::Relaxed), down), (3, Ok(())));
        let restarted = restarted.unwrap_err();
        assert!(restarted.contains("2 failures, last error: "), "{restarted}");
        let numbers = metrics.render();
        assert!(numbers.contains("coldframe_task_failures_total{task=\"feed\"} 2\n"), "{numbers}");
        supervisor.shutdown().await;
    }

    #[tokio::test(start_paused = true)]
    async fn restarts_back_off_and_finished_tasks_are_not_restarted() {
        let (metrics, runs) = (Arc::new(Metrics::default()), Arc::new(AtomicU32::new(0)));
        let mut supervisor = Supervisor::new(&metrics);
        supervisor.spawn(TaskLabel::Decisions, "decisions", Arc::clone(&runs), |counted| {
            counted.fetch_add(1, Ordering::Relaxed);
            async { panic!("on purpose") }
        });
        supervisor.spawn(TaskLabel::Prefetch, "prefetch", (), |()| async { Ok(()) });
        moment(Duration::from_secs(3600)).await;
        let runs = runs.load(Ordering::Relaxed);
        assert!((50..80).contains(&runs), "{runs}");
        assert!(!reports(&supervisor).0.is_err_and(|report| report.contains("prefetch")));
    }
}
