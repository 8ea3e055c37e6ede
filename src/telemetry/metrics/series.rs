//! Metrics with labels. All series exist from the start and are indexed by label value, so an update needs no lookup by text.

use std::marker::PhantomData;

use prometheus_client::encoding::EncodeMetric;
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::registry::Registry;

use crate::telemetry::labels::Label;

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

/// All series of one metric.
#[derive(Debug)]
pub(crate) struct Series<L, M> {
    series: Box<[M]>,
    labels: PhantomData<fn(L)>,
}

impl<L: LabelSet, M: Clone> Series<L, M> {
    /// Registers a metric with one series, created by `make`, per combination of labels.
    pub(crate) fn register<F>(registry: &mut Registry, name: &str, about: &str, make: F) -> Self
    where
        M: EncodeMetric + TypedMetric + Send + Sync + std::fmt::Debug + 'static,
        F: MetricConstructor<M> + Clone + Send + Sync + 'static,
    {
        let family = Family::<LabelPairs, M, F>::new_with_constructor(make);
        let series = L::all().iter().map(|pairs| family.get_or_create_owned(pairs)).collect();
        registry.register(name, about, family);
        Self { series, labels: PhantomData }
    }

    /// Returns the series of one combination.
    pub(crate) fn of(&self, labels: L) -> &M {
        &self.series[labels.index()]
    }
}
