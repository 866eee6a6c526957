//! Decisions replayed: a log of what a router did, held against what policies would have
//! done on the same history.
//!
//! A [log](log) is written by a [simulation](record()), by a router of your own, or read
//! from [Dynamo's request traces](dynamo). Its events happened as they did: a policy that
//! would have sent a request elsewhere meets caches and loads of the decisions that were
//! made, so each difference is one of the decision at hand.

mod compare;
pub mod dynamo;
pub mod log;
mod record;

pub use compare::{Compared, Difference, Replayed, replay};
pub use record::{RecordError, record};
