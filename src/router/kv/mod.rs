//! KV-aware routing as Dynamo does it, in our own code.
//!
//! Its parts, one file each: the prefix index fed by KV events
//! (`index`, with one file per version's rules, which answers in `overlaps`) or by what was sent
//! (`approximate`), what lies in slower memory (`below`), the tracker of requests in flight (`active`), the formulas
//! (`cost`), and the policy that puts them together. Prompts and cached prefixes
//! are handled as runs of block ids (`path`) and sets of workers (`worker_set`).

mod active;
mod approximate;
mod below;
mod cost;
mod coverage;
mod held;
mod index;
mod overlaps;
mod params;
mod parts;
mod path;
mod places;
mod policy;
mod stale;
#[cfg(test)]
mod tests;
mod worker_set;

pub use active::WorkerLoad;
pub use below::BlocksBelow;
pub use cost::Candidate;
pub(super) use overlaps::{AtMost, Overlaps};
pub use params::{KvParams, Overload, Retention, Semantics};
#[cfg(feature = "dynamo")]
pub(super) use parts::CachedBelow;
pub(super) use parts::{Bookings, CachedPrefixes, SentLately};
pub use policy::{Asked, KvPolicy};
pub(super) use worker_set::WorkerSet;
