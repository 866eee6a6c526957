//! How far simulated times are from measured ones.
//!
//! Three kinds of measurements are compared with: published results of fleets,
//! which experiments name; times of single steps ([`steps`]); and whole serving
//! runs on real GPUs ([`runs`]). The latter two come as CSV
//! ([`data`]) whose rows name a GPU, an engine and a network; [`AccuracySettings`] says
//! which files of `models/` those are, and what is assumed of runs that do not
//! record how they were made. [`Page`] makes tables of the errors, [`Record`]
//! keeps them so that a later version can be held to them.

pub mod composed;
pub mod data;
mod error;
mod errors;
mod further_runs;
mod page;
mod published;
mod record;
mod report;
pub mod runs;
mod settings;
pub mod steps;

pub use error::AccuracyError;
pub use errors::Errors;
pub use record::{MARGIN_POINTS, Record};
pub use report::{Page, halves};
pub use settings::{AccuracySettings, Assumed, KvDtype, Names, Published};
