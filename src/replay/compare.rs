//! What policies would have decided, decision by decision.

use super::log::{Line, LogError};
use crate::event::{WorkerEvent, WorkerEventKind};
use crate::id::{BlockId, RequestId, WorkerId};
use crate::request::{Content, Request, RouteRequest};
use crate::router::external::wire::{Asked, Choice, Event, Heard, Hello, Moment, READABLE, time};
use crate::router::{
    ChosenPolicy, ClusterView, CostParts, Policy, Registry, Role, Surroundings, Verdict, Wants,
    WorkerView, Workers,
};
use crate::time::SimTime;
use std::collections::{BTreeMap, BTreeSet};

/// Costs that differ by less are equal, in blocks or whatever a policy counts.
const EQUAL: f64 = 1e-9;

/// No worker has more requests in flight (assumed: a thousand times what engines run at once).
const MOST_INFLIGHT: u32 = 1_000_000;

/// What a replay found.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// Workers that there could ever be.
    pub workers: usize,
    /// From the first decision to the last.
    pub seconds: f64,
    /// Requests that were sent somewhere.
    pub decisions: u64,
    /// Requests that were turned away, or held for good: with nothing to compare.
    pub not_sent: u64,
    /// The choices of the log.
    pub log: Choices,
    /// Those of each policy, in the order in which they were named.
    pub policies: Vec<Compared>,
}

/// What choices met, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Choices {
    /// Choices of a worker.
    pub choices: u64,
    /// Prompt blocks of their requests.
    pub prompt_blocks: u64,
    /// Those of them that the worker held, by the events of the log.
    pub held_blocks: u64,
    /// Requests in flight there.
    pub inflight: u64,
}

impl Choices {
    /// Share of the prompts that was held where they went; `None` without blocks.
    pub fn held_ratio(&self) -> Option<f64> {
        (self.prompt_blocks > 0).then(|| self.held_blocks as f64 / self.prompt_blocks as f64)
    }

    /// Requests in flight where requests went, on average.
    pub fn mean_inflight(&self) -> Option<f64> {
        (self.choices > 0).then(|| self.inflight as f64 / self.choices as f64)
    }
}

/// How far a policy agrees with a log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compared {
    /// The policy as named.
    pub policy: String,
    /// Whether it books what the log says. Others book what they would have done, and
    /// see the requests in flight of the log.
    pub follows: bool,
    /// The same worker; of policies that follow: and no other was as good.
    pub agreed: u64,
    /// Several workers had the lowest cost, the one taken among them. Known only of policies
    /// that follow.
    pub tied: u64,
    /// Another worker.
    pub differed: u64,
    /// It would have turned the request away or kept it.
    pub not_sent: u64,
    /// The first decision that it would not have made.
    pub first: Option<Difference>,
    /// What its choices meet.
    pub choices: Choices,
}

impl Compared {
    /// Share of the decisions, of those it would have made one in, in which it takes the
    /// worker of the log or finds it as good.
    pub fn agreement(&self) -> Option<f64> {
        let all = self.agreed + self.tied + self.differed;
        (all > 0).then(|| (self.agreed + self.tied) as f64 / all as f64)
    }
}

/// A decision that a policy would not have made.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The line of the log.
    pub line: u64,
    /// The request.
    pub request: RequestId,
    /// When.
    pub at: SimTime,
    /// Where it went.
    pub taken: WorkerId,
    /// Where it would have gone.
    pub preferred: WorkerId,
    /// The costs of all workers, if the policy says them.
    pub costs: Vec<CostParts>,
}

impl Difference {
    /// What a worker costs, if the policy says that.
    pub fn cost_of(&self, worker: WorkerId) -> Option<&CostParts> {
        self.costs.iter().find(|cost| cost.worker == worker)
    }
}

