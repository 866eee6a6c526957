//! Pools of workers: the description of a fleet.
//!
//! Whatever has to be known about a worker before it runs (what it does of a request,
//! its engine, its limits) is asked here. A fleet whose workers are all alike is one pool.

use super::network::Link;
use crate::engine::config::EngineConfig;
use crate::engine::rules::RulesName;
use crate::id::{Target, WorkerId};
use crate::router::whole::Wholes;
use crate::router::{ClusterSpec, Rank, Role, Sides, WorkerLimits};
use crate::settings::Invalid;
use schemars::JsonSchema;
use serde::Deserialize;
use std::ops::Range;
use std::sync::Arc;

/// What the workers of a pool do of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolRole {
    /// All of it.
    #[default]
    Both,
    /// Its prompt; another pool decodes.
    Prefill,
    /// Its answer, and what no worker has prefilled.
    Decode,
}

impl PoolRole {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

/// Workers that are alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// What reports call it.
    pub name: String,
    /// What its workers do.
    pub role: PoolRole,
    /// How many there are at the start.
    pub workers: u32,
    /// How many more may start later.
    pub spare: u32,
    /// What each of them runs with.
    pub engine: Arc<EngineConfig>,
}

impl Pool {
    /// Numbers of its workers that there can ever be: each rank has one.
    pub fn slots(&self) -> u32 {
        (self.workers.saturating_add(self.spare)).saturating_mul(self.ranks())
    }

    /// Ranks of each worker.
    pub fn ranks(&self) -> u32 {
        self.engine.attention_dp
    }

    /// What a rank of one of them can do.
    pub fn limits(&self) -> WorkerLimits {
        WorkerLimits {
            blocks: self.engine.num_blocks,
            max_num_seqs: self.engine.max_num_seqs,
            max_num_batched_tokens: self.engine.max_num_batched_tokens,
        }
    }
}

/// The pools of a fleet. Workers are numbered pool by pool, those that may start later
/// behind those of their pool that are there at the start. Of a worker with ranks each rank
/// has a number.
#[derive(Clone, Debug, PartialEq)]
pub struct Pools {
    /// At least one.
    pools: Vec<Pool>,
    numbering: Numbering,
    link: Link,
}

/// The numbers of workers, pool by pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Numbering {
    /// The first number behind each pool's workers.
    ends: Vec<u32>,
}

impl Numbering {
    /// Of pools with room for so many workers each; numbers end at the largest `u32`.
    pub(super) fn of(slots: impl IntoIterator<Item = u32>) -> Self {
        let end = |end: &mut u32, slots: u32| {
            *end = end.saturating_add(slots);
            Some(*end)
        };
        Self { ends: slots.into_iter().scan(0, end).collect() }
    }

    /// Workers that there is room for: their numbers are below.
    pub(super) fn slots(&self) -> u32 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The numbers of a pool.
    pub(super) fn ids(&self, pool: usize) -> Range<u32> {
        let first = pool.checked_sub(1).map_or(0, |before| self.ends[before]);
        first..self.ends[pool]
    }

    /// The place of the pool that has this number; behind all where none has.
    pub(super) fn pool_of(&self, worker: u32) -> usize {
        self.ends.partition_point(|&end| end <= worker)
    }
}

impl Pools {
    /// `pools` with `link` between those that prefill, which come first, and those that
    /// decode.
    ///
    /// # Errors
    /// The place of the first pool that does not go with the others, and what is wrong; the
    /// key is relative to the pool.
    pub fn new(pools: Vec<Pool>, link: Link) -> Result<Self, (usize, Invalid)> {
        check_roles(&pools)?;
        check_ranks(&pools)?;
        check_blocks(&pools)?;
        check_handover(&pools)?;
        Ok(Self::numbered(pools, link))
    }

    /// One pool, whose workers do all of a request.
    pub fn one(workers: u32, engine: &Arc<EngineConfig>) -> Self {
        let pool = Pool {
            name: "workers".to_owned(),
            role: PoolRole::Both,
            workers,
            spare: 0,
            engine: Arc::clone(engine),
        };
        Self::numbered(vec![pool], Link::INSTANT)
    }

    fn numbered(pools: Vec<Pool>, link: Link) -> Self {
        let numbering = Numbering::of(pools.iter().map(Pool::slots));
        Self { pools, numbering, link }
    }

    /// The pools, in order of their workers' numbers.
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// The first pool: the only one, where all workers are alike.
    pub fn first(&self) -> &Pool {
        &self.pools[0]
    }

    /// What joins workers that prefill and workers that decode.
    pub fn link(&self) -> Link {
        self.link
    }

    /// Workers at the start, each rank counted.
    pub fn workers(&self) -> u32 {
        self.pools.iter().map(|pool| pool.workers * pool.ranks()).sum()
    }

    /// Workers that there can ever be, each rank counted: their numbers are below.
    pub fn slots(&self) -> u32 {
        self.numbering.slots()
    }

