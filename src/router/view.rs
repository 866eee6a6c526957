//! What one front end knows of the fleet: its workers, and who of those that can
//! be chosen has how many requests in flight, answered without a look at all.

use super::kv::WorkerSet;
use super::spec::Sides;
use crate::id::WorkerId;
use crate::time::SimTime;

/// What one front end knows of one worker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WorkerView {
    /// Whether it takes requests, as far as this front end knows, and is not left out as
    /// it is busy. One that has died unnoticed is still available.
    pub available: bool,
    /// Requests this front end sent there that have not ended. Exact.
    pub inflight: u32,
    /// The last gauges the worker reported, if the policy asks for any.
    pub reported: Option<Reported>,
}

impl Default for WorkerView {
    /// A worker without requests.
    fn default() -> Self {
        Self { available: true, inflight: 0, reported: None }
    }
}

/// Gauges as a worker last reported them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reported {
    /// When.
    pub at: SimTime,
    /// Sequences in the running batch.
    pub running: u32,
    /// Requests waiting in its queue.
    pub waiting: u32,
    /// KV blocks that requests hold.
    pub used_blocks: u32,
}

/// The workers of a fleet as a policy sees them, lent by [`Workers`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ClusterView<'a> {
    /// One entry per worker, in order of id; those that are not available, too.
    pub workers: &'a [WorkerView],
    /// Their loads, by side, in order of id.
    sides: &'a [ByLoad],
}

impl<'a> ClusterView<'a> {
    /// # Panics
    /// If the workers are on two sides, which have a view each, or there are none.
    fn loads(&self) -> &'a ByLoad {
        assert_eq!(self.sides.len(), 1, "the loads of one side are asked for");
        &self.sides[0]
    }

    /// The workers that can be chosen, with their places, in order of id. A policy
    /// is asked only if there is one.
    pub fn available(&self) -> impl Iterator<Item = (usize, &'a WorkerView)> + use<'a> {
        self.workers.iter().enumerate().filter(|(_, worker)| worker.available)
    }

    /// How many workers can be chosen. O(1).
    pub fn available_count(&self) -> usize {
        self.loads().available.len()
    }

    /// The `n`-th of the workers that can be chosen, from 0. O(1).
    ///
    /// # Panics
    /// If there are not so many.
    pub fn nth_available(&self, n: usize) -> WorkerId {
        self.loads().available[n]
    }

    /// The fewest requests in flight on a worker that can be chosen. O(1).
    pub fn least_inflight(&self) -> u32 {
        self.loads().least
    }

    /// The most requests in flight on a worker that can be chosen. O(1).
    pub fn most_inflight(&self) -> u32 {
        self.loads().most
    }

    /// The requests in flight on all workers that can be chosen. O(1).
    pub fn total_inflight(&self) -> u64 {
        self.loads().total
    }

    /// The mean of requests in flight over the workers that can be chosen; 0 without any. O(1).
    pub(super) fn mean_inflight(&self) -> f64 {
        self.total_inflight() as f64 / self.available_count().max(1) as f64
    }

    /// The workers that can be chosen with the fewest requests in flight, in no
    /// order that means anything. O(1).
    pub fn least_loaded(&self) -> &'a [WorkerId] {
        let loads = self.loads();
        &loads.workers_with[loads.least as usize]
    }

    /// The two sides, the workers of each counted from 0.
    ///
    /// # Panics
    /// If there is one side.
    pub(super) fn split(self) -> [Self; 2] {
        assert_eq!(self.sides.len(), 2, "the front end has two sides");
        let (prefill, decode) = self.workers.split_at(self.sides[0].places.len());
        let (of_prefill, of_decode) = self.sides.split_at(1);
        [Self { workers: prefill, sides: of_prefill }, Self { workers: decode, sides: of_decode }]
    }
}

/// The workers as a front end or the recorder knows them.
#[derive(Clone, Debug)]
pub struct Workers {
    views: Vec<WorkerView>,
    /// Those that are there and cannot be chosen for now.
    left_out: WorkerSet,
    /// Of consecutive workers each, together of all.
    sides: Vec<ByLoad>,
}

impl Workers {
    /// Workers on one side, as `views` says.
    pub fn new(views: Vec<WorkerView>) -> Self {
        let sides = vec![ByLoad::of(&views)];
        Self { views, left_out: WorkerSet::default(), sides }
    }

    /// They are on one side, as `views` says, from now on; who is left out stays so.
    pub(crate) fn replace(&mut self, views: Vec<WorkerView>) {
        self.sides = vec![ByLoad::of(&views)];
        self.views = views;
    }

    /// Workers without requests.
    pub(super) fn of(sides: Sides) -> Self {
        let workers = Self::new(vec![WorkerView::default(); sides.workers() as usize]);
        if !sides.are_two() {
            return workers;
        }
        let (prefill, decode) = workers.views.split_at(sides.prefill_workers() as usize);
        Self { sides: vec![ByLoad::of(prefill), ByLoad::of(decode)], ..workers }
    }

