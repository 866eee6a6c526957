//! The cost of each worker as the crate computes it.
//!
//! Its selector tells the choice only, but logs the chosen worker's cost. So a
//! second selector, whose draws affect nothing else, is made to choose the worker
//! in question, and a listener on this thread takes the number out of the log.

use super::words::{self, POOL};
use crate::id::WorkerId;
use crate::router::kv::KvParams;
use dynamo_kv_router::{DefaultWorkerSelector, KvRouterConfig};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};

/// So high that nearly all draws are uniform.
const TEMPERATURE: f64 = 1e9;

/// See the module.
pub(super) struct LoggedCosts {
    /// Draws nearly uniformly among the allowed workers.
    selector: DefaultWorkerSelector,
    log: Dispatch,
    /// Receives nothing. While only one subscriber exists, `tracing` decides whether a call
    /// site is enabled by the subscriber of the thread that reaches it first, and caches the
    /// answer: disabled, where that is the policy's own thread, which has none. With two
    /// it asks both.
    _second: Dispatch,
    last: Arc<LastCost>,
}

impl LoggedCosts {
    pub(super) fn new(config: KvRouterConfig) -> Self {
        let last = Arc::new(LastCost::default());
        let config = KvRouterConfig { router_temperature: TEMPERATURE, ..config };
        Self {
            selector: DefaultWorkerSelector::new_seeded(Some(config), POOL, 0),
            log: Dispatch::new(Listener(Arc::clone(&last))),
            _second: Dispatch::new(Listener(Arc::default())),
            last,
        }
    }

    /// Costs by other weights from now on.
    pub(super) fn set_weights(&mut self, params: &KvParams) {
        let params = KvParams { temperature: TEMPERATURE, ..*params };
        words::set_weights(&mut self.selector.kv_router_config, &params);
    }

    /// The cost of `worker`, which `select` chooses now and then.
    ///
    /// # Panics
    /// If no cost was logged or `worker` is never chosen: another version of the
    /// crate would need another adapter.
    pub(super) fn of(
        &self,
        worker: WorkerId,
        select: impl Fn(&DefaultWorkerSelector) -> WorkerId,
    ) -> f64 {
        tracing::dispatcher::with_default(&self.log, || {
            let chosen = (0..1_000).any(|_| select(&self.selector) == worker);
            assert!(chosen, "{worker:?} is never chosen");
            let cost = self.last.0.load(Ordering::Relaxed);
            assert_ne!(cost, NONE, "no cost was logged");
            f64::from_bits(cost)
        })
    }
}

/// The cost last logged, as bits; at first [`NONE`], which no cost has.
struct LastCost(AtomicU64);

const NONE: u64 = u64::MAX;

impl Default for LastCost {
    fn default() -> Self {
        Self(AtomicU64::new(NONE))
    }
}

struct Listener(Arc<LastCost>);

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::INFO
    }
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }
    fn event(&self, event: &Event<'_>) {
        event.record(&mut Reader(&self.0));
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Reader<'a>(&'a LastCost);

impl Visit for Reader<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "logit" {
            self.0.0.store(value.to_bits(), Ordering::Relaxed);
        }
    }
    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}
