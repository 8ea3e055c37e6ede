//! Metrics with labels, every series of which exists from the start and is held: moving one looks nothing up by its text.

use std::marker::PhantomData;

use prometheus_client::encoding::EncodeMetric;
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::registry::Registry;

use crate::telemetry::labels::Label;

/// The labels of one series, as the encoder wants them.
type LabelPairs = Vec<(&'static str, &'static str)>;

/// What tells the series of one metric apart: a label, or two of them.
pub(crate) trait LabelSet: Copy {
    /// Every combination, in the order of [`LabelSet::place`].
    fn all() -> Vec<LabelPairs>;

    /// Where this combination stands in [`LabelSet::all`].
    fn place(self) -> usize;
}

impl<L: Label> LabelSet for L {
    fn all() -> Vec<LabelPairs> {
        L::ALL.iter().map(|label| vec![(L::KEY, label.value())]).collect()
    }

    fn place(self) -> usize {
        L::ALL.iter().position(|label| *label == self).unwrap_or_default()
    }
}

impl<A: Label, B: Label> LabelSet for (A, B) {
    fn all() -> Vec<LabelPairs> {
        let pairs = |a: &A| B::ALL.iter().map(|b| vec![(A::KEY, a.value()), (B::KEY, b.value())]).collect::<Vec<_>>();
        A::ALL.iter().flat_map(pairs).collect()
    }

    fn place(self) -> usize {
        self.0.place() * B::ALL.len() + self.1.place()
    }
}

/// All series of one metric.
#[derive(Debug)]
pub(crate) struct Series<L, M> {
    held: Box<[M]>,
    labels: PhantomData<fn(L)>,
}

impl<L: LabelSet, M: Clone> Series<L, M> {
    /// Registers a metric whose series are made by `make`, one for each combination of labels.
    pub(crate) fn register<F>(registry: &mut Registry, name: &str, about: &str, make: F) -> Self
    where
        M: EncodeMetric + TypedMetric + Send + Sync + std::fmt::Debug + 'static,
        F: MetricConstructor<M> + Clone + Send + Sync + 'static,
    {
        let family = Family::<LabelPairs, M, F>::new_with_constructor(make);
        let held = L::all().iter().map(|pairs| family.get_or_create_owned(pairs)).collect();
        registry.register(name, about, family);
        Self { held, labels: PhantomData }
    }

    /// The series of one combination.
    pub(crate) fn of(&self, labels: L) -> &M {
        &self.held[labels.place()]
    }
}