    /// The numbers of the workers of a pool, those that may start later included.
    pub fn ids(&self, pool: usize) -> Range<u32> {
        self.numbering.ids(pool)
    }

    /// For each number, in order: which worker it is, counted from 0, and which rank of it.
    pub fn targets(&self) -> Vec<Target> {
        let of_worker = |(worker, ranks)| (0..ranks).map(move |rank| Target { worker, rank });
        (0..).zip(self.ranks()).flat_map(of_worker).collect()
    }

    /// Whether a worker has several ranks.
    pub fn have_ranks(&self) -> bool {
        self.pools.iter().any(|pool| pool.ranks() > 1)
    }

    /// The place of the pool of `worker`.
    pub fn place_of(&self, worker: WorkerId) -> usize {
        self.numbering.pool_of(worker.0)
    }

    /// The pool of `worker`.
    ///
    /// # Panics
    /// If there is no such worker.
    pub fn of(&self, worker: WorkerId) -> &Pool {
        &self.pools[self.place_of(worker)]
    }

    /// What to say of each worker beside its number, in order of id: the name of its pool
    /// where there are several, and which rank of which worker it is where these have ranks.
    /// Empty if there is nothing to say.
    pub fn names(&self) -> Vec<String> {
        if self.pools.len() == 1 && !self.have_ranks() {
            return Vec::new();
        }
        let pools = self
            .pools
            .iter()
            .flat_map(|pool| std::iter::repeat_n((pool, pool.ranks() > 1), pool.slots() as usize));
        let name = |((pool, has_ranks), Target { worker, rank }): ((&Pool, bool), Target)| {
            let pool = if self.pools.len() > 1 { pool.name.as_str() } else { "" };
            let rank =
                if has_ranks { format!("worker {worker} rank {rank}") } else { String::new() };
            let space = if pool.is_empty() || rank.is_empty() { "" } else { " " };
            format!("{pool}{space}{rank}")
        };
        pools.zip(self.targets()).map(name).collect()
    }

    /// How front ends divide the workers.
    pub fn sides(&self) -> Sides {
        let prefills = self.pools.iter().filter(|pool| pool.role == PoolRole::Prefill);
        let first = prefills.map(Pool::slots).sum();
        Sides::two(first, self.slots() - first)
    }

    /// Tokens of a block: of every engine, and of the router.
    pub fn block_size(&self) -> u32 {
        self.first().engine.block_size
    }

    /// How many ranks each worker has, in order of number.
    pub fn ranks(&self) -> Vec<u32> {
        let ranks =
            |pool: &Pool| std::iter::repeat_n(pool.ranks(), (pool.workers + pool.spare) as usize);
        self.pools.iter().flat_map(ranks).collect()
    }

    /// Workers as policies count them that do not tell ranks apart.
    pub(crate) fn wholes(&self) -> Wholes {
        let prefills = self.pools.iter().filter(|pool| pool.role == PoolRole::Prefill);
        let prefill = prefills.map(|pool| pool.workers + pool.spare).sum();
        Wholes::new(&self.ranks(), prefill)
    }

    /// What routers know of the workers with these `roles`, in order of id; a policy
    /// that does not tell ranks apart, of whole workers (`by_rank` is false).
    pub fn spec(&self, role: Role, by_rank: bool) -> ClusterSpec {
        let wanted = match role {
            Role::Both => PoolRole::Both,
            Role::Prefill => PoolRole::Prefill,
            Role::Decode { .. } => PoolRole::Decode,
        };
        let pools = self.pools.iter().filter(|pool| pool.role == wanted);
        let limits = pools.clone().flat_map(|pool| {
            let (WorkerLimits { blocks, max_num_seqs, max_num_batched_tokens }, ranks) =
                (pool.limits(), pool.ranks());
            let (limits, workers) = match by_rank {
                true => (pool.limits(), pool.slots()),
                false => (
                    WorkerLimits {
                        blocks: blocks.saturating_mul(ranks),
                        max_num_seqs: max_num_seqs.saturating_mul(ranks),
                        max_num_batched_tokens: max_num_batched_tokens.saturating_mul(ranks),
                    },
                    pool.workers + pool.spare,
                ),
            };
            std::iter::repeat_n(limits, workers as usize)
        });
        let engines = pools.clone().flat_map(|pool| {
            std::iter::repeat_n(pool.ranks(), (pool.workers + pool.spare) as usize)
        });
        let ranks = (0..)
            .zip(engines)
            .flat_map(|(engine, ranks)| (0..ranks).map(move |rank| Rank { engine, rank }));
        let have_ranks = by_rank && pools.clone().any(|pool| pool.ranks() > 1);
        let ranks = if have_ranks { ranks.collect() } else { Arc::default() };
        ClusterSpec {
            limits: limits.collect(),
            ranks,
            role,
            block_size: self.block_size(),
            front_end: 0,
        }
    }

