use crate::id::{RequestId, WorkerId};
use crate::request::{Content, Request};
use crate::router::disaggregated::Disaggregated;
use crate::router::feed::FeedSettings;
use crate::router::settings::RouterSettings;
use crate::router::{ClusterSpec, FrontEnd, Policy, Rank, Sides, Verdict, WorkerLimits};
use crate::time::SimTime;
use std::collections::BTreeSet;

const BLOCK_SIZE: u32 = 16;

fn cluster(workers: u32) -> ClusterSpec {
    let limits = WorkerLimits { blocks: 100, max_num_seqs: 8, max_num_batched_tokens: 2_048 };
    ClusterSpec::uniform(workers, BLOCK_SIZE, limits)
}

/// Workers 0 and 1 prefill, 2 and 3 decode.
fn of_two_sides() -> FrontEnd {
    let cluster = cluster(2);
    let policy = || -> Box<dyn Policy> { RouterSettings::new("kv").chosen().build(&cluster, 1) };
    let policy = Disaggregated::new([policy(), policy()], &[cluster.clone(), cluster.clone()]);
    FrontEnd::new(Box::new(policy), Sides::two(2, 2), &FeedSettings::default(), 1)
}

fn route(front_end: &mut FrontEnd, id: u32, prefilled: bool) -> Verdict {
    let content = Content::new([], crate::id::BlockId(1 << 63));
    let request = Request::new(RequestId(id), 5, 1, content);
    let mut request = request.route_view(BLOCK_SIZE);
    request.prefilled = prefilled;
    front_end.route(SimTime::ZERO, &request)
}

#[test]
fn the_busy_rest_of_a_side_takes_requests_once_the_others_have_left() {
    for (prefilled, [leaves, busy]) in [(false, [0, 1]), (true, [2, 3])] {
        let [leaves, busy] = [leaves, busy].map(WorkerId);
        let mut front_end = of_two_sides();
        front_end.leave_out(busy, true);
        assert_eq!(route(&mut front_end, 0, prefilled), Verdict::Send(leaves));
        // One that comes back before it was missed does not count as gone.
        front_end.worker_joined(leaves);
        assert!(!front_end.workers()[busy.index()].available);
        front_end.worker_left(leaves);
        assert!(front_end.workers()[busy.index()].available, "{busy}");
        for id in 1..4 {
            assert_eq!(route(&mut front_end, id, prefilled), Verdict::Send(busy));
        }
    }
}

#[test]
fn ranks_of_an_engine_are_those_beside_a_worker_whatever_their_numbers() {
    let rank = |(engine, rank)| Rank { engine, rank };
    let ranks = [(7, 3), (7, 5), (2, 1), (2, 0), (2, 9), (4, 4)].map(rank);
    let cluster = ClusterSpec { ranks: ranks.into(), ..cluster(6) };
    for at in 0..6 {
        let beside: Vec<u32> = cluster.ranks_with(WorkerId(at)).map(|worker| worker.0).collect();
        let engine = ranks[at as usize].engine;
        let same = (0..6).filter(|other| ranks[*other as usize].engine == engine);
        assert_eq!(beside, same.collect::<Vec<_>>());
    }
    let engines: BTreeSet<u32> = ranks.iter().map(|rank| rank.engine).collect();
    assert_eq!(engines.len(), 3);
}
