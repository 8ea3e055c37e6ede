//! Metrics with labels. All series exist from the start and are indexed by label value, so an update needs no lookup by text.

use std::marker::PhantomData;

use prometheus_client::encoding::EncodeMetric;
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use crate::telemetry::labels::Label;

/// A metric that can be created at zero and registered.
pub(crate) trait Register {
    fn register(registry: &mut Registry, name: &str, help: &str) -> Self;
}

impl<M: Metric + Default + Clone> Register for M {
    fn register(registry: &mut Registry, name: &str, help: &str) -> Self {
        let metric = M::default();
        registry.register(name, help, metric.clone());
        metric
    }
}

/// The labels of one series, in the encoder's form.
type LabelPairs = Vec<(&'static str, &'static str)>;

/// The labels that distinguish the series of one metric: one label or a pair.
pub(crate) trait LabelSet: Copy {
    /// Returns all combinations, in the order of [`LabelSet::index`].
    fn all() -> Vec<LabelPairs>;

    /// Returns the position of this combination in [`LabelSet::all`].
    fn index(self) -> usize;
}

impl<L: Label> LabelSet for L {
    fn all() -> Vec<LabelPairs> {
        L::ALL.iter().map(|label| vec![(L::KEY, label.value())]).collect()
    }

    fn index(self) -> usize {
        L::ALL.iter().position(|label| *label == self).unwrap_or_default()
    }
}

impl<A: Label, B: Label> LabelSet for (A, B) {
    fn all() -> Vec<LabelPairs> {
        let pairs = |a: &A| B::ALL.iter().map(|b| vec![(A::KEY, a.value()), (B::KEY, b.value())]).collect::<Vec<_>>();
        A::ALL.iter().flat_map(pairs).collect()
    }

    fn index(self) -> usize {
        self.0.index() * B::ALL.len() + self.1.index()
    }
}

pub(crate) struct Series<L, M> {
    series: Box<[M]>,
    labels: PhantomData<fn(L)>,
}

/// Upper bounds of histogram buckets in seconds: from 0.5 ms, the time of a cached response, to 60 s, when all deadlines have passed.
const BUCKETS: [f64; 16] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

impl<L: LabelSet> Register for Series<L, Counter> {
    fn register(registry: &mut Registry, name: &str, help: &str) -> Self {
        Self::with_constructor(registry, name, help, Counter::default)
    }
}

impl<L: LabelSet> Register for Series<L, Gauge> {
    fn register(registry: &mut Registry, name: &str, help: &str) -> Self {
        Self::with_constructor(registry, name, help, Gauge::<i64>::default)
    }
}

impl<L: LabelSet> Register for Series<L, Histogram> {
    fn register(registry: &mut Registry, name: &str, help: &str) -> Self {
        Self::with_constructor(registry, name, help, || Histogram::new(BUCKETS))
    }
}

impl<L: LabelSet, M: Clone> Series<L, M> {
    /// Registers a metric with one series, created by `make`, per combination of labels.
    fn with_constructor<F>(registry: &mut Registry, name: &str, help: &str, make: F) -> Self
    where
        M: EncodeMetric + TypedMetric + Send + Sync + std::fmt::Debug + 'static,
        F: MetricConstructor<M> + Clone + Send + Sync + 'static,
    {
        let family = Family::<LabelPairs, M, F>::new_with_constructor(make);
        let series = L::all().iter().map(|pairs| family.get_or_create_owned(pairs)).collect();
        registry.register(name, help, family);
        Self { series, labels: PhantomData }
    }

    pub(crate) fn of(&self, labels: L) -> &M {
        &self.series[labels.index()]
    }
}