    /// Makes room for workers that may start later, behind those of the only pool: up to
    /// so many in all, ranks not counted.
    ///
    /// # Panics
    /// If there are several pools, whose workers are numbered already.
    pub fn make_room(&mut self, workers: u32) {
        assert_eq!(self.pools.len(), 1, "of one pool the last workers may be added");
        self.pools[0].spare = workers - self.pools[0].workers;
        self.numbering = Numbering::of([self.pools[0].slots()]);
    }

    /// Changes what the workers run with.
    pub fn change_engines(&mut self, change: impl Fn(&mut EngineConfig)) {
        for pool in &mut self.pools {
            change(Arc::make_mut(&mut pool.engine));
        }
    }
}

/// All do all of a request; or some prefill, and those behind them decode.
fn check_roles(pools: &[Pool]) -> Result<(), (usize, Invalid)> {
    let wrong = |at: usize, allowed: &str| {
        let role = format!("{:?}", pools[at].role.name());
        Err((at, Invalid::new("role", role, allowed)))
    };
    let is = |role: PoolRole| move |pool: &Pool| pool.role == role;
    let (both, others) = (pools.iter().position(is(PoolRole::Both)), pools.len());
    if let Some(other) = (0..others).find(|&at| pools[at].role != PoolRole::Both)
        && both.is_some()
    {
        return wrong(
            other,
            "\"both\" as that of another pool; or \"prefill\" or \"decode\" for every pool: no \
             rule says which requests would go to workers that do both",
        );
    }
    let decodes = pools.iter().position(is(PoolRole::Decode));
    let prefills = pools.iter().rposition(is(PoolRole::Prefill));
    match (prefills, decodes) {
        (Some(at), None) => wrong(at, "\"both\"; or another pool has the role \"decode\""),
        (None, Some(at)) => wrong(at, "\"both\"; or another pool has the role \"prefill\""),
        (Some(prefill), Some(decode)) if prefill > decode => wrong(
            prefill,
            "before those of the pools that decode: workers that prefill have the lower numbers",
        ),
        _ => Ok(()),
    }
}

/// Most ranks of a fleet: as many as it may have workers.
const MOST_RANKS: u32 = 100_000;

/// Ranks are counted as workers are.
fn check_ranks(pools: &[Pool]) -> Result<(), (usize, Invalid)> {
    let mut all = 0u32;
    for (at, pool) in pools.iter().enumerate().filter(|(_, pool)| pool.ranks() > 1) {
        all = all.saturating_add(pool.slots());
        let (ranks, key) = (pool.ranks(), "engine.attention_dp");
        let allowed = format!(
            "so small that there are at most {MOST_RANKS} ranks: there are {} workers",
            pool.workers
        );
        Invalid::unless(all <= MOST_RANKS, key, ranks, &allowed).map_err(|wrong| (at, wrong))?;
    }
    Ok(())
}

/// Routers and engines speak of the same blocks.
fn check_blocks(pools: &[Pool]) -> Result<(), (usize, Invalid)> {
    let size = pools[0].engine.block_size;
    match pools.iter().position(|pool| pool.engine.block_size != size) {
        None => Ok(()),
        Some(at) => {
            let allowed = format!(
                "that of pool {:?}, {size}: a router knows blocks by hashes of whole blocks, and \
                 blocks of two sizes have none in common; set engine.block_size for all",
                pools[0].name
            );
            let other = pools[at].engine.block_size;
            Err((at, Invalid::new("engine.block_size", other, allowed)))
        }
    }
}

/// KV can move from every pool that prefills to every one that decodes.
fn check_handover(pools: &[Pool]) -> Result<(), (usize, Invalid)> {
    if pools.iter().all(|pool| pool.role == PoolRole::Both) {
        return Ok(());
    }
    let able = |name: RulesName| name.defaults().hands_over_kv;
    let mut first: Option<f64> = None;
    for (at, pool) in pools.iter().enumerate() {
        let of_this = |invalid| (at, invalid);
        let rules = pool.engine.rules.name();
        Invalid::unless(
            able(rules),
            "engine.rules",
            format!("{:?}", rules.as_str()),
            &format!(
                "{}: hand-over between pools is modelled by its rules only",
                RulesName::list(able)
            ),
        )
        .map_err(of_this)?;
        Invalid::unless(
            pool.engine.rules.layer_groups().is_none(),
            "engine.hybrid_kv_cache",
            true,
            "false: groups of layers are not handed over between pools here",
        )
        .map_err(of_this)?;
        let needed = "given, there or in [engine], as there is no model file with GPUs";
        let bytes = pool
            .engine
            .kv_bytes_per_token
            .ok_or_else(|| of_this(Invalid::new("engine.kv_bytes_per_token", "nothing", needed)))?;
        let expected = *first.get_or_insert(bytes);
        Invalid::unless(
            bytes.to_bits() == expected.to_bits(),
            "engine.kv_bytes_per_token",
            bytes,
            &format!("that of pool {:?}, {expected}: KV moves as it is", pools[0].name),
        )
        .map_err(of_this)?;
    }
    Ok(())
}