/// Holds the decisions of a log against what `policies`, each with its name for people,
/// would have done.
///
/// # Errors
/// The first line that makes no sense, or a policy that cannot be asked on such a log.
pub fn replay(
    lines: impl IntoIterator<Item = Result<(u64, Line), LogError>>,
    policies: &[(String, ChosenPolicy)],
) -> Result<Replayed, LogError> {
    let mut lines = lines.into_iter();
    let hello = match lines.next().transpose()? {
        Some((_, Line::Hello(hello))) => hello,
        Some((line, _)) => return Err(LogError::new(line, "must be a hello")),
        None => return Err(LogError::new(1, "is missing: a log begins with a hello")),
    };
    if !READABLE.contains(&hello.protocol) {
        let (first, last) = (READABLE.start(), READABLE.end());
        let problem = format!("protocol {}: must be from {first} to {last}", hello.protocol);
        return Err(LogError::new(1, problem));
    }
    if hello.workers.is_empty() || hello.block_size == 0 {
        return Err(LogError::new(1, "workers, block_size: must be at least one, and 1"));
    }
    let mut replay = Replay::new(&hello, policies)?;
    for line in lines {
        let (number, line) = line?;
        replay.line = number;
        match line {
            Line::Hello(_) => return Err(LogError::new(number, "a second hello")),
            Line::Route { route, answer } => {
                replay.pass(&route.moment)?;
                replay.route(&route.request, &answer)?;
            }
            Line::Release { moment, answer } => {
                replay.pass(&moment)?;
                for released in answer.released {
                    replay.release(RequestId(released.request), released.worker)?;
                }
            }
        }
        // Whatever the log's answer was: a policy is asked of requests that go nowhere, too.
        if let Some(failure) = replay.asked.iter().find_map(|asked| asked.policy.failure()) {
            return Err(LogError::new(number, failure));
        }
    }
    Ok(replay.finish())
}

/// A policy that is asked.
struct Asking {
    policy: Box<dyn Policy>,
    wants: Wants,
    compared: Compared,
    /// Where those that do not follow sent the requests that have not ended.
    own: BTreeMap<RequestId, WorkerId>,
    /// What such a policy said of the request that came last.
    costs: Vec<CostParts>,
}

/// A replay under way.
struct Replay {
    block_size: u32,
    asked: Vec<Asking>,
    /// Says what each worker holds of a prompt.
    meter: Option<Box<dyn Policy>>,
    line: u64,
    begun: Option<SimTime>,
    now: SimTime,
    workers: Workers,
    /// Workers that have left and not come back. Others that are absent are busy.
    gone: BTreeSet<WorkerId>,
    /// Requests of the log that have not ended, and where they are.
    live: BTreeMap<RequestId, WorkerId>,
    /// Requests that are held.
    held: BTreeMap<RequestId, Asked>,
    /// All requests that came.
    came: BTreeSet<RequestId>,
    replayed: Replayed,
}

impl Replay {
    fn new(hello: &Hello, policies: &[(String, ChosenPolicy)]) -> Result<Self, LogError> {
        let cluster = hello.cluster().map_err(|problem| LogError::new(1, problem))?;
        let knows = hello.knowledge;
        let mut asked = Vec::new();
        for (name, chosen) in policies {
            let (wants, follows) = (chosen.wants(), chosen.about().can_follow);
            let lacks = [
                (wants.truth, "the true state of workers, which no log has"),
                (wants.kv_events && !knows.kv_events, "KV events, which this log has not"),
                (
                    wants.output_blocks && !knows.output_blocks,
                    "the growth of outputs, which this log has not",
                ),
                (
                    wants.reports.is_some() && knows.report_period_ns.is_none(),
                    "the workers' own gauges, which this log has not",
                ),
            ];
            if let Some((_, what)) = lacks.into_iter().find(|(lacks, _)| *lacks) {
                return Err(LogError::new(1, format!("{name} wants {what}")));
            }
            let around = Surroundings {
                workers: cluster.workers(),
                front_ends: 1,
                has_prefill_workers: Some(cluster.role != Role::Both),
                may_skip_prefill: cluster.role == Role::Decode { may_prefill: true },
            };
            let fits = chosen.check_in(&around);
            fits.map_err(|invalid| LogError::new(1, format!("{name}: {invalid}")))?;
            let policy = chosen.build(&cluster, hello.seed);
            let compared = Compared { policy: name.clone(), follows, ..Compared::default() };
            asked.push(Asking { policy, wants, compared, own: BTreeMap::new(), costs: Vec::new() });
        }
        let meter = Registry::default().choose("kv", &toml::Table::new());
        let meter = meter.ok().filter(|_| knows.kv_events);
        let workers = hello.workers.len();
        Ok(Self {
            block_size: hello.block_size,
            asked,
            meter: meter.map(|meter| meter.build(&cluster, 0)),
            line: 1,
            begun: None,
            now: SimTime::ZERO,
            workers: Workers::new(vec![WorkerView::default(); workers]),
            gone: BTreeSet::new(),
            live: BTreeMap::new(),
            held: BTreeMap::new(),
            came: BTreeSet::new(),
            replayed: Replayed {
                workers,
                seconds: 0.0,
                decisions: 0,
                not_sent: 0,
                log: Choices::default(),
                policies: Vec::new(),
            },
        })
    }

