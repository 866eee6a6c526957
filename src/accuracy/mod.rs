//! How far simulated times are from measured ones.
//!
//! Three kinds of measurements are compared with: published results of fleets,
//! which experiments name; times of single steps ([`steps`]); and whole serving
//! runs on real GPUs ([`runs`]). The latter two come as CSV
//! ([`data`]) whose rows name a GPU, an engine and a network; [`AccuracySettings`] says
//! which files of `models/` those are, and what is assumed of runs that do not
//! record how they were made. [`Accuracy`] has the errors as values, and makes a page of
//! them and a [`Record`], so that a later version can be held to them.

mod comparison;
pub mod composed;
pub mod data;
mod deployments;
mod error;
mod errors;
mod further_runs;
mod gains;
mod markdown;
mod outliers;
mod page;
mod published;
mod record;
pub mod runs;
mod settings;
pub mod steps;

pub use comparison::Accuracy;
pub use deployments::halves;
pub use error::AccuracyError;
pub use errors::Errors;
pub use record::{MARGIN_POINTS, PublishedMean, Record};
pub use settings::{AccuracySettings, Assumed, Explained, KvDtype, Names, Published};
