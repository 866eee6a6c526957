//! What is said about a result set: tables, files, a sentence of answer.
//!
//! Everything here is made from a saved [`Summary`](crate::experiment::results::Summary)
//! alone, so that a report can be made again without running anything.

pub mod aiperf;
pub mod answer;
pub mod baseline;
pub mod change;
pub mod check;
pub(crate) mod columns;
pub mod compare;
pub mod compared;
pub mod details;
#[cfg(test)]
pub(crate) mod example;
pub mod explain;
pub mod fleet_over_time;
pub mod html;
pub mod measured;
pub mod metric;
pub mod over_time;
pub mod published;
pub mod requests;
pub mod save;
pub mod table;
pub mod timeline;
pub mod tuning;
pub mod view;
pub mod why;