    /// As a policy sees them.
    pub fn view(&self) -> ClusterView<'_> {
        ClusterView { workers: &self.views, sides: &self.sides }
    }

    /// One entry per worker, in order of id.
    pub fn views(&self) -> &[WorkerView] {
        &self.views
    }

    /// Whether `worker` is there, left out or not.
    pub(super) fn is_present(&self, worker: WorkerId) -> bool {
        self.views[worker.index()].available || self.left_out.contains(worker)
    }

    /// All that are there on the side of `worker`, if none of them can be chosen for now.
    pub(super) fn all_left_out_beside(&self, worker: WorkerId) -> Vec<WorkerId> {
        let first = self.sides[0].places.len();
        let (loads, places) = match worker.index() < first {
            true => (&self.sides[0], 0..first),
            false => (&self.sides[1], first..self.views.len()),
        };
        if !loads.available.is_empty() {
            return Vec::new();
        }
        places.map(WorkerId::at).filter(|other| self.left_out.contains(*other)).collect()
    }

    /// Whether no worker can be chosen.
    pub(super) fn none_available(&self) -> bool {
        self.sides.iter().all(|loads| loads.available.is_empty())
    }

    /// The fewest requests in flight on a worker that a new request could go to: one that
    /// prefills, if any can be chosen. O(1).
    pub(super) fn least_inflight(&self) -> u32 {
        let first = self.sides.iter().find(|loads| !loads.available.is_empty());
        first.map_or(0, |loads| loads.least)
    }

    /// A request is in flight on `worker` from now on. O(1).
    pub fn sent(&mut self, worker: WorkerId) {
        self.change(worker, |inflight| inflight + 1);
    }

    /// A request has ended on `worker`. O(1).
    ///
    /// # Panics
    /// If nothing is in flight there.
    pub fn ended(&mut self, worker: WorkerId) {
        self.change(worker, |inflight| inflight.checked_sub(1).expect("a request is in flight"));
    }

    fn change(&mut self, worker: WorkerId, change: impl Fn(u32) -> u32) {
        let view = &mut self.views[worker.index()];
        let before = view.inflight;
        view.inflight = change(before);
        let (available, after) = (view.available, view.inflight);
        if available {
            let (loads, at) = self.loads_of(worker);
            loads.moves(at, before, after);
        }
    }

    /// Whether `worker` can be chosen from now on; what it reported before counts
    /// no more. O(n) if that changes.
    pub fn set_available(&mut self, worker: WorkerId, available: bool) {
        let was_left_out = self.left_out.remove(worker);
        if self.make_available(worker, available) || was_left_out {
            self.views[worker.index()].reported = None;
        }
    }

    /// Whether `worker`, which is there, is left out from now on; true if that changes.
    /// O(n) if it does.
    pub(crate) fn leave_out(&mut self, worker: WorkerId, is_left_out: bool) -> bool {
        if !self.is_present(worker) || self.left_out.contains(worker) == is_left_out {
            return false;
        }
        if is_left_out {
            self.left_out.insert(worker);
        } else {
            self.left_out.remove(worker);
        }
        self.make_available(worker, !is_left_out)
    }

    /// True if that changes.
    fn make_available(&mut self, worker: WorkerId, available: bool) -> bool {
        let view = &mut self.views[worker.index()];
        if std::mem::replace(&mut view.available, available) == available {
            return false;
        }
        let inflight = view.inflight;
        let (loads, at) = self.loads_of(worker);
        if available {
            loads.joins(at, inflight)
        } else {
            loads.leaves(at, inflight)
        }
        true
    }

    /// Takes what all workers report, in order of id.
    pub(super) fn report(&mut self, reported: &[Reported]) {
        let left_out = &self.left_out;
        for ((id, worker), reported) in (0..).map(WorkerId).zip(&mut self.views).zip(reported) {
            let is_present = worker.available || left_out.contains(id);
            worker.reported = is_present.then_some(*reported);
        }
    }

    /// Nothing is known any more but who can be chosen.
    pub(super) fn forget(&mut self) {
        let fresh =
            |view: &WorkerView| WorkerView { available: view.available, ..WorkerView::default() };
        self.views = self.views.iter().map(fresh).collect();
        let mut views = &self.views[..];
        for loads in &mut self.sides {
            let (own, rest) = views.split_at(loads.places.len());
            (*loads, views) = (ByLoad::of(own), rest);
        }
    }

    /// The side of `worker`, and the worker as that side counts.
    fn loads_of(&mut self, worker: WorkerId) -> (&mut ByLoad, WorkerId) {
        let first = self.sides[0].places.len();
        match worker.index().checked_sub(first) {
            None => (&mut self.sides[0], worker),
            Some(at) => (&mut self.sides[1], WorkerId::at(at)),
        }
    }
}

/// The workers of one side that can be chosen, by requests in flight. Numbers
/// change by one, so the extremes move by one.
#[derive(Clone, Debug, Default)]
struct ByLoad {
    /// In order of id.
    available: Vec<WorkerId>,
    /// The workers by how many requests they have.
    workers_with: Vec<Vec<WorkerId>>,
    /// Where each worker stands among those with as many.
    places: Vec<usize>,
    least: u32,
    most: u32,
    total: u64,
}