    fn wrong(&self, problem: impl Into<String>) -> LogError {
        LogError::new(self.line, problem)
    }

    fn check_worker(&self, worker: u32) -> Result<WorkerId, LogError> {
        let workers = self.replayed.workers;
        let problem = || self.wrong(format!("worker {worker}: there are 0 to {}", workers - 1));
        ((worker as usize) < workers).then_some(WorkerId(worker)).ok_or_else(problem)
    }

    /// What came to be known up to a decision.
    fn pass(&mut self, moment: &Moment) -> Result<(), LogError> {
        let now = time(moment.now_ns);
        if now < self.now {
            return Err(self.wrong("now_ns: must not be before that of the line before"));
        }
        self.now = now;
        for event in &moment.events {
            self.hear(event)?;
        }
        let workers = self.replayed.workers;
        let lists = [Some(moment.inflight.len()), moment.reports.as_ref().map(Vec::len)];
        if lists.into_iter().flatten().any(|len| len != workers) {
            return Err(self.wrong(format!("inflight, reports: must have {workers} entries")));
        }
        if let Some(inflight) = moment.inflight.iter().find(|inflight| **inflight > MOST_INFLIGHT) {
            let allowed = format!("must be from 0 to {MOST_INFLIGHT}");
            return Err(self.wrong(format!("inflight {inflight}: {allowed}")));
        }
        let absent: BTreeSet<u32> = moment.absent.iter().copied().collect();
        for (at, worker) in (0..).map(|at| (at, WorkerId(at))).take(workers) {
            let is_busy = absent.contains(&at) && !self.gone.contains(&worker);
            self.leave_out(worker, is_busy);
        }
        let before = self.workers.views();
        let reported = |at: usize| match &moment.reports {
            Some(reports) => reports[at].map(|report| report.reported()),
            None => before[at].reported,
        };
        let views = (0..).zip(&moment.inflight).map(|(at, inflight): (u32, &u32)| WorkerView {
            available: !absent.contains(&at),
            inflight: *inflight,
            reported: reported(at as usize),
        });
        let views: Vec<WorkerView> = views.collect();
        // Most logs say what follows from their events. Then the workers keep the order in
        // which they stand among those with as many requests: draws go by it.
        if views != self.workers.views() {
            self.workers.replace(views);
        }
        // What a policy let go is no matter here: the log says what happened.
        let view = self.workers.view();
        for asked in self.asked.iter_mut().filter(|asked| !asked.compared.follows) {
            while let Some((request, to)) = asked.policy.release(now, &view) {
                to.ok().map(|worker| asked.own.insert(request, worker));
            }
        }
        Ok(())
    }

    /// `worker` is busy from now on, or not any more.
    fn leave_out(&mut self, worker: WorkerId, is_left_out: bool) {
        if self.workers.leave_out(worker, is_left_out) {
            let policies = self.asked.iter_mut().map(|asked| &mut asked.policy);
            policies.for_each(|policy| policy.leave_out(worker, is_left_out));
        }
    }

    fn hear(&mut self, said: &Event) -> Result<(), LogError> {
        match said.heard() {
            Heard::Life(at, event) => {
                self.check_worker(event.worker.0)?;
                match self.live.get(&event.request) {
                    Some(worker) if *worker == event.worker => self.hear_life(at, &event),
                    // Of requests from before the log nothing was booked.
                    None if !self.came.contains(&event.request) => {}
                    there => {
                        let place =
                            there.map_or("no worker".to_owned(), |at| format!("worker {at}"));
                        let said = serde_json::to_string(said).expect("plain values are JSON");
                        return Err(self.wrong(format!(
                            "{said}: must be where request {} is: at {place}",
                            event.request
                        )));
                    }
                }
            }
            Heard::Kv(at, worker, event) => {
                self.check_worker(worker.0)?;
                let listens = |asked: &&mut Asking| asked.wants.kv_events;
                let policies = self.asked.iter_mut().filter(listens).map(|asked| &mut asked.policy);
                for policy in policies.chain(&mut self.meter) {
                    policy.observe_kv_published(at, worker, &event);
                }
            }
            Heard::Left(worker) => {
                self.check_worker(worker.0)?;
                self.leave_out(worker, false);
                self.workers.set_available(worker, false);
                self.gone.insert(worker);
                let policies = self.asked.iter_mut().map(|asked| &mut asked.policy);
                policies.chain(&mut self.meter).for_each(|policy| policy.worker_left(worker));
            }
            Heard::Joined(worker) => {
                self.check_worker(worker.0)?;
                self.leave_out(worker, false);
                self.workers.set_available(worker, true);
                self.gone.remove(&worker);
                let policies = self.asked.iter_mut().map(|asked| &mut asked.policy);
                policies.chain(&mut self.meter).for_each(|policy| policy.worker_joined(worker));
            }
            Heard::Peer(..) => {
                return Err(self.wrong("peer_sent: a log is that of one front end"));
            }
        }
        Ok(())
    }

