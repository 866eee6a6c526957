//! KV-aware routing as Dynamo does it, in our own code.
//!
//! Four parts, one file each: the prefix index fed by KV events
//! (`index`, with one file per version's rules, which answers in `overlaps`) or by what was sent
//! (`approximate`), the tracker of requests in flight (`active`), the formulas
//! (`cost`), and the policy that puts them together. Prompts and cached prefixes
//! are handled as runs of block ids (`path`) and sets of workers (`worker_set`).

mod active;
mod approximate;
mod cost;
mod coverage;
mod held;
mod index;
mod overlaps;
mod params;
mod parts;
mod path;
mod policy;
mod stale;
#[cfg(test)]
mod tests;
mod worker_set;

pub use active::WorkerLoad;
pub use cost::Candidate;
pub(super) use overlaps::Overlaps;
pub use params::{KvParams, Overload, Retention, Semantics};
pub(super) use parts::{Bookings, CachedPrefixes};
pub use policy::{Asked, KvPolicy};
pub(super) use worker_set::WorkerSet;
