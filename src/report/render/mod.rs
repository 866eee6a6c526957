//! Results and judgements as text, tables, pages and files.

pub mod aiperf;
pub mod answer;
pub mod by_pool;
pub mod check;
pub(crate) mod columns;
pub mod compared;
pub mod explain;
pub mod html;
mod places;
pub mod requests;
pub mod save;
mod state;
pub mod table;
pub mod timeline;
mod tuning;
pub mod why;