    fn hear_life(&mut self, at: SimTime, event: &WorkerEvent) {
        let ends = event.kind.ends_stay();
        if ends && self.workers.views()[event.worker.index()].inflight > 0 {
            self.workers.ended(event.worker);
        }
        for asked in &mut self.asked {
            let wanted = asked.wants.output_blocks
                || !matches!(event.kind, WorkerEventKind::OutputBlock { .. });
            let worker = match asked.own.get(&event.request) {
                _ if asked.compared.follows => event.worker,
                Some(own) => *own,
                None => continue,
            };
            if wanted {
                asked.policy.observe(at, &WorkerEvent { worker, ..*event });
            }
            if ends {
                asked.own.remove(&event.request);
            }
        }
        if ends {
            self.live.remove(&event.request);
        }
    }

    /// The request of a line as the policies see it.
    fn request(&self, asked: &Asked) -> Result<Request, LogError> {
        // Behind a prompt no router looks.
        const BEHIND: BlockId = BlockId(u64::MAX - (1 << 33));
        let runs = asked.blocks.iter().map(|run| run.0);
        let blocks: u64 = runs.clone().map(|run| u64::from(run.len)).sum();
        let full = u64::from(asked.prompt_tokens / self.block_size);
        if blocks != full || asked.prompt_tokens == 0 {
            return Err(self.wrong(format!(
                "request {}: {blocks} blocks: must be {full}, the full blocks of {} tokens, at \
                 least 1",
                asked.id, asked.prompt_tokens
            )));
        }
        let content = Content::new(runs, BEHIND);
        let conversation = asked.conversation();
        Ok(Request {
            conversation,
            ..Request::new(asked.request(), asked.prompt_tokens, 1, content)
        })
    }

    fn route(&mut self, asked: &Asked, answer: &Choice) -> Result<(), LogError> {
        let id = asked.request();
        if self.live.contains_key(&id) || self.held.contains_key(&id) {
            return Err(self.wrong(format!("request {id} came before and has not ended")));
        }
        self.came.insert(id);
        self.begun.get_or_insert(self.now);
        let request = self.request(asked)?;
        let mut of_request = request.route_view(self.block_size);
        of_request.prefilled = asked.prefilled;
        if self.workers.view().available_count() == 0 {
            return Err(self.wrong(format!("request {id}: all workers are absent")));
        }
        for asked in self.asked.iter_mut().filter(|asked| !asked.compared.follows) {
            asked.route(self.now, &of_request, &self.workers.view());
        }
        match (answer.worker, answer.hold, answer.reject) {
            (Some(worker), false, false) => {
                let worker = self.check_worker(worker)?;
                self.decide(asked, worker)
            }
            (None, true, false) => {
                self.held.insert(id, asked.clone());
                Ok(())
            }
            (None, false, true) => {
                self.turned_away(id);
                Ok(())
            }
            _ => Err(self.wrong("answer: must have one of worker, hold and reject")),
        }
    }

    fn release(&mut self, id: RequestId, worker: Option<u32>) -> Result<(), LogError> {
        let problem = || self.wrong(format!("request {id} is not held"));
        let asked = self.held.get(&id).cloned().ok_or_else(problem)?;
        self.held.remove(&id);
        match worker {
            Some(worker) => {
                let worker = self.check_worker(worker)?;
                self.decide(&asked, worker)
            }
            None => {
                self.turned_away(id);
                Ok(())
            }
        }
    }

