//! Policies around policies.
//!
//! A wrapper names what it passes on as it is; what it changes it writes itself.
//! `#[deny(clippy::missing_trait_methods)]` on its `impl Policy` makes that all
//! of them: a method that is new in the trait cannot be forgotten.

/// Passes methods of [`Policy`](super::Policy) on to a field.
macro_rules! forward {
    ($inner:ident: $($method:ident),* $(,)?) => {
        $($crate::router::forward_one! { $inner $method })*
    };
}

macro_rules! forward_one {
    ($inner:ident route) => {
        fn route(
            &mut self,
            now: $crate::time::SimTime,
            request: &$crate::request::RouteRequest<'_>,
            view: &$crate::router::ClusterView<'_>,
        ) -> $crate::router::Verdict {
            self.$inner.route(now, request, view)
        }
    };
    ($inner:ident observe) => {
        fn observe(&mut self, now: $crate::time::SimTime, event: &$crate::event::WorkerEvent) {
            self.$inner.observe(now, event);
        }
    };
    ($inner:ident wants_kv_events) => {
        fn wants_kv_events(&self) -> bool {
            self.$inner.wants_kv_events()
        }
    };
    ($inner:ident observe_kv) => {
        fn observe_kv(&mut self, worker: $crate::id::WorkerId, event: &$crate::event::KvEvent) {
            self.$inner.observe_kv(worker, event);
        }
    };
    ($inner:ident observe_kv_published) => {
        fn observe_kv_published(
            &mut self,
            published: $crate::time::SimTime,
            worker: $crate::id::WorkerId,
            event: &$crate::event::KvEvent,
        ) {
            self.$inner.observe_kv_published(published, worker, event);
        }
    };
    ($inner:ident hears_kv_on_demand) => {
        fn hears_kv_on_demand(&self) -> bool {
            self.$inner.hears_kv_on_demand()
        }
    };
    ($inner:ident report_period) => {
        fn report_period(&self) -> Option<$crate::time::SimDuration> {
            self.$inner.report_period()
        }
    };
    ($inner:ident wants_output_blocks) => {
        fn wants_output_blocks(&self) -> bool {
            self.$inner.wants_output_blocks()
        }
    };
    ($inner:ident wants_truth) => {
        fn wants_truth(&self) -> bool {
            self.$inner.wants_truth()
        }
    };
    ($inner:ident observe_truth) => {
        fn observe_truth(&mut self, workers: Vec<$crate::truth::WorkerTruth>) {
            self.$inner.observe_truth(workers);
        }
    };
    ($inner:ident release) => {
        fn release(
            &mut self,
            now: $crate::time::SimTime,
            view: &$crate::router::ClusterView<'_>,
        ) -> Option<$crate::router::Release> {
            self.$inner.release(now, view)
        }
    };
    ($inner:ident wake_at) => {
        fn wake_at(&self) -> Option<$crate::time::SimTime> {
            self.$inner.wake_at()
        }
    };
    ($inner:ident overlap_blocks) => {
        fn overlap_blocks(&self, request: &$crate::request::RouteRequest<'_>) -> Option<Vec<u32>> {
            self.$inner.overlap_blocks(request)
        }
    };
    ($inner:ident observe_peer) => {
        fn observe_peer(
            &mut self,
            request: &$crate::request::RouteRequest<'_>,
            worker: $crate::id::WorkerId,
            overlap_blocks: u32,
        ) {
            self.$inner.observe_peer(request, worker, overlap_blocks);
        }
    };
    ($inner:ident worker_left) => {
        fn worker_left(&mut self, worker: $crate::id::WorkerId) {
            self.$inner.worker_left(worker);
        }
    };
    ($inner:ident worker_joined) => {
        fn worker_joined(&mut self, worker: $crate::id::WorkerId) {
            self.$inner.worker_joined(worker);
        }
    };
    ($inner:ident leave_out) => {
        fn leave_out(&mut self, worker: $crate::id::WorkerId, is_left_out: bool) {
            self.$inner.leave_out(worker, is_left_out);
        }
    };
    ($inner:ident set_parameter) => {
        fn set_parameter(
            &mut self,
            key: &str,
            value: f64,
        ) -> Result<(), $crate::settings::Invalid> {
            self.$inner.set_parameter(key, value)
        }
    };
    ($inner:ident failure) => {
        fn failure(&self) -> Option<String> {
            self.$inner.failure()
        }
    };
    ($inner:ident notes) => {
        fn notes(&self) -> Vec<(&'static str, f64)> {
            self.$inner.notes()
        }
    };
    ($inner:ident explain) => {
        fn explain(
            &self,
            request: &$crate::request::RouteRequest<'_>,
            view: &$crate::router::ClusterView<'_>,
        ) -> Vec<$crate::router::CostParts> {
            self.$inner.explain(request, view)
        }
    };
}

pub(crate) use {forward, forward_one};
