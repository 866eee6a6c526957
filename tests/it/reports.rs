//! Workers report their gauges to routers that ask for them, as often as they ask.

use super::rig::{lone_request, vllm_config};
use super::script::{Script, front_end, play};
use kv_router_sim::id::WorkerId;
use kv_router_sim::request::RouteRequest;
use kv_router_sim::router::{ClusterView, Policy, Reported, Verdict};
use kv_router_sim::time::{SimDuration, SimTime};

fn at_ms(ms: u64) -> SimTime {
    SimTime::ZERO + SimDuration::from_millis(ms)
}

/// Sends everything to worker 0 and checks what it reads: at each arrival, when
/// the reports were made and how many requests worker 0 then ran.
struct Reader(Vec<(SimTime, u32)>);

impl Policy for Reader {
    fn route(&mut self, _: SimTime, _: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        let reported: Vec<Reported> =
            view.workers.iter().map(|worker| worker.reported.expect("a report")).collect();
        let (at, running) = self.0.remove(0);
        assert!(reported.iter().all(|reported| reported.at == at), "{reported:?}");
        assert_eq!((reported[0].running, reported[1].running), (running, 0));
        assert_eq!(reported[0].used_blocks > 0, running > 0);
        Verdict::send(WorkerId(0))
    }

    fn report_period(&self) -> Option<SimDuration> {
        Some(SimDuration::from_millis(50))
    }
}

/// The last report counts, whatever has happened since; and reports do not keep
/// a run going when everything is done.
#[test]
fn a_router_sees_the_last_report() {
    // Each runs for 20 ms of prefill and 20 steps of 10 ms.
    let arrivals = [1, 49, 110, 1_234].map(at_ms).into_iter().zip(0..);
    let requests = arrivals.map(|(at, id)| (at, lone_request(id, 10, 21)));
    let seen = [(0, 0), (0, 0), (100, 2), (1_200, 0)].map(|(ms, running)| (at_ms(ms), running));
    let reader = front_end(Box::new(Reader(seen.to_vec())), 2);
    let run = play(&vllm_config(), 2, Script::new(requests), reader, None);
    assert!(run.records.iter().all(|record| record.end.is_some()));
}