    /// A request went nowhere.
    fn turned_away(&mut self, request: RequestId) {
        self.replayed.not_sent += 1;
        for asked in &mut self.asked {
            if let Some(worker) = asked.own.remove(&request) {
                let kind = WorkerEventKind::Aborted;
                asked.policy.observe(self.now, &WorkerEvent { worker, request, kind });
            }
        }
    }

    /// A request went to `taken`.
    fn decide(&mut self, asked: &Asked, taken: WorkerId) -> Result<(), LogError> {
        let request = self.request(asked)?;
        let mut view_of = request.route_view(self.block_size);
        view_of.prefilled = asked.prefilled;
        let view = self.workers.view();
        if !view.workers[taken.index()].available {
            let problem = format!("request {}: worker {taken} is absent", asked.id);
            return Err(self.wrong(problem));
        }
        let held = self.meter.as_ref().and_then(|meter| meter.overlap_blocks(&view_of));
        let meets = |choices: &mut Choices, worker: WorkerId| {
            choices.choices += 1;
            choices.inflight += u64::from(view.workers[worker.index()].inflight);
            if let Some(held) = &held {
                choices.prompt_blocks += u64::from(view_of.blocks.len());
                choices.held_blocks += u64::from(held[worker.index()].min(view_of.blocks.len()));
            }
        };
        self.replayed.decisions += 1;
        meets(&mut self.replayed.log, taken);
        for asked in &mut self.asked {
            let decision = asked.decide(&view_of, &view, taken);
            let Some((preferred, is_tied, costs)) = decision else {
                asked.compared.not_sent += 1;
                continue;
            };
            meets(&mut asked.compared.choices, preferred);
            let compared = &mut asked.compared;
            if preferred != taken {
                compared.differed += 1;
                let (line, request, at) = (self.line, request.id, self.now);
                compared.first.get_or_insert(Difference {
                    line,
                    request,
                    at,
                    taken,
                    preferred,
                    costs,
                });
            } else if is_tied {
                compared.tied += 1;
            } else {
                compared.agreed += 1;
            }
        }
        self.live.insert(request.id, taken);
        self.workers.sent(taken);
        Ok(())
    }

    fn finish(mut self) -> Replayed {
        self.replayed.not_sent += self.held.len() as u64;
        let begun = self.begun.unwrap_or(self.now);
        self.replayed.seconds = self.now.since(begun).as_secs();
        self.replayed.policies = self.asked.into_iter().map(|asked| asked.compared).collect();
        self.replayed
    }
}

impl Asking {
    /// A policy that does not follow decides by itself.
    fn route(&mut self, now: SimTime, request: &RouteRequest<'_>, view: &ClusterView<'_>) {
        self.costs = self.policy.explain(request, view);
        let verdict = self.policy.route(now, request, view);
        if self.costs.is_empty() {
            // A router outside says them with its answer.
            self.costs = self.policy.explain(request, view);
        }
        if let Verdict::Send(own) = verdict {
            self.own.insert(request.id, own);
        }
    }

    /// The worker that the policy would have taken, whether others were as good, and all
    /// costs; `None` if it would have sent the request nowhere by now. One that follows
    /// takes a worker of the lowest cost: that of the log, if it is one.
    fn decide(
        &mut self,
        request: &RouteRequest<'_>,
        view: &ClusterView<'_>,
        taken: WorkerId,
    ) -> Option<(WorkerId, bool, Vec<CostParts>)> {
        if !self.compared.follows {
            let own = *self.own.get(&request.id)?;
            return Some((own, false, std::mem::take(&mut self.costs)));
        }
        let costs = self.policy.explain(request, view);
        let believed = self.policy.overlap_blocks(request);
        let overlap_blocks = believed.map_or(0, |blocks| blocks[taken.index()]);
        // As if another front end had sent it there: booked, not chosen.
        self.policy.observe_peer(request, taken, overlap_blocks);
        let there = costs.iter().filter(|cost| view.workers[cost.worker.index()].available);
        let least = there.clone().min_by(|a, b| a.cost.total_cmp(&b.cost))?;
        let lowest = there.clone().filter(|cost| cost.cost < least.cost + EQUAL);
        let is_lowest = lowest.clone().any(|cost| cost.worker == taken);
        let preferred = if is_lowest { taken } else { least.worker };
        let is_tied = lowest.count() > 1;
        Some((preferred, is_tied, costs))
    }
}