impl ByLoad {
    fn of(views: &[WorkerView]) -> Self {
        let mut loads = Self { places: vec![0; views.len()], ..Self::default() };
        for (at, view) in views.iter().enumerate().filter(|(_, view)| view.available) {
            loads.available.push(WorkerId::at(at));
            loads.enters(WorkerId::at(at), view.inflight);
        }
        loads.find_extremes();
        loads
    }

    /// `worker` has `after` requests instead of `before`, one more or one less.
    fn moves(&mut self, worker: WorkerId, before: u32, after: u32) {
        self.exits(worker, before);
        self.enters(worker, after);
        // If no other has the number it left, the extreme has moved with it.
        let none_left = self.workers_with[before as usize].is_empty();
        if after < self.least || none_left && before == self.least {
            self.least = after;
        }
        if after > self.most || none_left && before == self.most {
            self.most = after;
        }
    }

    fn joins(&mut self, worker: WorkerId, inflight: u32) {
        let at = self.available.partition_point(|other| *other < worker);
        self.available.insert(at, worker);
        self.enters(worker, inflight);
        self.find_extremes();
    }

    fn leaves(&mut self, worker: WorkerId, inflight: u32) {
        self.available.retain(|other| *other != worker);
        self.exits(worker, inflight);
        self.find_extremes();
    }

    fn enters(&mut self, worker: WorkerId, inflight: u32) {
        let at = inflight as usize;
        if self.workers_with.len() <= at {
            self.workers_with.resize(at + 1, Vec::new());
        }
        self.places[worker.index()] = self.workers_with[at].len();
        self.workers_with[at].push(worker);
        self.total += u64::from(inflight);
    }

    fn exits(&mut self, worker: WorkerId, inflight: u32) {
        let equals = &mut self.workers_with[inflight as usize];
        let place = self.places[worker.index()];
        equals.swap_remove(place);
        if let Some(moved) = equals.get(place) {
            self.places[moved.index()] = place;
        }
        self.total -= u64::from(inflight);
    }

    fn find_extremes(&mut self) {
        let held = (0..).zip(&self.workers_with).filter(|(_, workers)| !workers.is_empty());
        let mut numbers = held.map(|(inflight, _)| inflight);
        self.least = numbers.next().unwrap_or(0);
        self.most = numbers.last().unwrap_or(self.least);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Change {
        Sent(u32),
        Ended(u32),
        Available(u32, bool),
        Forget,
    }

    fn any_change() -> impl Strategy<Value = Change> {
        prop_oneof![
            6 => (0u32..5).prop_map(Change::Sent),
            6 => (0u32..5).prop_map(Change::Ended),
            2 => (0u32..5, any::<bool>()).prop_map(|(worker, there)| Change::Available(worker, there)),
            1 => Just(Change::Forget),
        ]
    }

    fn check(view: ClusterView<'_>) -> Result<(), TestCaseError> {
        let there: Vec<(usize, u32)> =
            view.available().map(|(at, worker)| (at, worker.inflight)).collect();
        let loads = || there.iter().map(|(_, inflight)| *inflight);
        prop_assert_eq!(view.available_count(), there.len());
        for (n, (at, _)) in there.iter().enumerate() {
            prop_assert_eq!(view.nth_available(n).index(), *at);
        }
        prop_assert_eq!(view.total_inflight(), loads().map(u64::from).sum::<u64>());
        prop_assert_eq!(view.least_inflight(), loads().min().unwrap_or(0));
        prop_assert_eq!(view.most_inflight(), loads().max().unwrap_or(0));
        if !there.is_empty() {
            let mut least: Vec<usize> = view.least_loaded().iter().map(|w| w.index()).collect();
            least.sort_unstable();
            let of_least = there.iter().filter(|(_, load)| *load == view.least_inflight());
            prop_assert_eq!(least, of_least.map(|(at, _)| *at).collect::<Vec<_>>());
        }
        Ok(())
    }

    proptest! {
        /// On one side and on two.
        #[test]
        fn answers_are_those_of_a_look_at_all(changes in prop::collection::vec(any_change(), 1..60)) {
            let mut one = Workers::new(vec![WorkerView::default(); 5]);
            let mut two = Workers::of(Sides::two(2, 3));
            for change in changes {
                for workers in [&mut one, &mut two] {
                    match change {
                        Change::Sent(worker) => workers.sent(WorkerId(worker)),
                        Change::Ended(worker) if workers.views[worker as usize].inflight == 0 => {}
                        Change::Ended(worker) => workers.ended(WorkerId(worker)),
                        Change::Available(worker, there) => {
                            workers.set_available(WorkerId(worker), there);
                        }
                        Change::Forget => workers.forget(),
                    }
                }
                prop_assert_eq!(one.views(), two.views());
                let none = one.views().iter().all(|worker| !worker.available);
                prop_assert_eq!(one.none_available(), none);
                prop_assert_eq!(two.none_available(), none);
                check(one.view())?;
                for side in two.view().split() {
                    check(side)?;
                }
            }
        }
    }
}
