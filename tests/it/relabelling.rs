//! Law 10: workers have no identity but what happened to them. Names swapped
//! going in are names swapped coming out. (That the KV policy's costs follow its
//! workers is tested beside it.)

use super::rig::{any_draws, any_engine, arrivals, cases, lone_request};
use super::script::{Script, front_end, play};
use kv_router_sim::id::WorkerId;
use kv_router_sim::request::RouteRequest;
use kv_router_sim::router::settings::RouterSettings;
use kv_router_sim::router::{
    ClusterSpec, ClusterView, Policy, Verdict, WorkerLimits, WorkerView, Workers,
};
use kv_router_sim::time::SimTime;
use proptest::prelude::*;

const WORKERS: u32 = 4;

/// Sends request `n` to the `n`-th worker of a list, under another name.
struct Assigned {
    workers: Vec<u32>,
    names: Vec<u32>,
}

impl Policy for Assigned {
    fn route(&mut self, _: SimTime, request: &RouteRequest<'_>, _: &ClusterView<'_>) -> Verdict {
        let worker = self.workers[request.id.index()];
        Verdict::send(WorkerId(self.names[worker as usize]))
    }
}

fn any_names() -> impl Strategy<Value = Vec<u32>> {
    Just((0..WORKERS).collect::<Vec<u32>>()).prop_shuffle()
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn a_fleet_treats_its_workers_alike(
        config in any_engine(), draws in any_draws(),
        workers in prop::collection::vec(0..WORKERS, 40), names in any_names(),
    ) {
        let run = |names: Vec<u32>| {
            let script = Script::new(arrivals(&draws, config.block_size));
            let policy = Box::new(Assigned { workers: workers.clone(), names });
            play(&config, WORKERS, script, front_end(policy, WORKERS), None)
        };
        let (mut plain, mut renamed) = (run((0..WORKERS).collect()), run(names.clone()));
        for record in &mut plain.records {
            let worker = &mut record.dispatched.as_mut().expect("dispatched").1;
            *worker = WorkerId(names[worker.index()]);
        }
        prop_assert_eq!(plain.records, renamed.records);
        for (_, event) in &mut plain.events {
            event.worker = WorkerId(names[event.worker.index()]);
        }
        // At one moment lower workers come first, whatever they are called.
        for events in [&mut plain.events, &mut renamed.events] {
            events.sort_by_key(|(at, event)| (*at, event.worker));
        }
        prop_assert_eq!(plain.events, renamed.events);
    }

    #[test]
    fn least_loaded_follows_its_workers(names in any_names(), step in 1u32..5, seed: u64) {
        let limits = WorkerLimits { blocks: 100, max_num_seqs: 8, max_num_batched_tokens: 64 };
        let cluster = ClusterSpec::uniform(WORKERS, 16, limits);
        // Worker `w` has `step * w` requests: no ties.
        let mut view = vec![WorkerView::default(); WORKERS as usize];
        for (worker, &name) in (0..).zip(&names) {
            view[name as usize].inflight = worker * step;
        }
        let factory = RouterSettings::new("least_loaded").chosen();
        let request = lone_request(0, 10, 1);
        let verdict = factory.build(&cluster, seed).route(
            SimTime::ZERO,
            &request.route_view(16),
            &Workers::new(view).view(),
        );
        prop_assert_eq!(verdict, Verdict::send(WorkerId(names[0])));
    }
}
