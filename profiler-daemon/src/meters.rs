//! The registry of what the daemon counts, and the page that shows it.
//!
//! Each room registers its own meters when it is built and keeps the handles; nothing is global.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

pub use prometheus_client;

/// One label, or none, by name and value.
pub type Label = Vec<(&'static str, String)>;
/// Counters that differ in their labels.
pub type Counters = Family<Label, Counter>;
/// Gauges that differ in their labels.
pub type Gauges = Family<Label, Gauge<f64, std::sync::atomic::AtomicU64>>;

/// What the daemon counts. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Meters {
    registry: Arc<Mutex<Registry>>,
}

impl Meters {
    /// A counter with labels. `name` is without `_total`, which the text format adds.
    pub fn counters(&self, name: &str, help: &str) -> Counters {
        self.register(name, help, Counters::default())
    }

    /// A counter without labels. `name` is without `_total`, which the text format adds.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.register(name, help, Counter::default())
    }

    /// A gauge with labels.
    pub fn gauges(&self, name: &str, help: &str) -> Gauges {
        self.register(name, help, Gauges::default())
    }

    /// A gauge without labels.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge<f64, std::sync::atomic::AtomicU64> {
        self.register(name, help, Gauge::default())
    }

    /// Registers any other metric.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        // The text format ends every help with a full stop of its own.
        let help = help.trim_end_matches('.');
        self.registry.lock().unwrap_or_else(PoisonError::into_inner).register(name, help, metric.clone());
        metric
    }

    /// All of them in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut page = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut page, &self.registry.lock().unwrap_or_else(PoisonError::into_inner));
        page
    }
}

/// The content type of [`Meters::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A label set of one pair.
pub fn label(name: &'static str, value: impl Into<String>) -> Label {
    vec![(name, value.into())]
}

const _: fn() = || {
    fn is_label_set<T: EncodeLabelSet>() {}
    is_label_set::<Label>();
};
